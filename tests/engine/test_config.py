"""Configuration: every problem at once with its line, the documents' defaults, secrets that stay hidden."""

from __future__ import annotations

import math
import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import inspect

from engine.config import (
    DEFAULT_RULES,
    ByteSize,
    Channel,
    Config,
    Duration,
    Escalation,
    Rule,
    ScaleTarget,
    Server,
    Signal,
    Token,
    Watch,
    check_config,
    load_config,
    parse_config,
)
from engine.config_check import is_loopback, split_address
from engine.config_rules import COOLDOWN_OF_CATEGORY
from engine.config_toml import key_lines
from engine.errors import BadConfig

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLE = (DOCS / "tidegauge.example.toml").read_text()
SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
RULE = '[[rules]]\nname = "r"\nmetric = "cpu_usage_percent"\nop = ">"\nthreshold = 90\n'
MAIL = '[[channels]]\nname = "a"\ntype = "email"\nserver = "localhost:25"\nfrom = "a@x"\nto = ["b@x"]\n'
STEP = '[[escalation]]\nname = "s"\nchannels = ["ops"]\n'
ROUTE = '[[routes]]\nname = "r"\nchannels = ["a"]\n'
TARGET = '[[scale]]\ntarget = "shop"\nmatch = {service = "shop"}\n'


def problems_of(text: str) -> list[tuple[int, str, str]]:
    return [(problem.line, problem.key, problem.message) for problem in check_config(text, path="t.toml")]


# --- units ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0s", 0),
        ("500ms", 0.5),
        ("30s", 30),
        ("5m", 300),
        ("2h", 7_200),
        ("7d", 604_800),
        ("2w", 1_209_600),
        ("2y", 63_072_000),
        ("1h30m", 5_400),
        ("forever", 0),
    ],
)
def test_duration_reads_its_units(text: str, seconds: float) -> None:
    assert Duration.parse(text).seconds == seconds


@pytest.mark.parametrize("text", ["", "5", "s", "5 m", "1.5h", "-1s", "5min", "5M", "m5", "1h30", "300y", "٣s"])
def test_duration_refuses_everything_else(text: str) -> None:
    with pytest.raises(ValueError, match="cannot read a duration"):
        Duration.parse(text)


@given(st.integers(0, 2**63 - 1))
def test_duration_text_round_trips(nanoseconds: int) -> None:
    assert Duration.parse(Duration(nanoseconds).text) == nanoseconds


@pytest.mark.parametrize(
    ("text", "size"),
    [("0B", 0), ("64MiB", 64 << 20), ("64 MiB", 64 << 20), ("1GB", 10**9), ("512", 512), ("2TiB", 2 << 40)],
)
def test_byte_size_reads_its_units(text: str, size: int) -> None:
    assert ByteSize.parse(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "1.5GiB", "-1B", "64mib", "64M", "1e3", "64MiB "])
def test_byte_size_refuses_everything_else(text: str) -> None:
    with pytest.raises(ValueError, match="cannot read a size"):
        ByteSize.parse(text)


@given(st.integers(0, 2**50))
def test_byte_size_text_round_trips(size: int) -> None:
    assert ByteSize.parse(ByteSize(size).text) == size


def test_units_print_as_plain_numbers_where_text_is_built() -> None:
    assert f"{Duration.parse('1s')} {ByteSize.parse('1KiB')}" == "1000000000 1024"
    assert repr(Duration.parse("90s")) == "Duration('90s')"


# --- defaults and documents -------------------------------------------------------------------------------


def test_example_file_is_exactly_the_defaults() -> None:
    config, problems = parse_config(EXAMPLE, path="example")
    assert problems == []
    assert config == Config() == load_config(None) == load_config(str(DOCS / "tidegauge.example.toml"))


def with_everything_switched_on() -> str:
    return re.sub(r"(?m)^#(?=[a-z\[]|$)", "", EXAMPLE)


