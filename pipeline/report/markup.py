"""The pieces of HTML that the page is made of; whatever is put into them is escaped."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any

from pipeline.report.theme import DARK, DARK_SCHEME, LIGHT, LIGHT_SCHEME, properties

POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline' 'unsafe-eval'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)
"""What the browser is to allow: nothing from outside of the page. Plotly compiles some of its drawing."""


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Args:
        anchor: Its name in links.
        title: Its heading.
        body: Pieces of HTML.
        within: Anchors and titles of what it holds, for the list of contents.
    """

    anchor: str
    title: str
    body: Sequence[str]
    within: Mapping[str, str] = field(default_factory=dict)

    def html(self) -> str:
        return f'<section id="{self.anchor}"><h2>{escape(self.title)}</h2>\n' + "\n".join(self.body) + "\n</section>"


def page(title: str, body: Iterable[str], *, drawn: bool) -> str:
    """A whole document.

    Args:
        title: Of the window.
        body: HTML already.
        drawn: Whether it has pictures, which need plotly's library.
    """
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_style()}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + (_drawing() if drawn else "")
        + "\n</body>\n</html>\n"
    )


def _style() -> str:
    light, dark = properties(LIGHT_SCHEME), properties(DARK_SCHEME)
    return f":root {{ {light} }} @media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n" + _asset(
        "page.css"
    )


def _drawing() -> str:
    schemes = data_script({"light": LIGHT, "dark": DARK}, 'id="schemes"')
    return f"\n{schemes}\n<script>{_plotly()}</script>\n<script>{_asset('paint.js')}</script>"


def _plotly() -> str:
    return files("plotly").joinpath("package_data", "plotly.min.js").read_text(encoding="utf-8")


@cache
def _asset(name: str) -> str:
    return files("pipeline.report").joinpath("assets", name).read_text(encoding="utf-8")


def data_script(value: Any, attributes: str = "") -> str:
    """Data for the page's script; a text is JSON already."""
    text = value if isinstance(value, str) else json.dumps(value)
    return f'<script type="application/json" {attributes}>{text.replace("<", chr(92) + "u003c")}</script>'


def contents(sections: Iterable[Section]) -> str:
    """Links to all sections and to what they hold."""
    items = []
    for section in sections:
        items.append(f'<li><a href="#{section.anchor}">{escape(section.title)}</a></li>')
        items += [
            f'<li class="within"><a href="#{anchor}">{escape(title)}</a></li>'
            for anchor, title in section.within.items()
        ]
    return f'<nav aria-label="Contents"><ul>{"".join(items)}</ul></nav>'


def heading(text: str) -> str:
    """A heading within a section."""
    return f"<h3>{escape(text)}</h3>"


def paragraph(text: str, kind: str = "") -> str:
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def bullets(lines: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def words(meanings: Mapping[str, str]) -> str:
    """Terms and what they mean."""
    return (
        '<dl class="words">'
        + "".join(f"<dt>{escape(term)}</dt><dd>{escape(meaning)}</dd>" for term, meaning in meanings.items())
        + "</dl>"
    )


def folded(title: str, *inner: str) -> str:
    """What is shown when its title is clicked; printing unfolds it."""
    return f"<details><summary>{escape(title)}</summary>" + "".join(inner) + "</details>"


def verbatim(text: str) -> str:
    return f'<pre tabindex="0">{escape(text)}</pre>'


def figure(drawn: Any, name: str, title: str, says: str) -> str:
    """A plotly figure under its heading, which the page's script draws."""
    said, least = escape(f"{title}. {says}"), (drawn.layout.meta or {}).get("min_width", 0)
    return (
        f'<div class="picture-block" id="{name}">{heading(title)}<figure><figcaption>{escape(says)}</figcaption>'
        f'<div class="frame"><div class="picture" role="img" aria-label="{said}" data-title="{escape(title)}" '
        f'style="min-width: {least}px; height: {drawn.layout.height}px"></div>{data_script(drawn.to_json())}</div>'
        "</figure></div>"
    )
