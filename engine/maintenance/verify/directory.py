"""One run over a data directory: the lock, the parts in their order, the report."""

from __future__ import annotations

from contextlib import ExitStack

from engine.disk.filesystem import FileSystem
from engine.disk.real import RealFileSystem
from engine.maintenance.rebuild import ROLLUP_FILE
from engine.maintenance.verify.control import check_control
from engine.maintenance.verify.definitions import Definitions
from engine.maintenance.verify.detection import check_detection
from engine.maintenance.verify.files import check_manifest
from engine.maintenance.verify.log import HELD_BYTES, Log, check_log, manifest_last
from engine.maintenance.verify.raw import RawSamples
from engine.maintenance.verify.report import Progress, Report
from engine.maintenance.verify.segments import check_segments
from engine.maintenance.verify.stored import StoredTiers, open_tiers
from engine.maintenance.verify.tiers import CELLS_AT_A_TIME, TierCheck
from engine.segments.manifest_format import Manifest
from engine.wal.layout import list_files


def verify(
    root: str,
    *,
    fs: FileSystem | None = None,
    progress: Progress | None = None,
    log_bytes: int = HELD_BYTES,
    cells_at_a_time: int = CELLS_AT_A_TIME,
) -> Report:
    """Read everything in the data directory ``root``, change nothing, and return what was found.

    ``log_bytes`` and ``cells_at_a_time`` bound the memory: rows of the log that are held, cells of one window of the
    tiers.  Raises Unavailable when an engine has the directory open or a file cannot be read.
    """
    fs = fs or RealFileSystem()
    report = Report(root) if progress is None else Report(root, progress)
    lock = fs.lock(f"{root}/LOCK")
    try:
        _run(fs, root, report, log_bytes, cells_at_a_time)
    finally:
        lock.release()
    return report


def _run(fs: FileSystem, root: str, report: Report, log_bytes: int, cells_at_a_time: int) -> None:
    check_control(root, report)
    check_detection(fs, root, report)
    manifest = check_manifest(fs, root, report)
    definitions = Definitions()
    definitions.load(fs, root, report)
    path, floor = f"{root}/{ROLLUP_FILE}", manifest.wal_floor if manifest else 0
    with ExitStack() as stack:
        stored = None
        if fs.exists(path):
            stored = stack.enter_context(open_tiers(path, report, needed=floor > 0))
        elif floor:  # up to there the tiers had everything before the log was trimmed
            report.add("rollups_missing", path, "the file is not there", f"tiers through sequence {floor}")
        watermark = None if stored is None else stored.watermark
        known = manifest or _nothing_known(fs, root)
        log = check_log(fs, f"{root}/wal", definitions, known, watermark, report, held_bytes=log_bytes)
        unusable = check_segments(fs, root, known, definitions, report)
        if manifest is None or not definitions.whole or report.counts["catalogue_lacks"]:
            return
        raw = RawSamples(fs, root, manifest, log, definitions, unusable, report)
        if stored is None or not _reaches_log(stored, manifest, log, path, report):
            raw.compare_log_with_segments(cells_at_a_time)
        else:
            TierCheck(stored, raw, log, definitions, report, cells_at_a_time).run()


def _nothing_known(fs: FileSystem, root: str) -> Manifest:
    """Return what stands in for a manifest that cannot be read: no segments, and no more of the log than there is."""
    files = list_files(fs, f"{root}/wal") if fs.exists(f"{root}/wal") else []
    return Manifest(wal_floor=files[0].first_sequence - 1 if files else 0)


def _reaches_log(stored: StoredTiers, manifest: Manifest, log: Log, path: str, report: Report) -> bool:
    """Return whether the tiers include all that the log does not hold any more; tell when they do not, or too much."""
    if stored.watermark < manifest.wal_floor:
        found = f"the tiers include sequence {stored.watermark}"
        report.add("rollups_behind", path, found, f"at least {manifest.wal_floor}, from where on the log is needed")
        return False
    last = max(log.last_sequence, manifest_last(manifest))
    if stored.watermark > last:
        report.add("rollups_ahead", path, f"the tiers include sequence {stored.watermark}", f"at most {last}")
    return True
