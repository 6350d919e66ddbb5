# One check for every array that crosses from Python into a native loop: dtype, dimensions, memory layout.
# Loops index raw pointers afterwards, so an array that passes here is all they ever rely on.

import numpy as np


cdef inline object checked_array(object array, str name, object dtype, int dimensions):
    """Return ``array`` when it is a C-contiguous ndarray of ``dtype``; raise TypeError or ValueError otherwise."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"cannot use {name}: got {type(array).__name__}, want a numpy array of {np.dtype(dtype)}")
    if array.dtype != dtype:
        raise TypeError(f"cannot use {name}: got dtype {array.dtype}, want {np.dtype(dtype)}")
    if array.ndim != dimensions:
        raise ValueError(f"cannot use {name}: got {array.ndim} dimensions, want {dimensions}")
    if not array.flags.c_contiguous:
        raise ValueError(f"cannot use {name}: got a strided array, want a C-contiguous one")
    return array


cdef inline object checked_output(object array, str name, object dtype, int dimensions):
    """Return ``array`` as :func:`checked_array` does; raise ValueError as well when it is read-only."""
    checked_array(array, name, dtype, dimensions)
    if not array.flags.writeable:
        raise ValueError(f"cannot fill {name}: got a read-only array, want a writable one")
    return array


cdef inline int same_length(object array, str name, Py_ssize_t length, str other) except -1:
    """Raise ValueError unless the last dimension of ``array`` is ``length``."""
    if array.shape[array.ndim - 1] != length:
        raise ValueError(f"cannot use {name}: got {array.shape[array.ndim - 1]} rows, want {length} as in {other}")
    return 0
