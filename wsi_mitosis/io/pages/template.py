"""Pages such as `report.html`: one file each, which needs no network and can neither load nor send anything.

A page's content security policy allows pictures inside the file, and the one style sheet and the one script
whose hashes it names. The browser refuses everything else, whatever the name of a slide or a class contains.
"""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from typing import TYPE_CHECKING

from wsi_mitosis.core import qupath
from wsi_mitosis.io.atomic import write_text
from wsi_mitosis.io.pages import wording
from wsi_mitosis.io.pages.limits import REGIONS_DRAWN, REVIEW_SHOWN, TREND_DAYS
from wsi_mitosis.io.pages.pictures import CROP_UM

if TYPE_CHECKING:
    from pathlib import Path

    from wsi_mitosis.io.pages.model import Page

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


def write_report(path: Path, page: Page) -> None:
    """Write a page; if it fails, an existing file is not changed."""
    write_text(path, render(page))


def render(page: Page) -> str:
    """Return the page as HTML."""
    return render_page(
        "report.html.j2",
        style=page_style("report.css"),
        script=template_text("report.js"),
        page=page,
        columns=COLUMNS,
        crop_um=CROP_UM,
        regions_drawn=REGIONS_DRAWN,
        review_shown=REVIEW_SHOWN,
        trend_days=TREND_DAYS,
    )


def render_page(template: str, *, style: str, script: str = "", **content: object) -> str:
    """Return a page as HTML, which can load and run nothing but its own style sheet and script.

    The template engine escapes every text, and a name that the page does not have raises an error.

    Args:
        template: Its file in TEMPLATES. It gets `policy`, `style` and `script`.
        style: The style sheet, a text of this package.
        script: The script, likewise; empty if the page has none.
        content: What else the template gets.
    """
    from jinja2 import BaseLoader, Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(loader=BaseLoader(), autoescape=True, undefined=StrictUndefined)
    environment.filters |= {
        **{name: getattr(wording, name) for name in ("area", "interval", "moment", "number", "percent")},
        "raw": lambda value: "" if value is None else repr(float(value)),
    }
    return environment.from_string(template_text(template)).render(
        **content,
        policy=_policy(style, script),
        style=Markup(style),  # noqa: S704 - files of this package # nosec B704
        script=Markup(script),  # noqa: S704 # nosec B704
    )


def _policy(style: str, script: str) -> str:
    """Return the policy. Source: W3C, Content Security Policy Level 3, hashes of inline elements."""
    allowed = _hash(script) if script else "'none'"
    return (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {allowed}; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
    return f"'sha256-{digest}'"


def page_style(name: str) -> str:
    """Return a style sheet, with the colours that figures and hotspots have in QuPath."""
    colours = {**qupath.FIGURE_COLOURS, qupath.HOTSPOT_CLASS.casefold(): qupath.HOTSPOT_COLOUR}
    named = "".join(f"--{label}:rgb({r} {g} {b});" for label, (r, g, b) in colours.items())
    return f":root{{{named}}}\n{template_text(name)}"


def template_text(name: str) -> str:
    """Return a file of TEMPLATES."""
    return (TEMPLATES / name).read_text(encoding="utf-8")
