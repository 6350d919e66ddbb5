"""A data set prepared for loading: bodies in files, made once and handed to every engine."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.batches import BatchFile
from benchmarks.devops import Measurement
from benchmarks.encoding import line_batches, record_batches
from benchmarks.generator import DataShape, DevopsGenerator
from benchmarks.remote_write import write_requests

ROWS_PER_ARROW_BATCH = 100_000
TABLE_METADATA_KEY = b"tidegauge.table"


class PreparedLoad:
    """Files of one data set in one folder; each kind is made when it is first asked for."""

    def __init__(self, shape: DataShape, folder: Path, lines_per_batch: int = 10_000) -> None:
        self.shape = shape
        self.folder = folder
        self.lines_per_batch = lines_per_batch
        self.generator = DevopsGenerator(shape)

    @cached_property
    def lines(self) -> BatchFile:
        """Line protocol, ``lines_per_batch`` lines a body."""
        return self._made("lines", self._line_bodies)

    @cached_property
    def one_field_lines(self) -> BatchFile:
        """Line protocol of only the first field, one sample a line."""
        return self._made("one-field-lines", lambda: self._line_bodies(one_field=True))

    @cached_property
    def arrow_streams(self) -> BatchFile:
        """Arrow IPC streams, one record batch of one measurement each; the schema names the table."""
        return self._made("arrow-streams", self._arrow_bodies)

    @cached_property
    def remote_write(self) -> BatchFile:
        """Prometheus remote write requests."""
        return self._made("remote-write", lambda: write_requests(self.generator))

    def record_batches(self, measurement: Measurement) -> Iterator[Any]:
        return record_batches(self.generator, measurement, ROWS_PER_ARROW_BATCH)

    def _made(self, name: str, bodies: Any) -> BatchFile:
        path = self.folder / name
        try:
            return BatchFile.open(path)
        except FileNotFoundError:
            return BatchFile.write(path, bodies())

    def _line_bodies(self, *, one_field: bool = False) -> Iterator[tuple[bytes, int]]:
        if one_field:
            for body in line_batches(self.generator, self.lines_per_batch, one_field=True):
                yield body, body.count(b"\n")
            return
        fields = [len(measurement.fields) for measurement in self.shape.measurements for _ in range(self.shape.hosts)]
        position = 0
        for body in line_batches(self.generator, self.lines_per_batch):
            lines = body.count(b"\n")
            whole, rest = divmod(lines, len(fields))
            samples = whole * sum(fields) + sum(fields[(position + line) % len(fields)] for line in range(rest))
            position = (position + lines) % len(fields)
            yield body, samples

    def _arrow_bodies(self) -> Iterator[tuple[bytes, int]]:
        import pyarrow as pa

        for measurement in self.shape.measurements:
            for batch in self.record_batches(measurement):
                named = batch.replace_schema_metadata({TABLE_METADATA_KEY: measurement.name.encode()})
                sink = pa.BufferOutputStream()
                with pa.ipc.new_stream(sink, named.schema) as writer:
                    writer.write_batch(named)
                yield sink.getvalue().to_pybytes(), batch.num_rows * len(measurement.fields)
