"""Writes the report's numbers. A value that was not measured reads "not measured", never a number.

These are the Jinja filters of analysis/report/templates.
"""

import re
from typing import Any

NOT_MEASURED = "not measured"
MAX_PLAIN = 1e9  # larger numbers are read more easily as a power of ten
FIRST_PRINTABLE = 0x20
CONTROL_PICTURES = 0x2400  # U+2400 is the picture of NUL, and so on up
_PICTURES = {code: CONTROL_PICTURES + code for code in range(FIRST_PRINTABLE) if chr(code) not in "\n\t"}
_MOMENT = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:\+00:00|Z)")
_SURROGATE = re.compile("[\ud800-\udfff]")


def number(value: float | None, spec: str = ".0f", missing: str = NOT_MEASURED) -> str:
    """`value` by a format spec, with a true minus sign; a power of ten that `g` would write is a number with commas."""
    if value is None:
        return missing
    text = format(value, spec)
    if spec.endswith("g") and "e+" in text and abs(value) < MAX_PLAIN:
        text = format(value, "+,.0f" if spec.startswith("+") else ",.0f")
    return text.replace("-", "\N{MINUS SIGN}")


def interval(low: float | None, high: float | None, spec: str = ".0f", missing: str = "no interval") -> str:
    """`low to high`, which stays readable where a bound is negative."""
    if low is None or high is None:
        return missing
    return f"{number(low, spec)} to {number(high, spec)}"


def percent(value: float | None, spec: str = ".1f", missing: str = NOT_MEASURED) -> str:
    """A fraction as a percentage, with a no-break space before the sign."""
    return missing if value is None else f"{number(100 * value, spec)}\N{NO-BREAK SPACE}%"


def p_value(value: float | None, missing: str = "not tested") -> str:
    """Three decimals; what would read 0.000 is written as below 0.001."""
    if value is None:
        return missing
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def duration(seconds: float | None, missing: str = NOT_MEASURED) -> str:
    """`42 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds is None:
        return missing
    if seconds < 60:
        return f"{seconds:.3g}\N{NO-BREAK SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}\N{NO-BREAK SPACE}min {rest:02d}\N{NO-BREAK SPACE}s"
    return f"{minutes // 60}\N{NO-BREAK SPACE}h {minutes % 60:02d}\N{NO-BREAK SPACE}min"


def moment(text: str) -> str:
    """A time in UTC as `2026-11-30 01:06:53 UTC`, from ISO 8601; any other text as it is."""
    found = _MOMENT.fullmatch(text)
    return text if found is None else f"{found[1]} {found[2]} UTC"


def memory(size_bytes: float | None, missing: str = NOT_MEASURED) -> str:
    """`512 MiB`, `1.23 GiB`; 0 is what a device without such a counter records, so it is not measured."""
    if not size_bytes:
        return missing
    mebibytes = size_bytes / 2**20
    return (
        f"{mebibytes:.0f}\N{NO-BREAK SPACE}MiB" if mebibytes < 1024 else f"{mebibytes / 1024:.2f}\N{NO-BREAK SPACE}GiB"
    )


def sortable(value: float | None) -> str:
    """What a table's column is sorted by; nothing for what was not measured, which comes last."""
    return "" if value is None else repr(value)


def parameters(count: float) -> str:
    """`135M`, `7B`, `1.1B`."""
    return f"{count / 1e9:.3g}B" if count >= 1e9 else f"{count / 1e6:.3g}M"


def visible(text: str) -> str:
    """Model text for a page: control characters but tab and newline as pictures, lone surrogates as U+FFFD."""
    drawn = text.translate(_PICTURES)
    return drawn.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if _SURROGATE.search(drawn) else drawn


ENDINGS = {"eos": "ended by itself", "stop": "ended by itself", "length": "cut at the token limit"}


def ending(finish_reason: str | None) -> str:
    """How an answer ended, in words; another server's own word stays as it is."""
    return ENDINGS.get(finish_reason or "", finish_reason or "")


_FILTERS = (number, interval, percent, p_value, duration, moment, memory, parameters, visible, sortable, ending)
FILTERS: dict[str, Any] = {function.__name__: function for function in _FILTERS}
