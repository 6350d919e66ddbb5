"""Lines of points as columns: many lines cost few objects, until somebody looks at one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import numpy.typing as npt

from engine.model.rows import Float64Array, Int64Array


@dataclass(frozen=True, slots=True)
class SeriesPoints:
    """One line of an answer.  ``times``: int64[n] bucket starts; ``values``: float64[n]; empty buckets are left out.

    ``sample_times``: int64[n], of the samples that are the values, where these are newest samples.
    """

    labels: dict[str, str]
    times: Int64Array
    values: Float64Array
    metric: str = ""
    sample_times: Int64Array | None = None


@dataclass(slots=True)
class LineBlock:
    """k lines of one metric: line i has ``labels[i]`` and the points from ``bounds[i]`` to ``bounds[i + 1]``.

    ``bounds``: int64[k + 1], ascending from 0; ``times``, ``values``, ``sample_times`` as in :class:`SeriesPoints`, one
    line behind the other.
    """

    metric: str
    labels: Sequence[dict[str, str]]
    bounds: Int64Array
    times: Int64Array
    values: Float64Array
    sample_times: Int64Array | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @staticmethod
    def of(lines: Sequence[SeriesPoints]) -> list[LineBlock]:
        """Return the lines as one block for each run of one metric."""
        blocks = []
        first = 0
        while first < len(lines):
            end = first + 1
            while end < len(lines) and lines[end].metric == lines[first].metric:
                end += 1
            run = lines[first:end]
            first = end
            if len(run) == 1:
                [only] = run
                bounds = np.array((0, len(only.times)), np.int64)
                blocks.append(LineBlock(only.metric, [only.labels], bounds, only.times, only.values, only.sample_times))
                continue
            timed = [line.sample_times for line in run if line.sample_times is not None]
            blocks.append(
                LineBlock(
                    run[0].metric,
                    [line.labels for line in run],
                    np.cumsum([0, *(len(line.times) for line in run)], dtype=np.int64),
                    np.concatenate([line.times for line in run]),
                    np.concatenate([line.values for line in run]),
                    np.concatenate(timed) if timed else None,
                )
            )
        return blocks

    def lines(self) -> Iterator[SeriesPoints]:
        at = self.bounds.tolist()
        for place, labels in enumerate(self.labels):
            yield self._line(labels, at[place], at[place + 1])

    def line(self, place: int) -> SeriesPoints:
        return self._line(self.labels[place], int(self.bounds[place]), int(self.bounds[place + 1]))

    def _line(self, labels: dict[str, str], start: int, end: int) -> SeriesPoints:
        timed = None if self.sample_times is None else self.sample_times[start:end]
        return SeriesPoints(labels, self.times[start:end], self.values[start:end], self.metric, timed)

    def first(self, count: int) -> LineBlock:
        """Return the block without the lines beyond ``count``."""
        if count >= len(self):
            return self
        end = int(self.bounds[count])
        timed = None if self.sample_times is None else self.sample_times[:end]
        return LineBlock(
            self.metric, self.labels[:count], self.bounds[: count + 1], self.times[:end], self.values[:end], timed
        )

    def where(self, kept: npt.NDArray[np.bool_]) -> LineBlock:
        """Return the block with the points that ``kept`` (bool[n]) chooses, without lines that lose all of theirs."""
        held = np.concatenate(([0], np.cumsum(kept)))[self.bounds]
        some = np.flatnonzero(held[1:] > held[:-1])
        return LineBlock(
            self.metric,
            [self.labels[place] for place in some.tolist()],
            np.concatenate(([0], held[1:][some])).astype(np.int64),
            self.times[kept],
            self.values[kept],
            None if self.sample_times is None else self.sample_times[kept],
        )


class SeriesList(Sequence[SeriesPoints]):
    """The lines of some blocks, one behind the other."""

    def __init__(self, blocks: Iterable[LineBlock] = ()) -> None:
        self.blocks = [block for block in blocks if len(block)]

    def __len__(self) -> int:
        return sum(map(len, self.blocks))

    def __iter__(self) -> Iterator[SeriesPoints]:
        for block in self.blocks:
            yield from block.lines()

    @overload
    def __getitem__(self, place: int) -> SeriesPoints: ...
    @overload
    def __getitem__(self, place: slice) -> list[SeriesPoints]: ...
    def __getitem__(self, place: int | slice) -> SeriesPoints | list[SeriesPoints]:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        at = place if place >= 0 else place + len(self)
        if at >= 0:
            for block in self.blocks:
                if at < len(block):
                    return block.line(at)
                at -= len(block)
        raise IndexError(f"there is no line {place}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) == 0

    __hash__ = None  # type: ignore[assignment]

    def add(self, block: LineBlock) -> None:
        if len(block):
            self.blocks.append(block)

    def extend(self, lines: Sequence[SeriesPoints]) -> None:
        self.blocks += LineBlock.of(lines)

    def sort(self, place: Callable[[str], int]) -> None:
        """Bring the blocks into the order of their metrics' places."""
        self.blocks.sort(key=lambda block: place(block.metric))

    def first(self, count: int) -> SeriesList:
        """Return the first ``count`` lines."""
        kept = []
        for block in self.blocks:
            kept.append(block.first(count))
            count -= len(kept[-1])
            if count <= 0:
                break
        return SeriesList(kept)
