"""The engine refuses native modules that it was not built with, and says what to do when there are none."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import engine
from native.abi import ABI_VERSION


@contextmanager
def engine_beside(module: types.ModuleType | None) -> Iterator[None]:
    """Let ``engine`` be imported anew beside another native.abi (None: one that is missing)."""
    kept = {name: sys.modules[name] for name in ("native.abi", "engine")}
    sys.modules["native.abi"] = module  # type: ignore[assignment]
    del sys.modules["engine"]
    try:
        yield
    finally:
        sys.modules.update(kept)


def test_source_and_build_agree() -> None:
    assert ABI_VERSION == engine.NATIVE_ABI


def test_another_build_is_refused() -> None:
    other = types.ModuleType("native.abi")
    other.ABI_VERSION = ABI_VERSION + 1  # type: ignore[attr-defined]
    with engine_beside(other), pytest.raises(ImportError, match="build them again"):
        importlib.import_module("engine")


def test_a_missing_build_says_what_to_do() -> None:
    with engine_beside(None), pytest.raises(ImportError, match="pip install"):
        importlib.import_module("engine")
