"""Reads the verdict of one sentence. A part of `eval.judging.parse`.

A sentence is read by a grammar in which every word has to be known: words that lead to a verdict ("I would choose"),
then a verdict ("2", "answer B", "a tie"), or who is better ("answer 2 is better than option 1"), or that both are
equal; then nothing, or a reason that names no other side.
"""

import re
from collections.abc import Sequence

from eval.judging.reading.languages import end_behind_so, translations
from eval.judging.reading.support import bears_out
from eval.judging.reading.wording import plainer, reworded
from eval.judging.reading.words import (
    AGAINST,
    ARTICLES,
    BECAUSE,
    BETTER,
    BOTH,
    BOTH_NAMED,
    BOTH_VERBS,
    DEGREES,
    EQUAL,
    EQUAL_ALONE,
    EQUALLY,
    LEAD,
    NOT_YET,
    NOUNS,
    OTHERS_SAY,
    OVER,
    POINTING,
    REFERENCE,
    SIDES,
    SPELLED,
    THAN,
    UNSURE,
    VALUES,
    VERBS,
    WINS,
    WORSE,
)
from eval.verdicts.codes import FIRST, TIE

MAX_LINE = 2000  # characters; a longer last line is no verdict
MAX_SHORT = 80
MAX_WORDS = 12  # of a sentence that says a verdict again: "1: answer 1 is better"
_RELATION = re.compile(r"(?P<one>[12ab]) ?(?P<sign>[><=≫≪≻≺≈]{1,3}) ?(?P<two>[12ab])", re.IGNORECASE)
NOISE = re.compile(
    r"\\(?:boxed|fbox|text(?:bf|it)?|mathbf|mathrm)|</?(?!(?:del|strike)>)[^<>]{1,20}>|\\|[*_`#$\[\]{}\"\u201c\u201d\u201e|【】「」]+|[👉✅✔☑🏆🥇🎉⭐🎯🔥💯👍➡\U0001F600-\U0001F60F]"
)
TOKEN = re.compile(r"-?\d+(?:[.,]\d+)?(?:st|nd)?|[^\W\d_]+(?:['\u2019][^\W\d_]+)?|[^\w\s]")
_OWNED = re.compile(r"['\u2019](?:s|d|m|re)\b")
CLAUSE = re.compile(r"(?<!\be\.g)(?<!\bi\.e)[.!?;]+\s+|[;。]")
_ENDING = re.compile(
    r"(?:,|^| (?=but )) ?(?:(?:and it is|so|hence|therefore|thus|(?P<but>but)) "
    r"|(?=(?P<chosen>i) (?:would )?(?:choose|select|pick) ))"
    r"| (?=option 3,? as both )"
)
_EVEN = re.compile(r"\b(?:both|equally|neither|no (?:clear |real )?winner)\b", re.IGNORECASE)
_NAMED = re.compile(r"[^\W\d_]{2}")  # a word beside the number: "donc mon verdict est 2"
_EMPTY_BOX = re.compile(r"\[\s?\]|\(\s?\)|[\u2610\u25a1\u25a2\u25fb\u25fd\u2b1c]")  # of a list of choices: not chosen
_JOINED = re.compile(r"(?<=[a-z])-(?=[12ab]\b)", re.IGNORECASE)
_BULLET = re.compile(r"(?:[-=]>|[ \t>#*•·→⇒➜➡∴]|[-+](?=[ \t]))*")  # what is put before a line; "-1" is a number
_CHOICES = re.compile(r"[(\[][123abc ,/|or]{3,20}[)\]](?= ?:)|(?:output )?1, 2,? or 3(?= ?:)", re.IGNORECASE)
_POINTS = POINTING | VERBS | NOUNS | ARTICLES | {"the"}
_SIGNS = str.maketrans({"≫": ">", "≻": ">", "≪": "<", "≺": "<", "≈": "="})
_WHOSE = re.compile(r"\b(?:answer|assistant|option|response|model) ?(?=[12ab]\b)", re.IGNORECASE)
_SEPARATORS = frozenset(":=,.-\u2013\u2014'\u2019→⇒➜")


def read_phrase(text: str) -> int | None:
    """A short text that is a verdict and nothing else: "2", "Answer 2", "A>>B", "tie"."""
    return _sentence(text) if len(text) <= MAX_SHORT else None


