"""Facts of the Time Series Benchmark Suite's devops use case: measurements, fields, tags, distributions.

Source: the published suite (TSBS, use cases ``devops`` and ``cpu-only``).  A simulated host reports every
measurement once per interval; each field is a random walk.  Here stand only the facts, in tables;
:mod:`benchmarks.generator` turns them into numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

USE_CASES = ("cpu-only", "devops")

KIB = float(1 << 10)
GIB = float(1 << 30)
TIB = float(1 << 40)
DISK_BYTES = TIB
DISK_BLOCK_BYTES = 4096.0
MEMORY_SIZES_BYTES = (8 * GIB, 12 * GIB, 16 * GIB)

TAG_KEYS = (
    "hostname",
    "region",
    "datacenter",
    "rack",
    "os",
    "arch",
    "team",
    "service",
    "service_version",
    "service_environment",
)
DATACENTERS = {
    "us-east-1": ("us-east-1a", "us-east-1b", "us-east-1c", "us-east-1e"),
    "us-west-1": ("us-west-1a", "us-west-1b"),
    "us-west-2": ("us-west-2a", "us-west-2b", "us-west-2c"),
    "eu-west-1": ("eu-west-1a", "eu-west-1b", "eu-west-1c"),
    "eu-central-1": ("eu-central-1a", "eu-central-1b"),
    "ap-southeast-1": ("ap-southeast-1a", "ap-southeast-1b"),
    "ap-southeast-2": ("ap-southeast-2a", "ap-southeast-2b"),
    "ap-northeast-1": ("ap-northeast-1a", "ap-northeast-1c"),
    "sa-east-1": ("sa-east-1a", "sa-east-1b", "sa-east-1c"),
}
# One value of each list is drawn for a host, except hostname and the region's own datacenters.
TAG_CHOICES: Mapping[str, tuple[str, ...]] = {
    "rack": tuple(str(number) for number in range(100)),
    "os": ("Ubuntu16.10", "Ubuntu16.04LTS", "Ubuntu15.10"),
    "arch": ("x64", "x86"),
    "team": ("SF", "NYC", "LON", "CHI"),
    "service": tuple(str(number) for number in range(20)),
    "service_version": ("0", "1"),
    "service_environment": ("production", "staging", "test"),
}


@dataclass(frozen=True, slots=True)
class Walk:
    """A random walk: each step adds a draw of N(``mean``, ``deviation``) to the state.

    ``clamped`` cuts the state to [``low``, ``high``]; ``monotone`` adds the draw's absolute value; ``free``
    does neither.  ``initial`` is the first state; None draws it uniformly from [``low``, ``high``).  A
    deviation or a bound of None is a fraction of, or all of, the host's memory.
    """

    kind: Literal["clamped", "monotone", "free"]
    mean: float
    deviation: float | None
    low: float = 0.0
    high: float | None = 0.0
    initial: float | None = 0.0


# A derived field is a function of the walks' truncated columns ([steps, hosts] each), the host's constants
# ([hosts] each) and the seconds since the first step ([steps]).
Derivation = Callable[[Mapping[str, Float64Array], Mapping[str, Float64Array], Float64Array], Float64Array]


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a measurement: a walk, or a derivation from the measurement's walks and the host's
    constants.

    ``fractional`` fields keep their fraction where the suite truncates every other one to an integer.
    """

    name: str
    walk: Walk | None = None
    derive: Derivation | None = None
    fractional: bool = False


@dataclass(frozen=True, slots=True)
class Measurement:
    name: str
    fields: tuple[Field, ...]
    extra_tags: tuple[str, ...] = ()

    @property
    def field_names(self) -> tuple[str, ...]:
        return tuple(field.name for field in self.fields)


def _walks(names: str, walk: Walk) -> tuple[Field, ...]:
    return tuple(Field(name, walk) for name in names.split())


def _monotone(mean: float) -> Walk:
    return Walk("monotone", mean, 1.0)


def _clamped(mean: float, high: float, initial: float | None = 0.0) -> Walk:
    return Walk("clamped", mean, 1.0, 0.0, high, initial)


def _host_constant(name: str) -> Derivation:
    return lambda columns, host, seconds: np.broadcast_to(host[name], (len(seconds), len(host[name])))


def _memory_share(name: str) -> Derivation:
    return lambda columns, host, seconds: 100.0 * columns[name] / host["memory_bytes"]


def _disk_constant(value: float) -> Derivation:
    return lambda columns, host, seconds: np.full_like(columns["free"], value)


