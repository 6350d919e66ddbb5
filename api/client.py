"""``tidegauge.connect``: a client of a server over HTTP, with the verbs of the embedded engine.

    with tidegauge.connect("http://127.0.0.1:8433") as client:
        client.write("cpu,host=a usage_percent=1.5")
        frame = client.sql("SELECT * FROM cpu WHERE host = ?", "a").to_polars()

Answers have the types that the embedded engine gives; errors are those of ``engine.errors``, as the server
raised them.  A server that cannot be reached is Unavailable.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import msgspec

from api.errors import TooLarge, Unauthorized, UnsupportedMedia
from api.exposition import PrometheusText
from engine import errors
from engine.collect.transport import CutOff, HttpTransport, Response, Transport

if TYPE_CHECKING:
    import polars
    import pyarrow as pa

    from engine.ingest.batch import WriteResult
    from engine.query.range import RangeAnswer

ARROW_STREAM = "application/vnd.apache.arrow.stream"
TABLE_KEY = b"tidegauge.table"
_ERRORS: dict[str, type[errors.TidegaugeError]] = {
    kind.code: kind
    for kind in (
        *(errors.BadInput, errors.BadRequest, errors.BadConfig, errors.BadQuery, errors.NotFound),
        *(errors.QueryLimit, errors.Unavailable, errors.Bug),
        *(TooLarge, Unauthorized, errors.Forbidden, UnsupportedMedia),
    )
}
_OVERLOADS: dict[str, type[errors.Overload]] = {
    kind.code: kind for kind in (errors.Overload, errors.QueueFull, errors.DiskFull, errors.Recovering)
}
_ERROR_BY_STATUS: dict[int, type[errors.TidegaugeError]] = {
    401: Unauthorized,
    403: errors.Forbidden,
    404: errors.NotFound,
    413: TooLarge,
    415: UnsupportedMedia,
}


class SqlTable:
    """The rows of an SQL answer.  ``arrow`` is the pyarrow table itself."""

    def __init__(self, arrow: pa.Table) -> None:
        self.arrow = arrow

    @property
    def columns(self) -> list[str]:
        return list(self.arrow.column_names)

    @property
    def metadata(self) -> dict[str, Any]:
        """What the answer says about itself: ``tier``, ``rows_read``, ``fresh_to`` and others (docs/sql.md)."""
        return dict(msgspec.json.decode((self.arrow.schema.metadata or {}).get(b"tidegauge", b"{}")))

    def __len__(self) -> int:
        return int(self.arrow.num_rows)

    def __getitem__(self, column: str) -> pa.ChunkedArray:
        """Return a column by name; raises KeyError for another."""
        return self.arrow[column]

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows as dictionaries; times are int nanoseconds, finer than ``datetime`` can hold."""
        import pyarrow as pa

        arrow = self.arrow
        for index, field in enumerate(arrow.schema):
            if pa.types.is_timestamp(field.type):
                whole = arrow[index].cast(pa.timestamp("ns", field.type.tz)).cast(pa.int64())
                arrow = arrow.set_column(index, field.name, whole)
        return list(arrow.to_pylist())

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows())

    def to_polars(self) -> polars.DataFrame:
        import polars

        frame = polars.from_arrow(self.arrow)
        assert isinstance(frame, polars.DataFrame)
        return frame

    def to_pandas(self) -> Any:
        """Return a pandas frame; raises Unavailable where pandas, no dependency of ours, is not installed."""
        try:
            return self.arrow.to_pandas()
        except ImportError:
            raise errors.Unavailable(
                "cannot make a pandas frame: pandas is not installed; install it or use to_polars()"
            ) from None

    def __repr__(self) -> str:
        return f"SqlTable({len(self)} rows: {', '.join(self.columns)})"


class SqlBatches:
    """The rows of an SQL answer as they come: an iterator over record batches, to be read once."""

    def __init__(self, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
        self.schema = schema
        self._batches = batches

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return self._batches


def arrow_stream(data: Any, table: str | None = None) -> bytes:
    """Return an Arrow table, record batch or anything with ``__arrow_c_stream__`` as one IPC stream.

    ``table`` is set as the schema's metadata ``tidegauge.table``; without it the data's own is kept.
    """
    import pyarrow as pa

    if isinstance(data, pa.RecordBatch):
        data = pa.Table.from_batches([data])
    elif not isinstance(data, pa.Table):
        data = pa.table(data)
    if table is not None:
        data = data.replace_schema_metadata({**(data.schema.metadata or {}), TABLE_KEY: table})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, data.schema) as writer:
        writer.write_table(data)
    return bytes(sink.getvalue())


