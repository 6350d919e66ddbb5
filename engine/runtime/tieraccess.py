"""The tiers as the engine's range queries read them, and what is kept of them in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import pyarrow as pa

from engine.model.rows import Int64Array
from engine.query.link import QueryLink
from engine.query.tiercache import TierCache
from engine.rollups.dirty import DirtyBuckets
from engine.rollups.store import Piece


class TierAccess:
    """Reads the tiers of one engine; callable from any thread."""

    def __init__(
        self,
        link: QueryLink,
        dirty: DirtyBuckets,
        *,
        flush: Callable[[], object],
        lag: Callable[[], bool],
        cache_bytes: int,
    ) -> None:
        """``flush``: brings the tiers up to date; ``lag``: whether they have to follow more than new samples."""
        self._link, self._dirty, self._flush, self._lag = link, dirty, flush, lag
        self.cache = TierCache(link.rollup_rows, cache_bytes)

    def rows(self, tier: str, start_ns: int, end_ns: int, series_ids: Int64Array, names: Sequence[str]) -> pa.Table:
        self._flush()
        return self._link.rollup_rows(tier, start_ns, end_ns, series_ids, names)

    def unflushed(self, table_id: int, start_ns: int, end_ns: int) -> Int64Array | None:
        return None if self._lag() else self._dirty.unflushed(table_id, start_ns, end_ns)

    def flush(self) -> None:
        self._flush()

    @contextmanager
    def changing(
        self, *, flushed: Sequence[Piece] | None = None, expired: Mapping[str, int] | None = None
    ) -> Iterator[None]:
        """Forget, after what is done inside, what it changes: the buckets of pieces, those of tiers before a time (ns),
        or by default everything.

        Until then the buckets of pieces are marked, so that nobody asks the cache for them.
        """
        try:
            yield
        except BaseException:
            # What has become of them is not known, and parts that were lost may be of other times.
            self.cache.clear()
            raise
        if flushed is None and expired is None:
            self.cache.clear()
        for piece in flushed or ():
            self.cache.changed(piece.table_id, piece.pairs.buckets)
        for tier, before_ns in (expired or {}).items():
            self.cache.expired(tier, before_ns)
