"""``tidegauge replay``: what alerts, anomalies and scaling decisions there would have been over stored history."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from api.arguments import parse_duration_ns, parse_time
from api.cli import DEFAULT_DATA, WrongUse, config_of
from engine.errors import BadRequest
from engine.model.times import time_text

if TYPE_CHECKING:
    from engine.alerting.alerts import Alert
    from engine.maintenance.replay.stored import Replayed

_EPILOG = """example:
  tidegauge replay --rules tidegauge.toml --from now-1d --data /var/lib/tidegauge
  tidegauge replay --from 2026-11-20T00:00:00Z --to 2026-11-21T00:00:00Z --format json > friday.json
  tidegauge replay --labelled                how often the default rules are right, on scripted incidents
  tidegauge replay --labelled --seeds 7,8 --rules tidegauge.toml --loads ./request-rates

Over stored history nothing is changed and nothing sent; the directory must not be in use: stop the server, or replay
a copy.  --labelled plays days of a simulated fleet with incidents of ten kinds and prints the confusion table; it
ends with 1 when fewer than 98 % of the alerts are right or fewer than 95 % of the incidents are caught in time.
"""
#: So much before --from is what detection learns from by default: as much as is kept.
DEFAULT_LEARN = "7d"
_OF_HISTORY = {"--from": "start", "--to": "end", "--data": "data", "--learn": "learn"}
_EVERY_SECONDS = 0.2
_SHOWN = 50


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = "Tell what the rules of a configuration would have said over stored history."
    parser.epilog = _EPILOG
    parser.add_argument("--rules", metavar="FILE", help="a configuration file (default: every default)")
    parser.add_argument("--from", dest="start", metavar="TIME", help="RFC 3339, epoch, now or now-1h")
    parser.add_argument("--to", dest="end", metavar="TIME", help="the same (default: now)")
    parser.add_argument("--data", metavar="DIR", help=f"the directory (default: {DEFAULT_DATA})")
    parser.add_argument(
        "--learn", metavar="TIME", help=f"detection learns from so much before --from (default: {DEFAULT_LEARN})"
    )
    parser.add_argument("--labelled", action="store_true", help="play scripted incidents of a simulated fleet instead")
    parser.add_argument(
        "--seeds", metavar="N,N,...", help="with --labelled: which fleets (default: those held out of development)"
    )
    parser.add_argument(
        "--loads", metavar="DIR", help="with --labelled: recorded request rates (traces.json) that drive the fleets"
    )
    parser.add_argument(
        "--rough", action="store_true", help="with --labelled: heavy-tailed spikes, lost readings, weekdays, bursts"
    )
    parser.add_argument("--format", choices=("text", "json"), default="text", help="default: text")


def run(arguments: argparse.Namespace) -> int:
    given = {name: getattr(arguments, dest) for name, dest in _OF_HISTORY.items()}
    if arguments.labelled:
        for name, value in given.items():
            if value is not None:
                raise WrongUse(f"cannot use {name} with --labelled: it plays days of its own")
        return _labelled(arguments)
    rough = arguments.rough or None
    for name, value in (("--seeds", arguments.seeds), ("--loads", arguments.loads), ("--rough", rough)):
        if value is not None:
            raise WrongUse(f"cannot use {name} without --labelled")
    if arguments.start is None:
        raise WrongUse("cannot replay: want --from, or --labelled for scripted incidents")
    return _stored(arguments)


def _stored(arguments: argparse.Namespace) -> int:
    now_ns = time.time_ns()
    try:
        start_ns = parse_time(arguments.start, now_ns)
        end_ns = parse_time(arguments.end or "now", now_ns)
        learn_ns = parse_duration_ns(arguments.learn or DEFAULT_LEARN)
    except BadRequest as error:
        raise WrongUse(error.message) from None
    if end_ns <= start_ns:
        raise WrongUse(f"cannot replay: --to ({time_text(end_ns)}) is not after --from ({time_text(start_ns)})")
    config = config_of(arguments.rules)
    data = arguments.data or DEFAULT_DATA
    if not os.path.exists(os.path.join(data, "catalog.log")):
        raise WrongUse(f"cannot replay {data}: it is no data directory of tidegauge")
    from engine.maintenance.replay.history import History
    from engine.maintenance.replay.stored import replay

    progress = _Progress() if sys.stderr.isatty() else None
    began = time.monotonic()
    with History(os.path.abspath(data)) as history:
        found = replay(
            history,
            config,
            start_ns=start_ns,
            end_ns=end_ns,
            learn_ns=learn_ns,
            **({} if progress is None else {"progress": progress}),
        )
    if progress is not None:
        progress.clear()
    if arguments.format == "json":
        print(json.dumps(_as_json(found), indent=2, ensure_ascii=False))
    else:
        print(render(found, seconds=time.monotonic() - began), end="")
    return 0


def _as_json(found: Replayed) -> dict[str, Any]:
    return {
        "from": time_text(found.start_ns),
        "to": time_text(found.end_ns),
        "learned_from": time_text(found.learned_from_ns),
        "ticks": found.ticks,
        "rows": found.rows,
        "alerts": [
            {
                "rule": alert.rule,
                "severity": alert.severity,
                "category": alert.category,
                "labels": alert.labels,
                "state": alert.state,
                "value": alert.value,
                "summary": alert.summary,
                "started_at": time_text(alert.started_ns),
                "fired_at": time_text(alert.fired_ns),
                "notified_at": time_text(alert.notified_ns),
                "resolved_at": time_text(alert.resolved_ns),
            }
            for alert in found.alerts
        ],
        "anomalies": [_timed(row, "time", labels="labels") for row in found.anomalies],
        "decisions": [_timed(row, "decided_at", "valid_until") for row in found.decisions],
        "notifications": [
            {"channel": channel, "event": event, "count": count} for channel, event, count in found.notifications
        ],
    }


def _timed(row: dict[str, Any], *times: str, labels: str = "") -> dict[str, Any]:
    changed: dict[str, Any] = {name: time_text(row[name]) for name in times}
    if labels:
        changed[labels] = json.loads(row[labels])
    return row | changed


def render(found: Replayed, *, seconds: float) -> str:
    """Return a replay as people read it: alerts, anomalies, decisions, then sums."""
    fired = [alert for alert in found.alerts if alert.fired_ns is not None]
    lines = [_alert_line(alert) for alert in fired]
    strangest = sorted(found.anomalies, key=lambda row: -row["score"])
    lines += _first([_anomaly_line(row) for row in strangest], "anomalies")
    lines += [
        f"{time_text(row['decided_at'])}  scale {row['target']} to {row['desired']}: {row['reason']}"
        for row in found.decisions
    ]
    by_rule = Counter(alert.rule for alert in fired)
    lines += [f"{rule}: fired {count} times" for rule, count in by_rule.most_common()]
    pending = len(found.alerts) - len(fired)
    lines.append(
        f"{len(fired)} alerts fired, {pending} were pending and did not, {len(found.anomalies)} anomalies noted, "
        f"{len(found.decisions)} scaling decisions"
    )
    lines += [f"{count} notifications {event} to {channel}" for channel, event, count in found.notifications]
    lines.append(
        f"{found.ticks} ticks over {found.rows} rows from {time_text(found.start_ns)} to {time_text(found.end_ns)}, "
        f"detection since {time_text(found.learned_from_ns)}; {seconds:.1f} s"
    )
    return "\n".join(lines) + "\n"


def _alert_line(alert: Alert) -> str:
    end = f"to {time_text(alert.resolved_ns)}" if alert.resolved_ns is not None else "and still does"
    return f"{time_text(alert.fired_ns)}  {alert.severity} {alert.rule} fires {end}: {alert.summary}"


def _anomaly_line(row: dict[str, Any]) -> str:
    where = f"{row['metric']} {_labels(row['labels'])}".rstrip()
    return f"{time_text(row['time'])}  anomaly {row['score']:.2f}: {where}: {row['reason']}"


def _labels(text: str) -> str:
    return ",".join(f"{key}={value}" for key, value in json.loads(text).items())


def _first(lines: list[str], what: str) -> list[str]:
    more = len(lines) - _SHOWN
    return lines if more <= 0 else [*lines[:_SHOWN], f"... and {more} more {what}; --format json has all"]


def _labelled(arguments: argparse.Namespace) -> int:
    from api.demo import labelled
    from api.demo.traces import load_traces

    config = config_of(arguments.rules)
    seeds = _seeds(arguments.seeds) or labelled.HELD_OUT_SEEDS
    traces = None if arguments.loads is None else load_traces(arguments.loads)
    progress = _Progress() if sys.stderr.isatty() else None
    found = labelled.Judgement()
    for seed in seeds:
        load = None if traces is None else traces[seed % len(traces)]
        found.add(
            labelled.rehearse(seed, config, load=load, rough=arguments.rough, progress=progress or labelled.ignore)
        )
        if progress is not None:
            progress.clear()
    if arguments.format == "json":
        print(json.dumps(labelled.as_json(found, seeds), indent=2))
    else:
        print(labelled.render(found), end="")
    return 0 if found.good_enough else 1


def _seeds(text: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(",")) if text is not None else ()
    except ValueError:
        raise WrongUse(f"cannot use --seeds {text}: want whole numbers with commas between") from None


class _Progress:
    """One line on a terminal that is written over again and again."""

    def __init__(self) -> None:
        self._shown = 0.0

    def __call__(self, done_ns: int, total_ns: int) -> None:
        now = time.monotonic()
        if now - self._shown >= _EVERY_SECONDS:
            self._shown = now
            print(f"\r\x1b[Kreplaying: {100 * done_ns // max(total_ns, 1)} %", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