def read_statement(clause: str) -> int | None:
    """A clause, its remark in brackets held against it."""
    bare = clause.rstrip(" .!*_`")
    if (
        bare.endswith(")")
        and (bracket := bare.rfind("(")) > 0
        and has_words(bare[:bracket])
        and not bare[:bracket].rstrip().endswith(":")
        and not LEAD.issuperset(tokens_of(bare[:bracket]))
    ):
        verdict, remark = _sentence(bare[:bracket]), bare[bracket + 1 : -1]
        tokens = tokens_of(remark)
        if verdict is None or UNSURE & set(tokens):
            return None
        if tokens[:1] == ["confidence"] or tokens[-1:] == ["confidence"]:
            return verdict
        inner = _sentence(remark)
        if "not" in tokens and {VALUES.get(token) for token in tokens} & {verdict}:
            return None  # "2 (not 2)"
        if tokens in (["wrong"], ["incorrect"], ["false"]):
            return None
        denies = len(tokens) == 2 and tokens[0] == "not" and VALUES.get(tokens[1]) not in (None, verdict)
        return verdict if inner == verdict or denies or (inner is None and not names_other(tokens, verdict)) else None
    return _sentence(clause) or _at_the_end(clause)


def _at_the_end(clause: str) -> int | None:
    """ "..., so answer 2", "..., I choose 3": the end of a clause whose beginning can be anything but a condition."""
    ending = list(_ENDING.finditer(clause.lower()))
    if not ending:
        return _foreign_end(clause)
    before, end = clause[: ending[-1].start()], clause[ending[-1].end() :]
    if (({"not"} | UNSURE | OTHERS_SAY | NOT_YET) - {"but", "however", "wrong"}) & set(tokens_of(before)):
        return None
    needed = BETTER | WINS if ending[-1]["but"] else NOUNS | {"tie", "draw"}
    verdict, said = _sentence(end), _sentence(before)
    equal = verdict == TIE and _EVEN.search(before)
    if not ending[-1]["chosen"] and not needed & set(tokens_of(end)) and said is None and not equal:
        return None
    return verdict if said in (None, verdict) else None


def _foreign_end(clause: str) -> int | None:
    """ "..., donc mon verdict est 2"; a number alone only where what stands before it says the same."""
    if (parts := end_behind_so(clause)) is None:
        return None
    before, end, is_but = parts
    if (AGAINST | UNSURE | OTHERS_SAY) & set(tokens_of(before)) or "n't" in before:
        return None
    verdict = _sentence(end)
    if is_but:  # "..., aber Antwort 2 ist besser"
        return verdict if any((BETTER | WINS) & set(tokens_of(english)) for english in translations(end)) else None
    return verdict if _NAMED.search(end) or _sentence(before) == verdict else None


def _sentence(text: str) -> int | None:
    """The verdict of a sentence of known words."""
    stripped = _CHOICES.sub("", _BULLET.sub("", text, count=1).rstrip(" \t*"), count=1)
    if _EMPTY_BOX.search(text):
        return None
    if stripped.rstrip("*_` ").endswith((":", "?")):
        return None
    if len(stripped) <= MAX_SHORT and (verdict := _related(stripped)) is not None:
        return verdict
    if (verdict := _english(stripped)) is not None:
        return verdict
    bare = " ".join(NOISE.sub(" ", stripped).split()).rstrip(" .!。")
    said = {_english(english) for english in translations(bare)} - {None}
    return said.pop() if len(said) == 1 else None


def _english(text: str) -> int | None:
    """The verdict of an English sentence of known words, as it stands or reworded."""
    verdict = _known(text)
    if verdict is None and (other := reworded(NOISE.sub(" ", text))) != text:
        verdict = _known(other)
    return verdict


def _known(text: str) -> int | None:
    tokens = plainer([token for token in tokens_of(text) if token not in ("(", ")")])
    if len(tokens) == 2 and tokens[0] in ("rank", "top"):
        return None  # a place, not an answer
    while tokens and tokens[-1] in (".", "!", ",", ";", "。", "'", "\u2019"):
        tokens.pop()
    for start in _starts(tokens):
        for reader in (_better, _both, _plain_value):
            if (verdict := reader(tokens[start:])) is not None:
                return None if verdict != TIE and _points_back(tokens[:start]) else verdict
    return None


def _points_back(before: Sequence[str]) -> bool:
    """Whether a value follows only "that is", "it is": what is pointed at may be the worse answer."""
    return bool(before) and before[0] in POINTING and _POINTS.issuperset(before)


