"""A verdict that was paid for stays; only a reply that could not be read gives way."""

from pathlib import Path

import pytest

from eval.judging.parse import judgment_of
from eval.judging.prompts import Mode
from eval.judging.store import JudgmentStore
from tests.builders import ScriptedJudge, a_match

CASES = [("1", "2", 1), ("no verdict at all", "2", 2), ("1", "no verdict at all", 1)]


@pytest.mark.parametrize(("first", "second", "kept"), CASES)
def test_the_first_verdict_stays(tmp_path: Path, first: str, second: str, kept: int) -> None:
    match, judge = a_match("Because.", "So."), ScriptedJudge(lambda *_: "")
    with JudgmentStore(tmp_path) as store:
        (digest,) = store.register(judge, "pairwise", [match])
        for text in (first, second):
            store.add(judge, judgment_of(match.key, digest, Mode.pairwise, f"Fine.\n{text}"))
        ((_, found),) = store.judgments()
        assert found.verdict == kept
