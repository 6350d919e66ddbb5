"""The catalogue as lists, and its definitions by `struct`, item by item (docs/formats/catalogue.md)."""

from __future__ import annotations

import struct
from collections.abc import Sequence

Tags = Sequence[tuple[bytes, bytes]]
Mark = tuple[int, int, int]


def tagset_key(table_id: int, tags: Tags) -> bytes:
    """Return the canonical key of a tag set."""
    key = struct.pack("<I", table_id)
    for name, value in sorted(tags):
        key += struct.pack("<H", len(name)) + name + struct.pack("<I", len(value)) + value
    return key


class Catalogue:
    def __init__(self) -> None:
        self.tables: list[bytes] = []
        self.field_log: list[tuple[int, bytes]] = []
        self.tagsets: list[tuple[int, tuple[tuple[bytes, bytes], ...]]] = []

    def find_table(self, name: bytes) -> int:
        return self.tables.index(name) if name in self.tables else -1

    def table(self, name: bytes) -> int:
        if name not in self.tables:
            self.tables.append(name)
        return self.tables.index(name)

    def fields(self, table_id: int) -> list[bytes]:
        return [name for owner, name in self.field_log if owner == table_id]

    def field(self, table_id: int, name: bytes) -> int:
        if name not in self.fields(table_id):
            self.field_log.append((table_id, name))
        return self.fields(table_id).index(name)

    def find_tagset(self, table_id: int, tags: Tags) -> int:
        item = (table_id, tuple(sorted(tags)))
        return self.tagsets.index(item) if item in self.tagsets else -1

    def tagset(self, table_id: int, tags: Tags) -> int:
        if len({name for name, _ in tags}) < len(tags):
            raise ValueError(tags)
        if self.find_tagset(table_id, tags) < 0:
            self.tagsets.append((table_id, tuple(sorted(tags))))
        return self.find_tagset(table_id, tags)

    def mark(self) -> Mark:
        return len(self.tables), len(self.field_log), len(self.tagsets)

    def definitions(self, since: Mark, until: Mark) -> bytes:
        if since == until:
            return b""
        parts = [b"\x01", struct.pack("<II", since[0], until[0] - since[0])]
        parts += [struct.pack("<H", len(name)) + name for name in self.tables[since[0] : until[0]]]
        parts.append(struct.pack("<II", since[1], until[1] - since[1]))
        for table_id, name in self.field_log[since[1] : until[1]]:
            field_id = self.fields(table_id).index(name)
            parts.append(struct.pack("<IHH", table_id, field_id, len(name)) + name)
        parts.append(struct.pack("<II", since[2], until[2] - since[2]))
        for table_id, tags in self.tagsets[since[2] : until[2]]:
            key = tagset_key(table_id, tags)
            parts.append(struct.pack("<I", len(key)) + key)
        return b"".join(parts)
