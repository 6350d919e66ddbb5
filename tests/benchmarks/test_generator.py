"""The generator's numbers are frozen, follow the suite's distributions, and survive each encoding exactly."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.flight.protobuf import varint
from benchmarks.devops import CPU, MEASUREMENTS, TAG_KEYS, USE_CASES
from benchmarks.encoding import integer_digits, integer_text, line_batches, record_batches, two_decimals_text
from benchmarks.generator import VALUE_KINDS, DataShape, DevopsGenerator
from benchmarks.remote_write import write_requests

SMALL = {"hosts": 7, "steps": 13}


def shape_of(use: str = "cpu-only", values: str = "int", **changes: int) -> DataShape:
    return DataShape(use=use, values=values, **{**SMALL, **changes})  # type: ignore[arg-type]


def all_columns(shape: DataShape, block_samples: int = 1_000_000) -> dict[str, np.ndarray]:
    """Return measurement -> float64[fields, steps, hosts] of the whole data set."""
    blocks = list(DevopsGenerator(shape).blocks(block_samples))
    return {
        measurement.name: np.concatenate([block.columns[measurement.name] for block in blocks], axis=1)
        for measurement in shape.measurements
    }


def parse_line(line: str) -> tuple[str, dict[str, str], dict[str, float], int]:
    """Read one line of line protocol that holds no escapes; the obvious way."""
    head, fields, time = line.split(" ")
    table, *tags = head.split(",")
    values = {}
    for pair in fields.split(","):
        name, _, text = pair.partition("=")
        values[name] = float(int(text[:-1])) if text.endswith("i") else float(text)
    return table, dict(tag.split("=") for tag in tags), values, int(time)


# The checksums change only when the generator does, which makes every stored baseline incomparable.
@pytest.mark.parametrize(
    ("use", "values", "digest"),
    [
        ("cpu-only", "int", "62d2d79521c693bd2f9f3eafbce66987"),
        ("cpu-only", "two-decimals", "1f018cb384fd7e8e9bc13711a3021b7c"),
        ("devops", "int", "ea69b29edd9c21ed6a739a0e2e63cfc9"),
    ],
)
def test_bytes_are_frozen(use: str, values: str, digest: str) -> None:
    text = b"".join(line_batches(DevopsGenerator(shape_of(use, values, hosts=20, steps=50))))
    assert hashlib.sha256(text).hexdigest()[:32] == digest


def test_seeds_give_different_data() -> None:
    one, other = (all_columns(shape_of(seed=seed))["cpu"] for seed in (1, 2))
    assert (one != other).mean() > 0.5


@pytest.mark.parametrize("use", USE_CASES)
@pytest.mark.parametrize("values", VALUE_KINDS)
def test_block_size_does_not_change_the_numbers(use: str, values: str) -> None:
    whole = all_columns(shape_of(use, values))
    for block_samples in (1, 2_000):
        parts = all_columns(shape_of(use, values), block_samples)
        for name, columns in whole.items():
            np.testing.assert_array_equal(columns, parts[name])


def test_use_cases_have_the_suites_size() -> None:
    assert [len(measurement.fields) for measurement in MEASUREMENTS["cpu-only"]] == [10]
    assert len(MEASUREMENTS["devops"]) == 9
    assert sum(len(measurement.fields) for measurement in MEASUREMENTS["devops"]) == 101
    assert len(TAG_KEYS) == 10


@pytest.mark.parametrize("values", VALUE_KINDS)
def test_walks_are_clamped_monotone_or_free(values: str) -> None:
    columns = all_columns(shape_of("devops", values, steps=300))
    for measurement in MEASUREMENTS["devops"]:
        for field, column in zip(measurement.fields, columns[measurement.name], strict=True):
            assert not np.signbit(column[column == 0.0]).any()
            if field.walk is None:
                continue
            steps = np.diff(column, axis=0)
            if field.walk.kind == "monotone":
                assert (steps >= 0).all()
                assert (column[0] == 0).all()
            elif field.walk.kind == "clamped":
                high = np.inf if field.walk.high is None else field.walk.high
                assert column.min() >= field.walk.low
                assert column.max() <= high


def test_steps_have_the_stated_mean_and_deviation() -> None:
    """One free walk per host: increments are N(1, 1), so 1,000 x 40 of them have a mean within 5 standard
    errors.
    """
    columns = all_columns(shape_of("devops", "full", hosts=1_000, steps=41))
    names = [measurement.name for measurement in MEASUREMENTS["devops"]]
    redis = MEASUREMENTS["devops"][names.index("redis")]
    column = columns["redis"][redis.field_names.index("instantaneous_ops_per_sec")]
    increments = np.diff(column, axis=0)
    standard_error = 1.0 / np.sqrt(increments.size)
    assert abs(increments.mean() - 1.0) < 5 * standard_error
    assert abs(increments.std() - 1.0) < 5 * standard_error


def test_clamped_walk_equals_the_scalar_recomputation() -> None:
    """The oracle repeats host 3's first field one step at a time from the same stream of draws."""
    shape = shape_of(values="full", steps=200)
    random = np.random.RandomState(np.array([shape.seed, 0, 1], np.uint32))
    fields = len(CPU.fields)
    state = float(random.random_sample((fields, shape.hosts))[0, 3]) * 100.0
    expected = []
    for step in range(shape.steps):
        draws = random.standard_normal((fields, shape.hosts))
        if step:
            state = min(max(state + float(draws[0, 3]), 0.0), 100.0)
        expected.append(state)
    np.testing.assert_array_equal(all_columns(shape)["cpu"][0, :, 3], expected)