def json_batch(samples: Sequence[Mapping[str, Any]]) -> bytes:
    """Return samples (``table``, ``tags``, ``time``, ``fields``) as a JSON batch; times may be datetimes."""
    try:
        return msgspec.json.encode({"samples": list(samples)})
    except (TypeError, ValueError) as error:
        raise errors.BadRequest(f"cannot write samples: {error}") from None


def connect(url: str, *, token: str | None = None, timeout: float = 30.0) -> Client:
    """Return a client of the server at ``url``; nothing is sent yet.  ``timeout``: seconds.

    Raises BadRequest for an address that cannot be one.
    """
    return Client(HttpTransport(url, token=token, timeout_seconds=timeout), url)


class Client:
    """One server.  A context manager; threads may share it and then take turns on its one connection."""

    def __init__(self, transport: Transport, url: str) -> None:
        self._transport = transport
        self.url = url.rstrip("/")

    def write(
        self,
        data: str | bytes | PrometheusText | pa.Table | pa.RecordBatch | Sequence[Mapping[str, Any]],
        *,
        table: str | None = None,
        precision: str = "ns",
        strict: bool = False,
    ) -> WriteResult:
        """Write line protocol, an Arrow table or batch, or a list of samples; return when it is on disk.

        A result whose ``refused`` is not empty is a partial write: what it counts was refused, the rest is
        stored. With ``strict`` that raises BadRequest instead, the answer being in its ``details``.  Raises
        BadRequest as well when nothing was stored, Overload when it should be tried again later.
        """
        result, response = self._write(data, table, precision)
        if result is None or (result.refused and (strict or not result.rows)):
            raise _error_of(response)
        return result

    def offer(
        self,
        data: str | bytes | PrometheusText | pa.Table | pa.RecordBatch | Sequence[Mapping[str, Any]],
        *,
        table: str | None = None,
        precision: str = "ns",
    ) -> WriteResult:
        """As :meth:`write`, but rows that are refused are no error even when they are all of them."""
        result, response = self._write(data, table, precision)
        if result is None:
            raise _error_of(response)
        return result

    def _write(
        self,
        data: str | bytes | PrometheusText | pa.Table | pa.RecordBatch | Sequence[Mapping[str, Any]],
        table: str | None,
        precision: str,
    ) -> tuple[WriteResult | None, Response]:
        if isinstance(data, str | bytes | bytearray | memoryview):
            body = data.encode() if isinstance(data, str) else bytes(data)
            path, kind = f"/write?{urlencode({'precision': precision})}", "text/plain; charset=utf-8"
        elif isinstance(data, PrometheusText):
            body, path, kind = data.body, data.target, data.content_type
        elif isinstance(data, Sequence):
            samples: Sequence[Any] = data
            body, path, kind = json_batch(samples), "/v1/ingest", "application/json"
        else:
            body, path, kind = arrow_stream(data, table), "/v1/ingest", ARROW_STREAM
        response = self._send("POST", path, body, {"Content-Type": kind})
        return _write_result(response), response

    def sql(self, statement: str, *parameters: Any) -> SqlTable:
        """Run one SELECT; ``parameters`` take the place of ``?`` or ``$1``.  Raises BadQuery, QueryLimit."""
        body, headers = _sql_request(statement, parameters)
        return self._table("POST", "/v1/sql", body, headers)

    def _table(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> SqlTable:
        import pyarrow as pa

        response = self._checked(method, path, body, headers)
        try:
            return SqlTable(_table_of(response.body))
        except (pa.ArrowException, OSError, EOFError) as error:
            raise errors.Unavailable(f"cannot read the answer of {self.url}: {error}") from None

    def rows(
        self,
        table: str,
        *,
        fields: Sequence[str] | None = None,
        tags: Sequence[str] | None = None,
        match: str | Mapping[str, str] = "",
        where: str = "",
        start: str | int | datetime.datetime | None = None,
        end: str | int | datetime.datetime | None = None,
        last: str = "",
        order: str = "",
        limit: int | None = None,
    ) -> SqlTable:
        """Return rows of one table, as ``GET /v1/rows`` (docs/http.md) means these; times as in :meth:`query`.

        ``where``: conditions on fields, ``"usage_user>90,usage_idle<5"``; ``last``: ``"row"`` or ``"values"``.
        Raises NotFound or BadRequest for names there are not, QueryLimit.
        """
        wanted = {"table": table, "match": _matchers(match), "where": where, "last": last, "order": order}
        wanted = {name: text for name, text in wanted.items() if text}
        wanted |= {name: ",".join(names) for name, names in (("fields", fields), ("tags", tags)) if names is not None}
        wanted |= {name: _time(time) for name, time in (("start", start), ("end", end)) if time is not None}
        if limit is not None:
            wanted["limit"] = str(limit)
        return self._table("GET", f"/v1/rows?{urlencode(wanted)}", None, {"Accept": ARROW_STREAM})

    @contextlib.contextmanager
    def sql_stream(self, statement: str, *parameters: Any) -> Iterator[SqlBatches]:
        """Run one SELECT and give its rows as they come, so that large answers need no memory; see :meth:`sql`.

        Other calls of this client wait until the block is left.  An answer that ends early raises when it does.
        """
        import pyarrow as pa

        body, headers = _sql_request(statement, parameters)
        try:
            with self._transport.arriving("POST", "/v1/sql", body, headers) as arriving:
                if arriving.status != 200:
                    raise _error_of(Response(arriving.status, arriving.headers, arriving.read()))
                reader = pa.ipc.open_stream(pa.PythonFile(arriving, mode="r"))
                yield SqlBatches(reader.schema, _batches_of(reader, self.url))
        except TimeoutError:
            raise errors.Unavailable(f"cannot reach {self.url}: no answer in time") from None
        except (pa.ArrowException, EOFError) as error:
            raise errors.Unavailable(f"cannot read the answer of {self.url}: {error}") from None
        except OSError as error:
            raise errors.Unavailable(f"cannot reach {self.url}: {error.strerror or error}") from None

    def query(
        self,
        metric: str | Sequence[str],
        *,
        match: str | Mapping[str, str] = "",
        start: str | int | datetime.datetime = "-1h",
        end: str | int | datetime.datetime = "now",
        step: str = "1m",
        agg: str = "avg",
        by: Sequence[str] | None = None,
        topk: int | None = None,
        bottomk: int | None = None,
    ) -> RangeAnswer:
        """Return aligned series; a time is text as in ``GET /v1/query``, int nanoseconds, or a datetime."""
        import numpy as np

        from engine.query.range import RangeAnswer
        from engine.query.serieslist import LineBlock, SeriesList, SeriesPoints

        wanted: dict[str, str | Sequence[str]] = {
            "metric": metric,
            "match": _matchers(match),
            "start": _time(start),
            "end": _time(end),
            "step": step,
            "agg": agg,
        }
        if by is not None:
            wanted["by"] = ",".join(by)
        wanted |= {name: str(count) for name, count in (("topk", topk), ("bottomk", bottomk)) if count is not None}
        answer = self._get("/v1/query", wanted)
        if answer["truncated"]:
            total, most = answer["series_total"], len(answer["series"])
            raise errors.QueryLimit(f"cannot answer: got {total} series, want at most {most}; narrow match")
        series = [
            SeriesPoints(
                dict(line["labels"]),
                np.array(line["times"], np.int64),
                # JSON has no NaN; the server writes null.
                np.array([np.nan if value is None else value for value in line["values"]], np.float64),
                line.get("metric", answer["metric"]),
            )
            for line in answer["series"]
        ]
        return RangeAnswer(
            metric=answer["metric"],
            aggregate=answer["aggregate"],
            step_ns=round(answer["step_seconds"] * 1e9),
            tier=answer["tier"],
            series=SeriesList(LineBlock.of(series)),
            rows_read=answer["rows_read"],
            fresh_to_ns=answer["fresh_to"],
            relative_error=answer.get("relative_error"),
            reason=answer.get("reason"),
            sources=answer.get("sources", {}),
        )

    def series(self, match: str | Mapping[str, str] = "", *, metric: str | None = None) -> list[dict[str, Any]]:
        """Return the series that satisfy the matchers (``series_id``, ``metric``, ``labels``).

        Raises QueryLimit when there are more than one answer holds.
        """
        wanted = {"match": _matchers(match), "limit": "10000"}
        if metric is not None:
            wanted["metric"] = metric
        answer = self._get("/v1/series", wanted)
        found: list[dict[str, Any]] = answer["series"]
        if answer["truncated"]:
            raise errors.QueryLimit(f"cannot list all series: got more than {len(found)}; narrow the match")
        return found

    def alerts(self, *, state: str = "pending,firing") -> list[dict[str, Any]]:
        """Return the alerts in these states, newest first; ``"all"`` for every state."""
        found: list[dict[str, Any]] = self._get("/v1/alerts", {"state": state})["alerts"]
        return found

    def forecast(
        self,
        metric: str,
        *,
        match: str | Mapping[str, str] = "",
        horizon: Sequence[float] = (30, 60, 90, 120, 180, 365),
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
        limits = (limit,) if isinstance(limit, int | float) else limit
        wanted = {
            "metric": metric,
            "match": _matchers(match),
            "horizon": ",".join(map(repr, horizon)),
            "step": step,
            "agg": agg,
            "limit": ",".join(map(repr, limits)),
            "path": str(path).lower(),
        }
        if by is not None:
            wanted["by"] = ",".join(by)
        if season is not None:
            wanted["season"] = str(season)
        found: dict[str, Any] = self._get("/v1/forecast", wanted)
        return found

    def scale(self, target: str) -> dict[str, Any]:
        """Return the scaling decision for a configured target; raises NotFound for another."""
        decision: dict[str, Any] = self._get(f"/v1/scale/{quote(target, safe='')}", {})
        return decision

    def metric_names(self) -> list[str]:
        """Return the names of all metrics."""
        names: list[str] = self._get("/v1/metrics-names", {})["metrics"]
        return names

    def tokens(self) -> list[dict[str, Any]]:
        """Return the stored API tokens, without their secrets; needs the scope admin."""
        found: list[dict[str, Any]] = self._get("/v1/tokens", {})["tokens"]
        return found

    def create_token(
        self, name: str, scopes: Sequence[str], *, match: str | Mapping[str, str] = "", **shares: int | str | None
    ) -> str:
        """Make an API token and return it; the server keeps its hash alone.  Raises BadRequest.

        ``shares``: ``weight``, ``concurrency``, ``queue`` and ``timeout`` of its queries (docs/configuration.md).
        """
        body = msgspec.json.encode({"name": name, "scopes": list(scopes), "match": _matchers(match)} | shares)
        response = self._send("POST", "/v1/tokens", body, {"Content-Type": "application/json"})
        if response.status != 201:
            raise _error_of(response)
        return str(_answer(response)["token"])

    def revoke_token(self, name: str) -> None:
        """Make an API token invalid; raises NotFound when there is none of that name."""
        self._checked("DELETE", f"/v1/tokens/{quote(name, safe='')}", None, {})

    def record_deploy(
        self,
        service: str,
        version: str,
        *,
        time: str | int | datetime.datetime | None = None,
        baseline: str | Mapping[str, str] = "",
        canary: str | Mapping[str, str] = "",
        labels: Mapping[str, str] | None = None,
        by: str = "",
        note: str = "",
    ) -> dict[str, Any]:
        """Record a deployment, by default of now, and return it; one that is known is returned as it was recorded.

        ``baseline``, ``canary``: the series of the old and of the new version (docs/gate.md).  Needs the scope write.
        """
        body = {
            "service": service,
            "version": version,
            "time": None if time is None else _time(time),
            "baseline": _matchers(baseline),
            "canary": _matchers(canary),
            "labels": dict(labels or {}),
            "by": by,
            "note": note,
        }
        headers = {"Content-Type": "application/json"}
        response = self._send("POST", "/v1/deploys", msgspec.json.encode(body), headers)
        if response.status not in (200, 201):
            raise _error_of(response)
        return _answer(response)

    def deploys(
        self,
        *,
        service: str | None = None,
        match: str | Mapping[str, str] = "",
        start: str | int | datetime.datetime | None = None,
        end: str | int | datetime.datetime | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[dict[str, Any]]:
        """Return recorded deployments, last recorded first; ``before``: only those with smaller numbers."""
        wanted = {"match": _matchers(match), "limit": str(limit)}
        wanted |= {name: _time(value) for name, value in (("start", start), ("end", end)) if value is not None}
        wanted |= {} if service is None else {"service": service}
        wanted |= {} if before is None else {"before": str(before)}
        found: list[dict[str, Any]] = self._get("/v1/deploys", wanted)["deploys"]
        return found

    def deploy_verdict(self, deploy: int, **options: str | float | Sequence[str]) -> dict[str, Any]:
        """Return whether a deployment may go on: the answer of ``GET /v1/deploys/{id}/verdict`` (docs/gate.md).

        ``options``: its parameters, with ``for_`` for ``for``.  Raises NotFound.
        """
        wanted = {
            name.removesuffix("_"): value
            if isinstance(value, str) or not isinstance(value, int | float)
            else repr(value)
            for name, value in options.items()
        }
        found: dict[str, Any] = self._get(f"/v1/deploys/{deploy}/verdict", wanted)
        return found

    def ready(self) -> bool:
        """Return whether the server takes writes and answers queries; raises Unavailable if it is away."""
        return self._send("GET", "/health/ready", None, {}).status == 200

    def cancel(self) -> None:
        """End the call that another thread waits for, which raises Unavailable; the server gives a query up."""
        self._transport.abort()

    def close(self) -> None:
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _get(self, path: str, wanted: Mapping[str, str | Sequence[str]]) -> Any:
        # Merging by no label at all is not the same as not merging.
        query = urlencode({name: value for name, value in wanted.items() if value or name == "by"}, doseq=True)
        target = f"{path}?{query}" if query else path
        response = self._checked("GET", target, None, {"Accept": "application/json"})
        try:
            return msgspec.json.decode(response.body)
        except msgspec.DecodeError as error:
            raise errors.Unavailable(f"cannot read the answer of {self.url}{path}: {error}") from None

    def _checked(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Response:
        response = self._send(method, path, body, headers)
        if response.status != 200:
            raise _error_of(response)
        return response

    def _send(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Response:
        try:
            return self._transport.request(method, path, body, headers)
        except TimeoutError:
            raise errors.Unavailable(f"cannot reach {self.url}: no answer in time") from None
        except CutOff as error:
            raise _said_in(error.partial) or errors.Unavailable(
                f"cannot read the answer of {self.url}: {error}"
            ) from None
        except OSError as error:
            raise errors.Unavailable(f"cannot reach {self.url}: {error.strerror or error}") from None


def _sql_request(statement: str, parameters: Sequence[Any]) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of a statement whose answer is to be Arrow."""
    try:
        body = msgspec.json.encode({"sql": statement, "parameters": parameters})
    except (TypeError, ValueError) as error:
        raise errors.BadRequest(f"cannot send the parameters of a query: {error}") from None
    return body, {"Content-Type": "application/json", "Accept": ARROW_STREAM}


def _batches_of(reader: Any, url: str) -> Iterator[pa.RecordBatch]:
    """Yield the rows of an answer; raises the error that it ends with."""
    import pyarrow as pa

    while True:
        try:
            batch, metadata = reader.read_next_batch_with_custom_metadata()
        except StopIteration:
            return
        except (pa.ArrowException, OSError, EOFError) as error:
            raise errors.Unavailable(f"cannot read the answer of {url}: it ended early: {error}") from None
        if metadata is not None and b"tidegauge.error" in metadata:
            raise _said(metadata)
        if batch.num_rows:
            yield batch


def _said(metadata: Any) -> errors.TidegaugeError:
    """Return the error that a batch carries."""
    said = msgspec.json.decode(metadata[b"tidegauge.error"])
    return _ERRORS.get(said["error"], errors.Unavailable)(said["message"])


def _table_of(stream: bytes) -> pa.Table:
    """Return an Arrow answer; what a large one says about itself at its end stands in the schema's metadata."""
    import pyarrow as pa

    batches, told = [], None
    with pa.ipc.open_stream(pa.py_buffer(stream)) as reader:
        schema = reader.schema
        with contextlib.suppress(StopIteration):
            while True:
                batch, metadata = reader.read_next_batch_with_custom_metadata()
                told = metadata if metadata is not None else told
                if batch.num_rows:
                    batches.append(batch)
    table = pa.Table.from_batches(batches, schema)
    return table if told is None else table.replace_schema_metadata({**(schema.metadata or {}), **dict(told.items())})


def _said_in(partial: bytes) -> errors.TidegaugeError | None:
    """Return the error at the end of an Arrow answer that was cut off, None without one."""
    import pyarrow as pa

    try:
        with pa.ipc.open_stream(pa.py_buffer(partial)) as reader:
            while True:
                _, metadata = reader.read_next_batch_with_custom_metadata()
                if metadata is not None and b"tidegauge.error" in metadata:
                    return _said(metadata)
    except (pa.ArrowException, OSError, EOFError, StopIteration):
        return None


def _matchers(match: str | Mapping[str, str]) -> str:
    if isinstance(match, str):
        return match
    escaped = {label: value.replace("\\", "\\\\").replace('"', '\\"') for label, value in match.items()}
    return ",".join(f'{label}="{value}"' for label, value in escaped.items())


def _time(time: str | int | datetime.datetime) -> str:
    if isinstance(time, str):
        return time
    if isinstance(time, datetime.datetime):
        return (time if time.tzinfo else time.replace(tzinfo=datetime.UTC)).isoformat()
    # A bare number would be read as seconds, milliseconds ... by its size.
    second = datetime.datetime.fromtimestamp(time // 1_000_000_000, datetime.UTC)
    return f"{second:%Y-%m-%dT%H:%M:%S}.{time % 1_000_000_000:09d}Z"


def _answer(response: Response) -> dict[str, Any]:
    """Return a JSON object, the empty one when the body is none."""
    try:
        answer = msgspec.json.decode(response.body)
    except msgspec.DecodeError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _write_result(response: Response) -> WriteResult | None:
    """Return what became of a write, None when the answer is an error."""
    from engine.ingest.batch import Refusal, WriteResult

    def told(name: str) -> int:
        text = response.headers.get(f"x-tidegauge-{name}", "")
        return int(text) if text.isascii() and text.isdigit() else 0

    rows, rounded, sequence = told("rows"), told("rounded"), told("sequence")
    if 200 <= response.status < 300:
        return WriteResult(rows, told("samples"), rounded, {}, (), sequence)
    answer = _answer(response)
    details = answer.get("details")
    refused = (details if isinstance(details, dict) else answer).get("refused")
    if response.status != 400 or not isinstance(refused, dict):
        return None
    if isinstance(details, dict):
        names = ("position", "cause", "message", "original")
        listed = details.get("refusals", ())
    else:
        names = ("line_number", "cause", "error_message", "original_line")
        listed = answer.get("data", ())
    refusals = (Refusal(each.get(names[0], 0), *(each.get(name, "") for name in names[1:])) for each in listed)
    samples = told("samples") or int((details if isinstance(details, dict) else {}).get("stored_samples", 0))
    return WriteResult(rows, samples, rounded, refused, tuple(refusals), sequence)


def _error_of(response: Response) -> errors.TidegaugeError:
    """Return the error that the server raised, by its code, else by the status."""
    answer = _answer(response)
    code = str(answer.get("error", ""))
    message = str(answer.get("message") or answer.get("error") or "")
    if not message:
        text = " ".join(response.body.decode("utf-8", "replace").split())[:300]
        message = f"the server answered with status {response.status}: {text or 'no reason given'}"
    # Line-protocol answers follow InfluxDB and have no details: the whole answer is what there is to know.
    details = answer.get("details", answer or None)
    if code in _OVERLOADS or (response.status in (429, 503) and code not in _ERRORS):
        text = response.headers.get("retry-after", "")
        wait = int(text) if text.isascii() and text.isdigit() else 1
        kind = _OVERLOADS.get(code, errors.Overload)
        return kind(message, retry_after_seconds=wait, details=details)
    fallback = errors.BadRequest if 400 <= response.status < 500 else errors.TidegaugeError
    found = _ERRORS.get(code) or _ERROR_BY_STATUS.get(response.status) or fallback
    return found(message, details=details)
