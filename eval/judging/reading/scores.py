"""Reads one or two ten-point scores from a judge's plain text. A part of `eval.judging.parse`.

In this order: a first line that is two numbers; two first lines that are a number each; one tuple; one line of two
numbers further down; one labelled score for each answer. A number may be followed by "/10", by no other denominator.
Scores that a later line takes back ("No, 9 8") are none.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from eval.judging.reading.words import CHANGED, TAKEN_BACK

MAX_LINE = 120  # characters; a line of scores is short
_NUMBER = r"(\d{1,2}(?:[.,]\d{1,2})?)(?:\s?/\s?10|\s(?:out\sof|von|sur|su|de|из)\s10)?(?![\d/%])"
_RATED = r"(?:scores?|ratings?|bewertung|punkte|punktzahl|notes?|puntuación|puntuaciones|评分|得分|分数|оценки|оценка)"
_LEAD = rf"(?:(?:(?:the |final |my |overall )?{_RATED}(?: are)?|final|overall|total) ?[:=]? ?)?"
_PAIR = re.compile(
    rf"{_LEAD}{_NUMBER}(?P<between> ?[,;/|&] ?| - | and | vs\.? | )(?:and )?{_NUMBER}"
    r"(?:,? respectively)?(?: ?\((?:[^()\d]|10)*\))? ?\.?",
    re.IGNORECASE,
)
_SINGLE = re.compile(rf"(?:- )?{_RATED}? ?[:=]? ?{_NUMBER} ?\.?", re.IGNORECASE)
_BOTH = re.compile(
    rf"(?:both(?: (?:answers|assistants|responses))?(?: (?:get|receive|score|earn|deserve))?:? (?:an? )?{_NUMBER}"
    rf"|{_NUMBER} (?:for|to) both(?: (?:answers|assistants|responses))?) ?\.?",
    re.IGNORECASE,
)
_TUPLE = re.compile(rf"[(\[]\s{{0,3}}{_NUMBER}\s{{0,3}},\s{{0,3}}{_NUMBER}\s{{0,3}}[)\]]")
_WHO = (
    r"(?:assistant|answer|response|option|model|candidate|score|rating|antwort|réponse|respuesta|risposta|resposta|ответ"
    r"|odpowiedź|antwoord|回答|答案|助手|选项|回复|답변|응답)"
)
_POINTS = r"(?:\s?(?:points?|pts|punkte|分|点|점))?"
_SIDE_NAME = rf"(?:{_WHO}\s{{0,3}}#?(?P<who>[12ab])|(?P<nth>first|second)(?:\s{_WHO})?)"
_SIDE_NOUN = r"(?:'s)?(?:\s(?:score|rating|grade|answer)){0,2}(?:得分|分数|评分)?\)?"
_REMARK = r"\((?![^)\n]{0,40}\d)[^)\n]{0,80}\)(?!\s?,\s?\d)"  # without a number, which might be another score
_LABELLED = re.compile(
    rf"(?P<rated>\b(?:score|rating|grade)s?\s(?:for|of)\s(?:the\s)?)?\b(?<!-){_SIDE_NAME}{_SIDE_NOUN}"
    r"(?:\s{0,3}[:=(|→]\s{0,3}|\s[-\u2013\u2014]\s|\s(?:scored?s?|gets|receives|earns|deserves|merits|warrants|at)\s|\s(?=an?\s)"
    r"|\s(?=\d{1,2}(?:[.,]\d{1,2})?(?:\s(?:points|pts)|\s?/\s?10)\b)"
    r"|(?(rated)\sis\s|(?<=score)\sis\s))"
    rf"(?:an?\s)?(?:(?:score|rating|grade)\sof\s)?(?P<score>{_NUMBER}){_POINTS}"
    rf"(?=\s{{0,3}}(?:$|[\n,;.)|、]|(?:and|vs|while|whereas)\b|{_WHO}\b|{_REMARK})|\s[-\u2013\u2014]\s(?!\d))",
    re.IGNORECASE,
)
_SCORE_FIRST = re.compile(
    rf"(?<![\d.,/:=~<>\u2248\u00b1\u2264\u2265+\-\u2013\u2014])(?<!or )(?<!to )"
    r"(?<!between \d and )(?<! [-\u2013\u2014] )"
    rf"(?P<score>{_NUMBER})\s"
    rf"(?:(?:for|to)\s(?:the\s)?(?:{_WHO}\s?#?(?P<who>[12ab])\b(?!\s?[:=(])|(?P<nth>first|second)\b)"
    rf"|\({_WHO}\s?#?(?P<within>[12ab])\))",
    re.IGNORECASE,
)
_SCORE_LINE = re.compile(
    rf"(?:- )?(?:(?:final|overall|revised|updated|corrected|new) )?(?:{_RATED}|overall|total) ?[:=]? ?{_NUMBER} ?\.?",
    re.IGNORECASE,
)
_LISTED = re.compile(rf"(?P<who>[12AB]) ?[:.)=] ?{_NUMBER} ?\.?")
_LETTERED = re.compile(
    rf"{_LEAD}(?P<who>[AB])(?: ?[:=] ?| - | ){_NUMBER}(?: ?[,;/|] ?| and | )"
    rf"(?!(?P=who))[AB](?: ?[:=] ?| - | ){_NUMBER} ?\.?"
)
_FINAL = r"final\w*|overall|(?:in )?total|in sum|all in all|verdict"  # a later score, which differs from an earlier one
_AGAIN = re.compile(rf"\b(?:{CHANGED}|{TAKEN_BACK}|{_FINAL})(?!\w)", re.IGNORECASE)
_UNSAID = re.compile(rf"\b(?:{TAKEN_BACK})(?!\w)", re.IGNORECASE)
_ORDER = re.compile(r"\b(?:order|scores?|ratings?)\b", re.IGNORECASE)
_LAST_NUMBERS = re.compile(
    rf"(?:\A|[\s(:=]){_NUMBER}(?:(?: ?[,;/|&] ?| - | and | vs\.? | to | )(?:and )?{_NUMBER})? ?[.!)]?\Z"
)
_SAID_ANEW = re.compile(
    rf"\b(?:wait|no|actually|correction|corrected|revis\w*|chang\w*|updat\w*|sorry|should be)"
    rf"[\s,:;.-]{{1,3}}(?:(?:it|that|to|is|as|a)\s){{0,2}}{_NUMBER}\s?[.!)]?\Z",
    re.IGNORECASE,
)
_MOVED = re.compile(
    r"\b(?:1|a) (?:is|was) (?:shown|listed|presented|given) (?:second|last)\b"
    r"|\b(?:drop|lower|rais|reduc|cut|bump|adjust|downgrad|upgrad)\w*\b[^\d\n]{0,30}\bto (?:an? )?\d",
    re.IGNORECASE,
)
_ONE_CHANGED = re.compile(
    rf"\b(?:{CHANGED})(?!\w)[^\n]{{0,60}}\b{_WHO}\s?#?[12ab]\b[^\n\d]{{0,30}}{_NUMBER}\s?[.!]?\Z", re.IGNORECASE
)
_SECOND_FIRST = re.compile(
    r"\b(?:order|assistants?|answers?|responses?|models?)\W{0,3}(?:2|b)\W{1,5}(?:and\W|then\W)?"
    r"(?:(?:assistant|answer|response|model)\W)?(?:1|a)\b",
    re.IGNORECASE,
)
_SIDE_CELL = re.compile(rf"(?:{_WHO} ?)?#?(?P<who>[12ab])", re.IGNORECASE)
_TOTAL_CELL = re.compile(r"(?:overall|total|final)(?: score| rating)?|scores?|ratings?", re.IGNORECASE)
_CELL_NUMBER = re.compile(_NUMBER)
_SIDES = {"1": "1", "a": "1", "first": "1", "2": "2", "b": "2", "second": "2"}
MAX_ROWS = 40  # of a table
_PRODUCT = re.compile(r"\d[*_#`$]+\d|\d \*+ \d")  # or a power: no markup
_SIDE_TAG = re.compile(r"<(?:score|answer|assistant)_?([12ab])>", re.IGNORECASE)
_NOISE = re.compile(r"[*_`#$\[\]{}\"\u201c\u201d\u2b50]+|\\boxed|\\text|</?[A-Za-z_]{1,20}\d?>|\A[> ]+(?=[\w>])")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two scores as they are written; None for what is no number."""

    one: str | None
    two: str | None


