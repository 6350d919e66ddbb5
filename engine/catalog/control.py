"""The control database: what must change in transactions, in one SQLite file (``control.sqlite``).

Alerts with their history, silences, the notifications still to be delivered, scaling decisions, deployments, tokens.
It holds no samples.
The file is opened in WAL mode with ``synchronous=FULL``: when :meth:`ControlDatabase.transaction` returns,
its changes are on disk.  One connection writes, under a lock; another one reads, so that readers do not wait
for a sync.

The schema is a list of numbered migrations and ``PRAGMA user_version`` says how many of them a file has seen.
An older file is brought up to date when it is opened, a newer one is refused.  A migration that has been
released is never edited: a change of the schema is a new entry at the end of :data:`MIGRATIONS`.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from engine.errors import BadRequest, Bug, Damage, DiskFull, NewerFormat, TidegaugeError, Unavailable

# "TGct", so that another program's database is not taken for ours.
APPLICATION_ID = 0x54476374
BUSY_TIMEOUT_SECONDS = 5.0
INSTANCE_BYTES = 16

Migration = tuple[str, ...]

MIGRATIONS: tuple[Migration, ...] = (
    (
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
        """CREATE TABLE alerts (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            fingerprint TEXT NOT NULL,
            tagset_id INTEGER NOT NULL,
            rule TEXT NOT NULL,
            severity TEXT NOT NULL,
            category TEXT NOT NULL,
            labels TEXT NOT NULL,
            channels TEXT NOT NULL,
            state TEXT NOT NULL CHECK (state IN ('pending', 'firing', 'resolved', 'cancelled')),
            value REAL,
            threshold REAL NOT NULL,
            summary TEXT NOT NULL,
            stale INTEGER NOT NULL DEFAULT 0,
            started_ns INTEGER NOT NULL,
            cause_time_ns INTEGER NOT NULL,
            fired_ns INTEGER,
            notified_ns INTEGER,
            cleared_ns INTEGER,
            resolved_ns INTEGER,
            acknowledged_ns INTEGER,
            acknowledged_by TEXT,
            acknowledged_note TEXT,
            acknowledged_until_ns INTEGER
        )""",
        # At most one open alert for a rule and a series, whatever the program believes.
        """CREATE UNIQUE INDEX alerts_open ON alerts (rule, fingerprint)
            WHERE state IN ('pending', 'firing')""",
        "CREATE INDEX alerts_closed ON alerts (rule, resolved_ns) WHERE state = 'resolved'",
        "CREATE INDEX alerts_state ON alerts (state, id)",
        """CREATE TABLE alert_events (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            alert_id INTEGER NOT NULL REFERENCES alerts (id) ON DELETE CASCADE,
            time_ns INTEGER NOT NULL,
            event TEXT NOT NULL,
            value REAL,
            detail TEXT NOT NULL DEFAULT ''
        )""",
        "CREATE INDEX alert_events_of ON alert_events (alert_id, id)",
        """CREATE TABLE notifications (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            delivery TEXT NOT NULL UNIQUE,
            channel TEXT NOT NULL,
            alert_id INTEGER REFERENCES alerts (id) ON DELETE CASCADE,
            event TEXT NOT NULL,
            body TEXT NOT NULL,
            created_ns INTEGER NOT NULL,
            attempts INTEGER NOT NULL DEFAULT 0,
            next_attempt_ns INTEGER NOT NULL,
            last_attempt_ns INTEGER,
            last_status INTEGER,
            last_error TEXT,
            delivered_ns INTEGER,
            dead_ns INTEGER
        )""",
        """CREATE INDEX notifications_waiting ON notifications (channel, alert_id, id)
            WHERE delivered_ns IS NULL AND dead_ns IS NULL""",
        "CREATE INDEX notifications_of ON notifications (alert_id, id)",
        """CREATE TABLE scale_histories (
            target TEXT PRIMARY KEY,
            desired INTEGER,
            up_ns INTEGER,
            down_ns INTEGER,
            recommendations TEXT NOT NULL
        )""",
        """CREATE TABLE decisions (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            target TEXT NOT NULL,
            decided_ns INTEGER NOT NULL,
            valid_until_ns INTEGER NOT NULL,
            action TEXT NOT NULL CHECK (action IN ('up', 'down', 'hold')),
            current INTEGER,
            desired INTEGER,
            recommended INTEGER,
            reason TEXT NOT NULL,
            limited_by TEXT NOT NULL,
            inputs TEXT NOT NULL
        )""",
        "CREATE INDEX decisions_of ON decisions (target, id)",
    ),
    (
        """CREATE TABLE silences (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            matchers TEXT NOT NULL,
            start_ns INTEGER NOT NULL,
            end_ns INTEGER NOT NULL,
            author TEXT NOT NULL,
            note TEXT NOT NULL,
            created_ns INTEGER NOT NULL
        )""",
        "CREATE INDEX silences_end ON silences (end_ns)",
        # What a silence has held back: "firing" or "resolved".
        "ALTER TABLE alerts ADD COLUMN owed TEXT",
        "CREATE INDEX alerts_owed ON alerts (id) WHERE owed IS NOT NULL",
    ),
    (
        # From when the steps of an alert's escalation count, moved on by the time it was acknowledged.
        "ALTER TABLE alerts ADD COLUMN escalate_from_ns INTEGER",
        "UPDATE alerts SET escalate_from_ns = notified_ns WHERE state = 'firing'",
        """CREATE TABLE escalations (
            alert_id INTEGER NOT NULL REFERENCES alerts (id) ON DELETE CASCADE,
            step TEXT NOT NULL,
            time_ns INTEGER NOT NULL,
            PRIMARY KEY (alert_id, step)
        ) WITHOUT ROWID""",
    ),
    ("CREATE INDEX alerts_of ON alerts (fingerprint, id)",),
    (
        "CREATE INDEX notifications_recent ON notifications (channel, created_ns)",
        # What a channel's budget has kept out of the outbox, until a digest tells of it.
        "CREATE TABLE withheld (channel TEXT NOT NULL, rule TEXT NOT NULL, event TEXT NOT NULL)",
        "CREATE INDEX withheld_of ON withheld (channel)",
    ),
    (
        """CREATE TABLE anomalies (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            time_ns INTEGER NOT NULL,
            series_id INTEGER NOT NULL,
            metric TEXT NOT NULL,
            labels TEXT NOT NULL,
            value REAL NOT NULL,
            score REAL NOT NULL,
            cause TEXT NOT NULL,
            expected_low REAL NOT NULL,
            expected_high REAL NOT NULL,
            reason TEXT NOT NULL
        )""",
        "CREATE INDEX anomalies_time ON anomalies (time_ns)",
        "CREATE INDEX anomalies_metric ON anomalies (metric, id)",
    ),
    (
        # ``settings``: scopes, limits and shares as JSON.
        """CREATE TABLE tokens (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            name TEXT NOT NULL,
            sha256 TEXT NOT NULL UNIQUE,
            settings TEXT NOT NULL,
            created_ns INTEGER NOT NULL,
            revoked_ns INTEGER
        )""",
        "CREATE UNIQUE INDEX tokens_valid ON tokens (name) WHERE revoked_ns IS NULL",
    ),
    (
        """CREATE TABLE bottlenecks (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            time_ns INTEGER NOT NULL,
            last_seen_ns INTEGER NOT NULL,
            times_seen INTEGER NOT NULL DEFAULT 1,
            first_moved_ns INTEGER,
            kind TEXT NOT NULL CHECK (kind IN ('changed', 'saturated')),
            service TEXT NOT NULL,
            instance TEXT NOT NULL,
            resource TEXT NOT NULL,
            aspect TEXT NOT NULL,
            metric TEXT NOT NULL,
            value REAL NOT NULL,
            expected REAL NOT NULL,
            basis TEXT NOT NULL,
            confidence REAL NOT NULL,
            gain REAL NOT NULL,
            effect_metric TEXT NOT NULL,
            effect_share REAL NOT NULL,
            effect_from REAL NOT NULL,
            effect_to REAL NOT NULL,
            effect_by TEXT NOT NULL,
            reason TEXT NOT NULL,
            recommendation TEXT NOT NULL,
            evidence TEXT NOT NULL,
            outcome TEXT,
            outcome_time_ns INTEGER,
            outcome_share REAL
        )""",
        # At most one open finding for a resource of a service.
        "CREATE UNIQUE INDEX bottlenecks_open ON bottlenecks (service, resource) WHERE outcome IS NULL",
        "CREATE INDEX bottlenecks_time ON bottlenecks (time_ns)",
    ),
    (
        # What channels that group are to be told, and of which alerts each group has told that still fire.
        """CREATE TABLE alert_groups (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            channel TEXT NOT NULL,
            labels TEXT NOT NULL,
            due_ns INTEGER,
            sent_ns INTEGER,
            UNIQUE (channel, labels)
        )""",
        "CREATE INDEX alert_groups_due ON alert_groups (due_ns)",
        """CREATE TABLE alert_group_news (
            group_id INTEGER NOT NULL REFERENCES alert_groups (id) ON DELETE CASCADE,
            event_id INTEGER NOT NULL,
            alert_id INTEGER NOT NULL REFERENCES alerts (id) ON DELETE CASCADE,
            tells TEXT NOT NULL,
            PRIMARY KEY (group_id, event_id)
        ) WITHOUT ROWID""",
        "CREATE INDEX alert_group_news_of ON alert_group_news (alert_id)",
        """CREATE TABLE alert_group_members (
            group_id INTEGER NOT NULL REFERENCES alert_groups (id) ON DELETE CASCADE,
            alert_id INTEGER NOT NULL REFERENCES alerts (id) ON DELETE CASCADE,
            PRIMARY KEY (group_id, alert_id)
        ) WITHOUT ROWID""",
        "CREATE INDEX alert_group_members_of ON alert_group_members (alert_id)",
        """CREATE TABLE notification_alerts (
            notification_id INTEGER NOT NULL REFERENCES notifications (id) ON DELETE CASCADE,
            alert_id INTEGER NOT NULL REFERENCES alerts (id) ON DELETE CASCADE,
            events TEXT NOT NULL,
            PRIMARY KEY (notification_id, alert_id)
        ) WITHOUT ROWID""",
        "CREATE INDEX notification_alerts_of ON notification_alerts (alert_id)",
        "ALTER TABLE notifications ADD COLUMN group_id INTEGER",
        """CREATE INDEX notifications_waiting_group ON notifications (channel, group_id, id)
            WHERE group_id IS NOT NULL AND delivered_ns IS NULL AND dead_ns IS NULL""",
    ),
    (
        # When each channel had its last digest, and the last entry of the history by then.
        """CREATE TABLE digests (
            channel TEXT PRIMARY KEY,
            sent_ns INTEGER NOT NULL,
            event_id INTEGER NOT NULL
        ) WITHOUT ROWID""",
    ),
    (
        # What channels of type dashboard have been told, the newest of each.
        """CREATE TABLE dashboard (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            delivery TEXT NOT NULL UNIQUE,
            channel TEXT NOT NULL,
            time_ns INTEGER NOT NULL,
            event TEXT NOT NULL,
            body TEXT NOT NULL
        )""",
        "CREATE INDEX dashboard_of ON dashboard (channel, id)",
    ),
    # How many notifications of an alert were withheld, by cause, as JSON.
    ("ALTER TABLE alerts ADD COLUMN withheld TEXT NOT NULL DEFAULT '{}'",),
    # What the alert's rule looks at, for links to it.
    ("ALTER TABLE alerts ADD COLUMN source TEXT",),
    # Further texts of an alert, by name, as JSON.
    ("ALTER TABLE alerts ADD COLUMN annotations TEXT NOT NULL DEFAULT '{}'",),
    # In the order in which they are tried, so that a batch is found without a look at all that waits.
    ("CREATE INDEX notifications_next ON notifications (channel, id) WHERE delivered_ns IS NULL AND dead_ns IS NULL",),
    # For which series each rule in force has alerts, so that a start notices what has changed meanwhile.
    ("CREATE TABLE rules_in_force (name TEXT PRIMARY KEY, looks_at TEXT NOT NULL) WITHOUT ROWID",),
    (
        """CREATE INDEX alerts_acknowledged ON alerts (acknowledged_until_ns)
            WHERE state IN ('pending', 'firing') AND acknowledged_until_ns IS NOT NULL""",
    ),
    (
        """CREATE TABLE deploys (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            time_ns INTEGER NOT NULL,
            service TEXT NOT NULL,
            version TEXT NOT NULL,
            baseline TEXT NOT NULL,
            canary TEXT NOT NULL,
            labels TEXT NOT NULL,
            author TEXT NOT NULL,
            note TEXT NOT NULL,
            recorded_ns INTEGER NOT NULL,
            UNIQUE (service, version, time_ns)
        )""",
        "CREATE INDEX deploys_time ON deploys (time_ns)",
        "CREATE INDEX deploys_of ON deploys (service, time_ns)",
    ),
    (
        # When the next step of an alert's escalation is due; filled in by the first tick (engine/alerting/steps.py).
        "ALTER TABLE alerts ADD COLUMN next_step_ns INTEGER",
        """CREATE INDEX alerts_next_step ON alerts (next_step_ns)
            WHERE state = 'firing' AND next_step_ns IS NOT NULL""",
    ),
)


def _refusal(error: sqlite3.Error, action: str, path: str) -> TidegaugeError:
    """Return the error of ours that says what SQLite's ``error`` means for its caller."""
    code = getattr(error, "sqlite_errorcode", None)
    primary = None if code is None else code & 0xFF
    if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return Damage(f"cannot {action} the control database: {error}", path=path)
    if primary == sqlite3.SQLITE_FULL:
        return DiskFull(f"cannot {action} the control database: the disk is full ({path})")
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Unavailable(f"cannot {action} the control database: another process holds it ({path})")
    if isinstance(error, sqlite3.IntegrityError | sqlite3.InterfaceError | sqlite3.NotSupportedError):
        return Bug(f"cannot {action} the control database: {error} ({path})")
    if isinstance(error, sqlite3.ProgrammingError) and "closed" in str(error):
        return Unavailable(f"cannot {action} the control database: it has been closed ({path})")
    if isinstance(error, sqlite3.ProgrammingError) or primary == sqlite3.SQLITE_ERROR:
        return Bug(f"cannot {action} the control database: {error} ({path})")
    return Unavailable(f"cannot {action} the control database: {error} ({path})")


