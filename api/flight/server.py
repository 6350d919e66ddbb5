"""The Flight SQL server: statements, prepared statements with parameters, and what there is.

A statement's ticket carries the statement itself, so nothing is kept between asking and reading; it runs when its rows
are read, with the turn, the limits and the visible series of whoever reads it.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pyarrow as pa
from pyarrow import flight

from api.auth import Gate
from api.cli.statements import code_of
from api.errors import Unauthorized
from api.flight import messages, metadata
from api.flight.errors import as_flight_errors
from api.flight.messages import Message
from api.flight.rows import rows_of, watched
from engine.catalog.callers import EVERYONE, Caller
from engine.config import Config
from engine.config_check import split_address
from engine.errors import BadInput, BadRequest, QueryLimit, Unavailable
from engine.query.deadlines import Stop
from engine.query.visible import visible_to
from engine.runtime import Engine

#: Prepared statements that are kept; beyond, the one that was used longest ago is forgotten.
MAX_PREPARED = 10_000
#: Rows of parameters that one execution may have, each of which is a statement.
MAX_PARAMETER_ROWS = 1_000
_CALLER = "caller"
_NUMBERED = re.compile(r"\$(\d{1,4})\b")
_ACTIONS = {
    "CreatePreparedStatement": "make a prepared statement",
    "ClosePreparedStatement": "forget a prepared statement",
}


class _Statement(msgspec.Struct, frozen=True):
    """What a ticket carries: a statement and the rows of its parameters."""

    sql: str
    parameters: list[list[Any]] = msgspec.field(default_factory=lambda: [[]])


@dataclass(slots=True)
class _Prepared:
    owner: str
    sql: str
    parameters: list[list[Any]] = field(default_factory=lambda: [[]])


class _Callers(flight.ServerMiddlewareFactory):  # type: ignore[misc]
    """Finds out who calls, by the tokens that HTTP has: as Bearer, or as the password of Basic."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self._gate = gate

    def start_call(self, info: Any, headers: dict[str, list[str]]) -> flight.ServerMiddleware:
        token = _token_of(headers)
        with as_flight_errors():
            if self._gate.open:
                return _Call(EVERYONE, None)
            if not token:
                raise Unauthorized("cannot use Flight SQL: want a token, as Bearer or as the password of Basic")
            caller = self._gate.caller(token, "read", "use Flight SQL")
        # A handshake answers with what the client sends from then on.
        return _Call(caller, token if info.method == flight.FlightMethod.HANDSHAKE else None)


class _Call(flight.ServerMiddleware):  # type: ignore[misc]
    def __init__(self, caller: Caller, token: str | None) -> None:
        super().__init__()
        self.caller = caller
        self._token = token

    def sending_headers(self) -> dict[str, str]:
        return {} if self._token is None else {"authorization": f"Bearer {self._token}"}


class _AnyHandshake(flight.ServerAuthHandler):  # type: ignore[misc]
    """Lets handshakes pass: the middleware has looked at their header."""

    def authenticate(self, outgoing: Any, incoming: Any) -> None:
        """Nothing to say."""

    def is_valid(self, token: bytes) -> bytes:
        return b""


