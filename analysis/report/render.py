"""Renders the report's templates. Every value is escaped; a name that a template lacks is an error, not a blank."""

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from analysis.effects.grid import level_text
from analysis.report.figures import CURVE_HEIGHT, CURVE_WIDTH, curve_y
from analysis.report.formats import FILTERS
from analysis.report.sections import DENSE_ABOVE, run_settings
from analysis.tidy.axes import title_of
from eval.ratings.comparisons import probability
from eval.verdicts.codes import NULL_SYSTEM

PAGE_SCRIPTS = ("data", "tables", "picker", "find", "notes")  # of a report of one page, in the order in which they run
FOLDER_SCRIPTS = ("data", "tables", "find", "notes", "pair", "answers")


def render(template: str, **context: Any) -> str:
    """A template's text."""
    return environment().get_template(template).render(**context)


@cache
def environment() -> Environment:
    """The templates, with the filters and constants that they use."""
    made = Environment(
        loader=PackageLoader("analysis.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(FILTERS, axis_title=title_of, level=level_text)
    made.globals.update(
        run_settings=run_settings,
        dense_above=DENSE_ABOVE,
        control_system=NULL_SYSTEM,
        probability=probability,
        curve_y=curve_y,
        curve_width=CURVE_WIDTH,
        curve_height=CURVE_HEIGHT,
    )
    made.globals["figures"] = made.get_template("figures.html.j2").module
    return made


def inline_assets() -> dict[str, Any]:
    """Styles and script for a page that holds them, and the digest by which its policy knows the script."""
    text = script(PAGE_SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return {"style": Markup(style()), "script": Markup(text), "script_sha256": digest}  # our own files, nobody's text


def style() -> str:
    """The style sheet of all pages."""
    return _source("page.css")


def script(names: Sequence[str] = FOLDER_SCRIPTS) -> str:
    """The script of all pages; each part looks for the element that it serves."""
    return "\n".join(_source(f"scripts/{name}.js") for name in names)


def _source(name: str) -> str:
    loader = environment().loader
    assert loader is not None
    return loader.get_source(environment(), name)[0].strip()
