"""``tidegauge serve``: the server, until SIGTERM."""

from __future__ import annotations

import argparse

import msgspec

from api.cli import DEFAULT_DATA, WrongUse, config_of
from engine.config import Config
from engine.config_check import is_loopback, split_address

_EPILOG = """example:
  tidegauge serve
  tidegauge serve --config tidegauge.toml --data /var/lib/tidegauge --listen 127.0.0.1:8433

Prints one line with the URL when it answers.  SIGTERM and Ctrl-C end it gracefully.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = "Run the server."
    parser.epilog = _EPILOG
    parser.add_argument("--config", metavar="FILE", help="TOML file (default: every default)")
    parser.add_argument("--data", metavar="DIR", default=DEFAULT_DATA, help=f"data directory (default: {DEFAULT_DATA})")
    parser.add_argument(
        "--listen", metavar="HOST:PORT", help="where to listen (default: server.listen, 127.0.0.1:8433)"
    )


def run(arguments: argparse.Namespace) -> int:
    config = listening_on(config_of(arguments.config), arguments.listen)
    from api.server import serve

    return serve(config, arguments.data, config.server.listen, arguments.config)


def listening_on(config: Config, listen: str | None) -> Config:
    """Return ``config`` with the address of the command line, held to what a file is held to."""
    if listen is None:
        return config
    address = split_address(listen)
    if address is None:
        raise WrongUse(f'cannot listen: got {listen!r}, want HOST:PORT such as "127.0.0.1:8433"')
    if not is_loopback(address[0]) and not config.server.tokens and not config.server.require_token:
        raise WrongUse(
            f"cannot listen on {listen} without tokens: want an address of this machine alone, "
            "or a configuration with [[server.tokens]] or server.require_token = true"
        )
    return msgspec.structs.replace(config, server=msgspec.structs.replace(config.server, listen=listen))
