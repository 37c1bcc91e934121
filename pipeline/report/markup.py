"""The few pieces of HTML that the page is made of; whatever is put into them is escaped."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --quiet: #5c5c5c; --line: #d5d5d5; --ground: #fff; --best: #eef5ea; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e8; --quiet: #a8a8a8; --line: #444; --ground: #181818; --best: #24331f; }
}
body { margin: 0 auto; padding: 1.5rem; max-width: 80rem; font: 16px/1.5 system-ui, sans-serif;
  color: var(--ink); background: var(--ground); }
h1 { margin: 0 0 .25rem; } h2 { margin: 2.5rem 0 .5rem; }
p, li { max-width: 48rem; } .quiet { color: var(--quiet); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .8rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .4rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top;
  white-space: nowrap; }
th { font-weight: 600; vertical-align: bottom; white-space: normal; } td.text, th.text { text-align: left; }
td.long { text-align: left; white-space: normal; overflow-wrap: anywhere; }
tr.best { background: var(--best); }
figure { margin: 1rem 0 0; overflow: hidden; padding: .25rem; background: #fff; border: 1px solid var(--line); }
"""


def page(title: str, body: Iterable[str]) -> str:
    """A whole document; ``body`` is HTML already."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def heading(text: str) -> str:
    return f"<h2>{escape(text)}</h2>"


def paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def figure(drawn: Any, name: str, *, include_plotly: bool) -> str:
    """A plotly figure; the first of a page brings the library along."""
    html = drawn.to_html(
        full_html=False,
        include_plotlyjs=include_plotly,
        div_id=name,
        auto_play=False,
        # Without showSendToCloud the picture has a button that uploads its data.
        config={"displaylogo": False, "responsive": True, "showSendToCloud": False},
    )
    return f"<figure>{html}</figure>"


def table(columns: Mapping[str, str], rows: Sequence[Sequence[str]], best: Sequence[bool] = ()) -> str:
    """A table.

    Args:
        columns: Headings, each with the kind of its cells: ``number``, ``text`` or ``long``.
        rows: Cells, a row at a time.
        best: Which rows stand out; none where it is empty.
    """
    kinds = list(columns.values())
    head = "".join(f'<th class="{_head_kind(kind)}">{escape(name)}</th>' for name, kind in columns.items())
    lines = []
    for row, stands_out in zip(rows, best or [False] * len(rows), strict=True):
        cells = "".join(f'<td class="{kind}">{escape(cell)}</td>' for cell, kind in zip(row, kinds, strict=True))
        lines.append(f'<tr class="{"best" if stands_out else ""}">{cells}</tr>')
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _head_kind(kind: str) -> str:
    return "number" if kind == "number" else "text"
