"""What must hold between the settings of a configuration, beyond the type and the bounds of each.

A check that rests on a setting which is itself wrong is left out: one mistake gives one problem.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import msgspec
from msgspec import inspect

from engine.config import Config, Route, Rule, ScaleTarget
from engine.config_base import MASK
from engine.config_bottlenecks import MAX_STEPS
from engine.config_channels import ADDRESS, APPRISE_URL, NEEDED, POSSIBLE, Channel
from engine.config_rule_check import mistakes
from engine.config_toml import Path, Problem, dotted, key_lines, parse_toml
from engine.config_tree import TreeChecker, shown
from engine.config_units import ByteSize, Duration
from engine.errors import BadRequest
from engine.model.matchers import parse_matchers
from engine.model.weektimes import WeekTimes

_DAY = Duration.parse("1d")


def read(text: str, *, path: str) -> tuple[Config | None, list[Problem]]:
    """Return the configuration that ``text`` describes, or None and every problem in the order of lines."""
    config, problems = _read(text)
    problems = [msgspec.structs.replace(problem, path=path) for problem in problems]
    return config if not problems else None, sorted(problems, key=lambda problem: problem.line)


def _read(text: str) -> tuple[Config | None, list[Problem]]:
    tree, text, problems = parse_toml(text)
    if tree is None:
        return None, problems
    checker = TreeChecker(key_lines(text), complete=not problems)
    kind = inspect.type_info(Config)
    assert isinstance(kind, inspect.StructType)
    clean = checker.struct(tree, kind, ())
    config = msgspec.convert(clean, Config, dec_hook=same_kind)
    _Consistency(config, checker, tree).check()
    return config, problems + checker.problems


def same_kind(kind: type[Any], value: Any) -> Any:
    # The tree checker has turned texts into durations and sizes already.
    return kind(value)


def check_rules(rules: tuple[Rule, ...], checker: TreeChecker, tree: dict[str, Any], channels: Sequence[str]) -> None:
    """Report what must hold in and between ``rules``, the usable ones of ``tree``, where there are these channels."""
    tree = {**tree, "channels": [{"name": name} for name in channels]}
    _Consistency(Config(rules=rules), checker, tree).check_rules()


def split_address(address: str) -> tuple[str, int] | None:
    """Return host and port of ``HOST:PORT`` or ``[IPV6]:PORT``, None when it is neither."""
    host, colon, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        return None
    if not (colon and host and port.isascii() and port.isdigit()) or int(port) > 65_535:
        return None
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Return whether an address to listen on is reachable from this machine alone."""
    return host in ("localhost", "::1") or host.startswith("127.")


@dataclass(frozen=True, slots=True)
class _Words:
    """What stands in a message instead of a value: of a secret, and of nothing."""

    text: str


_HIDDEN = _Words(MASK)
_NOTHING = _Words("nothing")


