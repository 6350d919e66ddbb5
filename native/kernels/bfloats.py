"""Numbers of two bytes for kernels: the upper half of a float32 (bfloat16), which is right to 0.4 %."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types

from native.kernels.compiling import machine_code

_BITS, _HALF = ir.IntType(32), ir.IntType(16)


@machine_code
def widened(typing: Any, half: Any) -> Any:
    """Return what uint16 bits stand for."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        bits = builder.shl(builder.zext(args[0], _BITS), ir.Constant(_BITS, 16))
        return builder.fpext(builder.bitcast(bits, ir.FloatType()), ir.DoubleType())

    return types.float64(types.uint16), build


@machine_code
def narrowed(typing: Any, number: Any) -> Any:
    """Return the uint16 bits of the nearest such number; ``number`` is finite and within a float32's range."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        bits = builder.bitcast(builder.fptrunc(args[0], ir.FloatType()), _BITS)
        return builder.trunc(builder.lshr(builder.add(bits, ir.Constant(_BITS, 0x8000)), ir.Constant(_BITS, 16)), _HALF)

    return types.uint16(types.float64), build
