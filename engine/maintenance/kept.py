"""Which fields have increases and histograms in the tiers, by the globs of the configuration."""

from __future__ import annotations

from fnmatch import fnmatchcase

from engine.catalog.catalog import Catalog
from engine.config import Rollups


class KeptFields:
    """Chooses fields by the names of their metrics.  In a pooled table, where tag sets have the names, every field is
    a counter as soon as there are globs for counters, and none has histograms.
    """

    def __init__(self, catalog: Catalog, settings: Rollups) -> None:
        self._catalog, self._settings = catalog, settings
        self._known: dict[tuple[int, int], tuple[bool, bool]] = {}

    def __call__(self, table_id: int, field_ids: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return which of the fields are counters, and which have histograms."""
        kept = {number: self._of(table_id, number) for number in field_ids}
        counters = tuple(number for number in field_ids if kept[number][0])
        return counters, tuple(number for number in field_ids if kept[number][1])

    def _of(self, table_id: int, number: int) -> tuple[bool, bool]:
        found = self._known.get((table_id, number))
        if found is None:
            if self._catalog.is_pooled(table_id):
                found = bool(self._settings.counters), False
            else:
                metric = next(each.metric for each in self._catalog.fields(table_id) if each.field_id == number)
                counter = any(fnmatchcase(metric, glob) for glob in self._settings.counters)
                found = counter, any(fnmatchcase(metric, glob) for glob in self._settings.histograms)
            self._known[table_id, number] = found
        return found
