"""The configuration: one TOML file, one frozen Struct for each component, every setting with a default.

    server  ingest  storage  retention  query  watch  detection  bottlenecks  agent      one table each
    rules  channels  routes  escalation  inhibit  scale          lists: [[rules]], [[channels]] and so on

:func:`load_config` gives a :class:`Config` or raises :class:`~engine.errors.BadConfig` with every problem at
once; :func:`check_config` gives the problems themselves.  Types and bounds stand with each setting, what must
hold between settings in ``engine/config_check.py``, what a setting means in ``docs/configuration.md``.
Durations are nanoseconds, sizes are bytes; in the file both are texts with a unit.  No repr shows a secret.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from engine.config_base import (
    MASK,
    Aggregate,
    Keep,
    Level,
    Name,
    Scope,
    Settings,
    SignalKind,
    Span,
    Wait,
)
from engine.config_bottlenecks import Bottlenecks as Bottlenecks
from engine.config_channels import Channel as Channel
from engine.config_escalation import Escalation as Escalation
from engine.config_escalation import Inhibition as Inhibition
from engine.config_escalation import default_escalation
from engine.config_routes import Route as Route
from engine.config_routes import default_routes
from engine.config_rules import DEFAULT_RULES as DEFAULT_RULES
from engine.config_rules import Rule as Rule
from engine.config_toml import Problem
from engine.config_units import ByteSize, Duration, within
from engine.errors import BadConfig

_duration = Duration.parse
_size = ByteSize.parse


class Token(Settings, frozen=True, kw_only=True):
    """An API token.  ``sha256``: the token's SHA-256 in lower-case hex; the token itself is kept nowhere.

    ``match``: label matchers; only series that satisfy them exist for who has the token.  The rest says how its queries
    share the server with others'; None: as for all tokens.
    """

    name: Name
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$", extra={"secret": True})]
    scopes: Annotated[tuple[Scope, ...], Meta(min_length=1)]
    match: str = ""
    weight: Annotated[int, Meta(ge=1, le=1_000)] = 1
    concurrency: Annotated[int, Meta(ge=1, le=256)] | None = None
    queue: Annotated[int, Meta(ge=0, le=100_000)] | None = None
    timeout: Annotated[Duration, within("100ms", "1h")] | None = None

    def __repr__(self) -> str:
        return f"Token(name={self.name!r}, sha256={MASK!r}, scopes={self.scopes!r}, match={self.match!r})"


class Server(Settings, frozen=True, kw_only=True):
    listen: str = "127.0.0.1:8433"
    public_url: str | None = None
    max_body: Annotated[ByteSize, within("1KiB", "4GiB")] = _size("64MiB")
    max_decoded_body: Annotated[ByteSize, within("1KiB", "16GiB")] = _size("256MiB")
    tls_certificate: str | None = None
    tls_key: str | None = None
    require_token: bool = False
    tokens: tuple[Token, ...] = ()


class Flight(Settings, frozen=True, kw_only=True):
    """Arrow Flight SQL, off where ``listen`` is None; tokens and TLS are those of ``[server]``."""

    listen: str | None = None


class Ingest(Settings, frozen=True, kw_only=True):
    max_future: Annotated[Duration, within("0s", "7d")] = _duration("10m")
    max_tag_sets: Annotated[int, Meta(ge=1, le=2**31 - 1)] = 2_000_000
    max_tag_sets_per_table: Annotated[int, Meta(ge=1, le=2**31 - 1)] = 1_500_000
    max_new_tag_sets_per_hour: Annotated[int, Meta(ge=1, le=2**31 - 1)] = 2_000_000
    idle_after: Annotated[Duration, within("10m", "30d")] = _duration("2h")
    max_tables: Annotated[int, Meta(ge=1, le=2**31 - 1)] = 2_000
    max_fields_per_table: Annotated[int, Meta(ge=1, le=65_536)] = 4_096
    queue: Annotated[ByteSize, within("1MiB")] = _size("256MiB")
    max_reported_lines: Annotated[int, Meta(ge=0, le=10_000)] = 100


class Storage(Settings, frozen=True, kw_only=True):
    wal_segment: Annotated[ByteSize, within("1MiB", "4GiB")] = _size("64MiB")
    wal_limit: Annotated[ByteSize, within("1MiB")] = _size("1GiB")
    hot_limit: Annotated[ByteSize, within("1MiB")] = _size("512MiB")
    partition: Annotated[Duration, within("1m", "7d")] = _duration("2h")
    seal_after: Annotated[Duration, within("1s", "1d")] = _duration("1h")
    disk_reserve: Annotated[ByteSize, within("0B")] = _size("256MiB")


class TableRetention(Settings, frozen=True, kw_only=True):
    """Retention of the tables whose name matches the glob ``match``; the first matching entry counts.

    None: as for all tables.
    """

    match: Name
    raw: Keep | None = None
    rollup_1m: Keep | None = None
    rollup_5m: Keep | None = None
    rollup_15m: Keep | None = None
    rollup_1h: Keep | None = None
    rollup_1d: Keep | None = None


class Retention(Settings, frozen=True, kw_only=True):
    """How long raw samples and each rollup tier are kept; 0 is for ever."""

    raw: Keep = _duration("7d")
    rollup_1m: Keep = _duration("30d")
    rollup_5m: Keep = _duration("90d")
    rollup_15m: Keep = _duration("180d")
    rollup_1h: Keep = _duration("2y")
    rollup_1d: Keep = _duration("forever")
    tables: tuple[TableRetention, ...] = (
        TableRetention(match="business*", raw=_duration("30d")),
        TableRetention(match="security*", raw=_duration("30d")),
    )


#: For readers of a directory whose owner's settings are not known.
KEEP_ALL = Retention(
    raw=Duration(0),
    rollup_1m=Duration(0),
    rollup_5m=Duration(0),
    rollup_15m=Duration(0),
    rollup_1h=Duration(0),
    rollup_1d=Duration(0),
    tables=(),
)


class Rollups(Settings, frozen=True, kw_only=True):
    """Which metrics, by globs of their names, have more than count, sum, min, max, first and last in the tiers."""

    counters: tuple[str, ...] = ("*_total", "*_count", "*_bucket", "*_bytes_sent", "*_bytes_recv", "*_packets_*")
    histograms: tuple[str, ...] = ("*response_time_ms", "*response_time", "*duration_ms", "*_latency", "*_latency_ms")


class Query(Settings, frozen=True, kw_only=True):
    timeout: Annotated[Duration, within("100ms", "1h")] = _duration("30s")
    max_rows: Annotated[int, Meta(ge=1, le=10**9)] = 1_000_000
    max_result: Annotated[ByteSize, within("64KiB")] = _size("256MiB")
    memory: Annotated[ByteSize, within("64MiB")] = _size("1GiB")
    statement_memory: Annotated[ByteSize, within("8MiB")] = _size("128MiB")
    cache: Annotated[ByteSize, within("0B")] = _size("256MiB")
    tier_cache: Annotated[ByteSize, within("0B")] = _size("64MiB")
    rewrite_to_tiers: bool = True
    concurrency: Annotated[int, Meta(ge=1, le=256)] = 4
    queue: Annotated[int, Meta(ge=0, le=100_000)] = 64
    concurrency_per_token: Annotated[int, Meta(ge=1, le=256)] = 3
    queue_per_token: Annotated[int, Meta(ge=0, le=100_000)] = 32
    reader_patience: Annotated[Duration, within("100ms", "1h")] = _duration("10s")
    nice: Annotated[int, Meta(ge=0, le=19)] = 5
    in_process: bool = False


class Watch(Settings, frozen=True, kw_only=True):
    tick: Annotated[Duration, within("1s", "5m")] = _duration("5s")
    stale_after: Annotated[Duration, within("5s", "1d")] = _duration("5m")
    default_rules: bool = True
    confirm: bool = False
    rule_files: tuple[str, ...] = ()
    default_routes: bool = True
    default_escalation: bool = True
    flap_changes: Annotated[int, Meta(ge=0, le=1_000)] = 10
    flap_window: Annotated[Duration, within("1m", "1d")] = _duration("30m")


class Detection(Settings, frozen=True, kw_only=True):
    """``metrics``: patterns (``*``, ``?``) of the metrics that are judged; none means all.

    ``subjects``: labels whose values are judged by all of their metrics together.
    """

    enabled: bool = True
    interval: Annotated[Duration, within("5s", "1h")] = _duration("1m")
    metrics: tuple[str, ...] = ()
    max_series: Annotated[int, Meta(ge=1, le=10_000_000)] = 100_000
    subjects: tuple[str, ...] = ("host", "service")
    max_subjects: Annotated[int, Meta(ge=1, le=100_000)] = 200


# Of each kind: metric, scale-up level, scale-down level, aggregate, divisor, factor.
_SIGNAL_DEFAULTS: dict[SignalKind, tuple[str, float, float, Aggregate, str | None, float]] = {
    "cpu": ("cpu_usage_percent", 70.0, 30.0, "last", None, 1.0),
    "memory": ("memory_used_percent", 80.0, 50.0, "last", None, 1.0),
    "response_time": ("app_response_time_ms", 2_000.0, 500.0, "last", None, 1.0),
    "queue": ("app_queue_length", 100.0, 10.0, "last", None, 1.0),
    "error_rate": ("app_errors_total", 5.0, 1.0, "increase", "app_requests_total", 100.0),
}


class Signal(Settings, frozen=True, kw_only=True):
    """One reason to scale.  What is left out is filled in from the kind: its metric and its two levels.

    ``metric``, ``aggregate``, ``divide_by`` and ``scale`` belong together: those of the kind are taken only
    where the metric is the kind's too.
    """

    kind: SignalKind
    metric: str = ""
    up: Level = math.nan
    down: Level = math.nan
    aggregate: Aggregate = "last"
    over: Span = _duration("60s")
    divide_by: str | None = None
    scale: float = 1.0
    across: Literal["avg", "max", "sum"] = "avg"

    def __post_init__(self) -> None:
        metric, up, down, aggregate, divide_by, scale = _SIGNAL_DEFAULTS[self.kind]
        filled: dict[str, Any] = {}
        if not self.metric:
            filled["metric"] = metric
            filled["aggregate"] = aggregate if self.aggregate == "last" else self.aggregate
            filled["divide_by"] = divide_by if self.divide_by is None else self.divide_by
            filled["scale"] = scale if self.scale == 1.0 else self.scale
        if math.isnan(self.up):
            filled["up"] = up
        if math.isnan(self.down):
            filled["down"] = down
        for name, value in filled.items():
            msgspec.structs.force_setattr(self, name, value)


DEFAULT_SIGNALS: tuple[Signal, ...] = tuple(Signal(kind=kind) for kind in _SIGNAL_DEFAULTS)


class ScaleTarget(Settings, frozen=True, kw_only=True):
    """Something with a number of instances.  ``match``: the labels that select them; {} selects every one."""

    target: Name
    match: dict[str, str]
    min: Annotated[int, Meta(ge=1, le=100_000)] = 2
    max: Annotated[int, Meta(ge=1, le=100_000)] = 20
    cooldown: Wait = _duration("300s")
    stabilisation: Wait = _duration("300s")
    tolerance: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.1
    stale_after: Annotated[Duration, within("1s", "1d")] = _duration("2m")
    instance_label: Name = "host"
    instances: str | None = None
    predict: bool = True
    requests: str | None = None
    signals: Annotated[tuple[Signal, ...], Meta(min_length=1)] = DEFAULT_SIGNALS


class Agent(Settings, frozen=True, kw_only=True):
    """The host agent, ``tidegauge agent``; the server does not read it."""

    to: str = "http://127.0.0.1:8433"
    interval: Annotated[Duration, within("1s", "1h")] = _duration("30s")
    token_file: str | None = None
    buffer_directory: str = "tidegauge-agent-buffer"
    buffer: Annotated[ByteSize, within("1MiB")] = _size("256MiB")


class Config(Settings, frozen=True, kw_only=True):
    """Everything.  ``rules`` are the file's own; what is evaluated is :attr:`effective_rules`."""

    server: Server = Server()
    flight: Flight = Flight()
    ingest: Ingest = Ingest()
    storage: Storage = Storage()
    retention: Retention = Retention()
    rollups: Rollups = Rollups()
    query: Query = Query()
    watch: Watch = Watch()
    detection: Detection = Detection()
    bottlenecks: Bottlenecks = Bottlenecks()
    rules: tuple[Rule, ...] = ()
    channels: tuple[Channel, ...] = ()
    routes: tuple[Route, ...] = ()
    escalation: tuple[Escalation, ...] = ()
    inhibit: tuple[Inhibition, ...] = ()
    scale: tuple[ScaleTarget, ...] = ()
    agent: Agent = Agent()

    @property
    def effective_rules(self) -> tuple[Rule, ...]:
        """The default rules, unless switched off, then the file's; those replace a default of their name."""
        own = {rule.name for rule in self.rules}
        defaults = DEFAULT_RULES if self.watch.default_rules else ()
        if self.watch.confirm:
            defaults = tuple(
                msgspec.structs.replace(rule, confirm=True) if rule.aggregate == "last" and not rule.for_ else rule
                for rule in defaults
            )
        return (*(rule for rule in defaults if rule.name not in own), *self.rules)

    @property
    def effective_routes(self) -> tuple[Route, ...]:
        """The file's routes, then the built-in ones, unless switched off, without those of the same names."""
        own = {route.name for route in self.routes}
        defaults = default_routes(self.channels) if self.watch.default_routes else ()
        return (*self.routes, *(route for route in defaults if route.name not in own))

    @property
    def effective_escalation(self) -> tuple[Escalation, ...]:
        """The built-in steps, unless switched off, then the file's; those replace a built-in one of their name."""
        own = {step.name for step in self.escalation}
        defaults = default_escalation(self.channels) if self.watch.default_escalation else ()
        return (*(step for step in defaults if step.name not in own), *self.escalation)


