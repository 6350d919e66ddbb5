"""The parts of all tiers: found by what they cover, read, added, dropped.

The rollup database lists the parts, pack files hold their bytes.  The shelf of the writing connection keeps the list in
memory and collects a transaction's changes; reading connections use :mod:`engine.rollups.stored`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from engine.errors import Damage
from engine.model.rows import Int64Array
from engine.rollups import schema
from engine.rollups.packs import MAGIC, Packs
from engine.rollups.pairs import Pairs
from engine.rollups.parts import Packed, open_head, pack, unpack
from engine.rollups.rows import TierRows
from engine.rollups.tiers import TIER_OF_NAME, Tier
from native.rollup import select_buckets

if TYPE_CHECKING:
    import duckdb

#: The table of parts of which it is not known: tag sets have numbers of their own in all tables.
UNKNOWN_TABLE = -1
#: Rows of a part: a query for one series reads this many, and a late sample has this many packed again.
PART_ROWS = 16_384
#: ... but no more than this many cells.
PART_CELLS = 1 << 20
#: Packed bytes that wait to be written.
WAITING_BYTES = 32 << 20
#: Packs are written anew, one at a time, while more than this share of all their bytes is of no use.
WASTE = 0.25
WASTE_BYTES = 4 << 20

_COLUMNS = [name for name, _ in schema.TABLES["rollup_parts"]]
META = ", ".join(_COLUMNS)


@dataclass(frozen=True, slots=True)
class Part:
    """What one part covers and where it is.  Times are starts of buckets, both ends included.

    ``start``: its offset in the pack file; ``bytes``: its length, of which the head takes ``head_bytes``.
    """

    number: int
    tier: str
    table_id: int
    first_tagset: int
    last_tagset: int
    first_ns: int
    last_ns: int
    rows: int
    runs: int
    series_rows: int
    pack: int
    start: int
    head_bytes: int
    bytes: int

    def may_hold(self, pairs: Pairs, width_ns: int) -> bool:
        """Whether any of the pairs, which are ``width_ns`` wide, may lie in this part."""
        inside = (pairs.buckets <= self.last_ns) & (pairs.buckets + (width_ns - 1) >= self.first_ns)
        inside &= (pairs.tagset_ids >= self.first_tagset) & (pairs.tagset_ids <= self.last_tagset)
        return bool(inside.any())


@dataclass(frozen=True, slots=True)
class _Fresh:
    """Sorted rows, and the numbers of the parts that they have become."""

    tier: str
    table_id: int
    parts: frozenset[int]
    rows: TierRows


@dataclass(slots=True)
class _Changes:
    """What the transaction under way has changed."""

    waiting: dict[int, tuple[Part, Packed]] = field(default_factory=dict)
    waiting_bytes: int = 0
    written: bool = False
    dropped: list[int] = field(default_factory=list)
    #: Rows just added, so that the tier above need neither unpack nor sort them.
    fresh: list[_Fresh] = field(default_factory=list)


class LostPack(Damage):
    """A pack that the database names is not there, or too short."""


class DamagedPart(Damage):
    """A part whose bytes are not there or are not what was written."""

    def __init__(self, message: str, part: Part, packs: Packs) -> None:
        super().__init__(
            f"{message} (part {part.number} of {part.tier})", path=packs.path(part.pack), offset=part.start
        )
        self.part = part


class Shelf:
    """The parts as the writing connection sees them."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, packs: Packs) -> None:
        self._connection, self._packs = connection, packs
        self._sizes: dict[int, int] = {}
        self._next_pack = 1
        self._unnamed: set[int] = set()
        self._index: dict[tuple[str, int], dict[int, Part]] | None = None
        self._next = 1
        self._changes = _Changes()

    # --- what there is

    def forget(self) -> None:
        """Read the index anew when it is next needed: a transaction has failed."""
        self._index = None
        self._changes = _Changes()

    def parts(self, tier: str, table_id: int) -> list[Part]:
        """Return the parts of a table, and those taken over from layout 1, which may hold rows of any table."""
        index = self._loaded()
        tables = {table_id, UNKNOWN_TABLE}
        return [part for table in tables for part in index.get((tier, table), {}).values()]

    def all_parts(self) -> Iterator[Part]:
        for parts in self._loaded().values():
            yield from parts.values()

    def _loaded(self) -> dict[tuple[str, int], dict[int, Part]]:
        if self._index is None:
            self._index = {}
            for row in self._connection.execute(f"SELECT {META} FROM rollup_parts").fetchall():
                part = Part(*row)
                self._index.setdefault((part.tier, part.table_id), {})[part.number] = part
                self._next = max(self._next, part.number + 1)
            self._sizes = self._packs.sizes()
            self._next_pack = max(self._next_pack, max(self._sizes, default=0) + 1)
        return self._index

    def check_packs(self) -> None:
        """Raise LostPack when a pack that is named is not there or too short."""
        named: dict[int, int] = {}
        for part in self.all_parts():
            named[part.pack] = max(named.get(part.pack, 0), part.start + part.bytes)
        for number, end in named.items():
            if self._sizes.get(number, 0) < end:
                raise LostPack(
                    f"cannot open rollup database: a pack has {self._sizes.get(number, 0)} bytes, want {end}",
                    path=self._packs.path(number),
                )

    def unreadable(self, pack: int) -> list[Part]:
        """Return the parts of a pack that cannot be read."""
        found = []
        for part in self.all_parts():
            if part.pack == pack and part.number not in self._changes.waiting:
                try:
                    read_part(self._packs, part)
                except DamagedPart:
                    found.append(part)
        return found

    def clean(self) -> None:
        """Remove the packs that are not named."""
        self._remove_packs(set(self._sizes) - {part.pack for part in self.all_parts()})

    def _remove_packs(self, numbers: set[int]) -> None:
        for number in numbers:
            del self._sizes[number]
        self._packs.remove(sorted(numbers))

    # --- reading

    def matching(self, tier: Tier, table_id: int, pairs: Pairs, width_ns: int) -> Iterator[tuple[Part, TierRows, Any]]:
        """Yield (part, its rows, which of them lie in one of the pairs) for each part with such a row but fresh ones.

        ``width_ns``: how wide the buckets of the pairs are, the tier's own or those of a wider one.
        """
        if not len(pairs):
            return
        # Most parts are of other times, which two comparisons tell without looking at the pairs one by one.
        low_ns, high_ns = int(pairs.buckets.min()), int(pairs.buckets.max()) + width_ns
        near = (p for p in self.parts(tier.name, table_id) if p.last_ns >= low_ns and p.first_ns < high_ns)
        fresh = frozenset[int]().union(*(each.parts for each in self._changes.fresh))
        candidates = [part for part in near if part.number not in fresh and part.may_hold(pairs, width_ns)]
        for part in candidates:
            keys = self._read(part, with_fields=False)
            mask = select_buckets(keys.tagset_ids, keys.times, width_ns, pairs.tagset_ids, pairs.buckets)
            if mask.any():
                yield part, self._read(part, with_fields=True), mask

    def inside(self, tier: Tier, table_id: int, pairs: Pairs, width_ns: int) -> Iterator[TierRows]:
        """Yield the rows that lie in one of the pairs, source by source, each sorted."""
        for _, rows, mask in self.matching(tier, table_id, pairs, width_ns):
            yield rows.take(mask)
        for each in self._changes.fresh:
            if (each.tier, each.table_id) == (tier.name, table_id):
                rows = each.rows
                mask = select_buckets(rows.tagset_ids, rows.times, width_ns, pairs.tagset_ids, pairs.buckets)
                if mask.any():
                    yield rows.take(mask)

    def read(self, part: Part) -> TierRows:
        return self._read(part, with_fields=True)

    def _read(self, part: Part, *, with_fields: bool) -> TierRows:
        waiting = self._changes.waiting.get(part.number)
        if waiting is not None:
            packed = waiting[1]
            return _unpacked(part, packed.head, packed.fields if with_fields else {}, self._packs)
        if not with_fields:
            head = _bytes_of(self._packs, part, [(part.start, part.head_bytes)])[0]
            return _unpacked(part, head, {}, self._packs)
        return read_part(self._packs, part)

    # --- changing

    def add(self, tier: Tier, table_id: int, rows: TierRows) -> int:
        """Pack sorted rows into parts; return how many (series, bucket) they hold."""
        parts = self._add_all(tier, table_id, rows, None)
        return sum(part.series_rows for part in parts)

    def add_fresh(self, tier: Tier, table_id: int, rows: TierRows, *, closed: bool) -> int:
        """Do the same with complete rows of new or replaced buckets, and keep them for the tier above until settled.

        Those of the newest bucket become parts of their own while it is likely to be replaced soon: unless ``closed``.
        """
        if not len(rows):
            return 0
        newest = rows.times == rows.times.max()
        if closed or newest.all():
            parts = self._add_all(tier, table_id, rows, None)
        else:
            parts = self._add_all(tier, table_id, rows, np.flatnonzero(~newest))
            parts += self._add_all(tier, table_id, rows, np.flatnonzero(newest))
        numbers = frozenset(part.number for part in parts)
        self._changes.fresh.append(_Fresh(tier.name, table_id, numbers, rows))
        return sum(part.series_rows for part in parts)

    def _add_all(self, tier: Tier, table_id: int, rows: TierRows, chosen: Int64Array | None) -> list[Part]:
        """Pack the rows at the places ``chosen``, or all, a part at a time, so that little memory is used again."""
        size = max(256, min(PART_ROWS, PART_CELLS // max(1, len(rows.field_ids))))
        count = len(rows) if chosen is None else len(chosen)
        parts = []
        for start in range(0, count, size):
            places = slice(start, start + size) if chosen is None else chosen[start : start + size]
            parts.append(self._add(tier, table_id, rows.take(places)))
        return parts

    def _add(self, tier: Tier, table_id: int, rows: TierRows) -> Part:
        index = self._loaded().setdefault((tier.name, table_id), {})
        packed = pack(rows, tier.width_ns)
        size = len(packed.head) + sum(len(data) for data in packed.fields.values())
        part = Part(
            number=self._next,
            tier=tier.name,
            table_id=table_id,
            first_tagset=int(rows.tagset_ids[0]),
            last_tagset=int(rows.tagset_ids[-1]),
            first_ns=int(rows.times.min()),
            last_ns=int(rows.times.max()),
            rows=packed.rows,
            runs=packed.runs,
            series_rows=packed.series_rows,
            pack=0,
            start=0,
            head_bytes=len(packed.head),
            bytes=size,
        )
        self._next += 1
        index[part.number] = part
        self._changes.waiting[part.number] = (part, packed)
        self._changes.waiting_bytes += size
        if self._changes.waiting_bytes > WAITING_BYTES:
            self.write()
        return part

    def drop(self, part: Part) -> None:
        del self._loaded()[part.tier, part.table_id][part.number]
        # What is left of it is still to be read from its parts.
        self._changes.fresh = [each for each in self._changes.fresh if part.number not in each.parts]
        self._changes.dropped.append(part.number)

    def settle(self) -> None:
        """Forget the rows that were kept for the tiers above."""
        self._changes.fresh.clear()

    def write(self) -> None:
        """Write the packs and hand the changes to DuckDB, within the transaction."""
        dropped = set(self._changes.dropped)
        live = [(part, packed) for number, (part, packed) in self._changes.waiting.items() if number not in dropped]
        if live:
            chunks: dict[str, list[bytes]] = {}
            packs: dict[str, int] = {}
            placed = []
            for part, packed in live:
                # A pack of its own for each tier: rows of wide buckets outlive those of narrow ones.
                if part.tier not in packs:
                    packs[part.tier] = self._next_pack
                    self._sizes[self._next_pack] = len(MAGIC)
                    self._next_pack += 1
                number = packs[part.tier]
                chunks.setdefault(part.tier, []).extend((packed.head, *packed.fields.values()))
                placed.append(replace(part, pack=number, start=self._sizes[number]))
                self._loaded()[part.tier, part.table_id][part.number] = placed[-1]
                self._sizes[number] += part.bytes
            for tier, data in chunks.items():
                self._packs.write(packs[tier], data)
            self._changes.written = True
            self._insert("rollup_parts", _part_table(placed))
        stored = dropped - set(self._changes.waiting)
        if stored:
            self._connection.execute(f"DELETE FROM rollup_parts WHERE part IN ({', '.join(map(str, stored))})")
        self._changes.waiting.clear()
        self._changes.dropped.clear()
        self._changes.waiting_bytes = 0

    def prepare(self) -> None:
        """Write what is left to be written, before the transaction commits."""
        self._tidy()
        self.write()
        if self._changes.written:
            self._packs.sync()

    def committed(self) -> None:
        """Remove the packs that nothing has been left of since the commit before.

        Those of this one stay until the next: should its record in DuckDB's log be lost, the state before is whole.
        """
        self._changes = _Changes()
        unnamed = set(self._sizes) - {part.pack for part in self.all_parts()}
        self._remove_packs(unnamed & self._unnamed)
        self._unnamed = unnamed & set(self._sizes)

    def _tidy(self) -> None:
        """Write the live parts of the most wasteful pack anew when too much of all packs is of no use."""
        live: dict[int, list[Part]] = {}
        for part in self.all_parts():
            if part.number not in self._changes.waiting:
                live.setdefault(part.pack, []).append(part)
        used = {number: sum(part.bytes for part in parts) for number, parts in live.items()}
        waste = {number: self._sizes.get(number, 0) - size for number, size in used.items()}
        total = sum(waste.values())
        if total > WASTE_BYTES and total > WASTE * sum(used.values()):
            worst = max(waste, key=lambda number: waste[number])
            for part in live[worst]:
                rows = read_part(self._packs, part)
                self.drop(part)
                self._add(TIER_OF_NAME[part.tier], part.table_id, rows)

    def _insert(self, table: str, rows: pa.Table) -> None:
        self._connection.register("new_rows", rows)
        try:
            self._connection.execute(f"INSERT INTO {table} SELECT * FROM new_rows")
        finally:
            self._connection.unregister("new_rows")


def read_part(packs: Packs, part: Part, field_ids: Iterable[int] | None = None) -> TierRows:
    """Return a part's rows over all its fields or those asked for."""
    if field_ids is None:
        whole = _bytes_of(packs, part, [(part.start, part.bytes)])[0]
        head, body = whole[: part.head_bytes], whole[part.head_bytes :]
        places = _places(part, head, packs)
        fields = {number: body[offset : offset + length] for number, (offset, length) in places.items()}
        return _unpacked(part, head, fields, packs)
    head = _bytes_of(packs, part, [(part.start, part.head_bytes)])[0]
    places = _places(part, head, packs)
    chosen = [number for number in field_ids if number in places]
    first = part.start + part.head_bytes
    found = _bytes_of(packs, part, [(first + places[number][0], places[number][1]) for number in chosen])
    return _unpacked(part, head, dict(zip(chosen, found, strict=True)), packs)


def _bytes_of(packs: Packs, part: Part, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    try:
        return packs.read(part.pack, ranges)
    except Damage:
        raise DamagedPart("cannot read rollups: bytes are missing", part, packs) from None


def _places(part: Part, head: bytes, packs: Packs) -> dict[int, tuple[int, int]]:
    try:
        return open_head(head).places
    except ValueError as error:
        raise DamagedPart(str(error), part, packs) from None


def _unpacked(part: Part, head: bytes, fields: Mapping[int, bytes], packs: Packs) -> TierRows:
    """Return a part's rows over the given fields; raises Damage for bytes that are not as they were written."""
    try:
        return unpack(part.rows, part.runs, open_head(head).keys, fields, TIER_OF_NAME[part.tier].width_ns)
    except ValueError as error:
        raise DamagedPart(str(error), part, packs) from None


def _part_table(parts: Sequence[Part]) -> pa.Table:
    types = {"VARCHAR": pa.string(), "INTEGER": pa.int32(), "BIGINT": pa.int64()}
    values = [[part.number, *(getattr(part, name) for name in _COLUMNS[1:])] for part in parts]
    columns = list(zip(*values, strict=True))
    return pa.table(
        {
            name: pa.array(column, types[sql_type])
            for (name, sql_type), column in zip(schema.TABLES["rollup_parts"], columns, strict=True)
        }
    )
