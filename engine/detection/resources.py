"""Which resource a metric is about and which aspect of it: the USE method applied to names.

Utilisation, saturation and errors of every resource (Gregg, "Thinking Methodically about Performance", 2013); what is
about no resource is a symptom of the service: its latency, its errors, its load.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.detection.semantics import Kind, Metric

#: Resources, the first that a name fits.
_RESOURCES = tuple(
    (name, re.compile(pattern))
    for name, pattern in (
        ("connections", r"conn|pool"),
        ("threads", r"thread|goroutine|worker"),
        ("files", r"(^|_)fds?(_|$)|file_?desc|open_files"),
        ("queue", r"queue|backlog|pending|in_?flight|(^|_)lag(_|$)"),
        ("cpu", r"cpu|load_?avg|(^|_)load(1|5|15)?(_|$)|throttl"),
        ("memory", r"mem|heap|rss|swap|(^|_)gc(_|$)|oom"),
        ("disk", r"disk|filesystem|(^|_)fs_|inode|iops|io_?(wait|time|util)|volume"),
        ("network", r"net|packet|tcp|udp|socket|retrans|bandwidth|receive|transmit"),
    )
)
_OF_KIND = {
    Kind.LATENCY: "latency",
    Kind.ERROR: "errors",
    Kind.SUCCESS: "errors",
    Kind.TRAFFIC: "traffic",
    Kind.CPU: "cpu",
    Kind.MEMORY: "memory",
    Kind.RESOURCE: "system",
    Kind.OTHER: "other",
}
_SATURATION = re.compile(
    r"queue|backlog|pending|wait|throttl|pressure|steal|load_?avg|load\d|swap|evict|oom|in_?flight|pause"
)
_UTILISED = re.compile(r"percent|pct|util|ratio|busy|usage|used")
#: What is left of a resource, or what is allowed of it, is not how much of it is used.
_UNUSED = re.compile(r"idle|free|avail|limit|max_|capacity|total|quota|requested|uptime|steal")
#: Resources that queue: their users wait longer and longer as they near their capacity.  The others just run out.
QUEUEING = frozenset({"cpu", "disk", "network", "connections", "threads", "system"})
#: Utilisation from which a resource is a bottleneck whatever it was before, by whether it queues.
SATURATED_QUEUEING, SATURATED_SPACE = 0.8, 0.9


@dataclass(frozen=True, slots=True)
class Resource:
    """``aspect``: utilisation, saturation or errors of the resource, or latency, errors, load of the service itself."""

    name: str
    aspect: str


def read_resource(metric: Metric) -> Resource:
    """Return what a metric is about."""
    name = metric.column.rpartition("/")[2].lower()
    if metric.kind is Kind.SUCCESS:
        return Resource("errors", "errors")
    found = next((resource for resource, pattern in _RESOURCES if pattern.search(name)), None)
    if metric.kind is Kind.LATENCY and found not in ("disk", "network", "connections", "queue", "memory"):
        return Resource("latency", "latency")
    resource = found or _OF_KIND[metric.kind]
    if metric.kind is Kind.ERROR:
        return Resource(resource, "errors")
    if resource in ("traffic", "other"):
        return Resource(resource, "load" if resource == "traffic" else "other")
    saturated = metric.kind is Kind.LATENCY or resource == "queue" or _SATURATION.search(name)
    return Resource(resource, "saturation" if saturated else "utilisation")


def is_leftover(metric: Metric) -> bool:
    """Return whether the metric says how much of something is left or allowed instead of how much is used."""
    return _UNUSED.search(metric.column.rpartition("/")[2].lower()) is not None


def utilisation(metric: Metric, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64] | None:
    """Return the share of the resource that is used, in [0, 1], where name and values say that this is what it is.

    ``values``: float64[n], NaN for "not reported".  A percentage stays within 0 and 100, a share within 0 and 1; names
    that may be either (``ratio``, ``util``) are shares when no value is above 1.
    """
    name = metric.column.rpartition("/")[2].lower()
    known = values[np.isfinite(values)]
    resource = read_resource(metric)
    if resource.aspect != "utilisation" or is_leftover(metric) or not _UTILISED.search(name) or not len(known):
        return None
    top = float(known.max())
    if known.min() < 0 or top > 100.5:
        return None
    if "percent" in name or "pct" in name:
        return values / 100.0
    if "ratio" in name or "util" in name or "busy" in name:
        return values if top <= 1.0 else values / 100.0
    return None
