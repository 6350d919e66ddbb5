"""Eight doubles that are computed with together, for kernels whose loops the compiler does not vectorise by itself.

A value of this type lives in registers: one of AVX-512, two of AVX2, four of SSE2 or NEON.  It is read from and written
to eight neighbouring columns of a float32 or float64 row, and combined by ``+ - * /`` with another one or a float.
Nothing here rounds differently from the same operations on single doubles.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.datamodel import PrimitiveModel, register_default
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature

from native.kernels.compiling import machine_code

LANES = 8
_VECTOR = ir.VectorType(ir.DoubleType(), LANES)
_MASK = ir.VectorType(ir.IntType(1), LANES)


class Lanes(types.Type):
    """The type of eight doubles."""

    def __init__(self) -> None:
        super().__init__(name="lanes")


class Mask(types.Type):
    """The type of eight answers."""

    def __init__(self) -> None:
        super().__init__(name="lanes_mask")


lanes, mask = Lanes(), Mask()


@register_default(Lanes)
class _LanesModel(PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, of: Any) -> None:
        super().__init__(manager, of, _VECTOR)


@register_default(Mask)
class _MaskModel(PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, of: Any) -> None:
        super().__init__(manager, of, _MASK)


def _splat(builder: Any, value: Any) -> Any:
    """Return eight times a double; what already is eight stays."""
    if value.type == _VECTOR:
        return value
    one = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    order = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(one, ir.Constant(_VECTOR, ir.Undefined), order)


def _operation(of: Callable[..., Any], answer: Any, build: Callable[[Any, Any, Any], Any]) -> None:
    signatures = [signature(answer, lanes, lanes), signature(answer, lanes, types.float64)]
    signatures.append(signature(answer, types.float64, lanes))

    @infer_global(of)
    class _Typing(ConcreteTemplate):  # type: ignore[misc]
        cases = signatures

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return build(builder, _splat(builder, args[0]), _splat(builder, args[1]))

    for each in signatures:
        lower_builtin(of, *each.args)(lower)


_operation(operator.add, lanes, lambda builder, a, b: builder.fadd(a, b))
_operation(operator.sub, lanes, lambda builder, a, b: builder.fsub(a, b))
_operation(operator.mul, lanes, lambda builder, a, b: builder.fmul(a, b))
_operation(operator.truediv, lanes, lambda builder, a, b: builder.fdiv(a, b))
_operation(operator.gt, mask, lambda builder, a, b: builder.fcmp_ordered(">", a, b))


def _place(context: Any, builder: Any, kind: Any, array: Any, start: Any) -> tuple[Any, int]:
    """Return a pointer to eight elements of a row from ``start``, and the bytes of one."""
    row = context.make_array(kind)(context, builder, array)
    vector = ir.VectorType(context.get_data_type(kind.dtype), LANES)
    return builder.bitcast(builder.gep(row.data, [start]), vector.as_pointer()), kind.dtype.bitwidth // 8


@machine_code
def load(typing: Any, row: Any, start: Any) -> Any:
    """Return the eight elements of ``row`` from ``start``, which is not checked."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer, size = _place(context, builder, sig.args[0], args[0], args[1])
        read = builder.load(pointer, align=size)
        return read if read.type == _VECTOR else builder.fpext(read, _VECTOR)

    return lanes(row, types.intp), build


@machine_code
def store(typing: Any, row: Any, start: Any, value: Any) -> Any:
    """Write eight elements of ``row`` from ``start``, which is not checked."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer, size = _place(context, builder, sig.args[0], args[0], args[1])
        kind = pointer.type.pointee
        value = args[2] if kind == _VECTOR else builder.fptrunc(args[2], kind)
        builder.store(value, pointer, align=size)
        return context.get_dummy_value()

    return types.void(row, types.intp, lanes), build


@machine_code
def least(typing: Any, a: Any, b: Any) -> Any:
    """Return the smaller of each two; the second where one is not a number."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        a, b = (_splat(builder, each) for each in args)
        return builder.select(builder.fcmp_ordered("<", a, b), a, b)

    return lanes(a, b), build


@machine_code
def most(typing: Any, a: Any, b: Any) -> Any:
    """Return the larger of each two; the second where one is not a number."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        a, b = (_splat(builder, each) for each in args)
        return builder.select(builder.fcmp_ordered(">", a, b), a, b)

    return lanes(a, b), build


@machine_code
def choose(typing: Any, condition: Any, a: Any, b: Any) -> Any:
    """Return each of ``a`` where the condition holds, of ``b`` elsewhere."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(args[0], _splat(builder, args[1]), _splat(builder, args[2]))

    return lanes(condition, a, b), build


@machine_code
def size_of(typing: Any, a: Any) -> Any:
    """Return the absolute values."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = ir.FunctionType(_VECTOR, [_VECTOR])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.fabs.v8f64"), args)

    return lanes(a), build


@machine_code
def any_of(typing: Any, condition: Any) -> Any:
    """Return whether one of the eight holds."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        bits = builder.bitcast(args[0], ir.IntType(LANES))
        return builder.icmp_unsigned("!=", bits, ir.Constant(ir.IntType(LANES), 0))

    return types.boolean(condition), build


@machine_code
def lane(typing: Any, a: Any, number: Any) -> Any:
    """Return one of eight."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.extract_element(args[0], builder.trunc(args[1], ir.IntType(32)))

    return types.float64(a, types.intp), build


@machine_code
def fetch(typing: Any, array: Any, row: Any, column: Any) -> Any:
    """Have an element of a table [n, k] brought into the cache, for writing; nothing waits for it."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        table = context.make_array(sig.args[0])(context, builder, args[0])
        width = builder.extract_value(table.shape, 1)
        pointer = builder.gep(table.data, [builder.add(builder.mul(args[1], width), args[2])])
        i32 = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer(), i32, i32, i32])
        prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        how = [ir.Constant(i32, each) for each in (1, 3, 1)]  # to write, into all caches, data
        builder.call(prefetch, [builder.bitcast(pointer, ir.IntType(8).as_pointer()), *how])
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp), build
