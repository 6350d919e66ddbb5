"""``tidegauge demo``: a server, this host's agent and a simulated fleet with an incident, from start to end."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import tempfile
import threading
from contextlib import ExitStack
from random import Random

from api.cli import WrongUse
from api.cli.serve import listening_on
from api.client import connect
from api.demo.fleet import Fleet
from api.demo.process import ServerProcess, serve_command
from api.demo.show import CONFIG, Show
from engine.clock import Clock, SystemClock
from engine.collect.agent import Agent
from engine.collect.buffer import DiskBuffer
from engine.collect.push import Pusher
from engine.collect.sensors import HostSensors
from engine.collect.transport import HttpTransport
from engine.config import Config
from engine.disk.real import RealFileSystem

AGENT_INTERVAL_SECONDS = 5.0
_AGENT_BUFFER_BYTES = 16 << 20
_EPILOG = """example:
  tidegauge demo
  tidegauge demo --minutes 2 --listen 127.0.0.1:9000 --data ./demo-data

The incident begins after 10 seconds and is over after 30.  Without --data everything is removed at the end.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = "Run a server with this host's agent and a simulated fleet that has an incident."
    parser.epilog = _EPILOG
    parser.add_argument("--data", metavar="DIR", help="keep the data here (default: a temporary directory)")
    parser.add_argument("--listen", metavar="HOST:PORT", default="127.0.0.1:8433", help="default: %(default)s")
    parser.add_argument("--minutes", metavar="N", type=float, help="end after N minutes (default: Ctrl-C)")
    parser.add_argument("--seed", metavar="N", type=int, default=1, help="which fleet (default: %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    if arguments.minutes is not None and not 0 < arguments.minutes <= 1e6:
        raise WrongUse(f"cannot run for {arguments.minutes:g} minutes: want more than 0")
    listening_on(Config(), arguments.listen)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    clock = SystemClock()
    with ExitStack() as stack:
        work = stack.enter_context(tempfile.TemporaryDirectory(prefix="tidegauge-demo-"))
        config_path = os.path.join(work, "demo.toml")
        with open(config_path, "w", encoding="utf-8") as file:
            file.write(CONFIG)
        command = serve_command(config_path, arguments.data or os.path.join(work, "data"), arguments.listen)
        server = stack.enter_context(ServerProcess(command, os.path.join(work, "server.log")))
        url = server.wait_ready(stop)
        if url is None:
            return 0
        client = stack.enter_context(connect(url))
        while not client.ready():
            server.check()
            if stop.wait(0.1):
                return 0
        show = Show(client, Fleet(arguments.seed), clock, wait=stop.wait, write=_say)
        rows = show.write_history()
        _say(f"tidegauge demo: {url} has {rows} rows of history; try in another terminal")
        for line in lines_to_try(url):
            _say(f"  {line}")
        agent = threading.Thread(target=_run_agent, args=(url, work, clock, stop), name="demo-agent")
        agent.start()
        try:
            show.run(None if arguments.minutes is None else 60.0 * arguments.minutes, check=server.check)
        finally:
            stop.set()
            agent.join()
    return 0


def lines_to_try(url: str) -> list[str]:
    """Return five commands for another terminal."""
    return [
        f"curl -s {url}/health/ready",
        f'tidegauge sql --url {url} "SELECT service, avg(usage_percent) FROM cpu GROUP BY service"',
        f"curl -sG {url}/v1/query -d metric=cpu_usage_percent -d start=-2m -d step=10s "
        "--data-urlencode 'match=service=\"shop\"'",
        f"curl -s {url}/v1/alerts",
        f"curl -s {url}/v1/scale/shop",
    ]


def _run_agent(url: str, work: str, clock: Clock, stop: threading.Event) -> None:
    """This host's own agent, as ``tidegauge agent`` runs it."""
    host = socket.gethostname()
    transport = HttpTransport(url)
    buffer = DiskBuffer(RealFileSystem(), os.path.join(work, "buffer"), limit_bytes=_AGENT_BUFFER_BYTES)
    try:
        pusher = Pusher(transport, buffer, clock, report=_say, random=Random())
        sensors = HostSensors(clock, host=host)
        Agent(
            sensors,
            pusher,
            clock,
            host=host,
            interval_seconds=AGENT_INTERVAL_SECONDS,
            wait=stop.wait,
            report=_say,
        ).run()
    finally:
        buffer.close()
        transport.close()


def _say(line: str) -> None:
    print(line, flush=True)
