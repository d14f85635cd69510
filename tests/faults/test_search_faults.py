"""A build that is killed goes on, a torn index says so, two writers do not meet."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("faiss")
pytest.importorskip("pyarrow")

from boda.errors import BodaError
from boda.search import Index
from tests.unit.test_search import Colours

SLOW = """
import sys, time
from boda.search import Index, build
from tests.unit.test_search import Colours
build.BATCH, build.COMMIT_ROWS = 2, 4
class Slow(Colours):
    def images(self, images):
        time.sleep(0.05)
        return super().images(images)
Index.build(sys.argv[1], Slow(), sys.argv[2])
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    for number in range(120):
        Image.new("RGB", (4, 4), (2 * number, 255 - number, 40)).save(tmp_path / "pictures" / f"{number:03d}.png")
    return tmp_path / "pictures"


def test_a_killed_build_goes_on(folder, tmp_path):
    out = tmp_path / "index"
    process = subprocess.Popen([sys.executable, "-c", SLOW, folder, out], cwd=Path(__file__).parents[2])
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        if (out / "manifest.json").exists() and json.loads((out / "manifest.json").read_bytes())["version"] >= 3:
            break
        time.sleep(0.01)
    with pytest.raises(BodaError, match="another process is writing"):
        Index.build(folder, Colours(), out)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()

    half = Index.open(out, Colours())
    had = half.stats()["n"]
    assert 0 < had < 120 and not half.stats()["complete"]
    (out / "part-leftover.npy").write_bytes(b"torn")
    encoder = Colours()
    whole = Index.build(folder, encoder, out)
    assert whole.built["n"] == 120 and encoder.encoded == 120 - had, "what was committed is not read again"
    fresh = Index.build(folder, Colours(), tmp_path / "fresh")
    query = folder / "060.png"
    assert [hit.as_dict() for hit in whole.search(query, top=20)] == [hit.as_dict() for hit in fresh.search(query, top=20)]
    assert whole.stats()["complete"] and not (out / "part-leftover.npy").exists()


def test_a_torn_part_is_named(folder, tmp_path):
    Index.build(folder, Colours(), tmp_path / "index")
    part = next((tmp_path / "index").glob("part-*.npy"))
    part.write_bytes(part.read_bytes()[:200])
    with pytest.raises(BodaError, match=f"{part.name} or its .arrow is damaged"):
        Index.open(tmp_path / "index")
    part.write_bytes(b"")
    with pytest.raises(BodaError, match=f"{part.name} or its .arrow is damaged"):
        Index.open(tmp_path / "index")
    part.unlink()
    with pytest.raises(BodaError, match="is gone"):
        Index.open(tmp_path / "index")


def test_a_manifest_of_another_format_is_refused(folder, tmp_path):
    Index.build(folder, Colours(), tmp_path / "index")
    path = tmp_path / "index" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(BodaError, match="format 99"):
        Index.open(tmp_path / "index")


def test_a_picture_that_breaks_later_is_dropped_and_listed(folder, tmp_path):
    index = Index.build(folder, Colours(), tmp_path / "index")
    (folder / "003.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    index.add()
    assert (index.built["dropped"], index.built["broken"], index.stats()["broken"]) == (1, 1, 1)
    assert "003.png" in (tmp_path / "index" / "broken.jsonl").read_text()


def test_fields_that_are_no_json_are_named(folder, tmp_path):
    (folder / "007.json").write_text('["a list"]')
    with pytest.raises(BodaError, match=r"007\.json is no JSON object"):
        Index.build(folder, Colours(), tmp_path / "index", keep=["price"])