def _token_of(headers: dict[str, list[str]]) -> str:
    values = next((values for name, values in headers.items() if name.lower() == "authorization"), [])
    scheme, _, value = (values[0] if values else "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            # Go's driver leaves the padding away.
            padded = value + "=" * (-len(value) % 4)
            return base64.b64decode(padded, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return ""


class FlightSqlServer(flight.FlightServerBase):  # type: ignore[misc]
    """Serves from the moment it is made; ``shutdown`` ends it."""

    def __init__(self, engine: Engine, gate: Gate, config: Config, listen: str) -> None:
        """Raises Unavailable when the address cannot be had."""
        host, port = split_address(listen) or ("127.0.0.1", 0)
        shown = f"[{host}]" if ":" in host else host
        scheme, tls = "grpc+tcp", []
        if config.server.tls_certificate is not None and config.server.tls_key is not None:
            scheme, tls = "grpc+tls", [(_read(config.server.tls_certificate), _read(config.server.tls_key))]
        self._engine = engine
        self._lock = threading.Lock()
        self._prepared: OrderedDict[bytes, _Prepared] = OrderedDict()
        try:
            super().__init__(
                f"{scheme}://{shown}:{port}",
                auth_handler=_AnyHandshake(),
                tls_certificates=tls or None,
                middleware={_CALLER: _Callers(gate)},
            )
        except (pa.ArrowException, OSError) as error:
            raise Unavailable(f"cannot listen for Flight SQL on {listen}: {error}") from None
        self.url = f"{'grpc+tls' if tls else 'grpc'}://{shown}:{self.port}"

    # --- what gRPC calls

    def get_flight_info(self, context: Any, descriptor: flight.FlightDescriptor) -> flight.FlightInfo:
        with as_flight_errors():
            message = messages.read(descriptor.command or b"")
            if message.kind in metadata.SCHEMAS:
                return _info(descriptor, metadata.schema_of(message), descriptor.command)
            statement = self._statement(message, _caller(context))
            schema = self._schema(statement.sql, statement.parameters[0], _caller(context))
            return _info(descriptor, schema, messages.statement_ticket(msgspec.json.encode(statement)))

    def get_schema(self, context: Any, descriptor: flight.FlightDescriptor) -> flight.SchemaResult:
        return flight.SchemaResult(self.get_flight_info(context, descriptor).schema)

    def do_get(self, context: Any, ticket: flight.Ticket) -> flight.RecordBatchStream:
        with as_flight_errors():
            message = messages.read(ticket.ticket)
            caller = _caller(context)
            if message.kind in metadata.SCHEMAS:
                table = metadata.answer(message, lambda sql, given: self._ask(sql, given, caller))
                return flight.RecordBatchStream(table)
            return self._rows(self._statement(message, caller), caller, context)

    def do_action(self, context: Any, action: flight.Action) -> list[flight.Result]:
        with as_flight_errors():
            if action.type not in _ACTIONS:
                raise BadRequest(f"cannot do {action.type!r}: want one of {', '.join(_ACTIONS)}")
            message = messages.read(action.body.to_pybytes())
            caller = _caller(context)
            if action.type == "ClosePreparedStatement":
                with self._lock:
                    self._prepared.pop(message.data(1) or b"", None)
                return []
            sql = message.text(1) or ""
            handle = self._keep(_Prepared(caller.name, sql))
            count = parameter_count(sql)
            schema = self._schema(sql, [None] * count, caller)
            parameters = pa.schema([pa.field(f"${number + 1}", pa.string()) for number in range(count)])
            result = messages.prepared_result(
                handle, b"" if schema is None else _serialised(schema), _serialised(parameters)
            )
            return [flight.Result(pa.py_buffer(result))]

    def list_actions(self, context: Any) -> list[tuple[str, str]]:
        return list(_ACTIONS.items())

    def do_put(self, context: Any, descriptor: flight.FlightDescriptor, reader: Any, writer: Any) -> None:
        with as_flight_errors():
            message = messages.read(descriptor.command or b"")
            if message.kind != "CommandPreparedStatementQuery":
                raise BadRequest("cannot run the statement: only SELECT; data changes by writing samples")
            handle = message.data(1) or b""
            rows: list[list[Any]] = []
            for chunk in reader:
                if chunk.data is not None:
                    rows += [list(row.values()) for row in chunk.data.rename_columns(_numbered(chunk.data)).to_pylist()]
                if len(rows) > MAX_PARAMETER_ROWS:
                    raise QueryLimit(f"cannot bind parameters: got more than {MAX_PARAMETER_ROWS} rows of them")
            prepared = self._found(handle, _caller(context))
            prepared.parameters = [[_parameter(value) for value in row] for row in rows] or [[]]
            writer.write(pa.py_buffer(messages.bound_result(handle)))

    # --- statements

    def _statement(self, message: Message, caller: Caller) -> _Statement:
        """Return the statement that a command or a ticket is about."""
        match message.kind:
            case "CommandStatementQuery":
                return _Statement(message.text(1) or "")
            case "CommandPreparedStatementQuery":
                prepared = self._found(message.data(1) or b"", caller)
                return _Statement(prepared.sql, prepared.parameters)
            case "TicketStatementQuery":
                try:
                    return msgspec.json.decode(message.data(1) or b"", type=_Statement)
                except msgspec.MsgspecError:
                    raise BadRequest("cannot read ticket: it is none of this server's") from None
            case _:
                raise BadRequest(f"cannot run {message.kind}: it is not supported; only SELECT and what there is")

    def _ask(self, sql: str, parameters: Sequence[Any], caller: Caller) -> pa.Table:
        return self._engine.sql(sql, list(parameters), caller).table

    def _rows(self, statement: _Statement, caller: Caller, context: Any) -> flight.FlightDataStream:
        if len(statement.parameters) > 1:
            tables = [self._ask(statement.sql, row, caller) for row in statement.parameters]
            return flight.RecordBatchStream(pa.concat_tables(tables, promote_options="permissive"))
        stop = Stop()
        with ExitStack() as held, watched(context, stop):
            held.enter_context(self._engine.sql_turns.take(caller))
            (parameters,) = statement.parameters
            stream = held.enter_context(self._engine.stream_sql(statement.sql, parameters, caller, stop))
            return rows_of(stream, held, self._engine.config.query.reader_patience.seconds)

    def _schema(self, sql: str, parameters: Sequence[Any], caller: Caller) -> pa.Schema | None:
        """Return the schema of a statement's rows without running it, None where that cannot be told.

        Raises BadQuery for a statement that is refused.
        """
        self._engine.link.needed(sql, list(parameters), visible_to(caller))
        try:
            return self._ask(f"SELECT * FROM ({sql.rstrip().rstrip(';')}\n) LIMIT 0", parameters, caller).schema
        except BadInput:
            # SHOW and EXPLAIN are no subqueries; a parameter of unknown type may fit nowhere.
            return None

    def _keep(self, prepared: _Prepared) -> bytes:
        handle = os.urandom(16)
        with self._lock:
            self._prepared[handle] = prepared
            while len(self._prepared) > MAX_PREPARED:
                self._prepared.popitem(last=False)
        return handle

    def _found(self, handle: bytes, caller: Caller) -> _Prepared:
        with self._lock:
            prepared = self._prepared.get(handle)
            if prepared is None or prepared.owner != caller.name:
                raise BadRequest("cannot find the prepared statement: it was closed or forgotten; prepare it again")
            self._prepared.move_to_end(handle)
            return prepared


def _caller(context: Any) -> Caller:
    call: _Call = context.get_middleware(_CALLER)
    return call.caller


def _info(descriptor: flight.FlightDescriptor, schema: pa.Schema | None, ticket: bytes) -> flight.FlightInfo:
    # Without a location the rows are where the question was asked.
    endpoint = flight.FlightEndpoint(ticket, [])
    return flight.FlightInfo(schema, descriptor, [endpoint], -1, -1)


def _serialised(schema: pa.Schema) -> bytes:
    return schema.remove_metadata().serialize().to_pybytes() if len(schema) else b""


def _numbered(batch: pa.RecordBatch) -> list[str]:
    return [str(number) for number in range(batch.num_columns)]


def _parameter(value: Any) -> Any:
    """Return a parameter as a statement takes it: text, number, boolean or nothing; times are texts."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, bytes):
        raise BadRequest("cannot bind parameters: got bytes, want text, numbers or booleans")
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def parameter_count(sql: str) -> int:
    """Return how many parameters a statement has: ``?`` each, or the largest ``$n``; not within quotes or comments."""
    code = code_of(sql)
    numbered = [int(found) for found in _NUMBERED.findall(code)]
    return max(numbered) if numbered else code.count("?")


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise Unavailable(f"cannot read {path}: {error.strerror or error}") from None