_GRADE_LABEL = re.compile(r"\[\[\s{0,3}([^\[\]\n]{1,12}?)\s{0,3}\]\]")
_GRADE_WORD = rf"(?:{_RATED}|grade|mark|verdict|final|overall|total)"
_GRADE_LINE = re.compile(
    rf"(?:(?:the|my|final|overall|so|thus|therefore|hence|an?|solid|strong|fair|clear),? ){{0,4}}"
    rf"(?:{_GRADE_WORD}(?: (?:score|rating|grade))?"
    rf"(?: (?:for|of) (?:this|the) (?:answer|response))?(?: is| of| would be)? ?[:=]? ?)?\(?{_NUMBER}\)?{_POINTS} ?\.?",
    re.IGNORECASE,
)
_GRADE_SAID = re.compile(
    rf"(?:\b{_GRADE_WORD}(?: is| of| would be)? ?[:=]? ?|\bsettle (?:on|for) "
    r"|\bi(?:'d| would| will)?(?: even)? say |\b(?:answer|response) (?:deserves|earns) "
    r"|\A(?:so )?(?:it|this) is (?=an? )|\bi(?:'d| would| will)? (?:give|rate|grade) "
    rf"(?:it|this|this answer|the answer|this response)(?: at| as| with)? ?)"
    rf"(?:an? )?{_NUMBER}{_POINTS} ?[.!]?\Z",
    re.IGNORECASE,
)
_GRADE_REMARKED = re.compile(  # "8/10 - clear"
    rf"(?:{_GRADE_WORD} ?[:=]? ?)?(\d{{1,2}}(?:[.,]\d{{1,2}})?)\s?/\s?10\s?[-\u2013\u2014:,.]\s[^\d]{{1,100}}",
    re.IGNORECASE,
)
_NO_GRADE = re.compile(
    r"\b(?:not|no|never|or|could|may|might|maybe|perhaps|almost|nearly|hesitat\w*|too|e\.g\.|\w+n['\u2019]t)\b|\?",
    re.IGNORECASE,
)  # in the line of a label
_CONDITION = re.compile(r"\b(?:if|unless|had|were|until)\b", re.IGNORECASE)
_ASPECT = re.compile(
    r"\A(?:confidence|certainty)\b|\b(?:accuracy|style|clarity|depth|helpfulness|relevance)\b", re.IGNORECASE
)


