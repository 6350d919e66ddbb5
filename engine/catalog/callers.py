"""Who asks: a name, and the label matchers that say which series there are for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from engine.catalog.pooled import METRIC_TAG
from engine.config import Token
from engine.errors import BadRequest, Forbidden
from engine.model.matchers import Matcher, parse_matchers


@dataclass(frozen=True, slots=True)
class Caller:
    """One caller of the engine.

    ``matchers``: only series (and findings about series) whose labels satisfy all of them exist for this caller; none:
    everything does.  ``weight``: its share of the time for queries, beside others; ``concurrency``, ``queue``: how many
    of its queries run and wait at most; ``timeout_seconds``: for each.  None: as for all.
    """

    name: str = ""
    matchers: tuple[Matcher, ...] = ()
    weight: int = 1
    concurrency: int | None = None
    queue: int | None = None
    timeout_seconds: float | None = None

    @property
    def limited(self) -> bool:
        return bool(self.matchers)

    def sees(self, labels: Mapping[str, str]) -> bool:
        """Return whether something with these labels exists for the caller."""
        return all(matcher.accepts(labels.get(matcher.label, "")) for matcher in self.matchers)

    def require_unlimited(self, action: str) -> None:
        """Raise Forbidden, "cannot <action>: ...", unless everything exists for the caller."""
        if self.limited:
            raise Forbidden(f"cannot {action}: the token {self.name!r} is limited to series by their labels")


#: Whoever asks in this process, and over HTTP where there are no tokens.
EVERYONE = Caller()


def caller_of_token(token: Token) -> Caller:
    """Return the caller that a token stands for; raises BadRequest for a limit that cannot be kept to."""
    matchers = parse_matchers(token.match)
    if matchers and "write" in token.scopes:
        raise BadRequest("got match beside the scope write, want read, ack or admin: a limited token does not write")
    if any(matcher.label == METRIC_TAG for matcher in matchers):
        raise BadRequest(f"got the label {METRIC_TAG} in match, want labels of series: metrics are not limited")
    return Caller(
        token.name,
        matchers,
        weight=token.weight,
        concurrency=token.concurrency,
        queue=token.queue,
        timeout_seconds=None if token.timeout is None else token.timeout.seconds,
    )


def token_problems(tokens: Iterable[Token]) -> list[str]:
    """Return what is wrong with the tokens of a configuration beyond the type and bounds of each setting."""
    problems = []
    for token in tokens:
        try:
            caller_of_token(token)
        except BadRequest as error:
            problems.append(f"server.tokens: {token.name}: match: {error.message}")
    return problems
