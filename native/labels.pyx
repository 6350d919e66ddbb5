"""LabelTable: byte strings numbered 0, 1, 2, ... in order of first sight (the map itself is in labels.pxd).

Source of the layout: an append-only arena, a dense entry array and an open-addressing table of 64-bit slots, as in
the string tables of compilers.  Hashes are seeded afresh for every table, so that nobody who chooses the labels can
choose their collisions; identifiers depend on the order of arrival alone.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

import os


cdef class LabelTable:
    """A map from byte strings to dense identifiers that never forgets and never renumbers."""

    def __cinit__(self):
        label_map_init(&self.labels, <uint64_t>int.from_bytes(os.urandom(8), "little"))

    def __dealloc__(self):
        label_map_free(&self.labels)

    def __len__(self):
        return self.labels.count

    def intern(self, bytes key not None):
        """Return the identifier of ``key``, numbering it when it is new.

        Raises MemoryError, and ValueError when the identifiers (2^31 - 1) or the key's length (2^31 - 1 bytes) run out.
        """
        cdef int64_t identifier = label_map_intern(&self.labels, PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
        if identifier == LABEL_NO_MEMORY:
            raise MemoryError(f"cannot number a key of {len(key)} bytes: got no memory")
        if identifier < 0:
            raise ValueError(
                f"cannot number a key: got {self.labels.count} keys and {len(key)} bytes, want fewer than {MAX_LABELS}"
            )
        return identifier

    def find(self, bytes key not None):
        """Return the identifier of ``key``, or -1 when it has none."""
        return label_map_find(&self.labels, PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))

    def key(self, int64_t identifier):
        """Return the key with that identifier; ValueError when there is none."""
        if not 0 <= identifier < self.labels.count:
            raise ValueError(f"cannot read key {identifier}: got {self.labels.count} keys, want a smaller identifier")
        return PyBytes_FromStringAndSize(
            self.labels.entries[identifier].data, self.labels.entries[identifier].length
        )

    @property
    def memory_bytes(self):
        """Bytes allocated for keys, entries and slots."""
        return label_map_bytes(&self.labels)
