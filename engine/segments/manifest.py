"""The manifest: which segments count, and how far the log is not needed any more (docs/formats/manifest.md).

Each change writes a whole new manifest, `manifest-<version>.json`, under a temporary name, synced, then
renamed.  The newest readable one is the truth.  The one before it is kept as a spare that is as good: every
file it lists is still there, and every row that the log has lost is in the segments it lists.  Two rules make
that so.  A file that a version no longer lists is deleted only after the *next* version is durable.  And the
log is dropped only through a floor that the spare's segments keep as well (``droppable_through``).
"""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from engine.disk.aside import name_aside
from engine.disk.filesystem import FileSystem, storage_error
from engine.errors import Bug, Damage, NewerFormat, TidegaugeError
from engine.segments.deletions import Deletion, still_needed
from engine.segments.layout import (
    FILE_SUFFIX,
    SEGMENTS_DIRECTORY,
    TEMPORARY_SUFFIX,
    SegmentMeta,
    sequence_of_file,
)
from engine.segments.manifest_format import (
    Manifest,
    decode_manifest,
    encode_manifest,
    overlap_in,
)
from engine.segments.reader import verify_segment

KEPT_MANIFESTS = 2
_NAME = re.compile(r"manifest-([0-9a-f]{16})\.json")
_TEMPORARY_NAME = re.compile(r"manifest-[0-9a-f]{16}\.json\.tmp")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about the files that a person should know.  ``kind``:

    "missing" a listed segment is not there; "damaged" a segment or manifest is not what was written; "orphan"
    a segment file that no manifest lists; "temporary" the rest of a write that did not finish; "stray" a file
    that is not ours; "fallback" the newest manifest was unreadable and the one before it took its place;
    "undeleted" a file that could not be removed.  ``removed`` says whether the file was deleted.
    """

    kind: str
    path: str
    message: str
    removed: bool = False


class ManifestStore:
    """The manifest files of one data directory.  One process writes; all methods are for any thread."""

    def __init__(self, fs: FileSystem, root: str) -> None:
        self._fs, self._root = fs, root
        self._lock = threading.RLock()
        self._current: Manifest | None = None
        self._spare: Manifest | None = None
        self._next_version = 1
        self._next_sequence = 1
        self._retired: set[str] = set()
        self._repair = True
        self.findings: list[Finding] = []

    @property
    def current(self) -> Manifest:
        """Return the newest version; raises Bug before :meth:`load`."""
        if self._current is None:
            raise Bug("cannot use the manifest: it has not been loaded")
        return self._current

    @property
    def droppable_through(self) -> int:
        """Return through which sequence the log may be dropped so that the spare manifest, too, lacks no row.

        That is the floor, unless the newest version moved it together with segments; then the floor before.
        """
        with self._lock:
            if self._spare is None or self._spare.segments == self.current.segments:
                return self.current.wal_floor
            return self._spare.wal_floor

    # --- opening

    def load(self, *, repair: bool = True) -> Manifest:
        """Read the newest manifest, tidy up after a crash, and return it; :attr:`findings` says what was
        found.

        A new data directory gets its first, empty manifest.  Without ``repair`` nothing on disk is changed, and
        the findings say what there is to tidy.  Raises Damage when manifests or segments are there but neither of
        the two newest manifests can be read, or when one was written by a newer version of the format.
        """
        with self._lock:
            self.findings = []
            self._repair = repair
            try:
                if repair:
                    self._fs.makedirs(f"{self._root}/{SEGMENTS_DIRECTORY}")
                self._load()
            except OSError as error:
                raise storage_error("open manifest", error, self._root) from error
            return self.current

    def _load(self) -> None:
        versions = self._versions()
        readable: list[Manifest] = []
        damaged: list[tuple[int, Damage]] = []
        for version in reversed(versions[-KEPT_MANIFESTS:]):
            try:
                readable.append(self._read(version))
            except NewerFormat:
                raise
            except Damage as error:
                damaged.append((version, error))
        files = list(self._segment_files())
        if not readable:
            if damaged or files:
                reasons = "; ".join(damage.message for _, damage in damaged) or "there is no manifest"
                raise Damage(f"cannot open manifest: {reasons}; {len(files)} segment files exist", path=self._root)
            if self._repair:
                self._write(Manifest(version=1))
            readable = [Manifest(version=1)]
        if self._repair:
            # Files that only the one before lists may go from now on.
            self._fs.sync_dir(self._root)
        self._current = readable[0]
        self._spare = readable[1] if len(readable) > 1 else None
        self._next_version = max([*versions, self._current.version]) + 1
        seen = [sequence for file in files if (sequence := sequence_of_file(file)) is not None]
        self._next_sequence = max([self._current.next_sequence, *(sequence + 1 for sequence in seen)])
        self._retired = set(self._spare.files() - self._current.files()) if self._spare else set()
        fell_back = any(version > self._current.version for version, _ in damaged)
        for version, damage in damaged:
            self._set_aside(version, damage)
        self._remove_temporary()
        self._tidy(files, keep_all=fell_back)

    def _versions(self) -> list[int]:
        """Return the versions of the manifest files, ascending."""
        matches = [_NAME.fullmatch(name) for name in self._fs.listdir(self._root)]
        return sorted(int(match[1], 16) for match in matches if match)

    def _set_aside(self, version: int, damage: Damage) -> None:
        """Rename an unreadable manifest, so that no later start takes it for one of the two that count."""
        path = self._manifest_path(version)
        name = name_aside(path, self._fs.exists)
        renamed = f"; renamed to {name}" if self._repair else ""
        self._find("damaged", path, f"{damage.message}{renamed}")
        if version > self.current.version:
            self._find("fallback", path, f"version {self.current.version} is used instead; the log has the rest")
        if self._repair:
            self._fs.rename(path, name)

    def _segment_files(self, suffix: str = FILE_SUFFIX) -> Iterator[str]:
        """Yield the files below the segments directory with this suffix, relative to the root."""
        if not self._fs.exists(f"{self._root}/{SEGMENTS_DIRECTORY}"):
            return
        for directory in self._fs.listdir(f"{self._root}/{SEGMENTS_DIRECTORY}"):
            try:
                names = self._fs.listdir(f"{self._root}/{SEGMENTS_DIRECTORY}/{directory}")
            except (NotADirectoryError, FileNotFoundError):
                continue
            yield from (f"{SEGMENTS_DIRECTORY}/{directory}/{name}" for name in names if name.endswith(suffix))

    def _remove_temporary(self) -> None:
        names = [name for name in self._fs.listdir(self._root) if _TEMPORARY_NAME.fullmatch(name)]
        for file in (*names, *self._segment_files(FILE_SUFFIX + TEMPORARY_SUFFIX)):
            self._remove(f"{self._root}/{file}", "temporary", "the rest of a write that did not finish")

    def _tidy(self, files: Sequence[str], *, keep_all: bool) -> None:
        """Remove orphans that are older than the manifest; report the others.

        An orphan of a sequence the manifest has passed was replaced, or given up before that version was
        written. After a fallback nothing is removed: orphans may be what the damaged manifest listed.
        """
        listed = self.current.files() | (self._spare.files() if self._spare else set())
        for file in files:
            path, sequence = f"{self._root}/{file}", sequence_of_file(file)
            if file in listed:
                continue
            if sequence is None:
                self._find("stray", path, "not named like a segment; left alone")
            elif sequence < self.current.next_sequence and not keep_all:
                self._remove(path, "orphan", "no manifest lists this segment")
            else:
                self._find(
                    "orphan",
                    path,
                    "no manifest lists this segment, but it is younger; left for a later start",
                )

    # --- changing

    def reserve_sequence(self) -> int:
        """Return the sequence for one new segment file: none that this process or any file has had."""
        with self._lock:
            sequence = self._next_sequence
            self._next_sequence += 1
            return sequence

    def commit(
        self,
        *,
        add: Sequence[SegmentMeta] = (),
        remove: Sequence[SegmentMeta] = (),
        wal_floor: int | None = None,
        deletions: Sequence[Deletion] | None = None,
    ) -> Manifest:
        """Make a new version durable and return it; the change counts as a whole or not at all.

        ``wal_floor`` says that every row with a log sequence of at most that is in the segments; how much of
        the log may go then is :attr:`droppable_through`.  ``deletions`` take the place of those there are;
        whichever are not needed any more are left out.  Without a change nothing is written.  Raises Bug
        for a change that cannot be (a segment unknown, listed twice or overlapping another, a falling floor),
        DiskFull and Unavailable when it cannot be stored; the manifest is then as before.
        """
        with self._lock:
            current = self.current
            floor = current.wal_floor if wal_floor is None else wal_floor
            if floor < current.wal_floor:
                raise Bug(f"cannot commit manifest: got log floor {floor}, want at least {current.wal_floor}")
            tables = _changed(current, add, remove) if add or remove else current.tables()
            segments = tuple(itertools.chain.from_iterable(tables.values())) if add or remove else current.segments
            kept = still_needed(current.deletions if deletions is None else deletions, segments, floor)
            if segments == current.segments and floor == current.wal_floor and kept == current.deletions:
                return current
            newest = max((meta.sequence for meta in add), default=0)
            self._next_sequence = max(self._next_sequence, newest + 1)
            manifest = Manifest(self._next_version, self._next_sequence, floor, segments, kept, tables)
            self._switch_to(manifest)
            if set(kept) - set(current.deletions):
                # The spare must know of a new deletion too, or damage to the newest manifest would undo it.
                self._switch_to(replace(manifest, version=self._next_version))
            return self.current

    def _switch_to(self, manifest: Manifest) -> None:
        # The number is spent even when writing fails: a whole file of that version may exist all the same.
        self._next_version += 1
        try:
            self._write(manifest)
        except OSError as error:
            raise storage_error("write manifest", error, self._manifest_path(manifest.version)) from error
        self._current, self._spare = manifest, self._current
        self._remove_old_manifests()
        self._delete_retired()

    def delete_file(self, meta: SegmentMeta) -> None:
        """Delete the file of a segment that is not listed any more and that nobody reads any more.

        While the spare manifest lists it, it stays until the next commit.  What cannot be deleted is reported
        in :attr:`findings` and tried again at the next commit.  Raises Bug when the segment is listed.
        """
        with self._lock:
            if meta.file in self.current.files():
                raise Bug(f"cannot delete segment file {meta.file}: the manifest lists it")
            self._retired.add(meta.file)
            self._delete_retired()

    def note_damage(self, damage: Damage) -> None:
        """Keep in :attr:`findings` what a rewriting has met in a segment, once."""
        with self._lock:
            self._find("damaged", damage.path, damage.message.removesuffix(f" ({damage.path})"))

    def _remove_old_manifests(self) -> None:
        kept = {manifest.version for manifest in (self._current, self._spare) if manifest}
        try:
            old = [version for version in self._versions() if version not in kept]
        except OSError as error:
            self._find("undeleted", self._root, f"old manifests: {error.strerror}")
            return
        for version in old:
            self._remove(self._manifest_path(version))

    def _delete_retired(self) -> None:
        spared = self._spare.files() if self._spare else set()
        for file in sorted(self._retired - spared - self.current.files()):
            if self._remove(f"{self._root}/{file}"):
                self._retired.discard(file)

    def _remove(self, path: str, kind: str = "", message: str = "no longer needed") -> bool:
        """Delete a file; report it when ``kind`` is given, and always when it cannot be deleted."""
        if not self._repair:
            self._find(kind or "undeleted", path, message)
            return False
        try:
            self._fs.remove(path)
        except FileNotFoundError:
            return True
        except OSError as error:
            self._find("undeleted", path, f"{message}: {error.strerror}")
            return False
        if kind:
            self._find(kind, path, message, removed=True)
        return True

    def _find(self, kind: str, path: str, message: str, *, removed: bool = False) -> None:
        finding = Finding(kind, path, message, removed)
        if finding not in self.findings:
            self.findings.append(finding)

    # --- one manifest file

    def _manifest_path(self, version: int) -> str:
        return f"{self._root}/manifest-{version:016x}.json"

    def _write(self, manifest: Manifest) -> None:
        self._fs.write_atomic(self._manifest_path(manifest.version), [encode_manifest(manifest)])

    def _read(self, version: int) -> Manifest:
        path = self._manifest_path(version)
        manifest = decode_manifest(self._fs.read(path), path)
        if manifest.version != version:
            raise Damage(f"cannot read manifest: got version {manifest.version}, want {version}", path=path)
        return manifest

    # --- checking

    def check(self, *, checksums: bool = False) -> list[Finding]:
        """Compare the listed segments with the files that are there; with ``checksums``, read every byte of
        them.
        """
        with self._lock:
            manifest = self.current
            known = manifest.files() | self._retired | (self._spare.files() if self._spare else set())
        findings = [
            finding
            for meta in manifest.segments
            if (finding := check_segment(self._fs, self._root, meta, checksums=checksums)) is not None
        ]
        for file in self._segment_files():
            if file not in known:
                kind = "stray" if sequence_of_file(file) is None else "orphan"
                findings.append(Finding(kind, f"{self._root}/{file}", "no manifest lists this file"))
        return findings


def check_segment(fs: FileSystem, root: str, meta: SegmentMeta, *, checksums: bool) -> Finding | None:
    """Return what is wrong with the file of a listed segment, or None."""
    path = f"{root}/{meta.file}"
    if not fs.exists(path):
        return Finding("missing", path, f"a listed segment of {meta.table} with {meta.rows} rows")
    try:
        if checksums:
            verify_segment(fs, root, meta)
        elif fs.size(path) != meta.bytes:
            return Finding("damaged", path, f"got {fs.size(path)} bytes, want {meta.bytes}")
    except (TidegaugeError, OSError) as error:
        return Finding("damaged", path, str(error))
    return None


def _changed(
    current: Manifest, add: Sequence[SegmentMeta], remove: Sequence[SegmentMeta]
) -> dict[int, tuple[SegmentMeta, ...]]:
    """Return the segments by table after a change; only tables that it touches are looked at."""
    gone = {meta.file for meta in remove}
    touched = {meta.table_id for meta in (*add, *remove)}
    unknown = gone - {meta.file for table_id in touched for meta in current.of_table(table_id)}
    if unknown:
        raise Bug(f"cannot commit manifest: {min(unknown)} is to be removed but is not listed")
    tables = current.tables()
    for table_id in touched:
        kept = [meta for meta in current.of_table(table_id) if meta.file not in gone]
        kept += [meta for meta in add if meta.table_id == table_id]
        ordered = tuple(sorted(kept, key=lambda meta: meta.start_ns))
        problem = overlap_in(ordered)
        if problem:
            raise Bug(f"cannot commit manifest: {problem}")
        tables[table_id] = ordered
    return {table_id: tables[table_id] for table_id in sorted(tables) if tables[table_id]}