class ControlDatabase:
    """The open control database; every method may be called from any thread.

    ``path``: the file, created where it does not exist (its directory must).  ``random_bytes``: where
    :attr:`instance`, the identity of this database, comes from when the file is created.  Raises Damage for a
    file that is not a control database or was written by a newer version, DiskFull and Unavailable where the
    operating system refuses.
    """

    def __init__(
        self,
        path: str,
        *,
        random_bytes: Callable[[int], bytes] = os.urandom,
        migrations: Sequence[Migration] = MIGRATIONS,
    ) -> None:
        self.path = path
        self._write_lock = threading.RLock()
        self._read_lock = threading.Lock()
        self._open_connections: list[sqlite3.Connection] = []
        try:
            self._writer = self._connect()
            self._migrate(migrations)
            self.instance = self._instance(random_bytes)
            self._reader = self._connect()
            self._reader.execute("PRAGMA query_only = ON")
        except sqlite3.Error as error:
            self.close()
            raise _refusal(error, "open", path) from error
        except BaseException:
            self.close()
            raise

    def _connect(self) -> sqlite3.Connection:
        # isolation_level=None: transactions are begun and ended here, never by the sqlite3 module.
        connection = sqlite3.connect(
            self.path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
        )
        self._open_connections.append(connection)
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA cache_size = -32768")
        return connection

    def _migrate(self, migrations: Sequence[Migration]) -> None:
        version = int(self._writer.execute("PRAGMA user_version").fetchone()[0])
        application = int(self._writer.execute("PRAGMA application_id").fetchone()[0])
        empty = not self._writer.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if not (application == APPLICATION_ID or (empty and version == 0 and application == 0)):
            raise Damage(
                f"cannot open the control database: got a database of another program "
                f"(application id {application:#010x}), want {APPLICATION_ID:#010x}",
                path=self.path,
            )
        if version > len(migrations):
            raise NewerFormat(
                f"cannot open the control database: it was written by a newer version of Tidegauge, "
                f"got schema {version}, want at most {len(migrations)}",
                path=self.path,
            )
        # The journal mode is kept in the file and cannot be changed inside a transaction.
        self._writer.execute("PRAGMA journal_mode = WAL")
        for number in range(version, len(migrations)):
            with self.transaction() as connection:
                for statement in migrations[number]:
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {number + 1}")

    def _instance(self, random_bytes: Callable[[int], bytes]) -> str:
        with self.transaction() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO meta (key, value) VALUES ('instance', ?)",
                (random_bytes(INSTANCE_BYTES).hex(),),
            )
            return str(connection.execute("SELECT value FROM meta WHERE key = 'instance'").fetchone()[0])

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Lend the writing connection for one transaction: on disk when the block ends, undone if it raises.

        Raises DiskFull, Damage or Unavailable; Bug for a transaction inside another one.
        """
        with self._write_lock:
            if not self._open_connections:
                raise Unavailable(f"cannot write to the control database: it has been closed ({self.path})")
            if self._writer.in_transaction:
                raise Bug("cannot begin a transaction of the control database: one is open in this thread")
            try:
                self._writer.execute("BEGIN IMMEDIATE")
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException as error:
                self._roll_back()
                if isinstance(error, sqlite3.Error):
                    raise _refusal(error, "write to", self.path) from error
                raise

    def _roll_back(self) -> None:
        try:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
        except sqlite3.Error:
            # SQLite rolled back by itself or the connection is closed; the first error is the one to tell.
            pass

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return what a SELECT gives, as of the last committed transaction."""
        with self._read_lock:
            try:
                return self._reader.execute(sql, parameters).fetchall()
            except sqlite3.Error as error:
                raise _refusal(error, "read", self.path) from error

    def check(self) -> list[str]:
        """Return what SQLite's checks of all pages and foreign keys find wrong: nothing when sound."""
        try:
            problems = [str(row[0]) for row in self.rows("PRAGMA integrity_check")]
            orphans = self.rows("PRAGMA foreign_key_check")
        except Damage as damage:
            return [damage.message]
        found = [problem for problem in problems if problem != "ok"]
        found += [f"{table}: row {row} names a missing row of {parent}" for table, row, parent, _ in orphans]
        return found

    def backup(self, path: str) -> None:
        """Write a consistent, compacted and synced copy to the new file ``path``; writers wait meanwhile.

        Raises BadRequest when ``path`` exists already.
        """
        if os.path.exists(path):
            raise BadRequest(f"cannot copy the control database: got {path}, which exists, want a new file")
        with self._write_lock:
            try:
                self._writer.execute("VACUUM INTO ?", (path,))
            except sqlite3.Error as error:
                raise _refusal(error, f"write a copy ({path}) of", self.path) from error
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Close the file; calling it again does nothing.  Any other call afterwards raises Unavailable."""
        with self._write_lock, self._read_lock:
            while self._open_connections:
                self._open_connections.pop().close()
