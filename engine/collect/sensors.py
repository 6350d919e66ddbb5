"""This host's sensors, read with psutil and from /proc: CPU, memory, disks, network, processes, pressure.

Percentages are fields that end in ``percent`` (0 to 100), counters end in ``_total`` and only grow until
the host restarts; the tables and fields are listed in docs/agent.md.  What a rate or a share of time needs,
a second reading, is left out of the first one.  A sensor that fails is reported in the reading and does not
stop the others.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psutil

from engine.clock import Clock
from engine.collect.points import Point, encode_lines

_CPU_FIELDS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest", "guest_nice")
_PROCESS_STATES = {
    psutil.STATUS_RUNNING: "running",
    psutil.STATUS_SLEEPING: "sleeping",
    psutil.STATUS_IDLE: "idle",
    psutil.STATUS_DISK_SLEEP: "blocked",
    psutil.STATUS_STOPPED: "stopped",
    psutil.STATUS_TRACING_STOP: "stopped",
    psutil.STATUS_ZOMBIE: "zombie",
}
_PRESSURE_RESOURCES = ("cpu", "memory", "io")


def _percent(part: float, whole: float) -> float:
    """Return a share in percent, to the two decimals that it is good for; few decimals are cheap to store."""
    return round(100.0 * part / whole, 2)


@dataclass(frozen=True, slots=True)
class Reading:
    """What all sensors said at ``time_ns``; ``failures`` holds a sentence for each one that could not."""

    time_ns: int
    points: tuple[Point, ...]
    failures: tuple[str, ...]

    def lines(self) -> bytes:
        """Return the reading as line protocol with nanoseconds."""
        return encode_lines(self.points, self.time_ns)


class HostSensors:
    """The sensors of one host; ``source`` is psutil or what answers like it, ``proc`` where /proc is."""

    def __init__(self, clock: Clock, *, host: str, source: Any = psutil, proc: str = "/proc") -> None:
        self._clock = clock
        self._host = host
        self._source = source
        self._proc = proc
        self._cpu_before: dict[str, Any] = {}
        self._io_before: tuple[float, dict[str, Any]] | None = None

    def read(self) -> Reading:
        """Read every sensor once.  Raises nothing: failures are part of the reading."""
        time_ns = self._clock.now_ns()
        sensors: dict[str, Callable[[], Iterator[Point]]] = {
            "cpu": self._cpu,
            "memory": self._memory,
            "disk": self._disks,
            "diskio": self._disk_io,
            "network": self._network,
            "processes": self._processes,
            "files": self._files,
            "pressure": self._pressure,
            "system": self._system,
        }
        points: list[Point] = []
        failures: list[str] = []
        for name, sensor in sensors.items():
            try:
                points.extend(sensor())
            except (OSError, RuntimeError, NotImplementedError, ValueError, psutil.Error) as error:
                failures.append(f"cannot read sensor {name}: {error}")
        return Reading(time_ns, tuple(points), tuple(failures))

    def _point(self, table: str, fields: dict[str, float], **tags: str) -> Point:
        return Point(table, {"host": self._host, **tags}, fields)

    # --- CPU ---

    def _cpu(self) -> Iterator[Point]:
        load1, load5, load15 = (round(load, 2) for load in self._source.getloadavg())
        cores = self._source.cpu_count() or 1
        fields: dict[str, float] = {"load1": load1, "load5": load5, "load15": load15, "cores": cores}
        yield self._point("cpu", fields | self._cpu_shares("", self._source.cpu_times()))
        # A table of its own: a rule over cpu_usage_percent means the host, not each of its cores.
        for index, times in enumerate(self._source.cpu_times(percpu=True)):
            shares = self._cpu_shares(str(index), times)
            if shares:
                yield self._point("cpu_core", shares, core=str(index))

    def _cpu_shares(self, core: str, times: Any) -> dict[str, float]:
        """Return the shares of time since the last reading in percent; nothing at the first one."""
        before = self._cpu_before.get(core)
        self._cpu_before[core] = times
        if before is None:
            return {}
        # A counter may go back a little (iowait does) or start anew: that is no time spent.
        spent = {name: max(0.0, getattr(times, name) - getattr(before, name)) for name in times._fields}
        # The kernel counts a guest's time into user and nice as well.
        spent["user"] = max(0.0, spent["user"] - spent.get("guest", 0.0))
        if "nice" in spent:
            spent["nice"] = max(0.0, spent["nice"] - spent.get("guest_nice", 0.0))
        total = sum(spent.values())
        if total <= 0.0:
            return {}
        shares = {f"usage_{name}": _percent(spent[name], total) for name in _CPU_FIELDS if name in spent}
        idle = spent.get("idle", 0.0) + spent.get("iowait", 0.0)
        shares["usage_percent"] = _percent(total - idle, total)
        return shares

    # --- memory ---

    def _memory(self) -> Iterator[Point]:
        memory = self._source.virtual_memory()
        fields = {
            "total_bytes": memory.total,
            "available_bytes": memory.available,
            "used_bytes": memory.used,
            "free_bytes": memory.free,
            "used_percent": float(memory.percent),
        }
        for name in ("cached", "buffers", "shared", "slab"):
            if hasattr(memory, name):
                fields[f"{name}_bytes"] = getattr(memory, name)
        yield self._point("memory", fields)
        swap = self._source.swap_memory()
        yield self._point(
            "swap",
            {
                "total_bytes": swap.total,
                "used_bytes": swap.used,
                "free_bytes": swap.free,
                "used_percent": float(swap.percent),
                "in_bytes_total": swap.sin,
                "out_bytes_total": swap.sout,
            },
        )

    # --- disks ---

    def _disks(self) -> Iterator[Point]:
        mounts = {part.mountpoint: part for part in self._source.disk_partitions(all=False)}
        # In a container the root is an overlay, which psutil does not count among the disks.
        for path in sorted({"/", *mounts}):
            try:
                space = self._source.disk_usage(path)
                inodes = os.statvfs(path)
            except OSError:
                # Mounts that this user may not look at, or that went away meanwhile; df leaves them out too.
                continue
            fields: dict[str, float] = {
                "total_bytes": space.total,
                "used_bytes": space.used,
                "free_bytes": space.free,
                "used_percent": float(space.percent),
            }
            if inodes.f_files:
                used = inodes.f_files - inodes.f_ffree
                fields["inodes_total"] = inodes.f_files
                fields["inodes_used"] = used
                fields["inodes_free"] = inodes.f_ffree
                fields["inodes_used_percent"] = _percent(used, inodes.f_files)
            part = mounts.get(path)
            tags = {"device": part.device, "fstype": part.fstype} if part else {}
            yield self._point("disk", fields, path=path, **tags)

    def _disk_io(self) -> Iterator[Point]:
        now = self._clock.monotonic()
        counters = self._source.disk_io_counters(perdisk=True) or {}
        before_at, before = self._io_before or (now, {})
        self._io_before = (now, counters)
        for device, counter in sorted(counters.items()):
            if not counter.read_count and not counter.write_count:
                continue  # never used: the kernel lists spare loop and RAM devices by the dozen
            fields: dict[str, float] = {
                "reads_total": counter.read_count,
                "writes_total": counter.write_count,
                "read_bytes_total": counter.read_bytes,
                "written_bytes_total": counter.write_bytes,
                "read_time_ms_total": counter.read_time,
                "write_time_ms_total": counter.write_time,
            }
            last = before.get(device)
            if last is not None:
                reads = counter.read_count - last.read_count
                writes = counter.write_count - last.write_count
                if reads > 0:
                    fields["read_latency_ms"] = round(max(0, counter.read_time - last.read_time) / reads, 3)
                if writes > 0:
                    fields["write_latency_ms"] = round(max(0, counter.write_time - last.write_time) / writes, 3)
                if hasattr(counter, "busy_time") and now > before_at:
                    busy_ms = max(0, counter.busy_time - last.busy_time)
                    fields["busy_percent"] = min(100.0, _percent(busy_ms, 1_000.0 * (now - before_at)))
            yield self._point("diskio", fields, device=device)

    # --- network ---

    def _network(self) -> Iterator[Point]:
        for interface, counter in sorted((self._source.net_io_counters(pernic=True) or {}).items()):
            yield self._point(
                "network",
                {
                    "received_bytes_total": counter.bytes_recv,
                    "sent_bytes_total": counter.bytes_sent,
                    "received_packets_total": counter.packets_recv,
                    "sent_packets_total": counter.packets_sent,
                    "receive_errors_total": counter.errin,
                    "send_errors_total": counter.errout,
                    "receive_drops_total": counter.dropin,
                    "send_drops_total": counter.dropout,
                },
                interface=interface,
            )

    # --- processes and files ---

    def _processes(self) -> Iterator[Point]:
        fields: dict[str, float] = dict.fromkeys(_PROCESS_STATES.values(), 0)
        fields |= {"total": 0, "threads": 0, "other": 0}
        for process in self._source.process_iter(["status", "num_threads"]):
            fields["total"] += 1
            fields["threads"] += process.info["num_threads"] or 0
            fields[_PROCESS_STATES.get(process.info["status"], "other")] += 1
        yield self._point("processes", fields)

    def _files(self) -> Iterator[Point]:
        """Linux: /proc/sys/fs/file-nr holds the open files, a zero, and the limit."""
        text = self._text("sys/fs/file-nr")
        if text is not None:
            opened, _, limit = (int(part) for part in text.split())
            yield self._point("files", {"open": opened, "limit": limit, "used_percent": _percent(opened, limit)})

    def _pressure(self) -> Iterator[Point]:
        """Linux: stall time by resource ("Pressure Stall Information", kernel documentation, psi.rst)."""
        for resource in _PRESSURE_RESOURCES:
            text = self._text(f"pressure/{resource}")
            fields: dict[str, float] = {}
            for line in (text or "").splitlines():
                kind, *pairs = line.split()
                for name, _, value in (pair.partition("=") for pair in pairs):
                    if name == "total":
                        fields[f"{kind}_stalled_us_total"] = int(value)
                    else:
                        fields[f"{kind}_{name}_percent"] = float(value)
            if fields:
                yield self._point("pressure", fields, resource=resource)

    def _system(self) -> Iterator[Point]:
        uptime = self._clock.now_ns() / 1e9 - self._source.boot_time()
        yield self._point("system", {"uptime_seconds": round(max(0.0, uptime), 1)})

    def _text(self, name: str) -> str | None:
        """Return a file of /proc, None where this kernel has none or keeps it from us."""
        try:
            with open(f"{self._proc}/{name}", encoding="ascii") as file:
                return file.read()
        except OSError:
            # /proc/pressure exists but answers EOPNOTSUPP where the kernel was started with psi=0.
            return None
