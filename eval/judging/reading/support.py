"""Whether an explanation bears out a verdict: "2", and behind it "Answer 2 is correct, while answer 1 skips a step".

Each part of a sentence speaks well or ill of one answer, by words that are known. An explanation supports a verdict
only where every part that names an answer speaks well of the better one or ill of the other, and nothing doubts, limits
or takes back.
"""

import re

from eval.judging.reading.words import (
    CHANGED,
    COMPARATIVES,
    DOUBTFUL,
    ILL,
    MENDS,
    NOUNS,
    TAKEN_BACK,
    VALUES,
    WELL,
    any_of,
)
from eval.verdicts.codes import FIRST, SECOND, TIE

MAX_EXPLANATION = 2000  # characters
_NOUN = "|".join(sorted(NOUNS - {"choice", "number"}))
_NAME = re.compile(
    rf"\b(?:{_NOUN})s? ?#?(?P<side>[12ab])\b"
    rf"|\b(?:the (?P<place>first|second)(?: (?:{_NOUN}|one))?|(?P<which>first|second) (?:{_NOUN}|one))\b"
    r"|\b(?P<other>the other)(?: one)?\b"
    r"|(?<=\bthan )(?P<last>[12AB])\b(?![.,]\d)"
    r"|(?<![\w.,/-])(?P<bare>[12AB])(?= (?:is|was|has|gives|provides|shows|offers|does)\b)",
    re.IGNORECASE,
)
_NEXT = rf"(?=the |it |its |(?:{_NOUN}) ?[12ab]\b)"  # what begins another statement behind "and"
_PART = re.compile(
    r"[.;!:\n]+(?:\s|\Z)|,? (?:while|whereas|yet|which|making|as|since|because|so)\b|\b(?:while|whereas|unlike)\b"
    rf"|,? and {_NEXT}",
    re.IGNORECASE,
)
_DOUBT = re.compile(
    rf"\b(?:{CHANGED}|{TAKEN_BACK}|{any_of(DOUBTFUL)})(?!\w)|\?|\[\[",
    re.IGNORECASE,
)
_DENIES = re.compile(
    r"\b(?:not|no|never|nothing|none|without|cannot|hardly|barely|rarely)\b|n['\u2019]t\b", re.IGNORECASE
)
_ILL = re.compile(rf"\b(?:{any_of(ILL)})\b", re.IGNORECASE)
_WELL = re.compile(rf"\b(?:{any_of(WELL)})\b", re.IGNORECASE)
_ONLY = re.compile(rf"\bthe only (?:one|{_NOUN})\b", re.IGNORECASE)
_MENDS = re.compile(rf"\b(?:{any_of(MENDS)})\b", re.IGNORECASE)
_COMPARES = re.compile(rf"\b(?:{any_of(COMPARATIVES)})\b", re.IGNORECASE)
_AGAINST_OTHER = re.compile(
    r"\b(?:than|over|to|outperforms|beats|surpasses|exceeds|compared (?:to|with))\b", re.IGNORECASE
)
_EVEN = re.compile(r"\b(?:both|they|each|same)\b", re.IGNORECASE)
_IT = re.compile(r"\W*its?\b", re.IGNORECASE)
_THAN = re.compile(
    r"\b(?:than|over|outperforms|beats|surpasses|exceeds|compared (?:to|with)) ?(?:the )?\Z", re.IGNORECASE
)
_BOTH_BUT = re.compile(rf"\bboth\b[^.;!?\n]{{0,120}}?,? but (?=(?:the )?(?:{_NOUN}|first|second)\b)", re.IGNORECASE)
_DIGIT = re.compile(r"\d")
_LISTED = re.compile(r"^\W*\d", re.MULTILINE)
_COMPARATIVE = re.compile(rf"{_COMPARES.pattern}|\b(?:win\w*|prefer\w*|best)\b", re.IGNORECASE)


def supports(text: str, verdict: int, *, named: bool = False) -> bool:
    """Whether an explanation bears out the verdict that stands before it; `named` asks that it speaks of one."""
    text = _BOTH_BUT.sub("", text[: MAX_EXPLANATION + 1])
    if len(text) > MAX_EXPLANATION or _DOUBT.search(text) or _LISTED.search(text):
        return False
    if verdict == TIE:
        return not (_COMPARATIVE.search(text) or _DENIES.search(text)) and (not named or bool(_EVEN.search(text)))
    subject: int | None = verdict
    num_named = 0
    for part in _PART.split(text):
        names = list(_NAME.finditer(part))
        sides = [side for name in names if (side := _side(name, verdict)) is not None]
        if _EVEN.search(part):
            subject = None
            continue
        if len(sides) == 1 and _THAN.search(part, 0, names[0].start()):  # "it is clearer than answer 1"
            if sides[0] == subject:
                return False
        else:
            subject = sides[0] if sides else subject
        favoured = _favoured(part, sides, names, subject)
        if favoured == 0 or (favoured is not None and favoured != verdict):
            return False
        num_named += bool(sides or (_IT.match(part) and _praises(part)))
    return num_named > 0 or not named


def bears_out(reason: str, verdict: int, *, named: bool = False) -> bool:
    """Whether the rest of the verdict's own sentence supports it; a number that names no answer might be a verdict."""
    return supports(reason, verdict, named=named) and not _DIGIT.search(_NAME.sub(" ", reason))


def _praises(part: str) -> bool:
    return bool(_WELL.search(part) or _COMPARES.search(part))


def favours(text: str, side: int) -> bool:
    """Whether a sentence of a text compares both answers, or says more of one, in favour of a side."""
    for part in _PART.split(text):
        names = list(_NAME.finditer(part))
        if names and _COMPARES.search(part):
            sides = [named for name in names if (named := _side(name, side)) is not None]
            if sides and _favoured(part, sides, names, sides[0]) in (side, 0):
                return True
    return False


def _side(name: re.Match[str], verdict: int) -> int | None:
    if name["other"]:
        return FIRST + SECOND - verdict
    return VALUES[(name["side"] or name["place"] or name["which"] or name["last"] or name["bare"]).lower()]


def _favoured(part: str, sides: list[int], names: list[re.Match[str]], subject: int | None) -> int | None:
    """The side that a part of a sentence speaks for; None where it speaks of none, 0 where it can't be told."""
    ill, denied = bool(_ILL.search(_ONLY.sub(" ", part))), bool(_DENIES.search(part))
    if subject is None or not (sides or ill or denied):
        return None
    if len(set(sides)) > 1:
        between = part[names[0].end() : names[1].start()]
        if len(sides) > 2 or not _COMPARES.search(between) or not _AGAINST_OTHER.search(between):
            return 0
    if ill and (denied or _MENDS.search(part)):
        return 0
    if not (ill or denied or _praises(part)):
        return 0
    return subject if not (ill or denied) else FIRST + SECOND - subject
