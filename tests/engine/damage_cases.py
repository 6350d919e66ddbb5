"""The table of damages: what is done to which file, what verify must find, what a start must do and say.

Tried one by one by test_damage.py; `python -m tests.engine.damage_cases` writes the tables into
docs/operations/damage.md.
"""
# ruff: noqa: E501  (a case is a line)

from __future__ import annotations

import json
import re
import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.maintenance.verify.kinds import KINDS
from engine.wal.layout import encode_header
from native.checksum import crc32c
from native.frames import encode_frame, scan_frames
from tests.engine.damage import (
    CATALOGUE,
    CONTROL,
    LOG,
    MANIFEST,
    ROLLUPS,
    ROLLUPS_LOG,
    SEGMENT,
    TAGSETS,
    Change,
    all_of,
    append,
    both,
    case,
    cut,
    duplicate,
    flip,
    of,
    swap,
    zeros,
)
from tests.engine.tier_pieces import run_on_tiers

PAGE = Path(__file__).parents[2] / "docs" / "operations" / "damage.md"


def newer_log(path: Path) -> None:
    path.write_bytes(encode_header(int(path.stem, 16), version=9) + path.read_bytes()[20:])


def unknown_frame(path: Path) -> None:
    """Append a frame of a kind that this version does not know."""
    body = path.read_bytes()
    last = scan_frames(body, 20)[0][-1][1]
    path.write_bytes(body + encode_frame(7, last + 1, [b"of a later version"]))


