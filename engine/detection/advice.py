"""What a person can do about a bottleneck, in a sentence or two."""

from __future__ import annotations

from engine.detection.resources import Resource

#: Load that differs by less is the same load.
SAME_LOAD = 0.2

#: What to do about a resource that is short, and what to look for when more of it is used for the same load.
_SHORT = {
    "cpu": "add instances of it or give it more CPU",
    "memory": "give it more memory or more instances",
    "disk": "move data or writers elsewhere, or give it a larger or faster disk",
    "network": "spread its traffic over more instances or links",
    "connections": "enlarge its pool of connections as far as the other end allows, or add instances",
    "threads": "give it more workers or more instances",
    "files": "raise its limit of open files",
    "queue": "add consumers, or slow down what fills the queue",
    "system": "add instances of it",
}
_LOOK = {
    "cpu": "profile it and compare with what ran before",
    "memory": "look for a leak or a cache without a bound (compare heap dumps); a restart wins time only",
    "disk": "find what reads or writes most (iotop, slow queries, logs)",
    "network": "find the peer and the kind of message that grew, and look for retransmissions",
    "connections": "find who holds connections: slow queries, calls without a timeout, a leak",
    "threads": "take a thread dump: most wait for the same lock or the same call",
    "files": "look for files and sockets that are opened and never closed",
    "queue": "find out why its consumers became slower: their CPU, their errors, what they call",
    "system": "compare with what ran before",
}


def recommend(
    service: str,
    resource: Resource,
    value: float,
    expected: float,
    load_change: float | None,
    *,
    changed_seconds: float | None = None,
    saturated: bool = False,
) -> str:
    """Return advice for a service whose ``resource`` is at ``value`` instead of ``expected``.

    ``load_change``: by which share its traffic differs, None when not known.  ``changed_seconds``: when it was changed,
    from the beginning of the incident, negative for before.  ``saturated``: it is about the level, not a rise.
    """
    first = ""
    if changed_seconds is not None:
        when = f"{abs(changed_seconds):.0f} s {'before' if changed_seconds < 0 else 'after'} this began"
        first = f"It was changed {when}: roll that back first if it can be. "
    return first + _advice(service, resource, value, expected, load_change, saturated)


def _advice(
    service: str, resource: Resource, value: float, expected: float, load_change: float | None, saturated: bool
) -> str:
    more_load = load_change is not None and load_change >= SAME_LOAD
    less_load = load_change is not None and load_change <= -SAME_LOAD
    load = "" if load_change is None or not (more_load or less_load) else f" (its load is {_by(load_change)})"
    if resource.aspect == "errors":
        where = "" if resource.name == "errors" else f" of {resource.name}"
        return (
            f"Read the log of {service} for errors{where} from that time on{load}; "
            "check what it was last given: release, configuration, data, credentials, a dependency that refuses."
        )
    if resource.name == "latency":
        if more_load:
            return f"{service} is slower under more load{load}: add instances, or limit what is let in."
        return (
            f"No resource of {service} explains its latency{load}: look at traces for locks, slow queries, and calls "
            "that are not in the call graph."
        )
    if resource.name == "traffic":
        if load_change is not None and load_change < 0:
            return f"Less reaches {service}{load}: look at what calls it and at what routes to it."
        return f"More reaches {service}{load}: see who sends it; add instances, or limit what is let in."
    if resource.name == "other":
        return f"Find out what moves this metric of {service}{load}; its name does not tell."
    if value < expected and not saturated:
        what = _written(resource.name)
        return f"{service} uses less {what} than before{load}: it may hang, or less may reach it; look there."
    if saturated or more_load:
        short = f"{_written(resource.name)} of {service} is short"
        short = f"the queues of {service} are long" if resource.name == "queue" else short
        return f"{_capital(short)}{load}: {_SHORT[resource.name]}. If that cannot be, {_LOOK[resource.name]}."
    same = " for no more load" if load_change is not None else ""
    needs = "has more in its queues" if resource.name == "queue" else f"needs more {_written(resource.name)}"
    return f"{service} {needs}{same}{load}: {_LOOK[resource.name]}. Until then, {_SHORT[resource.name]}."


def _by(change: float) -> str:
    return f"up by {change:.0%}" if change > 0 else f"down by {-change:.0%}"


def _written(resource: str) -> str:
    return "CPU" if resource == "cpu" else resource


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]