def read_grades(text: str) -> set[str]:
    """All different grades that a reply in plain characters gives to one answer: labels, else its first or last line.

    A number may be followed by "/10". A label that holds no number counts as a grade that can't be read, as does one
    whose line denies it.
    """
    lines = _short_lines(text)
    ends = {match[1] for line in lines[:1] + lines[-1:] if (match := _GRADE_LINE.fullmatch(line) or _said_grade(line))}
    grades = _labels(text) or ends
    return grades | _grades_again(lines) | _said_grades(lines) if grades else grades


def grades_after(text: str) -> set[str]:
    """The grades that stand beside one which was read: labels, a last line, corrections."""
    lines = _short_lines(text)
    last = {match[1] for line in lines[-1:] if (match := _GRADE_LINE.fullmatch(line))}
    return _labels(text) | last | _grades_again(lines) | _said_grades(lines)


def _said_grade(line: str) -> re.Match[str] | None:
    """A grade at the end of a line that says that it is one, and not of one aspect."""
    if _ASPECT.search(line) or _CONDITION.search(line):
        return None
    return _GRADE_SAID.search(line) or (None if _NO_GRADE.search(line) else _GRADE_REMARKED.fullmatch(line))


def _said_grades(lines: list[str]) -> set[str]:
    return {match[1] for line in dict.fromkeys(lines) if (match := _said_grade(line))}


def _short_lines(text: str) -> list[str]:
    return _plain_lines(row for row in text.splitlines() if len(row) <= MAX_LINE)


def _grades_again(lines: list[str]) -> set[str]:
    return {said.one for said in _said_again(lines) if said.one is not None}


def _labels(text: str) -> set[str]:
    found: set[str] = set()
    for row in dict.fromkeys(text.splitlines()):
        labels = {_grade(label) for label in {label.strip("*_` ") for label in _GRADE_LABEL.findall(row)}}
        beside = _GRADE_LABEL.sub(" ", row[-MAX_LINE:])
        found |= {"denied"} if labels and _NO_GRADE.search(beside) else labels
        if labels and (match := _GRADE_LINE.fullmatch(_plain(beside))):
            found.add(match[1])  # "Rating: 6 [[7]]"
    return found


def _grade(label: str) -> str:
    match = _GRADE_LINE.fullmatch(label)
    return match[1] if match else label


