"""Reads a verdict or two scores from a judge's free text, or says why there is none.

The paper's format is a last line that is 1, 2 or 3 (three-class) and a first line with two scores
(ten-point). Judges also write `**2**`, `[[A>B]]`, `Answer 2 is better.`, JSON, or a score a line; that is read too.

A reading is never guessed. A sentence counts only where each of its words is known (`eval.judging.reading.words`), so
that a negation, a condition or a doubt, in whatever language, leaves it unread; two readings that differ leave the
reply unread. Everything looks at a text a fixed number of times: its length costs no more than in proportion.

Source: QLoRA's released verdicts (MIT), whose unparsed tails the tests hold this parser against.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from eval.judging.matches import Judgment
from eval.judging.prompts import Mode
from eval.judging.reading.fields import (
    CHOICE_KEYS,
    GRADE_FIELD,
    GRADE_KEYS,
    SCORE_KEYS,
    VERDICT_KEYS,
    Fields,
    json_fields,
)
from eval.judging.reading.lines import (
    Reading,
    contradicted,
    doubts,
    ends_in_digit,
    first_verdict,
    read_labels,
    read_line,
    says_none,
    verdicts_before,
    verdicts_behind,
)
from eval.judging.reading.plain import plain_reply
from eval.judging.reading.scores import Pair, contradicts, grades_after, read_grades, read_pair
from eval.judging.reading.sentences import read_phrase
from eval.judging.reading.support import supports
from eval.judging.reading.wording import resolved
from eval.judging.reading.words import CHANGED, TAKEN_BACK
from eval.verdicts.codes import FIRST, SECOND, TIE, UNPARSED

MIN_SCORE, MAX_SCORE = 1.0, 10.0
KEY_MARK = "[key]"  # stands in stored texts for a server's key
REFUSED = "the judge refused"  # reasons that no reading of the text changes
CUT = "the reply was cut"
_RETRACTED = re.compile(
    rf"\b(?:{TAKEN_BACK}|{CHANGED}|however|instead|mistake\w*|but|hmm|scratch|misread|swap\w*|revers\w*)(?!\w)",
    re.IGNORECASE,
)
_COMPARES = re.compile(r"\b(?:better|best|winner|wins?|verdict|prefer\w*|choose|tie|draw)\b", re.IGNORECASE)
MAX_COMPARED = 200  # characters of a last line that compares
_RESULT = re.compile(r"\[RESULT\]\s{0,9}:?")  # Prometheus
_ANSWERED = re.compile(r"\d+(?:[.,]\d+)?(?:\s?/\s?10|\sout of 10)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedVerdict:
    """A verdict: 1, 2, 3, or -1 with the reason."""

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
        """The verdict for the higher score; -1 without scores."""
        if self.score_a is None or self.score_b is None:
            return UNPARSED
        return TIE if self.score_a == self.score_b else FIRST if self.score_a > self.score_b else SECOND


def parse_verdict(text: str) -> ParsedVerdict:
    """Reads a three-class judgment: JSON with `verdict`, a label such as [[A]], or what the last line says."""
    reply, nothing = plain_reply(text)
    if nothing is not None:
        return _unread(nothing)
    fields, rest = json_fields(reply)
    if fields is not None:
        return _from_json(fields, rest)
    reply = resolved(reply)
    label = read_labels(reply)
    line = read_line(reply)
    if TIE not in (label.verdict, line.verdict) and says_none(reply):
        return _unread("the reply says that there is no verdict")
    if label.conflict:
        return _verdict(label)
    if label.verdict is None:
        before = verdicts_before(reply) - {line.verdict}
        if line.verdict is not None and not ends_in_digit(reply):
            before |= first_verdict(reply) - {line.verdict}
        unsaid = line.verdict is not None and contradicted(reply, line.verdict)
        return _verdict(Reading(conflict=True) if before or unsaid else line)
    if (
        contradicted(reply, label.verdict)
        or line.verdict not in (None, label.verdict)
        or _takes_back(label.rest, label.verdict)
    ):
        return _unread("the reply says two things")
    return ParsedVerdict(verdict=label.verdict)


def parse_scores(text: str) -> ParsedScores:
    """Reads a ten-point judgment: JSON, two numbers on the first line, a tuple, or a labelled score each."""
    reply, nothing = plain_reply(text)
    if nothing is not None:
        return ParsedScores(reason=nothing)
    fields, rest = json_fields(reply)
    if fields is None:
        return _agreeing(_scores(read_pair(reply)), _verdict_beside(reply))
    pairs = _scored_pairs(fields)
    around = f"{reply[: reply.find('{')]}\n{rest}"
    if len(pairs) > 1 or "order" in fields or any(contradicts(around, pair) for pair in pairs):
        return ParsedScores(reason="the reply says two things")
    said = {_json_verdict(value) for key in VERDICT_KEYS for value in fields.get(key, [])} | {_verdict_beside(around)}
    if not pairs:
        return ParsedScores(reason="the reply lacks a score")
    scores = _scores(pairs.pop())
    if scores.verdict in (FIRST, SECOND) and contradicted(_words(fields), scores.verdict):
        return ParsedScores(reason="the reply says two things")
    return _agreeing(scores, *said)


def _scored_pairs(fields: dict[str, list[Any]]) -> set[Pair]:
    """The pairs of scores of a JSON object; pairs of texts only where there is nothing else."""
    pairs = {Pair(*map(_score_text, values)) for values in _score_values(fields)}
    return pairs - {Pair(None, None)} or pairs


def _verdict_beside(text: str) -> int | None:
    """The verdict that a reply of scores says in words beside them."""
    label = read_labels(text).verdict
    if label is not None:
        return label
    last = next((line for line in reversed(text.splitlines()) if line.strip()), "")
    return read_line(last).verdict if _COMPARES.search(last[:MAX_COMPARED]) else None


def _agreeing(scores: ParsedScores, *said: int | None) -> ParsedScores:
    """The scores, unless words say that the other answer is better, or that both are equal: one of the two is wrong."""
    if scores.verdict in (FIRST, SECOND) and set(said) - {None, scores.verdict}:
        return ParsedScores(reason="the reply says two things")
    return scores


def _score_values(fields: dict[str, list[Any]]) -> Iterator[list[Any]]:
    """The two values of each pair of fields that a JSON object has, and of each list of two scores."""
    for names in SCORE_KEYS:
        found = [fields.get(name, []) for name in names]
        if all(len(values) == 1 for values in found):
            yield [_graded(values[0]) for values in found]
    for value in [*fields.get("scores", []), *fields.get("score", []), *fields.get("ratings", [])]:
        if isinstance(value, Fields):
            yield from _score_values(value.fields)
        elif isinstance(value, list) and len(value) == 2:
            yield value


def _graded(value: Any) -> Any:
    """The one score of an answer's own object."""
    grades = (
        [grade for key in GRADE_KEYS for grade in value.fields.get(key, [])] if isinstance(value, Fields) else [value]
    )
    return grades[0] if len(grades) == 1 else None


