"""What a segment is on disk: names, columns, footer and manifest entry (docs/formats/segment.md).

A segment is one Parquet file with the rows of one table in a half-open time range, sorted by (tag set, time).
Nothing here touches a file: ``writer.py`` makes segments, ``reader.py`` reads them, ``manifest.py`` knows
which of them count.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec

from engine.clock import NS_PER_SECOND
from engine.model.rows import Int32Array

FORMAT_VERSION = 2  # the newest that is known; files without a routed field are still written as 1
METADATA_KEY = "tidegauge"  # of the Parquet footer's key-value metadata; its value is a FooterHeader in JSON
SEGMENTS_DIRECTORY = "segments"
FILE_SUFFIX = ".parquet"
TEMPORARY_SUFFIX = ".tmp"
TAGSET_COLUMN = "tagset_id"
TIME_COLUMN = "time"
PARQUET_MAGIC = b"PAR1"
TRAILER_BYTES = 8  # the footer's length in four bytes and the closing magic

# Chosen by measurement: docs/formats/segment.md, "Choices".
ROW_GROUP_ROWS = 131_072  # a reader of one tag set decodes one row group
ROUTED_ROWS = 262_144  # ... of a routed segment, and a page: zstd finds the instants that series share within a page
PAGE_ROWS = ROW_GROUP_ROWS  # one page a column and row group: half of that costs 0.7 % of size, pyarrow's 20,000 3 %
ZSTD_LEVEL = 3

DOUBLE = "double"
INTEGER = "integer"
DECIMAL_PREFIX = "decimal"
MAX_DECIMALS = 6
MAX_ROUTED_DECIMALS = 9  # Prometheus' durations are nanoseconds in seconds

#: Gives, for the ascending tag-set numbers of one segment, the tag keys that occur and for each key one value
#: (or None where the tag set lacks the key) a tag set: ``tags_of(ids) -> (keys, columns)``, ``len(columns[i])
#: == len(ids)``.
TagsOf = Callable[[Int32Array], tuple[Sequence[str], Sequence[Sequence[str | None]]]]


class FieldColumn(msgspec.Struct, frozen=True, array_like=True):
    """One field of a segment: the Parquet column, the field's number, and what the column's values are.

    ``kind`` is "double", "integer", or "decimal1" ... "decimal9": the value times 10^k is a whole number.  A routed
    field (format 2) has several columns; each row has its value in one of them at most.
    """

    column: str
    field_id: int
    kind: str

    @property
    def decimals(self) -> int:
        """Return k for "decimal<k>", 0 for integers and doubles."""
        return int(self.kind.removeprefix(DECIMAL_PREFIX)) if self.kind.startswith(DECIMAL_PREFIX) else 0


class TagColumn(msgspec.Struct, frozen=True, array_like=True):
    """One tag of a segment: the Parquet column and the tag key."""

    column: str
    key: str


class FooterHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What the file says about itself, in the footer's key-value metadata."""

    format: int
    table: str
    table_id: int
    start_ns: int
    end_ns: int
    rows: int
    sequence: int
    created_ns: int
    tags: tuple[TagColumn, ...]
    fields: tuple[FieldColumn, ...]
    field_names: tuple[str, ...]  # one for each of ``fields``


class SegmentMeta(msgspec.Struct, frozen=True, kw_only=True):
    """One segment as the manifest lists it.

    ``file`` is relative to the data directory.  ``samples`` counts the cells that hold one.  Rows of the
    range with a log sequence of at most ``sealed_through`` are inside.  ``crc32c`` is that of the whole file,
    ``footer_crc32c`` that of its last ``footer_bytes`` bytes (footer, its length, closing magic), and
    ``group_crc32c`` those of its row groups, so that a reader of one row group need not read the whole file.
    """

    table_id: int
    table: str
    file: str
    start_ns: int
    end_ns: int
    min_time_ns: int
    max_time_ns: int
    rows: int
    samples: int
    bytes: int
    crc32c: int
    footer_bytes: int
    footer_crc32c: int
    group_crc32c: tuple[int, ...]
    sealed_through: int
    created_ns: int
    sequence: int
    columns: tuple[FieldColumn, ...]
    format: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentSpec:
    """What a segment to be written is called and covers.

    ``field_names`` maps the field numbers of the rows to names.  ``sequence`` comes from
    ``ManifestStore.reserve_sequence`` and makes the file's name unique.  ``created_ns`` is the caller's
    clock.  ``routed``: the series of each field are spread over columns by their kind of numbers, as is right for
    pooled tables.
    """

    table_id: int
    table: str
    start_ns: int
    end_ns: int
    field_names: Mapping[int, str]
    sequence: int
    sealed_through: int
    created_ns: int
    routed: bool = False
    row_group_rows: int = 0  # 0: what suits the table
    zstd_level: int = ZSTD_LEVEL

    @property
    def group_rows(self) -> int:
        """Return how many rows a row group may hold."""
        return self.row_group_rows or (ROUTED_ROWS if self.routed else ROW_GROUP_ROWS)


