"""Reads a verdict from labels such as [[A>B]], boxes and the last line of a reply. A part of `eval.judging.parse`."""

import re
from dataclasses import dataclass

from eval.judging.reading.sentences import (
    CLAUSE,
    MAX_LINE,
    MAX_SHORT,
    NOISE,
    TOKEN,
    has_words,
    names_other,
    read_phrase,
    read_statement,
    tokens_of,
)
from eval.judging.reading.support import favours, supports
from eval.judging.reading.words import AGAINST, FAREWELLS, NOT_YET, NOUNS, OTHERS_SAY, SIDES, VALUES
from eval.verdicts.codes import FIRST, SECOND, TIE

_LABEL = re.compile(r"\[\[ ?([^\[\]\n]{1,12}) ?\]\]")
_QUOTED_LABEL = re.compile(  # "[[A]] is best", as an answer prints it; a label alone in quotes is the judge's
    r"[\"\u201c](?![\[\]12ABab ]{5,9}[\"\u201d])[^\"\u201c\u201d\n]{0,60}"
    r"\[\[[^\[\]\n]{1,12}\]\][^\"\u201c\u201d\n]{0,60}[\"\u201d]"
)
_SHOWN = re.compile(r"\b(?:e\.g\.|example|such as|format|template)[\s:,\"'`*]*\Z", re.IGNORECASE)  # a label, not given
_BOX = re.compile(r"[-*\d.) \t]{0,9}(?:\[(?P<box>[ xX\u2713\u2714])\]|(?P<mark>[\u2610\u2611]))(?P<choice>.{1,80})")
_REASON = re.compile(
    r"[-#*\s]{0,9}(?:reason\w*|explanation|rationale|justification|why|here['\u2019]s why)\W{0,3}(?::|\Z)",
    re.IGNORECASE,
)
_HERE_WHY = re.compile(r"[.,:]? (?:(?:here['\u2019]s|here is|this is) why\W*|because\s?:\W*)\Z", re.IGNORECASE)
_REASONING = re.compile(
    r"reason|explan|rationale|justif|analysis|assess|evaluat|summary|note|overall|comment|why", re.IGNORECASE
)
_ASIDE = re.compile(  # how the judge went about it
    r"\W*(?:note that |please note that )?(?:i (?:have )?(?:ignored|disregarded|set aside)|evaluated|judged)\b"
    r"[^\d]{0,60}\b(?:order|length|position)\b[^\d]{0,40}\Z",
    re.IGNORECASE,
)
_THEREFORE = re.compile(r", (?:so|hence|therefore|thus)\b", re.IGNORECASE)
_CITED = re.compile(  # at the end of a line: 'answer 1 says: "Verdict: 1"'
    r"\b(?:says|said|claims?|claimed|states|stated|writes|wrote|ends with|prints|reads)\b[^\"\u201c\u201d]{0,20}"
    r"[\"\u201c][^\"\u201c\u201d]*[\"\u201d]\W*\Z",
    re.IGNORECASE,
)
_ASPECTS = re.compile(r"\b(?:in|regarding|in terms of|job (?:of|at)) ")  # of what the answers are compared in
_SAYS_VERDICT = re.compile(
    r"[\W_]*(?:(?:my|the|final|overall) )*(?:(?:verdict|winner|decision|judge?ment|conclusion|f?boxed)\b"
    r"|(?:final|overall)\W*:)",
    re.IGNORECASE,
)
_SAYS_OR_IS_VERDICT = re.compile(rf"{_SAYS_VERDICT.pattern}|\W*[123]\W*\Z", re.IGNORECASE)
MAX_COMPARED = 4000  # characters at the end of a reply in which sentences are looked for that say who is better
_WHO_IS_BETTER = re.compile(
    r"(?:answer|assistant|response|option|model|first|second|\b[12AB])\b.*\b(?:better|best|superior|stronger|winner|wins?|won|beats"
    r"|outperforms|preferable|preferred|worse|more)\b|\b(?:prefer|choose|pick|better (?:answer|response|one) is)\b"
    r"|\b(?:equal\w*|tied?|draw|on par|identical|verdict is|winner is)\b",
    re.IGNORECASE,
)
_HEADING = re.compile(r"[\W_]*(?:[\w ]{1,30})\W{0,3}:")
_LISTED = re.compile(r"\W*\d")  # an item of a list
_MARKUP = " \t>#*-+•·"
_NONE = re.compile(
    r"\bno (?:valid )?(?:verdict|judge?ment)\b|\b(?:unable to|can(?:not| not|['\u2019]t)) "
    r"(?:decide|determine|judge|evaluate|compare|choose|pick|give a verdict)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The verdict that was read. If there is none, `conflict` says whether there were several."""

    verdict: int | None = None
    conflict: bool = False
    rest: str = ""  # the text after a label


def read_labels(text: str) -> Reading:
    """The one verdict that all labels of a text agree on."""
    given = _QUOTED_LABEL.sub("", text)
    labels = list(_LABEL.finditer(given)) if _LABEL.search(given) else []
    text = given if labels else text
    labels = labels or list(_LABEL.finditer(text))
    verdicts = {read_phrase(label) for label in {match[1] for match in labels}}
    if len(verdicts) != 1 or None in verdicts:
        return Reading(conflict=len(verdicts) > 1)
    last = labels[-1]
    start = max(text.rfind("\n", 0, last.start()) + 1, last.start() - MAX_SHORT)
    reasons = list(_THEREFORE.finditer(text, start, last.start()))
    start = reasons[-1].end() if reasons else start  # "A makes errors and B does not, so [[B]]"
    end = min(len(text) if (at := text.find("\n", last.end())) < 0 else at, last.end() + MAX_SHORT)
    around = {token.lower() for token in TOKEN.findall(text[start:end])}
    if _SHOWN.search(text, start, last.start()) or _CITED.search(text[start:end]):
        return Reading(conflict=True)
    if (OTHERS_SAY | NOT_YET) & set(tokens_of(CLAUSE.split(text[start : last.start()])[-1])):
        return Reading(conflict=True)  # "the user thinks that it is [[A]]"
    if around & (AGAINST | {"?"}) or any(token.endswith(("n't", "n\u2019t")) for token in around):
        return Reading(conflict=True)
    return Reading(verdict=verdicts.pop(), rest=text[last.end() :])


def says_none(text: str) -> bool:
    """Whether a short line says that there is no verdict: "I cannot decide.\\n2"."""
    return any(len(line) <= MAX_SHORT and _NONE.search(line) for line in dict.fromkeys(text.splitlines()))


def read_line(text: str) -> Reading:
    """What the last line says; farewells and lines without a word don't count. Else what an explanation bears out."""
    lines = (line for line in reversed(text.splitlines()) if has_words(line) and not _is_farewell(line))
    line = next(lines, "").strip()
    if len(line) > MAX_LINE or (0 < len(line) <= MAX_SHORT and _is_listed(line, next(lines, ""))):
        return Reading()
    if (checked := _checked(text)) is not None:
        return checked
    clauses = [clause for clause in CLAUSE.split(line) if has_words(clause)]
    if line.endswith("?") or not clauses or _CITED.search(line):
        return Reading()
    if _REASON.match(line):
        return _explained(text)
    readings = [read_statement(clause) for clause in clauses]
    said = {reading for reading in readings if reading is not None}
    numbered = any(  # "Ranking: 1. Answer 2, 2. Answer 1"
        reading is None and tokens_of(clause)[-1:] in (["1"], ["2"]) and NOUNS.issuperset(tokens_of(follows)[:1])
        for clause, follows, reading in zip(clauses, clauses[1:], readings, strict=False)
    )
    if len(said) > 1 or numbered:
        return Reading(conflict=len(said) > 1)
    verdict = readings[-1]
    if verdict is None:
        return _explained(text)
    if ("more" in line or _ASPECTS.search(line)) and verdict != TIE and favours(text, FIRST + SECOND - verdict):
        return Reading(conflict=True)  # "Answer 1 is more concise. Answer 2 is more accurate."
    return Reading(verdict=verdict)


def _explained(text: str) -> Reading:
    """The verdict of the first line, of the last that says that it is one, or at the beginning of the last line.

    What follows has to be an explanation that bears it out.
    """
    rows = [row for row in text.splitlines() if has_words(row) and not _is_farewell(row)]
    size = 0
    starts = {0}
    for number in range(len(rows) - 1, -1, -1):
        if (size := size + len(rows[number])) > MAX_LINE:
            break
        if number + 1 < len(rows) and (_SAYS_VERDICT.match(rows[number]) or _REASON.match(rows[number + 1])):
            starts.add(number)
            break
    found = {
        _with_explanation(rows[start], rows[start + 1 :])
        for start in starts
        if len(rows) > 1 and len(rows[start]) <= MAX_SHORT
    }
    *_, last = rows
    first = CLAUSE.split(last)[0]
    listed = _LISTED.fullmatch(first) and any(_LISTED.match(row) for row in rows[:-1])
    if len(first) < len(last) and not listed:
        found.add(_with_explanation(first, [last[len(first) :]]))
    found -= {None}
    return Reading(verdict=found.pop()) if len(found) == 1 else Reading(conflict=len(found) > 1)


def _with_explanation(line: str, behind: list[str]) -> int | None:
    verdict = read_statement(_HERE_WHY.sub("", line)) if len(line) <= 2 * MAX_SHORT else None
    if verdict is None or sum(map(len, behind)) > MAX_LINE:
        return None
    explanation = "\n".join(_REASON.sub("", NOISE.sub(" ", row)) for row in behind)
    is_named = not (behind and (_REASON.match(behind[0]) or _HERE_WHY.search(line)))
    if not verdicts_behind(explanation) <= {verdict}:
        return None
    return verdict if supports(explanation, verdict, named=is_named) else None


def verdicts_before(text: str) -> set[int]:
    """The verdicts of short lines above the last one that say that they are one: "Verdict: 1"."""
    lines = {line.strip() for line in dict.fromkeys(text.splitlines()) if len(line) <= MAX_SHORT and has_words(line)}
    if lines <= {"1", "2", "3"}:  # nothing but verdicts
        return {int(line) for line in lines}
    ticked = [match["choice"] for line in lines if (match := _BOX.fullmatch(line)) and _is_ticked(match)]
    return {v for choice in ticked if (v := read_phrase(choice)) is not None} | {
        v for line in lines if _SAYS_VERDICT.match(line) and (v := read_statement(line)) is not None
    }


def contradicted(text: str, verdict: int) -> bool:
    """Whether sentences at the ends of lines say who is better, and all of them say otherwise than the verdict.

    Where they differ, each is of one aspect. One alone of an aspect, as "Style: answer 1 is better", says nothing.
    """
    overall: set[int] = set()
    aspects: list[int] = []
    rows = [row for row in text[-MAX_COMPARED:].splitlines() if row and not row.isspace()]
    for line in dict.fromkeys(rows):
        last = next((clause for clause in reversed(CLAUSE.split(line)) if has_words(clause)), "")
        if line.startswith(">") or len(last) > MAX_SHORT or not _WHO_IS_BETTER.search(last):
            continue
        heading = None if _SAYS_VERDICT.match(line) else _HEADING.match(line)
        if heading and (own := _HEADING.match(last)):
            last = last[own.end() :]
        compared = read_statement(last)
        if compared is None or (compared == TIE and line not in rows[-2:]):  # equal in one thing, said further up
            continue
        if heading and not _REASONING.search(heading[0]):
            aspects.append(compared)
        elif not _ASPECTS.search(last):
            overall.add(compared)
    overall |= set(aspects) if len(aspects) > 1 else set()
    return bool(overall) and verdict not in overall


def first_verdict(text: str) -> set[int]:
    """The verdict of a first line that is nothing but one: "3", before a last line that may say another."""
    line = next((row for row in text.splitlines() if has_words(row)), "")
    is_verdict = len(line) <= MAX_SHORT and _SAYS_OR_IS_VERDICT.match(line)
    return {verdict for verdict in [read_statement(line) if is_verdict else None] if verdict is not None}


def ends_in_digit(text: str) -> bool:
    """Whether the last line is the paper's format."""
    return text.rstrip().rpartition("\n")[2].strip(" *_`.") in ("1", "2", "3")


def verdicts_behind(rest: str) -> set[int]:
    """The verdicts of all short lines behind one that was read."""
    lines = {line.strip() for line in dict.fromkeys(rest.splitlines()) if len(line) <= MAX_LINE and has_words(line)}
    clauses = {clause for line in lines for clause in CLAUSE.split(NOISE.sub(" ", line))}
    reasons = {said for clause in clauses if len((said := clause.rpartition(":")[2]).split()) > 2}  # "Reason: A wins"
    said = {statement for statement in lines | clauses | reasons if not statement.endswith("?")}
    return {verdict for statement in said if (verdict := read_statement(statement)) is not None}


def _checked(text: str) -> Reading | None:
    """The one box that is ticked in a list of boxes at the end; None where there is no such list."""
    boxes = []
    for line in reversed(text.splitlines()):
        if not (match := _BOX.fullmatch(line)):
            if has_words(line):
                break
            continue
        boxes.append(match)
    ticked = [match for match in boxes if _is_ticked(match)]
    if len(boxes) < 2:
        return None
    return Reading(verdict=read_phrase(ticked[0]["choice"])) if len(ticked) == 1 else Reading(conflict=len(ticked) > 1)


def _is_ticked(box: re.Match[str]) -> bool:
    return (box["box"] or box["mark"]) not in (" ", "\u2610")


def doubts(rest: str, verdict: int) -> bool:
    """Whether the last line behind a verdict is short, and denies something or names another verdict."""
    last = next((line for line in reversed(rest.splitlines()) if has_words(line) and not _is_farewell(line)), "")
    if not last or len(last) > MAX_SHORT:
        return False
    tokens = tokens_of(last)
    return bool(AGAINST & set(tokens)) or any("n't" in token for token in tokens) or names_other(tokens, verdict)


def _is_listed(line: str, before: str) -> bool:
    """Whether two lines differ in the side that they name alone: a list of the answers, which chooses none."""
    if len(before) > MAX_SHORT:
        return False
    rows = [tokens_of(row.strip()) for row in (line, before)]
    if len(rows[0]) == 1 and rows[0][0].isdigit():
        return False  # the verdict of the paper's format, whatever stands before it
    shapes = [["" if VALUES.get(token) in SIDES else token for token in row] for row in rows]
    return shapes[0] == shapes[1] and "" in shapes[0] and rows[0] != rows[1]


def _is_farewell(line: str) -> bool:
    """Whether a line says nothing of the verdict: a farewell, how sure the judge is, how it went about it."""
    plain = line.strip(_MARKUP).lower()
    if len(line) <= 2 * MAX_SHORT and _ASIDE.match(line):
        return True
    return plain.startswith(("confidence", "certainty", "margin")) or (
        plain.startswith(FAREWELLS) and not any(c.isdigit() for c in line)
    )