def parse_grade(text: str) -> ParsedScores:
    """Reads a ten-point judgment of one answer: JSON with `score`, a label such as [[8]], or a line that is a grade."""
    said, nothing = plain_reply(text)
    if nothing is not None:
        return ParsedScores(reason=nothing)
    said = _RESULT.sub("\nRating: ", said)
    fields, rest = json_fields(said, GRADE_FIELD)
    if fields is not None:
        given = {_score_text(value) for key in GRADE_KEYS for value in fields.get(key, [])}
        texts = given | grades_after(f"{said[: said.find('{')]}\n{rest}")
    else:
        texts = set(read_grades(said))
    numbers = {_number(text) for text in texts}
    if len(numbers) != 1:
        return ParsedScores(reason="the reply says two things" if numbers else "no grade")
    grade = numbers.pop()
    if grade is None:
        return ParsedScores(reason="the grade is no number")
    if not MIN_SCORE <= grade <= MAX_SCORE:
        return ParsedScores(reason=f"grade {grade:g} is out of range: {MIN_SCORE:g} to {MAX_SCORE:g}")
    return ParsedScores(score_a=grade)


def parse_reply(text: str, mode: Mode, unread: str | None = None) -> tuple[int, ParsedScores, str | None]:
    """(verdict, scores, why there is none) of a reply in any mode; a grade of one answer is no verdict, so a tie.

    Args:
        text: the judge's reply.
        mode: what it should hold.
        unread: why the text is no verdict whatever it says, such as a refusal.
    """
    if unread is not None:
        return UNPARSED, ParsedScores(reason=unread), unread
    if mode is Mode.pairwise:
        parsed = parse_verdict(text)
        return parsed.verdict, ParsedScores(), parsed.reason
    scores = parse_scores(text) if mode is Mode.relative else parse_grade(text)
    verdict = TIE if mode is Mode.single and scores.score_a is not None else scores.verdict
    return verdict, scores, scores.reason