def edit_manifest(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Change a manifest's content and give it the checksum that belongs to it."""

    def apply(path: Path) -> None:
        body = json.loads(path.read_bytes().splitlines()[0])
        change(body)
        line = json.dumps(body, separators=(",", ":")).encode() + b"\n"
        path.write_bytes(line + b"crc32c %08x\n" % crc32c(line))

    return apply


PACKS = "rollups/*.pack"


def in_rollups(*statements: str) -> Change:
    def apply(data: Path) -> None:
        run_on_tiers(data, *statements)

    return apply


def raise_definitions_version(path: Path) -> None:
    body = path.read_bytes()
    kind, sequence, start, stop = scan_frames(body)[0][0]
    path.write_bytes(encode_frame(kind, sequence, [bytes([9]) + body[start + 1 : stop]]) + body[stop:])


def newer_segment(data: Path) -> None:
    """Rewrite a segment's footer for a later format, with every checksum right."""
    path = sorted(data.glob(SEGMENT))[0]
    old = path.read_bytes()
    body = old.replace(b'{"format":1,', b'{"format":9,')
    assert body != old
    path.write_bytes(body)
    footer = struct.unpack("<I", body[-8:-4])[0] + 8

    def claim(manifest: dict[str, Any]) -> None:
        for meta in manifest["segments"]:
            if meta["file"] == str(path.relative_to(data)):
                meta["crc32c"], meta["footer_crc32c"] = crc32c(body), crc32c(body[-footer:])
                meta["format"] = 9

    all_of(MANIFEST, edit_manifest(claim))(data)


def newer_tagsets(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[8] = 9
    body[60:64] = crc32c(body[:60]).to_bytes(4, "little")
    path.write_bytes(body)


def newer_pack(path: Path) -> None:
    path.write_bytes(b"TGTP" + (9).to_bytes(4, "little") + path.read_bytes()[8:])


def newer_control(data: Path) -> None:
    with sqlite3.connect(data / CONTROL) as control:
        control.execute("PRAGMA user_version = 99")
    control.close()


def row_of(tier: str) -> str:
    return f"rowid = (SELECT rowid FROM {tier} ORDER BY time, series_id LIMIT 1 OFFSET 5)"


HEADER, CHECKSUM = "the file header is not that", "a frame's checksum does not match"
FALLBACK = "manifest_damaged manifest_fallback log_gap"
TGS = r"cannot (read|open).*tagsets-\d+-\d+\.tgs"
EXTRA = "rollup_row_extra rollup_row_differs"

# fmt: off
CASES = (
    # --- the log
    case("log", "torn: the newest file ends within a frame", of(LOG, -1, lambda p: cut(p, -5)), "log_torn", "reports", "log repaired: cut", back="all but the torn frame, which a real crash leaves only where nothing was acknowledged"),
    case("log", "zeros behind the newest file's frames", of(LOG, -1, append(bytes(4096))), "log_torn", "reports", "log repaired: cut 4096"),
    case("log", "half a header of a new file", lambda d: (d / "wal/000000000000000e.wal").write_bytes(encode_header(14)[:9]), "log_torn", "reports", "log repaired: cut 9"),
    case("log", "a bit of an older file's header", of(LOG, 1, lambda p: flip(p, 10)), "log_damaged", "reports", HEADER, stays="log_set_aside"),
    case("log", "a bit in the oldest file's first frame", of(LOG, 0, lambda p: flip(p, 60)), "log_damaged log_gap " + EXTRA, "reports", "frames missing: sequences 7 to 9", back="all but that file's frames from the damage on; tiers keep what they had of them", stays="log_set_aside " + EXTRA),
    case("log", "a bit in an older file's middle", of(LOG, 1, lambda p: flip(p, 0.5)), "log_damaged log_gap", "reports", CHECKSUM, back="all but that file's frames from the damage on", stays="log_set_aside"),
    case("log", "a bit of an older file's last byte", of(LOG, 1, lambda p: flip(p, -1)), "log_damaged log_gap", "reports", CHECKSUM, back="all but its last frame", stays="log_set_aside"),
    case("log", "a bit of a checksum in the newest file", of(LOG, -1, lambda p: flip(p, 25)), "log_damaged", "reports", CHECKSUM, back="all but that file's frames from the damage on", stays="log_set_aside"),
    case("log", "zeros in the middle of an older file", of(LOG, 1, lambda p: zeros(p, 0.3, 0.6)), "log_damaged log_gap", "reports", CHECKSUM, back="all but that file's frames from the damage on", stays="log_set_aside"),
    case("log", "an older file cut in half", of(LOG, 1, lambda p: cut(p, 0.5)), "log_damaged log_gap", "reports", "ends within a frame but is not the newest", back="all but that file's frames from there on", stays="log_set_aside"),
    case("log", "an older file empty", of(LOG, 1, lambda p: cut(p, 0.0)), "log_damaged log_gap", "reports", HEADER, back="all but that file's frames", stays="log_set_aside"),
    case("log", "an older file all zeros", of(LOG, 1, zeros), "log_damaged log_gap", "reports", HEADER, back="all but that file's frames", stays="log_set_aside"),
    case("log", "the oldest file missing", of(LOG, 0, Path.unlink), "log_gap " + EXTRA, "reports", "frames missing: sequences 7 to 9", back="all but that file's frames; tiers keep what they had of them", stays=EXTRA),
    case("log", "a file in the middle missing", of(LOG, 1, Path.unlink), "log_gap", "reports", "frames missing: sequences 10 to 11", back="all but that file's frames"),
    case("log", "the newest file missing, with nothing in segments or tiers", of(LOG, -1, Path.unlink), "", "serves", back="all but that file's frames: nothing else knows of them"),
    case("log", "all files missing", all_of(LOG, Path.unlink), "rollups_ahead " + EXTRA, "reports", "frames missing: sequences 7 to 9", back="what segments hold; tiers keep what they had", stays="rollups_ahead " + EXTRA),
    case("log", "two files swapped", both(LOG, swap), "log_damaged log_gap " + EXTRA, "reports", HEADER, back="all but those files' frames; both are kept", stays="log_set_aside " + EXTRA),
    case("log", "a file once more under a later number", of(LOG, 0, duplicate("000000000000000e.wal")), "log_damaged", "reports", HEADER, stays="log_set_aside"),
    case("log", "a temporary file", lambda d: (d / "wal/0000000000000001.wal.tmp").write_bytes(b"half"), "log_stray", "tidies", stays="log_stray"),
    case("log", "a file of a newer version", of(LOG, 1, newer_log), "log_newer", "refuses", r"got version 9, want 1; it was written by a newer version \(.*\.wal, offset 7\)"),
    case("log", "a frame of an unknown kind", of(LOG, -1, unknown_frame), "log_newer", "refuses", r"got a frame of kind 7, want 1; it was written by a newer version \(.*\.wal, offset \d+\)"),
    # --- the manifest
    case("manifest", "a bit at the newest one's start", of(MANIFEST, -1, lambda p: flip(p, 0)), FALLBACK, "reports", r"version \d+ is used instead", stays="stray"),
    case("manifest", "a bit in the newest one's middle", of(MANIFEST, -1, lambda p: flip(p, 0.5)), FALLBACK, "reports", r"version \d+ is used instead", stays="stray"),
    case("manifest", "a bit in the newest one's checksum", of(MANIFEST, -1, lambda p: flip(p, -3)), FALLBACK, "reports", r"version \d+ is used instead", stays="stray"),
    case("manifest", "a bit of the spare", of(MANIFEST, 0, lambda p: flip(p, 0.5)), "manifest_damaged", "reports", "cannot read manifest: got checksum .* renamed", stays="stray"),
    case("manifest", "the newest cut", of(MANIFEST, -1, lambda p: cut(p, 0.5)), FALLBACK, "reports", r"version \d+ is used instead", stays="stray"),
    case("manifest", "the newest all zeros", of(MANIFEST, -1, zeros), FALLBACK, "reports", r"version \d+ is used instead", stays="stray"),
    case("manifest", "the newest missing", of(MANIFEST, -1, Path.unlink), "log_gap", "reports", "frames missing: sequences 4 to 6"),
    case("manifest", "both missing", all_of(MANIFEST, Path.unlink), "manifest_missing", "refuses", "there is no manifest; 5 segment files exist"),
    case("manifest", "both damaged", all_of(MANIFEST, lambda p: flip(p, 0.5)), "manifest_damaged", "refuses", "cannot open manifest: cannot read manifest: got checksum"),
    case("manifest", "the two swapped", both(MANIFEST, swap), "manifest_damaged", "refuses", r"got version \d+, want \d+"),
    case("manifest", "the newest once more under a later number", of(MANIFEST, -1, duplicate("manifest-00000000000000aa.json")), "manifest_damaged manifest_fallback", "reports", r"version \d+ is used instead", stays="stray"),
    case("manifest", "a temporary file", lambda d: (d / "manifest-00000000000000aa.json.tmp").write_bytes(b"half"), "temporary", "reports", "the rest of a write that did not finish"),
    case("manifest", "a newer format", of(MANIFEST, -1, edit_manifest(lambda m: m.update(format=9))), "manifest_newer", "refuses", r"got format 9, want at most \d+; it was written by a newer version \(.*manifest-"),
    case("manifest", "an unknown format", of(MANIFEST, -1, edit_manifest(lambda m: m.update(format="x"))), FALLBACK, "reports", r"version \d+ is used instead", stays="stray"),
    case("manifest", "a file listed twice in both, checksums right", all_of(MANIFEST, edit_manifest(lambda m: m["segments"].append(m["segments"][-1]))), "manifest_damaged", "refuses", "is listed twice"),
    # --- segments
    case("segment", "a bit of the first byte", of(SEGMENT, 1, lambda p: flip(p, 0)), "segment_damaged", "fails", "cannot read segment", stays="segment_damaged"),
    case("segment", "a bit of a row group", of(SEGMENT, 1, lambda p: flip(p, 100)), "segment_damaged", "fails", "cannot read segment", stays="segment_damaged"),
    case("segment", "a bit of the footer", of(SEGMENT, 1, lambda p: flip(p, -60)), "segment_damaged", "fails", "cannot read segment", stays="segment_damaged"),
    case("segment", "a bit of the last byte", of(SEGMENT, 1, lambda p: flip(p, -1)), "segment_damaged", "fails", "cannot read segment", stays="segment_damaged"),
    case("segment", "cut", of(SEGMENT, 1, lambda p: cut(p, 0.5)), "segment_damaged", "fails", r"cannot read segment.*\.parquet", stays="segment_damaged"),
    case("segment", "empty", of(SEGMENT, 1, lambda p: cut(p, 0.0)), "segment_damaged", "fails", "cannot read segment", stays="segment_damaged"),
    case("segment", "all zeros", of(SEGMENT, 1, zeros), "segment_damaged", "fails", "cannot read segment", stays="segment_damaged"),
    case("segment", "missing", of(SEGMENT, 1, Path.unlink), "segment_missing", "fails", r"cannot (read|open) segment.*\.parquet", stays="segment_missing"),
    case("segment", "two swapped", both(SEGMENT, swap), "segment_damaged", "fails", "cannot read segment", stays="segment_damaged"),
    case("segment", "one once more under a later number", of(SEGMENT, 0, duplicate("x-y-00000000000000aa.parquet")), "orphan", "reports", "no manifest lists this segment, but it is younger", stays="orphan"),
    case("segment", "one once more under an earlier number", of(SEGMENT, 0, duplicate("x-y-0000000000000001.parquet")), "orphan", "reports", "no manifest lists this segment"),
    case("segment", "a temporary file", of(SEGMENT, 0, duplicate("x-y-00000000000000aa.parquet.tmp")), "temporary", "reports", "the rest of a write that did not finish"),
    case("segment", "a newer format, checksums right", newer_segment, "segment_newer", "refuses", r"got format 9, want at most \d+; it was written by a newer version \(.*\.parquet"),
    case("segment", "somebody else's file among them", of(SEGMENT, 0, duplicate("theirs.parquet")), "stray", "reports", "not named like a segment; left alone", stays="stray"),
    # --- the catalogue
    case("catalogue", "torn: the file ends within a frame", of(CATALOGUE, 0, append(encode_frame(2, 2, [bytes([1]) + bytes(24)])[:-5])), "catalogue_torn", "tidies"),
    case("catalogue", "cut within a frame that was whole", of(CATALOGUE, 0, lambda p: cut(p, -5)), "catalogue_torn catalogue_lacks", "refuses", r"0 tables.*catalog\.log"),
    case("catalogue", "a bit at the start", of(CATALOGUE, 0, lambda p: flip(p, 0)), "catalogue_damaged", "refuses", "cannot read catalogue: bad checksum"),
    case("catalogue", "a bit in the middle", of(CATALOGUE, 0, lambda p: flip(p, 0.5)), "catalogue_damaged", "refuses", "cannot read catalogue: bad checksum"),
    case("catalogue", "a bit of the last byte", of(CATALOGUE, 0, lambda p: flip(p, -1)), "catalogue_damaged", "refuses", "cannot read catalogue: bad checksum"),
    case("catalogue", "all zeros", of(CATALOGUE, 0, zeros), "catalogue_torn catalogue_lacks", "refuses", r"0 tables.*catalog\.log"),
    case("catalogue", "missing", of(CATALOGUE, 0, Path.unlink), "catalogue_lacks", "refuses", r"0 tables.*catalog\.log"),
    case("catalogue", "its definitions twice", of(CATALOGUE, 0, lambda p: append(p.read_bytes())(p)), "", "tidies"),
    case("catalogue", "a newer version", of(CATALOGUE, 0, raise_definitions_version), "catalogue_newer", "refuses", r"got version 9, want at most \d+; it was written by a newer version \(.*catalog\.log"),
    # --- tag-set files
    case("tag sets", "a bit of the header", of(TAGSETS, 0, lambda p: flip(p, 20)), "catalogue_damaged", "refuses", TGS),
    case("tag sets", "a bit in the middle", of(TAGSETS, 0, lambda p: flip(p, 0.5)), "catalogue_damaged", "refuses", TGS),
    case("tag sets", "a bit of the last byte", of(TAGSETS, 0, lambda p: flip(p, -1)), "catalogue_damaged", "refuses", TGS),
    case("tag sets", "cut", of(TAGSETS, 0, lambda p: cut(p, 0.5)), "catalogue_damaged", "refuses", TGS),
    case("tag sets", "empty", of(TAGSETS, 0, lambda p: cut(p, 0.0)), "catalogue_damaged", "refuses", TGS),
    case("tag sets", "all zeros", of(TAGSETS, 0, zeros), "catalogue_damaged", "refuses", TGS),
    case("tag sets", "missing", all_of(TAGSETS, Path.unlink), "catalogue_damaged", "refuses", "cannot read catalogue"),
    case("tag sets", "under a name that says more than it holds", of(TAGSETS, -1, lambda p: p.rename(p.with_name("tagsets-0000000000-0000000999.tgs"))), "catalogue_damaged", "refuses", "want those its name says"),
    case("tag sets", "a temporary file", of(TAGSETS, 0, duplicate("tagsets-0000000000-0000000999.tgs.tmp")), "", "tidies"),
    case("tag sets", "a newer version", of(TAGSETS, 0, newer_tagsets), "catalogue_newer", "refuses", r"version 9.*\.tgs"),
    # --- rollups
    case("rollups", "missing", all_of("rollups.duckdb*", Path.unlink), "rollups_missing", "reports", r"set aside.*rollups\.damaged"),
    case("rollups", "DuckDB's log missing", of(ROLLUPS_LOG, 0, Path.unlink), "rollups_missing", "reports", r"set aside.*rollups\.damaged"),
    case("rollups", "DuckDB's log torn", of(ROLLUPS_LOG, 0, lambda p: cut(p, -5)), "", "serves"),
    case("rollups", "a bit in the middle of DuckDB's log", of(ROLLUPS_LOG, 0, lambda p: flip(p, 0.5)), "rollups_damaged", "reports", r"set aside.*rollups\.duckdb\.wal\.damaged"),
    case("rollups", "a bit of the header", of(ROLLUPS, 0, lambda p: flip(p, 8)), "rollups_damaged", "reports", r"set aside.*rollups\.duckdb\.damaged"),
    case("rollups", "a bit of each of its database headers", of(ROLLUPS, 0, lambda p: [flip(p, at) for at in (4100, 8200)]), "rollups_damaged", "reports", r"set aside.*rollups\.duckdb\.damaged"),
    case("rollups", "cut", of(ROLLUPS, 0, lambda p: cut(p, 0.5)), "rollups_damaged", "reports", r"set aside.*rollups\.duckdb\.damaged"),
    case("rollups", "all zeros", of(ROLLUPS, 0, zeros), "rollups_damaged", "reports", r"set aside.*rollups\.duckdb\.damaged"),
    case("rollups", "a pack missing", of(PACKS, 0, Path.unlink), "rollups_damaged", "reports", r"set aside.*rollups\.duckdb\.damaged"),
    case("rollups", "a bit of a pack's first byte", of(PACKS, 0, lambda p: flip(p, 0)), "rollups_damaged", "serves", stays="rollups_damaged"),
    case("rollups", "a bit in a pack's middle", of(PACKS, 0, lambda p: flip(p, 0.95)), "rollups_damaged", "serves", stays="rollups_damaged"),
    case("rollups", "a bit of a pack's last byte", of(PACKS, 0, lambda p: flip(p, -1)), "rollups_damaged", "serves", stays="rollups_damaged"),
    case("rollups", "a pack all zeros, whose buckets change", of(PACKS, 0, zeros), "rollups_damaged", "heals", r"made again.*\.pack\.damaged"),
    case("rollups", "a pack of a newer version", of(PACKS, 0, newer_pack), "rollups_newer", "serves", stays="rollups_newer"),
    case("rollups", "two packs swapped", both(PACKS, swap), "rollups_damaged", "reports", r"set aside.*rollups\.duckdb\.damaged"),
    case("rollups", "a pack once more under a later number", of(PACKS, 0, duplicate("000000999999.pack")), "", "tidies"),
    case("rollups", "a pack cut", of(PACKS, 0, lambda p: cut(p, -5)), "rollups_damaged", "reports", r"set aside.*rollups\.duckdb\.damaged"),
    case("rollups", "a newer layout", in_rollups("UPDATE rollup_store SET layout_version = 99"), "rollups_newer", "fails", r"written by a newer version \(layout 99.*rollups\.duckdb", stays="rollups_newer"),
    case("rollups", "an unknown layout", in_rollups("UPDATE rollup_store SET layout_version = -1"), "rollups_layout", "fails", "got layout -1", stays="rollups_layout"),
    case("rollups", "an older copy", in_rollups("UPDATE rollup_store SET flushed_sequence = 1"), "rollups_behind", "serves"),
    case("rollups", "a copy of a later state", in_rollups("UPDATE rollup_store SET flushed_sequence = 1000"), "rollups_ahead rollup_row_missing rollup_row_differs", "serves", stays="rollups_ahead"),
    case("rollups", "a row altered", in_rollups(f"UPDATE rollup_1m SET sum = sum + 1 WHERE {row_of('rollup_1m')}"), "rollup_row_differs", "serves", stays="rollup_row_differs"),
    case("rollups", "a row missing", in_rollups(f"DELETE FROM rollup_1m WHERE {row_of('rollup_1m')}"), "rollup_row_missing rollup_row_extra", "serves", stays="rollup_row_missing rollup_row_extra"),
    case("rollups", "a row twice", in_rollups(f"INSERT INTO rollup_5m SELECT * FROM rollup_5m WHERE {row_of('rollup_5m')}"), "rollup_row_extra", "serves", stays="rollup_row_extra"),
    case("rollups", "a tier that does not fit the one below", in_rollups(f"UPDATE rollup_1h SET max = max + 1 WHERE {row_of('rollup_1h')}"), "rollup_row_differs", "serves", stays="rollup_row_differs"),
    # --- control
    case("control", "a bit of the header", of(CONTROL, 0, lambda p: flip(p, 0)), "control_damaged", "refuses", "file is not a database .*control"),
    case("control", "cut", of(CONTROL, 0, lambda p: cut(p, 0.5)), "control_damaged", "refuses", "malformed .*control"),
    case("control", "all zeros", of(CONTROL, 0, zeros), "control_damaged", "refuses", "not a database .*control"),
    case("control", "missing", of(CONTROL, 0, Path.unlink), "", "serves"),
    case("control", "a newer schema", newer_control, "control_newer", "refuses", "written by a newer version.*got schema 99"),
)
# fmt: on


OPENINGS = {
    "tidies": "opens",
    "reports": "opens, and says so",
    "serves": "opens",
    "fails": "opens; what needs it fails, by name",
    "heals": "opens; what is wanted to bring tiers up to date is made again, and says so",
    "refuses": "refuses, by name",
}


def cases_table() -> str:
    lines = [
        "| file | what was done | verify tells | a start | what comes back | verify afterwards |",
        "|---|---|---|---|---|---|",
    ]
    for each in CASES:
        found = ", ".join(f"`{kind}`" for kind in sorted(each.kinds)) or "nothing"
        left = ", ".join(f"`{kind}`" for kind in sorted(each.stays)) or "nothing"
        back = "–" if each.opening == "refuses" else each.back
        after = "–" if each.opening == "refuses" else left
        lines.append(f"| {each.part} | {each.what} | {found} | {OPENINGS[each.opening]} | {back} | {after} |")
    return "\n".join(lines)


def kinds_table() -> str:
    lines = ["| kind | severity | what was found | what the next start does |", "|---|---|---|---|"]
    lines += [f"| `{kind.name}` | {kind.severity} | {kind.meaning} | {kind.next_start} |" for kind in KINDS.values()]
    return "\n".join(lines)


TABLES = {"kinds": kinds_table, "cases": cases_table}


def with_tables(text: str) -> str:
    """Return the page's text with each marked table as it is now."""
    for name, table in TABLES.items():
        marks = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
        between = re.compile(re.escape(marks[0]) + ".*?" + re.escape(marks[1]), re.DOTALL)
        assert between.search(text), f"{PAGE} has no place for the table {name}"
        text = between.sub(lambda _, marks=marks, table=table: marks[0] + table() + marks[1], text)
    return text


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text()))
