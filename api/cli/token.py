"""``tidegauge token``: make, list and revoke API tokens, in a data directory or at a server."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from api.cli import DEFAULT_DATA, TOKEN_VARIABLE, WrongUse, token_of

if TYPE_CHECKING:
    from engine.catalog.tokens import TokenStore

SCOPES = ("read", "write", "ack", "admin")
SHARES = ("weight", "concurrency", "queue", "timeout")
_FILE = "control.sqlite"
_EPILOG = f"""example:
  tidegauge token create agents --scope write
  tidegauge token create payments --scope read,ack --match 'team="payments"'
  tidegauge token list --data /var/lib/tidegauge
  tidegauge token revoke agents --url https://tide.example.org

create prints the token, this once: only its SHA-256 is kept.  With --data (default: {DEFAULT_DATA}) the control
database is changed in place; a server that uses it follows within a second.  With --url the server is asked, with a
token of the scope admin.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = "Make, list and revoke API tokens."
    parser.epilog = _EPILOG
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    create = actions.add_parser("create", help="make a token and print it", description="Make a token and print it.")
    create.add_argument("name", metavar="NAME", help="who it is for")
    create.add_argument("--scope", required=True, metavar="SCOPES", help=f"what for, of {', '.join(SCOPES)}")
    create.add_argument("--match", default="", metavar="MATCHERS", help="""only these series, 'team="payments"'""")
    create.add_argument("--weight", type=int, default=1, metavar="N", help="its share of the time for queries")
    create.add_argument("--concurrency", type=int, metavar="N", help="how many of its queries run at once")
    create.add_argument("--queue", type=int, metavar="N", help="how many more wait")
    create.add_argument("--timeout", metavar="TIME", help='how long each may take, "10s"')
    listing = actions.add_parser(
        "list", help="list tokens, the revoked ones too", description="List tokens, the revoked ones too."
    )
    revoke = actions.add_parser("revoke", help="make a token invalid", description="Make a token invalid.")
    revoke.add_argument("name", metavar="NAME", help="whose")
    for each in (create, listing, revoke):
        where = each.add_mutually_exclusive_group()
        where.add_argument("--data", metavar="DIR", help=f"the data directory (default: {DEFAULT_DATA})")
        where.add_argument("--url", metavar="URL", help="a server")
        each.add_argument("--token", help=f"token with the scope admin (default: ${TOKEN_VARIABLE})")


def run(arguments: argparse.Namespace) -> int:
    if arguments.url is None and arguments.token is not None:
        raise WrongUse("cannot use --token without --url: a data directory asks for none")
    _AT_SERVER[arguments.action](arguments) if arguments.url else _IN_DIRECTORY[arguments.action](arguments)
    return 0


def _scopes(arguments: argparse.Namespace) -> list[str]:
    scopes = [each.strip() for each in arguments.scope.split(",") if each.strip()]
    wrong = [each for each in scopes if each not in SCOPES]
    if wrong or not scopes:
        raise WrongUse(f"cannot create a token: got scope {(wrong or [''])[0]!r}, want {', '.join(SCOPES)}")
    return scopes


def _shares(arguments: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(arguments, name) for name in SHARES}


def _show(tokens: list[dict[str, Any]]) -> None:
    if not tokens:
        print("there are no tokens (those in [[server.tokens]] of a configuration are not listed)", file=sys.stderr)
    for each in tokens:
        ended = f", revoked {each['revoked_at']}" if each["revoked_at"] else ""
        limit = f", only {each['match']}" if each["match"] else ""
        limit += "".join(f", {name} {each[name]}" for name in SHARES if each[name] not in (None, 1))
        print(f"{each['name']}: {','.join(each['scopes'])}{limit}, created {each['created_at']}{ended}")


# --- in a data directory


@contextmanager
def _store(arguments: argparse.Namespace, *, make: bool = False) -> Iterator[TokenStore]:
    from engine.catalog.control import ControlDatabase
    from engine.catalog.tokens import TokenStore

    data: str = arguments.data or DEFAULT_DATA
    if make:
        os.makedirs(data, exist_ok=True)
    elif not os.path.exists(os.path.join(data, _FILE)):
        raise WrongUse(f"cannot open data directory {data}: it has no {_FILE}")
    control = ControlDatabase(os.path.join(data, _FILE))
    try:
        yield TokenStore(control)
    finally:
        control.close()


def _create(arguments: argparse.Namespace) -> None:
    from api.routes.tokens import TokenBody, settings_of

    body = TokenBody(arguments.name, _scopes(arguments), arguments.match, **_shares(arguments))
    with _store(arguments, make=True) as store:
        print(store.create(settings_of(body), time.time_ns()))


def _list(arguments: argparse.Namespace) -> None:
    from api.routes.tokens import shown_token

    with _store(arguments) as store:
        _show([shown_token(each) for each in store.list()])


def _revoke(arguments: argparse.Namespace) -> None:
    with _store(arguments) as store:
        store.revoke(arguments.name, time.time_ns())
    print(f"revoked {arguments.name}")


# --- at a server


def _client(arguments: argparse.Namespace) -> Any:
    import tidegauge

    return tidegauge.connect(arguments.url, token=token_of(arguments.token))


def _create_there(arguments: argparse.Namespace) -> None:
    with _client(arguments) as client:
        print(client.create_token(arguments.name, _scopes(arguments), match=arguments.match, **_shares(arguments)))


def _list_there(arguments: argparse.Namespace) -> None:
    with _client(arguments) as client:
        _show(client.tokens())


def _revoke_there(arguments: argparse.Namespace) -> None:
    with _client(arguments) as client:
        client.revoke_token(arguments.name)
    print(f"revoked {arguments.name}")


_Action = Callable[[argparse.Namespace], None]
_IN_DIRECTORY: dict[str, _Action] = {"create": _create, "list": _list, "revoke": _revoke}
_AT_SERVER: dict[str, _Action] = {"create": _create_there, "list": _list_there, "revoke": _revoke_there}
