"""Alert rules as settings: what is read, how it becomes one number a series or group, and when that is an alert.

What each setting means: docs/configuration.md; how rules are judged: docs/alerting.md.
"""

from __future__ import annotations

import functools
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from engine.config_base import Aggregate, Category, Name, Operator, Settings, Severity, Span, Wait
from engine.config_units import Duration, within
from engine.model.matchers import Matcher, equality_matchers, parse_matchers

_duration = Duration.parse

#: With these the number must lie outside or inside ``threshold`` and ``upper``, both included in the inside.
BANDS = ("outside", "inside")
RuleOperator = Literal[Operator, "outside", "inside"]
RuleAggregate = Literal[Aggregate, "count", "change", "change_percent", "age"]
GroupAggregate = Literal["avg", "sum", "min", "max", "count"]

# How long an alert of a category stays quiet before it may notify again.
COOLDOWN_OF_CATEGORY: dict[str, Duration] = {
    "system": Duration.parse("5m"),
    "performance": Duration.parse("15m"),
    "security": Duration.parse("1m"),
    "integration": Duration.parse("10m"),
    "business": Duration.parse("30m"),
    "custom": Duration.parse("5m"),
}
_OF_CATEGORY = Duration(-1)


class Rule(Settings, frozen=True, kw_only=True):
    """A condition on one number for each series, or for each group of series with ``group_by``.

    The number: ``aggregate`` of ``metric``, by ``divide_by`` a ratio, times ``scale``; with ``compare_with`` how it
    relates to the same hour of past days or weeks, with ``forecast`` what it will be so far ahead.  ``clear`` (and
    ``clear_upper``) is the level at which a firing alert resolves (None: ``threshold``, ``upper``).  Without
    ``cooldown`` the category's own counts.  ``confirm``: it fires when a second reading breaks it too.  ``labels`` are
    templates that its alerts have beside those of the series.
    """

    name: Name
    metric: Name
    op: RuleOperator
    threshold: float
    upper: float | None = None
    category: Category = "custom"
    severity: Severity = "warning"
    match: dict[str, str] = msgspec.field(default_factory=dict)
    where: str = ""
    clear: float | None = None
    clear_upper: float | None = None
    for_: Wait = msgspec.field(default=_duration("0s"), name="for")
    confirm: bool = False
    keep_firing: Wait = _duration("0s")
    cooldown: Wait = _OF_CATEGORY
    aggregate: RuleAggregate = "last"
    over: Span = _duration("60s")
    divide_by: str | None = None
    divide_match: dict[str, str] | None = None
    divide_where: str | None = None
    divide_on: tuple[str, ...] | None = None
    scale: float = 1.0
    group_by: tuple[str, ...] | None = None
    group: GroupAggregate | None = None
    compare_with: Literal["days", "weeks"] | None = None
    compare_past: Annotated[int, Meta(ge=1, le=52)] = 4
    compare_by: Literal["median", "mean"] = "median"
    compare_as: Literal["percent", "ratio", "difference"] = "percent"
    forecast: Annotated[Duration, within("1m", "365d")] | None = None
    forecast_from: Annotated[Duration, within("10m", "30d")] = _duration("6h")
    when_missing: Literal["stale", "ok", "firing", "keep"] = "stale"
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    summary: str = "{metric} is {value}"
    annotations: dict[str, str] = msgspec.field(default_factory=dict)
    channels: tuple[str, ...] = ()
    enabled: bool = True

    def __post_init__(self) -> None:
        if self.cooldown == _OF_CATEGORY:
            msgspec.structs.force_setattr(self, "cooldown", COOLDOWN_OF_CATEGORY[self.category])

    @property
    def clear_level(self) -> float:
        return self.threshold if self.clear is None else self.clear

    @property
    def upper_level(self) -> float:
        """The upper level of a band, ``threshold`` where there is none."""
        return self.threshold if self.upper is None else self.upper

    @property
    def clear_upper_level(self) -> float:
        return self.upper_level if self.clear_upper is None else self.clear_upper

    @property
    def matchers(self) -> tuple[Matcher, ...]:
        """What a series of ``metric`` must have.  Raises BadRequest for a ``where`` that cannot be read."""
        return _matchers(tuple(self.match.items()), self.where)

    @property
    def divisor_matchers(self) -> tuple[Matcher, ...]:
        """What a series of ``divide_by`` must have: as for ``metric`` unless told otherwise."""
        match = self.match if self.divide_match is None else self.divide_match
        return _matchers(tuple(match.items()), self.where if self.divide_where is None else self.divide_where)

    @property
    def group_aggregate(self) -> GroupAggregate:
        """How a group's series become one number."""
        if self.group is not None:
            return self.group
        if self.aggregate == "age":
            return "min"
        return "avg" if self.divide_by is None else "sum"


