"""Keeps spreadsheets from running the cells of a CSV that this project writes.

A spreadsheet takes a cell that begins with = + - @, a tab or a line break for a formula, and names of systems, raters
and questions come from files of others. `neutral_cell` puts an apostrophe before such a text, which a spreadsheet
shows as text; `original_text` takes it off again, so that what is written is read back as it was. Numbers stay.

Source: OWASP, "CSV Injection".
"""

import re
from typing import Any

GUARD = "'"
_FORMULA = re.compile(r"[\s']*[=+\-@\uff1d\uff0b\uff0d\uff20]|'*[\t\r\n]")  # the last four are their full-width forms
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def neutral_cell(value: Any) -> Any:
    """A cell as a CSV may hold it; anything but a text that begins as a formula comes back unchanged."""
    return GUARD + value if isinstance(value, str) and _is_formula(value) else value


def original_text(cell: str) -> str:
    """The text that `neutral_cell` was given."""
    return cell[len(GUARD) :] if cell.startswith(GUARD) and _is_formula(cell[len(GUARD) :]) else cell


def _is_formula(text: str) -> bool:
    return _FORMULA.match(text) is not None and _NUMBER.fullmatch(text) is None
