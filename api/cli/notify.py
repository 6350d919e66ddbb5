"""``tidegauge notify``: a test notification to a channel, and which channels an alert would take."""

from __future__ import annotations

import argparse
import secrets
import time
from collections.abc import Mapping
from typing import get_args

import msgspec

from api.arguments import parse_time
from api.cli import WrongUse
from engine.alerting.alerts import FIRING, Alert, alert_json, notification_body
from engine.alerting.routing import Router
from engine.alerting.rules import rule_labels
from engine.config import Config, Rule, load_config
from engine.config_base import Category, Severity
from engine.delivery.senders import sender_of
from engine.errors import BadRequest, Unavailable
from engine.model.times import time_text

_EPILOG = """example:
  tidegauge notify test operations --config tidegauge.toml
  tidegauge notify route service=shop severity=critical category=system --config tidegauge.toml
  tidegauge notify route rule=cpu-saturated host=web-1 --at 2026-11-28T03:00:00Z --config tidegauge.toml
"""
_TEST_EPILOG = """Sends once, without retries, and says what came of it.
Exit code 0 when the receiver took it, 1 when not, 2 when the configuration has no such channel.
"""
_ROUTE_EPILOG = """The labels of an alert; like them rule, severity (default: warning) and category (default: custom).
A rule of the configuration brings its own severity, category, labels and channels along.  Nothing is sent.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = "Send a test notification to a channel, or show which channels an alert would take."
    parser.epilog = _EPILOG
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    plain = argparse.RawDescriptionHelpFormatter
    test = actions.add_parser("test", help="send a test notification", epilog=_TEST_EPILOG, formatter_class=plain)
    test.add_argument("channel", metavar="CHANNEL", help="name of an entry in [[channels]]")
    route = actions.add_parser(
        "route", help="show which channels an alert would take", epilog=_ROUTE_EPILOG, formatter_class=plain
    )
    route.add_argument("labels", metavar="NAME=VALUE", nargs="+", help="a label of the alert")
    route.add_argument("--at", metavar="TIME", default="now", help="when it fires: RFC 3339 or -2h (default: now)")
    for each in (test, route):
        each.add_argument("--config", metavar="FILE", help="TOML file (default: every default, which has no channel)")


def run(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.config)
    return _test(arguments.channel, config) if arguments.action == "test" else _route(arguments, config)


def _route(arguments: argparse.Namespace, config: Config) -> int:
    given: dict[str, str] = {}
    for text in arguments.labels:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise WrongUse(f"cannot read label {text!r}: want NAME=VALUE")
        given[name] = value
    try:
        now_ns = parse_time(arguments.at, time.time_ns())
    except BadRequest as error:
        raise WrongUse(error.message) from None
    rule, labels = _rule_of(given, config)
    names = [channel.name for channel in config.channels]
    router = Router(config.effective_routes, names)
    values = {**labels, "rule": rule.name, "severity": rule.severity, "category": rule.category}
    taken = [route.name for route in router.routes_of(values, now_ns)]
    if rule.channels:
        why = f"the rule {rule.name!r} names them"
    elif taken:
        why = f"by route {', '.join(map(repr, taken))}"
    else:
        why = "no route accepts the alert, so every channel" if names else "the configuration has no channel"
    print(f"{', '.join(f'{name}={value}' for name, value in sorted(values.items()))} at {time_text(now_ns)}")
    types = {channel.name: channel.type for channel in config.channels}
    print(f"channels: {_listed(router.channels_of(rule, labels, now_ns), types)} ({why})")
    for step in sorted(config.effective_escalation, key=lambda step: step.after):
        if step.category in (None, rule.category) and step.severity in (None, rule.severity):
            print(f"after {step.after.text}: {_listed(step.channels, types)} (by step {step.name!r})")
    return 0


def _listed(channels: tuple[str, ...], types: Mapping[str, str]) -> str:
    return ", ".join(f"{name} [{types[name]}]" for name in channels) or "none"


def _rule_of(given: dict[str, str], config: Config) -> tuple[Rule, dict[str, str]]:
    """Return the rule that an alert with these labels would have, and its other labels."""
    name = given.get("rule", "any")
    labels = {label: value for label, value in given.items() if label not in ("rule", "severity", "category")}
    found = next((rule for rule in config.effective_rules if rule.name == name), None)
    if found is not None:
        return found, labels | rule_labels(found, labels)
    for label, allowed in (("severity", get_args(Severity)), ("category", get_args(Category))):
        if label in given and given[label] not in allowed:
            raise WrongUse(f"cannot route an alert of {label} {given[label]!r}: want one of {', '.join(allowed)}")
    plain = {"name": name, "metric": "any", "op": ">", "threshold": 0.0}
    return msgspec.convert(plain | {key: given[key] for key in ("severity", "category") if key in given}, Rule), labels


def _test(name: str, config: Config) -> int:
    channels = {channel.name: channel for channel in config.channels}
    if name not in channels:
        known = ", ".join(channels) or "an entry in [[channels]] and its file as --config"
        raise WrongUse(f"cannot test channel {name!r}: the configuration has no such channel, want {known}")
    if channels[name].type == "dashboard":
        print(
            f"channel {name!r} (dashboard) has no receiver: the server keeps what it is told, "
            f"GET /v1/dashboard?channel={name}"
        )
        return 0
    now_ns = time.time_ns()
    delivery = secrets.token_hex(16)
    body = notification_body("test", alert_json(_example(name, now_ns)), delivery=delivery, channel=name)
    attempt = sender_of(channels[name]).send(delivery, body.encode(), now_ns)
    if not attempt.delivered:
        raise Unavailable(f"cannot notify channel {name!r}: {attempt.error}")
    status = f": {attempt.status}" if attempt.status is not None else ""
    but = f", but {attempt.error}" if attempt.error else ""
    print(f"channel {name!r} ({channels[name].type}) took the test notification {delivery}{status}{but}")
    return 0


def _example(channel: str, now_ns: int) -> Alert:
    return Alert(
        id=0,
        fingerprint="0" * 32,
        tagset_id=0,
        rule="test",
        severity="info",
        category="custom",
        labels={"host": "example"},
        channels=(channel,),
        state=FIRING,
        value=1.0,
        threshold=0.0,
        summary="This is a test of Tidegauge; nothing is wrong",
        stale=False,
        started_ns=now_ns,
        cause_time_ns=now_ns,
        fired_ns=now_ns,
    )