def table_directory(table: str) -> str:
    """Return the directory name of a table: file-safe, and different for different tables on any file system.

    Lower-case letters, digits, "_" and "-" stay; every other byte of the UTF-8 form becomes "%xx" (so names
    that differ only in case stay apart).  A name that would be too long for a file system ends in "~" and its
    SHA-256.
    """
    raw = table.encode("utf-8", "surrogatepass")
    safe = b"abcdefghijklmnopqrstuvwxyz0123456789_-"
    text = "".join(chr(byte) if byte in safe else f"%{byte:02x}" for byte in raw)
    if len(text) > 180:
        text = f"{text[:100]}~{hashlib.sha256(raw).hexdigest()}"
    return text or "%"


def time_text(time_ns: int) -> str:
    """Return a time as file names show it: 20260102T030405Z, with nine more digits when it is not a whole
    second.
    """
    seconds, rest = divmod(time_ns, NS_PER_SECOND)
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    fraction = f".{rest:09d}" if rest else ""
    return f"{moment:%Y%m%dT%H%M%S}{fraction}Z"


def segment_file(table: str, start_ns: int, end_ns: int, sequence: int) -> str:
    """Return the path of a segment relative to the data directory."""
    name = f"{time_text(start_ns)}-{time_text(end_ns)}-{sequence:016x}{FILE_SUFFIX}"
    return f"{SEGMENTS_DIRECTORY}/{table_directory(table)}/{name}"


def sequence_of_file(name: str) -> int | None:
    """Return the sequence in a segment's file name, or None when the name is not one of ours."""
    stem, dot, _ = name.rpartition(FILE_SUFFIX)
    text = stem.rpartition("-")[2]
    if not dot or len(text) != 16 or not set(text) <= set("0123456789abcdef"):
        return None
    return int(text, 16)


def format_of(columns: Sequence[FieldColumn]) -> int:
    """Return the format that a file with these columns has: the lowest whose readers understand it."""
    routed = len({column.field_id for column in columns}) < len(columns)
    return 2 if routed or any(column.decimals > MAX_DECIMALS for column in columns) else 1


def column_names_for(
    tag_keys: Sequence[str], field_names: Mapping[int, str], further: Mapping[int, Sequence[str]] | None = None
) -> tuple[dict[str, str], dict[int, tuple[str, ...]]]:
    """Return the column of each tag key and the columns of each field number, all different even when case is ignored.

    ``further``: wished names of the columns that a routed field has beyond its first; they come after all fields.

    Fields come first, by number, so that a field keeps its column as fields and tags are added to the table;
    a tag that meets a field of its name becomes "<key>_tag".  What is still taken gets the first free "_2",
    "_3", ...
    """
    taken = {TAGSET_COLUMN, TIME_COLUMN}

    def claim(wanted: str) -> str:
        column, number = wanted, 1
        while column.lower() in taken:
            number += 1
            column = f"{wanted}_{number}"
        taken.add(column.lower())
        return column

    fields: dict[int, tuple[str, ...]] = {
        field_id: (claim(_printable(field_names[field_id], "field")),) for field_id in sorted(field_names)
    }
    for field_id, names in sorted((further or {}).items()):
        fields[field_id] += tuple(claim(_printable(name, "field")) for name in names)
    tags = {}
    for key in sorted(tag_keys):
        text = _printable(key, "tag")
        tags[key] = claim(f"{text}_tag" if text.lower() in taken else text)
    return tags, fields


def _printable(name: str, otherwise: str) -> str:
    """Return a name without what engines refuse in columns: control characters, halves of surrogate pairs."""
    text = "".join("_" if ord(char) < 32 or ord(char) == 127 else char for char in name)
    return text.encode("utf-8", "replace").decode("utf-8") or otherwise


def footer_of(body: memoryview) -> memoryview:
    """Return the end of a Parquet file: footer, its length, closing magic; ValueError where there is none."""
    if len(body) < TRAILER_BYTES + 4 or body[-4:] != PARQUET_MAGIC or body[:4] != PARQUET_MAGIC:
        raise ValueError("no Parquet magic at both ends")
    length = int.from_bytes(body[-TRAILER_BYTES:-4], "little") + TRAILER_BYTES
    if length > len(body) - 4:
        raise ValueError(f"a footer of {length} bytes does not fit into a file of {len(body)}")
    return body[len(body) - length :]
