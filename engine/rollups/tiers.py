"""The rollup tiers: how wide their buckets are, and which tier each is made from.

Buckets are counted from 1970 UTC, so that a bucket of a wide tier is made of whole buckets of the narrower one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from engine.clock import NS_PER_DAY, NS_PER_HOUR, NS_PER_MINUTE


@dataclass(frozen=True, slots=True)
class Tier:
    """One tier.  ``name`` is its table and its relation in SQL; ``source`` the next narrower tier, if there is one."""

    name: str
    width_ns: int
    source: str | None

    def floor(self, time_ns: int) -> int:
        """Return the start of the bucket that holds ``time_ns``, before 1970 as well."""
        return time_ns // self.width_ns * self.width_ns


BASE = Tier("rollup_1m", NS_PER_MINUTE, None)
#: From narrow to wide; each width is a multiple of the one before.
TIERS: tuple[Tier, ...] = (
    BASE,
    Tier("rollup_5m", 5 * NS_PER_MINUTE, "rollup_1m"),
    Tier("rollup_15m", 15 * NS_PER_MINUTE, "rollup_5m"),
    Tier("rollup_1h", NS_PER_HOUR, "rollup_15m"),
    Tier("rollup_1d", NS_PER_DAY, "rollup_1h"),
)
#: Background flushes end with a multiple of this: of all tiers only the open day is then written more than once.
QUIET_NS = NS_PER_HOUR
TIER_OF_NAME = {tier.name: tier for tier in TIERS}


def best_tier(step_ns: int, among: Iterable[Tier] = TIERS) -> Tier | None:
    """Return the widest of the tiers whose buckets make up steps of ``step_ns`` exactly; None when none does."""
    fitting = [tier for tier in among if step_ns > 0 and step_ns % tier.width_ns == 0]
    return max(fitting, key=lambda tier: tier.width_ns, default=None)


def tier_above(tier: Tier) -> Tier | None:
    """Return the tier that is made from ``tier``; None for the widest."""
    return next((above for above in TIERS if above.source == tier.name), None)
