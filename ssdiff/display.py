"""Numbers and tables for people: amounts with units, and HTML for notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape


def human_bytes(count: float) -> str:
    """Return 1.5 GB and the like, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def human_seconds(seconds: float) -> str:
    """Return 12 s, 3.4 min, 5.6 h, 7.8 days."""
    for limit, unit, size in ((120.0, "s", 1.0), (7200.0, "min", 60.0), (172_800.0, "h", 3600.0)):
        if seconds < limit:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 86_400:.3g} days"


def html_table(caption: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table for a notebook; all of it is text and is escaped here.

    >>> html_table("sizes", ["image", "pixels"], [["a<b>", "64"]]).count("&lt;b&gt;")
    1
    """

    def line(tag: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(line("td", row) for row in rows)
    head = f"<caption>{escape(caption)}</caption><thead>{line('th', headings)}</thead>"
    return f"<table>{head}<tbody>{body}</tbody></table>"
