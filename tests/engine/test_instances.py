"""Each statement has memory that no other takes; one that needs more gets the rest, one at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import pyarrow as pa
import pytest

from engine.errors import Cancelled, QueryLimit, TidegaugeError
from engine.query.database import Database
from engine.query.deadlines import Stop
from engine.query.instances import MOST_REMEMBERED, Instances, LargeBefore
from engine.query.parts import PART_BYTES, Parts, Statement
from engine.query.sources import SqlLimits, SqlRequest

MIB = 1 << 20
#: 16 MiB for each of two, 32 MiB for one at a time.
MEMORY = {"memory_limit_bytes": 64 * MIB, "statement_bytes": 100 * MIB, "statements": 2}
SMALL = "SELECT count(*) AS n FROM (SELECT i % 100 AS k, count(*) FROM range(100000) r(i) GROUP BY k)"
#: Needs more than 16 MiB and less than 32.
LARGE = "SELECT count(*) AS n FROM (SELECT i, count(*) FROM range(500000) r(i) GROUP BY i)"
BOMB = "SELECT count(*) AS n FROM (SELECT i, count(*) FROM range(10000000) r(i) GROUP BY i)"


@pytest.fixture
def database() -> Iterator[Database]:
    database = Database(None, threads=1, **MEMORY)
    yield database
    database.close()


def ask(database: Database, sql: str, seconds: float = 30.0, stop: Stop | None = None) -> Any:
    answer = database.sql(SqlRequest(sql=sql, limits=SqlLimits(timeout_seconds=seconds)), stop=stop)
    return pa.ipc.open_stream(answer.stream).read_all().to_pylist()


def held(database: Database) -> AbstractContextManager[Any]:
    """Have what one statement at a time may have, as one that runs."""
    return database._instances.large(lambda: False)


def test_memory_is_shared_out() -> None:
    instances = Instances(1024 * MIB, 128 * MIB, 4, 1, ())
    assert (instances.small_bytes, instances.large_bytes) == (128 * MIB, 512 * MIB)
    instances.close()
    instances = Instances(64 * MIB, 128 * MIB, 4, 1, ())
    assert (instances.small_bytes, instances.large_bytes) == (8 * MIB, 32 * MIB)
    instances.close()


def test_an_ordinary_statement_is_answered_beside_bombs(database: Database) -> None:
    ended: list[TidegaugeError] = []

    def bomb() -> None:
        for number in range(3):
            try:
                ask(database, f"{BOMB} -- {number}")
            except TidegaugeError as error:
                ended.append(error)

    thread = threading.Thread(target=bomb)
    thread.start()
    answered = 0
    while thread.is_alive() or answered < 5:
        assert ask(database, SMALL) == [{"n": 100}]
        answered += 1
    thread.join()
    assert [type(error) for error in ended] == [QueryLimit] * 3
    assert all("needs more memory than the 32 MiB that one statement may use" in error.message for error in ended)


def test_one_that_needs_more_is_run_again_with_more(database: Database) -> None:
    assert ask(database, LARGE) == [{"n": 500_000}]
    assert database._large_before.known(LARGE)
    # And at once the next time.
    assert ask(database, LARGE.replace("500000", "500001")) == [{"n": 500_001}]
    assert not database._large_before.known(SMALL)


def test_one_that_is_known_to_need_more_does_not_wait_for_it(database: Database) -> None:
    assert ask(database, LARGE) == [{"n": 500_000}]
    with held(database):
        assert ask(database, LARGE.replace("500000", "100")) == [{"n": 100}]


def test_one_that_waits_in_vain_is_told_why(database: Database) -> None:
    with held(database), pytest.raises(QueryLimit, match=r"needs more than the 16 MiB of memory .* had the rest until"):
        ask(database, LARGE, seconds=1.0)
    assert ask(database, LARGE) == [{"n": 500_000}]


def test_one_that_waits_gets_its_turn(database: Database) -> None:
    answers: list[Any] = []
    with held(database):
        thread = threading.Thread(target=lambda: answers.append(ask(database, LARGE)))
        thread.start()
        while thread.is_alive() and not database._large_before.known(LARGE):
            thread.join(0.01)
        assert ask(database, SMALL) == [{"n": 100}]
    thread.join()
    assert answers == [[{"n": 500_000}]]


def test_one_that_waits_is_cancelled(database: Database) -> None:
    stop, errors = Stop(), []

    def call() -> None:
        try:
            ask(database, LARGE, stop=stop)
        except TidegaugeError as error:
            errors.append(type(error))

    with held(database):
        thread = threading.Thread(target=call)
        thread.start()
        while thread.is_alive() and not database._large_before.known(LARGE):
            thread.join(0.01)
        stop.ask()
        thread.join()
    assert errors == [Cancelled]


def test_small_instances_are_as_many_as_statements(database: Database) -> None:
    instances = database._instances
    with instances.small(lambda: True) as one, instances.small(lambda: True) as other:
        assert one is not None
        assert other is not None
        with pytest.raises(QueryLimit, match="longer than"):
            ask(database, "SELECT 1", seconds=0.1)
    assert ask(database, "SELECT 1 AS a") == [{"a": 1}]


def test_an_instance_that_has_no_memory_for_a_cursor_is_free_again() -> None:
    class Full:
        def cursor(self) -> None:
            raise MemoryError

        def close(self) -> None:
            """Nothing is open."""

    instances = Instances(64 * MIB, 16 * MIB, 1, 1, ())
    [whole] = instances._free
    instances._free = [Full()]  # type: ignore[list-item]
    for _ in range(2):
        with pytest.raises(MemoryError), instances.small(lambda: False):
            pytest.fail("there is no cursor")
    assert len(instances._free) == 1
    instances.close()
    whole.close()


def test_what_was_sent_is_not_begun_again() -> None:
    sent: list[bytes] = []

    def parts() -> Parts:
        return Parts(Statement(4 * PART_BYTES), lambda *pieces: sent.extend(map(bytes, pieces)), pytest.fail)

    whole = parts()
    whole.write(b"x" * (PART_BYTES - 1))
    whole.close()
    assert whole.restart()
    assert (whole.left, whole.tell(), whole.closed) == ([], 0, False)
    whole.write(b"yy")
    assert [bytes(piece) for piece in whole.left] == [b"yy"]
    begun = parts()
    begun.write(b"x" * PART_BYTES)
    assert not begun.restart()
    assert sent == [b"x" * PART_BYTES]


def test_a_bounded_number_of_statements_is_remembered() -> None:
    before = LargeBefore()
    assert not before.known("SELECT 1")
    for number in range(MOST_REMEMBERED + 1):
        before.note(f"SELECT {'a' * number} WHERE b = 'x y' AND c > {number}")
    assert not before.known("SELECT  WHERE b = 'z' AND c > 5")
    assert before.known("SELECT aaa WHERE b = 'z' AND c > 7")
