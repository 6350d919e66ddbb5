"""Flight SQL: the encoding, the messages, and the server as its clients see it, ADBC's driver among them."""

from __future__ import annotations

import base64
import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import flight

from api.auth import Gate
from api.flight import messages, protobuf
from api.flight.server import FlightSqlServer, parameter_count
from engine.catalog.tokens import digest_of
from engine.config import KEEP_ALL, Config, Query, Server, Token
from engine.config_units import Duration
from engine.errors import BadRequest, Unavailable
from engine.runtime import Engine

TOKENS = (
    Token(name="reader", sha256=digest_of("r3ad"), scopes=("read",)),
    Token(name="writer", sha256=digest_of("wr1te"), scopes=("write",)),
    Token(name="web", sha256=digest_of("w3b"), scopes=("read",), match='host="a"'),
)
LINES = b"cpu,host=a usage=1,idle=9 1000000000000000000\ncpu,host=b usage=2.5 1500000000000000000\nmem,host=a used=3"


# --- encoding


@given(
    fields=st.lists(st.tuples(st.integers(1, 2**29 - 1), st.one_of(st.integers(0, 2**64 - 1), st.binary(max_size=300))))
)
def test_what_is_written_is_read(fields: list[tuple[int, int | bytes]]) -> None:
    data = b"".join(
        protobuf.number_field(number, value) if isinstance(value, int) else protobuf.bytes_field(number, value)
        for number, value in fields
    )
    assert list(protobuf.records(data)) == fields


@given(data=st.binary(max_size=40))
def test_anything_is_read_or_refused(data: bytes) -> None:
    for read in (lambda: list(protobuf.records(data)), lambda: messages.read(data)):
        with contextlib.suppress(BadRequest):
            read()


def test_published_examples_of_the_encoding() -> None:
    # "Encoding", protobuf.dev: a = 150; b = "testing"; e = 1..3 packed in field 6.
    assert list(protobuf.records(bytes.fromhex("089601"))) == [(1, 150)]
    assert list(protobuf.records(bytes.fromhex("120774657374696e67"))) == [(2, b"testing")]
    assert protobuf.number_field(1, 150) == bytes.fromhex("089601")
    assert protobuf.bytes_field(2, "testing") == bytes.fromhex("120774657374696e67")
    packed = messages.Message("x", {6: [bytes.fromhex("038e029ea705")], 7: [3, 4]})
    assert (packed.numbers(6), packed.numbers(7)) == ([3, 270, 86942], [3, 4])


@pytest.mark.parametrize(
    ("sql", "count"),
    [
        ("SELECT 1", 0),
        ("SELECT ?, ?", 2),
        ("SELECT $2, $1, $2", 2),
        ("SELECT '?', \"?\", $$?$$ -- ?\n, /* ? */ ?", 1),
    ],
)
def test_parameters_are_counted(sql: str, count: int) -> None:
    assert parameter_count(sql) == count


# --- the server


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    config = msgspec.structs.replace(Config(), retention=KEEP_ALL)
    with Engine.open(str(tmp_path_factory.mktemp("flight") / "data"), config, mode="embedded") as engine:
        assert not engine.submit_lines(LINES).result().refused
        yield engine


@pytest.fixture(scope="module")
def server(engine: Engine) -> Iterator[FlightSqlServer]:
    server = FlightSqlServer(engine, Gate(TOKENS), Config(), "127.0.0.1:0")
    yield server
    server.shutdown()


@pytest.fixture(scope="module")
def client(server: FlightSqlServer) -> Iterator[flight.FlightClient]:
    with flight.connect(server.url) as client:
        yield client


def bearer(token: str) -> flight.FlightCallOptions:
    return flight.FlightCallOptions(headers=[(b"authorization", f"Bearer {token}".encode())])


READER = bearer("r3ad")


def asked(client: flight.FlightClient, command: bytes, options: flight.FlightCallOptions = READER) -> pa.Table:
    """Ask as the protocol says, and hold what was promised against what comes."""
    info = client.get_flight_info(flight.FlightDescriptor.for_command(command), options)
    (endpoint,) = info.endpoints
    table = client.do_get(endpoint.ticket, options).read_all()
    if info.schema is not None:
        assert table.schema.equals(info.schema)
    return table


