"""The codes of verdicts in files, the words that stand for them, and the name of the control contestant.

Source: QLoRA (arXiv 2305.14314), section 5.2: the judge's last line is 1, 2 or 3; its released files have -1 where
none could be read.
"""

from unicodedata import normalize

from eval.answers.rows import identifier_text

FIRST = 1  # the answer shown first is better
SECOND = 2
TIE = 3
UNPARSED = -1

NULL_SYSTEM = "null-model"  # the control contestant, whose one constant answer no trustworthy judge ranks high
VERDICT_CODES = {
    **dict.fromkeys(("1", "a", "model_a", "model_1", "system_a"), FIRST),
    **dict.fromkeys(("2", "b", "model_b", "model_2", "system_b"), SECOND),
    **dict.fromkeys(("3", "c", "tie", "draw", "tie (bothbad)", "tie(bothbad)", "bothbad"), TIE),
    **dict.fromkeys(("tie (both bad)", "both bad", "both_bad", "both good", "both_good", "tie (both good)"), TIE),
    **dict.fromkeys(("model a", "system a", "assistant a", "assistant_a", "answer a", "answer_a"), FIRST),
    **dict.fromkeys(("model b", "system b", "assistant b", "assistant_b", "answer b", "answer_b"), SECOND),
    **dict.fromkeys(("-1", "error"), UNPARSED),
}
MEANS_BOTH = "is a code and the name of {}; write 1, 2 or 3 in all rows instead"


def verdict_code(value: str) -> int | None:
    """The verdict that a word or number of a file stands for; None where it is none."""
    return VERDICT_CODES.get(" ".join(identifier_text(normalize("NFKC", value)).lower().split()))


def is_marked(value: object) -> bool | None:
    """Whether a field says yes: 1 or true, 0 or false, however a file writes them; None where it says neither."""
    return {"1": True, "true": True, "0": False, "false": False}.get(identifier_text(str(value)).lower())


def means_both(value: str, name: str, side: int) -> bool:
    """Whether a verdict is the name of the system on one side, and a code for another outcome, as "a" may be."""
    return verdict_code(value) not in (None, side) and folded_name(name) == folded_name(value)


def folded_name(name: str) -> str:
    return " ".join(name.split()).casefold()
