"""What a verification found and how much it looked at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from engine.maintenance.verify.kinds import DAMAGE, KINDS

#: Findings of one kind beyond this many are counted, not kept: a damaged tier may have as many as it has rows.
KEPT_OF_A_KIND = 50

#: ``progress(what, done, total)``: called now and then, from the verifying thread.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be.

    ``path`` is relative to the data directory.  ``offset`` (bytes), ``series`` and ``time_ns`` say where in it, as far
    as known.  ``found`` and ``expected`` are clauses; ``expected`` may be empty when ``found`` says it all.
    """

    kind: str
    path: str
    found: str
    expected: str = ""
    offset: int | None = None
    series: str | None = None
    time_ns: int | None = None

    @property
    def is_damage(self) -> bool:
        return KINDS[self.kind].severity == DAMAGE

    def as_json(self) -> dict[str, Any]:
        kind = KINDS[self.kind]
        return {
            "kind": self.kind,
            "severity": kind.severity,
            "meaning": kind.meaning,
            "path": self.path,
            "offset": self.offset,
            "series": self.series,
            "time_ns": self.time_ns,
            "found": self.found,
            "expected": self.expected,
            "next_start": kind.next_start,
        }


def _ignore(_what: str, _done: int, _total: int) -> None:
    pass


@dataclass(slots=True)
class Report:
    """Filled by the parts.  ``checked`` and ``unchecked`` count by a name such as "log frames"."""

    root: str
    progress: Progress = _ignore
    findings: list[Finding] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    checked: Counter[str] = field(default_factory=Counter)
    unchecked: Counter[str] = field(default_factory=Counter)

    def add(
        self,
        kind: str,
        path: str,
        found: str,
        expected: str = "",
        *,
        offset: int | None = None,
        series: str | None = None,
        time_ns: int | None = None,
    ) -> None:
        """Count a finding, and keep it unless there are very many of its kind."""
        assert kind in KINDS, kind
        self.counts[kind] += 1
        if self.counts[kind] <= KEPT_OF_A_KIND:
            self.findings.append(Finding(kind, self.relative(path), found, expected, offset, series, time_ns))

    def relative(self, path: str) -> str:
        """Return a path as it is told: relative to the data directory where it is below it."""
        return path.removeprefix(f"{self.root}/")

    @property
    def clean(self) -> bool:
        """Whether nothing stored is wrong; notices do not count."""
        return not any(KINDS[kind].severity == DAMAGE for kind in self.counts)

    def as_json(self) -> dict[str, Any]:
        return {
            "data": self.root,
            "clean": self.clean,
            "counts": dict(sorted(self.counts.items())),
            "checked": dict(self.checked),
            "unchecked": dict(self.unchecked),
            "findings": [finding.as_json() for finding in self.findings],
        }
