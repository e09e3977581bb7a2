"""Writes data as text that is safe within a script, whatever names, answers and replies hold.

A page that was opened from a disk may not fetch files, but it may load scripts: each file of data is a script of one
statement. All characters beyond ASCII are escaped (U+2028 would end a line), and so are `<`, `>` and `&`, so that
neither `</script>` nor `<!--` can appear, in a file or within a page.
"""

import json
from typing import Any

from analysis.report.formats import visible

_UNSAFE = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})


def json_in_page(value: Any) -> str:
    """JSON that may stand in a `<script type="application/json">`."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).translate(_UNSAFE)


def data_script(name: str, value: Any) -> str:
    """A script that leaves `value` where the page's script looks for the data called `name`."""
    return f"(window.siteData ??= {{}})[{json_in_page(name)}] = {json_in_page(value)};\n"


def shown_text(text: str, most: int | None = None) -> str:
    """Text as a page shows it; of a longer one than `most` characters the beginning and an ellipsis."""
    if most is not None and len(text) > most:
        text = text[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"
    return visible(text)
