"""What a judge costs is said before it is paid: list prices, measured replies, a question to a person."""

import hashlib
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eval.commands.judge import estimate_text, risen_text, run_judge, summary_text
from eval.judges.prices import PRICES, PRICES_DATE, price_of
from eval.judges.registry import choose_judge
from eval.judges.request import estimate_calls, most_tokens, price_usd
from eval.judges.tournament import run
from eval.judging.flags import JudgeFlags
from eval.judging.matches import Judgment, Match
from eval.judging.options import ApiOptions, Estimate
from eval.judging.prompts import Mode, own_prompts, render
from harness.console import progress_bar
from tests.builders import a_match
from tests.servers.judge_server import CANARY, GOOD, Answer, completion, options_in, serving

PROMPTS = own_prompts(Mode.pairwise)


def test_dated_snapshots_and_prefixed_names_have_their_models_price_and_others_none() -> None:
    for name in ("gpt-4o", "gpt-4o-2024-08-06", "openai/gpt-4o", "gpt-4o-latest"):
        found = price_of(name)
        assert found is not None
        assert (found.prompt, found.completion) == (2.5, 10.0)
        assert found.source == "list price of 2025-10-01"
    other = price_of("gpt-4o-2024-05-13")
    assert other is not None
    assert other.prompt == 5.0
    assert price_of("gpt-4-0613") is not None
    for name in ("gpt-4o-audio-preview", "my-gpt-4o", "gpt-4ox", "llama-3"):
        assert price_of(name) is None
    assert all(0 < prompt <= completion for prompt, completion in PRICES.values())


def test_a_list_of_prices_has_a_date_of_its_own() -> None:
    """A price that changes needs a new PRICES_DATE, and its digest here."""
    digest = hashlib.sha256(json.dumps(PRICES).encode()).hexdigest()[:16]
    assert {PRICES_DATE: digest} == {"2025-10-01": "632625cc4bf6f3de"}


def test_a_file_of_prices_goes_before_the_list_and_options_before_both(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"gpt-4o": [1, 2.5], "llama-3": [0, 0]}))
    chosen = choose_judge("gpt-4o", JudgeFlags(prices=file))
    assert isinstance(chosen, ApiOptions)
    assert (chosen.usd_per_million_prompt_tokens, chosen.usd_per_million_completion_tokens) == (1, 2.5)
    assert chosen.price_source == "price of mine.json"
    chosen = choose_judge("gpt-4o", JudgeFlags(prices=file, usd_per_million_prompt_tokens=7.0, budget_usd=1.0))
    assert isinstance(chosen, ApiOptions)
    assert (chosen.usd_per_million_prompt_tokens, chosen.usd_per_million_completion_tokens) == (7.0, 2.5)
    assert choose_judge("unheard-of", JudgeFlags(prices=file)).usd_per_million_prompt_tokens is None  # type: ignore[attr-defined]
    for bad in ('{"m": [1]}', '{"m": [1, -2]}', '{"m": [1, NaN]}', "[]", "{"):
        file.write_text(bad)
        with pytest.raises(ValueError, match=r"prices=.*mine\.json: "):
            choose_judge("m", JudgeFlags(prices=file))


def simulated(rng: random.Random, match: Match, options: ApiOptions) -> Judgment:
    """A judge whose tokens have 3.3 bytes and whose replies are of very different lengths."""
    size = most_tokens(render(PROMPTS, match))
    prompt, completion_tokens = round(size / 3.3), round(rng.lognormvariate(5.0, 0.6))
    return Judgment(
        question_id=match.question.question_id,
        system_a=match.system_a,
        system_b=match.system_b,
        prompt_sha256="x",
        verdict=1,
        num_prompt_tokens=prompt,
        num_completion_tokens=completion_tokens,
        cost_usd=price_usd(options, prompt, completion_tokens),
    )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("prices", [(2.5, 10.0), (0.1, 40.0), (30.0, 0.1)])
def test_after_fifty_judgments_the_estimate_is_within_a_quarter_of_the_bill(
    seed: int, prices: tuple[float, float]
) -> None:
    rng = random.Random(seed)
    options = ApiOptions(
        model="m", usd_per_million_prompt_tokens=prices[0], usd_per_million_completion_tokens=prices[1]
    )
    matches = [a_match("word " * rng.randint(1, 300), "other " * rng.randint(1, 300)) for _ in range(250)]
    judged = [(match, simulated(rng, match, options)) for match in matches]
    ahead = estimate_calls(options, PROMPTS, matches[50:], judged[:50])
    bill = sum(judgment.cost_usd or 0.0 for _, judgment in judged[50:])
    assert (ahead.num_calls, ahead.num_measured) == (200, 50)
    assert ahead.cost_usd == pytest.approx(bill, rel=0.25)


