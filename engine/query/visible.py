"""Which series exist for one statement, where its caller is limited by labels."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from engine.catalog.callers import Caller
from engine.model.matchers import Matcher
from engine.model.rows import Int32Array, Int64Array
from engine.query.sources import Visible
from engine.query.tagsets import TagStore


def visible_to(caller: Caller) -> Visible:
    """Return the matchers of a caller as they travel to the query process."""
    return tuple((each.label, each.operator, each.value) for each in caller.matchers)


def visible_tagsets(tags: TagStore, visible: Visible) -> Int32Array:
    """Return the tag sets that satisfy all matchers, ascending; each matcher is asked once for a distinct value."""
    ids = tags.all()
    for matcher in (Matcher.of(*each) for each in visible):
        texts = tags.texts(matcher.label.encode(), ids)
        verdicts = np.array([*map(matcher.accepts, texts.dictionary.to_pylist()), matcher.accepts("")], np.bool_)
        ids = ids[verdicts[positions(texts)]]
    return ids


def positions(texts: pa.DictionaryArray) -> Int64Array:
    """Return the place of each string in the dictionary, its length for NULL."""
    found: Int64Array = texts.indices.cast(pa.int64()).fill_null(len(texts.dictionary)).to_numpy()
    return found