def read_pair(text: str) -> Pair | None:
    """The two scores of a reply in plain characters; None where there are none, or more than two."""
    rows = [row for row in text.splitlines() if row and not row.isspace()]
    table = [row for row in rows if row.lstrip().startswith("|") and len(row) <= MAX_LINE]
    if 1 < len(table) <= MAX_ROWS:
        pair = _of_table([_cells(row) for row in table])
        lines = _plain_lines(row for row in rows if row not in table)
        return None if pair is None or _corrected(rows, lines) or _contradicts(lines, pair) else pair
    lines = _plain_lines(rows)
    pair = _first_pair(text, rows, lines) if lines else None
    taken_back = any(_SAID_ANEW.search(line) for line in dict.fromkeys(lines) if len(line) <= MAX_LINE)
    return None if pair is None or taken_back or _contradicts(lines, pair) else pair


def contradicts(text: str, pair: Pair) -> bool:
    """Whether the text behind two scores says others, or takes them back."""
    return _contradicts(_plain_lines(text.splitlines()), pair)


def _contradicts(lines: list[str], pair: Pair) -> bool:
    said = {again for again in _said_again(lines) if again.two is not None}
    said |= {again for line in dict.fromkeys(lines) if (again := _pair(line) or _tuple(line)) is not None}
    said |= {again for again in [_labelled(lines)] if again is not None}
    return bool(said - {pair}) or any(map(_is_unsaying, dict.fromkeys(lines)))


def _is_unsaying(line: str) -> bool:
    """Whether a short line says that what stands before it doesn't count, or counts for the other side."""
    if len(line) > MAX_LINE:
        return False
    return bool(
        _UNSAID.search(line)
        or _MOVED.search(line)
        or _ONE_CHANGED.search(line)
        or (_ORDER.search(line) and _SECOND_FIRST.search(line))
    )


def _corrected(rows: list[str], lines: list[str]) -> bool:
    """Whether a row of a table, or a line beside it, corrects something."""
    again = re.compile(rf"\b(?:{CHANGED}|{TAKEN_BACK})(?!\w)", re.IGNORECASE)
    return any(len(row) <= MAX_LINE and again.search(row) for row in [*rows, *lines])


def _cells(row: str) -> list[str]:
    return [_plain(cell) for cell in row.strip().strip("|").split("|")]


def _of_table(rows: list[list[str]]) -> Pair | None:
    """The scores of a table that has a column for each answer, or a row for each."""
    columns = {side: number for number, cell in enumerate(rows[0]) if (side := _side(cell))}
    has_columns = set(columns) == {"1", "2"}
    data = [row for row in rows[has_columns:] if any(_CELL_NUMBER.fullmatch(cell) for cell in row)]
    cells: dict[str | None, list[str]]
    if has_columns:
        totals = [row for row in data if _TOTAL_CELL.fullmatch(row[0])] or data
        if len(totals) != 1 or max(columns.values()) >= len(totals[0]):
            return None
        cells = {side: [totals[0][number]] for side, number in columns.items()}
    elif len(data) == 2:
        total = [number for number, cell in enumerate(rows[0]) if _TOTAL_CELL.fullmatch(cell)]
        kept = slice(total[0], total[0] + 1) if len(total) == 1 and total[0] > 0 else slice(1, None)
        cells = {_side(row[0]): row[kept] for row in data}
    else:
        return None
    numbers = {side: [m[1] for cell in row if (m := _CELL_NUMBER.fullmatch(cell))] for side, row in cells.items()}
    if set(numbers) != {"1", "2"} or any(len(values) != 1 for values in numbers.values()):
        return None
    return Pair(numbers["1"][0], numbers["2"][0])


def _side(cell: str) -> str | None:
    match = _SIDE_CELL.fullmatch(cell)
    return _SIDES[match["who"].lower()] if match else None


def _said_again(lines: list[str]) -> Iterator[Pair]:
    """The numbers at the ends of short lines that correct something."""
    for line in dict.fromkeys(lines):
        if len(line) <= MAX_LINE and _AGAIN.search(line) and (match := _LAST_NUMBERS.search(line)):
            yield Pair(match[1], match[2])


