"""What must fit before a directory is used: segments are of a known format, and the catalogue has all they name.

Definitions are on disk before the manifest names a segment that needs them (`seal.py`), so a catalogue that lacks some
has been lost, cut or replaced.  Going on would give the numbers of old tables and tag sets to new ones.
"""

from __future__ import annotations

from engine.catalog.catalog import Catalog
from engine.disk.filesystem import FileSystem
from engine.errors import Damage, NewerFormat
from engine.segments.footer import map_segment, parse_footer
from engine.segments.layout import FORMAT_VERSION, SegmentMeta
from engine.segments.manifest_format import Manifest


def check_segments(fs: FileSystem, root: str, catalog: Catalog, manifest: Manifest, path: str) -> None:
    """Raise Damage with ``path``, the catalogue's, when it lacks a table, field or tag set that a segment has.

    Tables and fields are compared for every segment, tag sets with the newest segment of each table: they are numbered
    in order of first sight, and reading every footer would take long.  Raises NewerFormat for a segment of a
    format that this version does not know.
    """
    newest: dict[int, SegmentMeta] = {}
    for meta in manifest.segments:
        if meta.format > FORMAT_VERSION:
            raise NewerFormat(
                f"cannot use segment: got format {meta.format}, want at most {FORMAT_VERSION};"
                " it was written by a newer version",
                path=f"{root}/{meta.file}",
            )
        _check_names(catalog, meta, path)
        if meta.table_id not in newest or meta.sequence > newest[meta.table_id].sequence:
            newest[meta.table_id] = meta
    for meta in newest.values():
        last = _last_tagset(fs, root, meta)
        if last >= catalog.native.tagset_count:
            raise _lacks(f"{catalog.native.tagset_count} tag sets", f"at least {last + 1}", meta, path)


def _check_names(catalog: Catalog, meta: SegmentMeta, path: str) -> None:
    tables = catalog.native.table_count
    if meta.table_id >= tables:
        raise _lacks(f"{tables} tables", f"table {meta.table_id}, {meta.table}", meta, path)
    name = catalog.table_name(meta.table_id)
    if name != meta.table:
        raise _lacks(f"{name} as table {meta.table_id}", meta.table, meta, path)
    fields = len(catalog.native.fields(meta.table_id))
    last = max((column.field_id for column in meta.columns), default=-1)
    if last >= fields:
        raise _lacks(f"{fields} fields of {name}", f"at least {last + 1}", meta, path)


def _last_tagset(fs: FileSystem, root: str, meta: SegmentMeta) -> int:
    """Return the highest tag set of a segment, -1 when its file cannot be read (which is told elsewhere)."""
    segment = f"{root}/{meta.file}"
    try:
        footer = parse_footer(segment, map_segment(fs, segment), meta)
    except Damage:
        return -1
    return int(footer.last_tagsets.max()) if len(footer.last_tagsets) else -1


def _lacks(got: str, want: str, meta: SegmentMeta, path: str) -> Damage:
    return Damage(f"cannot use catalogue: got {got}, want {want} as in {meta.file}", path=path)
