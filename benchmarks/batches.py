"""Request bodies made before the timing begins, in one file that the sending process maps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec


class BatchIndex(msgspec.Struct, frozen=True):
    """Where each body ends in the file, and how many samples each holds."""

    ends: list[int]
    samples: list[int]


@dataclass(frozen=True, slots=True)
class BatchFile:
    """Bodies laid end to end in ``path``; the index stands beside it."""

    path: Path
    index: BatchIndex

    @staticmethod
    def write(path: Path, bodies: Iterable[tuple[bytes, int]]) -> BatchFile:
        """Write (body, samples) pairs in order."""
        ends, samples, end = [], [], 0
        with path.open("wb") as file:
            for body, count in bodies:
                file.write(body)
                end += len(body)
                ends.append(end)
                samples.append(count)
        index = BatchIndex(ends, samples)
        _index_path(path).write_bytes(msgspec.json.encode(index))
        return BatchFile(path, index)

    @staticmethod
    def open(path: Path) -> BatchFile:
        return BatchFile(path, msgspec.json.decode(_index_path(path).read_bytes(), type=BatchIndex))

    @property
    def samples(self) -> int:
        return sum(self.index.samples)

    @property
    def body_bytes(self) -> int:
        return self.index.ends[-1] if self.index.ends else 0

    def __len__(self) -> int:
        return len(self.index.ends)

    def slices(self) -> Iterator[slice]:
        """Yield where each body stands in the file."""
        start = 0
        for end in self.index.ends:
            yield slice(start, end)
            start = end

    def __iter__(self) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            for place in self.slices():
                yield file.read(place.stop - place.start)


def _index_path(path: Path) -> Path:
    return path.with_name(path.name + ".index.json")