def test_devops_derived_fields_add_up() -> None:
    columns = all_columns(shape_of("devops"))
    by_name = {
        measurement.name: dict(zip(measurement.field_names, columns[measurement.name], strict=True))
        for measurement in MEASUREMENTS["devops"]
    }
    disk, memory = by_name["disk"], by_name["mem"]
    np.testing.assert_array_equal(disk["free"] + disk["used"], disk["total"])
    np.testing.assert_array_equal(disk["inodes_free"] + disk["inodes_used"], disk["inodes_total"])
    np.testing.assert_array_equal(memory["used"] + memory["available"], memory["total"])
    np.testing.assert_allclose(memory["used_percent"] + memory["available_percent"], 100.0)
    assert (by_name["redis"]["uptime_in_seconds"][:, 0] == np.arange(SMALL["steps"]) * 10).all()


@pytest.mark.parametrize("use", USE_CASES)
@pytest.mark.parametrize("values", VALUE_KINDS)
def test_lines_read_back_as_the_very_same_values(use: str, values: str) -> None:
    shape = shape_of(use, values)
    generator = DevopsGenerator(shape)
    columns = all_columns(shape)
    lines = b"".join(line_batches(generator)).decode().splitlines()
    assert len(lines) == shape.rows
    order = itertools.product(range(shape.steps), shape.measurements, range(shape.hosts))
    for line, (step, measurement, host) in zip(lines, order, strict=True):
        table, tags, fields, time = parse_line(line)
        assert table == measurement.name
        assert time == shape.start_ns + step * shape.interval_ns
        assert tags == {key: column[host] for key, column in generator.tag_columns(measurement).items()}
        assert list(fields) == list(measurement.field_names)
        np.testing.assert_array_equal(list(fields.values()), columns[measurement.name][:, step, host])


@pytest.mark.parametrize("lines_per_batch", [1, 6, 7, 50, 91, 10_000])
def test_batches_are_cut_at_whole_lines(lines_per_batch: int) -> None:
    generator = DevopsGenerator(shape_of())
    batches = list(line_batches(generator, lines_per_batch))
    counts = [batch.count(b"\n") for batch in batches]
    assert counts[:-1] == [lines_per_batch] * (len(batches) - 1)
    assert 0 < counts[-1] <= lines_per_batch
    assert sum(counts) == generator.shape.rows
    assert all(batch.endswith(b"\n") for batch in batches)
    assert b"".join(batches) == b"".join(line_batches(generator))


def test_one_field_lines_hold_one_sample_each() -> None:
    generator = DevopsGenerator(shape_of("devops"))
    lines = b"".join(line_batches(generator, one_field=True)).decode().splitlines()
    values = [parse_line(line)[2] for line in lines]
    expected = all_columns(generator.shape)["cpu"][0].reshape(-1)
    assert [list(value) for value in values] == [["usage_user"]] * len(expected)
    np.testing.assert_array_equal([value["usage_user"] for value in values], expected)


@pytest.mark.parametrize("use", USE_CASES)
def test_record_batches_hold_the_same_rows(use: str) -> None:
    shape = shape_of(use)
    generator = DevopsGenerator(shape)
    columns = all_columns(shape)
    for measurement in shape.measurements:
        table = pa.Table.from_batches(record_batches(generator, measurement, rows_per_batch=3 * shape.hosts))
        assert table.num_rows == shape.steps * shape.hosts
        times = table["time"].cast(pa.int64()).to_numpy()
        steps = shape.start_ns + np.arange(shape.steps) * shape.interval_ns
        np.testing.assert_array_equal(times, np.repeat(steps, shape.hosts))
        for key, values in generator.tag_columns(measurement).items():
            assert table[key].to_pylist() == values * shape.steps
        for field, column in zip(measurement.field_names, columns[measurement.name], strict=True):
            np.testing.assert_array_equal(table[field].to_numpy(), column.reshape(-1))


