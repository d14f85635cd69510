"""Files, and files inside zip and tar archives read in place, under one name: `folder/set.zip/images/1.jpg`."""

from __future__ import annotations

import codecs
import glob
import gzip
import io
import itertools
import os
import re
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from boda.errors import WHY, BodaError, explaining

ARCHIVES = (".zip", ".tar")
COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_SNIFFED = 1 << 16


@dataclass(frozen=True)
class Place:
    """A file or folder, on disk (`member` empty) or inside an archive."""

    path: str
    member: str = ""

    @classmethod
    def of(cls, path: str | Path) -> Place:
        """The place a path names; a part of it may be an archive, as in `set.zip/images`."""
        path = Path(path)
        if str(path).endswith(COMPRESSED_TARS):
            raise BodaError(f"{path}: a compressed tar cannot be read in any order; unpack it, or pack it as .tar or .zip")
        if path.exists():
            return cls(str(path))
        for parent in path.parents:
            if parent.suffix.lower() in ARCHIVES and parent.is_file():
                return cls(str(parent), unicodedata.normalize("NFC", path.relative_to(parent).as_posix()))
        return cls(str(path))

    @property
    def is_archive(self) -> bool:
        """Whether this is a whole zip or tar, read as the folder it holds."""
        return not self.member and self.path.lower().endswith(ARCHIVES) and os.path.isfile(self.path)

    @property
    def inside(self) -> bool:
        """Whether files here are members of an archive."""
        return bool(self.member) or self.is_archive

    @property
    def is_file(self) -> bool:
        if self.member:
            return self.member in archive_index(self.path)
        return os.path.isfile(self.path) and not self.is_archive

    @property
    def is_folder(self) -> bool:
        if self.member:
            return any(name.startswith(self.member + "/") for name in archive_index(self.path))
        return os.path.isdir(self.path) or self.is_archive

    @property
    def parent(self) -> Place:
        return Place(self.path, self.member.rpartition("/")[0]) if self.member else Place(str(Path(self.path).parent))

    @property
    def suffix(self) -> str:
        """Lower-case suffix, that of `rows.csv.gz` being `.csv`."""
        return Path(str(self).removesuffix(".gz")).suffix.lower()

    def child(self, name: str) -> Place:
        """The file or folder `name` in this folder (`..` works as on disk)."""
        if not self.inside:
            return Place(os.path.join(self.path, name))
        joined = os.path.normpath(os.path.join(self.member, name)).replace(os.sep, "/")
        return Place(self.path, unicodedata.normalize("NFC", "" if joined == "." else joined))

    def files(self) -> Iterator[Place]:
        """Every file in this folder and below, in a fixed order."""
        if self.inside:
            prefix = self.member + "/" if self.member else ""
            yield from (Place(self.path, name) for name in sorted(archive_index(self.path)) if name.startswith(prefix))
            return
        for folder, folders, names in os.walk(self.path):
            folders.sort()
            yield from (Place(os.path.join(folder, name)) for name in sorted(names))

    def open(self) -> BinaryIO:
        """The file as a stream of bytes, read in constant memory; gzip is undone. Raises BodaError if it is not there."""
        with explaining(f"no file at {self}", OSError, KeyError):
            stream: Any = _open_member(self.path, self.member) if self.member else open(self.path, "rb")
        buffered: Any = io.BufferedReader(stream, _SNIFFED)
        if buffered.peek(2)[:2] == b"\x1f\x8b":
            buffered = io.BufferedReader(gzip.GzipFile(fileobj=buffered), _SNIFFED)  # type: ignore[type-var]
        return buffered

    def open_text(self, newline: str = "\n") -> TextIO:
        """The file as text with its line ends as they are: UTF-8 (with or without mark) or marked UTF-16.

        Lines end in line feeds only (Korean text has other separators inside), with newline="" at carriage returns, too.
        Single bytes that are not UTF-8 become lone surrogates, which `boda.data.rows` reports by row. Raises BodaError if the file
        as a whole is in another encoding, or no text.
        """
        stream = self.open()
        head = stream.peek(_SNIFFED)  # type: ignore[attr-defined]
        return io.TextIOWrapper(stream, encoding=_encoding(str(self), head), errors="surrogateescape", newline=newline)

    def __str__(self) -> str:
        return f"{self.path}/{self.member}" if self.member else self.path


def matching(pattern: str | Path) -> list[str]:
    """The paths that a pattern of `*`, `?`, `[...]`, `{000..041}` and `{ko,en}` stands for. Raises BodaError if only a part of a
    range is there."""
    parts = re.split(r"(\{\d+\.\.\d+\}|\{[^{},/]+,[^{}/]+\})", str(pattern))
    names = ["".join(chosen) for chosen in itertools.product(*map(_alternatives, parts))]
    found = [sorted(glob.glob(name)) if glob.has_magic(name) else [name] * os.path.exists(name) for name in names]
    missing = [name for name, paths in zip(names, found) if not paths]
    if 0 < len(missing) < len(names):
        raise BodaError(
            f"{pattern}: {len(missing)} of {len(names)} are not there, the first {missing[0]}; fetch it or name fewer"
        )
    return [path for paths in found for path in paths]