def test_the_plan_is_told_again_once_replies_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_TEST_KEY", CANARY)
    monkeypatch.setattr("eval.judges.tournament.MEASURED_AFTER", 4)
    lengths = [40, 80, 60, 60, 70, 50, 60, 60]
    told: list[Estimate] = []

    def script(n: int, request: dict[str, Any]) -> Answer:
        return Answer(body=completion(usage={"prompt_tokens": 400, "completion_tokens": lengths[n]}))

    with serving(script) as server:
        summary = run(options_in(tmp_path, server.url, num_questions=4), on_estimate=told.append)
    first, second = told
    assert (first.num_calls, first.num_measured, second.num_calls, second.num_measured) == (8, 0, 4, 4)
    assert second.num_completion_tokens == 4 * 60
    assert second.num_prompt_tokens == pytest.approx(4 * 400, abs=2)
    assert second.cost_usd is not None
    assert summary.cost_usd is not None
    assert 2 * second.cost_usd == pytest.approx(summary.cost_usd, rel=0.01)
    assert "assumed, none is measured yet" in estimate_text(first)
    assert "measured on 4 judgments" in estimate_text(second)


@pytest.mark.parametrize(
    ("num_tokens", "confirmed", "budget_usd", "is_told"),
    [(600, True, None, True), (260, True, None, False), (600, False, None, False), (600, True, 9.0, False)],
)
def test_a_cost_that_has_risen_beyond_what_was_agreed_to_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_tokens: int, confirmed: bool, budget_usd: float | None,
    is_told: bool,
) -> None:  # fmt: skip
    monkeypatch.setenv("JUDGE_TEST_KEY", CANARY)
    monkeypatch.setattr("eval.judges.tournament.MEASURED_AFTER", 4)
    reply = Answer(body=completion(usage={"prompt_tokens": 400, "completion_tokens": num_tokens}))
    said: list[str] = []
    with serving(lambda n, request: reply) as server:
        options = options_in(tmp_path, server.url, num_questions=4, budget_usd=budget_usd)
        run_judge(options, lambda: progress_bar("x", True), said.append, (lambda _: True) if confirmed else None)
    told = [line for line in said if line.startswith("this run will cost more than was agreed to")]
    assert len(told) == is_told
    assert len(said) == 2 + is_told
    if is_told:
        first = float(said[0].split("about ")[2].split(" USD")[0])
        paid, whole = (n * (400 * 10 + 600 * 30) / 1e6 for n in (4, 8))
        assert f"about {whole:.4f} USD, of which {paid:.4f} are paid, not {first:.4f};" in told[0]


def test_what_counts_as_risen() -> None:
    agreed = Estimate(
        num_calls=9, num_prompt_tokens=9, num_completion_tokens=9, max_completion_tokens=9, num_measured=0,
        cost_usd=4.0, max_cost_usd=9.0, price_source="p",
    )  # fmt: skip
    assert risen_text(agreed, replace(agreed, cost_usd=4.0, paid_usd=1.0)) is None
    assert risen_text(agreed, replace(agreed, cost_usd=4.0, paid_usd=1.001)) is not None
    assert risen_text(agreed, replace(agreed, cost_usd=None)) is None
    assert risen_text(replace(agreed, cost_usd=None), replace(agreed, cost_usd=99.0)) is None


def test_a_person_who_says_no_pays_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_TEST_KEY", CANARY)
    said: list[str] = []
    with serving(lambda n, request: GOOD) as server:
        options = options_in(tmp_path, server.url)
        with pytest.raises(ValueError, match="nothing paid"):
            run_judge(options, lambda: progress_bar("x", True), said.append, lambda question: False)
        assert server.requests == []
        assert "ahead: 4 calls" in said[0]
        assert run_judge(options, lambda: progress_bar("x", True), said.append, lambda question: True)[2]
        refuse: list[str] = []
        run_judge(options, lambda: progress_bar("x", True), said.append, lambda q: bool(refuse.append(q)))
    assert refuse == []  # nothing is ahead: nobody is asked


def test_what_the_budget_left_is_not_called_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_TEST_KEY", CANARY)
    with serving(lambda n, request: GOOD) as server:
        summary = run(options_in(tmp_path, server.url, num_questions=5, budget_usd=0.06))
    assert summary.num_judged > 0
    assert (summary.num_failed, summary.num_unasked) == (0, 10 - summary.num_judged)
    assert f"0 failed, {summary.num_unasked} not asked" in summary_text(summary)
