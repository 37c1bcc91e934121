"""HTML documents that hold everything they need, made from the templates of this folder."""

import json
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from pipeline.report.theme import DARK, DARK_SCHEME, LIGHT, LIGHT_SCHEME, properties


def document(title: str, *, drawn: bool, template: str = "document.html", **context: Any) -> str:
    """An HTML document that loads nothing from the network. The templates escape every text.

    Documents with drawings (``drawn``) hold plotly's library (about 4 MB). The template ``document.html`` shows the
    blocks that it gets as ``content``.
    """
    plotly = files("plotly").joinpath("package_data", "plotly.min.js")
    return (
        _templates()
        .get_template(template)
        .render(
            title=title,
            light=properties(LIGHT_SCHEME),
            dark=properties(DARK_SCHEME),
            schemes=json.dumps({"light": LIGHT, "dark": DARK}),
            plotly=Markup(plotly.read_text(encoding="utf-8")) if drawn else None,
            **context,
        )
    )


@cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["script_data"] = _script_data
    return environment


def _script_data(text: str) -> Markup:
    """JSON that cannot end the ``<script>`` element that holds it."""
    return Markup(text.replace("<", r"\u003c"))
