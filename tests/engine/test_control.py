"""The control database: what a committed transaction promises, and what an unusable file is called."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.catalog.control import APPLICATION_ID, MIGRATIONS, ControlDatabase
from engine.errors import BadRequest, Bug, Damage, DiskFull, Unavailable

INSERT = "INSERT INTO meta (key, value) VALUES (?, ?)"


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "control.db")


@pytest.fixture
def control(path: str) -> Iterator[ControlDatabase]:
    database = ControlDatabase(path)
    yield database
    database.close()


def keys(database: ControlDatabase) -> list[str]:
    return [key for (key,) in database.rows("SELECT key FROM meta WHERE key <> 'instance' ORDER BY key")]


def test_a_committed_transaction_is_seen_by_readers_and_after_reopening(path: str, control: ControlDatabase) -> None:
    with control.transaction() as connection:
        connection.execute(INSERT, ("a", "1"))
        assert keys(control) == []
    assert keys(control) == ["a"]
    control.close()
    again = ControlDatabase(path)
    assert keys(again) == ["a"]
    again.close()


def test_a_transaction_that_raises_leaves_nothing(control: ControlDatabase) -> None:
    def change_its_mind() -> None:
        with control.transaction() as connection:
            connection.execute(INSERT, ("a", "1"))
            raise KeyError("changed my mind")

    with pytest.raises(KeyError):
        change_its_mind()
    assert keys(control) == []
    with control.transaction() as connection:
        connection.execute(INSERT, ("b", "1"))
    assert keys(control) == ["b"]


def test_the_file_is_durable_and_holds_its_foreign_keys(control: ControlDatabase) -> None:
    with control.transaction() as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
        assert connection.execute("PRAGMA foreign_keys").fetchone() == (1,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    with pytest.raises(Bug, match="FOREIGN KEY"), control.transaction() as connection:
        connection.execute("INSERT INTO alert_events (alert_id, time_ns, event) VALUES (99, 0, 'firing')")


def test_a_transaction_inside_a_transaction_is_our_own_bug(control: ControlDatabase) -> None:
    def nest() -> None:
        with control.transaction() as connection:
            connection.execute(INSERT, ("a", "1"))
            with control.transaction():
                pass

    with pytest.raises(Bug, match="one is open"):
        nest()
    assert keys(control) == []


def test_the_reading_connection_cannot_write(control: ControlDatabase) -> None:
    with pytest.raises(Unavailable, match="readonly"):
        control.rows(INSERT, ("a", "1"))


def test_transactions_of_several_threads_do_not_mix(control: ControlDatabase) -> None:
    def count_up() -> None:
        for _ in range(25):
            with control.transaction() as connection:
                (value,) = connection.execute("SELECT value FROM meta WHERE key = 'n'").fetchone()
                connection.execute("UPDATE meta SET value = ? WHERE key = 'n'", (str(int(value) + 1),))

    with control.transaction() as connection:
        connection.execute(INSERT, ("n", "0"))
    threads = [threading.Thread(target=count_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert control.rows("SELECT value FROM meta WHERE key = 'n'") == [("100",)]


def test_every_database_has_an_identity_of_its_own_that_stays(tmp_path: Path) -> None:
    first = ControlDatabase(str(tmp_path / "a.db"), random_bytes=lambda count: b"\x01" * count)
    assert first.instance == "01" * 16
    first.close()
    again = ControlDatabase(str(tmp_path / "a.db"), random_bytes=lambda count: b"\x02" * count)
    assert again.instance == "01" * 16
    again.close()


# ---- versions ------------------------------------------------------------------------------------


def test_a_file_of_a_newer_version_is_refused_by_name_and_not_touched(path: str) -> None:
    ControlDatabase(path, migrations=[*MIGRATIONS, ("CREATE TABLE later (a)",)]).close()
    before = Path(path).read_bytes()
    known = len(MIGRATIONS)
    with pytest.raises(Damage, match=rf"newer version.*got schema {known + 1}, want at most {known}.*control\.db"):
        ControlDatabase(path)
    assert Path(path).read_bytes() == before


def test_an_older_file_is_brought_up_to_date_and_keeps_its_rows(path: str) -> None:
    old = ControlDatabase(path)
    with old.transaction() as connection:
        connection.execute(INSERT, ("a", "1"))
    instance = old.instance
    old.close()
    newer = [
        *MIGRATIONS,
        ("ALTER TABLE meta ADD COLUMN note TEXT DEFAULT 'none'",),
        ("CREATE TABLE more (a)",),
    ]
    database = ControlDatabase(path, migrations=newer)
    assert database.rows("SELECT value, note FROM meta WHERE key = 'a'") == [("1", "none")]
    assert database.rows("PRAGMA user_version") == [(len(MIGRATIONS) + 2,)]
    assert database.instance == instance
    database.close()


def test_a_migration_that_fails_is_undone_as_a_whole(path: str) -> None:
    ControlDatabase(path).close()
    with pytest.raises(Bug, match="no such table"):
        ControlDatabase(path, migrations=[*MIGRATIONS, ("CREATE TABLE more (a)", "DROP TABLE nowhere")])
    database = ControlDatabase(path)
    assert database.rows("PRAGMA user_version") == [(len(MIGRATIONS),)]
    assert database.rows("SELECT name FROM sqlite_master WHERE name = 'more'") == []
    database.close()


# ---- files that cannot be used
# ---------------------------------------------------------------------------------


def test_a_file_that_is_no_database_is_damage(path: str) -> None:
    Path(path).write_bytes(b"this is not a database, it is a letter to a friend" * 100)
    with pytest.raises(Damage, match=r"not a database.*control\.db"):
        ControlDatabase(path)


def test_the_database_of_another_program_is_refused_and_not_touched(path: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (a)")
    connection.close()
    before = Path(path).read_bytes()
    with pytest.raises(Damage, match="another program"):
        ControlDatabase(path)
    assert Path(path).read_bytes() == before


def test_a_directory_that_does_not_exist_is_said(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"cannot open the control database: unable to open.*nowhere"):
        ControlDatabase(str(tmp_path / "nowhere" / "control.db"))


def test_a_full_disk_is_said_and_leaves_nothing(control: ControlDatabase) -> None:
    with control.transaction() as connection:
        connection.execute("PRAGMA max_page_count = 40")
    with pytest.raises(DiskFull, match="the disk is full"), control.transaction() as connection:
        connection.executemany(INSERT, [(f"key-{number}", "x" * 4000) for number in range(100)])
    assert keys(control) == []


def test_another_process_that_holds_the_file_is_said(
    path: str, control: ControlDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    monkeypatch.setattr("engine.catalog.control.BUSY_TIMEOUT_SECONDS", 0.0)
    with pytest.raises(Unavailable, match="another process holds it"):
        ControlDatabase(path)
    other.close()


def test_damaged_pages_are_found_by_the_check(path: str, control: ControlDatabase) -> None:
    assert control.check() == []
    with control.transaction() as connection:
        connection.executemany(INSERT, [(f"key-{number}", "x" * 500) for number in range(200)])
    control.close()
    content = bytearray(Path(path).read_bytes())
    page_bytes = int.from_bytes(content[16:18], "big")
    # The last pages hold rows alone; what is needed for opening stays whole.
    for start in range(len(content) // page_bytes * 3 // 4 * page_bytes, len(content) - page_bytes, page_bytes):
        content[start : start + 64] = b"\xa5" * 64
    Path(path).write_bytes(content)
    damaged = ControlDatabase(path)
    assert damaged.check() != []
    damaged.close()


def test_after_closing_every_call_says_so(control: ControlDatabase) -> None:
    control.close()
    control.close()
    with pytest.raises(Unavailable, match="closed"):
        control.rows("SELECT 1")
    with pytest.raises(Unavailable, match="closed"), control.transaction():
        pass


# ---- copies --------------------------------------------------------------------------------------


def test_a_backup_is_a_complete_database_and_never_overwrites(tmp_path: Path, control: ControlDatabase) -> None:
    with control.transaction() as connection:
        connection.execute(INSERT, ("a", "1"))
    target = str(tmp_path / "copy.db")
    control.backup(target)
    with control.transaction() as connection:
        connection.execute(INSERT, ("b", "1"))
    copy = ControlDatabase(target)
    assert keys(copy) == ["a"]
    assert copy.instance == control.instance
    assert copy.rows("PRAGMA application_id") == [(APPLICATION_ID,)]
    copy.close()
    with pytest.raises(BadRequest, match="which exists"):
        control.backup(target)