def check_config(text: str, *, path: str) -> list[Problem]:
    """Return every problem of the TOML document ``text`` in the order of its lines; ``path`` names it."""
    return parse_config(text, path=path)[1]


def parse_config(text: str, *, path: str) -> tuple[Config | None, list[Problem]]:
    """Return the configuration, or None and the problems that prevent it."""
    from engine import config_check  # which needs the Structs above

    return config_check.read(text, path=path)


def load_config(path: str | None) -> Config:
    """Return the configuration in the file ``path``, the defaults for None.

    Raises BadConfig with every problem at once, also when the file cannot be read.
    """
    if path is None:
        return Config()
    config, problems = check_file(path)
    if config is not None:
        return config
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    message = f"cannot use the configuration: {problems[0].sentence}{more}"
    raise BadConfig(message, [problem.sentence for problem in problems])


def check_file(path: str) -> tuple[Config | None, list[Problem]]:
    """Return the configuration in the file ``path`` with the rules of its rule files, or None and every problem.

    Raises BadConfig when the file itself cannot be read.
    """
    from engine.config_rule_files import with_rule_files  # which needs the Structs above

    config, problems = parse_config(read_config_text(path), path=path)
    if config is not None:
        config, problems = with_rule_files(config, path)
    return config if not problems else None, problems


def read_config_text(path: str, what: str = "configuration ") -> str:
    """Return the text of the file ``path``.  Raises BadConfig, which says ``what`` it is, when it cannot be read."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError as error:
        reason = error.strerror or str(error)
    except UnicodeDecodeError as error:
        reason = f"got bytes that are not UTF-8 at offset {error.start}"
    message = f"cannot read {what}{path}: {reason}"
    raise BadConfig(message, [message])