def settings_of(kind: inspect.Type, prefix: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """Return (path, default) of every setting below ``kind``, lists entered as if they were one entry."""
    if isinstance(kind, inspect.Metadata):
        return settings_of(kind.type, prefix)
    if isinstance(kind, inspect.VarTupleType) and isinstance(kind.item_type, inspect.StructType):
        return settings_of(kind.item_type, prefix)
    if not isinstance(kind, inspect.StructType):
        return []
    found: list[tuple[tuple[str, ...], Any]] = []
    for field in kind.fields:
        below = settings_of(field.type, (*prefix, field.encode_name))
        default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        found += below or [((*prefix, field.encode_name), default)]
    return found


ALL_SETTINGS = settings_of(inspect.type_info(Config))


def test_settings_are_found_at_every_depth() -> None:
    paths = {".".join(path) for path, _ in ALL_SETTINGS}
    assert {"server.listen", "server.tokens.sha256", "rules.for", "scale.signals.up", "agent.buffer"} <= paths
    assert len(paths) == len(ALL_SETTINGS) > 80


def as_text(default: Any) -> Any:
    """Return a default as a file writes it."""
    if isinstance(default, Duration):
        return default.text
    if isinstance(default, ByteSize):
        return default.text
    return list(default) if isinstance(default, tuple) else default


def collect(tree: Any, path: tuple[str, ...]) -> list[Any]:
    """Return the values at ``path`` in every entry of the lists on the way."""
    if isinstance(tree, list) and path:
        return [value for entry in tree for value in collect(entry, path)]
    if not path:
        return [tree]
    return collect(tree[path[0]], path[1:]) if path[0] in tree else []


# Values of the example that show a use instead of the default, which is to leave the setting out.
ILLUSTRATIONS = {
    *("server.tokens", "rules.channels", "rules.cooldown", "rules.clear", "scale.signals"),
    *("rules.over", "rules.upper", "rules.clear_upper"),
    "channels.to",
}


@pytest.mark.parametrize(("path", "default"), ALL_SETTINGS, ids=[".".join(path) for path, _ in ALL_SETTINGS])
def test_example_file_shows_every_setting_with_its_default(path: tuple[str, ...], default: Any) -> None:
    values = collect(tomllib.loads(with_everything_switched_on()), path)
    assert values, "the setting is missing from the example"
    name = ".".join(path)
    if default is msgspec.NODEFAULT or default is None or name in ILLUSTRATIONS or path[0:2] == ("scale", "signals"):
        return
    shown = {Duration: Duration.parse, ByteSize: ByteSize.parse}.get(type(default), lambda value: value)(values[0])
    if name == "retention.rollup_1d":
        assert values == ["forever"]
    assert shown == (list(default) if isinstance(default, tuple) else default)


def test_example_file_is_valid_with_everything_switched_on() -> None:
    config, problems = parse_config(with_everything_switched_on(), path="example")
    assert problems == []
    assert config is not None
    parts = (config.rules, config.channels, config.escalation, config.scale, config.server.tokens)
    assert [len(part) for part in parts] == [6, 6, 1, 1, 1]
    assert config.scale[0].signals == ScaleTarget(target="any", match={}).signals
    assert (config.server.tls_key, config.agent.token_file) == (
        "/etc/tidegauge/key.pem",
        "/etc/tidegauge/agent.token",
    )


def documented_settings() -> dict[str, str]:
    text = (DOCS / "configuration.md").read_text()
    return dict(re.findall(r"(?m)^\| `([a-z]+\.[a-z0-9_.]+)` \| ([^|]*?) \|", text))


def test_every_setting_is_documented_and_nothing_else_is() -> None:
    assert set(documented_settings()) == {".".join(path) for path, _ in ALL_SETTINGS}


@pytest.mark.parametrize(("path", "default"), ALL_SETTINGS, ids=[".".join(path) for path, _ in ALL_SETTINGS])
def test_documented_default_is_the_default(path: tuple[str, ...], default: Any) -> None:
    cell = documented_settings()[".".join(path)]
    name = ".".join(path)
    words = {
        "rules.clear": "`threshold`",
        "rules.cooldown": "that of the category",
        "rules.channels": "as [routed](#routes)",
        "rules.clear_upper": "`upper`",
        "rules.divide_match": "`match`",
        "rules.divide_where": "`where`",
        "rules.group": '`"avg"`; `"sum"` with `divide_by`, `"min"` for `age`',
        "scale.signals.metric": "that of the kind",
        "scale.signals.up": "that of the kind",
        "scale.signals.down": "that of the kind",
        "retention.rollup_1d": '`"forever"`',
    }
    if name in words:
        expected = words[name]
    elif default is msgspec.NODEFAULT:
        expected = "required"
    elif default is None:
        expected = "–"
    else:
        text = as_text(default)
        literal = f'"{text}"' if isinstance(text, str) else str(text).lower()
        expected = f"`{literal}`"
    if isinstance(default, Duration) and name not in words:
        assert Duration.parse(cell.strip('`"')) == default
    else:
        assert cell == expected


def test_built_in_rules_are_consistent_with_their_own_checks() -> None:
    for rule in DEFAULT_RULES:
        assert rule.clear_level <= rule.threshold if rule.op in (">", "inside") else rule.clear_level >= rule.threshold
        assert rule.cooldown == COOLDOWN_OF_CATEGORY[rule.category]
    documented = (DOCS / "configuration.md").read_text()
    assert all(f"| `{rule.name}` | {rule.category} | {rule.severity} |" in documented for rule in DEFAULT_RULES)


# --- what a file gives ------------------------------------------------------------------------------------


def test_values_arrive_typed() -> None:
    config, problems = parse_config(
        'server.max_body = 1048576\nstorage.partition = "1d"\nretention.raw = "forever"\n'
        'retention.rollup_1m = "forever"\nretention.rollup_5m = "forever"\nretention.rollup_15m = "forever"\n'
        'retention.rollup_1h = "forever"\nwatch.default_rules = false\n' + RULE + 'for = "1m"\nclear = 80\n',
        path="t",
    )
    assert problems == []
    assert config is not None
    assert config.server.max_body == ByteSize(1 << 20)
    assert config.storage.partition == Duration.parse("24h")
    assert config.retention.raw == 0
    assert type(config.storage.partition) is Duration
    assert type(config.rules[0].threshold) is float
    assert config.effective_rules == config.rules
    assert (config.rules[0].for_.seconds, config.rules[0].clear_level) == (60, 80.0)


def test_a_rule_of_the_file_replaces_the_default_of_its_name() -> None:
    config, _ = parse_config(RULE.replace('"r"', '"cpu-saturated"'), path="t")
    assert config is not None
    names = [rule.name for rule in config.effective_rules]
    assert len(names) == len(set(names)) == len(DEFAULT_RULES)
    assert config.effective_rules[-1] == config.rules[0]


@pytest.mark.parametrize("category", sorted(COOLDOWN_OF_CATEGORY))
def test_cooldown_follows_the_category_unless_given(category: Any) -> None:
    assert Rule(name="r", metric="m", op=">", threshold=1, category=category).cooldown == COOLDOWN_OF_CATEGORY[category]
    given_text = RULE + f'category = "{category}"\ncooldown = "7s"\n'
    config, _ = parse_config(given_text, path="t")
    assert config is not None
    assert config.rules[0].cooldown.seconds == 7


def test_built_in_steps_go_to_the_channels_there_are() -> None:
    hook, mail, phone = (
        Channel(name="hook", url="http://x"),
        Channel(name="mail", type="email"),
        Channel(name="phone", type="sms"),
    )
    assert Config(channels=(hook,)).effective_escalation == ()
    steps = {step.name: step for step in Config(channels=(hook, mail, phone)).effective_escalation}
    assert {name: (step.after.text, step.channels) for name, step in steps.items()} == {
        "system-critical": ("5m", ("mail", "phone")),
        "performance": ("15m", ("mail",)),
        "security": ("0s", ("mail", "phone")),
        "integration": ("10m", ("mail",)),
    }
    assert Config(channels=(mail,), watch=Watch(default_escalation=False)).effective_escalation == ()
    own = Escalation(name="security", after=Duration.parse("1m"), channels=("hook",))
    assert Config(channels=(hook, mail), escalation=(own,)).effective_escalation[-1] == own
    documented = (DOCS / "configuration.md").read_text()
    for step in steps.values():
        assert f"| `{step.name}` | {step.category}" in documented


def test_signal_takes_from_its_kind_only_what_belongs_to_the_kind() -> None:
    assert Signal(kind="error_rate").divide_by == "app_requests_total"
    own = Signal(kind="error_rate", metric="edge_failures", up=9.0)
    assert (own.divide_by, own.scale, own.aggregate, own.up, own.down) == (None, 1.0, "last", 9.0, 1.0)
    assert not any(math.isnan(signal.up) for signal in ScaleTarget(target="t", match={}).signals)


def test_repr_masks_secrets() -> None:
    channel = Channel(
        name="c",
        url="https://example.org/s3cret?key=s3cret",
        secret="s3cret",
        password="s3cret",
        payload={"key": "s3cret"},
        headers={"Authorization": "Bearer t0p"},
    )
    token = Token(name="t", sha256=SHA256, scopes=("read",))
    text = repr(Config(channels=(channel,), server=Server(tokens=(token,))))
    assert "s3cret" not in text
    assert "t0p" not in text
    assert SHA256 not in text
    assert "Authorization" in text
    assert "https://example.org" in text


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Config().server.listen = "0.0.0.0:80"  # type: ignore[misc]


# --- problems ---------------------------------------------------------------------------------------------

TABLE = [
    ("x = 1", 1, "x", "unknown setting"),
    ("[server]\n\nlistn = 1", 3, "server.listn", "did you mean 'listen'?"),
    ("[querry]\ntimeout = 3", 1, "querry", "did you mean 'query'?"),
    ("server = 3", 1, "server", "got 3, want a table"),
    ("[server]\nlisten = 8433", 2, "server.listen", "got 8433, want a text"),
    ('[server]\nlisten = "8433"', 2, "server.listen", "HOST:PORT"),
    ('[server]\nlisten = "localhost:99999"', 2, "server.listen", "HOST:PORT"),
    ('[server]\nlisten = "::1:80"', 2, "server.listen", "HOST:PORT"),
    ('[server]\nlisten = "0.0.0.0:8433"', 2, "server.listen", "[[server.tokens]]"),
    ('[server]\ntls_key = "k"', 2, "server.tls_key", "server.tls_certificate beside it"),
    ('[server]\ntls_certificate = "c"', 2, "server.tls_certificate", "server.tls_key beside it"),
    ('[server]\nmax_body = "64"', 2, "server.max_body", "from 1KiB to 4GiB"),
    ('[server]\nmax_body = "1GiB"', 2, "server.max_body", "at most server.max_decoded_body, which is 256MiB"),
    (
        '[server]\nmax_body = "1GiB"\nmax_decoded_body = "1MiB"',
        3,
        "server.max_decoded_body",
        "at least server.max_body, which is 1GiB",
    ),
    ("[server]\nmax_body = -5", 2, "server.max_body", "got -5, want a size"),
    ("[server]\nmax_body = true", 2, "server.max_body", "got true"),
    (
        '[[server.tokens]]\nname = "a"\nsha256 = "abc"\nscopes = ["read"]',
        3,
        "server.tokens[1].sha256",
        "got ***",
    ),
    (
        f'[[server.tokens]]\nname = "a"\nsha256 = "{SHA256}"\nscopes = []',
        4,
        "server.tokens[1].scopes",
        "at least 1",
    ),
    (
        f'[[server.tokens]]\nname = "a"\nsha256 = "{SHA256}"\nscopes = ["read", "root"]',
        4,
        "server.tokens[1].scopes[2]",
        '"root"',
    ),
    # Nothing usable is left of a list that must hold something.
    (
        f'[[server.tokens]]\nname = "a"\nsha256 = "{SHA256}"\nscopes = [["read"]]',
        4,
        "server.tokens[1].scopes[1]",
        '["read"]',
    ),
    ("[ingest]\nmax_tables = 0", 2, "ingest.max_tables", "at least 1 and at most"),
    ("[ingest]\nmax_tables = 1.5", 2, "ingest.max_tables", "a whole number"),
    ("[ingest]\nmax_fields_per_table = 70000", 2, "ingest.max_fields_per_table", "at most 65536"),
    ("[ingest]\nmax_future = 600", 2, "ingest.max_future", 'a duration such as "30s"'),
    ('[ingest]\nmax_future = "10 m"', 2, "ingest.max_future", 'got "10 m"'),
    ('[ingest]\nmax_future = "forever"', 2, "ingest.max_future", "from 0s to 7d"),
    ('[storage]\npartition = "7h"', 2, "storage.partition", "a whole part of a day"),
    ('[storage]\nwal_limit = "32MiB"', 2, "storage.wal_limit", "storage.wal_segment, which is 64MiB"),
    ('[retention]\nraw = "30m"', 2, "retention.raw", "of at least 1h"),
    ('[retention]\nraw = "1h"', 2, "retention.raw", "storage.partition, which is 2h"),
    ('[query]\nmemory = "128MiB"', 2, "query.memory", "query.max_result, which is 256MiB"),
    ('[query]\nin_process = "no"', 2, "query.in_process", "true or false"),
    ('[bottlenecks]\nstep = "10m"', 2, "bottlenecks.step", "which is 10m and must be at least two steps"),
    ('[bottlenecks]\nwindow = "90s"', 2, "bottlenecks.window", "at least two steps of 1m"),
    ('[bottlenecks]\nhistory = "6h"\nstep = "5s"', 2, "bottlenecks.history", "at most 1000 steps of bottlenecks.step"),
    ('[bottlenecks]\ncalls = ["web"]', 2, "bottlenecks.calls[1]", "a text that matches"),
    ('[watch]\ntick = "1m"\nstale_after = "30s"', 3, "watch.stale_after", "watch.tick, which is 1m"),
    ('[[rules]]\nmetric = "m"\nop = ">"\nthreshold = 1', 1, "rules[1].name", "missing, want a text"),
    (RULE.replace('">"', '"=>"'), 4, "rules[1].op", 'one of "<", "<=", ">", ">="'),
    (RULE.replace("90", '"90"'), 5, "rules[1].threshold", 'got "90", want a number'),
    (RULE.replace("90", "nan"), 5, "rules[1].threshold", "got nan, want a number"),
    (RULE + "clear = 91", 6, "rules[1].clear", "at most the threshold, 90"),
    (RULE.replace('">"', '"<"') + "clear = 89.5", 6, "rules[1].clear", "at least the threshold, 90"),
    (RULE + 'channels = ["ops"]', 6, "rules[1].channels[1]", "an entry in [[channels]]"),
    (RULE + 'summary = "{value"', 6, "rules[1].summary", "placeholders"),
    (RULE + 'summary = "{}"', 6, "rules[1].summary", "placeholders"),
    (RULE + 'summary = "{host.name}"', 6, "rules[1].summary", "placeholders"),
    (RULE + "match = {host = 3}", 6, "rules[1].match", "a table of texts"),
    (RULE + 'divide_by = ""', 6, "rules[1].divide_by", "the name of a metric"),
    (RULE + 'summary = "{value:.q}"', 6, "rules[1].summary", "a format of numbers"),
    (RULE + 'summary = "{host:.1f}"', 6, "rules[1].summary", "which is a text"),
    (RULE + 'summary = "{host!r}"', 6, "rules[1].summary", "placeholders"),
    (RULE + 'summary = "{host}"\ngroup_by = ["zone"]', 6, "rules[1].summary", "labels of group_by and match"),
    (RULE + 'labels = {team = "{value}"}', 6, "rules[1].labels.team", "no {value} in a label"),
    (RULE + 'labels = {team = "{"}', 6, "rules[1].labels.team", "{label} placeholders"),
    (RULE + 'annotations = {a = "{value:.q}"}', 6, "rules[1].annotations.a", "a format of numbers"),
    (RULE + 'annotations = {"a-b" = "c"}', 6, "rules[1].annotations.a-b", "letters, digits and underscores"),
    (RULE + 'labels = {"a-b" = "c"}', 6, "rules[1].labels.a-b", "letters, digits and underscores"),
    (RULE + 'labels = {a = "c"}\ngroup_by = ["a"]', 6, "rules[1].labels.a", "group_by or match gives already"),
    (RULE + "upper = 95", 6, "rules[1].upper", 'no upper for op = ">"'),
    (RULE + "clear_upper = 95", 6, "rules[1].clear_upper", 'no clear_upper for op = ">"'),
    (RULE.replace('">"', '"inside"'), 1, "rules[1].upper", "the upper level"),
    (RULE.replace('">"', '"inside"') + "upper = 89", 6, "rules[1].upper", "at least the threshold, 90"),
    (RULE.replace('">"', '"inside"') + "upper = 95\nclear = 91", 7, "rules[1].clear", "at most the threshold, 90"),
    (RULE.replace('">"', '"inside"') + "upper = 95\nclear_upper = 94", 7, "rules[1].clear_upper", "at least upper, 95"),
    (RULE.replace('">"', '"outside"') + "upper = 95\nclear = 89", 7, "rules[1].clear", "at least the threshold, 90"),
    (RULE.replace('">"', '"outside"') + "upper = 95\nclear_upper = 96", 7, "rules[1].clear_upper", "at most upper, 95"),
    (
        RULE.replace('">"', '"outside"') + "upper = 95\nclear = 94\nclear_upper = 93",
        7,
        "rules[1].clear",
        "at most clear_u",
    ),
    (RULE + "where = 'a=5'", 6, "rules[1].where", "matchers such as"),
    (RULE + "where = 'a=~\"(\"'", 6, "rules[1].where", "no regular expression"),
    (RULE + "divide_match = {}", 6, "rules[1].divide_match", "divide_by beside it"),
    (RULE + "divide_on = []", 6, "rules[1].divide_on", "divide_by beside it"),
    (RULE + 'divide_by = "b"\ndivide_on = []\ngroup_by = []', 7, "rules[1].divide_on", "no divide_on beside group_by"),
    (RULE + 'group_by = ["a", "a"]', 6, "rules[1].group_by", "each one once"),
    (RULE + 'group = "sum"', 6, "rules[1].group", "group_by beside it"),
    (RULE + 'aggregate = "age"\nforecast = "1h"', 7, "rules[1].forecast", 'no forecast for aggregate = "age"'),
    (RULE + 'aggregate = "age"\ndivide_by = "b"', 7, "rules[1].divide_by", 'no divide_by for aggregate = "age"'),
    (RULE + 'forecast = "1h"\ncompare_with = "days"', 6, "rules[1].forecast", "no forecast beside compare_with"),
    (RULE + 'compare_with = "months"', 6, "rules[1].compare_with", '"days", "weeks"'),
    (RULE + RULE, 7, "rules[2].name", "entry 1 has this one already"),
    ('[[channels]]\nname = "a"\nurl = "ftp://x"', 3, "channels[1].url", "https://example.org"),
    ('[[channels]]\nname = "a"\nurl = "http://[x"', 3, "channels[1].url", "https://example.org"),
    (
        '[[channels]]\nname = "a"\nurl = "http://x"\nsecret = 55',
        4,
        "channels[1].secret",
        "got ***, want a text",
    ),
    ('[[channels]]\nname = "a"\nurl = "http://x"\nheaders = {a = 77}', 4, "channels[1].headers", "got ***"),
    ('[[channels]]\nname = "a"\nurl = "http://x"\ntype = "pigeon"', 4, "channels[1].type", '"webhook"'),
    ('[[channels]]\nname = "a"', 1, "channels[1].url", 'got nothing, want one for type = "webhook"'),
    ('[[channels]]\nname = "a"\nurl = "s3cret/path"', 3, "channels[1].url", "got ***"),
    (
        '[[channels]]\nname = "a"\ntype = "slack"\nurl = "http://x"\nsecret = "s3cret"',
        5,
        "channels[1].secret",
        'got ***, want no secret for type = "slack"',
    ),
    (MAIL.replace("localhost:25", "localhost"), 4, "channels[1].server", "want HOST:PORT"),
    (MAIL.replace('["b@x"]', "[]"), 6, "channels[1].to", 'want one for type = "email"'),
    (MAIL.replace('"b@x"', '"b@x\\nBcc: c@x"'), 6, "channels[1].to[1]", "ops@example.org"),
    (MAIL.replace('"a@x"', '"Ann <a@x>"'), 5, "channels[1].from", "ops@example.org"),
    ('[[inhibit]]\nname = "i"\nsource = {}\ntarget = {a = "b"}', 3, "inhibit[1].source", "at least one label"),
    ('[[inhibit]]\nname = "i"\nsource = {a = "b"}', 1, "inhibit[1].target", "missing, want a table of texts"),
    ('[[channels]]\nname = "a"\nurl = "http://x"\nheartbeat = "1s"', 4, "channels[1].heartbeat", "from 10s to 1d"),
    ('[[channels]]\nname = "a"\nurl = "http://x"\nbudget = 0', 4, "channels[1].budget", "at least 1"),
    ('[[channels]]\nname = "a"\nurl = "http://x"\ngroup_wait = "1s"', 4, "channels[1].group_wait", "want group_by"),
    (MAIL + 'group_by = []\ngroup_text = "{alerts"', 8, "channels[1].group_text", "placeholders"),
    (MAIL + 'group_by = ["a", 1]', 7, "channels[1].group_by[2]", "want a text"),
    (
        '[[channels]]\nname = "a"\ntype = "apprise"\nurl = "s3cret"',
        4,
        "channels[1].url",
        "got ***, want an Apprise URL",
    ),
    ('[[channels]]\nname = "a"\ntype = "dashboard"\nkeep = 0', 4, "channels[1].keep", "at least 1"),
    (MAIL + ROUTE + 'match = "a"', 10, "routes[1].match", 'label="value"'),
    (MAIL + ROUTE + 'match = "a=~\\"(\\""', 10, "routes[1].match", "no regular expression"),
    (MAIL + ROUTE + 'times = ["mon", "8-9"]', 10, "routes[1].times[2]", "days, hours, or both"),
    (MAIL + ROUTE + 'timezone = "Mars/Base"', 10, "routes[1].timezone", "Europe/Berlin"),
    (MAIL + ROUTE + 'timezone = "../etc"', 10, "routes[1].timezone", "Europe/Berlin"),
    (MAIL + ROUTE + 'severity = ["bad"]', 10, "routes[1].severity[1]", '"critical"'),
    (MAIL + ROUTE + 'continue = "yes"', 10, "routes[1].continue", "true or false"),
    (MAIL + ROUTE.replace('"a"', '"b"'), 9, "routes[1].channels[1]", "the name of one of the channels: a"),
    (MAIL + ROUTE + ROUTE, 11, "routes[2].name", "entry 1 has this one already"),
    (STEP, 1, "escalation[1].after", "missing, want a duration"),
    (STEP + 'after = "8d"', 4, "escalation[1].after", "from 0s to 7d"),
    (STEP.replace('["ops"]', "[]") + 'after = "5m"', 3, "escalation[1].channels", "at least 1"),
    (MAIL + STEP.replace("ops", "a") + 'after = "5m"\ncategory = "all"', 11, "escalation[1].category", "one of"),
    (MAIL + STEP + 'after = "5m"', 9, "escalation[1].channels[1]", "the name of one of the channels: a"),
    (
        MAIL + STEP.replace("ops", "a") + 'after = "5m"\n' + STEP.replace("ops", "a") + 'after = "6m"',
        12,
        "escalation[2].name",
        "entry 1 has this one already",
    ),
    (MAIL + 'user = "ann"', 7, "channels[1].user", "want password beside it"),
    (MAIL + 'password = "s3cret"', 7, "channels[1].password", "got ***, want user beside it"),
    (MAIL + 'user = "a"\npassword = "b"\nsecurity = "none"', 9, "channels[1].security", "does not travel in clear"),
    (MAIL + 'subject = "{summary"', 7, "channels[1].subject", "placeholders"),
    (
        '[[channels]]\nname = "a"\ntype = "sms"\nurl = "http://x"\nto = ["+1"]\npayload = {key = "s3cret{"}',
        6,
        "channels[1].payload.key",
        "got ***, want a text with",
    ),
    (TARGET + "min = 30", 4, "scale[1].min", "at most max, which is 20"),
    (TARGET + "tolerance = 1", 4, "scale[1].tolerance", "below 1"),
    (TARGET + "signals = []", 4, "scale[1].signals", "at least 1"),
    (
        TARGET + '[[scale.signals]]\nkind = "cpu"\ndown = 75',
        6,
        "scale[1].signals[1].down",
        "less than up, which is 70",
    ),
    (TARGET + '[[scale.signals]]\nkind = "cpu"\nup = inf', 6, "scale[1].signals[1].up", "got inf"),
    ('[[scale]]\ntarget = "shop"', 1, "scale[1].match", "missing, want a table of texts"),
    (TARGET + TARGET, 5, "scale[2].target", "entry 1"),
    ('[agent]\nto = "tide"', 2, "agent.to", "an address such as"),
    ('[agent]\ninterval = "100ms"', 2, "agent.interval", "from 1s to 1d".replace("1d", "1h")),
    ("rules = 3", 1, "rules", "got 3, want [[rules]] once for each entry"),
    ('[scale]\ntarget = "shop"', 1, "scale", "got a table, want [[scale]] once for each entry"),
    (TARGET + "[scale.signals]", 4, "scale[1].signals", "want [[scale.signals]] once for each entry"),
    ("[[rules]]\nname = 3\nmetric = 'm'\nop = '>'\nthreshold = 1", 2, "rules[1].name", "got 3"),
    ("[server]\nlisten = ", 2, "", "not valid TOML: invalid value"),
    ("[server\nlisten = 3", 1, "", "not valid TOML"),
    ('[agent]\nto = "http://h"\nto = "http://i"', 3, "", "not valid TOML"),
]


@pytest.mark.parametrize(("text", "line", "key", "message"), TABLE)
def test_one_mistake_gives_one_problem(text: str, line: int, key: str, message: str) -> None:
    found = problems_of(text)
    assert [(found_line, found_key) for found_line, found_key, _ in found] == [(line, key)]
    assert message in found[0][2]


def test_every_problem_is_told_at_once_in_the_order_of_lines() -> None:
    text = "\n".join(
        [
            "[server]",
            "listn = 1",
            'max_body = "1MB',
            "[query]",
            "queue = -1",
            "timeout = ",
            RULE.replace("90", "x"),
            RULE + 'clear = 95\nchannels = ["ops"]',
        ]
    )
    assert [(line, key) for line, key, _ in problems_of(text)] == [
        (2, "server.listn"),
        (3, ""),
        (5, "query.queue"),
        (6, ""),
        (11, ""),
        (14, "rules[2].name"),
        (18, "rules[2].clear"),
        (19, "rules[2].channels[1]"),
    ]


def test_a_channel_with_a_problem_of_its_own_is_still_a_known_name() -> None:
    text = '[[channels]]\nname = "ops"\nurl = 3\n' + RULE + 'channels = ["ops"]\n'
    assert [key for _, key, _ in problems_of(text)] == ["channels[1].url"]


def test_windows_line_ends_keep_their_lines() -> None:
    assert problems_of("# a\r\n[server]\r\nlisten = 3\r\nx = ''\r\n")[0][:2] == (3, "server.listen")


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "localhost:80", "[::1]:8433", "127.9.9.9:65535"])
def test_this_machine_alone_needs_no_token(listen: str) -> None:
    assert problems_of(f'server.listen = "{listen}"') == []
    address = split_address(listen)
    assert address is not None
    assert is_loopback(address[0])