@functools.lru_cache(maxsize=4_096)
def _matchers(match: tuple[tuple[str, str], ...], where: str) -> tuple[Matcher, ...]:
    return (*equality_matchers(dict(match)), *parse_matchers(where))


DEFAULT_RULES: tuple[Rule, ...] = (
    Rule(
        name="cpu-saturated",
        category="system",
        severity="critical",
        metric="cpu_usage_percent",
        op=">",
        threshold=90.0,
        clear=85.0,
        summary="CPU of {host} at {value} %",
    ),
    Rule(
        name="memory-exhausted",
        category="system",
        severity="critical",
        metric="memory_used_percent",
        op=">",
        threshold=95.0,
        clear=90.0,
        summary="Memory of {host} at {value} %",
    ),
    Rule(
        name="response-slow",
        category="performance",
        metric="app_response_time_ms",
        op=">",
        threshold=2_000.0,
        clear=1_500.0,
        # Single slow answers are ordinary.
        confirm=True,
        summary="{service} on {host} answers in {value} ms",
    ),
    Rule(
        name="error-rate-high",
        category="performance",
        metric="app_errors_total",
        op=">",
        threshold=5.0,
        clear=3.0,
        aggregate="increase",
        divide_by="app_requests_total",
        scale=100.0,
        summary="{value} % of the requests to {service} on {host} fail",
    ),
    Rule(
        name="probe-down",
        category="integration",
        metric="probe_up",
        op="<",
        threshold=1.0,
        summary="{service} does not answer its probe",
    ),
    Rule(
        name="host-silent",
        category="integration",
        metric="cpu_usage_percent",
        aggregate="age",
        # Who has been silent for a quarter of an hour when first looked at is history; who stays away was taken down.
        op="inside",
        threshold=180.0,
        upper=900.0,
        clear=60.0,
        clear_upper=6_000.0,
        summary="{host} has not reported for {value:.0f} s, or its clock is off",
    ),
    Rule(
        name="disk-filling",
        category="system",
        metric="disk_used_percent",
        op=">",
        threshold=97.0,
        clear=90.0,
        for_=_duration("15m"),
        forecast=_duration("4h"),
        forecast_from=_duration("2h"),
        summary="{path} of {host} will be {value:.0f} % full in four hours",
    ),
    Rule(
        name="traffic-dropped",
        category="performance",
        metric="app_requests_total",
        op="<",
        threshold=-60.0,
        clear=-40.0,
        for_=_duration("2m"),
        aggregate="increase",
        over=_duration("5m"),
        group_by=("service",),
        group="sum",
        compare_with="weeks",
        summary="requests to {service} are {value:.0f} % off this hour of past weeks",
    ),
    Rule(
        name="failed-logins",
        category="security",
        severity="critical",
        metric="security_failed_logins_total",
        op=">",
        threshold=10.0,
        aggregate="increase",
        summary="{value} failed logins on {host} within a minute",
    ),
    Rule(
        name="threat-detected",
        category="security",
        severity="critical",
        metric="security_threats_total",
        op=">",
        threshold=0.0,
        aggregate="increase",
        summary="{value} threats detected on {host} within a minute",
    ),
    Rule(
        name="revenue-dropped",
        category="business",
        severity="info",
        metric="business_revenue_total",
        op="<",
        threshold=-30.0,
        clear=-20.0,
        for_=_duration("5m"),
        aggregate="increase",
        over=_duration("15m"),
        group_by=("service",),
        group="sum",
        compare_with="weeks",
        summary="Revenue of {service} is {value:.0f} % off this hour of past weeks",
    ),
    Rule(
        name="order-failures-unusual",
        category="business",
        severity="info",
        metric="business_order_failures_total",
        op=">",
        threshold=100.0,
        clear=50.0,
        for_=_duration("5m"),
        aggregate="increase",
        over=_duration("15m"),
        group_by=("service",),
        group="sum",
        compare_with="weeks",
        summary="Failures of orders of {service} are {value:.0f} % above this hour of past weeks",
    ),
)
