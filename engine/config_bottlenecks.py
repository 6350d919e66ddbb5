"""When and how bottlenecks are looked for."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from engine.config_base import Name, Settings
from engine.config_units import Duration, within

#: Window and history together have at most so many steps.
MAX_STEPS = 1_000
Call = Annotated[str, Meta(pattern="^[^>]+>[^>]+$", max_length=400)]


class Bottlenecks(Settings, frozen=True, kw_only=True):
    """``metrics``: patterns (``*``, ``?``) of the metrics that are looked at; none means all.

    ``service_labels``: the first of these labels that a series has names its service.  ``calls``: the call graph,
    "caller>callee".
    """

    enabled: bool = True
    interval: Annotated[Duration, within("10s", "1d")] = Duration.parse("5m")
    window: Annotated[Duration, within("1m", "1d")] = Duration.parse("10m")
    history: Annotated[Duration, within("5m", "7d")] = Duration.parse("1h")
    step: Annotated[Duration, within("1s", "1h")] = Duration.parse("1m")
    service_labels: Annotated[tuple[Name, ...], Meta(min_length=1)] = (
        "service",
        "app",
        "job",
        "deployment",
        "host",
        "instance",
    )
    metrics: tuple[str, ...] = ()
    least_gain: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.1
    max_series: Annotated[int, Meta(ge=1, le=10_000_000)] = 20_000
    calls: tuple[Call, ...] = ()

    @property
    def graph(self) -> tuple[tuple[str, str], ...]:
        """The calls as (caller, callee)."""
        return tuple((caller.strip(), callee.strip()) for caller, callee in (call.split(">") for call in self.calls))
