"""One table as its rows show it: the columns that SQL has for it, found by name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from engine.catalog.catalog import Catalog
from engine.catalog.pooled import POOLED_TABLES
from engine.errors import BadRequest, NotFound
from engine.model.matchers import Matcher
from engine.model.rows import Int32Array
from engine.query.relations import Column, Relation, Relations
from engine.query.syntax import fold
from engine.query.tagsets import TagStore


class Columns:
    """The columns of a table after ``time``, by name."""

    def __init__(self, table: str, columns: Sequence[Column]) -> None:
        self._table = table
        self.tags = {column.name: column for column in columns if column.key is not None}
        self.fields = {column.name: column for column in columns if column.key is None}
        self.field_ids = tuple(sorted(column.field_id for column in self.fields.values()))

    def tags_named(self, names: Sequence[str] | None) -> tuple[Column, ...]:
        """Return some of the tags, all for None; raises BadRequest for one there is not."""
        return _named(names, self.tags, f"cannot read rows of {self._table!r}: there is no tag")

    def fields_named(self, names: Sequence[str] | None) -> tuple[Column, ...]:
        """Return some of the fields, all for None; raises BadRequest for one there is not."""
        return _named(names, self.fields, f"cannot read rows of {self._table!r}: there is no field")


@dataclass(frozen=True, slots=True)
class WideTable:
    """``columns``: those that exist for the caller; ``tagset_ids`` (ascending): its tag sets that do."""

    table_id: int
    name: str
    columns: Columns
    tagset_ids: Int32Array


class WideTables:
    """The tables of one catalogue; callable from any thread."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._tags = TagStore(catalog.native)
        self._relations = Relations(catalog.native, self._tags, POOLED_TABLES)
        #: By table: its columns as everyone sees them, and the list they were made of.
        self._columns: dict[int, tuple[list[Column], Columns]] = {}

    def table(self, name: str, within: Sequence[Matcher] = ()) -> WideTable:
        """Return the table that SQL calls ``name``; raises NotFound.

        ``within``: what its tag sets must satisfy to exist; one without such a tag set does not exist.
        """
        self._tags.sync()
        relation = self._relations.by_name().get(fold(name))
        tagset_ids = None
        if relation is not None and relation.kind == "table":
            tagset_ids = self._catalog.tagset_ids(relation.table_id, within)
        if relation is None or tagset_ids is None or not len(tagset_ids):
            raise NotFound(f"cannot read rows: there is no table {name!r}{_meant(name, self._names(within))}")
        columns = self._whole(relation)
        if within:
            hidden = {
                name
                for name, column in columns.tags.items()
                if column.key is not None and not len(self._tags.texts(column.key, tagset_ids).dictionary)
            }
            shown = [column for name, column in (columns.tags | columns.fields).items() if name not in hidden]
            columns = Columns(relation.name, shown)
        return WideTable(relation.table_id, relation.name, columns, tagset_ids)

    def _whole(self, relation: Relation) -> Columns:
        listed = self._relations.columns(relation.table_id)
        known = self._columns.get(relation.table_id)
        # The list is made anew when the table has got a column.
        if known is None or known[0] is not listed:
            known = self._columns[relation.table_id] = (listed, Columns(relation.name, listed))
        return known[1]

    def texts(self, column: Column, tagset_ids: Int32Array) -> pa.DictionaryArray:
        """Return a tag's value for each tag set, null where it has none."""
        assert column.key is not None
        return self._tags.texts(column.key, np.ascontiguousarray(tagset_ids))

    def _names(self, within: Sequence[Matcher]) -> list[str]:
        return [
            relation.name
            for relation in self._relations.by_name().values()
            if relation.kind == "table" and len(self._catalog.tagset_ids(relation.table_id, within))
        ]


def _named(names: Sequence[str] | None, known: dict[str, Column], lacking: str) -> tuple[Column, ...]:
    if names is None:
        return tuple(known.values())
    for name in names:
        if name not in known:
            raise BadRequest(f"{lacking} {name!r}{_meant(name, known)}")
    return tuple(known[name] for name in names)


def _meant(name: str, known: Iterable[str]) -> str:
    """Return a hint at the name that may have been meant."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names[:5_000], n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    shown = ", ".join(names[:10])
    return f"; there are {shown}{' and others' if len(names) > 10 else ''}" if names else ""
