"""The report's page in Chromium: no network, no sideways scroll on a phone, Hangul without Korean fonts, legible in light and dark."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from boda.evaluate.report import write_report
from tests.report_runs import bench_folder, board_folder, pictures, run_folder

pytestmark = pytest.mark.page
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
LONG = "naver-hyperclovax/HyperCLOVAX-SEED-Vision-Instruct-3B-with-a-name-that-does-not-end"
ONLY_LATIN = """<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>{folder}</dir><cachedir>{folder}/cache</cachedir></fontconfig>"""
# For each text that is seen, its colour against the nearest opaque ground behind it: WCAG's ratio, the lowest of the page.
CONTRAST = """() => {
  const pen = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const parts = colour => {
    pen.clearRect(0, 0, 1, 1); pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1); return [...pen.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map(c => (c /= 255) <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
  let lowest = [99, ''];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, words = walker.currentNode.textContent.trim();
    if (!words || !element.getClientRects().length) continue;
    let ground = element;
    while (ground && parts(getComputedStyle(ground).backgroundColor)[3] < 255) ground = ground.parentElement;
    const style = getComputedStyle(element), ink = element.closest('svg') ? style.fill : style.color;
    const [a, b] = [light(parts(ink)), light(parts(getComputedStyle(ground || document.body).backgroundColor))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < lowest[0]) lowest = [ratio, words];
  }
  return lowest;
}"""


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    place = pictures(folder)
    first = run_folder(folder / "small", place, "runs/small/model", 0.85, 1)
    others = [run_folder(folder / LONG.replace("/", "-"), place, LONG, 0.8, 2), board_folder(folder / "board", place)]
    return write_report([first, *others, bench_folder(folder / "bench")], folder / "out", quiet=True)[0]


@pytest.fixture(scope="module")
def launch() -> Iterator:
    """What starts a browser, with an environment or other options."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: install chromium to see the page")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright drives Chromium; pip install playwright")
    with playwright.sync_playwright() as started:
        yield partial(started.chromium.launch, executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture(scope="module")
def browser(launch) -> Iterator:
    found = launch()
    yield found
    found.close()


@pytest.mark.parametrize("width", [320, 375, 1280])
def test_nothing_is_fetched_no_script_runs_and_only_boxes_scroll_sideways(browser, report: Path, width: int):
    page = browser.new_page(viewport={"width": width, "height": 800})
    asked, said = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.goto(report.as_uri())
    assert page.title() == "색깔 순위표" and not said
    assert [url for url in asked if not url.startswith("data:")] == [report.as_uri()]
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    beyond = """[...document.querySelectorAll('body *')].filter(each => !each.closest('.box') && !each.closest('svg') &&
        each.getBoundingClientRect().right > innerWidth + 1).map(each => each.outerHTML.slice(0, 80))"""
    assert page.evaluate(beyond) == []
    labels = """[...document.querySelectorAll('svg')].flatMap(svg => {
        const texts = [...svg.querySelectorAll('text')].map(each => each.getBoundingClientRect());
        return texts.flatMap((a, i) => texts.slice(i + 1).filter(b => a.width && b.width &&
            a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 3 && b.top < a.bottom - 3));
    }).length"""
    assert page.evaluate(labels) == 0, "labels of a chart lie on each other"
    assert page.evaluate("[...document.images].every(each => each.complete && each.naturalWidth > 0)")
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_their_ground(browser, report: Path, scheme: str):
    page = browser.new_page(color_scheme=scheme)
    page.goto(report.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    ratio, words = page.evaluate(CONTRAST)
    assert ratio >= 4.5, words
    is_dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(251, 251, 250)"
    assert is_dark is (scheme == "dark")
    page.close()


def test_hangul_is_drawn_where_no_korean_font_is_installed(launch, report: Path, tmp_path: Path):
    """Only a font without Hangul is there; the letters come from the page."""
    matplotlib = pytest.importorskip("matplotlib", reason="its copy of DejaVu Sans is the font without Hangul")
    fonts = tmp_path / "fonts"
    fonts.mkdir()
    shutil.copy(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", fonts)
    (tmp_path / "fonts.conf").write_text(ONLY_LATIN.format(folder=fonts))
    found = launch(env={"FONTCONFIG_FILE": str(tmp_path / "fonts.conf"), "HOME": str(tmp_path)})
    page = found.new_page()
    page.goto(report.as_uri())
    page.evaluate("document.fonts.ready")
    loaded = "[...document.fonts].map(each => each.family.replaceAll('\"', '') + ' ' + each.status)"
    assert page.evaluate(loaded) == ["Boda Hangul loaded"]
    width = """family => { const pen = document.createElement('canvas').getContext('2d');
        pen.font = '40px ' + family; return pen.measureText('가').width; }"""
    assert page.evaluate(width, "'Boda Hangul'") != page.evaluate(width, "'DejaVu Sans'")
    found.close()


def test_details_open_without_a_script_and_print_in_full(browser, report: Path):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    first = page.locator("#groups details").first
    assert not first.locator("table").first.is_visible()
    first.locator("summary").click()
    assert first.locator("table").first.is_visible()
    assert len(page.pdf()) > 20_000
    context.close()