def test_beyond_this_machine_with_a_token_is_fine() -> None:
    token = f'[[server.tokens]]\nname = "a"\nsha256 = "{SHA256}"\nscopes = ["write"]\n'
    text = f'[server]\nlisten = "0.0.0.0:80"\n{token}'
    assert problems_of(text) == []


def test_load_raises_with_all_sentences(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text("[server]\nlisten = 3\nx = 4\n")
    with pytest.raises(BadConfig) as caught:
        load_config(str(file))
    assert caught.value.problems == (
        f"{file}:2: server.listen: got 3, want a text",
        f"{file}:3: server.x: unknown setting; known here: listen, public_url, max_body, max_decoded_body, "
        "tls_certificate, tls_key, require_token, tokens",
    )
    assert str(caught.value).endswith("(and 1 more)")


def test_load_says_why_a_file_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="No such file"):
        load_config(str(tmp_path / "none.toml"))
    with pytest.raises(BadConfig, match="Is a directory"):
        load_config(str(tmp_path))
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"# \xff")
    with pytest.raises(BadConfig, match="not UTF-8 at offset 2"):
        load_config(str(binary))


# --- lines of keys ----------------------------------------------------------------------------------------

LINES_TEXT = '''# [comment]
a = """
[b]
c = 1
"""
"quoted key".d = 'x # y'  # z
e = [1.5, [2,
  3], {f = 2020-01-01T00:00:00Z, g.h = "]"}]
[t]
i = -1_000
[[t.l]]
j = true
[t.l.sub]
k = 1e3
[[t.l]]
j = false
[[t.l.deep]]
m = \'\'\'
n = 1\'\'\'
o = ""
'''


