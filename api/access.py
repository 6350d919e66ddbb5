"""What each route is for a token that is limited to series by their labels.

Every route stands here, or a limited token is refused there: a new route without a decision is closed to it.
``tests/api/test_row_scope.py`` compares the table with the routes that are served.
"""

from __future__ import annotations

import re
from typing import Literal

#: ``filtered``: the answer has only what exists for the caller; ``same``: there is nothing of any series in it;
#: ``refused``: it cannot be told apart by series.
Rule = Literal["filtered", "same", "refused"]

RULES: dict[tuple[str, str], Rule] = {
    ("GET", "/health/live"): "same",
    ("GET", "/health/ready"): "same",
    ("GET", "/health"): "same",
    ("GET", "/ping"): "same",
    ("HEAD", "/ping"): "same",
    ("GET", "/metrics"): "refused",
    ("GET", "/v1/storage"): "refused",
    ("POST", "/v1/sql"): "filtered",
    ("GET", "/v1/sql"): "filtered",
    ("GET", "/v1/query"): "filtered",
    ("GET", "/v1/rows"): "filtered",
    ("GET", "/v1/series"): "filtered",
    ("DELETE", "/v1/series"): "filtered",
    ("GET", "/v1/metrics-names"): "filtered",
    ("GET", "/v1/labels"): "filtered",
    ("GET", "/v1/cardinality"): "filtered",
    ("GET", "/v1/alerts"): "filtered",
    ("GET", "/v1/alerts/{alert_id}"): "filtered",
    ("POST", "/v1/alerts/{alert_id}/ack"): "filtered",
    ("DELETE", "/v1/alerts/{alert_id}/ack"): "filtered",
    ("POST", "/v1/alerts/{alert_id}/close"): "filtered",
    ("GET", "/v1/dashboard"): "filtered",
    ("GET", "/v1/anomalies"): "filtered",
    ("GET", "/v1/forecast"): "filtered",
    ("GET", "/v1/silences"): "filtered",
    ("POST", "/v1/silences"): "filtered",
    ("DELETE", "/v1/silences/{silence_id}"): "filtered",
    ("GET", "/v1/deploys"): "filtered",
    ("GET", "/v1/deploys/{deploy_id}/verdict"): "filtered",
    # Rules count series; decisions and bottlenecks come from many: none has labels to go by.
    ("GET", "/v1/bottlenecks"): "refused",
    ("POST", "/v1/bottlenecks"): "refused",
    ("GET", "/v1/rules"): "refused",
    # Notifications of groups, digests and signs of life are about many series.
    ("GET", "/v1/notifications"): "refused",
    ("GET", "/v1/notifications/{notification_id}"): "refused",
    ("POST", "/v1/notifications/{notification_id}/revive"): "refused",
    ("POST", "/v1/rules/reload"): "refused",
    ("GET", "/v1/scale"): "refused",
    ("GET", "/v1/scale/{target}"): "refused",
    ("GET", "/v1/tokens"): "refused",
    ("POST", "/v1/tokens"): "refused",
    ("DELETE", "/v1/tokens/{name}"): "refused",
    # A limited token does not write: its series could be given any labels.
    ("POST", "/write"): "refused",
    ("POST", "/api/v2/write"): "refused",
    ("POST", "/api/v3/write_lp"): "refused",
    ("POST", "/v1/ingest"): "refused",
    ("POST", "/api/v1/write"): "refused",
    ("POST", "/v1/import/prometheus"): "refused",
    ("POST", "/v1/deploys"): "refused",
}
#: The description of the API, which is the same for all.
_DESCRIPTION = "/docs"


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile("".join("[^/]+" if part.startswith("{") else re.escape(part) for part in _PARTS.split(template)))


_PARTS = re.compile(r"(\{[a-z_]+\})")
_TEMPLATES = [(method, _pattern(path), rule) for (method, path), rule in RULES.items() if "{" in path]


def rule_of(method: str, path: str) -> Rule:
    """Return what a limited token may do with a request."""
    known = RULES.get((method, path))
    if known is not None:
        return known
    if method == "GET" and (path == _DESCRIPTION or path.startswith(f"{_DESCRIPTION}/")):
        return "same"
    for its_method, pattern, rule in _TEMPLATES:
        if its_method == method and pattern.fullmatch(path):
            return rule
    return "refused"