def _starts(tokens: Sequence[str]) -> list[int]:
    """Where a verdict may begin: after words that only lead to one, the furthest first."""
    starts = [0]
    for index, token in enumerate(tokens):
        follows = tokens[index + 1] if index + 1 < len(tokens) else ""
        article = token in ARTICLES and (follows == "clear" or (len(follows) > 1 and VALUES.get(follows) == TIE))
        towards = token == "to" and index > 0 and follows in NOUNS  # "my vote goes to answer 2"
        opinion = token == "opinion" and tokens[:index] == ["in", "my"]
        if token == "in" and follows not in ("conclusion", "my"):
            break
        if not (token in LEAD or token in _SEPARATORS or article or towards or opinion):
            break
        starts.append(index + 1)
    return starts[::-1][:3] + starts[:1]


def _named(tokens: Sequence[str]) -> tuple[int | None, int]:
    """(side, number of tokens) of a name: "answer 2", "the second response", "1"."""
    position = 1 if tokens[:1] == ["the"] else 0
    has_noun = position < len(tokens) and tokens[position] in NOUNS
    position += has_noun
    position += position < len(tokens) and tokens[position] == "#"
    if position >= len(tokens):
        return None, 0
    side = VALUES.get(tokens[position], SPELLED.get(tokens[position]) if has_noun else None)
    if side not in SIDES:
        return None, 0
    if position == 0 and tokens[0] == "a" and NOUNS.issuperset(tokens[1:2]) and tokens[1:]:
        return None, 0  # an article: "a answer"
    position += 1
    if position < len(tokens) and (tokens[position] in NOUNS or _is_one(tokens, position)):
        # "the second answer", "assistant b's answer", "the first one"
        position += 1
    return side, position


def _is_one(tokens: Sequence[str], position: int) -> bool:
    return tokens[position] == "one" and tokens[position - 1] in ("first", "second")


def _better(tokens: Sequence[str]) -> int | None:
    """ "answer 2 is clearly better than option 1", "response 1 wins"."""
    side, position = _named(tokens)
    if side is None:
        return None
    if (worse := _worse(tokens[position:], side)) is not None:
        return worse
    while position < len(tokens) - 1 and tokens[position] in DEGREES and set(tokens[position + 1 :]) & (WINS | OVER):
        position += 1  # "answer 2 clearly wins"
    if position < len(tokens) and tokens[position] in WINS:
        position += tokens[position + 1 : position + 2] == ["over"]  # "answer 2 wins over answer 1"
    if position < len(tokens) and tokens[position] in WINS:
        return side if is_reason(tokens[position + 1 :], side) else None
    if position < len(tokens) and tokens[position] in OVER:
        other, length = _named(tokens[position + 1 :])
        return side if other not in (None, side) and is_reason(tokens[position + 1 + length :], side) else None
    has_verb = position < len(tokens) and tokens[position] in VERBS
    if position == 1 and tokens[0] == "a" and not has_verb:
        return None  # an article: "a better answer"
    position += has_verb
    while position < len(tokens) and tokens[position] in DEGREES:
        position += 1
    if position >= len(tokens):
        return None
    if tokens[position] not in BETTER:
        return None
    position += 1
    while position < len(tokens) and tokens[position] in NOUNS | {"one", "overall", "by", "far"}:
        position += 1
    position += 3 * (tokens[position : position + 3] == ["of", "the", "two"])
    if position < len(tokens) and tokens[position] in THAN:
        reference = tokens[position + 1 :]
        other, length = _named(reference)
        if other not in (None, side) and length < len(reference):
            return side if is_reason(reference[length:], side) else None
        known = all(token in REFERENCE for token in reference)
        same = any(VALUES.get(token) == side for token in reference if token != "a" or side != FIRST)
        return side if reference and known and not same and _named(reference)[0] != side else None
    return side if is_reason(tokens[position:], side) else None


def _worse(tokens: Sequence[str], side: int) -> int | None:
    """The other side: "is slightly worse than answer 2", "loses to answer 2"."""
    position = 0
    while position < len(tokens) and tokens[position] in VERBS | DEGREES:
        position += 1
    if tuple(tokens[position : position + 2]) not in WORSE:
        return None
    other, length = _named(tokens[position + 2 :])
    return other if other not in (None, side) and position + 2 + length == len(tokens) else None


