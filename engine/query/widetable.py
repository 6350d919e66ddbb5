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
from engine.query.relations import Column, Relations
from engine.query.syntax import fold
from engine.query.tagsets import TagStore


@dataclass(frozen=True, slots=True)
class WideTable:
    """``tags`` and ``fields``: its columns that exist for the caller; ``tagset_ids`` (ascending): its tag sets."""

    table_id: int
    name: str
    tags: tuple[Column, ...]
    fields: tuple[Column, ...]
    tagset_ids: Int32Array

    def tags_named(self, names: Sequence[str] | None) -> tuple[Column, ...]:
        """Return some of the tags, all for None; raises BadRequest for one there is not."""
        return self.tags if names is None else tuple(self._find(name, self.tags, "tag") for name in names)

    def fields_named(self, names: Sequence[str] | None) -> tuple[Column, ...]:
        """Return some of the fields, all for None; raises BadRequest for one there is not."""
        return self.fields if names is None else tuple(self.field(name) for name in names)

    def field(self, name: str) -> Column:
        return self._find(name, self.fields, "field")

    def _find(self, name: str, columns: Iterable[Column], kind: str) -> Column:
        known = {column.name: column for column in columns}
        if name not in known:
            raise BadRequest(f"cannot read rows of {self.name!r}: there is no {kind} {name!r}{_meant(name, known)}")
        return known[name]


class WideTables:
    """The tables of one catalogue; callable from any thread."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._tags = TagStore(catalog.native)
        self._relations = Relations(catalog.native, self._tags, POOLED_TABLES)

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
        columns = self._relations.columns(relation.table_id)
        tags = tuple(
            column
            for column in columns
            if column.key is not None and (not within or len(self._tags.texts(column.key, tagset_ids).dictionary))
        )
        fields = tuple(column for column in columns if column.key is None)
        return WideTable(relation.table_id, relation.name, tags, fields, tagset_ids)

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


def _meant(name: str, known: Iterable[str]) -> str:
    """Return a hint at the name that may have been meant."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names[:5_000], n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    shown = ", ".join(names[:10])
    return f"; there are {shown}{' and others' if len(names) > 10 else ''}" if names else ""
