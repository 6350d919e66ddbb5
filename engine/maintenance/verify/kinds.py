"""Every kind of finding: how bad it is, and what the engine does about it when it is next started.

A *notice* is what a crash, an upgrade or a person may leave and nothing stored is wrong for it; everything else is
*damage*.  The command's exit code, its report and docs/operations/damage.md all come from this table.
"""

from __future__ import annotations

from dataclasses import dataclass

DAMAGE = "damage"
NOTICE = "notice"


@dataclass(frozen=True, slots=True)
class Kind:
    """``meaning``: what was found, as a clause.  ``next_start``: what opening the directory does, a sentence."""

    name: str
    severity: str
    meaning: str
    next_start: str


_REFUSES = "The engine refuses to open the directory and names the file; nothing is changed."
_SERVED = "Nothing happens by itself: stored rows are served as they are until a late sample touches their bucket."
_TIERS_REFUSED = (
    "The engine opens and takes writes; whatever needs tiers or SQL fails with a sentence that names the file, and"
    " nothing in it is changed."
)
_HOW_TO_RECOMPUTE = (
    " To have them made again as far as raw samples are kept, move rollups.duckdb away while the engine is stopped;"
    " what is older than raw samples exists only in that file."
)

KINDS = {
    kind.name: kind
    for kind in (
        # --- the log
        Kind(
            "log_torn",
            NOTICE,
            "the newest log file ends within a frame, as after a crash",
            "The tail is cut off; nothing in it was acknowledged.",
        ),
        Kind(
            "log_abandoned",
            NOTICE,
            "an older log file has the rest of an append that failed behind its last frame",
            "The rest is cut off; it was never acknowledged.",
        ),
        Kind(
            "log_damaged",
            DAMAGE,
            "bytes in a log file are not what was written",
            "A copy of the file is set aside as .damaged, the file is cut where the damage begins, frames before it and"
            " those of the next files are recovered, and readiness and the program's log say so.",
        ),
        Kind(
            "log_gap",
            DAMAGE,
            "frames that were acknowledged are missing",
            "The engine goes on without them and says on readiness and in its log which sequences are missing.",
        ),
        Kind("log_newer", DAMAGE, "a log file was written by a newer version", _REFUSES),
        Kind(
            "log_unusable",
            DAMAGE,
            "an intact frame holds what cannot be a batch of this catalogue",
            "Definitions that do not fit make the engine refuse to open the directory, by name. A frame whose rows"
            " cannot be decoded is passed over: its file is copied to .damaged, and readiness says so.",
        ),
        Kind(
            "log_set_aside",
            NOTICE,
            "a copy of a damaged log file, kept by an earlier start",
            "It is left where it is; nothing reads it. Remove it when it is not needed for a rescue.",
        ),
        Kind("log_stray", NOTICE, "a file among the log files that is not one", "It is left alone."),
        # --- the manifest and its files
        Kind(
            "manifest_damaged",
            DAMAGE,
            "a manifest file is not what was written",
            "With the other of the two newest manifests intact, that one is used and this one is renamed to .damaged;"
            " the log has what it lacks. With neither, the engine refuses to open the directory.",
        ),
        Kind(
            "manifest_missing",
            DAMAGE,
            "there is no manifest in a directory that has been used",
            "With segment files the engine refuses to open the directory; without any it begins a new manifest and"
            " replays the whole log.",
        ),
        Kind("manifest_newer", DAMAGE, "a manifest was written by a newer version", _REFUSES),
        Kind(
            "manifest_fallback",
            DAMAGE,
            "the manifest before the newest one counts",
            "Rows that only the newest one's segments had come back from the log and are sealed again.",
        ),
        Kind("temporary", NOTICE, "the rest of a write that did not finish", "It is removed."),
        Kind(
            "orphan",
            NOTICE,
            "a segment file that no manifest lists",
            "It is removed when a later manifest has passed its number, otherwise it is left for a later start.",
        ),
        Kind("stray", NOTICE, "a file among the segments that is not named like one", "It is left alone."),
        Kind(
            "segment_missing",
            DAMAGE,
            "a listed segment file is not there",
            "The engine opens and says so on readiness; queries that need its range fail with the file's name. Rows"
            " that come to its range stay in memory and in the log, its buckets stay as they are; the rest goes on.",
        ),
        Kind(
            "segment_damaged",
            DAMAGE,
            "a segment file is not what was written",
            "The engine opens; a read that meets the damage fails with the file's name, and never gives a wrong"
            " number. A wrong size is said on readiness, and so is damage that sealing meets: rows that come to its"
            " range stay in memory and in the log, its buckets stay as they are, and the rest goes on.",
        ),
        Kind("segment_newer", DAMAGE, "a segment file was written by a newer version", _REFUSES),
        Kind(
            "segment_content",
            DAMAGE,
            "a segment's checksums hold, but its rows are not what its footer, the manifest or the catalogue say",
            "Nothing happens by itself: the rows are served as they are. This is our own mistake; please report it.",
        ),
        Kind(
            "segment_names",
            DAMAGE,
            "a segment's tables, fields or tags have other names than in the catalogue",
            "The catalogue counts: queries show its names. One of the two has been replaced or damaged.",
        ),
        Kind(
            "log_and_segment_differ",
            DAMAGE,
            "rows of the log that a segment is said to hold are not in it",
            "Nothing happens by itself: the segment counts. This is our own mistake; please report it.",
        ),
        # --- the catalogue
        Kind(
            "catalogue_torn",
            NOTICE,
            "the catalogue file ends within a frame, as after a crash",
            "The tail is cut off; the log still holds its definitions.",
        ),
        Kind("catalogue_damaged", DAMAGE, "the catalogue file is not what was written", _REFUSES),
        Kind("catalogue_newer", DAMAGE, "the catalogue was written by a newer version", _REFUSES),
        Kind(
            "catalogue_lacks",
            DAMAGE,
            "segments or log name tables, fields or tag sets that the catalogue does not have",
            _REFUSES,
        ),
        # --- rollups
        Kind(
            "rollups_missing",
            DAMAGE,
            "the rollup database is not there",
            "Every tier is recomputed from the segments and the log; rows older than raw samples are lost.",
        ),
        Kind(
            "rollups_damaged",
            DAMAGE,
            "the rollup database is not what was written",
            "A file that DuckDB cannot open is renamed to .damaged, and the tiers are recomputed from the segments and"
            " the log; of a damaged log of DuckDB's only that log. Damage that shows only when a block is read makes"
            " what needs the block fail, with a sentence; parts that are to be changed are made again as far as what"
            " they were made from is kept." + _HOW_TO_RECOMPUTE,
        ),
        Kind(
            "rollups_layout",
            DAMAGE,
            "the rollup database has tables that this version does not know",
            _TIERS_REFUSED,
        ),
        Kind("rollups_newer", DAMAGE, "the rollup database was written by a newer version", _TIERS_REFUSED),
        Kind(
            "rollups_behind",
            DAMAGE,
            "the rollup database ends before the log begins, as an older copy of it does",
            "Every tier is recomputed from the segments and the log, as far as raw samples are kept.",
        ),
        Kind(
            "rollups_ahead",
            DAMAGE,
            "the rollup database includes batches that neither log nor segments have",
            "Nothing happens by itself: the end of the log has been lost, or the database is from elsewhere.",
        ),
        Kind("rollup_row_differs", DAMAGE, "a stored bucket is not its recomputation", _SERVED + _HOW_TO_RECOMPUTE),
        Kind("rollup_row_missing", DAMAGE, "a bucket that has samples is not stored", _SERVED + _HOW_TO_RECOMPUTE),
        Kind(
            "rollup_row_extra",
            DAMAGE,
            "a stored bucket has no samples, or is stored twice",
            _SERVED + _HOW_TO_RECOMPUTE,
        ),
        # --- control
        Kind("control_damaged", DAMAGE, "SQLite's checks find the control database damaged", _REFUSES),
        Kind("control_newer", DAMAGE, "the control database was written by a newer version", _REFUSES),
        # --- detection
        Kind(
            "detection_damaged",
            DAMAGE,
            "what detection has learned cannot be read",
            "The engine opens, says so, and detection learns anew; the file is replaced when it is next saved.",
        ),
        Kind(
            "detection_newer",
            DAMAGE,
            "what detection has learned was written by a newer version",
            "The engine opens, says so, and detection learns anew without saving; the file is left as it is.",
        ),
    )
}
