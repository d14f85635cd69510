"""The report's page: one HTML file that needs nothing else, no network and no script."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Sequence
from importlib.resources import files
from io import BytesIO

from boda.evaluate.figures import Run
from boda.evaluate.page.answers import worst_answers
from boda.evaluate.page.board import boards
from boda.evaluate.page.parts import Say, said, text
from boda.evaluate.page.runs import conditions, curves, remarks, speed
from boda.evaluate.page.scores import groups, scores, upstream
from boda.evaluate.words import words

LETTERS = "".join(map(chr, range(0x20, 0x7F)))

SECTIONS: dict[str, Callable[[Sequence[Run], Say], str]] = {
    "board": boards,
    "scores": scores,
    "upstream": upstream,
    "worst": worst_answers,
    "groups": groups,
    "speed": speed,
    "curves": curves,
    "remarks": remarks,
    "conditions": conditions,
}


def page(runs: Sequence[Run], language: str = "ko") -> tuple[str, list[str]]:
    """The page about the runs, and remarks for the terminal. All measured time stands in `<section id="speed">`: what is outside
    follows from the answers, to the letter."""
    say = words("page", language)
    sections = [(name, made) for name, make in SECTIONS.items() if (made := make(runs, say))]
    names = ", ".join(run.name for run in runs if run.results and not run.is_blind)
    title = next((run.board["title"] for run in runs if run.board.get("title")), say["title"])
    links = "".join(f'<li><a href="#{name}">{text(say[name])}</a></li>' for name, _ in sections)
    body = [f'<section id="{name}"><h2>{text(say[name])}</h2>{made}</section>' for name, made in sections]
    head = (
        f"<header><h1>{said(title, say)}</h1>"
        + (f'<p class="lede">{said(names, say)}</p>' if names else "")
        + f'<nav aria-label="{text(say["contents"])}"><ul>{links}</ul></nav></header>'
    )
    content = f"{head}<main>{''.join(body)}</main><footer>{text(say['made'])}</footer>"
    font, told = font_face(content + "".join(say.values()))
    style = font + files("boda.evaluate.page").joinpath("page.css").read_text(encoding="utf-8")
    top = (
        f'<!DOCTYPE html>\n<html lang="{language}"><head><meta charset="utf-8"><title>{text(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
    )
    return f"{top}<style>{style}</style></head>\n<body>{content}</body></html>\n", told


def font_face(content: str) -> tuple[str, list[str]]:
    """A rule that embeds a font with the page's Hangul, or nothing and the reason."""
    from boda.data.drawn.fonts import korean_font

    try:
        from fontTools import subset
        from fontTools.ttLib import TTFont
    except ImportError:
        return "", [
            "no font in report.html: machines without a Korean font show boxes; pip install 'boda[eval]' brings fontTools"
        ]

    font, stream = TTFont(korean_font(), fontNumber=0, recalcTimestamp=False), BytesIO()
    options = subset.Options(flavor="woff", hinting=False, notdef_outline=True, layout_features=["*"], name_IDs=[1, 2, 13])
    cutter = subset.Subsetter(options)
    cutter.populate(text=LETTERS + html.unescape(content))
    cutter.subset(font)
    font.flavor = "woff"
    font.save(stream)
    data = base64.b64encode(stream.getvalue()).decode()
    return f"@font-face{{font-family:'Boda Hangul';src:url(data:font/woff;base64,{data})format('woff')}}\n", []
