"""Generated blocks as Prometheus remote write 1.0 requests: protobuf ``WriteRequest`` in snappy block format.

Source: Prometheus remote write specification 1.0, ``prometheus.WriteRequest``.  Each request holds one sample
of each of at most ``max_samples`` series, as a scraping agent's queue would send them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from api.flight.protobuf import FIXED64, VARINT, bytes_field, varint
from benchmarks.devops import Float64Array, Measurement
from benchmarks.generator import DevopsGenerator

HEADERS: Mapping[str, str] = {
    "Content-Type": "application/x-protobuf",
    "Content-Encoding": "snappy",
    "X-Prometheus-Remote-Write-Version": "0.1.0",
}
NS_PER_MS = 1_000_000
VALUE_BYTES = 8


def key(field: int, wire_type: int) -> bytes:
    return varint(field << 3 | wire_type)


def label(name: str, value: str) -> bytes:
    """Return one ``Label`` as field 1 of a ``TimeSeries``."""
    return bytes_field(1, bytes_field(1, name.encode()) + bytes_field(2, value.encode()))


@dataclass(frozen=True, slots=True)
class _Template:
    """A request whose values and times are filled in; ``value_places``, ``time_places``: byte indices
    [series, width].
    """

    hosts: slice
    content: npt.NDArray[np.uint8]
    value_places: npt.NDArray[np.int64]
    time_places: npt.NDArray[np.int64]

    def filled(self, values: Float64Array, time_ms: bytes) -> bytes:
        """Return the request for float64[hosts, fields]."""
        content = self.content.copy()
        content[self.value_places] = values.reshape(-1).astype("<f8").view(np.uint8).reshape(-1, VALUE_BYTES)
        content[self.time_places] = np.frombuffer(time_ms, np.uint8)
        return content.tobytes()


def _template(generator: DevopsGenerator, measurement: Measurement, hosts: slice, time_bytes: int) -> _Template:
    tags = generator.tag_columns(measurement)
    content = bytearray()
    value_ends = []
    for host in range(hosts.start, hosts.stop):
        own = {name: values[host] for name, values in tags.items()}
        for field in measurement.field_names:
            labels = {**own, "__name__": f"{measurement.name}_{field}"}
            sample = key(1, FIXED64) + bytes(VALUE_BYTES) + key(2, VARINT) + bytes(time_bytes)
            series = b"".join(label(name, value) for name, value in sorted(labels.items())) + bytes_field(2, sample)
            content += bytes_field(1, series)
            value_ends.append(len(content) - time_bytes - 1)
    ends = np.array(value_ends, np.int64)[:, None]
    return _Template(
        hosts,
        np.frombuffer(bytes(content), np.uint8),
        ends - VALUE_BYTES + np.arange(VALUE_BYTES),
        ends + 1 + np.arange(time_bytes),
    )


def write_requests(generator: DevopsGenerator, max_samples: int = 10_000) -> Iterator[tuple[bytes, int]]:
    """Yield (compressed request, samples) for the whole data set in time order."""
    import cramjam

    shape = generator.shape
    time_bytes = len(varint(shape.start_ns // NS_PER_MS))
    templates = {
        measurement.name: [
            _template(generator, measurement, slice(first, min(first + at_once, shape.hosts)), time_bytes)
            for at_once in [max(1, max_samples // len(measurement.fields))]
            for first in range(0, shape.hosts, at_once)
        ]
        for measurement in shape.measurements
    }
    for block in generator.blocks():
        for step, time_ns in enumerate(block.times.tolist()):
            time_ms = varint(time_ns // NS_PER_MS)
            if len(time_ms) != time_bytes:
                raise ValueError(f"cannot encode remote write: times from {shape.start_ns} on change their length")
            for measurement in shape.measurements:
                values = block.columns[measurement.name][:, step].T
                for template in templates[measurement.name]:
                    chosen = np.ascontiguousarray(values[template.hosts])
                    body = bytes(cramjam.snappy.compress_raw(template.filled(chosen, time_ms)))
                    yield body, int(chosen.size)
