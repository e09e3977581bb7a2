"""`python -m eval human ...` as a user types it: links, refusals in one sentence, files for `rate`."""

import json
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eval.__main__ import app
from eval.human.items import ContestOptions
from eval.human.raters import find_rater, list_raters
from eval.human.store import DATABASE, Rules, VoteStore
from eval.human.web.server import ServeOptions, admin_token, is_loopback, listen, make_access
from tests.voting import contest_options, write_rows


def call(*arguments: str | Path, fails: bool = False) -> str:
    done = CliRunner().invoke(app, ["human", *map(str, arguments)])
    assert (done.exit_code == 2) == fails, done.output
    assert done.exit_code in (0, 2)
    return " ".join(done.output.split()) if fails else done.output


def begin(folder: Path, *more: str) -> tuple[ContestOptions, list[str | Path]]:
    """-> the options, and the command that begins their vote."""
    options = contest_options(folder)
    assert options.questions is not None
    return options, [
        "serve",
        *options.answers,
        "--questions",
        options.questions,
        "--tournament",
        options.tournament,
        *more,
    ]


def test_prepare_add_vote_elsewhere_export(tmp_path: Path) -> None:
    options, command = begin(tmp_path, "--rater", "ann", "--raters-per-item", "2", "--prepare")
    output = call(*command)
    assert "18 items" not in output
    assert "12 items, 12 attention checks" in output
    store = VoteStore(options.tournament / DATABASE)
    token = next(line for line in output.splitlines() if line.startswith("ann: ")).rsplit("/", 1)[1]
    found = find_rater(store, token)
    assert found is not None
    assert found.name == "ann"
    assert store.rules.raters_per_item == 2
    again = call("serve", "--tournament", options.tournament, "--rater", "ann", "--claim-minutes", "5", "--prepare")
    assert "ann: keeps the link" in again
    assert (store.rules.raters_per_item, store.rules.claim_seconds) == (2, 300.0)
    assert "/enter/2." in call("raters", "add", "bob", "--tournament", options.tournament)
    votes = tmp_path / "votes.csv"
    votes.write_text("question_id,system_a,system_b,verdict,rater,both_bad\n1,okapi-7,zebra-3,3,bob,1\n")
    summary = json.loads(call("import", votes, "--tournament", options.tournament, "--json"))
    assert summary == {"num_stored": 1, "num_known": 0, "num_foreign": 0, "num_rejected": 0, "num_new_raters": 0}
    assert json.loads(call("export", "--tournament", options.tournament, "--json"))["num_rows"] == 1
    assert (options.tournament / "human.csv").read_text().splitlines()[1].startswith("1,okapi-7,zebra-3,3,human,bob,1,")
    assert "bob: 1 votes" in call("raters", "list", "--tournament", options.tournament)


def test_raters_are_listed_renewed_and_removed_and_votes_of_each_kind_exported(tmp_path: Path) -> None:
    options, command = begin(tmp_path)
    where = ("--tournament", options.tournament)
    assert "no raters yet: python -m eval human raters add NAME" in call(*command, "--prepare")
    assert call("raters", "list", *where) == "no raters yet\n"
    links = call("raters", "add", "ann", "bob", "ann", *where).splitlines()
    assert [link.partition(":")[0] for link in links] == ["ann", "bob"]
    renewed = call("raters", "renew", "bob", *where)
    assert renewed.startswith("bob: http://127.0.0.1:8000/enter/2.")
    assert renewed.strip() not in links
    assert call("raters", "remove", "ann", *where) == ""
    assert call("raters", "list", *where) == "ann: 0 votes, no link\nbob: 0 votes\n"
    assert json.loads(call("raters", "list", *where, "--json")) == [
        {"name": "ann", "can_enter": False, "num_votes": 0},
        {"name": "bob", "can_enter": True, "num_votes": 0},
    ]
    written = {
        name: json.loads(call("export", *where, *more, "--json"))
        for name, more in (
            ("human.csv", ()),
            ("attention.csv", ("--checks",)),
            ("mturk_results.csv", ("--format", "mturk")),
            ("mturk_input.csv", ("--format", "mturk-input")),
        )
    }
    assert {name: row["path"] for name, row in written.items()} == {n: str(options.tournament / n) for n in written}
    assert [row["num_rows"] for row in written.values()] == [0, 0, 0, 13]  # a tenth as many checks
    assert call("export", *where, "--out", tmp_path / "x.csv") == f"0 rows in {tmp_path / 'x.csv'}\n"
    assert "only --format verdicts keeps them apart" in call(
        "export", *where, "--checks", "--format", "mturk", fails=True
    )