def test_aggregates_equal_plain_loops() -> None:
    shape = shape_of("devops", "two-decimals")
    columns = all_columns(shape)
    for name, aggregates in DevopsGenerator(shape).aggregates().items():
        for field in range(columns[name].shape[0]):
            for host in range(shape.hosts):
                series = [float(value) for value in columns[name][field, :, host]]
                assert aggregates.count[field, host] == len(series)
                assert aggregates.sum[field, host] == pytest.approx(sum(series), rel=1e-12)
                assert (aggregates.min[field, host], aggregates.max[field, host]) == (
                    min(series),
                    max(series),
                )


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    number, shift = 0, 0
    while True:
        byte = data[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at


def read_message(data: bytes) -> list[tuple[int, bytes | int]]:
    """Return the (field number, content) pairs of a protobuf message; content of varints is the number."""
    out: list[tuple[int, bytes | int]] = []
    at = 0
    while at < len(data):
        tag, at = read_varint(data, at)
        if tag & 7 == 0:
            number, at = read_varint(data, at)
            out.append((tag >> 3, number))
            continue
        length, at = (8, at) if tag & 7 == 1 else read_varint(data, at)
        out.append((tag >> 3, data[at : at + length]))
        at += length
    return out


def test_remote_write_requests_hold_the_same_samples() -> None:
    import cramjam

    shape = shape_of("devops", "full", hosts=3, steps=2)
    generator = DevopsGenerator(shape)
    columns = all_columns(shape)
    seen: dict[tuple[str, str, int], float] = {}
    for body, samples in write_requests(generator, max_samples=30):
        assert samples <= 40
        found = 0
        for _, series in read_message(bytes(cramjam.snappy.decompress_raw(body))):
            assert isinstance(series, bytes)
            parts = read_message(series)
            labels = [read_message(part) for number, part in parts if number == 1 and isinstance(part, bytes)]
            names = [bytes(pair[0][1]).decode() for pair in labels]  # type: ignore[arg-type]
            assert names == sorted(names)
            texts = dict(zip(names, (bytes(pair[1][1]).decode() for pair in labels), strict=True))  # type: ignore[arg-type]
            ((value, time),) = [
                (sample[0][1], sample[1][1])
                for sample in (read_message(part) for number, part in parts if number == 2 and isinstance(part, bytes))
            ]
            assert isinstance(value, bytes)
            assert isinstance(time, int)
            seen[texts["__name__"], texts["hostname"], time] = float(np.frombuffer(value, "<f8")[0])
            found += 1
        assert found == samples
    assert len(seen) == shape.samples
    for measurement in shape.measurements:
        for field, step, host in itertools.product(
            range(len(measurement.fields)), range(shape.steps), range(shape.hosts)
        ):
            time_ms = (shape.start_ns + step * shape.interval_ns) // 1_000_000
            name = f"{measurement.name}_{measurement.field_names[field]}"
            assert seen[name, f"host_{host}", time_ms] == columns[measurement.name][field, step, host]


@given(st.integers(0, 2**63 - 1))
def test_varint_reads_back(number: int) -> None:
    assert read_varint(varint(number), 0) == (number, len(varint(number)))


def texts(matrix: np.ndarray) -> list[str]:
    return [bytes(row).replace(b"\0", b"").decode() for row in matrix]


@given(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=20))
@settings(deadline=None)
def test_integer_digits_equal_str(numbers: list[int]) -> None:
    assert texts(integer_digits(np.array(numbers, np.int64))) == [str(number) for number in numbers]


@given(st.lists(st.integers(-(2**53), 2**53), min_size=1, max_size=20))
@settings(deadline=None)
def test_integer_text_equals_str(numbers: list[int]) -> None:
    assert texts(integer_text(np.array(numbers, np.float64))) == [f"{number}i" for number in numbers]


@given(st.lists(st.integers(-(10**14), 10**14), min_size=1, max_size=20))
@settings(deadline=None)
def test_two_decimals_text_reads_back(hundredths: list[int]) -> None:
    values = np.array(hundredths, np.float64) / 100.0
    written = texts(two_decimals_text(values))
    assert all(len(text.partition(".")[2]) == 2 for text in written)
    np.testing.assert_array_equal([float(text) for text in written], values)


@pytest.mark.parametrize(
    "changes", [{"use": "iot"}, {"values": "short"}, {"hosts": 0}, {"steps": 0}, {"interval_ns": 0}]
)
def test_impossible_shapes_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="cannot generate data"):
        DataShape(**changes)  # type: ignore[arg-type]
