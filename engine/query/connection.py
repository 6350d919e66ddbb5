"""DuckDB as it is opened here: locked down, in UTC, with the rollup database attached.

Statements see a database in memory by default; the rollup tiers are in :data:`ROLLUP_DATABASE`.  External access is
off, no extension can be loaded, and once :func:`lock` has been called no setting can be changed.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Iterable

import duckdb

from engine.disk.aside import name_aside
from engine.errors import Damage, NewerFormat, TidegaugeError, Unavailable
from engine.query.extensions import register_all
from engine.query.macros import create_macros
from engine.query.relations import literal
from engine.rollups.packs import Packs
from engine.rollups.store import RollupStore

#: Files stay readable for this version, so that going back to it is possible.
STORAGE_VERSION = "v1.5.0"
#: The name under which the rollup database is attached; everything else lives in the unnamed database in memory.
ROLLUP_DATABASE = "rollups"

LOG = logging.getLogger("tidegauge.rollups")

LOG_SUFFIX = ".wal"
# What DuckDB 1.5 and 2.0 say of a file that is not what they wrote, of one by a later DuckDB, and of one in use.
_DAMAGED = re.compile(r"not a valid DuckDB|[Cc]orrupt|checksum|read enough bytes|replaying WAL|WAL .*does not match")
_NEWER = re.compile(r"with version number|newer version of DuckDB|newer DuckDB")
_IN_USE = re.compile(r"[Ss]et lock|[Cc]onflicting lock")


def connect(
    path: str | None, memory_limit_bytes: int, threads: int, *, read_only: bool = False, repair: bool = False
) -> duckdb.DuckDBPyConnection:
    """Return a connection to a database in memory, with the rollup database attached and the world shut out.

    With ``read_only`` the file is not changed: what DuckDB's own log holds is read into memory only.  With ``repair`` a
    file that is damaged is renamed, and another takes its place, which is empty: the tiers can be made again.  Of a
    damaged log of DuckDB's only the log is, which leaves the database as of its last checkpoint.

    Raises Unavailable when another process has the file open or the system refuses, NewerFormat when a newer DuckDB has
    written it, Damage when it is not what was written.
    """
    try:
        return _connect(path, memory_limit_bytes, threads, read_only)
    except NewerFormat:
        raise
    except Damage as error:
        if not repair:
            raise
        for damaged in (error.path, f"{error.path}{LOG_SUFFIX}"):
            if os.path.exists(damaged):
                LOG.error("%s; renamed to %s", error.message, set_aside(damaged))
        return connect(path, memory_limit_bytes, threads, repair=error.path != path)


def set_aside(path: str) -> str:
    """Give a file a name that nothing looks for and no earlier one has, durably; return that name."""
    name = name_aside(path, os.path.exists)
    os.rename(path, name)
    directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return name


def _connect(path: str | None, memory_limit_bytes: int, threads: int, read_only: bool) -> duckdb.DuckDBPyConnection:
    config = {
        "allow_community_extensions": "false",
        "allow_persistent_secrets": "false",
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "memory_limit": f"{memory_limit_bytes}B",
        "python_enable_replacements": "false",
        "python_scan_all_frames": "false",
        # No spilling: statements end at the memory limit instead of filling the disk that samples need.
        "temp_directory": "",
        "threads": str(threads),
    }
    root = duckdb.connect(":memory:", config=config)
    try:
        root.execute(
            f"ATTACH {literal(path or ':memory:')} AS {ROLLUP_DATABASE}"
            + ("" if not path else " (READ_ONLY)" if read_only else f" (STORAGE_VERSION '{STORAGE_VERSION}')")
        )
        # After this DuckDB opens no other file, in whatever way it is asked.
        root.execute("SET enable_external_access = false")
        root.execute("SET GLOBAL TimeZone = 'UTC'")
        if duckdb.__version__.startswith("1."):
            # It hands Bloom filters to pyarrow, which its scan of Arrow data then refuses.
            root.execute("SET GLOBAL disabled_optimizers = 'join_filter_pushdown'")
    except duckdb.Error as error:
        root.close()
        raise _refusal(str(error).splitlines()[0], str(path)) from None
    return root


def _refusal(text: str, path: str) -> TidegaugeError:
    """Return the error of ours for what DuckDB says when it cannot open the file."""
    if _IN_USE.search(text):
        return Unavailable(f"cannot open rollup database {path}: another process has it open")
    if _NEWER.search(text):
        return NewerFormat(f"cannot open rollup database: a newer version of DuckDB has written it: {text}", path=path)
    if _DAMAGED.search(text):
        return Damage(f"cannot open rollup database: {text}", path=path + LOG_SUFFIX if "WAL" in text else path)
    return Unavailable(f"cannot open rollup database: {text} ({path})")


def lock(root: duckdb.DuckDBPyConnection, extensions: Iterable[str] = ()) -> None:
    """Define the functions that statements see and forbid every change of configuration from now on."""
    create_macros(root)
    register_all(root, extensions)
    root.execute("SET lock_configuration = true")


class Seat:
    """A connection to the rollup database with its store, for one thread at a time."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, packs: Packs) -> None:
        connection.execute(f"USE {ROLLUP_DATABASE}")
        self.connection = connection
        self.store = RollupStore(connection, packs)
        self.lock = threading.Lock()
        self.failed = False

    def recover(self) -> None:
        """After a failure, end the transaction that it may have left open: a ROLLBACK can run out of memory as well."""
        if not self.failed:
            return
        try:
            self.connection.execute("ROLLBACK")
        except duckdb.TransactionException as error:
            if "no transaction is active" not in str(error):
                raise
        self.failed = False
