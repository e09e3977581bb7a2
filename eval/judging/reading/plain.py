"""The plain text of a judge's reply: without thoughts, in plain characters, or why it can hold no verdict."""

import re
import unicodedata

from eval.judging.reading.words import REFUSED_IN_WORDS

DIGITS = {
    code: str(unicodedata.decimal(chr(code))) for code in range(0x80, 0x20000) if chr(code).isdecimal()
}  # of all scripts
RAISED = dict.fromkeys([0xB2, 0xB3, 0xB9, *range(0x2070, 0x208A), *range(0xBC, 0xBF)], "^")  # footnotes and fractions
LIGATURES = dict.fromkeys((0xFDFA, 0xFDFB), " ")  # of whole phrases: 18 characters for one would make long texts longer
INVISIBLE = dict.fromkeys([*range(0x200B, 0x2010), *range(0x202A, 0x202F), 0x2060, 0xFEFF, 0xAD, 0xFE0F, 0x20E3])
_OPENING = re.compile(r"<(?:think|thinking|thought|thoughts|reasoning)>", re.IGNORECASE)
_CLOSING = re.compile(r"</(?:think|thinking|thought|thoughts|reasoning)>", re.IGNORECASE)
_CONTROL = re.compile(r"<\|[^<>|\n]{1,30}\|>|\[/?INST\]|<(?:start|end)_of_turn>|</?s>")  # of chat templates
_FAILED = re.compile(r"[^\w{]*(?:error|exception|traceback)\b[^\n:]{0,40}:", re.IGNORECASE)
_REFUSAL = re.compile(rf"\W*(?:{REFUSED_IN_WORDS})", re.IGNORECASE)


def plain_reply(text: str) -> tuple[str, str | None]:
    """The reply without its thoughts, in plain characters; and why it holds no verdict, whatever it says."""
    reply = _without_thoughts(text)
    if reply is None:
        return "", "the thoughts never end"
    if not reply.strip():
        return reply, "empty reply"
    if _FAILED.match(reply):
        return reply, "the reply is an error"
    return reply, "the judge refused in words" if _REFUSAL.match(reply) else None


def _without_thoughts(text: str) -> str | None:
    """The reply without its thoughts, in plain characters; None where the thoughts never end.

    Thoughts begin with a tag at the beginning of a line, or, where a server leaves that out, with the text; a tag
    within a line is one that the judge writes about.
    """
    text = unicodedata.normalize("NFKC", text.translate(INVISIBLE | RAISED | LIGATURES)).translate(INVISIBLE | DIGITS)
    text = _CONTROL.sub(" ", text)
    if not _CLOSING.search(text) and not _OPENING.search(text):
        return text
    kept: list[str] = []
    thinking = False
    for line in text.splitlines():
        opened = _OPENING.match(line.lstrip())
        if opened and not thinking:
            thinking = True
        if thinking:
            ends = list(_CLOSING.finditer(line))
            if not ends:
                continue
            thinking, line = False, line[ends[-1].end() :]
        kept.append(line)
    if thinking:
        return None
    text = "\n".join(kept)
    ends = list(_CLOSING.finditer(text))
    if ends and not _OPENING.search(text, 0, ends[0].start()):
        text = text[ends[-1].end() :]
    return text