def test_rules_that_are_said_later_replace_those_of_before_and_no_others(tmp_path: Path) -> None:
    options, command = begin(tmp_path, "--check-rate", "0.25", "--claim-minutes", "2", "--prepare")
    call(*command)
    store = VoteStore(options.tournament / DATABASE)
    assert store.rules == Rules(check_rate=0.25, claim_seconds=120.0)
    call("serve", "--tournament", options.tournament, "--raters-per-item", "5", "--prepare")
    assert store.rules == Rules(check_rate=0.25, claim_seconds=120.0, raters_per_item=5)
    call("serve", "--tournament", options.tournament, "--prepare")
    assert store.rules == Rules(check_rate=0.25, claim_seconds=120.0, raters_per_item=5)


def test_what_can_be_mended_is_one_sentence(tmp_path: Path) -> None:
    options, command = begin(tmp_path)
    where = ("--tournament", options.tournament)
    assert "nothing to vote on" in call("serve", *where, "--prepare", fails=True)
    assert "no votes are kept here" in call("export", *where, fails=True)
    assert "check_rate=2" in call(*command, "--check-rate", "2", "--prepare", fails=True)
    call(*command, "--prepare")
    assert "another contest (seed 0, not 3)" in call(*command, "--seed", "3", "--prepare", fails=True)
    assert "no rater eve; there are none" in call("raters", "renew", "eve", *where, fails=True)
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    assert "no column question_id" in call("import", tmp_path / "x.csv", *where, fails=True)
    assert "no such file" in call("import", tmp_path / "y.csv", *where, fails=True)
    assert "that file holds no votes" in call(
        "import", tmp_path / "x.csv", *where, "--format", "mturk-input", fails=True
    )
    (tmp_path / "none").mkdir()
    assert "neither a run folder" in call("serve", tmp_path / "none", *where, "--prepare", fails=True)


def test_short_answers_make_no_checks_and_it_is_said(tmp_path: Path) -> None:
    rows = [{"question_id": 1, "system": system, "answer": "short"} for system in "ab"]
    answers = write_rows(tmp_path / "a.jsonl", rows)
    output = call("serve", answers, "--tournament", tmp_path / "t", "--prepare")
    assert "no attention checks" in output
    assert "1 items show one text twice" in output


def test_other_addresses_need_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HARNESS_HUMAN_TOKEN", raising=False)
    options, command = begin(tmp_path)
    for host in ("0.0.0.0", "::", "192.168.1.5", "my-machine"):
        assert "others can reach this address" in call(*command, "--host", host, fails=True)
    assert not options.tournament.exists()
    monkeypatch.setenv("HARNESS_HUMAN_TOKEN", "short")
    assert "at least 16" in call(*command, fails=True)
    for weak in ("passwordpassword", "P@ssw0rdP@ssw0rd", "aaaaaaaaaaaaaaaa", "1234567890123456", "hunter2" * 3):
        monkeypatch.setenv("HARNESS_HUMAN_TOKEN", weak)
        assert "easy to guess" in call(*command, fails=True)
    monkeypatch.setenv("HARNESS_HUMAN_TOKEN", "long enough to be one")
    assert admin_token("0.0.0.0") == ("long enough to be one", False)
    monkeypatch.delenv("HARNESS_HUMAN_TOKEN")
    drawn = [admin_token("localhost") for _ in range(2)]
    assert drawn[0][1]
    assert drawn[0] != drawn[1]


def test_loopback_is_what_only_this_machine_reaches() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.8.9.1", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "localhost.example", "")))
    known = make_access(ServeOptions(public_url="https://vote.example"), "t").hosts
    assert known is not None
    assert "vote.example" in known
    assert make_access(ServeOptions(host="0.0.0.0"), "t").hosts is None
    assert make_access(ServeOptions(public_url="https://vote.example"), "t").secure_cookies


def test_a_port_in_use_is_said_and_loses_no_link(tmp_path: Path) -> None:
    options, command = begin(tmp_path, "--rater", "ann")
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert f"port={port}: Address already in use; take another --port" in call(
            *command, "--port", str(port), fails=True
        )
    assert list_raters(VoteStore(options.tournament / DATABASE)) == []
    assert "/enter/1." in call(*command, "--prepare")


def test_one_name_that_is_none_adds_nobody(tmp_path: Path) -> None:
    options, command = begin(tmp_path, "--rater", "ann", "--rater", "x" * 61)
    assert "expected a name of 1 to 60" in call(*command, "--prepare", fails=True)
    assert not options.tournament.exists()


@pytest.mark.parametrize("options", [{"port": 70000}, {"public_url": "vote.example"}, {"public_url": "http://a/b"}])
def test_addresses_that_cannot_be(options: dict) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError, match=next(iter(options))):
        ServeOptions(**options)


def test_a_listener_is_on_the_address_that_was_asked_for() -> None:
    with listen("127.0.0.1", 0) as listener:
        assert listener.family is socket.AF_INET
        assert listener.getsockname()[0] == "127.0.0.1"
