"""Decides whether an answer that a model wrote says the same as a row's target, without asking a model.

    exact      equal texts, whatever their case, blanks and the marks at their ends
    number     equal last numbers, after `####` where there is one (GSM8K)
    contains   the target's words stand in the answer, one after the other (short answers within sentences)

S3FT (arXiv 2502.08130) takes a model's own answers as targets where they are right, by a judge or by such heuristics;
SELF-GUIDE (arXiv 2407.12874) filters what a model wrote by rules. An empty target or answer is never right.
"""

import re
from collections.abc import Callable, Mapping
from decimal import Decimal

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_WORD = re.compile(r"\w+(?:[.,']\w+)*")
_ENDS = " \t\r\n.!?,;:\"'`*"


def is_exact(answer: str, target: str) -> bool:
    """Equal but for case, blanks and the marks at both ends."""
    plain = _plain(target)
    return bool(plain) and _plain(answer) == plain


def has_number(answer: str, target: str) -> bool:
    """The last numbers of both are equal."""
    wanted = _last_number(target)
    return wanted is not None and _last_number(answer) == wanted


def contains(answer: str, target: str) -> bool:
    """The target's words stand in the answer in their order, nothing between them."""
    words, wanted = (_WORD.findall(text.casefold()) for text in (answer, target))
    starts = range(len(words) - len(wanted) + 1)
    return bool(wanted) and any(words[start : start + len(wanted)] == wanted for start in starts)


RIGHT: Mapping[str, Callable[[str, str], bool]] = {"exact": is_exact, "number": has_number, "contains": contains}


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).strip(_ENDS)


def _last_number(text: str) -> Decimal | None:
    found = _NUMBER.findall(text.rpartition("####")[2])
    return Decimal(found[-1].replace(",", "")) if found else None
