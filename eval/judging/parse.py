"""What did a judge say? Reads a verdict or two scores out of free text, or says why there is none.

Library only. The paper's format is a last line that is 1, 2 or 3 (three-class) and a first line with two
scores (ten-point). Judges also write `**2**`, `Verdict: [[1]]`, `option 3`, JSON, or a tuple at the end; that
is read too. What is ambiguous is never guessed: two classes in one line, 7, or prose are no verdict.

Source: QLoRA's released verdicts (MIT), whose unparsed tails the tests hold this parser against.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from eval.judging.matches import Judgment
from eval.judging.prompts import Mode
from eval.ratings.codes import FIRST, SECOND, TIE, UNPARSED

MIN_SCORE, MAX_SCORE = 1.0, 10.0
CLASSES = {
    "1": FIRST,
    "2": SECOND,
    "3": TIE,
    "a": FIRST,
    "b": SECOND,
    "c": TIE,
    "tie": TIE,
    "draw": TIE,
    "equal": TIE,
    "equivalent": TIE,
}
_NOISE = re.compile(r"\\boxed|<[^<>]{1,20}>|[*_`#>$\[\]{}()\"\u201c\u201d'\u2018\u2019]+")
_LEAD = (
    r"(?:(?:so|thus|hence|therefore|my|the|final|best|better|overall|i|would|choose|select|pick|prefer|verdict|answer|"
    r"choice|decision|winner|output|number|option|assistant|result|class|rating|is|are|go|with)\b[\s:=,.\-\u2013\u2014]*)*"
)
_ALONE = re.compile(rf"{_LEAD}(?P<value>-?\d+(?:\.\d+)?|[abc]|tie|draw|equal|equivalent)[\s.!,;:]*", re.IGNORECASE)
_CHOSEN = re.compile(
    r"\b(?P<no>not\s+)?(?:(?:choose|chose|select|pick)(?:\s+(?:option|number|class|answer|assistant))?|option)"
    r"\s*[:=]?\s*(?P<value>\d+)\b(?!\s*(?:%|/|or\b))",
    re.IGNORECASE,
)
_REMARK = re.compile(r"\s*\([^()]*\)\W*$|(?<=[123])\W*\s[-\u2013\u2014]\s.*$")
_NUMBER = r"(-?\d+(?:\.\d+)?)(?:\s*/\s*10(?![\d.]))?"
_LABEL = r"(?:(?:the|score|scores|for|assistant|answer|of|is)\b[\s:=]*)*"
_TWO_SCORES = re.compile(rf"{_LABEL}{_NUMBER}(?:\s*[,;/|&]\s*|\s+and\s+|\s+){_NUMBER}[\s.]*", re.IGNORECASE)
_TUPLE = re.compile(rf"[(\[]\s*{_NUMBER}\s*,\s*{_NUMBER}\s*[)\]]")
_LABELLED = re.compile(
    rf"\b(?:assistant|answer)\s*(?P<who>[12])(?:'s)?(?:\s+score)?\s*[:=]\s*(?P<score>{_NUMBER})(?![\d.])", re.IGNORECASE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedVerdict:
    """1, 2, 3, or -1 with the reason."""

    verdict: int
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedScores:
    """Both scores, or neither and the reason."""

    score_a: float | None = None
    score_b: float | None = None
    reason: str | None = None

    @property
    def verdict(self) -> int:
        """Who has the higher score."""
        if self.score_a is None or self.score_b is None:
            return UNPARSED
        return TIE if self.score_a == self.score_b else FIRST if self.score_a > self.score_b else SECOND


def parse_verdict(text: str) -> ParsedVerdict:
    """Reads a three-class judgment: JSON with `verdict`, or what the last line that isn't blank says."""
    text = _without_thoughts(text)
    structured = _json_object(text)
    if structured is not None:
        return _classify(structured.get("verdict"))
    lines = [line for line in text.splitlines() if _plain(line)]
    if not lines:
        return ParsedVerdict(verdict=UNPARSED, reason="empty reply")
    for line in (_plain(lines[-1]), _plain(_REMARK.sub("", lines[-1]))):
        alone = _ALONE.fullmatch(line)
        if alone:
            return _classify(alone["value"])
    return _chosen(_plain(lines[-1]))


