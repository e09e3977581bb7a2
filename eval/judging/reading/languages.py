"""Puts a short verdict in another language into the English that `eval.judging.reading.sentences` reads.

A sentence is translated only where the phrases of one language (`eval.judging.reading.phrases`), numbers and the
letters A and B make up all of it, so that no word is passed over. Behind "because" anything may follow that denies
nothing and names no answer by its place.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from eval.judging.reading import phrases

MAX_FOREIGN = 300  # characters of a sentence
_ARE_CLOSE = ("CHINESE", "JAPANESE", "KOREAN")  # written without blanks, or with endings behind a number
_TABLES = {name: text for name, text in vars(phrases).items() if name.isupper()}
_PLAIN = re.compile(r"[\s\d.,:;!()=>#'\u2019。।、\u2014\u2013-]+|[AB](?![A-Za-zÀ-ÿ])")
_LETTER = re.compile(r"[AB](?![A-Za-zÀ-ÿ])")
_WORD = re.compile(r"[^\W\d_]{2,}")
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")


@dataclass(frozen=True, slots=True)
class Language:
    """The phrases of a language with their meaning, and the words that deny or limit what they stand beside."""

    meanings: dict[str, str]
    phrase: re.Pattern[str]
    denial: re.Pattern[str]


def _language(text: str, *, is_spaced: bool) -> Language:
    meanings: dict[str, str] = {}
    denials: list[str] = []
    for line in unicodedata.normalize("NFKC", text).strip().splitlines():
        meaning, _, said = line.partition(": ")
        if meaning == "-":
            denials += said.split("|")
        else:
            meanings |= dict.fromkeys(said.split("|"), meaning)
    places = [phrase for phrase, meaning in meanings.items() if meaning in ("first", "second", "answer 1", "answer 2")]
    end = r"(?![^\W\d_]|[\u0300-\u036f\u064b-\u0652\u0900-\u0903\u093a-\u094f])" if is_spaced else ""
    start = r"(?<![^\W\d_])" if is_spaced else ""
    return Language(
        meanings,
        re.compile(f"(?:{_alternatives(meanings)}){end}", re.IGNORECASE),
        re.compile(f"{start}(?:{_alternatives([*denials, *places])}){end}|[?]", re.IGNORECASE),
    )


def _alternatives(phrases: dict[str, str] | list[str]) -> str:
    longest_first = sorted(phrases, key=len, reverse=True)
    return "|".join(re.escape(phrase) for phrase in longest_first)


SPACED = [_language(text, is_spaced=True) for name, text in _TABLES.items() if name not in _ARE_CLOSE]
CLOSE = [_language(_TABLES[name], is_spaced=False) for name in _ARE_CLOSE]
_BEGINNINGS: dict[str, list[Language]] = {}  # by each word of two letters or more with which a phrase may begin
for _one in SPACED:
    for _word in {found[0] for said in _one.meanings if (found := _WORD.search(said))}:
        _BEGINNINGS.setdefault(_word, []).append(_one)
_JOINED = {
    word: _alternatives([said for one in SPACED + CLOSE for said, meaning in one.meanings.items() if meaning == word])
    for word in ("so", "but")
}
_SO = re.compile(f"[,;、] ?(?:{_JOINED['so']}|(?P<but>{_JOINED['but']})),? ?", re.IGNORECASE)
_IF = re.compile(
    r"(?<![^\W\d_])(?:wenn|falls|sofern|si|se|als|jeśli|если|إذا|यदि|अगर|om|hvis|pokud|якщо|jika|nếu)(?![^\W\d_])"
    "|如果|若|もし|만약",
    re.IGNORECASE,
)


def translations(text: str) -> Iterator[str]:
    """The sentence in English for each language whose phrases make it up; none where it is English."""
    if len(text) > MAX_FOREIGN:
        return
    if _CJK.search(text):
        languages = CLOSE
    else:
        first = _WORD.search(text)
        languages = _BEGINNINGS.get(first[0].lower(), []) if first else []
    for language in languages:
        if (english := _translated(text, language)) is not None:
            yield english


def end_behind_so(text: str) -> tuple[str, str, bool] | None:
    """What stands before and behind the last "..., therefore" or "..., but" of a sentence, and whether it is "but".

    None in English, and where a condition stands before.
    """
    found = list(_SO.finditer(text)) if len(text) <= MAX_FOREIGN else []
    if not found or _IF.search(before := text[: found[-1].start()]):
        return None
    return before, text[found[-1].end() :], found[-1]["but"] is not None


def _translated(text: str, language: Language) -> str | None:
    words: list[str] = []
    position = 0
    while position < len(text):
        if words and words[-1].endswith("answer") and (match := _LETTER.match(text, position)):
            words.append(match[0])
            position = match.end()
        elif match := language.phrase.match(text, position):
            meaning = language.meanings[match[0].lower()]
            position = match.end()
            words.append(meaning)
            if meaning == "because":
                rest = text[position:]
                return None if language.denial.search(rest) else _in_order(f"{' '.join(words)} {rest}")
        elif match := _PLAIN.match(text, position):
            if match[0].strip():
                words.append(match[0].strip())
            position = match.end()
        else:
            return None
    return _in_order(" ".join(words))


_NAME = r"(?:answer ?)?(?:[12AB]|first|second)(?: answer)?"
_THAN_BEHIND = re.compile(rf"\b(?P<other>{_NAME})(?: the| ')* -than\b,?(?P<rest>.*)", re.IGNORECASE)
_UNNEEDED = re.compile(r"\bthe\b ?|, ?(?=than|,)|\bis\W*(?=\bthan\b|\Z)")
_WINS_FIRST = re.compile(r"\Awins(?= answer\b)")
_THAN_BEFORE = re.compile(rf"than- (?P<other>{_NAME})\b(?P<rest>.*)", re.IGNORECASE)


def _in_order(english: str) -> str:
    """The words in English order: "answer 1 than- answer 2 better" becomes "answer 1 better than answer 2"."""
    for pattern in (_THAN_BEHIND, _THAN_BEFORE):
        if match := pattern.search(english):
            head, _, reason = match["rest"].partition("because")
            head = f"{english[: match.start()]} {head.rstrip(' .!。')} than {match['other']}"
            english = f"{head} because {reason}" if reason else head
    return _WINS_FIRST.sub("winner is", _UNNEEDED.sub("", english))
