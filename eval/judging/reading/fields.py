"""The fields of a judge's JSON, whole, broken or surrounded by text."""

import json
import re
from typing import Any

NAMED_IN_KEYS = ("answer", "response", "assistant", "model")
VERDICT_KEYS = (
    *("verdict", "winner", "final_verdict", "preferred", "preference", "better"),
    *(f"{which}_{what}" for which in ("better", "best", "preferred", "winning") for what in NAMED_IN_KEYS),
)
CHOICE_KEYS = (  # where there is none of the former; "answer" may be the answer to the question
    *("choice", "result", "decision", "selection", "judgment", "judgement", "output", "final_decision"),
    *("final_judgment", "final_choice", "better_one", "best", "selected", "chosen", "pick"),
)
GRADE_KEYS = ("score", "rating", "grade", "overall", "overall_score", "final_score", "final_grade", "overall_rating")
_SCORED = ("", "score_", "score", "score_for_", "rating_", "grade_", "points_")
_NAMED = ("", *(f"{name}{gap}" for name in NAMED_IN_KEYS for gap in ("_", "")))
SCORE_KEYS = tuple(
    (f"{scored}{named}{one}{end}", f"{scored}{named}{two}{end}")
    for scored in _SCORED
    for named in _NAMED
    for end in ("", "_score", "_rating", "_grade", "_points")
    for one, two in (("1", "2"), ("a", "b"))
)

_FIELD = re.compile(
    r"(?<!\\)\"(?P<key>verdict|winner|score_[12ab])\"\s{0,9}:\s{0,9}"
    r"(?P<value>\"[^\"\n]{0,40}\"|[\w.+-]{1,20}|[\[{])",
    re.IGNORECASE,
)
GRADE_FIELD = re.compile(_FIELD.pattern.replace("verdict|winner|score_[12ab]", "score|rating|grade"), re.IGNORECASE)
MAX_LOOSE = 500  # characters of an object without double quotes
_BARE_KEY = re.compile(r"([{,]\s{0,9})(\w{1,20})\s{0,9}:")


def json_fields(text: str, field: re.Pattern[str] = _FIELD) -> tuple[dict[str, list[Any]] | None, str]:
    """(values of the fields that matter, each different one once; the text behind them); None where it is no JSON.

    JSON that is broken, as by line breaks or quotes in an explanation, is looked through for the fields alone.
    """
    stripped = text.strip().removeprefix("```json").removeprefix("```").removesuffix("```").strip()
    whole = _loaded(stripped)
    if whole is None and '"' not in stripped and len(stripped) <= MAX_LOOSE:
        whole = _loaded(_BARE_KEY.sub(r'\1"\2":', stripped).replace("'", '"'))  # Python's or YAML's spelling
    if isinstance(whole, list) and len(whole) == 1:
        whole = whole[0]
    if isinstance(whole, Fields) and len(whole.fields) == 1:  # {"result": {"verdict": 2}}
        (values,) = whole.fields.values()
        whole = values[0] if len(values) == 1 and isinstance(values[0], Fields) else whole
    if isinstance(whole, Fields):
        return whole.fields, ""
    if "{" not in text:
        return None, ""
    fields: dict[str, list[Any]] = {}
    end = 0
    for match in field.finditer(text, text.index("{")):
        value = _loaded(match["value"])
        values = fields.setdefault(match["key"].lower(), [])
        if value not in values:
            values.append(value)
        end = match.end()
    if fields or (stripped.startswith("{") and not re.fullmatch(r"\{\s?[123]\s?\}", stripped)):
        return fields, text[end:].partition("}")[2]
    return None, ""


class Fields:
    """A JSON object with all values of each field, as a field may be written twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        self.fields: dict[str, list[Any]] = {}
        for key, value in pairs:
            values = self.fields.setdefault(re.sub(r"[\s-]+", "_", key.strip().lower()), [])
            if value not in values:
                values.append(value)


def _loaded(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=Fields)
    except (ValueError, RecursionError):
        return None