CPU = Measurement(
    "cpu",
    _walks(
        "usage_user usage_system usage_idle usage_nice usage_iowait usage_irq usage_softirq usage_steal "
        "usage_guest usage_guest_nice",
        _clamped(0.0, 100.0, initial=None),
    ),
)
DISKIO = Measurement(
    "diskio",
    _walks("reads writes", _monotone(50.0))
    + _walks("read_bytes write_bytes", _monotone(100.0))
    + _walks("read_time write_time io_time", _monotone(5.0)),
    ("serial",),
)
DISK = Measurement(
    "disk",
    (
        Field("total", derive=_disk_constant(DISK_BYTES)),
        Field("free", _clamped(50.0, DISK_BYTES, initial=DISK_BYTES / 2)),
        Field("used", derive=lambda columns, host, seconds: DISK_BYTES - columns["free"]),
        Field(
            "used_percent",
            derive=lambda columns, host, seconds: np.trunc(100.0 * (DISK_BYTES - columns["free"]) / DISK_BYTES),
        ),
        Field("inodes_total", derive=_disk_constant(DISK_BYTES / DISK_BLOCK_BYTES)),
        Field("inodes_free", derive=lambda columns, host, seconds: np.trunc(columns["free"] / DISK_BLOCK_BYTES)),
        Field(
            "inodes_used",
            derive=lambda columns, host, seconds: (
                DISK_BYTES / DISK_BLOCK_BYTES - np.trunc(columns["free"] / DISK_BLOCK_BYTES)
            ),
        ),
    ),
    ("path", "fstype"),
)
KERNEL = Measurement(
    "kernel",
    (
        Field("boot_time", derive=_host_constant("boot_time")),
        *_walks("interrupts context_switches processes_forked disk_pages_in disk_pages_out", _monotone(5.0)),
    ),
)
_MEMORY_WALK = Walk("clamped", 0.0, None, 0.0, None, None)
MEMORY = Measurement(
    "mem",
    (
        Field("total", derive=_host_constant("memory_bytes")),
        Field("available", derive=lambda columns, host, seconds: host["memory_bytes"] - columns["used"]),
        Field("used", _MEMORY_WALK),
        Field("free", derive=lambda columns, host, seconds: host["memory_bytes"] - columns["used"]),
        Field("cached", _MEMORY_WALK),
        Field("buffered", _MEMORY_WALK),
        Field("used_percent", derive=_memory_share("used"), fractional=True),
        Field(
            "available_percent",
            derive=lambda columns, host, seconds: (
                100.0 * (host["memory_bytes"] - columns["used"]) / host["memory_bytes"]
            ),
            fractional=True,
        ),
        Field("buffered_percent", derive=_memory_share("buffered"), fractional=True),
    ),
)
NET = Measurement(
    "net",
    _walks("bytes_sent bytes_recv packets_sent packets_recv", _monotone(50.0))
    + _walks("err_in err_out drop_in drop_out", _monotone(5.0)),
    ("interface",),
)
NGINX = Measurement(
    "nginx",
    (
        Field("accepts", _monotone(5.0)),
        Field("active", _clamped(5.0, 100.0)),
        Field("handled", _monotone(5.0)),
        Field("reading", _clamped(5.0, 100.0)),
        Field("requests", _monotone(5.0)),
        Field("waiting", _clamped(5.0, 100.0)),
        Field("writing", _clamped(5.0, 100.0)),
    ),
    ("port", "server"),
)
POSTGRES = Measurement(
    "postgresl",
    _walks(
        "numbackends xact_commit xact_rollback blks_read blks_hit tup_returned tup_fetched tup_inserted "
        "tup_updated tup_deleted conflicts temp_files",
        _clamped(5.0, 1000.0),
    )
    + _walks("temp_bytes", _clamped(1024.0, GIB))
    + _walks("deadlocks blk_read_time blk_write_time", _clamped(5.0, 1000.0)),
)
REDIS = Measurement(
    "redis",
    (
        Field(
            "uptime_in_seconds",
            derive=lambda columns, host, seconds: np.broadcast_to(
                seconds[:, None], (len(seconds), len(host["boot_time"]))
            ),
        ),
        *_walks("total_connections_received", _monotone(5.0)),
        *_walks("expired_keys evicted_keys keyspace_hits keyspace_misses", _monotone(50.0)),
        *_walks(
            "instantaneous_ops_per_sec instantaneous_input_kbps instantaneous_output_kbps",
            Walk("free", 1.0, 1.0),
        ),
        *_walks("connected_clients", _clamped(50.0, 10_000.0)),
        *_walks(
            "used_memory used_memory_rss used_memory_peak used_memory_lua",
            _clamped(50.0, 16 * GIB, initial=8 * GIB),
        ),
        *_walks("rdb_changes_since_last_save", _clamped(50.0, 10_000.0)),
        *_walks(
            "sync_full sync_partial_ok sync_partial_err pubsub_channels pubsub_patterns latest_fork_usec "
            "connected_slaves master_repl_offset repl_backlog_active repl_backlog_size repl_backlog_histlen",
            _clamped(5.0, 1000.0),
        ),
        *_walks("mem_fragmentation_ratio", _clamped(5.0, 100.0)),
        *_walks("used_cpu_sys used_cpu_user used_cpu_sys_children used_cpu_user_children", _clamped(5.0, 1000.0)),
    ),
    ("port", "server"),
)

MEASUREMENTS: Mapping[str, tuple[Measurement, ...]] = {
    "cpu-only": (CPU,),
    "devops": (CPU, DISKIO, DISK, KERNEL, MEMORY, NET, NGINX, POSTGRES, REDIS),
}
