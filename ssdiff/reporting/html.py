"""Reports: one HTML file with everything in it, that needs no network, no script and no other file.

Whatever comes from outside is text and is escaped here, at the one place where HTML is made; a content
security policy in the file keeps a browser from loading anything besides.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO

from PIL import Image
from torch import Tensor

from ssdiff.images.convert import png_bytes, to_pillow
from ssdiff.reporting.plots import Panel, draw_panels

_STYLE = """
:root { color-scheme: light dark; --back: #fff; --ink: #1c1e21; --soft: #5c6470; --line: #d5d9df;
  --band: #f4f6f8; --link: #0b62c4; }
@media (prefers-color-scheme: dark) {
  :root { --back: #14171b; --ink: #e6e9ed; --soft: #a0a9b5; --line: #363d46; --band: #1d2227;
    --link: #7ab8ff; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 70rem; padding: 1rem 1.25rem 4rem; background: var(--back);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 1rem 0 .25rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; padding-top: .5rem; border-top: 1px solid var(--line); }
p { max-width: 46rem; margin: .5rem 0; }
p.lead, figcaption, caption, summary { color: var(--soft); }
nav a { display: inline-block; margin-right: 1rem; padding: .3rem 0; color: var(--link); }
.scroll { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: 0 0 .4rem; }
th, td { padding: .3rem .7rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
thead th { background: var(--band); white-space: nowrap; }
tbody th { font-weight: 600; white-space: nowrap; }
td { overflow-wrap: break-word; min-width: 4rem; }
.number { text-align: right; white-space: nowrap; }
figure { margin: 1rem 0; }
figcaption { font-size: .85rem; }
img { display: block; max-width: 100%; height: auto; }
img.plot { background: #fff; border-radius: .4rem; }
img.pixels { image-rendering: pixelated; }
.strip { display: flex; flex-wrap: wrap; gap: .75rem; align-items: flex-end; }
.strip figure { margin: 0; max-width: 100%; }
summary { cursor: pointer; padding: .3rem 0; }
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
# What HTML does not allow, not even escaped.
_FORBIDDEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_PLOT = 345  # CSS pixels, width of a plot: three in a row on a wide page
_CODE = re.compile(r"`([^`]+)`")


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph; `what stands in backquotes` is shown as code."""

    text: str


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under headings; the first cell of a row names it.

    Attributes:
        caption: what it shows.
        headings: one a column.
        rows: of as many cells.
        numbers: columns of numbers, counted from 0.
        folded: show only the caption until the reader asks for more.
    """

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Sequence[int] = ()
    folded: bool = False


@dataclass(frozen=True, slots=True)
class Picture:
    """An image.

    Attributes:
        png: the file.
        size: (width, height) on the page, CSS pixels; a narrower window shrinks it.
        alt: what it shows, for those who cannot see it.
        caption: below it.
        plot: a line plot on white; otherwise pixels that stay sharp when magnified.
    """

    png: bytes
    size: tuple[int, int]
    alt: str
    caption: str = ""
    plot: bool = False


@dataclass(frozen=True, slots=True)
class Strip:
    """Pictures side by side."""

    pictures: Sequence[Picture]


Block = Text | Table | Picture | Strip


@dataclass(frozen=True, slots=True)
class Section:
    """A heading with what stands below it."""

    title: str
    blocks: Sequence[Block]


def page(title: str, lead: str, sections: Sequence[Section]) -> bytes:
    """Return the HTML file of a report.

    Args:
        title: of the page.
        lead: a line below it.
        sections: with titles that differ.

    Returns:
        UTF-8; every link is one within the page, every image is part of it.
    """
    links = "".join(f'<a href="#part-{i}">{_text(part.title)}</a>' for i, part in enumerate(sections))
    body = "".join(
        f'<section aria-labelledby="part-{i}"><h2 id="part-{i}">{_text(part.title)}</h2>'
        + "".join(map(_block, part.blocks))
        + "</section>\n"
        for i, part in enumerate(sections)
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_text(_POLICY)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n'
        f'<body>\n<header><h1>{_text(title)}</h1><p class="lead">{_text(lead)}</p>'
        f'<nav aria-label="Sections">{links}</nav></header>\n<main>\n{body}</main>\n</body>\n</html>\n'
    ).encode()


def fragment(blocks: Sequence[Block]) -> str:
    """Return blocks as HTML that stands inside another page, such as a notebook: escaped, without a style."""
    return "".join(map(_block, blocks))


def magnified(x: Tensor, zoom: int, alt: str, caption: str = "") -> Picture:
    """Return an image of which each pixel becomes a square.

    Args:
        x: (C, H, W), C 1 or 3, in [-1, 1] or uint8.
        zoom: CSS pixels a side of each pixel.
        alt: what it shows.
        caption: below it.
    """
    return Picture(png_bytes(to_pillow(x)), (zoom * x.shape[-1], zoom * x.shape[-2]), alt, caption)


def plot(panel: Panel, alt: str, caption: str = "") -> Picture:
    """Return a line plot.

    Args:
        panel: axes and curves.
        alt: what it shows.
        caption: below it.
    """
    content = draw_panels([panel])
    width, height = Image.open(BytesIO(content)).size
    return Picture(content, (_PLOT, _PLOT * height // width), alt, caption, plot=True)


def _text(text: str) -> str:
    return escape(_FORBIDDEN.sub("\ufffd", text))


def _block(block: Block) -> str:
    match block:
        case Text(text):
            marked = _CODE.sub(r"<code>\1</code>", _text(text))
            return f"<p>{marked}</p>\n"
        case Table():
            return _table(block)
        case Strip(pictures):
            return f'<div class="strip">{"".join(map(_picture, pictures))}</div>\n'
        case Picture():
            return _picture(block)


def _picture(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode()
    width, height = picture.size
    caption = f"<figcaption>{_text(picture.caption)}</figcaption>" if picture.caption else ""
    return (
        f'<figure><img class="{"plot" if picture.plot else "pixels"}" width="{width}" height="{height}" '
        f'alt="{_text(picture.alt)}" src="data:image/png;base64,{data}">{caption}</figure>\n'
    )


def _table(table: Table) -> str:
    head = "".join(_cell("th", i, text, table, ' scope="col"') for i, text in enumerate(table.headings))
    rows = "".join(
        "<tr>"
        + "".join(
            _cell("td", i, text, table) if i else _cell("th", i, text, table, ' scope="row"')
            for i, text in enumerate(row)
        )
        + "</tr>\n"
        for row in table.rows
    )
    # A table that is wider than a phone scrolls by itself, with the keyboard too.
    name = _text(table.caption)
    caption = "" if table.folded else f"<caption>{name}</caption>"
    whole = (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{name}"><table>{caption}'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>\n"
    )
    return f"<details><summary>{name}</summary>{whole}</details>\n" if table.folded else whole


def _cell(tag: str, column: int, text: str, table: Table, more: str = "") -> str:
    style = ' class="number"' if column in table.numbers else ""
    return f"<{tag}{style}{more}>{_text(text)}</{tag}>"
