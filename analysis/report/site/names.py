"""Names the pages of systems and questions, whose own names may hold anything.

A name of plain letters, digits, dots, dashes and underscores is its page's name. Any other gets its plain characters
and a digest, so that no name leaves the folder, and two names differ also where capitals don't count.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping

from markupsafe import Markup

from analysis.report.formats import visible

MAX_LENGTH = 60
_PLAIN = re.compile(r"[a-z0-9][a-z0-9_.-]*")
_OTHER = re.compile(r"[^a-z0-9_-]+")
_DIGEST_LENGTH = 8


def page_names(names: Iterable[str]) -> dict[str, str]:
    """Name -> its page's name, without a folder or `.html`."""
    return {name: page_name(name) for name in names}


def page_name(name: str) -> str:
    """The page's name of one system or question."""
    if _PLAIN.fullmatch(name) and len(name) <= MAX_LENGTH and not name.endswith("."):
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_LENGTH]
    plain = _OTHER.sub("-", name.lower()).strip("-")[: MAX_LENGTH - _DIGEST_LENGTH - 1]
    return f"{plain}-{digest}" if plain else digest


def system_links(names: Iterable[str], pages: Mapping[str, str], root: str = "") -> dict[str, Markup]:
    """Name -> what a page shows for it: a link to the system's page where there is one.

    Args:
        names: of systems.
        pages: name -> its page's name.
        root: the way from the page to the report's folder.
    """
    return {
        name: Markup('<a href="{}systems/{}.html" dir="auto">{}</a>').format(root, pages[name], visible(name))
        if name in pages
        else Markup('<span dir="auto">{}</span>').format(visible(name))
        for name in names
    }