def _alternatives(part: str) -> list[str]:
    """What a part of a pattern stands for: `{08..10}` for 08, 09, 10, `{ko,en}` for ko, en, all else for itself."""
    if limits := re.fullmatch(r"\{(\d+)\.\.(\d+)\}", part):
        return [str(number).zfill(len(limits[1])) for number in range(int(limits[1]), int(limits[2]) + 1)]
    return part[1:-1].split(",") if re.fullmatch(r"\{.*,.*\}", part) else [part]


def _encoding(name: str, head: bytes) -> str:
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if b"\0" in head:
        raise BodaError(f"{name} is no text: it holds zero bytes (UTF-16 without its mark, or a binary file)")
    if not _decodes(head, "utf-8") and _decodes(head, "cp949"):
        raise BodaError(
            f"{name} is in CP949 (Korean Windows, Excel), not UTF-8; convert it: "
            f"iconv -f cp949 -t utf-8 OLD > NEW, or in Excel save as 'CSV UTF-8'"
        )
    return "utf-8-sig"


def _decodes(head: bytes, encoding: str, whole: bool = False) -> bool:
    try:
        codecs.getincrementaldecoder(encoding)().decode(head, whole)  # the head of a file may end inside a character
        return True
    except UnicodeDecodeError:
        return False


def read_member(path: str, member: str) -> bytes:
    """The bytes of one member. Safe after fork and from threads: nothing is kept open between calls.

    Raises KeyError: no such member; BodaError: it is damaged.
    """
    offset, size, method = archive_index(path)[unicodedata.normalize("NFC", member)]
    with open(path, "rb") as stream:
        if method >= 0:  # zip: the data follow a local header whose lengths may differ from the index's
            stream.seek(offset)
            name_length, extra_length = struct.unpack("<26xHH", stream.read(30))
            offset += 30 + name_length + extra_length
        stream.seek(offset)
        data = stream.read(size)
    if len(data) < size:
        raise BodaError(f"{path}!{member}: the archive is cut off; fetch it again")
    if method <= zipfile.ZIP_STORED:
        return data
    with explaining(f"{path}!{member}: damaged in the archive ({WHY}); fetch it again", zlib.error):
        return zlib.decompress(data, -zlib.MAX_WBITS)


def read_part(path: str, offset: int, size: int) -> bytes:
    """The bytes of a tar's member, by its place. Raises BodaError if no member of that size is there any more."""
    with open(path, "rb") as stream:
        stream.seek(offset - tarfile.BLOCKSIZE)
        header, data = stream.read(tarfile.BLOCKSIZE), stream.read(size)
    if len(data) < size or header[124:136].strip(b" \0").lstrip(b"0") != (b"%o" % size).lstrip(b"0"):
        raise BodaError(f"{path} is not what it was, no member of {size} bytes is at byte {offset}; prepare the data again")
    return data


def archive_index(path: str) -> dict[str, tuple[int, int, int]]:
    """{member: (offset, packed size, zip method or -1 in a tar)} of an archive; kept, as small as it can be."""
    said = f"{path} is no archive that can be read ({WHY}); fetch it again"
    with explaining(said, OSError, zipfile.BadZipFile, tarfile.TarError):
        status = os.stat(path)
        return _archive_index(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=16)
def _archive_index(path: str, _changed: int, _size: int) -> dict[str, tuple[int, int, int]]:
    index: dict[str, tuple[int, int, int]] = {}
    if path.lower().endswith(".zip"):
        with zipfile.ZipFile(path) as archive:
            for entry in (each for each in archive.infolist() if not each.is_dir()):
                if entry.flag_bits & 1:
                    raise BodaError(f"{path} is encrypted; unpack it first")
                if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise BodaError(f"{path}: '{entry.filename}' is neither stored nor deflated; pack it again with plain zip")
                index[_member_name(entry)] = (entry.header_offset, entry.compress_size, entry.compress_type)
        return index
    with tarfile.open(path, "r:") as tar:
        for info in tar:
            if info.isfile():
                index[unicodedata.normalize("NFC", info.name.removeprefix("./"))] = (info.offset_data, info.size, -1)
            tar.members = []  # type: ignore[attr-defined]  # TarFile keeps every entry it has passed, a kilobyte each
    return index


def _member_name(entry: zipfile.ZipInfo) -> str:
    """A zip entry's name; Korean Windows writes CP949 without saying so, macOS writes decomposed Hangul."""
    name = entry.filename
    if not entry.flag_bits & 0x800 and not name.isascii():
        raw = name.encode("cp437")
        name = next((raw.decode(encoding) for encoding in ("utf-8", "cp949") if _decodes(raw, encoding, whole=True)), name)
    return unicodedata.normalize("NFC", name.replace("\\", "/").removeprefix("./"))


def _open_member(path: str, member: str) -> BinaryIO:
    offset, size, method = archive_index(path)[member]
    if method >= 0:
        archive = zipfile.ZipFile(path)
        return archive.open(next(entry for entry in archive.infolist() if entry.header_offset == offset))  # type: ignore[return-value]
    return io.BufferedReader(_Slice(path, offset, size))


class _Slice(io.RawIOBase):
    """The bytes [offset, offset + size) of a file as a stream of their own."""

    def __init__(self, path: str, offset: int, size: int):
        self._file = open(path, "rb")
        self._file.seek(offset)
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        data = self._file.read(min(len(buffer), self._left))
        buffer[: len(data)] = data
        self._left -= len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()
