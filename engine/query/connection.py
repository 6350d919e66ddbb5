"""DuckDB as it is opened here: locked down, in UTC, with the rollup database attached.

Statements see a database in memory by default; the rollup tiers are in :data:`ROLLUP_DATABASE`.  External access is
off, no extension can be loaded, and once :func:`lock` has been called no setting can be changed.
"""

from __future__ import annotations

import threading

import duckdb

from engine.errors import Damage, Unavailable
from engine.query.relations import literal
from engine.rollups.store import RollupStore

#: Files stay readable for this version, so that going back to it is possible.
STORAGE_VERSION = "v1.5.0"
#: The name under which the rollup database is attached; everything else lives in the unnamed database in memory.
ROLLUP_DATABASE = "rollups"

# The column time has no time zone and is UTC; so are the clock's functions, or the two could not be compared.
_UTC_FUNCTIONS = (
    "CREATE MACRO now() AS CAST(system.main.now() AS TIMESTAMP)",
    "CREATE MACRO get_current_timestamp() AS CAST(system.main.get_current_timestamp() AS TIMESTAMP)",
    "CREATE MACRO transaction_timestamp() AS CAST(system.main.transaction_timestamp() AS TIMESTAMP)",
    "CREATE MACRO to_timestamp(seconds) AS CAST(system.main.to_timestamp(seconds) AS TIMESTAMP)",
)


def connect(
    path: str | None, memory_limit_bytes: int, threads: int, *, read_only: bool = False
) -> duckdb.DuckDBPyConnection:
    """Return a connection to a database in memory, with the rollup database attached and the world shut out.

    With ``read_only`` the file is not changed: what DuckDB's own log holds is read into memory only.

    Raises Unavailable when another process has the file open, Damage when it is no database.
    """
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
        text = str(error).splitlines()[0]
        if "lock" in text.lower():
            raise Unavailable(f"cannot open rollup database {path}: another process has it open") from None
        raise Damage(f"cannot open rollup database: {text}", path=str(path)) from None
    return root


def lock(root: duckdb.DuckDBPyConnection) -> None:
    """Define the functions that statements see and forbid every change of configuration from now on."""
    for macro in _UTC_FUNCTIONS:
        root.execute(macro)
    root.execute("SET lock_configuration = true")


class Seat:
    """A connection to the rollup database with its store, for one thread at a time."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        connection.execute(f"USE {ROLLUP_DATABASE}")
        self.connection = connection
        self.store = RollupStore(connection)
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
