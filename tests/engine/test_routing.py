"""Routes: which alert takes which, at which times of the week, against an obvious twin; and what the server does."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.alerting.routing import Router
from engine.config import Channel, Config, Route
from engine.config_routes import default_routes
from engine.model.weektimes import DAYS, WeekTimes
from tests.engine.test_alert_store import T0, S, Server, rule_of

#: Monday.
WEEK = datetime(2026, 11, 23, tzinfo=UTC)


def covered(text: str) -> list[str]:
    """Return the hours of a week that begin within ``text``, as "mon 08"."""
    times = WeekTimes.parse(text)
    return [f"{day} {hour:02}" for at, day in enumerate(DAYS) for hour in range(24) if times.covers(at, hour * 60)]


@pytest.mark.parametrize(
    ("text", "hours"),
    [
        ("sat,sun", [f"{day} {hour:02}" for day in ("sat", "sun") for hour in range(24)]),
        ("mon 08:00-10:00", ["mon 08", "mon 09"]),
        ("fri-mon 23:30-01:00", ["mon 00", "tue 00", "sat 00", "sun 00"]),
        ("sun 22:00-02:00", ["mon 00", "mon 01", "sun 22", "sun 23"]),
        ("tue,thu 23:00-24:00", ["tue 23", "thu 23"]),
        ("12:00-13:00", [f"{day} 12" for day in DAYS]),
        ("mon-sun", [f"{day} {hour:02}" for day in DAYS for hour in range(24)]),
    ],
)
def test_times_of_the_week(text: str, hours: list[str]) -> None:
    assert covered(text) == hours


@pytest.mark.parametrize(
    "text", ["", "monday", "mon 8:00-9:00", "mon 09:00-09:00", "25:00-26:00", "mon-", "mon  08:00-09:00"]
)
def test_times_that_cannot_be_read(text: str) -> None:
    with pytest.raises(ValueError, match="cannot read times of the week"):
        WeekTimes.parse(text)


@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 1439), st.integers(0, 1440), st.integers(0, 10079))
def test_a_minute_is_covered_when_a_day_among_them_began_the_hours_it_lies_in(
    first: int, last: int, start: int, end: int, at: int
) -> None:
    if start == end:
        return
    text = f"{DAYS[first]}-{DAYS[last]} {start // 60:02}:{start % 60:02}-{end // 60:02}:{end % 60:02}"
    length = (end - start) % 1440 or 1440
    begins = {(first + step) % 7 for step in range((last - first) % 7 + 1)}
    expected = any(
        (at - back) % 10080 % 1440 == start and (at - back) % 10080 // 1440 in begins for back in range(length)
    )
    assert WeekTimes.parse(text).covers(at // 1440, at % 1440) == expected


def test_hours_are_those_of_the_clock_on_the_wall_also_when_it_is_changed() -> None:
    route = Route(name="r", channels=("a",), times=("sun 03:00-04:00",), timezone="Europe/Berlin")
    router = Router([route], ["all"])
    values = {"severity": "info", "category": "custom"}
    # On 29 March 2026 the clock goes from 02:00 to 03:00 at 01:00 UTC; on 25 October back at 01:00 UTC.
    for day, hours in ((datetime(2026, 3, 29, tzinfo=UTC), [1]), (datetime(2026, 10, 25, tzinfo=UTC), [2])):
        at = [int((day + timedelta(hours=hour)).timestamp()) * S for hour in range(24)]
        assert [hour for hour in range(24) if router.routes_of(values, at[hour])] == hours


ROUTES = st.builds(
    Route,
    name=st.just("r"),
    channels=st.lists(st.sampled_from("abc"), max_size=2).map(tuple),
    match=st.sampled_from(["", 'x="1"', 'x!="1"', 'x=~"1|2",rule="r1"', 'y=""']),
    severity=st.lists(st.sampled_from(["critical", "warning"]), max_size=1).map(tuple),
    category=st.lists(st.sampled_from(["system", "business"]), max_size=1).map(tuple),
    times=st.lists(st.sampled_from(["mon-fri 08:00-18:00", "sat,sun", "22:00-06:00"]), max_size=2).map(tuple),
    timezone=st.sampled_from(["UTC", "Asia/Kolkata"]),
    continue_=st.booleans(),
)


def obvious(routes: list[Route], values: dict[str, Any], at: datetime) -> list[str] | None:
    """Return the channels in the order in which they are told, None where no route takes the alert."""
    found: list[str] | None = None
    for route in routes:
        local = at.astimezone(ZoneInfo(route.timezone))
        weekday, hour = local.weekday(), local.hour
        in_time = {
            "mon-fri 08:00-18:00": weekday < 5 and 8 <= hour < 18,
            "sat,sun": weekday >= 5,
            "22:00-06:00": hour >= 22 or hour < 6,
        }
        x = values.get("x", "")
        matches = {
            "": True,
            'x="1"': x == "1",
            'x!="1"': x != "1",
            'x=~"1|2",rule="r1"': bool(re.fullmatch("1|2", x)) and values["rule"] == "r1",
            'y=""': True,
        }
        if route.severity and values["severity"] not in route.severity:
            continue
        if route.category and values["category"] not in route.category:
            continue
        if not matches[route.match] or (route.times and not any(in_time[text] for text in route.times)):
            continue
        found = (found or []) + [name for name in route.channels if name not in (found or [])]
        found = list(dict.fromkeys(found))
        if not route.continue_:
            break
    return found


@given(
    st.lists(ROUTES, max_size=4),
    st.sampled_from(["", "1", "2", "3"]),
    st.sampled_from(["r1", "r2"]),
    st.sampled_from(["critical", "warning"]),
    st.sampled_from(["system", "business"]),
    st.integers(0, 7 * 96 - 1),
)
def test_channels_are_those_of_the_obvious_loop(
    routes: list[Route], x: str, rule: str, severity: str, category: str, quarter: int
) -> None:
    at = WEEK + timedelta(minutes=15 * quarter)
    labels = {"x": x} if x else {}
    values = {**labels, "rule": rule, "severity": severity, "category": category}
    expected = obvious(routes, values, at)
    got = Router(routes, ["all"]).channels_of(
        rule_of(name=rule, severity=severity, category=category), labels, int(at.timestamp()) * S
    )
    assert got == (("all",) if expected is None else tuple(expected))


def test_the_built_in_routes_are_those_of_the_channels_there_are() -> None:
    slack = Channel(name="chat", type="slack", url="http://x")
    phone = Channel(name="phone", type="sms", url="http://x", to=("1",))
    hook = Channel(name="hook", url="http://x")
    assert default_routes([]) == ()
    by_name = {route.name: route.channels for route in default_routes([slack, phone, hook])}
    assert by_name == {
        "system-critical": ("chat", "phone", "hook"),
        "system": ("chat", "hook"),
        "performance": ("chat", "hook"),
        "security": ("chat", "phone", "hook"),
        "integration": ("chat", "hook"),
        "business": ("chat", "hook"),
    }
    # Nobody would be told of a slow response: then everybody is.
    assert [route.name for route in default_routes([phone])] == ["system-critical", "security"]
    own = Route(name="business", channels=("phone",))
    config = Config(channels=(slack, phone), routes=(own,))
    assert config.effective_routes[0] is own
    assert [route.name for route in config.effective_routes].count("business") == 1


def test_where_an_alert_goes_is_decided_when_it_fires_and_stays_so(tmp_path: Path) -> None:
    # 22:13:20 on a Tuesday.
    assert datetime.fromtimestamp(T0 // S, UTC).isoformat() == "2023-11-14T22:13:20+00:00"
    late = Route(name="late", channels=("phone",), times=("tue 22:14-22:15",), match='host="web-7"')
    server = Server(str(tmp_path / "control.db"), [rule_of(for_=60)], ("ops", "phone"), routes=(late,))
    server.tick(0, {7: 95.0})
    server.tick(60, {7: 95.0, 8: 95.0})
    server.tick(120, {7: 5.0, 8: 95.0})
    assert server.notifications() == [
        ("phone", "firing", 1),
        ("phone", "resolved", 1),
        ("ops", "firing", 2),
        ("phone", "firing", 2),
    ]
    server.control.close()
