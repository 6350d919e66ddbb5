"""The control database, checked by SQLite on a copy: opening the file itself would change it."""

from __future__ import annotations

import os
import shutil
import tempfile

from engine.catalog.control import ControlDatabase
from engine.errors import Damage, NewerFormat
from engine.maintenance.verify.report import Report

CONTROL_FILE = "control.sqlite"


def check_control(root: str, report: Report) -> None:
    path = f"{root}/{CONTROL_FILE}"
    if not os.path.exists(path):
        return
    report.progress("control database", 0, 1)
    with tempfile.TemporaryDirectory(prefix="tidegauge-verify-") as directory:
        copy = f"{directory}/{CONTROL_FILE}"
        for suffix in ("", "-wal"):
            if os.path.exists(path + suffix):
                shutil.copyfile(path + suffix, copy + suffix)
        try:
            database = ControlDatabase(copy)
            try:
                problems = database.check()
            finally:
                database.close()
        except NewerFormat as error:
            report.add("control_newer", path, error.message.replace(copy, CONTROL_FILE))
            return
        except Damage as error:
            problems = [error.message]
    report.checked["control databases"] += 1
    for problem in problems:
        report.add("control_damaged", path, problem.replace(copy, CONTROL_FILE))
