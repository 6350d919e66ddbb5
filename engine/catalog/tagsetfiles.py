"""The catalogue's tag-set files: definitions that need no memory of the process.

Each file holds the tag sets of one range of numbers and never changes.  A file that is written counts from the moment
its name is there, because the names say which ranges files hold: of several that begin with the same number the
longest counts, and whatever lies within it is a leftover of a merge that was cut short.  Format page:
docs/formats/catalogue.md.
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress

from engine.disk.filesystem import FileSystem, storage_error
from engine.errors import Damage, NewerFormat
from native.catalogue import Catalogue
from native.freezing import freeze
from native.tagsetfile import MAGIC, VERSION, TagsetFile

#: Below the data directory.
DIRECTORY = "tagsets"
#: Tag sets of one file at most.  Writing one takes about 200 bytes of memory for each.
MAX_FILE_TAGSETS = 1 << 19
_NAME = re.compile(r"tagsets-(\d{10})-(\d{10})\.tgs")


def file_name(first: int, last: int) -> str:
    """Return the name of the file of the tag sets with ``first <= number < last``."""
    return f"tagsets-{first:010d}-{last:010d}.tgs"


def open_file(fs: FileSystem, path: str, *, verify: bool) -> TagsetFile:
    """Map a file and check it; raises Damage naming it, NewerFormat, or Unavailable when it cannot be read.

    ``verify`` compares the checksum of the whole file.  Its pages are given back after the check: what is needed
    again comes from the system's page cache.
    """
    try:
        data = fs.map(path)
    except OSError as error:
        raise storage_error("read tag-set file", error, path) from error
    try:
        file = TagsetFile(data, verify=verify, path=path)
    except ValueError as error:
        if data[:8] == MAGIC and int.from_bytes(data[8:12], "little") > VERSION:
            raise NewerFormat(str(error), path=path) from None
        raise Damage(str(error), path=path) from None
    release_pages(file)
    return file


def release_pages(file: TagsetFile) -> None:
    """Take a mapped file's pages out of this process; reading it again brings them back."""
    mapped = file.source.obj
    if isinstance(mapped, mmap.mmap):
        mapped.madvise(mmap.MADV_DONTNEED)


class TagsetFiles:
    """The files of one catalogue.  One thread at a time."""

    def __init__(self, fs: FileSystem, directory: str, seed: Callable[[], int]) -> None:
        """``seed`` gives what hashes start from when there is no file yet to take it from: any 64 bits."""
        self._fs, self._directory, self._seed = fs, directory, seed
        self._replaced: list[str] = []

    def load(self, catalogue: Catalogue, *, repair: bool = True) -> None:
        """Open every file that counts and give them to an empty ``catalogue``; remove leftovers with ``repair``.

        Raises Damage for a file that is not sound, and for tag sets that no file holds although a later one does.
        """
        if not self._fs.exists(self._directory):
            return
        ranges: dict[int, int] = {}
        leftovers: list[str] = []
        for name in self._fs.listdir(self._directory):
            found = _NAME.fullmatch(name)
            if found is None:
                if name.endswith(".tmp"):
                    leftovers.append(name)
                continue
            first, last = int(found[1]), int(found[2])
            ranges[first] = max(last, ranges.get(first, 0))
        files: list[TagsetFile] = []
        covered = 0
        for first in sorted(ranges):
            if first < covered:
                continue
            if first > covered:
                raise Damage(
                    f"cannot read catalogue: got no file of the tag sets {covered} to {first}, want"
                    f" tagsets-{covered:010d}-*.tgs as a later one is there",
                    path=self._directory,
                )
            covered = ranges[first]
            file = open_file(self._fs, self._path(first, covered), verify=True)
            if (file.first, file.last) != (first, covered):
                raise Damage(
                    f"cannot read catalogue: got a file of the tag sets {file.first} to {file.last}, want those its"
                    " name says",
                    path=self._path(first, covered),
                )
            files.append(file)
        catalogue.use_files(files)
        used = {file.path for file in files}
        if not repair:
            return
        for name in self._fs.listdir(self._directory):
            path = os.path.join(self._directory, name)
            if name in leftovers or (_NAME.fullmatch(name) and path not in used):
                self._fs.remove(path)

    def freeze(self, catalogue: Catalogue, until: int) -> None:
        """Move the tag sets below ``until``, which are settled, from memory to files, and merge small files.

        A failure leaves the catalogue as it was.
        """
        self._drop_replaced()
        self._fs.makedirs(self._directory)
        files = list(catalogue.tagset_files())
        while (first := files[-1].last if files else 0) < until:
            files.append(self._write(catalogue, files, first, min(until, first + MAX_FILE_TAGSETS)))
        catalogue.use_files(files)
        while (merged := _to_merge(files)) is not None:
            start, stop = merged
            file = self._write(catalogue, files, files[start].first, files[stop - 1].last)
            # They stay until the next time: a query process may just be about to open them.
            self._replaced += [each.path for each in files[start:stop]]
            files[start:stop] = [file]
            catalogue.use_files(files)

    def _drop_replaced(self) -> None:
        while self._replaced:
            with suppress(FileNotFoundError):
                self._fs.remove(self._replaced[-1])
            self._replaced.pop()

    def _write(self, catalogue: Catalogue, files: Sequence[TagsetFile], first: int, last: int) -> TagsetFile:
        path = self._path(first, last)
        data = freeze(catalogue, first, last, files[0].seed if files else self._seed())
        self._fs.write_atomic(path, [data])
        return open_file(self._fs, path, verify=False)

    def _path(self, first: int, last: int) -> str:
        return os.path.join(self._directory, file_name(first, last))


def _to_merge(files: Sequence[TagsetFile]) -> tuple[int, int] | None:
    """Return which files, from the end, to make one: those of which none is twice as large as all after it."""
    if len(files) < 2:
        return None
    start, total = len(files) - 1, len(files[-1])
    while start > 0 and len(files[start - 1]) < 2 * total and total + len(files[start - 1]) <= MAX_FILE_TAGSETS:
        start -= 1
        total += len(files[start])
    return (start, len(files)) if start < len(files) - 1 else None