def judgment_of(
    key: tuple[str, str, str], prompt_sha256: str, mode: Mode, text: str, unread: str | None = None, **facts: Any
) -> Judgment:
    """Makes the judgment of a match from a judge's text.

    Args:
        key: of the match: question_id, system_a, system_b.
        prompt_sha256: of the prompt that it answers.
        mode: what the text should hold.
        text: the judge's reply; kept as it is.
        unread: why the text is no verdict whatever it says, such as a refusal.
        **facts: further fields of `Judgment` (tokens, cost, latency).
    """
    question, first, second = key
    verdict, scores, reason = parse_reply(text, mode, unread)
    return Judgment(
        question_id=question,
        system_a=first,
        system_b=second,
        prompt_sha256=prompt_sha256,
        verdict=verdict,
        reason=reason,
        score_a=scores.score_a,
        score_b=scores.score_b,
        **{"raw_text": text.encode("utf-8", "replace").decode(), **facts},  # half a surrogate pair can't be stored
    )


def read_anew(judgment: Judgment, mode: Mode) -> Judgment:
    """Reads a stored judgment's text again. One that was refused, cut or stored without its key stays as it is."""
    text, reason = judgment.raw_text, judgment.reason or ""
    if text is None or KEY_MARK in text or reason == REFUSED or reason.startswith(CUT):
        return judgment
    verdict, scores, now = parse_reply(text, mode)
    return replace(judgment, verdict=verdict, reason=now, score_a=scores.score_a, score_b=scores.score_b)


def _from_json(fields: dict[str, list[Any]], rest: str) -> ParsedVerdict:
    values = [value for key in VERDICT_KEYS for value in fields.get(key, [])]
    choices = [value for key in CHOICE_KEYS for value in fields.get(key, [])]
    readings = {_json_verdict(value) for value in values or choices}
    readings |= {_json_verdict(value) for value in choices} - {None}
    if len(readings) != 1:
        return _unread("the reply has several verdicts" if values or choices else "the reply has no verdict")
    verdict = readings.pop()
    if verdict is None:
        return _unread(f"verdict {str((values or choices)[0])[:20]} is none of 1, 2, 3")
    pairs = _scored_pairs(fields)
    scored = {_scores(pair).verdict for pair in pairs} - {UNPARSED, TIE, verdict}
    if any(fields.get("error", [])):
        return _unread("the reply is an error")
    if scored or _takes_back(rest, verdict) or contradicted(_words(fields), verdict):
        return _unread("the reply says two things")
    return ParsedVerdict(verdict=verdict)


def _words(fields: dict[str, list[Any]]) -> str:
    """The texts of a JSON object, such as its explanation, a line each."""
    return "\n".join(value for values in fields.values() for value in values if isinstance(value, str))


def _json_verdict(value: Any) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, Fields):  # {"verdict": {"choice": 2, "confidence": 0.8}}
        inner = [one for key in (*VERDICT_KEYS, "choice", "value", "answer") for one in value.fields.get(key, [])]
        return _json_verdict(inner[0]) if len(inner) == 1 else None
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        return None
    return read_phrase(str(value))


def _takes_back(rest: str, verdict: int) -> bool:
    """Whether what follows a verdict unsays it, as far as words tell, or may do so in a short last line."""
    if _RETRACTED.search(rest) or verdicts_behind(rest) - {verdict}:
        return True
    return doubts(rest, verdict) and not supports(rest, verdict, named=True)


def _verdict(reading: Reading) -> ParsedVerdict:
    if reading.verdict is None:
        return _unread("the reply says two things" if reading.conflict else "the last line is no verdict")
    return ParsedVerdict(verdict=reading.verdict)


def _unread(reason: str) -> ParsedVerdict:
    return ParsedVerdict(verdict=UNPARSED, reason=reason)


def _score_text(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    text = str(value).strip()
    return re.split(r"\s?/|\sout", text)[0] if _ANSWERED.fullmatch(text) else None


def _number(text: str | None) -> float | None:
    try:
        return float(text.replace(",", ".")) if text is not None else None
    except ValueError:
        return None


def _scores(pair: Pair | None) -> ParsedScores:
    if pair is None or pair.one is None or pair.two is None:
        return ParsedScores(reason="no two scores" if pair is None else "the reply lacks a score")
    values = [float(text.replace(",", ".")) for text in (pair.one, pair.two)]
    for score in values:
        if not MIN_SCORE <= score <= MAX_SCORE:
            return ParsedScores(reason=f"score {score:g} is out of range: {MIN_SCORE:g} to {MAX_SCORE:g}")
    return ParsedScores(score_a=values[0], score_b=values[1])
