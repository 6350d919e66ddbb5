"""Sensors against psutil itself, and against a host whose numbers are known."""

from __future__ import annotations

import os
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from engine.clock import ManualClock, SystemClock
from engine.collect.points import Point
from engine.collect.sensors import HostSensors, Reading

Times = namedtuple("Times", "user nice system idle iowait irq softirq steal guest guest_nice")
Disk = namedtuple("Disk", "read_count write_count read_bytes write_bytes read_time write_time busy_time")
Nic = namedtuple("Nic", "bytes_sent bytes_recv packets_sent packets_recv errin errout dropin dropout")


class KnownHost:
    """Answers like psutil, with numbers that the test sets."""

    def __init__(self) -> None:
        self.times = [Times(10.0, 1.0, 5.0, 100.0, 4.0, 0.0, 0.0, 0.0, 0.0, 0.0)]
        self.disks = {"sda": Disk(100, 50, 4096, 8192, 900, 300, 1000), "loop0": Disk(0, 0, 0, 0, 0, 0, 0)}
        self.states = ["running", "sleeping", "sleeping", "disk-sleep", "zombie", "parked"]

    def getloadavg(self) -> tuple[float, float, float]:
        return (1.5, 1.25, 1.0)

    def cpu_count(self) -> int:
        return len(self.times)

    def cpu_times(self, percpu: bool = False) -> Any:
        return self.times if percpu else Times(*(sum(column) for column in zip(*self.times, strict=True)))

    def virtual_memory(self) -> Any:
        return SimpleNamespace(total=1000, available=600, used=350, free=500, percent=40.0, cached=70)

    def swap_memory(self) -> Any:
        return SimpleNamespace(total=100, used=25, free=75, percent=25.0, sin=7, sout=9)

    def disk_partitions(self, all: bool) -> list[Any]:
        assert not all
        return [
            SimpleNamespace(mountpoint="/", device="/dev/sda1", fstype="ext4"),
            SimpleNamespace(mountpoint="/no/such/mount", device="/dev/sdb1", fstype="xfs"),
        ]

    def disk_usage(self, path: str) -> Any:
        if path != "/":
            raise FileNotFoundError(path)
        return SimpleNamespace(total=1000, used=250, free=700, percent=26.3)

    def disk_io_counters(self, perdisk: bool) -> dict[str, Disk]:
        return self.disks

    def net_io_counters(self, pernic: bool) -> dict[str, Nic]:
        return {"eth0": Nic(1, 2, 3, 4, 5, 6, 7, 8)}

    def process_iter(self, attributes: list[str]) -> list[Any]:
        assert attributes == ["status", "num_threads"]
        threads = [None, *range(1, len(self.states))]
        return [
            SimpleNamespace(info={"status": state, "num_threads": count})
            for state, count in zip(self.states, threads, strict=True)
        ]

    def boot_time(self) -> float:
        return 1_700_000_000.0 - 60.0


def points_of(reading: Reading, table: str, **tags: str) -> list[Point]:
    return [point for point in reading.points if point.table == table and tags.items() <= point.tags.items()]


def only(reading: Reading, table: str, **tags: str) -> dict[str, float]:
    (point,) = points_of(reading, table, **tags)
    return dict(point.fields)


@pytest.fixture
def host(tmp_path: Path) -> tuple[KnownHost, ManualClock, HostSensors]:
    proc = tmp_path / "proc"
    (proc / "sys/fs").mkdir(parents=True)
    (proc / "pressure").mkdir()
    (proc / "sys/fs/file-nr").write_text("1024\t0\t4096\n")
    (proc / "pressure/io").write_text(
        "some avg10=1.50 avg60=0.25 avg300=0.00 total=123456\nfull avg10=0.50 avg60=0.00 avg300=0.00 total=99\n"
    )
    known, clock = KnownHost(), ManualClock()
    return known, clock, HostSensors(clock, host="h1", source=known, proc=str(proc))


def test_cpu_shares_are_of_the_time_between_readings(host: tuple[KnownHost, ManualClock, HostSensors]) -> None:
    known, _, sensors = host
    first = sensors.read()
    assert only(first, "cpu") == {"load1": 1.5, "load5": 1.25, "load15": 1.0, "cores": 1}
    assert points_of(first, "cpu_core") == []
    # 10 s: 4 user (of which 1 a guest), 1 system, 3 idle, 2 stolen; iowait has gone back and counts as nothing.
    known.times = [Times(14.0, 1.0, 6.0, 103.0, 3.0, 0.0, 0.0, 2.0, 1.0, 0.0)]
    second = sensors.read()
    shares = only(second, "cpu_core", core="0", host="h1")
    expected = {"user": 30.0, "system": 10.0, "idle": 30.0, "iowait": 0.0, "steal": 20.0, "guest": 10.0, "nice": 0.0}
    assert {name: shares[f"usage_{name}"] for name in expected} == expected
    assert shares["usage_percent"] == 70.0
    assert only(second, "cpu")["usage_percent"] == 70.0


def test_a_counter_that_starts_anew_is_no_time(host: tuple[KnownHost, ManualClock, HostSensors]) -> None:
    known, _, sensors = host
    sensors.read()
    known.times = [Times(*[0.0] * 10)]
    assert "usage_percent" not in only(sensors.read(), "cpu")


