"""Answers as Markdown: what may stay, and that nothing that could run, load or lead away does.

tests/pipeline/contests/test_human_browser.py shows the same payloads to a real browser.
"""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.human.markdown import ATTRIBUTES, EMPTY, TAGS, render_answer
from tests.payloads import PAYLOADS

ELEMENT = re.compile(r"<(/?)([a-zA-Z0-9]+)([^>]*)>")


def only_allowed(html: str) -> bool:
    """Whether a page could hold nothing but allowed elements; a `<` of text is `&lt;`."""
    found = ELEMENT.findall(html)
    return html.count("<") == len(found) and all(
        tag in TAGS and (not rest or (tag in ATTRIBUTES and re.fullmatch(r' start="\d+"', rest)))
        for _, tag, rest in found
    )


def test_ordinary_markdown() -> None:
    html = render_answer(
        "# Top\n**bold** and *it*\nnext\n\n3. three\n4. four\n\n```python\nif a < b:\n    x\n```\n\n|a|b|\n|-|-|\n|1|2|"
    )
    assert "<h4>Top</h4>" in html
    assert "<strong>bold</strong> and <em>it</em><br>" in html
    assert '<ol start="3">' in html
    assert "<pre><code>if a &lt; b:\n    x\n</code></pre>" in html
    assert "<th>a</th>" in html
    assert only_allowed(html)


def test_links_and_images_are_written_out() -> None:
    assert render_answer("[here](https://a.example/x?y=1&z=2)").strip() == (
        "<p>here <small>(https://a.example/x?y=1&amp;z=2)</small></p>"
    )
    assert render_answer("<https://a.example>").strip() == "<p>https://a.example</p>"
    assert render_answer("<me@a.example>").strip() == "<p>me@a.example</p>"
    assert "[image: a cat] <small>(https://b.example/c.png)</small>" in render_answer(
        "![a cat](https://b.example/c.png)"
    )


def test_html_is_shown_as_the_text_that_it_is() -> None:
    assert "&lt;b onclick=" in render_answer('Write <b onclick="go()">this</b>.')


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS.keys())
def test_payloads_leave_no_element_of_their_own(payload: str) -> None:
    assert only_allowed(render_answer(payload))


@given(st.text(alphabet="<>\"'&/=!-[]()`*_#|:;\\ \nabjsx:onimgvdtf\x00", max_size=80))
def test_nothing_else_ever_comes_out(text: str) -> None:
    assert only_allowed(render_answer(text))


@pytest.mark.parametrize("text", ["", "  \n "])
def test_an_empty_answer_says_so(text: str) -> None:
    assert render_answer(text) == EMPTY


@pytest.mark.parametrize("unit", ["> ", "[", "*", "`", "![", "<", "- ", "**a", "|", "](", "&#x"])
def test_deep_or_endless_markup_ends(unit: str) -> None:
    assert only_allowed(render_answer(unit * 2000))


LONG_ADDRESS = "[a]: http://x/" + "y" * 20_000 + "\n\n"


@pytest.mark.parametrize("text", [LONG_ADDRESS + "[a] " * 300, LONG_ADDRESS + "![a]" * 300, "[a](b) " * 6000])
def test_addresses_do_not_blow_a_page_up(text: str) -> None:
    html = render_answer(text)
    assert only_allowed(html)
    assert len(html) < 5 * len(text)
    assert "<small>(" in html


def test_what_grows_or_nests_too_much_is_shown_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    deep = "> " * 25 + "the *answer*"
    assert render_answer(deep) == f"<pre>{'&gt; ' * 25}the *answer*</pre>"
    render_answer.cache_clear()
    monkeypatch.setattr("eval.human.markdown.MAX_GROWTH", 0)
    monkeypatch.setattr("eval.human.markdown.MAX_ADDRESSES", 10)
    assert render_answer("*a much longer answer*").startswith("<pre>*a much")
    assert "<em>abc</em>" in render_answer("*abc*")  # 20 characters of HTML, twice the addresses' room
    assert render_answer("*abcd*") == "<pre>*abcd*</pre>"
