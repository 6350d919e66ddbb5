"""The pack files of the tiers: headers, and every part's checksums."""

from __future__ import annotations

from collections.abc import Sequence

from engine.errors import Damage
from engine.maintenance.verify.report import Report
from engine.rollups.packs import MAGIC, Packs, newer_header
from engine.rollups.shelf import Part, read_part


def check_packs(packs: Packs, parts: Sequence[Part], report: Report) -> bool:
    """Read every part once; return whether all of them can be used.

    Packs that no part is in any more are kept for a while (docs/formats/rollups.md) and are not looked at.
    """
    sound = True
    for number in sorted({part.pack for part in parts}):
        sound &= _check_header(packs, number, report)
    for place, part in enumerate(parts):
        report.progress("packs", place, len(parts))
        try:
            read_part(packs, part)
        except Damage as error:
            report.add("rollups_damaged", error.path, error.message, offset=error.offset)
            sound = False
        report.checked["rollup parts"] += 1
    return sound


def _check_header(packs: Packs, number: int, report: Report) -> bool:
    try:
        header = packs.read(number, [(0, len(MAGIC))])[0]
    except Damage as error:
        report.add("rollups_damaged", error.path, error.message)
        return False
    if header == MAGIC:
        return True
    kind = "rollups_newer" if newer_header(header) else "rollups_damaged"
    report.add(kind, packs.path(number), f"header {header.hex()}", MAGIC.hex(), offset=0)
    return False
