"""Puts a judge's sentence into the few words that `eval.judging.reading.sentences` reads, without changing what it says.

"The latter is more helpful, by a hair" becomes "the second is better".
"""

import re
from collections.abc import Sequence
from itertools import pairwise

from eval.judging.reading.words import MORE_QUALITIES, QUALITIES, VALUES

_POINTED = re.compile(r"\b(?:former|latter)\b", re.IGNORECASE)
_NAME = re.compile(
    r"\b(?:answer|assistant|option|response|candidate|model) ?#?([12ab])\b|\b(first|second)\b", re.IGNORECASE
)
_NO_DOUBT = re.compile(r"\A\s?(?:no doubt|without (?:a|any) doubt|hands down)\b[,:]?", re.IGNORECASE)
_PORTUGUESE = re.compile(r"(?<=\bé )a (?=[12]\b)|\Aa (?=melhor )", re.IGNORECASE)  # an article, not answer A
_CLOSE = re.compile(  # how clear it was
    r",? (?:(?:but|though|although) (?:(?:only )?(?:barely|just)|(?:it['\u2019]s|it is|it was) (?:very )?close)"
    r"|by an? (?:small|narrow|slim|thin|wide|large|clear|huge) margin|by a hair|hands down)\W*\Z",
    re.IGNORECASE,
)
_ORDINAL = re.compile(
    r"(?:(?P<first>第一|첫 ?번째|1番目の)|第二|두 ?번째|2番目の) ?[个個位]? ?"
    r"(?P<noun>答案|回答|选项|助手|回复|답변|응답)"
)


def resolved(text: str) -> str:
    """The text with "first" for "former" and "second" for "latter", where the answers are named in that order, or not.

    After "Answer 2 is short, answer 1 long" the former is answer 2: then it stays as it is, and is not read.
    """
    if not (pointed := list(_POINTED.finditer(text))):
        return text
    names = [VALUES[(match[1] or match[2]).lower()] for match in _NAME.finditer(text, 0, pointed[-1].start())]
    if any(one > two for one, two in pairwise(names)) or (names and len(set(names)) < 2):
        return text
    return _POINTED.sub(lambda match: "first" if match[0].lower() == "former" else "second", text)


def without_manner(text: str) -> str:
    """A sentence without what says how clear the verdict was: "no doubt", "by a hair", "but barely"."""
    return _CLOSE.sub("", _PORTUGUESE.sub("", _NO_DOUBT.sub("", text, count=1)))


def with_numbers(text: str) -> str:
    """A Chinese, Korean or Japanese text with "answer 1" for "the first answer"."""
    return _ORDINAL.sub(lambda match: f"{match['noun']}{1 if match['first'] else 2}", text)


def plainer(tokens: list[str]) -> list[str]:
    """The tokens with "more helpful, detailed and accurate" as "better", "less helpful" as "worse", "to be" as "is"."""
    kept: list[str] = []
    position = 0
    while position < len(tokens):
        token, follows = tokens[position], tokens[position + 1 : position + 2]
        if token in ("more", "less") and QUALITIES.issuperset(follows) and follows:
            kept.append("better" if token == "more" else "worse")
            position += 2
            while (length := _further(tokens[position : position + 4])) > 0:
                position += length
            continue
        if token == "to" and follows == ["be"]:
            kept.append("is")
            position += 2
            continue
        kept.append(token)
        position += 1
    return kept


def _further(tokens: Sequence[str]) -> int:
    """How many of the tokens are one more quality of a list: ", detailed", ", and more accurate"."""
    length = 0
    while length < len(tokens) and tokens[length] in (",", "and", "more"):
        length += 1
    is_joined = bool({",", "and"} & set(tokens[:length]))
    return length + 1 if is_joined and length < len(tokens) and tokens[length] in MORE_QUALITIES else 0
