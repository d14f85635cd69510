"""The image index through its public face, with an encoder that sees only mean colours."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("faiss")
pa = pytest.importorskip("pyarrow")

from boda.cli import app  # noqa: E402
from boda.data.sample import ImageRef  # noqa: E402
from boda.errors import BodaError  # noqa: E402
from boda.search import Hit, Index, contact_sheet, fast  # noqa: E402
from boda.search.record import Writer  # noqa: E402
from boda.search.store import Store  # noqa: E402

COLOURS = {"빨강": (230, 20, 20), "초록": (20, 200, 20), "파랑": (20, 20, 230), "노랑": (230, 220, 20), "하양": (250, 250, 250)}


class Colours:
    """The encoder's interface; a vector is a colour, a text the colour it names."""

    name, fingerprint, dim = "colours", "c0105", 8

    def __init__(self, name: str = "colours", fingerprint: str = "c0105"):
        self.name, self.fingerprint, self.encoded = name, fingerprint, 0

    def _vector(self, colour) -> np.ndarray:
        values = np.concatenate([np.asarray(colour, np.float32) / 255 - 0.5, np.full(5, 0.1, np.float32)])
        return values / np.linalg.norm(values)

    def texts(self, texts, batch=256):
        if any(not text.strip() for text in texts):
            raise BodaError("a text of spaces only")
        return np.stack([self._vector(COLOURS[text.split()[0]]) for text in texts])

    def images(self, images, batch=64):
        images = list(images)
        self.encoded += len(images)
        return np.stack([self._vector(np.asarray(each.convert("RGB")).reshape(-1, 3).mean(0)) for each in images])