def _both(tokens: Sequence[str]) -> int | None:
    """ "both answers are equally good", "they are equal"."""
    if len(tokens) == 2 and tokens[0] in EQUALLY and tokens[1] in EQUAL:
        return TIE  # "equally good"
    position = 0
    while position < len(tokens) and tokens[position] in BOTH:
        position += 1
    words = set(tokens[:position])
    if not words & BOTH_NAMED or not words & (BOTH_VERBS | {"both", "they"}):
        return None
    if position >= len(tokens) or tokens[position] not in EQUAL or len(tokens) > position + 1:
        return None
    return TIE if words & EQUALLY or tokens[position] in EQUAL_ALONE else None


def _plain_value(tokens: Sequence[str]) -> int | None:
    """ "2", "answer 2", "the second", "tie"; a reason may follow."""
    side, position = _named(tokens)
    if side is None and tokens and VALUES.get(tokens[0]) == TIE:
        side, position = TIE, 1
        if tokens[1:2] == ["between"]:
            one, length = _named(tokens[2:])
            other, rest = _named(tokens[3 + length :])
            named_both = {one, other} == SIDES and tokens[2 + length] == "and" and 3 + length + rest == len(tokens)
            return TIE if named_both else None
    if side is None:
        return None
    return side if is_reason(tokens[position:], side) else None


def is_reason(tokens: Sequence[str], side: int) -> bool:
    """Whether the tokens are none, or a reason that names no other side and takes nothing back."""
    rest = list(tokens)
    while rest and rest[0] in (",", ".", ":", "="):
        rest.pop(0)
    if side == TIE and rest and (VALUES.get(rest[0]) == TIE or rest[0] in EQUALLY) and set(rest[1:]) <= EQUAL:
        return True  # "3 = tie", "3: equally good"
    if side == TIE and rest[:1] == ["both"]:  # "tie: both are correct"
        return _both(rest) == TIE or reworded(" ".join(rest)) == "tie" or bears_out(" ".join(rest), TIE)
    if rest[:1] == ["not"] and _named(rest[1:])[1] == len(rest) - 1:  # "2, not 1"
        return VALUES.get(rest[-1], side) not in (side, TIE)
    if not rest or (1 < len(rest) <= MAX_WORDS and (_better(rest) == side or _named(rest) == (side, len(rest)))):
        return True
    if rest[0] in ("it", "its"):  # "answer 2 is better: it names its sources"
        return bears_out(" ".join(rest), side, named=True)
    if rest[0] not in BECAUSE or len(rest) == 1:
        return False
    if OTHERS_SAY & set(rest):
        return False
    denied = AGAINST & set(rest) or any("n't" in token or "?" in token for token in rest)
    return not (denied or names_other(rest, side)) or bears_out(" ".join(rest[1:]), side)


def names_other(tokens: Sequence[str], side: int) -> bool:
    """Whether another verdict, or any other number, is spoken of."""
    for token in tokens:
        if token[0].isdigit() or (token[0] == "-" and len(token) > 1):
            if VALUES.get(token) != side:
                return True
        elif token not in ("a", "c") and VALUES.get(token, SPELLED.get(token, side)) != side:
            return True
    return False


def _related(text: str) -> int | None:
    """ "A>>B", "Final verdict: 1 > 2", "1 = 2"."""
    plain = _WHOSE.sub("", " ".join(NOISE.sub(" ", text).split())).rstrip(" .!")
    match = _RELATION.search(plain)
    if match is None or match.end() != len(plain):
        return None
    lead = tokens_of(plain[: match.start()])
    one, two = VALUES[match["one"].lower()], VALUES[match["two"].lower()]
    if one == two or not all(token in LEAD or token in _SEPARATORS or token in VALUES for token in lead):
        return None
    if any(token in VALUES and VALUES[token] != TIE for token in lead):
        return None
    sign = match["sign"].translate(_SIGNS)
    if len(set(sign)) != 1:
        return None
    verdict = TIE if sign[0] == "=" else one if sign[0] == ">" else two
    return verdict if not any(token in VALUES and verdict != TIE for token in lead) else None


def tokens_of(text: str) -> list[str]:
    return [token.lower() for token in TOKEN.findall(_JOINED.sub(" ", _OWNED.sub("", NOISE.sub(" ", text))))]


def has_words(line: str) -> bool:
    """Whether a line has a letter or digit beside markup."""
    return not line.isspace() and any(character.isalnum() for character in NOISE.sub(" ", line))