def _first_pair(text: str, rows: list[str], lines: list[str]) -> Pair | None:
    if len(lines) > 1 and (pair := _two_lines(lines[0], lines[1])) is not None:
        return None if len(lines) > 2 and _is_score_line(lines[2]) else pair
    if (pair := _pair(lines[0])) is not None:
        return pair
    if any(_SECOND_FIRST.search(line[:MAX_LINE]) for line in dict.fromkeys(lines)):
        return _named(lines)
    tuples = set(_TUPLE.findall(rows[0][:MAX_LINE]) + _TUPLE.findall(rows[-1][:MAX_LINE]))
    tuples = tuples or set(_TUPLE.findall(text))
    below = {pair for line in dict.fromkeys(lines[1:]) if (pair := _pair(line)) is not None}
    below |= {Pair(one, two) for one, two in tuples}
    has_headings = any(len(line) <= MAX_LINE and _side(line.rstrip(": ")) for line in dict.fromkeys(lines))
    if not below and not has_headings:  # else two lines may be of one answer
        below |= {p for one, two in dict.fromkeys(pairwise(lines)) if (p := _two_lines(one, two)) is not None}
    if below:
        return below.pop() if len(below) == 1 else None
    shared = {
        match[1] or match[2]
        for line in (lines[0], lines[-1])
        if len(line) <= MAX_LINE and (match := _BOTH.fullmatch(line))
    }
    return Pair(*2 * shared.pop()) if len(shared) == 1 else _named(lines)


def _named(lines: list[str]) -> Pair | None:
    """The scores that stand beside the answers' names, or in a section below each."""
    sections = _sections(lines)
    if any(len(values) > 1 for values in sections.values()):
        return None
    return _labelled(lines) or _one_each(sections)


def _labelled(lines: list[str]) -> Pair | None:
    scores: dict[str, set[str]] = {"1": set(), "2": set()}
    text = "\n".join(lines)
    for match in _LABELLED.finditer(text):
        scores[_SIDES[(match["who"] or match["nth"]).lower()]].add(_number(match["score"]))
    for match in _SCORE_FIRST.finditer(text):
        side = match["who"] or match["nth"] or match["within"]
        scores[_SIDES[side.lower()]].add(_number(match["score"]))
    return _one_each(scores)


def _sections(lines: list[str]) -> dict[str, set[str]]:
    """The scores on lines of their own below each answer's heading."""
    scores: dict[str, set[str]] = {"1": set(), "2": set()}
    headings = {line: _side(line.rstrip(": ")) for line in dict.fromkeys(lines) if len(line) <= MAX_LINE}
    side = None
    for line in lines:
        if now := headings.get(line):
            side = now
        elif side and line in headings and (match := _SCORE_LINE.fullmatch(line)):
            scores[side].add(match[1])
    return scores


def _one_each(scores: dict[str, set[str]]) -> Pair | None:
    if all(len(values) == 1 for values in scores.values()):
        return Pair(scores["1"].pop(), scores["2"].pop())
    return None


def _number(score: str) -> str:
    match = _CELL_NUMBER.fullmatch(score)
    assert match is not None
    return match[1]


def _tuple(line: str) -> Pair | None:
    match = _TUPLE.fullmatch(line.rstrip(". ")) if len(line) <= MAX_LINE else None
    return Pair(match[1], match[2]) if match else None


def _pair(line: str) -> Pair | None:
    if len(line) <= MAX_LINE and (lettered := _LETTERED.fullmatch(line)):
        first, second = lettered[2], lettered[3]
        return Pair(first, second) if lettered["who"] == "A" else Pair(second, first)
    match = _PAIR.fullmatch(line) if len(line) <= MAX_LINE else None
    if match is None or (
        "," in match[1] + match[3] and match["between"].strip() == "," and " " not in match["between"]
    ):
        return None
    return Pair(match[1], match[3])


def _two_lines(one: str, two: str) -> Pair | None:
    if max(len(one), len(two)) > MAX_LINE:
        return None
    listed = [_LISTED.fullmatch(line) for line in (one, two)]
    if listed[0] and listed[1] and sorted([listed[0]["who"], listed[1]["who"]]) in (["1", "2"], ["A", "B"]):
        first, second = sorted(listed, key=lambda match: match["who"] if match else "")
        return Pair(first[2], second[2]) if first and second else None
    single = [_SINGLE.fullmatch(line) for line in (one, two)]
    return Pair(single[0][1], single[1][1]) if single[0] and single[1] else None


def _is_score_line(line: str) -> bool:
    return len(line) <= MAX_LINE and bool(_SINGLE.fullmatch(line) or re.fullmatch(rf"\d ?[:.)] ?{_NUMBER} ?\.?", line))


def _plain_lines(rows: Iterable[str]) -> list[str]:
    """The lines without markup that are not empty; each different one is looked at once."""
    every = list(rows)
    plain = {row: _plain(row) for row in dict.fromkeys(every)}
    return [plain[row] for row in every if plain[row]]


def _plain(line: str) -> str:
    if _PRODUCT.search(line):
        return line
    return " ".join(_NOISE.sub(" ", _SIDE_TAG.sub(r" answer \1: ", line)).split())
