"""The decorators of all kernels, and the types their signatures are made of."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from numba import config, njit, types
from numba.extending import intrinsic

Function = TypeVar("Function", bound=Callable[..., Any])

#: Machine code of so many versions of the kernels is kept, the newest ones.
KEPT_VERSIONS = 3


def given(dtype: Any, dimensions: int = 1) -> Any:
    """Return the type of an array that a kernel only reads; accepts read-only maps and buffers as well as others."""
    return types.Array(dtype, dimensions, "C", readonly=True)


def changed(dtype: Any, dimensions: int = 1) -> Any:
    """Return the type of an array that a kernel writes."""
    return types.Array(dtype, dimensions, "C")


def cache_directory() -> Path | None:
    """Return where machine code is kept between starts; None where nothing can be written.

    ``NUMBA_CACHE_DIR`` decides where it is set, then ``CACHE_DIRECTORY`` (systemd.exec, ``CacheDirectory=``), then the
    user's own (XDG Base Directory Specification).  It is never beside the code, numba's first choice: an uninstaller
    does not know such files, and the directories that they keep alive hide the package that is installed next.

    Each version of the kernels has a directory of its own: numba compares a kernel with the file that it stands in
    alone, and would go on with the parts and constants of other files as they were before an update.
    """
    # Empty means unset in all three.
    own = os.environ.get("CACHE_DIRECTORY", "").partition(":")[0] or os.environ.get("XDG_CACHE_HOME", "")
    with suppress(OSError, RuntimeError):  # no home, or one that cannot be written
        path = Path(config.CACHE_DIR or own or Path.home() / ".cache") / "tidegauge" / "kernels" / sources_digest()
        if not path.is_dir():
            path.mkdir(parents=True, exist_ok=True)
            _remove_older(path)
        if os.access(path, os.W_OK | os.X_OK):
            return path
    return None


@cache
def sources_digest() -> str:
    """Return 16 hexadecimal digits that change with any file of this package."""
    digest = sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        data = path.read_bytes()
        digest.update(f"{path.name} {len(data)}\n".encode() + data)
    return digest.hexdigest()[:16]


def _remove_older(newest: Path) -> None:
    """Remove what other versions have left beside this one, but for the last few."""
    with suppress(OSError):
        versions = sorted((each for each in newest.parent.iterdir() if each != newest), key=os.path.getmtime)
        for each in versions[: max(0, len(versions) - KEPT_VERSIONS + 1)]:
            if each.is_dir():
                shutil.rmtree(each, ignore_errors=True)


@contextmanager
def _cached_in(path: Path | None) -> Iterator[None]:
    """Let numba look for its cache here; the setting is the process's, and others compile with numba as well."""
    before = config.CACHE_DIR
    config.CACHE_DIR = before if path is None else str(path)
    try:
        yield
    finally:
        config.CACHE_DIR = before


def kernel(*arguments: Any) -> Callable[[Function], Function]:
    """Compile a function of these argument types that returns nothing, now, or take it from :func:`cache_directory`.

    The types are required: without them numba compiles again, at the first call, for each new mixture, and a tick would
    stop for seconds.  Division by zero gives infinity, as in NumPy; the interpreter lock is released.

    Kernels allocate nothing: scratch is handed in.  That permits to switch off numba's counting of references, which
    took half of the time of a kernel that hands its arrays to parts (univariate detector: 227 to 112 ns a sample).
    """

    def compile_now(function: Function) -> Function:
        path = cache_directory()
        options = {"cache": path is not None, "nogil": True, "error_model": "numpy", "_nrt": False}
        with _cached_in(path):
            compiled: Function = njit(types.void(*arguments), **options)(function)
        return compiled

    return compile_now


def machine_code(build: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a function that writes a piece of a kernel in LLVM's terms (:func:`numba.extending.intrinsic`)."""
    written: Callable[..., Any] = intrinsic(build)
    return written


def part(function: Function) -> Function:
    """Mark a piece of a kernel: it becomes part of the kernels that call it."""
    compiled: Function = njit(nogil=True, error_model="numpy", _nrt=False, inline="always")(function)
    return compiled