def statement(sql: str) -> bytes:
    return messages.command("CommandStatementQuery", (1, sql))


def test_a_statement(client: flight.FlightClient) -> None:
    table = asked(client, statement("SELECT time, host, usage, idle FROM cpu ORDER BY host"))
    assert table.schema.names == ["time", "host", "usage", "idle"]
    assert table.column("time").type == pa.timestamp("ns")
    assert table.drop_columns("time").to_pylist() == [
        {"host": "a", "usage": 1.0, "idle": 9.0},
        {"host": "b", "usage": 2.5, "idle": None},
    ]
    assert asked(client, statement("SHOW TABLES;")).num_rows > 5
    schema = client.get_schema(flight.FlightDescriptor.for_command(statement("SELECT host FROM cpu")), READER).schema
    assert schema == pa.schema([("host", pa.string())])


def prepare(client: flight.FlightClient, sql: str, options: flight.FlightCallOptions = READER) -> messages.Message:
    body = messages.command("ActionCreatePreparedStatementRequest", (1, sql))
    (result,) = client.do_action(flight.Action("CreatePreparedStatement", body), options)
    return messages.read(result.body.to_pybytes())


def test_a_prepared_statement(client: flight.FlightClient) -> None:
    made = prepare(client, "SELECT host, usage FROM cpu WHERE host = ? AND usage >= ?")
    handle, parameters = made.data(1), made.data(3)
    assert handle is not None
    assert parameters is not None
    assert pa.ipc.read_schema(pa.py_buffer(parameters)).names == ["$1", "$2"]
    command = messages.command("CommandPreparedStatementQuery", (1, handle))
    descriptor = flight.FlightDescriptor.for_command(command)
    rows = pa.record_batch({"a": ["a", "b", "b"], "b": [0.5, 2.5, 3.0]})
    writer, reader = client.do_put(descriptor, rows.schema, READER)
    with writer:
        writer.write_batch(rows)
        writer.done_writing()
        assert reader.read().to_pybytes() == messages.bound_result(handle)
    assert asked(client, command).to_pylist() == [{"host": "a", "usage": 1.0}, {"host": "b", "usage": 2.5}]
    with pytest.raises(flight.FlightServerError, match="cannot find the prepared statement"):
        asked(client, command, bearer("w3b"))
    list(client.do_action(flight.Action("ClosePreparedStatement", messages.command("x", (1, handle))), READER))
    with pytest.raises(flight.FlightServerError, match="cannot find the prepared statement"):
        asked(client, command)


def test_what_there_is(client: flight.FlightClient) -> None:
    assert asked(client, messages.command("CommandGetCatalogs")).to_pylist() == [{"catalog_name": ""}]
    assert asked(client, messages.command("CommandGetDbSchemas")).to_pylist() == [
        {"catalog_name": "", "db_schema_name": ""}
    ]
    assert asked(client, messages.command("CommandGetDbSchemas", (1, "other"))).num_rows == 0
    assert asked(client, messages.command("CommandGetTableTypes"))["table_type"].to_pylist() == ["TABLE", "VIEW"]
    tables = asked(client, messages.command("CommandGetTables", (4, "TABLE")))
    assert tables["table_name"].to_pylist() == ["cpu", "mem"]
    found = asked(client, messages.command("CommandGetTables", (3, "rollup\x5f1_"), (5, 1)))
    assert found["table_name"].to_pylist() == ["rollup_1d", "rollup_1h", "rollup_1m"]
    schema = pa.ipc.read_schema(pa.py_buffer(found["table_schema"][0].as_py()))
    assert schema.field("labels").type == pa.map_(pa.string(), pa.string())
    properties = asked(client, messages.command("CommandGetSqlInfo"))
    told = dict(zip(properties["info_name"].to_pylist(), properties["value"].to_pylist(), strict=True))
    assert (told[0], told[3], told[8], told[504]) == ("tidegauge", True, 0, '"')
    few = asked(client, messages.command("CommandGetSqlInfo", (1, bytes([0, 4, 99]))))
    assert few["info_name"].to_pylist() == [0, 4]
    kinds = asked(client, messages.command("CommandGetXdbcTypeInfo"))
    assert kinds["data_type"].to_pylist() == sorted(kinds["data_type"].to_pylist())
    assert "TIMESTAMP_NS" in kinds["type_name"].to_pylist()
    minus_five = protobuf.number_field(1, 2**64 - 5)
    (bigint,) = asked(client, messages.written("CommandGetXdbcTypeInfo", minus_five)).to_pylist()
    assert (bigint["type_name"], bigint["column_size"]) == ("BIGINT", 19)
    for command in ("PrimaryKeys", "ExportedKeys", "ImportedKeys"):
        assert asked(client, messages.command(f"CommandGet{command}", (3, "cpu"))).num_rows == 0


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (statement("DROP TABLE cpu"), "only SELECT can be run"),
        (statement("SELECT * FROM nothing"), "there is no relation 'nothing'"),
        (b"nonsense", "cannot read "),
        (messages.command("CommandStatementSubstraitPlan"), "is not supported"),
        (messages.command("TicketStatementQuery", (1, "x")), "none of this server's"),
    ],
    ids=["drop", "relation", "nonsense", "substrait", "ticket"],
)
def test_mistakes_are_sentences(client: flight.FlightClient, command: bytes, sentence: str) -> None:
    with pytest.raises(flight.FlightServerError, match=sentence) as caught:
        asked(client, command)
    assert "Traceback" not in str(caught.value)


