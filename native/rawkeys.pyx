"""The fingerprint of native/rawkeys.pxd, as Python sees it."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from native.rawkeys cimport fingerprint


def fingerprint_of(bytes data not None, bytes secret not None):
    """Return the 16 bytes of SipHash-2-4-128 of ``data``; ValueError unless the secret has 16 bytes."""
    cdef uint64_t key[2]
    cdef uint64_t found[2]
    if len(secret) != 16:
        raise ValueError(f"cannot make a fingerprint: got a secret of {len(secret)} bytes, want 16")
    memcpy(key, PyBytes_AS_STRING(secret), 16)
    fingerprint(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), key, found)
    return PyBytes_FromStringAndSize(<const char *>found, 16)
