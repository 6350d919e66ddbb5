"""What a run may choose: sizes, seeds, repetitions.  A suite's own defaults hold where nothing is chosen."""

from __future__ import annotations

import time

import msgspec

from benchmarks.generator import NS_PER_SECOND, DataShape, ValueKind
from engine.errors import BadInput

INTERVAL_NS = 10 * NS_PER_SECOND
NS_PER_HOUR = 3_600 * NS_PER_SECOND
# Data ends at such a boundary, so that the engine's time partitions cut every run's data in the same places.
ALIGNMENT_NS = 2 * NS_PER_HOUR


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """None means the suite's default; ``runs`` repeats each load, or each query with other parameters."""

    quick: bool = False
    hosts: int | None = None
    hours: float | None = None
    values: ValueKind = "int"
    seed: int = 123
    connections: int = 2
    batch_lines: int = 10_000
    runs: int | None = None
    work_folder: str | None = None
    engines: str | None = None
    grow: int | None = None
    scrapes: str | None = None
    labelled: str | None = None

    def __post_init__(self) -> None:
        for name in ("hosts", "hours", "connections", "batch_lines", "runs", "grow"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise BadInput(f"cannot run benchmarks: got {name.replace('_', ' ')} {value:g}, want more than 0")

    def shape(
        self, *, hosts: int, hours: float, quick_hosts: int, quick_hours: float, use: str = "cpu-only"
    ) -> DataShape:
        """Return the data to use: the suite's full or quick size unless hosts or hours were chosen.

        The data ends in the recent past, because a server with its default configuration refuses samples that
        are older than its raw retention.
        """
        chosen_hosts = self.hosts or (quick_hosts if self.quick else hosts)
        chosen_hours = self.hours or (quick_hours if self.quick else hours)
        steps = max(1, round(chosen_hours * NS_PER_HOUR / INTERVAL_NS))
        end_ns = time.time_ns() // ALIGNMENT_NS * ALIGNMENT_NS
        return DataShape(
            use=use,
            hosts=chosen_hosts,
            steps=steps,
            interval_ns=INTERVAL_NS,
            seed=self.seed,
            start_ns=end_ns - steps * INTERVAL_NS,
            values=self.values,
        )

    def repetitions(self, full: int, quick: int) -> int:
        return self.runs or (quick if self.quick else full)
