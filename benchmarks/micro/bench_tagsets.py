"""Tag-set files: writing one, finding tag sets in it, and columns of tags read from it."""

from __future__ import annotations

import numpy as np

from benchmarks.micro_suite import Case
from native.catalogue import Catalogue
from native.freezing import freeze
from native.tagcolumns import members_with, tags_of, values_of
from native.tagsetfile import TagsetFile

TAG_SETS = 65_536


def cases() -> list[Case]:
    source = Catalogue()
    table = source.table(b"node")
    for number in range(TAG_SETS):
        source.tagset(
            table,
            [
                (b"instance", b"10.0.%d.%d:9100" % (number >> 14, number >> 6 & 255)),
                (b"cpu", b"%d" % (number % 64)),
                (b"pod", b"node-exporter-%06x" % number),
                (b"region", b"eu-west-%d" % (number % 5)),
            ],
        )
    definitions = source.definitions((0, 0, 0), source.mark())
    data = freeze(source, 0, TAG_SETS, 7)
    filed = Catalogue()
    filed.use_files([TagsetFile(data)])
    ids = np.arange(TAG_SETS, dtype=np.int32)
    if len(members_with(filed, table, b"region", b"eu-west-3", 0, TAG_SETS)) != (TAG_SETS + 1) // 5:
        raise ValueError("cannot benchmark tag sets: got another number in a region, want a fifth")
    filed.table(b"node")
    return [
        ("freeze", TAG_SETS, "tag sets", lambda: freeze(source, 0, TAG_SETS, 7)),
        ("open and check a file", TAG_SETS, "tag sets", lambda: TagsetFile(data)),
        ("known ones, found in a file", TAG_SETS, "tag sets", lambda: filed.apply_definitions(definitions)),
        (
            "with label=value",
            TAG_SETS,
            "tag sets",
            lambda: members_with(filed, 0, b"region", b"eu-west-3", 0, TAG_SETS),
        ),
        ("a column of few values", TAG_SETS, "tag sets", lambda: values_of(filed, b"region", ids)),
        ("a column of many values", TAG_SETS, "tag sets", lambda: values_of(filed, b"pod", ids)),
        ("all tags", 4 * TAG_SETS, "tags", lambda: tags_of(filed, ids)),
    ]
