"""The proof of a run's method on the page: what was checked, what wasn't, and a record that can't be read."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis.report.identity import CHECKS, read_proof
from analysis.report.records import load_run
from harness.runs.record import RunRecord, load_record
from tests.records.reports import Page, build, make_run, make_spec

WHOLE = {
    "method": "lora",
    "family": "llama",
    "num_trained": 4_884_480,
    "formula": "r (i + o)",
    "checks": dict.fromkeys(CHECKS, "passed") | {"others": "passed: as the paper has it"},
}
NOT_MADE = "not made: the base is less its start, W - s B0 A0"
PART = WHOLE | {"checks": {"parameters": "passed", "start": NOT_MADE}}
NOTHING = WHOLE | {
    "method": "full",
    "checks": {"parameters": "not made: no formula", "others": "not made: every weight"},
}


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    runs = tmp_path_factory.mktemp("runs")
    found = load_record(runs / make_run(runs, "one", make_spec("d"), [2.0], None))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("identity", "badge", "is_whole", "num_passed"),
    [
        (WHOLE, "proved: lora", True, len(CHECKS)),
        (PART, "proved in part: lora", False, 1),
        (NOTHING, "method not checked", False, 0),
        (None, "method not checked", False, 0),
    ],
)
def test_a_badge_says_how_much_of_the_method_was_proved(
    record: RunRecord, identity: Any, badge: str, is_whole: bool, num_passed: int
) -> None:
    proof = read_proof(replace(record, identity=identity), "runs/a")
    assert proof is not None
    assert (proof.badge, proof.is_whole, proof.num_passed) == (badge, is_whole, num_passed)


def test_an_untouched_base_has_no_method_to_prove(record: RunRecord) -> None:
    assert read_proof(replace(record, num_steps=0), "runs/a") is None


@pytest.mark.parametrize("identity", [{}, WHOLE | {"num_trained": "many"}, WHOLE | {"checks": ["parameters"]}])
def test_a_proof_that_is_none_is_named_by_its_file(record: RunRecord, identity: Any) -> None:
    with pytest.raises(ValueError, match=r"runs/a: identity: (method|num_trained|checks): .*restore it"):
        read_proof(replace(record, identity=identity), "runs/a")


def test_the_page_shows_every_check_with_its_meaning_and_its_result(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    run_id = make_run(runs, "smollm2-concise-nf4", make_spec("d"), [2.0], None)
    path = runs / run_id / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"identity": PART}))
    assert load_run(runs / run_id).proof is not None
    html = build(tmp_path / "out", (runs, [run_id]), None)
    text = Page(html).text
    assert html.count("proved in part: lora") == 2  # among the runs, and in the recipe
    assert "1 of 2 checks were made before the first step, in llama: 4,884,480 numbers are trained (r (i + o)" in text
    assert NOT_MADE in text
    for name in PART["checks"]:  # type: ignore[attr-defined]
        assert CHECKS[name] in text
