"""Where an index lies: a folder, or any address fsspec knows (s3://, gs://, hf://, sftp://, https:// to read)."""

from __future__ import annotations

import hashlib
import json
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path

import fsspec

from boda.errors import WHY, BodaError, explaining
from boda.files import cache_folder, one_writer, whole_file

MANIFEST = "manifest.json"


class Store:
    """Files under one address, each written once under a name of its own; only the manifest is ever replaced.

    Behind an address, files are kept in `BODA_CACHE` too, so that they are fetched once and mapped into memory from there.
    """

    def __init__(self, address: str | Path):
        if missing := [name for name in ("faiss", "pyarrow") if find_spec(name) is None]:
            raise BodaError(f"an index needs {' and '.join(missing)}: pip install 'boda[search]'")
        self.address = str(address)
        with explaining(f"{self.address} cannot be reached: {WHY}", ImportError, ValueError):  # fsspec names a missing package
            self.files, self.root = fsspec.url_to_fs(self.address)
        self.is_local = "file" in self.files.protocol
        name = hashlib.sha256(self.address.encode()).hexdigest()[:16]
        self.folder = Path(self.root) if self.is_local else cache_folder() / "search" / name

    def manifest(self) -> bytes:
        """What the manifest says now; empty where there is none."""
        try:
            return self.files.cat_file(f"{self.root}/{MANIFEST}")
        except FileNotFoundError:
            return b""

    def fetch(self, name: str) -> str:
        """A file's path on this machine. Raises FileNotFoundError."""
        path = self.folder / name
        if not path.exists() and not self.is_local:
            with whole_file(path, is_shared=True) as partial:
                self.files.get_file(f"{self.root}/{name}", str(partial))
        return str(path)

    def publish(self, manifest: dict, before: bytes) -> bytes:
        """Show new files, then the manifest that names them; older files go, except those of the version before.

        Raises BodaError if another process has published since `before` was read.
        """
        if self.manifest() != before:
            raise BodaError(f"{self.address} was changed by another process; run the same command again")
        names, older = files_of(manifest), files_of(json.loads(before or b"{}"))
        data = json.dumps(manifest, ensure_ascii=False, indent=1).encode()
        if self.is_local:
            with whole_file(self.folder / MANIFEST) as partial:
                partial.write_bytes(data)
        else:  # object stores show an object when it is whole
            for name in names - older:
                self.files.put_file(str(self.folder / name), f"{self.root}/{name}")
            self.files.pipe_file(f"{self.root}/{MANIFEST}", data)
        for files, folder in ((fsspec.filesystem("file"), str(self.folder)), (self.files, self.root)):
            for path in files.ls(folder, detail=False, refresh=True):
                name = path.rpartition("/")[2]
                if name.startswith(("part-", "dropped-", "fast-")) and name not in names | older:
                    files.rm_file(path)
        return data

    def writing(self) -> AbstractContextManager[None]:
        """One writer at a time."""
        return one_writer(self.folder, self.address)


def files_of(manifest: dict) -> set[str]:
    """The files that one version consists of."""
    names = {part["name"] + suffix for part in manifest.get("parts", ()) for suffix in (".npy", ".arrow")}
    return names | {name for name in (manifest.get("dropped"), (manifest.get("fast") or {}).get("name")) if name}
