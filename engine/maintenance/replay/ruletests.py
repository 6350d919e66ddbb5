"""Unit tests for rules: given series are judged by the server's own parts, and the open alerts compared."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from engine.alerting.alerts import Alert
from engine.alerting.rules import number_text
from engine.catalog.catalog import Catalog
from engine.catalog.pooled import METRIC_TAG, PROMETHEUS_TABLE, VALUE_FIELD
from engine.config import Config
from engine.config_rule_tests import Expectation, ExpectedAlert, RuleTest, TestedSeries, values_of
from engine.config_units import Duration
from engine.maintenance.replay.rehearsal import Rehearsal
from engine.model.rows import Int64Array, Rows, absent_matrix

#: Values that differ by less than this share are the same.
CLOSE = 1e-9


@dataclass(frozen=True, slots=True)
class Difference:
    """What was otherwise at one expectation, the ``place``-th of its test: sentences."""

    place: int
    at: Duration
    sentences: tuple[str, ...]


#: The rows of a table: (arrival, time, tag set) -> value by field.
_Cells = dict[tuple[int, int, int], dict[int, float]]


def run_test(config: Config, test: RuleTest) -> list[Difference]:
    """Judge the test's series by the rules of ``config`` and return where the alerts were not the expected ones."""
    start_ns = test.start_ns
    config = msgspec.structs.replace(
        config, scale=(), detection=msgspec.structs.replace(config.detection, enabled=False)
    )
    catalog = Catalog()
    tables: dict[int, _Cells] = {}
    for series in test.series:
        _add(catalog, tables, series, start_ns)
    earliest_ns = min((time_ns for cells in tables.values() for _, time_ns, _ in cells), default=start_ns)
    with (
        tempfile.TemporaryDirectory(prefix="tidegauge-rules-") as directory,
        Rehearsal(config, catalog, directory, start_ns=min(start_ns, earliest_ns)) as rehearsal,
    ):
        for table_id, cells in tables.items():
            rehearsal.give(table_id, *_rows(cells))
        rehearsal.begin(start_ns)
        differences = []
        for place, expectation in sorted(enumerate(test.expect), key=lambda pair: pair[1].at):
            rehearsal.advance(start_ns + expectation.at)
            open_alerts = [alert for alert in rehearsal.alerts() if alert.is_open]
            sentences = compare(expectation, open_alerts)
            if sentences:
                differences.append(Difference(place, expectation.at, tuple(sentences)))
        return differences


def _add(catalog: Catalog, tables: dict[int, _Cells], series: TestedSeries, start_ns: int) -> None:
    labels = dict(series.labels)
    table, _, column = series.metric.partition("_")
    if not table or not column:
        table, column = PROMETHEUS_TABLE, VALUE_FIELD
        labels[METRIC_TAG] = series.metric
    native = catalog.native
    table_id = native.table(table.encode())
    field_id = native.field(table_id, column.encode())
    tagset_id = native.tagset(table_id, [(name.encode(), text.encode()) for name, text in sorted(labels.items())])
    cells = tables.setdefault(table_id, {})
    for step, value in enumerate(values_of(series.values)):
        if value is not None:
            time_ns = start_ns - series.before + step * series.every
            cells.setdefault((time_ns + series.late, time_ns, tagset_id), {})[field_id] = value


def _rows(cells: _Cells) -> tuple[Rows, Int64Array]:
    """Return rows in the order of their arrival, and when each arrives."""
    ordered = sorted(cells)
    keys = np.array(ordered, np.int64).reshape(-1, 3)
    field_ids = tuple(sorted({field_id for row in cells.values() for field_id in row}))
    values = absent_matrix(len(field_ids), len(ordered))
    for place, key in enumerate(ordered):
        for field_id, value in cells[key].items():
            values[field_ids.index(field_id), place] = value
    return Rows(keys[:, 2].astype(np.int32), keys[:, 1].copy(), field_ids, values), keys[:, 0].copy()


def compare(expectation: Expectation, found: Sequence[Alert]) -> list[str]:
    """Return in sentences how the open alerts ``found`` differ from the expected ones; nothing when they do not."""
    left = [alert for alert in found if not expectation.rules or alert.rule in expectation.rules]
    # What says most is matched first, so that a vague expectation does not take its alert.
    missing: list[ExpectedAlert] = []
    for wanted in sorted(expectation.alerts, key=lambda wanted: -_said(wanted)):
        match = next((alert for alert in left if not _differences(wanted, alert)), None)
        if match is None:
            missing.append(wanted)
        else:
            left.remove(match)
    sentences = []
    for wanted in missing:
        near = [alert for alert in left if alert.rule == wanted.rule]
        near.sort(key=lambda alert: len(_differences(wanted, alert)))
        if near:
            left.remove(near[0])
            told = "; ".join(_differences(wanted, near[0]))
            sentences.append(f"{wanted.rule} {_labels(near[0].labels)}: {told}")
        else:
            sentences.append(
                f"{wanted.rule} {_labels(wanted.labels or {})}: want {wanted.state}, there is no such alert"
            )
    sentences += [
        f"{alert.rule} {_labels(alert.labels)}: want no such alert, it is {alert.state} ({alert.summary})"
        for alert in left
    ]
    return sentences


def _said(wanted: ExpectedAlert) -> int:
    return sum(
        value is not None for value in (wanted.labels, wanted.value, wanted.summary, wanted.stale, wanted.notified)
    )


def _differences(wanted: ExpectedAlert, alert: Alert) -> list[str]:
    if wanted.rule != alert.rule:
        return [f"want rule {wanted.rule}"]
    told = []
    if wanted.labels is not None and wanted.labels != alert.labels:
        told.append(f"want labels {_labels(wanted.labels)}, got {_labels(alert.labels)}")
    if wanted.state != alert.state:
        told.append(f"want {wanted.state}, got {alert.state}")
    if wanted.value is not None and not _same(wanted.value, alert.value):
        got = "no number" if alert.value is None else number_text(alert.value)
        told.append(f"want value {number_text(wanted.value)}, got {got}")
    for name, one, other in (
        ("summary", wanted.summary, alert.summary),
        ("stale", wanted.stale, alert.stale),
        ("notified", wanted.notified, alert.notified_ns is not None),
    ):
        if one is not None and one != other:
            told.append(f"want {name} {_shown(one)}, got {_shown(other)}")
    return told


def _same(wanted: float, got: float | None) -> bool:
    return got is not None and abs(wanted - got) <= CLOSE * max(abs(wanted), abs(got), 1.0)


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else f'"{value}"'


def _labels(labels: dict[str, str]) -> str:
    return "{" + ", ".join(f'{name}="{text}"' for name, text in sorted(labels.items())) + "}"
