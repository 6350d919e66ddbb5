"""``tidegauge agent``: this host's sensors, pushed to a server."""

from __future__ import annotations

import argparse
import signal
import socket
import sys
import threading
from random import Random

from api.cli import TOKEN_VARIABLE, WrongUse, config_of, token_of
from engine.clock import SystemClock
from engine.collect.agent import Agent
from engine.collect.buffer import DiskBuffer
from engine.collect.push import Pusher
from engine.collect.sensors import HostSensors
from engine.collect.transport import HttpTransport
from engine.config import Agent as AgentSettings
from engine.config_units import Duration
from engine.disk.real import RealFileSystem

_TIMEOUT_SECONDS = 10.0
_EPILOG = f"""example:
  tidegauge agent --to http://127.0.0.1:8433
  {TOKEN_VARIABLE}=... tidegauge agent --to https://tide.example.org --interval 10s
  tidegauge agent --to http://127.0.0.1:8433 --once

While the server is away, readings wait in the buffer and are delivered in order when it is back.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = "Read this host's sensors and push them to a server."
    parser.epilog = _EPILOG
    parser.add_argument("--to", metavar="URL", help="the server (default: agent.to, http://127.0.0.1:8433)")
    parser.add_argument(
        "--token",
        help=f"token with the scope write; better in ${TOKEN_VARIABLE}, which no process list shows",
    )
    parser.add_argument("--interval", metavar="TIME", help="how often, such as 30s (default: agent.interval, 30s)")
    parser.add_argument("--once", action="store_true", help="push one reading and exit; 1 if it had to be buffered")
    parser.add_argument("--buffer", metavar="DIR", help="where readings wait (default: agent.buffer_directory)")
    parser.add_argument("--host", metavar="NAME", help="value of the tag host (default: this host's name)")
    parser.add_argument("--config", metavar="FILE", help="TOML file; its table [agent] counts")


def run(arguments: argparse.Namespace) -> int:
    settings = config_of(arguments.config).agent
    interval = _interval(arguments.interval, settings)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    clock = SystemClock()
    host = arguments.host or socket.gethostname()
    url = arguments.to or settings.to
    token = token_of(arguments.token, file=settings.token_file)
    transport = HttpTransport(url, token=token, timeout_seconds=_TIMEOUT_SECONDS)
    buffer = DiskBuffer(
        RealFileSystem(), arguments.buffer or settings.buffer_directory, limit_bytes=int(settings.buffer)
    )
    try:
        pusher = Pusher(transport, buffer, clock, report=_say, random=Random())
        agent = Agent(
            HostSensors(clock, host=host),
            pusher,
            clock,
            host=host,
            interval_seconds=interval.seconds,
            wait=stop.wait,
            report=_say,
        )
        if arguments.once:
            return 0 if agent.once() else 1
        print(f"tidegauge agent: pushing the sensors of {host} to {url} every {interval.text}", flush=True)
        agent.run()
        return 0
    finally:
        buffer.close()
        transport.close()


def _interval(text: str | None, settings: AgentSettings) -> Duration:
    if text is None:
        return settings.interval
    try:
        interval = Duration.parse(text)
    except ValueError as error:
        raise WrongUse(str(error)) from None
    if not 1.0 <= interval.seconds <= 3_600.0:
        raise WrongUse(f"cannot use interval {text}: want 1s to 1h")
    return interval


def _say(sentence: str) -> None:
    print(f"tidegauge agent: {sentence}", file=sys.stderr, flush=True)
