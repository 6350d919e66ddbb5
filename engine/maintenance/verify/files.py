"""The manifest against the files that are there."""

from __future__ import annotations

from engine.disk.aside import is_aside
from engine.disk.filesystem import FileSystem
from engine.errors import Damage, NewerFormat
from engine.maintenance.verify.report import Report
from engine.segments.manifest import ManifestStore
from engine.segments.manifest_format import Manifest

_KIND_OF_FINDING = {
    "damaged": "manifest_damaged",
    "fallback": "manifest_fallback",
    "temporary": "temporary",
    "orphan": "orphan",
    "stray": "stray",
    "undeleted": "orphan",
}
_NAME = "manifest-*.json"


def check_manifest(fs: FileSystem, root: str, report: Report) -> Manifest | None:
    """Return the manifest that the next start would use, None when it would refuse."""
    names = fs.listdir(root)
    manifests = [name for name in names if name.startswith("manifest-") and name.endswith(".json")]
    store = ManifestStore(fs, root)
    try:
        manifest = store.load(repair=False)
    except NewerFormat as error:
        report.add("manifest_newer", error.path, error.message)
        return None
    except Damage as error:
        kind = "manifest_damaged" if manifests else "manifest_missing"
        report.add(kind, manifests[-1] if manifests else _NAME, error.message)
        return None
    if not manifests and (_log_files(fs, root) or "catalog.log" in names):
        report.add("manifest_missing", _NAME, "there is no manifest beside a log or a catalogue", "one, from the start")
    report.checked["manifests"] += len(manifests)
    for finding in store.findings:
        report.add(_KIND_OF_FINDING[finding.kind], finding.path, finding.message)
    for name in names:
        if name.startswith("manifest-") and is_aside(name):
            report.add("stray", f"{root}/{name}", "a damaged manifest that an earlier start has set aside")
    return manifest


def _log_files(fs: FileSystem, root: str) -> list[str]:
    return [name for name in fs.listdir(f"{root}/wal") if name.endswith(".wal")] if fs.exists(f"{root}/wal") else []
