"""Seeded devops data in columns: the same numbers for the same seed on every machine and in every run.

Random numbers come from ``numpy.random.RandomState``, whose streams numpy guarantees never to change (NEP
19), so data made by two versions of this repository can be compared byte by byte.  How many steps are made at
a time does not change the numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from benchmarks.devops import (
    DATACENTERS,
    MEASUREMENTS,
    MEMORY_SIZES_BYTES,
    TAG_CHOICES,
    TAG_KEYS,
    Float64Array,
    Int64Array,
    Measurement,
    Walk,
)

ValueKind = Literal["int", "two-decimals", "full"]
VALUE_KINDS: tuple[str, ...] = get_args(ValueKind)
NS_PER_SECOND = 1_000_000_000
# 2016-01-01T00:00:00Z, the suite's own default.
DEFAULT_START_NS = 1_451_606_400 * NS_PER_SECOND
MEMORY_STEP_FRACTION = 64.0
# Steps of one block are made together; bounds the memory of a block to some tens of megabytes.
BLOCK_SAMPLES = 1_000_000


@dataclass(frozen=True, slots=True)
class DataShape:
    """What identifies a data set: two equal shapes give equal bytes."""

    use: str = "cpu-only"
    hosts: int = 100
    steps: int = 360
    interval_ns: int = 10 * NS_PER_SECOND
    seed: int = 123
    start_ns: int = DEFAULT_START_NS
    values: ValueKind = "int"

    def __post_init__(self) -> None:
        if self.use not in MEASUREMENTS:
            raise ValueError(f"cannot generate data: got use case {self.use!r}, want one of {', '.join(MEASUREMENTS)}")
        if self.values not in VALUE_KINDS:
            raise ValueError(f"cannot generate data: got values {self.values!r}, want one of {', '.join(VALUE_KINDS)}")
        if self.hosts < 1 or self.steps < 1 or self.interval_ns < 1:
            raise ValueError(
                f"cannot generate data: got {self.hosts} hosts, {self.steps} steps, interval "
                f"{self.interval_ns} ns, want at least 1 of each"
            )

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        return MEASUREMENTS[self.use]

    @property
    def end_ns(self) -> int:
        """The first moment after the data: one interval after the last step."""
        return self.start_ns + self.steps * self.interval_ns

    @property
    def rows(self) -> int:
        return self.steps * self.hosts * len(self.measurements)

    @property
    def samples_per_step(self) -> int:
        return self.hosts * sum(len(measurement.fields) for measurement in self.measurements)

    @property
    def samples(self) -> int:
        return self.steps * self.samples_per_step

    def describe(self) -> dict[str, object]:
        """Return the shape as JSON values; the start is left out because it does not change the work."""
        return {
            "use": self.use,
            "hosts": self.hosts,
            "steps": self.steps,
            "interval_seconds": self.interval_ns / NS_PER_SECOND,
            "seed": self.seed,
            "values": self.values,
            "rows": self.rows,
            "samples": self.samples,
        }


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive steps of all measurements.

    ``times``: int64[steps], nanoseconds; ``columns[measurement]``: float64[fields, steps, hosts] in the order
    of the measurement's fields, so that one field is one contiguous column of rows in (time, host) order.
    """

    first_step: int
    times: Int64Array
    columns: Mapping[str, Float64Array]


@dataclass(slots=True)
class SeriesAggregates:
    """Expected count, sum, min and max of each series of one measurement; arrays of shape [fields, hosts]."""

    count: npt.NDArray[np.int64]
    sum: Float64Array
    min: Float64Array
    max: Float64Array

    @staticmethod
    def empty(fields: int, hosts: int) -> SeriesAggregates:
        shape = (fields, hosts)
        return SeriesAggregates(
            np.zeros(shape, np.int64), np.zeros(shape), np.full(shape, np.inf), np.full(shape, -np.inf)
        )

    def add(self, columns: Float64Array) -> None:
        """Take in float64[fields, steps, hosts]."""
        self.count += columns.shape[1]
        self.sum += columns.sum(axis=1)
        np.minimum(self.min, columns.min(axis=1), out=self.min)
        np.maximum(self.max, columns.max(axis=1), out=self.max)


