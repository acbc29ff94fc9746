"""`report.html`: one file that opens without a network and can neither load nor send anything.

Its content security policy allows pictures inside the file, and the one style and the one script whose
hashes it states; everything else is refused by the browser, whatever a slide or a class is called.
"""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from typing import TYPE_CHECKING

from wsi_mitosis.core import qupath, report
from wsi_mitosis.io.atomic import write_text

if TYPE_CHECKING:
    from pathlib import Path

TEMPLATES = files("wsi_mitosis.io.pages") / "templates"
COLUMNS = (
    {"title": "Slide", "kind": "text", "hint": ""},
    {"title": "Status", "kind": "text", "hint": ""},
    {"title": "Mitotic figures", "kind": "number", "hint": "all classified"},
    {"title": "Atypical", "kind": "number", "hint": ""},
    {"title": "Atypical / all", "kind": "number", "hint": "95 % interval"},
    {"title": "Atypical / typical", "kind": "number", "hint": ""},
    {"title": "Hotspot, per mm²", "kind": "number", "hint": "figures in its area"},
    {"title": "Atypical in it", "kind": "number", "hint": ""},
    {"title": "Agreement", "kind": "number", "hint": "mean"},
)


def write_report(path: Path, page: report.Page) -> None:
    """Write a page, whole or not at all."""
    write_text(path, render(page))


def render(page: report.Page) -> str:
    """The page as HTML.

    Every text is escaped by the template engine, and a name that the template does not know is an error.
    """
    from jinja2 import BaseLoader, Environment, StrictUndefined
    from markupsafe import Markup

    style, script = _style(), _text("report.js")
    environment = Environment(loader=BaseLoader(), autoescape=True, undefined=StrictUndefined)
    environment.filters |= {
        "area": report.area,
        "interval": report.interval,
        "moment": report.moment,
        "number": report.number,
        "percent": report.percent,
        "raw": lambda value: "" if value is None else repr(float(value)),
        "sum_of": lambda bar: bar.atypical + bar.typical,
    }
    template = environment.from_string(_text("report.html.j2"))
    return template.render(
        page=page,
        columns=COLUMNS,
        crop_um=report.CROP_UM,
        regions_drawn=report.REGIONS_DRAWN,
        review_shown=report.REVIEW_SHOWN,
        policy=_policy(style, script),
        style=Markup(style),  # noqa: S704 - our own files
        script=Markup(script),  # noqa: S704
    )


def _policy(style: str, script: str) -> str:
    """Source: W3C, Content Security Policy Level 3, hashes of inline elements."""
    return (
        f"default-src 'none'; img-src data:; style-src {_source(style)}; script-src {_source(script)}; "
        "base-uri 'none'; form-action 'none'"
    )


def _source(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
    return f"'sha256-{digest}'"


def _style() -> str:
    """The style sheet, in which figures have the colours that they have in QuPath."""
    colours = {**qupath.FIGURE_COLOURS, qupath.HOTSPOT_CLASS.casefold(): qupath.HOTSPOT_COLOUR}
    named = "".join(f"--{name}:rgb({r} {g} {b});" for name, (r, g, b) in colours.items())
    return f":root{{{named}}}\n{_text('report.css')}"


def _text(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")
