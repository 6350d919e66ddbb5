"""native.labels and native.catalogue: numbering names that are known, and names that are new.

Best case: short keys that are all known and hot in cache.  Worst: 250-byte keys that are all new, in a table
that grows from nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from native.catalogue import Catalogue
from native.labels import LabelTable

KEYS = 100_000

Case = tuple[str, float, str, Callable[[], object]]


def _intern_all(table: LabelTable, keys: list[bytes]) -> int:
    intern = table.intern
    last = -1
    for key in keys:
        last = intern(key)
    return last


def _intern_afresh(keys: list[bytes]) -> LabelTable:
    table = LabelTable()
    _intern_all(table, keys)
    return table


def _table_cases(label: str, keys: list[bytes]) -> list[Case]:
    known = _intern_afresh(keys)
    if len(known) != len(keys) or known.key(len(keys) - 1) != keys[-1] or known.find(keys[7]) != 7:
        raise AssertionError(f"{label}: the table does not hold the keys")
    return [
        (f"known, {label}", len(keys), "keys", lambda: _intern_all(known, keys)),
        (f"new, {label}", len(keys), "keys", lambda: _intern_afresh(keys)),
    ]


def _catalogue_cases() -> list[Case]:
    source = Catalogue()
    table_id = source.table(b"cpu")
    tag_keys = [b"region", b"datacenter", b"rack", b"os", b"arch", b"team", b"service"]
    for host in range(KEYS):
        tags = [(b"hostname", b"host_%d" % host), *((key, key + b"-value") for key in tag_keys)]
        source.tagset(table_id, tags)
    data = source.definitions((0, 0, 0), source.mark())

    def apply() -> Catalogue:
        catalogue = Catalogue()
        catalogue.apply_definitions(data)
        return catalogue

    copy = apply()
    if copy.mark() != source.mark() or copy.tags(KEYS - 1) != source.tags(KEYS - 1):
        raise AssertionError("the definitions do not make the same catalogue")
    return [
        ("tag sets defined from bytes", KEYS, "tag sets", apply),
        ("tag sets known already", KEYS, "tag sets", lambda: copy.apply_definitions(data)),
        ("tag sets to bytes", KEYS, "tag sets", lambda: source.definitions((0, 0, 0), source.mark())),
    ]


def cases() -> list[Case]:
    short = [b"host_%d" % number for number in range(KEYS)]
    long = [b"%06d" % number + b"x" * 244 for number in range(KEYS)]
    return [
        *_table_cases("11 bytes", short),
        *_table_cases("250 bytes", long),
        *_catalogue_cases(),
    ]
