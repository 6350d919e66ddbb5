"""What detection has learned, read as the next start would."""

from __future__ import annotations

from collections.abc import Callable

from engine.disk.filesystem import FileSystem
from engine.errors import Damage, NewerFormat
from engine.maintenance.detect import STATE_FILE, read_state
from engine.maintenance.subjects import SUBJECTS_FILE, read_subjects
from engine.maintenance.verify.report import Report

_READERS: dict[str, Callable[[bytes, str], object]] = {STATE_FILE: read_state, SUBJECTS_FILE: read_subjects}


def check_detection(fs: FileSystem, root: str, report: Report) -> None:
    for name, read in _READERS.items():
        path = f"{root}/{name}"
        if not fs.exists(path):
            continue
        report.progress("detector state", 0, 1)
        try:
            read(fs.read(path), path)
        except NewerFormat as error:
            report.add("detection_newer", path, error.message)
        except Damage as error:
            report.add("detection_damaged", path, error.message)
        report.checked["detector states"] += 1
