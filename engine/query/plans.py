"""Statements as they were read when it was asked what they need, kept until they are run."""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from engine.query.relations import Relations
from engine.query.rewriting import Rewrite
from engine.query.scopes import Scope
from engine.query.sources import JsonScalar, Visible
from engine.query.validation import Statement

#: Statements that are never run, because their rows cannot be had, are forgotten after so many others.
MAX_PLANS = 256

#: The statement, its parameters, and which series there are for it.
Key = tuple[str, tuple[JsonScalar, ...], Visible]


@dataclass(frozen=True, slots=True)
class Plan:
    """A checked statement with the scopes of its relations, as of when it was read: new series are not in them.

    ``rewrite``: how it reads a tier that answers the same, None where none does.
    """

    key: Key
    relations: Relations
    statement: Statement
    scopes: Sequence[Scope]
    rewrite: Rewrite | None = None


class Plans:
    """Plans by number; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._plans: OrderedDict[int, Plan] = OrderedDict()

    def keep(self, plan: Plan) -> int:
        """Return a number for the plan, which is never 0."""
        with self._lock:
            number = next(self._numbers)
            self._plans[number] = plan
            if len(self._plans) > MAX_PLANS:
                self._plans.popitem(last=False)
            return number

    def take(self, number: int, key: Key) -> Plan | None:
        """Return a plan and forget it; None where there is none, or it is another statement's (of another process)."""
        with self._lock:
            plan = self._plans.get(number)
            if plan is None or plan.key != key:
                return None
            return self._plans.pop(number)
