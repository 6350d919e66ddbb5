"""What a metric's name tells: what it measures, which direction is bad, and whose it is.

Names are read as people write them (`cpu_usage_percent`, `PodClientLatencyP95(s)`, `latency_in[shop>cart]`), in the
spirit of the USE method (Gregg, "Thinking Methodically about Performance", 2013: utilisation, saturation, errors of
every resource) and of the golden signals for services (latency, traffic, errors).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What a metric measures."""

    SUCCESS = "success"
    ERROR = "error"
    LATENCY = "latency"
    CPU = "cpu"
    MEMORY = "memory"
    RESOURCE = "resource"
    TRAFFIC = "traffic"
    OTHER = "other"


#: Kinds in which users feel a fault; the others show what a service uses.
SYMPTOMS = frozenset({Kind.SUCCESS, Kind.ERROR, Kind.LATENCY})
_PATTERNS = (
    (Kind.SUCCESS, r"success|availab"),
    (Kind.ERROR, r"err|fail|exception|5xx|fault|timeout|drop|refus"),
    (Kind.LATENCY, r"lat|durat|response|time|seconds_mean"),
    (Kind.CPU, r"cpu|load_?avg"),
    (Kind.MEMORY, r"mem|heap|rss|gc"),
    (Kind.RESOURCE, r"syscall|disk|io|network|bytes|fd|thread|conn|queue|pool"),
    (Kind.TRAFFIC, r"lod|load|req|ops|workload|rate|count|throughput|qps|tps|sum"),
)
_KINDS = tuple((kind, re.compile(pattern)) for kind, pattern in _PATTERNS)
_CALL = re.compile(r"\[(.+?)>(.+?)\]")
_OUTGOING = re.compile(r"client|outgoing|upstream", re.IGNORECASE)
#: Names that are addresses or ends of somebody else's calls: views from a caller, not services that one can mend.
_ADDRESS = re.compile(r"_remote$|_client$|\.[a-z0-9-]+\.[a-z]{2,}(_|:|$|\|)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Metric:
    """One column, read.  ``call``: (caller, callee) where the metric is about the calls between two services."""

    column: str
    service: str
    kind: Kind
    call: tuple[str, str] | None
    outgoing: bool


def read_metric(column: str) -> Metric:
    """Return what the column ``service/metric`` is."""
    service, _, name = column.rpartition("/")
    call = _CALL.search(name)
    lowered = name.lower()
    kind = next((kind for kind, pattern in _KINDS if pattern.search(lowered)), Kind.OTHER)
    return Metric(
        column=column,
        service=service or name,
        kind=kind,
        call=None if call is None else (call[1], call[2]),
        outgoing=call is None and kind is Kind.LATENCY and _OUTGOING.search(name) is not None,
    )


def is_address(service: str) -> bool:
    """Return whether a service's name says that it is seen from a caller only."""
    return _ADDRESS.search(service) is not None