class _Consistency:
    def __init__(self, config: Config, checker: TreeChecker, tree: dict[str, Any]) -> None:
        self._config = config
        self._checker = checker
        self._tree = tree

    def check(self) -> None:
        self._server()
        self._limits()
        self._retention()
        self.check_rules()
        self._unique("channels", "name")
        self._unique("routes", "name")
        self._unique("escalation", "name")
        self._unique("inhibit", "name")
        self._unique("scale", "target")
        self._unique("server", "name", within="tokens")
        for place, channel in self._entries(("channels",), self._config.channels):
            self._channel(place, channel)
        for place, route in self._entries(("routes",), self._config.routes):
            self._route(place, route)
        for place, step in self._entries(("escalation",), self._config.escalation):
            self._known_channels((*place, "channels"), step.channels)
        for place, inhibition in self._entries(("inhibit",), self._config.inhibit):
            for name, labels in (("source", inhibition.source), ("target", inhibition.target)):
                if not labels:
                    self._report((*place, name), labels, "at least one label and its value")
        for place, target in self._entries(("scale",), self._config.scale):
            self._target(place, target)
        self._url(("agent", "to"), self._config.agent.to)

    def check_rules(self) -> None:
        self._unique("rules", "name")
        for place, rule in self._entries(("rules",), self._config.rules):
            self._rule(place, rule)

    def _entries(self, path: Path, entries: tuple[Any, ...]) -> list[tuple[Path, Any]]:
        """Return each entry that stands in the file with its path there."""
        return [
            ((*path, index), entry) for index, entry in zip(self._checker.kept.get(path, ()), entries, strict=False)
        ]

    def _report(self, path: Path, found: object, allowed: str, *, involved: tuple[Path, ...] = ()) -> None:
        if not self._checker.bad.isdisjoint((path, *involved)):
            return
        text = found.text if isinstance(found, Duration | ByteSize | _Words) else shown(found)
        self._checker.report(path, text, allowed, f"got {text}, want {allowed}")

    def _server(self) -> None:
        server = self._config.server
        self._listen(("server", "listen"), server.listen, "127.0.0.1:8433")
        if server.public_url is not None:
            self._url(("server", "public_url"), server.public_url)
        if self._config.flight.listen is not None:
            self._listen(("flight", "listen"), self._config.flight.listen, "127.0.0.1:8434")
        for one, other in (("tls_key", "tls_certificate"), ("tls_certificate", "tls_key")):
            if getattr(server, one) is not None and getattr(server, other) is None:
                allowed = f"server.{other} beside it, or neither"
                self._report(("server", one), getattr(server, one), allowed, involved=(("server", other),))
        self._at_least(("server", "max_decoded_body"), ("server", "max_body"))

    def _listen(self, path: Path, listen: str, example: str) -> None:
        server = self._config.server
        address = split_address(listen)
        if address is None:
            self._report(path, listen, f'HOST:PORT such as "{example}"')
        elif not is_loopback(address[0]) and not server.tokens and not server.require_token:
            allowed = (
                "an address of this machine alone (127.0.0.1), at least one entry in [[server.tokens]], or"
                " server.require_token = true"
            )
            self._report(path, listen, allowed, involved=(("server", "tokens"),))

    def _limits(self) -> None:
        self._at_least(("storage", "wal_limit"), ("storage", "wal_segment"))
        self._at_least(("query", "memory"), ("query", "max_result"))
        self._at_least(("watch", "stale_after"), ("watch", "tick"))
        self._bottlenecks()
        partition = self._config.storage.partition
        if _DAY % partition and partition % _DAY:
            self._report(("storage", "partition"), partition, "a whole part of a day, or whole days")

    def _bottlenecks(self) -> None:
        settings, step = self._config.bottlenecks, ("bottlenecks", "step")
        shorter = min(("window", "history"), key=lambda name: int(getattr(settings, name)))
        least = getattr(settings, shorter)
        if least < 2 * settings.step:
            self._either(("bottlenecks", shorter), f"at least two steps of {settings.step.text}", step, least)
        elif settings.history + settings.window > MAX_STEPS * settings.step:
            longer = "window" if shorter == "history" else "history"
            allowed = f"at most {MAX_STEPS} steps of bottlenecks.step, which is {settings.step.text}, with the other"
            self._either(("bottlenecks", longer), allowed, step, getattr(settings, longer))

    def _either(self, path: tuple[str, str], allowed: str, other: tuple[str, str], value: Duration) -> None:
        """Report a setting that does not go with another: that of the two which the file has."""
        if self._is_in_file(path) or not self._is_in_file(other):
            self._report(path, value, allowed, involved=(other,))
        else:
            text = f"one that goes with {dotted(path)}, which is {value.text} and must be {allowed}"
            self._report(other, self._get(other), text, involved=(path,))

    def _at_least(self, path: tuple[str, str], least: tuple[str, str]) -> None:
        value, bound = self._get(path), self._get(least)
        if value >= bound:
            return
        if self._is_in_file(path) or not self._is_in_file(least):
            self._report(path, value, f"at least {dotted(least)}, which is {bound.text}", involved=(least,))
        else:
            self._report(least, bound, f"at most {dotted(path)}, which is {value.text}", involved=(path,))

    def _is_in_file(self, path: tuple[str, str]) -> bool:
        return path[1] in self._tree.get(path[0], {})

    def _get(self, path: tuple[str, str]) -> Any:
        return getattr(getattr(self._config, path[0]), path[1])

    def _retention(self) -> None:
        """Raw samples are kept for at least one window of sealing; 0 is for ever."""
        retention = self._config.retention
        raw_path: Path = ("retention", "raw")
        partition = self._config.storage.partition
        if 0 < retention.raw < partition:
            allowed = f"at least storage.partition, which is {partition.text}"
            self._report(raw_path, retention.raw, allowed, involved=(("storage", "partition"),))

    def _unique(self, table: str, key: str, within: str | None = None) -> None:
        """Report each entry that repeats the name of an earlier one, whatever else is wrong with either."""
        path: Path = (table,)
        entries = self._tree.get(table)
        if within is not None:
            path = (table, within)
            entries = entries.get(within) if isinstance(entries, dict) else None
        seen: dict[str, int] = {}
        for index, entry in enumerate(entries if isinstance(entries, list) else ()):
            name = entry.get(key) if isinstance(entry, dict) else None
            if not isinstance(name, str):
                continue
            if name in seen:
                allowed = f"a {key} of its own: entry {seen[name] + 1} has this one already"
                self._report((*path, index, key), name, allowed)
            seen.setdefault(name, index)

    def _rule(self, place: Path, rule: Rule) -> None:
        for mistake in mistakes(rule):
            involved = tuple((*place, key) for key in mistake.involved)
            found = _NOTHING if mistake.found is None else mistake.found
            self._report((*place, *mistake.key.split(".")), found, mistake.allowed, involved=involved)
        self._known_channels((*place, "channels"), rule.channels)

    def _known_channels(self, path: Path, names: tuple[str, ...]) -> None:
        channels = self._tree.get("channels")
        if isinstance(channels, list) or channels is None:
            known = [entry.get("name") for entry in channels or () if isinstance(entry, dict)]
            for index, name in enumerate(names):
                if name not in known:
                    allowed = "the name of one of the channels: " + ", ".join(map(str, known))
                    self._report((*path, index), name, allowed if known else "an entry in [[channels]]")

    def _template(self, path: Path, template: str, *, found: _Words | None = None) -> None:
        try:
            fields = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
        except ValueError:
            fields = [""]
        if not all(name.isidentifier() for name in fields):
            allowed = "a text with {value} and {label} placeholders; {{ and }} for braces"
            self._report(path, found or template, allowed)

    def _channel(self, place: Path, channel: Channel) -> None:
        """What the channel's type needs, and nothing of another type."""
        in_file = self._tree["channels"][place[1]]
        kind = f'type = "{channel.type}"'
        for name in NEEDED[channel.type]:
            if name not in in_file or in_file[name] == []:
                self._report((*place, name), _NOTHING, f"one for {kind}", involved=((*place, "type"),))
        for name in in_file:
            if name in Channel.__struct_encode_fields__ and name not in POSSIBLE[channel.type]:
                allowed = f"no {name} for {kind}"
                self._report((*place, name), _HIDDEN, allowed, involved=((*place, "type"),))
        if channel.url is not None and channel.type == "apprise":
            if not APPRISE_URL.match(channel.url):
                self._report((*place, "url"), _HIDDEN, 'an Apprise URL such as "ntfy://example.org/topic"')
        elif channel.url is not None:
            self._url((*place, "url"), channel.url, secret=True)
        if channel.server is not None and split_address(channel.server) is None:
            self._report((*place, "server"), channel.server, 'HOST:PORT such as "smtp.example.org:587"')
        if channel.type == "email":
            paths = [((*place, "to", index), address) for index, address in enumerate(channel.to)]
            for path, address in [((*place, "from"), channel.from_), *paths]:
                if address is not None and not ADDRESS.fullmatch(address):
                    self._report(path, address, 'an address such as "ops@example.org"')
        if (channel.user is None) != (channel.password is None):
            given, missing = ("user", "password") if channel.password is None else ("password", "user")
            self._report((*place, given), _HIDDEN, f"{missing} beside it, or neither", involved=((*place, missing),))
        elif channel.user is not None and channel.security == "none":
            allowed = '"starttls" or "tls": a password does not travel in clear'
            self._report((*place, "security"), channel.security, allowed)
        self._template((*place, "subject"), channel.subject)
        self._template((*place, "text"), channel.text or "")
        self._template((*place, "group_text"), channel.group_text or "")
        if channel.group_by is None:
            for name in ("group_wait", "group_interval", "group_repeat"):
                if name in in_file:
                    self._report((*place, name), _Words(shown(in_file[name])), "group_by beside it, labels to group by")
            if channel.group_text is not None and channel.digest is None:
                self._report((*place, "group_text"), channel.group_text, "group_by or digest beside it")
        for name, template in channel.payload.items():
            self._template((*place, "payload", name), template, found=_HIDDEN)

    def _route(self, place: Path, route: Route) -> None:
        self._known_channels((*place, "channels"), route.channels)
        try:
            parse_matchers(route.match)
        except BadRequest as error:
            self._report((*place, "match"), route.match, f"label matchers: {error.message}")
        for path, text in self._entries((*place, "times"), route.times):
            try:
                WeekTimes.parse(text)
            except ValueError:
                self._report(path, text, 'days, hours, or both, such as "mon-fri 08:00-18:00"')
        try:
            ZoneInfo(route.timezone)
        except (KeyError, ValueError, OSError):
            # ZoneInfoNotFoundError is a KeyError; a path or a name with a null byte gives the others.
            self._report((*place, "timezone"), route.timezone, 'the name of a time zone such as "Europe/Berlin"')

    def _url(self, path: Path, url: str, *, secret: bool = False) -> None:
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            self._report(path, _HIDDEN if secret else url, 'an address such as "https://example.org/path"')

    def _target(self, place: Path, target: ScaleTarget) -> None:
        if target.min > target.max:
            allowed = f"at most max, which is {target.max}"
            self._report((*place, "min"), target.min, allowed, involved=((*place, "max"),))
        for path, signal in self._entries((*place, "signals"), target.signals):
            if not signal.down < signal.up:
                allowed = f"less than up, which is {signal.up:g}"
                self._report((*path, "down"), signal.down, allowed, involved=((*path, "up"),))
