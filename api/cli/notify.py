"""``tidegauge notify test``: one test notification to one channel of a configuration, past every rule."""

from __future__ import annotations

import argparse
import secrets
import time

from api.cli import WrongUse
from engine.alerting.alerts import FIRING, Alert, alert_json, notification_body
from engine.config import load_config
from engine.delivery.senders import sender_of
from engine.errors import Unavailable

_EPILOG = """example:
  tidegauge notify test operations --config tidegauge.toml

Sends once, without retries, and says what came of it.  Exit code 0 when the receiver took it, 1 when not,
2 when the configuration has no such channel.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = "Send a test notification to a channel."
    parser.epilog = _EPILOG
    parser.add_argument("action", choices=["test"], metavar="test", help="send a test notification")
    parser.add_argument("channel", metavar="CHANNEL", help="name of an entry in [[channels]]")
    parser.add_argument("--config", metavar="FILE", help="TOML file (default: every default, which has no channel)")


def run(arguments: argparse.Namespace) -> int:
    name: str = arguments.channel
    channels = {channel.name: channel for channel in load_config(arguments.config).channels}
    if name not in channels:
        known = ", ".join(channels) or "an entry in [[channels]] and its file as --config"
        raise WrongUse(f"cannot test channel {name!r}: the configuration has no such channel, want {known}")
    now_ns = time.time_ns()
    delivery = secrets.token_hex(16)
    body = notification_body("test", alert_json(_example(name, now_ns)), delivery=delivery, channel=name)
    attempt = sender_of(channels[name]).send(delivery, body.encode(), now_ns)
    if not attempt.delivered:
        raise Unavailable(f"cannot notify channel {name!r}: {attempt.error}")
    but = f", but {attempt.error}" if attempt.error else ""
    print(f"channel {name!r} ({channels[name].type}) took the test notification {delivery}: {attempt.status}{but}")
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