def png(colour, shade: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), tuple(max(0, value - shade) for value in colour)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five pictures, a file that is none, and one in a folder below."""
    made = tmp_path / "그림"
    (made / "더").mkdir(parents=True)
    for name, colour in COLOURS.items():
        (made / f"{name}.png").write_bytes(png(colour))
    (made / "더" / "빨강2.png").write_bytes(png(COLOURS["빨강"], 9))
    (made / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    return made


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """products.parquet: two pictures of each product, their bytes in the table."""
    from pyarrow import parquet

    rows = [
        {
            "id": number,
            "title": f"{name} 가방",
            "price": 10_000 * (number + 1),
            "image": {"bytes": png(colour, shade), "path": None},
        }
        for number, (name, colour) in enumerate(COLOURS.items())
        for shade in (0, 3)
    ]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "products.parquet", row_group_size=4)
    return tmp_path / "products.parquet"


def test_a_folder_is_found_by_words_and_by_pictures(folder, tmp_path):
    told = []
    index = Index.build(folder, Colours(), tmp_path / "index", say=told.append)
    assert index.built == {"n": 6, "added": 6, "updated": 0, "unchanged": 0, "dropped": 0, "broken": 1}
    assert [hit.name for hit in index.search("빨강", top=2)] == ["빨강.png", "빨강2.png"]
    assert [hit.name for hit in index.search(folder / "파랑.png", top=1)] == ["파랑.png"]
    assert [hit.name for hit in index.search(Image.new("RGB", (4, 4), COLOURS["노랑"]), top=1)] == ["노랑.png"]
    first = index.search("하양", top=99)
    assert len(first) == 6 and first[0].score == pytest.approx(1, abs=1e-3) and first[0].image == str(folder / "하양.png")
    assert [hit.score for hit in first] == sorted((hit.score for hit in first), reverse=True)
    broken = json.loads((tmp_path / "index" / "broken.jsonl").read_text(encoding="utf-8"))
    assert broken["image"] == str(folder / "broken.jpg") and "broken.jpg" in broken["why"]


def test_again_reads_only_what_changed_and_drops_what_is_gone(folder, tmp_path):
    encoder = Colours()
    index = Index.build(folder, encoder, tmp_path / "index")
    version = index.stats()["version"]
    again = Index.build(folder, encoder, tmp_path / "index")
    assert (again.built["unchanged"], again.built["added"], encoder.encoded) == (6, 0, 6)
    assert again.stats()["version"] == version, "nothing changed, so no version is made"

    (folder / "빨강.png").unlink()
    (folder / "초록.png").write_bytes(png(COLOURS["파랑"], 2))
    shutil.copy(folder / "하양.png", folder / "하양 사본.png")
    changed = Index.build(folder, encoder, tmp_path / "index")
    assert changed.built == {"n": 6, "added": 1, "updated": 1, "unchanged": 4, "dropped": 1, "broken": 1}
    assert encoder.encoded == 7, "a copy has the vector of its original"
    assert {hit.name for hit in changed.search("파랑", top=2)} == {"파랑.png", "초록.png"}
    assert "빨강.png" not in {hit.name for hit in changed.search("빨강", top=99)}


def test_a_reader_follows_new_versions_without_opening_again(folder, tmp_path):
    reader = Index.build(folder, Colours(), tmp_path / "index")
    assert reader.search("빨강", top=1)[0].name == "빨강.png"
    (folder / "빨강.png").unlink()
    Index.open(tmp_path / "index", Colours()).add()
    assert reader.search("빨강", top=1)[0].name == "빨강2.png"


def test_an_unmounted_folder_drops_nothing(folder, tmp_path):
    index = Index.build(folder, Colours(), tmp_path / "index")
    shutil.rmtree(folder)
    folder.mkdir()
    with pytest.raises(BodaError, match="nothing was changed"):
        index.add()
    assert index.stats()["n"] == 6


def test_more_than_half_gone_is_left_out_for_good(folder, tmp_path):
    index = Index.build(folder, Colours(), tmp_path / "index")
    for name in ("빨강", "초록", "파랑", "노랑"):
        (folder / f"{name}.png").unlink()
    index.add()
    assert (index.stats()["n"], index.stats()["dropped"]) == (2, 0)
    assert {hit.name for hit in index.search("빨강")} == {"빨강2.png", "하양.png"}
    assert index.add().built["unchanged"] == 2


def test_products_are_filtered_and_grouped(shop, tmp_path):
    index = Index.build(shop, Colours(), tmp_path / "index", keep=["id", "title", "price"])
    assert index.built["n"] == 10
    hit = index.search("노랑", top=1)[0]
    assert hit.values == {"id": 3, "title": "노랑 가방", "price": 40_000} and hit.image.endswith("products.parquet[6].image")
    assert hit.as_dict()["price"] == 40_000
    assert [hit.values["id"] for hit in index.search("노랑", top=3, group_by="id")] == [3, 0, 4]
    assert all(hit.values["price"] < 30_000 for hit in index.search("노랑", where="price < 30000"))
    for where, ids in {
        "price <= 20000 and title like '%빨강%'": {0},
        "id in (1, 2) or price = 50000": {1, 2, 4},
        "not (price > 10000)": {0},
        "title <> '빨강 가방' AND id < 2": {1},
        "title is null": set(),
        "title = '초록 가방'": {1},  # decomposed Hangul
    }.items():
        assert {hit.values["id"] for hit in index.search("노랑", where=where)} == ids, where


@pytest.mark.parametrize("where", ["cost < 3", "price <", "price", "__import__('os')", "title < 3", "_key > 0", "price.x > 1"])
def test_conditions_that_cannot_be_used_say_what_can(shop, tmp_path, where):
    index = Index.build(shop, Colours(), tmp_path / "index", keep=["title", "price"])
    with pytest.raises(BodaError, match="title, price"):
        index.search("노랑", where=where)
    with pytest.raises(BodaError, match="no such column"):
        index.search("노랑", group_by="id")


def test_a_folder_of_parquet_files_may_hold_others(shop, tmp_path):
    made = tmp_path / "cloned"
    (made / "more").mkdir(parents=True)
    for name in ("a.parquet", "more/b.parquet"):
        shutil.copy(shop, made / name)
    (made / "README.md").write_text("of a hub's repository")
    assert Index.build(made, Colours(), tmp_path / "index", keep=["id"]).built["n"] == 20


def test_an_address_is_asked_every_two_seconds(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("BODA_CACHE", str(tmp_path / "cache"))
    index = Index.build(folder, Colours(), f"memory://{tmp_path.name}/index")
    asked, ask = [], index.store.manifest
    monkeypatch.setattr(index.store, "manifest", lambda: asked.append(1) or ask())
    for now, times in {100: 1, 101: 1, 103: 2, 104: 2, 106: 3}.items():
        monkeypatch.setattr("boda.search.index.time", SimpleNamespace(monotonic=lambda now=now: now))
        index.search("빨강")
        assert len(asked) == times, now


def test_a_new_price_is_kept_without_encoding_again(shop, tmp_path):
    from pyarrow import parquet

    encoder = Colours()
    index = Index.build(shop, encoder, tmp_path / "index", keep=["id", "price"])
    rows = parquet.read_table(shop).to_pylist()
    for row in rows:
        row["price"] += 5
    parquet.write_table(pa.Table.from_pylist(rows), shop)
    index.add()
    assert index.built["updated"] == 10 and encoder.encoded == 10
    assert {hit.values["price"] for hit in index.search("빨강", top=2)} == {10_005}
    assert Index.build(shop, encoder, tmp_path / "index", keep=["id", "price", "title"]).search("빨강")[0].values["title"]


def test_a_table_names_pictures_in_a_folder(folder, tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("file,price\n빨강.png,5\n더/빨강2.png,6\nmissing.png,7\n", encoding="utf-8")
    index = Index.build(folder, Colours(), tmp_path / "index", table=table, image_column="file", keep=["price"])
    assert (index.built["n"], index.built["broken"]) == (2, 1)
    assert [hit.values["price"] for hit in index.search("빨강")] == [5, 6]
    with pytest.raises(BodaError, match="no column 'cost'; it has file, price"):
        Index.build(folder, Colours(), tmp_path / "other", table=table, image_column="file", keep=["cost"])
    with pytest.raises(BodaError, match="--image-column"):
        Index.build(folder, Colours(), tmp_path / "third", table=table)


def test_tar_shards_with_fields_beside(tmp_path):
    for shard, names in enumerate((["빨강", "초록"], ["파랑"])):
        with tarfile.open(tmp_path / f"shard-{shard}.tar", "w") as tar:
            for name in names:
                for suffix, data in (("png", png(COLOURS[name])), ("json", json.dumps({"price": len(name)}).encode())):
                    info = tarfile.TarInfo(f"{name}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    index = Index.build(tmp_path / "shard-*.tar", Colours(), tmp_path / "index", keep=["price"])
    hit = index.search("파랑", top=1)[0]
    assert hit.image == f"{tmp_path}/shard-1.tar!파랑.png" and hit.values == {"price": 2.0}
    assert Index.build(tmp_path / "shard-*.tar", Colours(), tmp_path / "index").built["unchanged"] == 3


def test_a_stream_and_further_sources(folder, tmp_path):
    stream = ((ImageRef(str(folder / f"{name}.png")), {"n": place}) for place, name in enumerate(COLOURS))
    index = Index.build(stream, Colours(), tmp_path / "index")
    assert index.search("초록", top=1)[0].values == {"n": 1}
    index.add(folder / "더")
    assert index.built["added"] == 1 and index.stats()["n"] == 6
    with pytest.raises(BodaError, match="boda index add"):
        Index.build(folder, Colours(), tmp_path / "index")


def test_another_model_is_refused_by_name(folder, tmp_path):
    Index.build(folder, Colours(), tmp_path / "index")
    other = Colours("other", "07h3r")
    with pytest.raises(BodaError, match=r"made by colours \(c0105\), not by other \(07h3r\)"):
        Index.build(folder, other, tmp_path / "index")
    with pytest.raises(BodaError, match="made by colours"):
        Index.open(tmp_path / "index", other)


def test_bad_places_and_questions(folder, tmp_path):
    with pytest.raises(BodaError, match="is not there"):
        Index.open(tmp_path / "nothing")
    with pytest.raises(BodaError, match="no pictures at"):
        Index.build(tmp_path / "nothing", Colours(), tmp_path / "index")
    with pytest.raises(BodaError, match="half written"):
        Index.open(tmp_path / "index")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"nothing")
    with pytest.raises(BodaError, match="none of 1 pictures"):
        Index.build(tmp_path / "bad", Colours(), tmp_path / "index")
    with pytest.raises(BodaError, match="cannot be reached"):
        Index.open("nowhere://index")
    index = Index.build(folder, Colours(), tmp_path / "index2")
    with pytest.raises(BodaError, match="spaces"):
        index.search("  ")
    with pytest.raises(BodaError, match="at least one"):
        index.search("빨강", top=0)


def test_the_same_behind_an_address(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("BODA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("boda.search.index.LOOK_AGAIN", 0.0)
    address = f"memory://{tmp_path.name}/index"
    writer = Index.build(folder, Colours(), address)
    monkeypatch.setenv("BODA_CACHE", str(tmp_path / "another machine"))
    reader = Index.open(address, Colours())
    assert reader.search("노랑", top=1)[0].name == "노랑.png"
    (folder / "노랑.png").unlink()
    assert writer.add().built["dropped"] == 1
    assert "노랑.png" not in {hit.name for hit in reader.search("노랑", top=99)} and len(reader.search("노랑", top=99)) == 5
    stale = Writer(Store(address), {})
    (folder / "빨강.png").unlink()
    writer.add()
    with pytest.raises(BodaError, match="changed by another process"):
        stale.commit()


def clustered(number: int, dim: int = 32) -> np.ndarray:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((40, dim))[rng.integers(40, size=number)] + 0.5 * rng.standard_normal((number, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def large(tmp_path, monkeypatch):
    """An index whose 4,000 rows are many: the limits are lowered."""
    monkeypatch.setattr(fast, "EXACT", 1000)
    monkeypatch.setattr(fast, "FILTERED", 300)
    vectors = clustered(4000)
    store = Store(tmp_path / "large")
    with store.writing():
        writer = Writer(store, {"model": "x", "fingerprint": "f", "dim": 32, "sources": [], "broken": 0})

        def put(start: int, stop: int) -> None:
            rows = range(start, stop)
            pictures = [ImageRef(f"/p/{row}.jpg").to_json() for row in rows]
            numbers = {name: np.array(rows, np.int64) for name in ("_key", "_stamp", "_digest")}
            table = pa.table({"_picture": pictures, **numbers, "group": [row // 4 for row in rows], "row": list(rows)})
            writer.append(table, vectors[start:stop])

        for start in range(0, 3000, 500):
            put(start, start + 500)
        writer.commit(fast=fast.derive(store, writer.snapshot()))
        put(3000, 3100)  # compared one by one until they are many
        writer.drop(np.arange(0, 3100, 7))
        writer.commit(complete=True, fast=fast.derive(store, writer.snapshot()))
    return Index.open(tmp_path / "large"), vectors, put, writer


def test_the_fast_form_finds_what_comparing_all_finds(large):
    index, vectors, put, writer = large
    manifest = writer.manifest
    assert manifest["fast"]["rows"] == 3000 and len(manifest["parts"]) < 7 and index.stats()["form"].startswith("IVF")

    def recall(among: np.ndarray, **how) -> float:
        shares = []
        for query in clustered(4000)[::200] + 0.01:
            nearest = among[np.argsort(-(vectors[among] @ query), kind="stable")[:10]]
            found = [hit.values["row"] for hit in index.search(query, **how)]
            assert set(found) <= set(among)
            shares.append(len(set(found) & set(nearest)) / 10)
        return float(np.mean(shares))

    rows = np.arange(3100)
    alive = rows[rows % 7 != 0]
    assert recall(alive) > 0.99
    assert recall(alive[alive >= 100], where="row >= 100") > 0.99
    assert recall(alive[alive < 200], where="row < 200") == 1.0, "few rows are compared one by one"
    groups = [hit.values["group"] for hit in index.search(vectors[5], top=50, group_by="group")]
    assert len(groups) == len(set(groups)) == 50
    assert len(index.search(vectors[5], top=5000)) == len(alive)

    put(3100, 4000)
    writer.commit(fast=fast.derive(index.store, writer.snapshot()))
    assert writer.manifest["fast"]["rows"] == 4000 and writer.manifest["fast"]["trained"] == 3000, "extended, not trained again"
    assert index.search(vectors[3999], top=1)[0].values["row"] == 3999
    kept = {path.name for path in index.store.folder.glob("fast-*")}
    assert len(kept) == 2, "the version before stays for readers that are opening it"


def test_a_sheet_shows_what_was_found(folder, tmp_path):
    hits = Index.build(folder, Colours(), tmp_path / "index").search("빨강", top=6)
    (folder / "하양.png").unlink()
    path = contact_sheet(hits, tmp_path / "out" / "sheet.png", "빨강", columns=3)
    with Image.open(path) as sheet:
        colours = {sheet.getpixel((x, y)) for x in range(0, sheet.width, 8) for y in range(0, sheet.height, 8)}
    assert {COLOURS["빨강"], COLOURS["초록"]} <= colours


def test_the_commands(folder, shop, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    monkeypatch.setattr("boda.search.index.Index._load", staticmethod(lambda model: Colours()))
    run = lambda *words: CliRunner().invoke(app, [str(word) for word in words])  # noqa: E731
    out = tmp_path / "index"
    done = run("--json", "index", "build", folder, "--model", "colours", "--out", out)
    assert json.loads(done.stdout.splitlines()[-1])["n"] == 6
    assert "6 pictures" in run("index", "add", out).stdout
    assert run("index", "add", out, "--table", shop, "--image-column", "image", "--keep", "id,price").exit_code == 0
    whole = run("--json", "index", "build", "--table", shop, "--keep", "id", "--model", "colours", "--out", tmp_path / "shop")
    assert json.loads(whole.stdout.splitlines()[-1])["n"] == 10
    nothing = run("index", "build", "--model", "colours", "--out", tmp_path / "none")
    assert nothing.exit_code == 1 and "or give a --table" in nothing.output
    stats = json.loads(run("--json", "index", "stats", out).stdout)
    assert stats["n"] == 16 and stats["columns"] == ["id", "price"] and stats["complete"]
    found = json.loads(
        run("--json", "search", out, "빨강", "--top", "3", "--where", "price < 50000", "--group-by", "id").stdout
    )
    assert [hit["id"] for hit in found["hits"]] == [0, 3, 1]
    assert {"image", "score", "price"} <= set(found["hits"][0])
    shown = run("search", out, "--image", folder / "파랑.png", "--sheet", tmp_path / "s.png")
    assert "파랑.png" in shown.stdout and (tmp_path / "s.png").is_file()
    assert run("search", out).exit_code == 2 and run("search", out, " ").exit_code == 1


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("boda.search.store.find_spec", lambda name: None if name == "faiss" else name)
    with pytest.raises(BodaError, match=r"needs faiss: pip install 'boda\[search\]'"):
        Index.open(tmp_path)


def test_hits_are_plain_json():
    from datetime import date

    hit = Hit(ImageRef("a.jpg"), 0.5, {"day": date(2026, 1, 2), "price": 3, "none": None})
    assert json.loads(json.dumps(hit.as_dict())) == {
        "day": "2026-01-02",
        "price": 3,
        "none": None,
        "image": "a.jpg",
        "score": 0.5,
    }