def test_data_is_not_changed_by_sql(client: flight.FlightClient) -> None:
    descriptor = flight.FlightDescriptor.for_command(messages.command("CommandStatementUpdate", (1, "DELETE FROM cpu")))
    writer, _ = client.do_put(descriptor, pa.schema([]), READER)
    with pytest.raises(flight.FlightServerError, match="only SELECT"):
        writer.close()
    with pytest.raises(flight.FlightServerError, match="want one of CreatePreparedStatement"):
        list(client.do_action(flight.Action("BeginTransaction", b""), READER))


# --- tokens


def test_tokens_decide_who_asks_and_what_there_is(client: flight.FlightClient) -> None:
    hosts = statement("SELECT host FROM cpu ORDER BY host")
    for options in (None, bearer("other")):
        with pytest.raises(flight.FlightUnauthenticatedError, match="cannot use Flight SQL"):
            asked(client, hosts, options)
    with pytest.raises(flight.FlightUnauthorizedError, match="lacks the scope 'read'"):
        asked(client, hosts, bearer("wr1te"))
    assert asked(client, hosts)["host"].to_pylist() == ["a", "b"]
    assert asked(client, hosts, bearer("w3b"))["host"].to_pylist() == ["a"]
    basic = base64.b64encode(b"anyone:r3ad").rstrip(b"=")
    assert asked(client, hosts, flight.FlightCallOptions(headers=[(b"authorization", b"Basic " + basic)])).num_rows == 2
    name, value = client.authenticate_basic_token("anyone", "r3ad")
    assert (name, value) == (b"authorization", b"Bearer r3ad")
    with pytest.raises(flight.FlightUnauthenticatedError):
        client.authenticate_basic_token("anyone", "wrong")


def test_without_tokens_everyone_may_ask(engine: Engine) -> None:
    server = FlightSqlServer(engine, Gate(()), Config(), "127.0.0.1:0")
    try:
        with flight.connect(server.url) as client:
            assert asked(client, statement("SELECT 1 AS a"), None).to_pylist() == [{"a": 1}]
        with pytest.raises(Unavailable, match="cannot listen for Flight SQL"):
            FlightSqlServer(engine, Gate(()), Config(), server.url.rpartition("/")[2])
    finally:
        server.shutdown()


