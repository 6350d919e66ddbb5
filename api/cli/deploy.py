"""``tidegauge deploy``: record deployments at a server, list them, and tell whether one may go on."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

from api.cli import DEFAULT_URL, TOKEN_VARIABLE, WrongUse, token_of
from api.cli.gate import EXIT_CODES

#: Options of ``verdict`` that are parameters of the same name.
_PARAMETERS = ("for_", "step", "warm_up", "end", "confidence", "tolerance")
_EPILOG = """example:
  tidegauge deploy record --service shop --version 1.5 --by ci --note "build 812"
  tidegauge deploy record --service shop --version 1.5 --baseline 'track="stable"' --canary 'track="canary"'
  tidegauge deploy list --service shop --start now-7d
  tidegauge deploy verdict 12 --for 5m

record prints the number of the deployment.  verdict ends with 0 for promote, 1 for roll back, 3 for hold, which is
also the answer while the server cannot be reached, and 2 for wrong use.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = "Record and list deployments, and tell whether one may go on."
    parser.epilog = _EPILOG
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    record = actions.add_parser("record", help="record a deployment", description="Record a deployment.")
    record.add_argument("--service", required=True, metavar="S", help="what was deployed")
    record.add_argument("--version", required=True, metavar="V", dest="version_", help="which version of it")
    record.add_argument("--time", metavar="TIME", help="when: RFC 3339, epoch or now-5m (default: now)")
    record.add_argument("--baseline", default="", metavar="SEL", help='series of the old version: track="stable"')
    record.add_argument("--canary", default="", metavar="SEL", help='series of the new version: track="canary"')
    record.add_argument("--label", action="append", default=[], metavar="NAME=VALUE", help="a label of the record")
    record.add_argument("--by", default="", metavar="NAME", help="who deployed")
    record.add_argument("--note", default="", metavar="TEXT", help="anything else worth knowing")
    listing = actions.add_parser("list", help="list deployments", description="List deployments, newest first.")
    listing.add_argument("--service", metavar="S", help="only those of this service")
    listing.add_argument("--match", default="", metavar="MATCHERS", help="only those with these labels")
    listing.add_argument("--start", metavar="TIME", help="only those since then: RFC 3339, epoch or now-7d")
    listing.add_argument("--end", metavar="TIME", help="only those before then")
    listing.add_argument("--limit", type=int, default=100, metavar="N", help="at most so many (default 100)")
    listing.add_argument("--format", choices=("text", "json"), default="text")
    verdict = actions.add_parser(
        "verdict", help="tell whether one may go on", description="Tell whether a deployment may go on."
    )
    verdict.add_argument("deploy", type=int, metavar="ID", help="its number")
    verdict.add_argument("--metric", action="append", default=[], metavar="NAME[=WORSE]", help="judge this")
    verdict.add_argument("--for", dest="for_", metavar="TIME", help="how far back (default 2m)")
    verdict.add_argument("--step", metavar="TIME", help="a sample each (default: a 12th of that)")
    verdict.add_argument("--warm-up", metavar="TIME", help="leave out so much after the deployment")
    verdict.add_argument("--end", metavar="TIME", help="as of then (default: now)")
    verdict.add_argument("--confidence", type=float, help="of a rollback (default 0.98)")
    verdict.add_argument("--tolerance", type=float, help="part of the median (default 0.1)")
    verdict.add_argument("--format", choices=("text", "json"), default="text")
    for each, scope in ((record, "write"), (listing, "read"), (verdict, "read")):
        each.add_argument("--url", default=DEFAULT_URL, metavar="URL", help=f"the server (default: {DEFAULT_URL})")
        each.add_argument("--token", help=f"token with the scope {scope} (default: ${TOKEN_VARIABLE})")


def run(arguments: argparse.Namespace) -> int:
    import tidegauge

    with tidegauge.connect(arguments.url, token=token_of(arguments.token)) as client:
        return _ACTIONS[arguments.action](client, arguments)


def _record(client: Any, arguments: argparse.Namespace) -> int:
    labels = {}
    for text in arguments.label:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise WrongUse(f"cannot use --label {text}: want NAME=VALUE")
        labels[name] = value
    deploy = client.record_deploy(
        arguments.service,
        arguments.version_,
        time=arguments.time,
        baseline=arguments.baseline,
        canary=arguments.canary,
        labels=labels,
        by=arguments.by,
        note=arguments.note,
    )
    print(deploy["id"])
    return 0


def _list(client: Any, arguments: argparse.Namespace) -> int:
    found = client.deploys(
        service=arguments.service,
        match=arguments.match,
        start=arguments.start,
        end=arguments.end,
        limit=arguments.limit,
    )
    if arguments.format == "json":
        print(json.dumps(found))
        return 0
    if not found:
        print("there are no deployments", file=sys.stderr)
    for each in found:
        more = [f"{name}={value}" for name, value in each["labels"].items()]
        more += [f"by {each['by']}"] if each["by"] else []
        more += [each["note"]] if each["note"] else []
        print(f"{each['id']}  {each['time'][:19]}Z  {each['service']} {each['version']}  {', '.join(more)}".rstrip())
    return 0


def _verdict(client: Any, arguments: argparse.Namespace) -> int:
    from engine.errors import BadRequest, NotFound, TidegaugeError

    options = {name: getattr(arguments, name) for name in _PARAMETERS if getattr(arguments, name) is not None}
    try:
        told = client.deploy_verdict(arguments.deploy, metric=arguments.metric, **options)
    except (BadRequest, NotFound) as error:
        raise WrongUse(error.message) from None
    except TidegaugeError as error:
        # Not knowing is no reason to go back, and none to go on.
        print(f"tidegauge deploy: hold: {error.message}", file=sys.stderr)
        return EXIT_CODES["hold"]
    if arguments.format == "json":
        print(json.dumps(told))
    else:
        print(told["verdict"])
        for reason in told["reasons"]:
            print(f"  {reason}")
    return EXIT_CODES[told["verdict"]]


_ACTIONS: dict[str, Callable[[Any, argparse.Namespace], int]] = {
    "record": _record,
    "list": _list,
    "verdict": _verdict,
}
