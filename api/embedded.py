"""``tidegauge.open``: the engine in the caller's own process, with the verbs of a client."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import pyarrow as pa

from api.arguments import parse_duration_ns, parse_range
from api.client import SqlBatches, SqlTable, arrow_stream, json_batch
from api.exposition import PrometheusText
from api.rows import rows_query
from engine.catalog.callers import EVERYONE
from engine.config import KEEP_ALL, load_config
from engine.errors import BadRequest
from engine.forecasting.answer import forecast_json
from engine.forecasting.runner import DEFAULT_HORIZONS_DAYS, ForecastQuery
from engine.ingest.batch import WriteResult
from engine.ingest.lines import precision_ns
from engine.maintenance.snapshot import Shadow, take
from engine.model.matchers import equality_matchers, parse_matchers
from engine.query.comparisons import parse_comparisons
from engine.query.deadlines import Stop
from engine.query.range import RangeAnswer, RangeQuery
from engine.query.results import described
from engine.runtime import Engine
from engine.scaling.answer import decision_json


class Embedded:
    """An open data directory.  A context manager; every method may be called from any thread."""

    def __init__(self, path: str, config: str | None = None, *, read_only: bool = False) -> None:
        self._shadow: Shadow | None = None
        #: Of each statement that runs: its thread, and what ends it.
        self._stops: list[tuple[int, Stop]] = []
        self._stops_lock = threading.Lock()
        if not read_only:
            self.engine = Engine.open(path, load_config(config), mode="embedded")
            return
        settings = load_config(config)
        if config is None:
            # What the owner of the directory keeps is not known here: what is there is shown.
            settings = msgspec.structs.replace(settings, retention=KEEP_ALL)
        self._shadow = take(path)
        try:
            self.engine = Engine.open(self._shadow.path, settings, mode="snapshot", fs=self._shadow.fs)
        except BaseException:
            self._shadow.close()
            raise

    def write(
        self,
        data: str | bytes | PrometheusText | pa.Table | pa.RecordBatch | Sequence[Mapping[str, Any]],
        *,
        table: str | None = None,
        precision: str = "ns",
        timeout_seconds: float | None = 60.0,
    ) -> WriteResult:
        """Write line protocol, Prometheus text, an Arrow table or batch, or a list of sample objects, durably.

        The result says what was refused and why; the rest is stored.  Raises BadRequest when nothing of it can be
        read, Overload when it should be tried again later.
        """
        if self._shadow is not None:
            raise BadRequest("cannot write: the data directory was opened read-only")
        if isinstance(data, str):
            data = data.encode()
        if isinstance(data, bytes | bytearray | memoryview):
            future = self.engine.submit_lines(bytes(data), precision_ns(precision))
        elif isinstance(data, PrometheusText):
            future = self.engine.submit_prometheus_text(data.body, open_metrics=data.open_metrics, labels=data.labels)
        elif isinstance(data, pa.Table | pa.RecordBatch):
            future = self.engine.submit_arrow(arrow_stream(data, table), table)
        else:
            future = self.engine.submit_objects(json_batch(data))
        return future.result(timeout_seconds)

    def offer(
        self,
        data: str | bytes | PrometheusText | pa.Table | pa.RecordBatch | Sequence[Mapping[str, Any]],
        *,
        table: str | None = None,
        precision: str = "ns",
    ) -> WriteResult:
        """As :meth:`write`, by the name that a client has for it."""
        return self.write(data, table=table, precision=precision)

    def sql(self, statement: str, *parameters: Any) -> SqlTable:
        """Run one SELECT; raises BadQuery or QueryLimit."""
        with self._stoppable() as stop:
            answer = self.engine.sql(statement, list(parameters), stop=stop)
        return SqlTable(described(answer.table, answer.metadata))

    def rows(
        self,
        table: str,
        *,
        fields: Sequence[str] | None = None,
        tags: Sequence[str] | None = None,
        match: str | Mapping[str, str] = "",
        where: str = "",
        start: str | int | None = None,
        end: str | int | None = None,
        last: str = "",
        order: str = "",
        limit: int | None = None,
    ) -> SqlTable:
        """Return rows of one table, as ``GET /v1/rows`` (docs/http.md) means these.

        Raises NotFound or BadRequest for names there are not, QueryLimit.
        """
        query = rows_query(
            self.engine.clock.now_ns(),
            table,
            fields=fields,
            tags=tags,
            matchers=parse_matchers(match) if isinstance(match, str) else equality_matchers(match),
            where=parse_comparisons(where),
            start=None if start is None else str(start),
            end=None if end is None else str(end),
            last=last,
            order=order,
            limit=limit,
        )
        answer = self.engine.rows(query)
        return SqlTable(described(answer.table, answer.metadata))

    @contextmanager
    def sql_stream(self, statement: str, *parameters: Any) -> Iterator[SqlBatches]:
        """Run one SELECT and give its rows in batches, by the name that a client has for it."""
        engine = self.engine
        with (
            self._stoppable() as stop,
            engine.sql_turns.take(EVERYONE, stop),
            engine.stream_sql(statement, list(parameters), EVERYONE, stop) as stream,
        ):
            yield SqlBatches(stream.schema, stream.batches())

    def query(
        self,
        metric: str | Sequence[str],
        *,
        match: str | Mapping[str, str] = "",
        start: str | int = "-1h",
        end: str | int = "now",
        step: str = "1m",
        agg: str = "avg",
        by: Sequence[str] | None = None,
        topk: int | None = None,
        bottomk: int | None = None,
    ) -> RangeAnswer:
        """Return aligned series; times as in ``GET /v1/query`` (docs/http.md)."""
        now_ns = self.engine.clock.now_ns()
        matchers = parse_matchers(match) if isinstance(match, str) else equality_matchers(match)
        start_ns, end_ns, step_ns = parse_range(str(start), str(end), step, now_ns)
        first, *further = [metric] if isinstance(metric, str) else metric
        query = RangeQuery(
            first,
            start_ns,
            end_ns,
            step_ns,
            agg,
            matchers,
            None if by is None else tuple(by),
            further_metrics=tuple(further),
            top=topk,
            bottom=bottomk,
        )
        return self.engine.query(query)

    def series(self, match: str = "", *, metric: str | None = None) -> list[dict[str, Any]]:
        """Return the series of the catalogue that satisfy the matchers."""
        return [
            {"series_id": series.series_id, "metric": series.metric, "labels": series.labels}
            for series in self.engine.catalog.series(metric, parse_matchers(match))
        ]

    def forecast(
        self,
        metric: str,
        *,
        match: str | Mapping[str, str] = "",
        horizon: Sequence[float] = DEFAULT_HORIZONS_DAYS,
        step: str = "1d",
        agg: str = "avg",
        by: Sequence[str] | None = None,
        season: int | None = None,
        limit: float | Sequence[float] = (),
        path: bool = False,
    ) -> dict[str, Any]:
        """Forecast each series of a metric: the answer of ``GET /v1/forecast`` (docs/forecasting.md).

        ``horizon``: days ahead; ``limit``: values that may be reached; ``path``: with every step on the way.
        """
        query = ForecastQuery(
            metric,
            tuple(horizon),
            parse_duration_ns(step),
            agg,
            parse_matchers(match) if isinstance(match, str) else equality_matchers(match),
            None if by is None else tuple(by),
            season,
            (limit,) if isinstance(limit, int | float) else tuple(limit),
        )
        return forecast_json(self.engine.forecast(query), path=path)

    def scale(self, target: str) -> dict[str, Any]:
        """Return the scaling decision for a configured target; raises NotFound for another."""
        return decision_json(self.engine.scale(target), self.engine.clock.now_ns())

    def cancel(self, thread: int | None = None) -> None:
        """End the statement that a thread runs or waits for, which gets Cancelled there; without one all of them.

        ``thread``: its ``threading.get_ident()``.  Harmless for one that runs none.
        """
        with self._stops_lock:
            stops = [stop for ident, stop in self._stops if thread is None or ident == thread]
        for stop in stops:
            stop.ask()

    @contextmanager
    def _stoppable(self) -> Iterator[Stop]:
        """Give what :meth:`cancel` ends a statement of this thread by."""
        mine = (threading.get_ident(), Stop())
        with self._stops_lock:
            self._stops.append(mine)
        try:
            yield mine[1]
        finally:
            with self._stops_lock:
                self._stops.remove(mine)

    def close(self) -> None:
        """Finish writes, seal what is in memory, release the directory; read-only: forget what was read."""
        self.engine.close()
        if self._shadow is not None:
            self._shadow.close()

    def __enter__(self) -> Embedded:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
