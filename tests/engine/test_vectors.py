"""Frozen files: the product and a reader made from the format page alone read the same, from every version."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import numpy as np
import pytest

from engine.catalog.catalog import Catalog
from engine.catalog.packing import PACKED_VERSION
from engine.catalog.tagsetfiles import open_file
from engine.detection import snapshot
from engine.detection.univariate import UnivariateDetector
from engine.disk.real import RealFileSystem
from engine.errors import Damage, NewerFormat
from engine.maintenance.detect import read_state
from engine.model.rows import Rows
from engine.query.connection import connect
from engine.rollups import schema
from engine.rollups.packs import Packs, pack_directory
from engine.rollups.store import RollupStore
from engine.segments import layout
from engine.segments.layout import SegmentMeta
from engine.segments.manifest_format import MANIFEST_FORMAT, decode_manifest
from engine.segments.reader import read_segment, verify_segment
from engine.wal.layout import VERSION as WAL_VERSION
from engine.wal.layout import encode_header
from engine.wal.payload import decode_batch
from engine.wal.reader import WalReport, read_wal
from native.catalogue import Catalogue
from native.checksum import crc32c
from native.frames import encode_frame, scan_frames
from native.tagsetfile import VERSION as TAGSETS_VERSION
from native.tagsetfile import TagsetFile
from tests.filesystems import MemoryFileSystem
from tests.oracles import columns, formats
from tests.vectors.make import HERE, VECTORS, described, described_catalogue, detector_samples, main

FS = RealFileSystem()
#: The versions that this program reads; each has a vector.
VERSIONS = {
    "wal": WAL_VERSION,
    "catalogue": PACKED_VERSION,
    "tagsets": TAGSETS_VERSION,
    "manifest": MANIFEST_FORMAT,
    "segment": layout.FORMAT_VERSION,
    "rollups": schema.LAYOUT_VERSION,
    "detectors": snapshot.VERSION,
}


def expected(name: str) -> Any:
    return json.loads((HERE / name / "expected.json").read_text())


def file_of(name: str) -> Path:
    (path,) = (path for path in (HERE / name).iterdir() if path.name != "expected.json")
    return path


def versions(name: str) -> list[str]:
    return [f"{name}/{version}" for version in range(1, VERSIONS[name] + 1)]


def same_rows(got: Any, want: Any) -> None:
    """Compare rows; a field whose cells are all absent may be missing."""
    absent = f"{columns.ABSENT_BITS:016x}"
    assert (got["tagsets"], got["times"]) == (want["tagsets"], want["times"])
    for number in got["fields"] | want["fields"]:
        nothing = [absent] * len(want["times"])
        assert got["fields"].get(number, nothing) == want["fields"].get(number, nothing), number


def test_every_version_has_a_vector_and_a_line() -> None:
    wanted = {f"{name}/{version}" for name, newest in VERSIONS.items() for version in range(1, newest + 1)}
    assert set(VECTORS) == wanted
    readme = (HERE / "README.md").read_text()
    for name in wanted:
        assert (HERE / name / "expected.json").is_file(), f"{name} is missing; frozen files are never made again"
        assert f"| `{name}` |" in readme


def test_nothing_frozen_is_written_again(capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in HERE.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    main()
    assert capsys.readouterr().out.splitlines() == [f"{name}: frozen" for name in VECTORS]
    assert all(path.read_bytes() == body for path, body in before.items())


# --- the log


@pytest.fixture
def modes(monkeypatch: pytest.MonkeyPatch) -> tuple[set[int], set[int]]:
    """Note the modes of the integer and of the float columns that the slow reader meets."""
    integers: set[int] = set()
    floats: set[int] = set()

    def noting(found: set[int], read: Callable[..., Any]) -> Callable[..., Any]:
        def noted(source: columns.Source, rows: int) -> Any:
            found.add(source.data[source.offset])
            return read(source, rows)

        return noted

    monkeypatch.setattr(columns, "unpack_integers", noting(integers, columns.unpack_integers))
    monkeypatch.setattr(columns, "unpack_floats", noting(floats, columns.unpack_floats))
    return integers, floats


def test_the_log_by_its_page(modes: tuple[set[int], set[int]]) -> None:
    assert formats.read_wal(file_of("wal/1").read_bytes()) == expected("wal/1")
    # Every mode of the page is in it.
    assert modes[0] == {0, 1, 2, 8, 0x11, 0x12, 0x14, 0x21, 0x22, 0x24, 0x31, 0x32, 0x34}
    assert modes[1] == {0x80, 0x81, *range(0x90, 0x97), 0x9F, *range(0xA0, 0xA7), 0xAF}


def test_the_log_by_the_product() -> None:
    want, report, catalogue = expected("wal/1"), WalReport(), Catalogue()
    directory = str(HERE / "wal" / "1")
    frames = []
    for frame in read_wal(FS, directory, after_sequence=4, report=report, repair=False):
        definitions, tables = decode_batch(frame.payload)
        catalogue.apply_definitions(definitions)
        content = [[table, described(rows)] for table, rows in tables]
        frames.append({"sequence": frame.sequence, "kind": frame.kind, "tables": content})
    assert report.clean
    assert frames == want["frames"]
    assert described_catalogue(catalogue) == want["definitions"]


def test_a_newer_log_is_refused_by_name(tmp_path: Path) -> None:
    file = file_of("wal/1")
    newer = tmp_path / file.name
    newer.write_bytes(encode_header(5, version=WAL_VERSION + 1) + file.read_bytes()[20:])
    with pytest.raises(NewerFormat, match=rf"written by a newer version \({newer}, offset 7\)"):
        list(read_wal(FS, str(tmp_path), after_sequence=4))


# --- the catalogue


@pytest.mark.parametrize("name", versions("catalogue"))
def test_the_catalogue_by_its_page(name: str) -> None:
    assert formats.read_catalogue(file_of(name).read_bytes()) == expected(name)


@pytest.mark.parametrize("name", versions("catalogue"))
def test_the_catalogue_by_the_product(name: str, tmp_path: Path) -> None:
    path = tmp_path / "catalog.log"
    path.write_bytes(file_of(name).read_bytes())
    catalog = Catalog(FS, str(path))
    catalog.load()
    assert described_catalogue(catalog.native) == expected(name)


def test_a_newer_catalogue_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "catalog.log"
    body = file_of("catalogue/1").read_bytes()
    kind, sequence, start, stop = scan_frames(body)[0][0]
    path.write_bytes(encode_frame(kind, sequence, [bytes([PACKED_VERSION + 1]) + body[start + 1 : stop]]))
    with pytest.raises(NewerFormat, match=rf"written by a newer version \({path}"):
        Catalog(FS, str(path)).load()


def test_a_tag_set_file_by_its_page() -> None:
    assert formats.read_tagsets(file_of("tagsets/1").read_bytes()) == (0, expected("tagsets/1")["tagsets"])


def test_a_tag_set_file_by_the_product() -> None:
    want = expected("tagsets/1")
    catalogue = Catalogue()
    catalogue.use_files([open_file(FS, str(file_of("tagsets/1")), verify=True)])
    for name in want["tables"]:
        catalogue.table(name.encode())
    for table, names in enumerate(want["fields"]):
        for name in names:
            catalogue.field(table, name.encode())
    assert described_catalogue(catalogue) == want


def test_a_newer_tag_set_file_is_refused_by_name(tmp_path: Path) -> None:
    body = bytearray(file_of("tagsets/1").read_bytes())
    body[8] = TAGSETS_VERSION + 1
    body[60:64] = crc32c(body[:60]).to_bytes(4, "little")
    path = tmp_path / file_of("tagsets/1").name
    path.write_bytes(body)
    with pytest.raises(NewerFormat, match=f"{path}"):
        open_file(FS, str(path), verify=True)


# --- detector state


@pytest.mark.parametrize("name", versions("detectors"))
def test_detector_state_by_its_page(name: str) -> None:
    kind, arrays = formats.read_detector_state(file_of(name).read_bytes())
    assert kind == "univariate"
    assert {array: sum(numbers) for array, (_, numbers) in arrays.items()} == pytest.approx(expected(name)["sums"])


@pytest.mark.parametrize("name", versions("detectors"))
def test_a_detector_goes_on_from_a_frozen_state(name: str) -> None:
    detector = UnivariateDetector.from_bytes(file_of(name).read_bytes())
    rows = expected(name).get("rows", 72 * 4)
    scores = detector.advance(*detector_samples(rows, 72 * 2, weeks=name != "detectors/1")).scores
    assert scores == pytest.approx(expected(name)["scores"], abs=2e-6)


@pytest.mark.parametrize("name", versions("detectors"))
def test_the_file_of_a_server_takes_a_frozen_state(name: str) -> None:
    block = np.frombuffer(file_of(name).read_bytes(), np.uint8)
    ids, until = np.arange(10, 14), np.full(4, 7)
    file = bytearray(snapshot.encode("detection", {"series_ids": ids, "judged_until": until, "univariate": block}))
    file[7] = int(name.partition("/")[2])
    detector, series_ids, judged_until = read_state(bytes(file), "detectors.state")
    assert detector.series == 4
    assert (series_ids.tolist(), judged_until.tolist()) == (ids.tolist(), until.tolist())
    file[7] = snapshot.VERSION + 1
    with pytest.raises(NewerFormat, match=r"detectors\.state"):
        read_state(bytes(file), "detectors.state")


# --- the manifest


@pytest.mark.parametrize("name", versions("manifest"))
def test_the_manifest_by_its_page(name: str) -> None:
    assert formats.read_manifest(file_of(name).read_bytes()) == expected(name)


@pytest.mark.parametrize("name", versions("manifest"))
def test_the_manifest_by_the_product(name: str) -> None:
    manifest = decode_manifest(file_of(name).read_bytes(), "manifest")
    want = expected(name)
    assert (manifest.version, manifest.next_sequence, manifest.wal_floor) == (
        want["version"],
        want["next_sequence"],
        want["wal_floor"],
    )
    assert json.loads(msgspec.json.encode(manifest.segments)) == want["segments"]
    assert json.loads(msgspec.json.encode(manifest.deletions)) == want.get("deletions", [])


def test_a_newer_manifest_is_refused_by_name() -> None:
    body = json.loads(file_of("manifest/1").read_bytes().splitlines()[0])
    line = json.dumps(body | {"format": MANIFEST_FORMAT + 1}).encode() + b"\n"
    with pytest.raises(NewerFormat, match=r"written by a newer version \(the manifest\)"):
        decode_manifest(line + b"crc32c %08x\n" % crc32c(line), "the manifest")


# --- segments


def placed(name: str, root: Path) -> SegmentMeta:
    """Put a frozen segment where its entry says, and return the entry."""
    meta = msgspec.json.decode(json.dumps(expected(name)["entry"]), type=SegmentMeta)
    (root / meta.file).parent.mkdir(parents=True)
    (root / meta.file).write_bytes(file_of(name).read_bytes())
    return meta


@pytest.mark.parametrize("name", versions("segment"))
def test_a_segment_by_its_page(name: str) -> None:
    want = expected(name)
    same_rows(formats.read_segment(file_of(name), want["entry"]), want["rows"])


@pytest.mark.parametrize("name", versions("segment"))
def test_a_segment_by_the_product(name: str, tmp_path: Path) -> None:
    meta = placed(name, tmp_path)
    verify_segment(FS, str(tmp_path), meta)
    rows: Rows = read_segment(FS, str(tmp_path), meta)
    same_rows(described(rows), expected(name)["rows"])


def test_a_newer_segment_is_refused_by_name(tmp_path: Path) -> None:
    meta = placed("segment/1", tmp_path)
    path = tmp_path / meta.file
    body = path.read_bytes().replace(b'{"format":1,', b'{"format":%d,' % (layout.FORMAT_VERSION + 1))
    path.write_bytes(body)
    claimed = msgspec.structs.replace(meta, footer_crc32c=crc32c(body[-meta.footer_bytes :]))
    with pytest.raises(NewerFormat, match=rf"written by a newer version \({path}\)"):
        read_segment(FS, str(tmp_path), claimed)


# --- rollups


@pytest.fixture(params=[1, 2])
def rollups(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, Any]:
    """A rollup database of each layout, and what it holds."""
    name, path = f"rollups/{request.param}", tmp_path / "rollups.duckdb"
    if request.param == 1:
        path.write_bytes(gzip.decompress(file_of(name).read_bytes()))
    else:
        with zipfile.ZipFile(file_of(name)) as archive:
            archive.extractall(tmp_path)
    return path, expected(name)


def test_the_rollups_by_their_page(rollups: tuple[Path, Any]) -> None:
    assert formats.read_rollups(rollups[0]) == rollups[1]


def test_the_rollups_by_the_product(rollups: tuple[Path, Any]) -> None:
    """Layout 1 is taken over when it is opened, with every row, and is layout 2 from then on."""
    path, want = rollups
    for _ in range(2):
        root = connect(str(path), 1 << 28, 1)
        try:
            root.execute("USE rollups")
            store = RollupStore(root, Packs(pack_directory(str(path))))
            store.initialise()
            assert store.watermark() == want["flushed_sequence"]
            for tier, summary in want["tiers"].items():
                found = store.rows(tier, -(2**62), 2**62)
                assert found.num_rows == summary["rows"]
                for name in ("count", "sum"):
                    assert sum(found[name].to_pylist()) == summary[name]
                assert [found[name][0].as_py() for name in found.schema.names] == summary["first"]
                assert [found[name][-1].as_py() for name in found.schema.names] == summary["last"]
        finally:
            root.close()
    assert formats.read_rollups(path) == want


def test_newer_rollups_are_refused_by_name(rollups: tuple[Path, Any]) -> None:
    path, _ = rollups
    with duckdb.connect(str(path)) as connection:
        connection.execute(f"UPDATE rollup_store SET layout_version = {schema.LAYOUT_VERSION + 1}")
    root = connect(str(path), 1 << 28, 1)
    try:
        root.execute("USE rollups")
        with pytest.raises(NewerFormat, match=rf"written by a newer version \(layout .*{path}"):
            RollupStore(root).initialise()
    finally:
        root.close()


# --- no bit is unprotected


def flipped(body: bytes) -> Iterator[bytes]:
    """Yield the bytes with each bit flipped in turn."""
    for at in range(len(body)):
        for bit in range(8):
            yield body[:at] + bytes([body[at] ^ (1 << bit)]) + body[at + 1 :]


def test_every_bit_of_a_log_file_is_noticed() -> None:
    fs = MemoryFileSystem()
    fs.makedirs("wal")
    path = f"wal/{file_of('wal/1').name}"
    for body in flipped(file_of("wal/1").read_bytes()):
        fs.write_file_synced(path, [body])
        report = WalReport()
        try:
            for _ in read_wal(fs, "wal", after_sequence=4, report=report, repair=False):
                pass
        except NewerFormat:
            continue
        assert report.damage or report.torn_bytes


@pytest.mark.parametrize("name", versions("manifest"))
def test_every_bit_of_a_manifest_is_noticed(name: str) -> None:
    for body in flipped(file_of(name).read_bytes()):
        with pytest.raises(Damage):
            decode_manifest(body, "manifest")


@pytest.mark.parametrize("name", versions("catalogue"))
def test_every_bit_of_the_catalogue_is_noticed(name: str) -> None:
    body = file_of(name).read_bytes()
    assert scan_frames(body)[2] == "end"
    assert all(scan_frames(other)[2] != "end" for other in flipped(body))


def test_every_bit_of_a_tag_set_file_is_noticed() -> None:
    for body in flipped(file_of("tagsets/1").read_bytes()):
        with pytest.raises(ValueError, match="tag"):
            TagsetFile(body, verify=True)


def test_every_bit_of_a_segment_is_noticed(tmp_path: Path) -> None:
    meta = placed("segment/1", tmp_path)
    fs = MemoryFileSystem()
    fs.makedirs(f"data/{meta.file}".rpartition("/")[0])
    for body in flipped(file_of("segment/1").read_bytes()):
        fs.write_file_synced(f"data/{meta.file}", [body])
        with pytest.raises(Damage):
            verify_segment(fs, "data", meta)