def parse_scores(text: str) -> ParsedScores:
    """Reads a ten-point judgment: JSON, two numbers on the first line, a tuple, or a labelled score each."""
    text = _without_thoughts(text)
    structured = _json_object(text)
    if structured is not None:
        return _scores(structured.get("score_1"), structured.get("score_2"))
    lines = [line for line in text.splitlines() if _plain(line)]
    if not lines:
        return ParsedScores(reason="empty reply")
    first = _TWO_SCORES.fullmatch(_plain(lines[0]))
    if first:
        return _scores(first[1], first[2])
    tuples = {pair for line in (lines[0], lines[-1]) for pair in _TUPLE.findall(line)} or set(_TUPLE.findall(text))
    if len(tuples) == 1:
        return _scores(*tuples.pop())
    labelled: dict[str, set[str]] = {"1": set(), "2": set()}
    for found in _LABELLED.finditer(text.replace("*", "")):
        labelled[found["who"]].add(found[3])
    if all(len(values) == 1 for values in labelled.values()):
        return _scores(labelled["1"].pop(), labelled["2"].pop())
    return ParsedScores(reason="no two scores" if not tuples else "several pairs of scores")


def _chosen(line: str) -> ParsedVerdict:
    """A sentence that says which number it chooses, once."""
    found = list(_CHOSEN.finditer(line))
    if not found or any(match["no"] for match in found):
        return ParsedVerdict(verdict=UNPARSED, reason="the last line is no verdict")
    if len({match["value"] for match in found}) > 1:
        return ParsedVerdict(verdict=UNPARSED, reason="the last line chooses more than one")
    return _classify(found[0]["value"])


def _classify(value: Any) -> ParsedVerdict:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        return ParsedVerdict(verdict=UNPARSED, reason="the reply has no verdict")
    name = str(value).strip().lower()
    if name not in CLASSES:
        return ParsedVerdict(verdict=UNPARSED, reason=f"verdict {name[:20]} is none of 1, 2, 3")
    return ParsedVerdict(verdict=CLASSES[name])


def _scores(one: Any, two: Any) -> ParsedScores:
    values = []
    for value in (one, two):
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            return ParsedScores(reason="the reply lacks a score")
        try:
            score = float(value)
        except ValueError:
            return ParsedScores(reason=f"score {str(value)[:20]!r} is no number")
        if not MIN_SCORE <= score <= MAX_SCORE:
            return ParsedScores(reason=f"score {score:g} is out of range: {MIN_SCORE:g} to {MAX_SCORE:g}")
        values.append(score)
    return ParsedScores(score_a=values[0], score_b=values[1])


def _without_thoughts(text: str) -> str:
    """Leaves out a reasoning model's <think> part; one that never ends has no reply behind it."""
    text = re.sub(r"<think>.*?</think>", "", text, flags=re.DOTALL)
    return text.partition("<think>")[0]


def _json_object(text: str) -> dict[str, Any] | None:
    stripped = re.sub(r"^```(?:json)?\s*|\s*```$", "", text.strip())
    if not stripped.startswith("{"):
        return None
    try:
        value = json.loads(stripped)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _plain(line: str) -> str:
    return " ".join(_NOISE.sub(" ", line).split())


def judgment_of(
    key: tuple[str, str, str], prompt_sha256: str, mode: Mode, text: str, unread: str | None = None, **facts: Any
) -> Judgment:
    """What a judge's text says about a match.

    Args:
        key: of the match: question_id, system_a, system_b.
        prompt_sha256: of the prompt that it answers.
        mode: pairwise or relative: what the text should hold.
        text: the judge's reply; kept as it is.
        unread: why the text is no verdict whatever it says, such as a refusal.
        **facts: further fields of `Judgment` (tokens, cost, latency).
    """
    question, first, second = key
    parsed = parse_verdict(text) if mode is Mode.pairwise else parse_scores(text)
    if unread is not None:
        parsed = ParsedVerdict(verdict=UNPARSED, reason=unread)
    return Judgment(
        question_id=question,
        system_a=first,
        system_b=second,
        prompt_sha256=prompt_sha256,
        verdict=parsed.verdict,
        reason=parsed.reason,
        score_a=parsed.score_a if isinstance(parsed, ParsedScores) else None,
        score_b=parsed.score_b if isinstance(parsed, ParsedScores) else None,
        raw_text=text.encode("utf-8", "replace").decode(),  # half a surrogate pair can't be stored
        **facts,
    )