@dataclass(slots=True)
class _WalkState:
    """State and parameters of one measurement's walks; arrays of shape [walks, hosts]."""

    random: np.random.RandomState
    names: tuple[str, ...]
    state: Float64Array
    mean: Float64Array
    deviation: Float64Array
    low: Float64Array
    high: Float64Array
    monotone: npt.NDArray[np.intp]
    steps_done: int = field(default=0)

    def advance(self, steps: int) -> Float64Array:
        """Return the next ``steps`` states as float64[walks, steps, hosts]; the very first is the initial
        state.
        """
        draws = self.random.standard_normal((steps, *self.state.shape))
        draws *= self.deviation
        draws += self.mean
        if len(self.monotone):
            draws[:, self.monotone] = np.abs(draws[:, self.monotone])
        out = np.empty((len(self.names), steps, self.state.shape[1]))
        for step in range(steps):
            if self.steps_done:
                self.state += draws[step]
                np.clip(self.state, self.low, self.high, out=self.state)
            out[:, step] = self.state
            self.steps_done += 1
        return out


class DevopsGenerator:
    """Makes the data of one :class:`DataShape`, block by block in time order."""

    def __init__(self, shape: DataShape) -> None:
        self.shape = shape
        random = np.random.RandomState(_seed_of(shape.seed, 0))
        self.tags, self._extra_tags = _draw_tags(random, shape.hosts)
        self.host_constants: dict[str, Float64Array] = {
            "boot_time": random.randint(0, 240, shape.hosts).astype(np.float64),
            "memory_bytes": np.array(MEMORY_SIZES_BYTES)[random.randint(0, len(MEMORY_SIZES_BYTES), shape.hosts)],
        }

    def tag_columns(self, measurement: Measurement) -> dict[str, list[str]]:
        """Return tag key -> one value for each host, in the order in which the suite writes the keys."""
        extra = {key: self._extra_tags[f"{measurement.name}.{key}"] for key in measurement.extra_tags}
        return {**self.tags, **extra}

    def blocks(self, block_samples: int = BLOCK_SAMPLES) -> Iterator[Block]:
        """Yield all steps in time order, each block of about ``block_samples`` samples and at least one
        step.
        """
        shape = self.shape
        walks = {
            measurement.name: self._walk_state(measurement, number)
            for number, measurement in enumerate(shape.measurements, start=1)
        }
        steps_per_block = max(1, block_samples // shape.samples_per_step)
        for first in range(0, shape.steps, steps_per_block):
            steps = min(steps_per_block, shape.steps - first)
            offsets = np.arange(first, first + steps, dtype=np.int64) * shape.interval_ns
            seconds = offsets / NS_PER_SECOND
            columns = {
                measurement.name: self._measure(measurement, walks[measurement.name], steps, seconds)
                for measurement in shape.measurements
            }
            yield Block(first, shape.start_ns + offsets, columns)

    def aggregates(self) -> dict[str, SeriesAggregates]:
        """Return measurement -> expected aggregates of every series over the whole data set."""
        totals = {
            measurement.name: SeriesAggregates.empty(len(measurement.fields), self.shape.hosts)
            for measurement in self.shape.measurements
        }
        for block in self.blocks():
            for name, columns in block.columns.items():
                totals[name].add(columns)
        return totals

    def _walk_state(self, measurement: Measurement, number: int) -> _WalkState:
        random = np.random.RandomState(_seed_of(self.shape.seed, number))
        walks = {field.name: field.walk for field in measurement.fields if field.walk is not None}
        hosts = self.shape.hosts
        memory_bytes = self.host_constants["memory_bytes"]

        def limits(walk: Walk) -> tuple[Float64Array, Float64Array, Float64Array]:
            deviation = memory_bytes / MEMORY_STEP_FRACTION if walk.deviation is None else walk.deviation
            low = walk.low if walk.kind == "clamped" else -np.inf
            high = (memory_bytes if walk.high is None else walk.high) if walk.kind == "clamped" else np.inf
            return (
                np.broadcast_to(deviation, hosts),
                np.broadcast_to(low, hosts),
                np.broadcast_to(high, hosts),
            )

        parts = [limits(walk) for walk in walks.values()]
        high = np.stack([part[2] for part in parts])
        uniform = random.random_sample((len(walks), hosts))
        state = np.stack(
            [
                uniform[index] * high[index] if walk.initial is None else np.full(hosts, walk.initial)
                for index, walk in enumerate(walks.values())
            ]
        )
        return _WalkState(
            random=random,
            names=tuple(walks),
            state=state,
            mean=np.array([walk.mean for walk in walks.values()])[:, None],
            deviation=np.stack([part[0] for part in parts]),
            low=np.stack([part[1] for part in parts]),
            high=high,
            monotone=np.flatnonzero([walk.kind == "monotone" for walk in walks.values()]),
        )

    def _measure(self, measurement: Measurement, walks: _WalkState, steps: int, seconds: Float64Array) -> Float64Array:
        walked = walks.advance(steps)
        _quantise(walked, self.shape.values)
        if len(walks.names) == len(measurement.fields):
            return walked
        by_name = dict(zip(walks.names, walked, strict=True))
        out = np.empty((len(measurement.fields), steps, self.shape.hosts))
        for index, described in enumerate(measurement.fields):
            if described.derive is None:
                out[index] = by_name[described.name]
            else:
                out[index] = described.derive(by_name, self.host_constants, seconds)
                if self.shape.values == "two-decimals":
                    _quantise(out[index], "two-decimals")
        return out


def _quantise(values: Float64Array, kind: ValueKind) -> None:
    """Bring values to the variant's precision, in place, and turn -0.0 into 0.0."""
    if kind == "int":
        np.trunc(values, out=values)
    elif kind == "two-decimals":
        np.multiply(values, 100.0, out=values)
        np.rint(values, out=values)
        np.divide(values, 100.0, out=values)
    values += 0.0


def _seed_of(seed: int, stream: int) -> npt.NDArray[np.uint32]:
    return np.array([seed & 0xFFFF_FFFF, (seed >> 32) & 0xFFFF_FFFF, stream], dtype=np.uint32)


def _draw_tags(random: np.random.RandomState, hosts: int) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return the tags common to all measurements and the extra ones as ``measurement.key`` -> values."""

    def numbers(high: int) -> list[int]:
        return [int(number) for number in random.randint(0, high, hosts)]

    regions = [list(DATACENTERS)[number] for number in numbers(len(DATACENTERS))]
    places = random.random_sample(hosts)
    tags = {
        "hostname": [f"host_{number}" for number in range(hosts)],
        "region": regions,
        "datacenter": [
            DATACENTERS[region][int(place * len(DATACENTERS[region]))]
            for region, place in zip(regions, places, strict=True)
        ],
    }
    for key, choices in TAG_CHOICES.items():
        tags[key] = [choices[number] for number in numbers(len(choices))]
    serials = zip(numbers(1000), numbers(1000), numbers(1000), strict=True)
    extra = {
        "diskio.serial": ["-".join(f"{part:03d}" for part in serial) for serial in serials],
        "disk.path": [f"/dev/sda{number}" for number in numbers(10)],
        "disk.fstype": [("ext3", "ext4", "btrfs")[number] for number in numbers(3)],
        "net.interface": [f"eth{number}" for number in numbers(4)],
        "nginx.port": [str(1024 + number) for number in numbers(20_000)],
        "nginx.server": [f"nginx_{number}" for number in numbers(100_000)],
        "redis.port": [str(1024 + number) for number in numbers(20_000)],
        "redis.server": [f"redis_{number}" for number in numbers(100_000)],
    }
    return {key: tags[key] for key in TAG_KEYS}, extra