def test_tls_is_that_of_http(engine: Engine, tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    certificate, key = str(tmp_path / "certificate.pem"), str(tmp_path / "key.pem")
    made = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"]
    named = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([openssl, *made, *named, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    config = msgspec.structs.replace(Config(), server=Server(tls_certificate=certificate, tls_key=key))
    server = FlightSqlServer(engine, Gate(TOKENS), config, "127.0.0.1:0")
    try:
        assert server.url.startswith("grpc+tls://127.0.0.1:")
        with flight.connect(server.url, tls_root_certs=Path(certificate).read_text()) as client:
            assert asked(client, statement("SELECT 1 AS a")).to_pylist() == [{"a": 1}]
        with flight.connect(server.url) as stranger, pytest.raises(flight.FlightUnavailableError):
            asked(stranger, statement("SELECT 1"))
    finally:
        server.shutdown()
    missing = msgspec.structs.replace(config, server=Server(tls_certificate=str(tmp_path / "no"), tls_key=key))
    with pytest.raises(Unavailable, match="No such file"):
        FlightSqlServer(engine, Gate(TOKENS), missing, "127.0.0.1:0")


# --- large answers

LARGE = "SELECT range AS n, repeat('x', 1000) AS text FROM range(100000)"


@contextmanager
def served(path: Path, **query: Any) -> Iterator[flight.FlightClient]:
    """Give a client of a server with its own engine and query process."""
    config = Config(query=Query(**query))
    with Engine.open(str(path / "data"), config) as engine:
        server = FlightSqlServer(engine, Gate(()), config, "127.0.0.1:0")
        try:
            with flight.connect(server.url) as client:
                yield client
        finally:
            server.shutdown()


def reader_of(client: flight.FlightClient, sql: str) -> Any:
    info = client.get_flight_info(flight.FlightDescriptor.for_command(statement(sql)))
    return client.do_get(info.endpoints[0].ticket)


def test_large_answers_come_in_batches_and_hold_their_turn_no_longer_than_they_are_read(tmp_path: Path) -> None:
    with served(tmp_path, concurrency=1) as client:
        rows = [chunk.data.num_rows for chunk in reader_of(client, LARGE)]
        assert sum(rows) == 100_000
        assert len(rows) > 1
        assert asked(client, statement("SELECT 1 AS a"), None).to_pylist() == [{"a": 1}]
        gone = reader_of(client, LARGE)
        gone.read_chunk()
        gone.cancel()
        assert asked(client, statement("SELECT 2 AS a"), None).to_pylist() == [{"a": 2}]


def test_who_does_not_read_is_cut_off(tmp_path: Path) -> None:
    with served(tmp_path, concurrency=1, reader_patience=Duration(100_000_000)) as client:
        slow = reader_of(client, LARGE)
        assert asked(client, statement("SELECT 2 AS a"), None).to_pylist() == [{"a": 2}]
        with pytest.raises(flight.FlightTimedOutError, match="the reader took nothing"):
            for _ in slow:
                pass


def test_a_limit_in_the_middle_is_an_error(tmp_path: Path) -> None:
    with served(tmp_path, max_rows=70_000) as client, pytest.raises(flight.FlightTimedOutError, match="70000 rows"):
        reader_of(client, LARGE).read_all()


# --- the driver


@pytest.mark.parametrize(
    "given_as",
    [{"username": "x", "password": "r3ad"}, {"adbc.flight.sql.authorization_header": "Bearer r3ad"}],
    ids=["basic", "bearer"],
)
def test_the_driver_of_adbc(server: FlightSqlServer, given_as: dict[str, str]) -> None:
    dbapi = pytest.importorskip("adbc_driver_flightsql.dbapi", reason="adbc-driver-flightsql is not installed")
    with dbapi.connect(server.url, db_kwargs=given_as, autocommit=True) as connection:
        with connection.cursor() as cursor:
            cursor.execute("SELECT host, usage FROM cpu ORDER BY host")
            assert cursor.fetchall() == [("a", 1.0), ("b", 2.5)]
            cursor.execute("SELECT host FROM cpu WHERE usage > ? AND host = ?", (2, "b"))
            assert cursor.fetchall() == [("b",)]
            cursor.execute("SELECT labels, value FROM samples WHERE metric = $1", ("cpu_idle",))
            assert cursor.fetch_arrow_table().to_pylist() == [{"labels": [("host", "a")], "value": 9.0}]
            with pytest.raises(Exception, match="there is no relation 'nothing'"):
                cursor.execute("SELECT * FROM nothing")
        assert connection.adbc_get_info()["vendor_name"] == "tidegauge"
        assert connection.adbc_get_table_types() == ["TABLE", "VIEW"]
        assert connection.adbc_get_table_schema("cpu").names == ["time", "host", "usage", "idle"]
        (catalogue,) = connection.adbc_get_objects(depth="tables", table_types_filter=["TABLE"]).read_all().to_pylist()
        (schema,) = catalogue["catalog_db_schemas"]
        assert [each["table_name"] for each in schema["db_schema_tables"]] == ["cpu", "mem"]
