"""Where the machine code of kernels is kept between starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from numba import config

import native.kernels
from native.kernels.compiling import cache_directory

UNSET = {"NUMBA_CACHE_DIR": "", "CACHE_DIRECTORY": "", "XDG_CACHE_HOME": ""}


def compile_kernels(environment: dict[str, str]) -> None:
    text = "import native.kernels.smoothing; from numba import config; assert config.CACHE_DIR == ''"
    subprocess.run([sys.executable, "-c", text], env=os.environ | UNSET | environment, check=True, timeout=200)


@pytest.mark.parametrize("variable", ["CACHE_DIRECTORY", "XDG_CACHE_HOME"])
def test_machine_code_is_kept_in_the_users_cache_and_not_beside_the_code(tmp_path: Path, variable: str) -> None:
    compile_kernels({variable: str(tmp_path)})
    assert list((tmp_path / "tidegauge" / "kernels").rglob("*.nbi"))
    assert not list(Path(native.kernels.__file__).parent.rglob("*.nbi"))


def test_kernels_compile_where_nothing_can_be_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    compile_kernels({"XDG_CACHE_HOME": str(tmp_path / "file")})
    assert (tmp_path / "file").read_bytes() == b""


def test_the_users_choice_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in UNSET:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_directory() == tmp_path / "home" / ".cache" / "tidegauge" / "kernels"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg" / "tidegauge" / "kernels"
    monkeypatch.setenv("CACHE_DIRECTORY", f"{tmp_path}/service:/elsewhere")
    assert cache_directory() == tmp_path / "service" / "tidegauge" / "kernels"
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "numba"))
    assert cache_directory() == tmp_path / "numba" / "tidegauge" / "kernels"
