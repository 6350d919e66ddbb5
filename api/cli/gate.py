"""``tidegauge gate``: whether a deployment may go on, as an exit code."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from api.cli import DEFAULT_URL, TOKEN_VARIABLE, WrongUse, token_of

if TYPE_CHECKING:
    from engine.deploys.gate import Verdict

EXIT_CODES = {"promote": 0, "roll back": 1, "hold": 3}
STEPS = 12
_EPILOG = """example:
  tidegauge gate --service shop --baseline 'version="1.4"' --canary 'version="1.5"'
  tidegauge gate --baseline 'track="stable"' --canary 'track="canary"' --metric shop_latency_ms --for 5m
  tidegauge gate --service shop --baseline 'host=~"a.*"' --canary 'host="b1"' --metric orders_rate=down --format json

Ends with 0 for promote, 1 for roll back, 3 for hold, which is also the answer while the server cannot be reached,
and 2 for wrong use.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Judge a new version by its metrics beside those of the old one: promote, hold or roll back, with reasons."
    )
    parser.epilog = _EPILOG
    parser.add_argument("--service", metavar="S", help='only series with service="S"')
    parser.add_argument("--baseline", required=True, metavar="SEL", help='series of the old version: version="1.4"')
    parser.add_argument("--canary", required=True, metavar="SEL", help='series of the new version: version="1.5"')
    parser.add_argument(
        "--metric",
        action="append",
        default=[],
        metavar="NAME[=WORSE]",
        help="judge this; WORSE is up, down or either (default: latency, errors, success, CPU, memory by their names)",
    )
    parser.add_argument("--for", dest="for_", default="2m", metavar="TIME", help="how far back (default 2m)")
    parser.add_argument("--step", metavar="TIME", help=f"a sample each (default: a {STEPS}th of that)")
    parser.add_argument("--warm-up", default="0s", metavar="TIME", help="leave out so much at the beginning")
    parser.add_argument("--confidence", type=float, default=0.98, help="of a rollback (default 0.98)")
    parser.add_argument("--tolerance", type=float, default=0.1, help="part of the median (default 0.1)")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--data", metavar="DIR", help="read this data directory, also while a server is using it")
    where.add_argument("--url", metavar="URL", help=f"the server (default: {DEFAULT_URL})")
    parser.add_argument("--token", help=f"token with the scope read (default: ${TOKEN_VARIABLE})")


def run(arguments: argparse.Namespace) -> int:
    from engine.errors import BadRequest, TidegaugeError

    try:
        verdict = _judge(arguments)
    except BadRequest as error:
        raise WrongUse(error.message) from None
    except WrongUse:
        raise
    except TidegaugeError as error:
        # Not knowing is no reason to go back, and none to go on.
        print(f"tidegauge gate: hold: {error.message}", file=sys.stderr)
        return EXIT_CODES["hold"]
    _show(verdict, arguments.format)
    return EXIT_CODES[verdict.verdict]


def _judge(arguments: argparse.Namespace) -> Verdict:
    from api import canary
    from engine.deploys.gate import gate

    for_seconds = _seconds(arguments.for_, "--for")
    step_seconds = max(1, for_seconds // STEPS) if arguments.step is None else _seconds(arguments.step, "--step")
    warm_up = _seconds(arguments.warm_up, "--warm-up", least=0)
    if not warm_up < for_seconds:
        raise WrongUse(f"cannot use --warm-up {arguments.warm_up}: want less than --for {arguments.for_}")
    pairs = [text.partition("=") for text in arguments.metric]
    names = [name for name, _, _ in pairs]
    directions = {name: worse for name, equals, worse in pairs if equals}
    service = [] if arguments.service is None else [f"service={json.dumps(arguments.service)}"]
    old, new = (",".join([*service, selector]) for selector in (arguments.baseline, arguments.canary))
    with _open(arguments) as source:
        metrics = names or canary.judged_metrics(source, old)
        if not metrics:
            if not source.series(old):
                raise WrongUse(f"cannot judge a deployment: no series satisfies --baseline {old}")
            raise WrongUse(f"cannot judge a deployment: no series of {old} tells by its name what it is; use --metric")
        over: dict[str, Any] = {"step_seconds": step_seconds, "start": f"-{for_seconds - warm_up + step_seconds}s"}
        return gate(
            canary.samples(source, metrics, old, **over),
            canary.samples(source, metrics, new, **over),
            directions=directions,
            confidence=arguments.confidence,
            tolerance=arguments.tolerance,
        )


def _open(arguments: argparse.Namespace) -> AbstractContextManager[Any]:
    import tidegauge

    if arguments.data is not None:
        return tidegauge.open(arguments.data, read_only=True)
    return tidegauge.connect(arguments.url or DEFAULT_URL, token=token_of(arguments.token))


def _seconds(text: str, option: str, *, least: int = 1) -> int:
    from api.arguments import parse_duration_ns
    from engine.errors import BadRequest

    try:
        seconds = parse_duration_ns(text) / 1e9
    except BadRequest as error:
        raise WrongUse(f"cannot use {option}: {error.message}") from None
    if seconds < least or seconds != int(seconds):
        raise WrongUse(f"cannot use {option} {text}: want whole seconds, {least} or more")
    return int(seconds)


def _show(verdict: Verdict, form: str) -> None:
    if form == "json":
        from api.canary import verdict_json

        print(json.dumps(verdict_json(verdict)))
        return
    print(verdict.verdict)
    for reason in verdict.reasons:
        print(f"  {reason}")
