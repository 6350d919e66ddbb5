"""The decorators of all kernels, and the types their signatures are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit, types

Function = TypeVar("Function", bound=Callable[..., Any])


def given(dtype: Any, dimensions: int = 1) -> Any:
    """Return the type of an array that a kernel only reads; accepts read-only maps and buffers as well as others."""
    return types.Array(dtype, dimensions, "C", readonly=True)


def changed(dtype: Any, dimensions: int = 1) -> Any:
    """Return the type of an array that a kernel writes."""
    return types.Array(dtype, dimensions, "C")


def kernel(*arguments: Any) -> Callable[[Function], Function]:
    """Compile a function of these argument types that returns nothing, now, with its machine code cached on disk.

    The types are required: without them numba compiles again, at the first call, for each new mixture, and a tick would
    stop for seconds.  Division by zero gives infinity, as in NumPy; the interpreter lock is released.

    Kernels allocate nothing: scratch is handed in.  That permits to switch off numba's counting of references, which
    took half of the time of a kernel that hands its arrays to parts (univariate detector: 227 to 112 ns a sample).
    """

    def compile_now(function: Function) -> Function:
        options = {"cache": True, "nogil": True, "error_model": "numpy", "_nrt": False}
        compiled: Function = njit(types.void(*arguments), **options)(function)
        return compiled

    return compile_now


def part(function: Function) -> Function:
    """Mark a piece of a kernel: it becomes part of the kernels that call it."""
    compiled: Function = njit(nogil=True, error_model="numpy", _nrt=False, inline="always")(function)
    return compiled
