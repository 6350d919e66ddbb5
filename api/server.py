"""The server: one engine, one listening socket, until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import sys
from typing import TYPE_CHECKING

from engine.config import Config
from engine.errors import BadConfig, BadRequest, TidegaugeError, Unavailable
from engine.query.memory import bound_heaps
from engine.runtime import Engine
from native.slabs import keep_at_most

if TYPE_CHECKING:
    from api.auth import Gate
    from api.flight.server import FlightSqlServer

LOG = logging.getLogger("tidegauge")
#: Seconds that requests under way may take to end once the server has been told to stop.
STOP_GRACE_SECONDS = 10
#: A log that is replayed within this time is not worth telling about, nor worth refusing the first queries for.
SHORT_RECOVERY_SECONDS = 0.5
#: Longer than the usual interval between two pushes of an agent, so that it keeps its connection.
KEEP_ALIVE_SECONDS = 75
#: One part in so many of the hot store's limit is kept as memory for bodies and blocks to come.
KEPT_SHARE = 4
#: How long a thread may keep others waiting for the interpreter; ten times less than usual, since an acknowledgement
#: needs it several times while tiers are recomputed and segments written.
SWITCH_SECONDS = 0.0005


def split_listen(listen: str) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT`` or ``[V6]:PORT``; raises BadConfig."""
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65_535:
        raise BadConfig(f"cannot listen: got {listen!r}, want HOST:PORT")
    return host.strip("[]") or "127.0.0.1", int(port)


def bind(listen: str) -> socket.socket:
    """Return a bound socket; raises Unavailable with the reason when the address cannot be had."""
    host, port = split_listen(listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise Unavailable(f"cannot listen on {listen}: {error.strerror or error}") from None
    return listener


def serve(config: Config, data_dir: str, listen: str | None = None, config_path: str | None = None) -> int:
    """Open the engine and serve it until a signal; return the exit code.

    Prints one line with the URL when requests are answered.  Raises errors of the tree when it cannot start.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    listener = bind(listen or config.server.listen)
    bound_heaps()
    try:
        engine = Engine.open(data_dir, config, wait=False, config_path=config_path)
    except BaseException:
        listener.close()
        raise
    keep_at_most(int(config.storage.hot_limit) // KEPT_SHARE)
    # What exists by now stays: the collector need not look at it again and again, each time holding everything up.
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        _run(engine, config, listener)
    finally:
        engine.close()
    return 0


def told_of_recovery(engine: Engine) -> str | None:
    """Return the line that says how much is still being recovered, None when nothing is."""
    left = engine.recovery.pending_bytes
    if not engine.recovery.active:
        return None
    return (
        f"tidegauge: recovering {left} bytes of log; writes are taken, queries answer 503 until then"
        " (GET /health/ready)"
    )


def reload_rules(engine: Engine) -> None:
    """Take up rules and channels of the configuration file; what is wrong with it goes to the log."""
    try:
        engine.reloader.reload()
    except BadRequest as error:
        LOG.error("%s", error.message)
    except TidegaugeError:
        pass  # The reloader has logged it.


def _run(engine: Engine, config: Config, listener: socket.socket) -> None:
    import uvicorn
    import uvloop

    from api.app import Application
    from api.intake import intake

    host, port = listener.getsockname()[:2]
    scheme = "https" if config.server.tls_certificate else "http"
    shown = f"[{host}]" if ":" in host else host

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self):  # type: ignore[no-untyped-def]
            # The loop's own handlers below end the server; uvicorn would raise the signal again after the end.
            yield

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            await asyncio.to_thread(engine.recovery.wait, SHORT_RECOVERY_SECONDS)
            if told := told_of_recovery(engine):
                print(told, flush=True)
            if flight is not None:
                print(f"tidegauge: Flight SQL at {flight.url}", flush=True)
            print(f"tidegauge: ready at {scheme}://{shown}:{port}", flush=True)

    application = Application(engine, config)
    flight = _flight(engine, application.gate, config)
    server = Server(
        uvicorn.Config(
            application,
            http=intake(int(config.server.max_body), application.body_paths, application.at_once),  # type: ignore[arg-type]
            ws="none",
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=STOP_GRACE_SECONDS,
            ssl_certfile=config.server.tls_certificate,
            ssl_keyfile=config.server.tls_key,
        )
    )

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def stop() -> None:
            if server.should_exit:
                server.force_exit = True
            server.should_exit = True

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        loop.add_signal_handler(signal.SIGHUP, lambda: loop.run_in_executor(None, reload_rules, engine))
        await server.serve(sockets=[listener])

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())
    finally:
        if flight is not None:
            flight.shutdown()


def _flight(engine: Engine, gate: Gate, config: Config) -> FlightSqlServer | None:
    """Return the Flight SQL server where one is configured; gRPC is not loaded elsewhere."""
    if config.flight.listen is None:
        return None
    from api.flight.server import FlightSqlServer

    return FlightSqlServer(engine, gate, config, config.flight.listen)
