"""What ``tidegauge export`` selects, as SELECT statements over windows of time."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from engine.catalog.pooled import POOLED_TABLES
from engine.errors import BadRequest, NotFound
from engine.model.matchers import Matcher

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from api.client import SqlBatches, SqlTable

METRIC_LABEL = "__name__"
#: The condition of no row.
_NEVER = "FALSE"
#: What SQL puts behind a name that clashes with another (docs/sql.md, "Names").
_CLASH = re.compile(r"(_table|_field|_tag)?(_\d+)?$")


class Source(Protocol):
    """What answers SQL: a client of a server, or the engine in this process."""

    def sql(self, statement: str, *parameters: Any) -> SqlTable: ...

    def sql_stream(self, statement: str, *parameters: Any) -> AbstractContextManager[SqlBatches]: ...


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """The rows of one measurement: its relation in SQL, ``(column, name)`` of tags and fields, and the condition."""

    relation: str
    measurement: str
    tags: tuple[tuple[str, str], ...]
    fields: tuple[tuple[str, str], ...]
    condition: str = ""

    @property
    def impossible(self) -> bool:
        """Whether no row can satisfy it."""
        return self.condition == _NEVER

    @property
    def pooled(self) -> bool:
        return self.measurement in POOLED_TABLES

    @property
    def columns(self) -> list[str]:
        return ["time", *(column for column, _ in self.tags), *(column for column, _ in self.fields)]

    def bounds_statement(self, start_ns: int | None, end_ns: int | None) -> str:
        """Return the SELECT of the first time, the last time and the number of rows."""
        return (
            "SELECT epoch_ns(min(time)) AS first_ns, epoch_ns(max(time)) AS last_ns, count(*) AS rows"
            f" FROM {quoted(self.relation)}{self._where(start_ns, end_ns)}"
        )

    def statement(self, start_ns: int, end_ns: int, page: tuple[int, int] | None = None) -> str:
        """Return the SELECT of the rows with ``start_ns <= time < end_ns``; ``page``: so many rows, behind so many."""
        listed = ", ".join(map(quoted, self.columns))
        order = "time" if page is None else ", ".join(["time", *(quoted(column) for column, _ in self.tags)])
        limit = "" if page is None else f" LIMIT {page[0]} OFFSET {page[1]}"
        where = self._where(start_ns, end_ns)
        return f"SELECT {listed} FROM {quoted(self.relation)}{where} ORDER BY {order}{limit}"

    def _where(self, start_ns: int | None, end_ns: int | None) -> str:
        conditions = [self.condition] if self.condition else []
        if start_ns is not None:
            conditions.append(f"time >= make_timestamp_ns({start_ns})")
        if end_ns is not None:
            conditions.append(f"time < make_timestamp_ns({end_ns})")
        return f" WHERE {' AND '.join(conditions)}" if conditions else ""


def measurements(source: Source) -> list[str]:
    """Return the relations of all measurements, in the order of their names."""
    shown = source.sql("SHOW TABLES").rows()
    return [row["name"] for row in shown if row["kind"] == "measurement"]


def select(source: Source, relation: str, matchers: Sequence[Matcher]) -> Selection:
    """Return the selection of the rows of a relation that satisfy the matchers; it says where there can be none.

    Raises NotFound when there is no such measurement.
    """
    if relation not in measurements(source):
        raise NotFound(f"cannot export {relation!r}: there is no such measurement; SHOW TABLES lists them")
    described = source.sql(f"DESCRIBE {quoted(relation)}").rows()
    types = {row["column_name"]: row["column_type"] for row in described}
    tag_columns = [name for name, kind in types.items() if kind == "VARCHAR"]
    field_columns = [name for name, kind in types.items() if kind == "DOUBLE"]
    known = source.sql("SELECT DISTINCT measurement FROM metrics")["measurement"].to_pylist()
    measurement = _original(relation, known)
    listed = source.sql("SELECT DISTINCT field FROM metrics WHERE measurement = ?", measurement)
    fields = _originals(field_columns, listed["field"].to_pylist())
    if any((found := _CLASH.search(column)) and found[0] for column in tag_columns):
        statement = "SELECT DISTINCT unnest(map_keys(labels)) AS key FROM series WHERE measurement = ?"
        keys = source.sql(statement, measurement)["key"].to_pylist()
        # In a pooled table the metric's name is a tag that is not among the labels.
        tags = _originals(tag_columns, [*keys, METRIC_LABEL])
    else:
        tags = [(column, column) for column in tag_columns]
    return _narrowed(relation, measurement, tags, fields, matchers)


def _narrowed(
    relation: str,
    measurement: str,
    tags: list[tuple[str, str]],
    fields: list[tuple[str, str]],
    matchers: Sequence[Matcher],
) -> Selection:
    columns = {name: column for column, name in tags}
    conditions = []
    for matcher in matchers:
        if matcher.label == METRIC_LABEL and METRIC_LABEL not in columns:
            named = [each for each in fields if matcher.accepts(f"{measurement}_{each[1]}")]
            if not named:
                conditions = [_NEVER]
                break
            fields = named
            conditions.append("(" + " OR ".join(f"{quoted(column)} IS NOT NULL" for column, _ in fields) + ")")
        elif matcher.label in columns:
            conditions.append(_condition(quoted(columns[matcher.label]), matcher))
        elif not matcher.accepts(""):
            conditions = [_NEVER]
            break
    return Selection(
        relation=relation,
        measurement=measurement,
        tags=tuple(tags),
        fields=tuple(fields),
        condition=" AND ".join(conditions),
    )


def _condition(column: str, matcher: Matcher) -> str:
    """Return a matcher as a condition on one column; a row without the tag has the empty value."""
    value = "'" + matcher.value.replace("'", "''") + "'"
    compared = {
        "=": f"{column} = {value}",
        "!=": f"{column} <> {value}",
        "=~": f"regexp_full_match({column}, {value})",
        "!~": f"NOT regexp_full_match({column}, {value})",
    }[matcher.operator]
    return f"({column} IS NULL OR {compared})" if matcher.accepts("") else f"({compared})"


def quoted(name: str) -> str:
    """Return an identifier in double quotes."""
    return '"' + name.replace('"', '""') + '"'


def _originals(columns: Sequence[str], names: Sequence[str]) -> list[tuple[str, str]]:
    """Return each column with the name that it stands for: its own, or the one from which a clash has changed it."""
    left = set(names) - set(columns)
    found = []
    for column in columns:
        name = column if column in names else _original(column, left)
        left.discard(name)
        found.append((column, name))
    return found


def _original(shown: str, names: Collection[str]) -> str:
    if shown in names:
        return shown
    stem = _CLASH.sub("", shown).lower()
    candidates = sorted(name for name in names if name.lower() == stem)
    if not candidates:
        raise BadRequest(f"cannot tell which name {shown!r} stands for in SQL; it clashes with others")
    return candidates[0]
