"""Known data for the questions of docs/sql-questions.md, from a seeded generator: a small fleet over nine days."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from engine.clock import NS_PER_MINUTE
from engine.runtime import Engine
from engine.scaling.policy import Decision

NOW = datetime(2026, 3, 11, 12)
NOW_NS = int(NOW.replace(tzinfo=UTC).timestamp()) * 10**9
TODAY = datetime(2026, 3, 11)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
HOSTS = {"web-1": "eu", "web-2": "us", "web-3": "eu", "web-4": "us", "db-1": "eu", "db-2": "us"}
TEAMS = {"web-1": "shop", "web-2": "shop", "web-3": "search", "web-4": "search", "db-1": "data", "db-2": "data"}
INSTANCES = (("shop", "a"), ("shop", "b"), ("search", "a"), ("pay", "a"))


def times(days: float, minutes: int) -> list[datetime]:
    """Return the times of ``days`` before now, every so many minutes."""
    return pl.datetime_range(NOW - days * DAY, NOW, f"{minutes}m", closed="left", eager=True).to_list()


def make_cpu(rng: np.random.Generator) -> pl.DataFrame:
    frames = []
    for number, (host, region) in enumerate(HOSTS.items()):
        at = times(9, 1)
        busy = 45 + 25 * np.sin(np.arange(len(at)) / 1440 * 2 * np.pi + number) + rng.integers(-40, 40, len(at)) / 4
        frames.append(
            pl.DataFrame({"time": at, "usage_user": busy.round(2)}).with_columns(
                host=pl.lit(host), region=pl.lit(region)
            )
        )
    cpu = pl.concat(frames)
    at, host = pl.col("time"), pl.col("host")
    yesterday = TODAY - DAY

    def within(name: str, start: datetime, minutes: int) -> pl.Expr:
        return (host == name) & (at >= start) & (at < start + timedelta(minutes=minutes))

    hot = within("web-2", yesterday + 10 * HOUR, 12) | within("db-1", yesterday + 15 * HOUR, 4)
    hot |= within("web-3", yesterday + 20 * HOUR, 7) | within("web-1", NOW - 5 * DAY, 1)
    cpu = cpu.with_columns(usage_user=pl.when(hot).then(95.25).otherwise(pl.col("usage_user").clip(0, 89.0)))
    silent = within("web-4", yesterday + 3 * HOUR, 30) | within("db-2", NOW - timedelta(minutes=25), 25)
    return cpu.filter(~silent)


def make_mem(cpu: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    """Memory follows CPU on web hosts and nothing on the others; every fifth minute."""
    some = cpu.filter(pl.col("time").dt.minute() % 5 == 0, pl.col("time") >= NOW - DAY)
    noise = rng.integers(0, 80, len(some)) / 4
    follows = some["host"].str.starts_with("web").to_numpy()
    used = np.where(follows, some["usage_user"].to_numpy() / 2 + noise, 40 + noise)
    return some.select("time", "host").with_columns(used_percent=pl.Series(used.round(2)))


def make_disk(rng: np.random.Generator) -> pl.DataFrame:
    frames = []
    for host, slope in (("db-1", 2e8), ("db-2", -1e7), ("web-1", 5e7)):
        at = times(31, 10)
        used = 3e10 + slope / 6 * np.arange(len(at)) / 4 + rng.integers(0, 10**8, len(at))
        frames.append(
            pl.DataFrame({"time": at, "used_bytes": used.round()}).with_columns(
                host=pl.lit(host), path=pl.lit("/"), total_bytes=pl.lit(1e11)
            )
        )
    return pl.concat(frames)


def make_web(rng: np.random.Generator) -> pl.DataFrame:
    frames = []
    for number, (service, instance) in enumerate(INSTANCES):
        at = times(9, 2)
        requests = rng.integers(50, 150, len(at)).cumsum()
        errors = (rng.random(len(at)) < 0.02 * (number + 1)).cumsum()
        for restart in np.sort(rng.choice(len(at), 8, replace=False)).tolist():
            requests[restart:] -= requests[restart] - 3
            errors[restart:] -= errors[restart]
        slow = rng.lognormal(3 + number / 4, 0.6, len(at)).round(3)
        columns = {"time": at, "requests_total": requests.astype(float), "errors_total": errors.astype(float)}
        frames.append(
            pl.DataFrame({**columns, "response_time_ms": slow}).with_columns(
                service=pl.lit(service), instance=pl.lit(instance)
            )
        )
    return pl.concat(frames)


@dataclass(frozen=True, slots=True)
class Alarm:
    """One alert as it is stored; times in minutes before now."""

    rule: str
    host: str
    fired: int
    resolved: int | None


@dataclass(frozen=True, slots=True)
class Data:
    cpu: pl.DataFrame
    mem: pl.DataFrame
    disk: pl.DataFrame
    web: pl.DataFrame
    inventory: pl.DataFrame
    alarms: list[Alarm]
    decisions: list[Decision]


def make_data() -> Data:
    rng = np.random.default_rng(20260311)
    cpu = make_cpu(rng)
    inventory = pl.DataFrame(
        {"time": [NOW - 9 * DAY] * len(TEAMS), "host": [*TEAMS], "team": [*TEAMS.values()], "cores": [8.0] * len(TEAMS)}
    )
    alarms = [
        Alarm(rule, str(rng.choice([*HOSTS])), int(fired), None if fired < 20 else int(fired - rng.integers(1, 19)))
        for rule, number in (("cpu-high", 30), ("disk-full", 6), ("error-rate", 13))
        for fired in rng.choice(9 * 1440, number, replace=False)
    ]
    actions = ("up", "hold", "down")
    decided = np.sort(rng.choice(2 * 1440, 24, replace=False))[::-1].tolist()
    decisions = [
        Decision(
            "web",
            number % 3 + 2,
            (number + 1) % 3 + 2,
            number % 3 + 2,
            actions[number % 3],
            f"reason {number}",
            (),
            (),
            NOW_NS - minutes * NS_PER_MINUTE,
            NOW_NS - (minutes - 5) * NS_PER_MINUTE,
        )
        for number, minutes in enumerate(decided)
    ]
    mem, disk, web = make_mem(cpu, rng), make_disk(rng), make_web(rng)
    return Data(cpu, mem, disk, web, inventory, alarms, decisions)


def lines_of(table: str, frame: pl.DataFrame, tags: list[str]) -> list[str]:
    fields = [name for name in frame.columns if name not in ("time", *tags)]
    text = pl.concat_str(
        [
            pl.lit(table),
            *(pl.concat_str(pl.lit(f",{tag}="), pl.col(tag)) for tag in tags),
            pl.lit(" "),
            pl.concat_str([pl.concat_str(pl.lit(f"{name}="), pl.col(name)) for name in fields], separator=","),
            pl.lit(" "),
            pl.col("time").dt.timestamp("ns"),
        ]
    )
    return frame.sort("time").select(text).to_series().to_list()


def store_alarms(engine: Engine, alarms: list[Alarm]) -> None:
    """Write alerts as the journal of alerts does."""
    with engine.control.transaction() as connection:
        for alarm in alarms:
            fired = NOW_NS - alarm.fired * NS_PER_MINUTE
            resolved = None if alarm.resolved is None else NOW_NS - alarm.resolved * NS_PER_MINUTE
            alert = {
                "fingerprint": f"{alarm.rule}/{alarm.host}/{alarm.fired}",
                "tagset_id": 0,
                "rule": alarm.rule,
                "severity": "warning",
                "category": "host",
                "labels": json.dumps({"host": alarm.host}),
                "channels": "[]",
                "state": "firing" if resolved is None else "resolved",
                "threshold": 90.0,
                "summary": "",
                "started_ns": fired - NS_PER_MINUTE,
                "cause_time_ns": fired,
                "fired_ns": fired,
                "resolved_ns": resolved,
            }
            marks = ", ".join("?" * len(alert))
            number = connection.execute(
                f"INSERT INTO alerts ({', '.join(alert)}) VALUES ({marks})", tuple(alert.values())
            ).lastrowid
            events = [(fired - NS_PER_MINUTE, "pending"), (fired, "firing")]
            events += [] if resolved is None else [(resolved, "resolved")]
            for at, event in events:
                connection.execute(
                    "INSERT INTO alert_events (alert_id, time_ns, event) VALUES (?, ?, ?)", (number, at, event)
                )
