"""axe-core, which finds what keeps people from reading a page: contrast, headings, labels, landmarks.

    npm install --no-save --prefix .axe axe-core@4.14.1

It is run in the page by `tests.servers.chromium`. HARNESS_AXE names its file where it lies elsewhere.
"""

import os
from pathlib import Path
from typing import Any

from tests.servers.chromium import Chromium

INSTALLED = Path(__file__).parents[2] / ".axe" / "node_modules" / "axe-core" / "axe.min.js"
_RUN = """axe.run(document, {resultTypes: ['violations']}).then((found) => found.violations.map((violation) => ({
  rule: violation.id,
  nodes: violation.nodes.slice(0, 3).map((node) => node.html.slice(0, 160) + ' ' + node.failureSummary),
})))"""


def find_axe() -> Path | None:
    """Its script, if there is one."""
    path = Path(os.environ.get("HARNESS_AXE", INSTALLED))
    return path if path.is_file() else None


def violations(browser: Chromium) -> list[dict[str, Any]]:
    """What axe finds on the page that is open, with up to three elements for each rule."""
    path = find_axe()
    assert path is not None
    browser.call("Runtime.evaluate", expression=path.read_text(encoding="utf-8"))
    found: list[dict[str, Any]] = browser.value(_RUN)
    return found
