"""A scripted day of a simulated fleet: incidents of ten kinds, each with a deadline, and what is no incident.

Everything is drawn from the seed: when, where, how long and how bad.  Incidents leave quiet time between them; what is
no incident (restarts, backups, more load, a slow spell, a few failing requests) happens at any time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from api.demo.fleet import Fleet
from api.demo.incident import EVERYTHING, Incident, Kind
from engine.clock import NS_PER_DAY, NS_PER_MINUTE, NS_PER_SECOND

_MINUTE = 60.0
_HOUR = 3_600.0
_ERRORS = frozenset({"app_errors_total"})
_TRAFFIC = frozenset({"app_requests_total", "business_orders_total", "business_revenue_total"})
#: The first scripted day; a seed's day is some days later, so that all days of the week come up.
_FIRST_DAY_NS = 1_772_409_600 * NS_PER_SECOND  # 2026-03-02T00:00:00Z, a Monday


@dataclass(frozen=True, slots=True)
class Scripted:
    """A kind of incident, how long it lasts (seconds, least and most), and when it must have been noticed.

    ``rise`` is a share of its duration.  ``deadline_seconds`` counts from its beginning; None: when it is at
    ``deadline_level`` of its full level, after which it is too late.
    """

    kind: Kind
    seconds: tuple[float, float]
    deadline_seconds: float | None
    rise: float = 0.05
    deadline_level: float = 0.0
    sizes: tuple[float, float] = (1.0, 1.4)

    @property
    def slow(self) -> bool:
        return self.deadline_seconds is None


INCIDENTS = (
    Scripted(
        Kind("cpu saturation", "a host computes", frozenset({"cpu_usage_percent"}), "host", cpu_percent=98.0),
        (8 * _MINUTE, 30 * _MINUTE),
        3 * _MINUTE,
    ),
    Scripted(
        Kind(
            "latency regression",
            "a service answers slowly",
            frozenset({"app_response_time_ms", "app_queue_length"}),
            response_ms=2_600.0,
            queue=60.0,
        ),
        (10 * _MINUTE, 40 * _MINUTE),
        3 * _MINUTE,
    ),
    Scripted(
        Kind("error burst", "requests to a service fail", _ERRORS, errors=0.12),
        (6 * _MINUTE, 20 * _MINUTE),
        3 * _MINUTE,
        sizes=(1.0, 2.0),
    ),
    Scripted(
        Kind("traffic drop", "most of the requests do not come", _TRAFFIC, lost=0.85),
        (20 * _MINUTE, 40 * _MINUTE),
        10 * _MINUTE,
    ),
    Scripted(
        Kind("flapping probe", "a probe fails every other minute", frozenset({"probe_up"}), "host", flaps=True),
        (15 * _MINUTE, 35 * _MINUTE),
        3 * _MINUTE,
    ),
    Scripted(
        Kind("clock skew", "a host's clock is far off", EVERYTHING, "host", clock_seconds=900.0),
        (20 * _MINUTE, 40 * _MINUTE),
        10 * _MINUTE,
        sizes=(-3.0, 3.0),
    ),
    Scripted(
        Kind("agent loss", "a host reports nothing", EVERYTHING, "host", silent=True),
        (20 * _MINUTE, 40 * _MINUTE),
        10 * _MINUTE,
    ),
    Scripted(
        Kind(
            "bad deployment",
            "a release fails, is slow and computes more",
            frozenset({"app_errors_total", "app_response_time_ms", "cpu_usage_percent", "app_queue_length"}),
            cpu_percent=75.0,
            response_ms=700.0,
            errors=0.1,
            queue=20.0,
        ),
        (10 * _MINUTE, 30 * _MINUTE),
        5 * _MINUTE,
    ),
    Scripted(
        Kind("memory leak", "memory runs out", frozenset({"memory_used_percent"}), "host", memory_percent=46.0),
        (3 * _HOUR, 5 * _HOUR),
        None,
        rise=0.97,
        deadline_level=0.8,
        sizes=(1.0, 1.0),
    ),
    Scripted(
        Kind("disk filling", "a disk runs full", frozenset({"disk_used_percent"}), "host", disk_percent=56.0),
        (4 * _HOUR, 7 * _HOUR),
        None,
        rise=0.97,
        deadline_level=0.75,
        sizes=(1.0, 1.0),
    ),
)
#: How often a day; the slow ones once.
_TIMES_A_DAY = 2
BACKUP = Kind("backup", "a nightly backup", scope="host", cpu_percent=72.0, disk_percent=4.0)
RESTART = Kind("restart", "an orderly restart", scope="host", silent=True, restarts=True)
SURGE = Kind("surge", "more load", cpu_percent=68.0, response_ms=60.0, requests=0.4, queue=3.0, in_flight=4.0)
SLOW_SPELL = Kind("slow spell", "answers take longer for a moment", response_ms=450.0, queue=5.0)
FEW_ERRORS = Kind("few errors", "a few requests fail", errors=0.012)


@dataclass(frozen=True, slots=True)
class Labelled:
    """An incident that must be noticed by ``deadline_ns``."""

    incident: Incident
    deadline_ns: int


@dataclass(frozen=True, slots=True)
class Script:
    """A day from ``start_ns`` to ``end_ns`` with what happens in it."""

    start_ns: int
    end_ns: int
    labelled: tuple[Labelled, ...]
    harmless: tuple[Incident, ...]

    @property
    def incidents(self) -> tuple[Incident, ...]:
        """Return everything that happens, in order of time."""
        every = (*(each.incident for each in self.labelled), *self.harmless)
        return tuple(sorted(every, key=lambda each: each.start_ns))


def script(
    seed: int,
    fleet: Fleet,
    *,
    kinds: Sequence[Scripted] = INCIDENTS,
    times: int = _TIMES_A_DAY,
    rough: bool = False,
) -> Script:
    """Return the day of a seed: each of ``kinds`` so many ``times``, those that take hours once.

    ``rough``: with bursts of load and of failures in all services at once, and services restarted host by host.
    """
    random = Random(f"script {seed}")
    start_ns = _FIRST_DAY_NS + seed % 70 * NS_PER_DAY
    labelled = [*_slow(random, fleet, start_ns, kinds)]
    taken = {each.incident.service for each in labelled}
    quick = [each for each in kinds if not each.slow] * times
    random.shuffle(quick)
    at_ns = start_ns + _nanoseconds(random.uniform(45 * _MINUTE, 75 * _MINUTE))
    for each in quick:
        incident = _draw(random, fleet, each, at_ns, avoid=taken)
        assert each.deadline_seconds is not None
        labelled.append(Labelled(incident, incident.start_ns + _nanoseconds(each.deadline_seconds)))
        at_ns = incident.end_ns + _nanoseconds(random.uniform(20 * _MINUTE, 45 * _MINUTE))
    end_ns = max(at_ns, *(each.incident.end_ns for each in labelled)) + _nanoseconds(_HOUR)
    incidents = [each.incident for each in labelled]
    harmless = tuple(_harmless(random, fleet, start_ns, end_ns, incidents))
    if rough:
        harmless += tuple(_together(Random(f"together {seed}"), fleet, start_ns, end_ns, incidents))
    return Script(start_ns, end_ns - end_ns % NS_PER_MINUTE, tuple(labelled), harmless)


def _slow(random: Random, fleet: Fleet, start_ns: int, kinds: Sequence[Scripted]) -> Iterator[Labelled]:
    used: set[str] = set()
    for each in kinds:
        if each.slow:
            at_ns = start_ns + _nanoseconds(random.uniform(1 * _HOUR, 8 * _HOUR))
            incident = _draw(random, fleet, each, at_ns, avoid=used)
            used.add(incident.service)
            yield Labelled(incident, at_ns + _nanoseconds(each.deadline_level * incident.ramp_seconds))


def _draw(random: Random, fleet: Fleet, drawn: Scripted, at_ns: int, *, avoid: set[str]) -> Incident:
    """Return an incident of this kind from ``at_ns`` on, of a service or host that is not to be avoided."""
    possible = [each for each in fleet.instances if each.service not in avoid]
    instance = random.choice(possible)
    seconds = round(random.uniform(*drawn.seconds))
    low, high = drawn.sizes
    # A clock is off to either side, but never by next to nothing.
    size = (
        random.choice((random.uniform(low, -1.0), random.uniform(1.0, high))) if low < 0 else random.uniform(low, high)
    )
    return Incident(
        at_ns,
        instance.service,
        seconds,
        ramp_seconds=drawn.rise * seconds,
        fall_seconds=0.02 * seconds,
        kind=drawn.kind,
        host=instance.host if drawn.kind.scope == "host" else None,
        size=size,
    )


def _harmless(
    random: Random, fleet: Fleet, start_ns: int, end_ns: int, incidents: Sequence[Incident]
) -> Iterator[Incident]:
    for number, instance in enumerate(fleet.instances):
        at_ns = start_ns + _nanoseconds(_HOUR + 20 * _MINUTE * number)
        yield Incident(
            at_ns, instance.service, 15 * _MINUTE, 60.0, kind=BACKUP, host=instance.host, size=random.uniform(0.5, 1.0)
        )
    hours = (end_ns - start_ns) / NS_PER_SECOND / _HOUR
    for kind, a_day, seconds in (
        (RESTART, 6, (35.0, 80.0)),
        (SURGE, 4, (10 * _MINUTE, 30 * _MINUTE)),
        (SLOW_SPELL, 6, (1 * _MINUTE, 4 * _MINUTE)),
        (FEW_ERRORS, 6, (1 * _MINUTE, 5 * _MINUTE)),
    ):
        for _ in range(max(1, round(a_day * hours / 24))):
            at_ns = start_ns + _nanoseconds(random.uniform(0.3, hours - 0.5) * _HOUR)
            instance, lasts = random.choice(fleet.instances), round(random.uniform(*seconds))
            harmless = Incident(
                at_ns,
                instance.service,
                lasts,
                ramp_seconds=0.2 * lasts,
                kind=kind,
                host=instance.host if kind.scope == "host" else None,
                size=random.uniform(0.6, 1.0),
            )
            # What is no incident must not be taken for a part of one, nor make one worse.
            if not any(_near(harmless, each) for each in incidents):
                yield harmless


def _together(
    random: Random, fleet: Fleet, start_ns: int, end_ns: int, incidents: Sequence[Incident]
) -> Iterator[Incident]:
    """Yield what is harmless and happens to many at once: bursts, and restarts one after the other."""
    hours = (end_ns - start_ns) / NS_PER_SECOND / _HOUR
    services = sorted({instance.service for instance in fleet.instances})
    for kind, a_day, seconds in (
        (SURGE, 3, (5 * _MINUTE, 20 * _MINUTE)),
        (SLOW_SPELL, 4, (1 * _MINUTE, 3 * _MINUTE)),
        (FEW_ERRORS, 4, (1 * _MINUTE, 4 * _MINUTE)),
    ):
        for _ in range(max(1, round(a_day * hours / 24))):
            at_ns = start_ns + _nanoseconds(random.uniform(0.3, hours - 0.5) * _HOUR)
            lasts, size = round(random.uniform(*seconds)), min(2.5, random.paretovariate(2.0))
            for service in services:
                burst = Incident(at_ns, service, lasts, ramp_seconds=0.2 * lasts, kind=kind, size=size)
                if not any(_near(burst, each) for each in incidents):
                    yield burst
    for _ in range(max(1, round(3 * hours / 24))):
        at_ns = start_ns + _nanoseconds(random.uniform(0.3, hours - 1.0) * _HOUR)
        service = random.choice(services)
        for number, instance in enumerate(each for each in fleet.instances if each.service == service):
            lasts = round(random.uniform(35.0, 80.0))
            restart = Incident(
                at_ns + number * 3 * NS_PER_MINUTE,
                service,
                lasts,
                ramp_seconds=0.2 * lasts,
                kind=RESTART,
                host=instance.host,
            )
            if not any(_near(restart, each) for each in incidents):
                yield restart


def _near(one: Incident, other: Incident) -> bool:
    margin = 15 * NS_PER_MINUTE
    return (
        one.service == other.service and one.start_ns < other.end_ns + margin and other.start_ns < one.end_ns + margin
    )


def _nanoseconds(seconds: float) -> int:
    return round(seconds) * NS_PER_SECOND
