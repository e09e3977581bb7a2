"""Single lines of judges, votes and commands by value: pairs on two lines, lengths of forms, times of calls."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from eval.commands import human
from eval.human.web.guard import MAX_FORM_BYTES, Access, Refused, check_request
from eval.judges import calls
from eval.judges.request import Reply
from eval.judging.reading import scores
from eval.judging.reading.scores import Pair


def made(**values: Any) -> Any:
    return SimpleNamespace(**values)


@pytest.mark.parametrize(
    ("one", "two", "pair"),
    [
        ("1: 8", "2: 6", Pair("8", "6")),
        ("2: 6", "1: 8", Pair("8", "6")),
        ("B) 7.5", "A) 9", Pair("9", "7.5")),
        ("1: 8", "1: 6", None),
        ("1: 8", "B: 6", None),
        ("1: 8", "nothing", None),
        ("Score: 8", "Score: 6", Pair("8", "6")),
    ],
)
def test_two_scores_on_two_lines(one: str, two: str, pair: Pair | None) -> None:
    assert scores._two_lines(one, two) == pair


@pytest.mark.parametrize(
    ("length", "status"),
    [
        ("0", None), (str(MAX_FORM_BYTES), None), (str(MAX_FORM_BYTES + 1), 413), ("0000000009", None),
        ("00000000009", 413), ("", 411), ("-1", 411), ("\N{ARABIC-INDIC DIGIT ONE}", 411),
    ],
)  # fmt: skip
def test_a_form_says_how_long_it_is(length: str, status: int | None) -> None:
    headers = {"content-length": length, "content-type": "application/x-www-form-urlencoded; charset=utf-8"}
    request, access = made(method="POST", headers=headers), Access(admin_sha256="", hosts=None)
    if status is None:
        check_request(request, access)
        return
    with pytest.raises(Refused) as caught:
        check_request(request, access)
    assert caught.value.status == status


def test_votes_without_a_command_show_what_there_is() -> None:
    done = CliRunner().invoke(human.app, [])
    assert "Let people vote on pairs of answers, blind." in done.output
    assert "Usage" in done.output
    raters = CliRunner().invoke(human.app, ["raters"])
    assert "Who may vote: each rater has a link of their own." in raters.output


def test_a_judgment_has_the_seconds_of_its_call(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    clock = iter([100.0, 102.5])
    reply = Reply(**(dict.fromkeys(Reply.__dataclass_fields__) | {"model": "m"}))  # type: ignore[arg-type]
    monkeypatch.setattr(calls, "render", lambda prompts, match: made(sha256="p"))
    monkeypatch.setattr(calls, "reply_cost", lambda options, result: 0.5)
    monkeypatch.setattr(calls, "reply_judgment", lambda *given: seen.append(given) or "judgment")
    monkeypatch.setattr(calls, "time", made(monotonic=lambda: next(clock)))

    async def nothing(*_: Any) -> Any:
        return reply

    async def reserved(prompt: Any) -> int:
        return 7

    judge = made(
        _prompts=made(mode="mode"), _gate=made(wait=nothing), stopped=None, _reserve=reserved, _ask=nothing,
        _num_answered=0, _num_under_way=0, _answered=asyncio.Event(),
        _unsupported=set(), _options="options", _reason=lambda text: text, _redacted="redacted",
        _store=made(settle_when_stored=lambda *given: seen.append(given)),
    )  # fmt: skip
    found = asyncio.run(calls.ApiJudge._decide(judge, made(), made(key="key")))
    assert found == "judgment"
    assert seen == [("p", 7, "200 m", 0.5), ("options", "mode", "key", "p", reply, 0.5, 2.5, "redacted")]
