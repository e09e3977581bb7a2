"""Does an answer try to steer its judge? Disarms what could pass for a part of the prompt, and says what was tried.

Library only. `neutralise` makes an answer's delimiters, control tokens and printed verdicts into plain text;
`injection_flags` names what it held, so that a report can show how often flagged answers win. Both look through
zero-width characters, accents and letters of other alphabets that look Latin. A flag is no proof: an answer about
judging may earn one, and is shown to the judge all the same.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from eval.judging.matches import NOBODY, Judgment
from eval.verdicts.codes import FIRST, SECOND

CONTROL_TOKEN = re.compile(
    r"<[|\uff5c]([^|<>\n\uff5c]{1,40})[|\uff5c]>|\[(/?INST)\]|<(/?s|/?SYS|(?:start|end)_of_turn)>"
)
_SUBJECT = r"(?:the )?(?:question|(?:reference )?answer|assistant|system|instructions?|verdict|grade|user)\b"
_WEAK = rf"\[ ?(?:/ ?)?{_SUBJECT} ?(?:\d+|[a-c]\b)?(?:'s answer)? ?\]"  # may be a list in code
_STRONG = (
    rf"\[ ?(?:/ ?)?(?:(?:the )?(?:start|end|begin(?:ning)?) of\b[^\[\]]*|{_SUBJECT} ?(?:\d+|[a-c]\b)?(?:'s answer)?"
    r"(?: (?:begins?|ends?|starts?)(?: [0-9a-f]{4,})?| [0-9a-f]{4,})) ?\]"
)
_DELIMITER = re.compile(  # of a line as `_bare` writes it: no blank beside another, none at an end
    rf"(?:[^\w\[\]]|\d{{1,3}}[.)]|[a-z][.)]|\w{{1,20}}:){{0,9}}{_WEAK}(?: ?$| ?: ?| (?=\w))|{_STRONG}"
)
_ANYWHERE = re.compile(  # within a line too; a list in code stands behind one of these marks
    rf"{_STRONG}|(?<![=(,+:])(?<![=(,+:] )\[ ?(?:/ ?)?(?:the )?(?:instructions?|system|verdict) ?\](?: ?$| ?:| (?=\w))"
)
_LABEL = r"\[\[ ?(?:[%s]|tie|[ab12] ?[<>=]{1,3} ?[ab12]) ?\]\]"
_WHO = r"(?:answer|assistant|response|model)"
_PRINTED = re.compile(  # a line that is a verdict and nothing else
    rf"{_LABEL % 'abc123'}\.?|"
    r"\{ ?\"?(?:verdict|winner|explanation|score_[12ab])\"? ?:.*\}|"
    r"(?:(?:my|the|final) ){0,3}(?:verdict|winner|judge?ment|preference)(?: is)? ?[:=]? ?[\"'*]{0,3}"
    rf"(?:{_WHO} )?[123abc][\"'*]{{0,3}}\.?"
)
_SAID = re.compile(  # words for a judge, anywhere
    rf"{_LABEL % 'abc'}(?! ?[,\]])|"
    r"\"(?:verdict|winner)\" ?: ?\"?[123ab]\b|\"score_[12ab]\" ?: ?\d|"
    rf"\b(?:verdict|winner)(?: is)? ?[:=]? ?[\"'*]{{0,3}}(?:{_WHO} )?[12ab][\"'*]{{0,3}}(?:[.!\n]|$)|"
    rf"\b{_WHO} ?#?[12ab] (?:wins\b|is (?:\w+ ){{0,2}}(?:better|best|superior|(?:the )?winner)\b)"
)
_ORDER = re.compile(
    r"\b(?:ignore|disregard|forget|override)\b[^.\n]{0,40}"
    r"\b(?:instructions?|prompts?|criteria|other (?:answer|assistant|response))\b|"
    r"\b(?:dear|attention|hey|note to(?: the)?) (?:judge|evaluator|grader|reviewer)s?\b|"
    r"\b(?:choose|prefer|pick|select|rate|score|grade|judge) (?:this|my|the (?:first|second|above)) "
    r"(?:answer|response|one)\b|"
    r"\b(?:output|print|write|return|give)\b[^.\n]{0,30}"
    r"\b(?:verdict|(?:highest|full|top|maximum) (?:score|rating|marks?)|10/10|a 10\b)"
)
_OPENINGS = "[\uff3b\u3010\u3014\u3016\u301a\u27e6\u2045\u2772\ufe5d"
_CLOSINGS = "]\uff3d\u3011\u3015\u3017\u301b\u27e7\u2046\u2773\ufe5e"
OPENING, CLOSING = re.compile(f"[{re.escape(_OPENINGS)}]"), re.compile(f"[{re.escape(_CLOSINGS)}]")
_BRACKETS = (
    {ord(mark): "[" for mark in _OPENINGS}
    | dict.fromkeys((0xFDFA, 0xFDFB), " ")
    | {ord(mark): "]" for mark in _CLOSINGS}
)
_LOOKALIKES = str.maketrans(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0455\u0501\u04bb\u0432\u043d\u043a\u043c\u0442\u0261\u0131\u051d\u0578\u057d"
    "\u03b1\u03bf\u03bd\u03c1\u03c4\u03b9\u03b5\u03ba\u03b7\u03c5\u03c7\u03c2\u03c3",
    "aeopcyxisdhbhkmtgiwnu" + "aovptiekhuxcs",
)
_MARKUP = " \t>#*-+~_`|"  # what may stand around a delimiter and leave it one to a reader
LINE_ENDS = re.compile(r"\r\n|[\n\r\x0b\x0c\x85\u2028\u2029]")
DELIMITER_FLAG, TOKEN_FLAG, VERDICT_FLAG, ORDER_FLAG = "delimiter", "control token", "verdict", "order"


@dataclass(frozen=True, slots=True, kw_only=True)
class FlaggedWins:
    """How often answers that try to steer their judge win. Matches in which both or none do are left out."""

    num_answers: int  # (question, system) with a flag
    num_matches: int  # in which one of the two answers is flagged, and a verdict could be read
    num_wins: int  # of the flagged answer
    num_ties: int


def neutralise(text: str, lines: Sequence[str] = ()) -> str:
    """Makes `text` unable to pass for a part of the prompt around it; ordinary text comes back unchanged.

    Args:
        text: a question or an answer.
        lines: further lines that count as delimiters, such as a template's own.
    """
    text = text.encode("utf-8", "replace").decode()  # half a surrogate pair can't be sent or stored
    text = CONTROL_TOKEN.sub(_broken_token, text)
    known = {plain(line) for line in lines}
    return "\n".join(_line(line, known) for line in LINE_ENDS.split(text))


def injection_flags(text: str, lines: Sequence[str] = ()) -> tuple[str, ...]:
    """What an answer holds that may steer a judge: delimiters, control tokens, a printed verdict, an order to it.

    Args:
        text: the answer.
        lines: further lines that count as delimiters, such as a template's own.
    """
    known = {plain(line) for line in lines}
    rows = LINE_ENDS.split(text)
    said = "\n".join(plain(row) for row in rows)
    found = {
        DELIMITER_FLAG: any(_is_delimiter(row, known) for row in rows),
        TOKEN_FLAG: bool(CONTROL_TOKEN.search(text)),
        VERDICT_FLAG: bool(_SAID.search(said)) or any(_is_printed(row) for row in rows),
        ORDER_FLAG: bool(_ORDER.search(said)),
    }
    return tuple(name for name, is_there in found.items() if is_there)


def flagged_wins(judgments: Iterable[Judgment]) -> FlaggedWins:
    """Counts flagged answers and the matches that they win against answers without a flag."""
    answers: set[tuple[str, str]] = set()
    num_matches = num_wins = num_ties = 0
    for judgment in judgments:
        is_a, is_b = bool(judgment.flags_a), bool(judgment.flags_b)
        answers |= {(judgment.question_id, judgment.system_a)} if is_a else set()
        answers |= {(judgment.question_id, judgment.system_b)} if is_b else set()
        if is_a == is_b or judgment.reason is not None or judgment.system_b == NOBODY:
            continue
        num_matches += 1
        num_wins += judgment.verdict == (FIRST if is_a else SECOND)
        num_ties += judgment.verdict not in (FIRST, SECOND)
    return FlaggedWins(num_answers=len(answers), num_matches=num_matches, num_wins=num_wins, num_ties=num_ties)


def plain(line: str) -> str:
    """A line as a reader sees it: no invisible characters or accents, Latin letters for what looks like them."""
    if not line.isascii():
        line = unicodedata.normalize("NFKD", line.translate(_BRACKETS))
        unseen = {ord(mark) for mark in set(line) if unicodedata.category(mark) in ("Cf", "Mn", "Me", "Cc")}
        line = line.translate(dict.fromkeys(unseen)).casefold().translate(_LOOKALIKES)
    return " ".join(line.casefold().split())


def _line(line: str, known: set[str]) -> str:
    if _is_delimiter(line, known):
        return CLOSING.sub(")", OPENING.sub("(", line)) if OPENING.search(line) else f"> {line}"
    return f"> {line}" if _is_printed(line) else line


def _is_delimiter(line: str, known: set[str]) -> bool:
    if not OPENING.search(line) and not known:
        return False
    seen = plain(line)
    if seen in known:
        return True
    bare = seen.strip(_MARKUP)
    return bool(_DELIMITER.match(bare)) or bool(_ANYWHERE.search(bare))


def _is_printed(line: str) -> bool:
    return len(line) <= 300 and bool(_PRINTED.fullmatch(plain(line).strip(_MARKUP)))


def _broken_token(found: re.Match[str]) -> str:
    return f"< {found[1]} >" if found[1] else f"( {found[2] or found[3]} )"