def test_lines_of_keys_at_every_depth() -> None:
    assert key_lines(LINES_TEXT) == {
        ("a",): 2,
        ("quoted key",): 6,
        ("quoted key", "d"): 6,
        ("e",): 7,
        ("e", 0): 7,
        ("e", 1): 7,
        ("e", 1, 0): 7,
        ("e", 1, 1): 8,
        ("e", 2): 8,
        ("e", 2, "f"): 8,
        ("e", 2, "g"): 8,
        ("e", 2, "g", "h"): 8,
        ("t",): 9,
        ("t", "i"): 10,
        ("t", "l"): 11,
        ("t", "l", 0): 11,
        ("t", "l", 0, "j"): 12,
        ("t", "l", 0, "sub"): 13,
        ("t", "l", 0, "sub", "k"): 14,
        ("t", "l", 1): 15,
        ("t", "l", 1, "j"): 16,
        ("t", "l", 1, "deep"): 17,
        ("t", "l", 1, "deep", 0): 17,
        ("t", "l", 1, "deep", 0, "m"): 18,
        ("t", "l", 1, "deep", 0, "o"): 20,
    }


VALUES = st.recursive(
    st.sampled_from(
        [
            "1",
            "-1.5e3",
            "true",
            '"a\\"b # ["',
            "'x]'",
            '"""q\n]"""',
            "'''\n='''",
            "1979-05-27 07:32:00Z",
            "inf",
        ]
    ),
    lambda inner: st.lists(inner, max_size=3).map(lambda items: "[" + ",\n ".join(items) + "]"),
    max_leaves=5,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["", "# c\n", "\n"]), VALUES, st.booleans()), max_size=8))
def test_lines_of_keys_are_those_they_were_written_on(parts: list[tuple[str, str, bool]]) -> None:
    text, expected, table = "", {}, ()
    for number, (before, value, is_header) in enumerate(parts):
        text += before
        if is_header:
            expected[(f"t{number}",)] = text.count("\n") + 1
            table = (f"t{number}",)
            text += f"[t{number}]\n"
        expected[(*table, f"k{number}")] = text.count("\n") + 1
        text += f"k{number} = {value}\n"
    tomllib.loads(text)
    found = key_lines(text)
    assert {path: line for path, line in found.items() if not isinstance(path[-1], int)} == expected


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_damage_to_a_file_raises_anything(data: st.DataObject) -> None:
    text = with_everything_switched_on()
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        cut = data.draw(st.integers(0, 40))
        insert = data.draw(
            st.sampled_from(["", "[", "]", '"', "'''", "=", "\n", "3", "x = ", "[[rules]]\n", "{", "\r", "."])
        )
        text = text[:at] + insert + text[at + cut :]
    config, problems = parse_config(text, path="damaged")
    assert (config is None) == bool(problems)
    assert all(0 <= problem.line <= text.count("\n") + 1 for problem in problems)
