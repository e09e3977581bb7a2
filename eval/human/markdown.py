"""Shows an answer as Markdown in which nothing can run, load, or be clicked.

    render_answer("**bold** <script>alert(1)</script>")   # -> '<p><strong>bold</strong> &lt;script&gt;...'

The page is never much longer than the answer: a long address is cut, all addresses together have a budget (a reference
of 50 KB could be named 3,000 times), and an answer whose HTML grows all the same is shown as the text that it is.

Three walls: the parser takes no HTML (it is shown as the text that it is), a list of allowed tags without any
attribute but a list's start (nh3), and the page's Content-Security-Policy (`eval.human.web.app`). Links and images
are written out: a link would lead away from the vote, an image would tell its host who looks at what.
"""

from collections.abc import MutableMapping, Sequence
from functools import lru_cache
from typing import Any

import nh3
from markdown_it import MarkdownIt
from markdown_it.token import Token

BLOCK_TAGS = {"p", "br", "hr", "pre", "blockquote", "ul", "ol", "li", "h4", "h5", "h6"}
TABLE_TAGS = {"table", "thead", "tbody", "tr", "th", "td"}
TAGS = BLOCK_TAGS | TABLE_TAGS | {"strong", "em", "s", "code", "small"}
ATTRIBUTES = {"ol": {"start"}}
CACHED_ANSWERS = 2048
ADDRESSES = "addresses"  # what is left of the budget, in the renderer's environment
MAX_ADDRESS = 400  # characters of one address
MAX_ADDRESSES = 20_000  # characters of all addresses of an answer
MAX_GROWTH = 16  # HTML by text: the most that plain markup such as empty cells comes to
EMPTY = "<p><em>(empty answer)</em></p>"


@lru_cache(maxsize=CACHED_ANSWERS)
def render_answer(text: str) -> str:
    """Harmless HTML of a model's Markdown."""
    if not text.strip():
        return EMPTY
    tokens = _PARSER.parse(text)
    _soften(tokens)
    deepest = max((token.level for token in tokens), default=0)
    html = _PARSER.renderer.render(tokens, _PARSER.options, {ADDRESSES: MAX_ADDRESSES})
    if len(html) > MAX_GROWTH * len(text) + 2 * MAX_ADDRESSES or deepest >= _PARSER.options["maxNesting"] - 1:
        html = f"<pre>{nh3.clean_text(text)}</pre>"  # the parser drops what is nested deeper
    return nh3.clean(html, tags=TAGS, attributes=ATTRIBUTES, strip_comments=True)


def _soften(tokens: Sequence[Token]) -> None:
    """Puts headings below the page's own, and keeps line breaks, as models mean them."""
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(int(token.tag[1]) + 3, 6)}"
        for child in token.children or ():
            if child.type == "softbreak":
                child.type, child.tag = "hardbreak", "br"


def _link_open(self: Any, tokens: Sequence[Token], index: int, options: Any, env: MutableMapping[str, Any]) -> str:
    return ""


def _link_close(self: Any, tokens: Sequence[Token], index: int, options: Any, env: MutableMapping[str, Any]) -> str:
    opening, shown = _opened_by(tokens, index)
    address = str(opening.attrGet("href") or "")
    return "" if address in (shown, f"mailto:{shown}") else f" {_written_out(address, env)}"


def _image(self: Any, tokens: Sequence[Token], index: int, options: Any, env: MutableMapping[str, Any]) -> str:
    name = nh3.clean_text(tokens[index].content or "no description")
    return f"[image: {name}] {_written_out(str(tokens[index].attrGet('src') or ''), env)}"


def _written_out(address: str, env: MutableMapping[str, Any]) -> str:
    """An address behind its text, as long as there is room for addresses."""
    room = min(MAX_ADDRESS, env[ADDRESSES])
    cut = address if len(address) <= room else address[:room] + "\N{HORIZONTAL ELLIPSIS}"
    env[ADDRESSES] -= min(len(address), room)
    return f"<small>({nh3.clean_text(cut)})</small>"


def _opened_by(tokens: Sequence[Token], index: int) -> tuple[Token, str]:
    """The link that token `index` closes (links don't nest), and its text."""
    start = next(at for at in range(index - 1, -1, -1) if tokens[at].type == "link_open")
    return tokens[start], "".join(token.content for token in tokens[start:index])


def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    for name, rule in (("link_open", _link_open), ("link_close", _link_close), ("image", _image)):
        parser.add_render_rule(name, rule)
    return parser


_PARSER = _parser()
