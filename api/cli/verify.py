"""``tidegauge verify``: reads a stopped data directory from end to end and reports what is not as it should be."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from api.cli import DEFAULT_DATA, WrongUse

if TYPE_CHECKING:
    from engine.maintenance.verify.report import Finding, Report

_EPILOG = """example:
  tidegauge verify --data /var/lib/tidegauge
  tidegauge verify --data ./copy --format json > report.json

Changes nothing.  The directory must not be in use: stop the server, or verify a copy of its directory.  Exit code 0
when nothing stored is wrong (notices, such as the torn tail that a crash leaves, do not count), 1 with findings or
when the directory cannot be read, 2 for wrong use.
"""
#: A line of progress on a terminal at most this often.
_EVERY_SECONDS = 0.2
_SIGNS = ("LOCK", "wal", "segments", "catalog.log", "rollups.duckdb", "control.sqlite")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Check every checksum, the manifest against the files, the log against the manifest, and every rollup row"
        "\nagainst its recomputation."
    )
    parser.epilog = _EPILOG
    parser.add_argument("--data", metavar="DIR", default=DEFAULT_DATA, help=f"the directory (default: {DEFAULT_DATA})")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="default: text")


def run(arguments: argparse.Namespace) -> int:
    root: str = os.path.abspath(arguments.data)
    if not os.path.isdir(root):
        raise WrongUse(f"cannot verify {arguments.data}: there is no such directory")
    names = os.listdir(root)
    if not any(name in _SIGNS or name.startswith("manifest-") for name in names):
        raise WrongUse(f"cannot verify {arguments.data}: it is no data directory of tidegauge")
    from engine.maintenance.verify.directory import verify

    progress = _Progress() if sys.stderr.isatty() else None
    started = time.monotonic()
    report = verify(root, progress=progress)
    if progress is not None:
        progress.clear()
    if arguments.format == "json":
        print(json.dumps(report.as_json(), indent=2))
    else:
        print(render(report, seconds=time.monotonic() - started), end="")
    return 0 if report.clean else 1


class _Progress:
    """One line on a terminal that is written over again and again."""

    def __init__(self) -> None:
        self._shown = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._shown >= _EVERY_SECONDS:
            self._shown = now
            print(f"\r\x1b[Kverifying {what}: {min(done, total)} of {total}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def render(report: Report, *, seconds: float) -> str:
    """Return the report as people read it: damage first, then notices, then what was looked at."""
    from engine.maintenance.verify.kinds import KINDS

    lines: list[str] = []
    for finding in sorted(report.findings, key=lambda each: not each.is_damage):
        lines += _finding_lines(finding)
    for kind, count in report.counts.items():
        kept = sum(finding.kind == kind for finding in report.findings)
        if count > kept:
            lines.append(f"... and {count - kept} more of {kind}")
    shown = [f"{count} {what}" for what, count in report.checked.items() if count]
    lines.append("checked: " + (", ".join(shown) or "nothing"))
    skipped = [f"{count} {what}" for what, count in report.unchecked.items() if count]
    if skipped:
        lines.append("nothing to compare with (older than raw samples, or not flushed yet): " + ", ".join(skipped))
    damage = sum(count for kind, count in report.counts.items() if KINDS[kind].severity == "damage")
    notices = sum(report.counts.values()) - damage
    verdict = "nothing stored is wrong" if report.clean else f"{damage} findings of damage"
    lines.append(f"{verdict}, {notices} notices; {seconds:.1f} s ({report.root})")
    return "\n".join(lines) + "\n"


def _finding_lines(finding: Finding) -> list[str]:
    from engine.maintenance.verify.kinds import KINDS

    kind = KINDS[finding.kind]
    where = finding.path
    if finding.offset is not None:
        where += f", offset {finding.offset}"
    if finding.series is not None:
        where += f", {finding.series}"
    if finding.time_ns is not None:
        where += f" at {_time_text(finding.time_ns)}"
    lines = [f"{kind.severity}: {finding.kind}: {where}", f"    found {finding.found}"]
    if finding.expected:
        lines.append(f"    want {finding.expected}")
    return [*lines, f"    next start: {kind.next_start}"]


def _time_text(time_ns: int) -> str:
    seconds, rest = divmod(time_ns, 1_000_000_000)
    try:
        text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return f"{time_ns} ns"
    return f"{text}.{rest:09d}Z" if rest else f"{text}Z"
