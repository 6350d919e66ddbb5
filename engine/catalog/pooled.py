"""Pooled tables: one table a protocol, one value a sample, the metric's name in a tag.

A wide table's metrics are named ``<table>_<field>``; in a pooled table the tag ``__name__`` names the metric of each
series, and a series without that tag falls back to the name of a wide table's.
"""

from __future__ import annotations

#: Samples of remote write, of text exposition and of scrapes.
PROMETHEUS_TABLE = "prometheus"
#: The one field that the protocols write.
VALUE_FIELD = "value"
METRIC_TAG = "__name__"
POOLED_TABLES = frozenset({PROMETHEUS_TABLE})
