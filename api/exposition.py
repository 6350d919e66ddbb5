"""Prometheus text as something to write, told apart from line protocol by its type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlencode

from engine.errors import BadRequest

TEXT_PATH = "/v1/import/prometheus"


@dataclass(frozen=True, slots=True)
class PrometheusText:
    """Text exposition; ``labels`` are given to every sample, in place of its own.

    ``open_metrics``: timestamps are seconds instead of milliseconds.
    """

    body: bytes
    labels: Mapping[str, str] = field(default_factory=dict)
    open_metrics: bool = False

    @property
    def target(self) -> str:
        """Return path and query of the request that writes it."""
        pairs = [("label", f"{name}={value}") for name, value in self.labels.items()]
        return f"{TEXT_PATH}?{urlencode(pairs)}" if pairs else TEXT_PATH

    @property
    def content_type(self) -> str:
        return "application/openmetrics-text; version=1.0.0" if self.open_metrics else "text/plain; version=0.0.4"


def labels_of(texts: list[str]) -> dict[str, str]:
    """Return the labels in ``name=value`` texts; raises BadRequest."""
    labels: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise BadRequest(f"cannot add label {text!r}: want name=value")
        if name in labels:
            raise BadRequest(f"cannot add label {name!r}: it is given twice")
        labels[name] = value
    return labels