def test_disk_latency_and_business(host: tuple[KnownHost, ManualClock, HostSensors]) -> None:
    known, clock, sensors = host
    assert "read_latency_ms" not in only(sensors.read(), "diskio", device="sda")
    clock.advance(2.0)
    known.disks = {"sda": Disk(110, 50, 8192, 8192, 925, 300, 1500), "sdb": Disk(1, 0, 1, 0, 1, 0, 1)}
    reading = sensors.read()
    fields = only(reading, "diskio", device="sda")
    assert (fields["read_latency_ms"], fields["busy_percent"], fields["reads_total"]) == (2.5, 25.0, 110)
    assert "write_latency_ms" not in fields
    assert "read_latency_ms" not in only(reading, "diskio", device="sdb")


def test_unused_devices_and_unreadable_mounts_are_left_out(
    host: tuple[KnownHost, ManualClock, HostSensors],
) -> None:
    reading = host[2].read()
    assert [point.tags["device"] for point in points_of(reading, "diskio")] == ["sda"]
    (disk,) = points_of(reading, "disk")
    assert disk.tags == {"host": "h1", "path": "/", "device": "/dev/sda1", "fstype": "ext4"}
    assert (disk.fields["used_percent"], disk.fields["free_bytes"]) == (26.3, 700)
    state = os.statvfs("/")
    if state.f_files:
        assert disk.fields["inodes_total"] == state.f_files


def test_the_other_sensors(host: tuple[KnownHost, ManualClock, HostSensors]) -> None:
    reading = host[2].read()
    assert reading.failures == ()
    assert only(reading, "memory")["used_percent"] == 40.0
    assert "buffers_bytes" not in only(reading, "memory")
    assert only(reading, "memory")["cached_bytes"] == 70
    assert only(reading, "swap")["out_bytes_total"] == 9
    network = only(reading, "network", interface="eth0")
    assert (network["received_bytes_total"], network["sent_bytes_total"], network["send_drops_total"]) == (2, 1, 8)
    processes = only(reading, "processes")
    assert processes == {
        "total": 6,
        "threads": 15,
        "running": 1,
        "sleeping": 2,
        "blocked": 1,
        "zombie": 1,
        "idle": 0,
        "stopped": 0,
        "other": 1,
    }
    assert only(reading, "files") == {"open": 1024, "limit": 4096, "used_percent": 25.0}
    assert only(reading, "pressure", resource="io") == {
        "some_avg10_percent": 1.5,
        "some_avg60_percent": 0.25,
        "some_avg300_percent": 0.0,
        "some_stalled_us_total": 123456,
        "full_avg10_percent": 0.5,
        "full_avg60_percent": 0.0,
        "full_avg300_percent": 0.0,
        "full_stalled_us_total": 99,
    }
    assert points_of(reading, "pressure", resource="cpu") == []
    assert only(reading, "system") == {"uptime_seconds": 60.0}


def test_a_sensor_that_fails_is_told_and_the_others_go_on(
    host: tuple[KnownHost, ManualClock, HostSensors], monkeypatch: pytest.MonkeyPatch
) -> None:
    known, _, sensors = host

    def broken() -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(known, "virtual_memory", broken)
    reading = sensors.read()
    assert reading.failures == ("cannot read sensor memory: [Errno 13] Permission denied",)
    assert points_of(reading, "memory") == []
    assert points_of(reading, "system")


def test_readings_of_this_host_lie_between_two_of_psutil() -> None:
    sensors = HostSensors(SystemClock(), host="here")
    sensors.read()
    before, network_before = psutil.virtual_memory(), psutil.net_io_counters(pernic=True)
    reading = sensors.read()
    network_after = psutil.net_io_counters(pernic=True)
    assert reading.failures == ()
    assert only(reading, "memory")["total_bytes"] == before.total
    assert only(reading, "cpu")["cores"] == psutil.cpu_count()
    for interface in network_before.keys() & network_after.keys():
        received = only(reading, "network", interface=interface)["received_bytes_total"]
        assert network_before[interface].bytes_recv <= received <= network_after[interface].bytes_recv
    assert only(reading, "disk", path="/")["total_bytes"] == psutil.disk_usage("/").total
    processes = only(reading, "processes")
    states = ("running", "sleeping", "idle", "blocked", "stopped", "zombie", "other")
    assert processes["total"] == sum(processes[state] for state in states) > 0
    for point in reading.points:
        assert point.tags["host"] == "here"
        for name, value in point.fields.items():
            assert not name.endswith("percent") or 0.0 <= value <= 100.0, (point.table, name)


def test_tables_and_fields_are_documented(host: tuple[KnownHost, ManualClock, HostSensors]) -> None:
    known, clock, sensors = host
    sensors.read()
    clock.advance(1.0)
    known.times = [Times(*(value + 1.0 for value in known.times[0]))]
    known.disks = {"sda": Disk(*(value + 1 for value in known.disks["sda"]))}
    documented = (Path(__file__).parents[2] / "docs" / "agent.md").read_text()
    rows = {line.split("`")[1]: line for line in documented.splitlines() if line.startswith("| `")}
    reading = HostSensors(SystemClock(), host="here").read()
    for point in (*sensors.read().points, *reading.points):
        row = rows[point.table]
        for name in point.fields:
            assert f"`{name}`" in row, f"{point.table}.{name} is not in docs/agent.md"
        for tag in point.tags:
            assert f"`{tag}`" in row, f"tag {tag} of {point.table} is not in docs/agent.md"
