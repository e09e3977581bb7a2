"""Values of the vote by hand: ends of ranges, what files hold to the letter, and who is told what."""

import math
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.answers.questions import Question
from eval.human import items, markdown, store
from eval.human.ballots import read_ballots, store_ballots
from eval.human.items import Contest, Item, _items, _judged_strengths, _jumbled_checks, answer_sources, draw_contest
from eval.human.markdown import ADDRESSES, MAX_ADDRESS, MAX_ADDRESSES, _written_out, render_answer
from eval.human.mturk import _portable, read_mturk_results, write_mturk_input, write_mturk_results
from eval.human.overview import NUM_RESAMPLES, overview, to_verdicts
from eval.human.raters import SECRET_BYTES, add_rater, find_rater, list_raters
from eval.human.store import DATABASE, MAX_RATERS_PER_ITEM, Rules, VoteStore, _difference, _write_contest, create_store
from eval.human.votes import Choice, claim, is_swapped, progress, record_vote, side_seed, undo, votes
from eval.ratings.agreement import rater_agreement
from harness.runs.record import RECORD_FILE
from tests.voting import Clock, contest_options, make_store, write_rows

HEADER = "question_id,system_a,system_b,verdict,rater"


def item(name: str = "1", one: str = "a", two: str = "b", **changes: Any) -> Item:
    values = {"category": "c", "question": "q", "answer_one": "x", "answer_two": "y"} | changes
    return Item(question_id=name, system_one=one, system_two=two, **values)


def question(number: int) -> Question:
    return Question(question_id=str(number), category="c", text=f"{number}?", turns=(f"{number}?",))


def test_pairs_that_share_fewer_questions_end_earlier() -> None:
    texts = {str(number): ("said",) for number in range(3)}
    drawn = _items(
        {"a": texts, "b": texts, "c": {"1": ("said",)}}, [question(n) for n in range(3)], None, np.random.default_rng(0)
    )
    pairs = [(one.system_one, one.system_two) for one in drawn]
    assert sorted(pairs) == [("a", "b")] * 3 + [("a", "c"), ("b", "c")]
    assert pairs[3:] == [("a", "b")] * 2


def test_strengths_are_what_the_judge_found_in_nats(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.csv"
    assert _judged_strengths(path, "open") == {}
    path.write_text("question_id,system_a,system_b,verdict\n" + "1,a,b,1\n2,a,b,1\n3,a,b,1\n4,a,b,2\n")
    found = _judged_strengths(path, "open")
    assert found == pytest.approx({"a": math.log(3) / 2, "b": -math.log(3) / 2}, rel=1e-3)
    path.write_text("question_id,system_a,system_b,verdict\n")
    assert _judged_strengths(path, "open") == {}


def test_answers_of_12_to_150_different_words_become_checks_and_at_most_20() -> None:
    def checks(*nums: int) -> list[Item]:
        texts = [" ".join(f"w{number}" for number in range(num)) for num in nums]
        return list(
            _jumbled_checks([item(str(at), answer_one=text) for at, text in enumerate(texts)], np.random.default_rng(0))
        )

    assert sorted(len(set(check.answer_one.split())) for check in checks(11, 12, 150, 151)) == [12, 150]
    found = checks(*range(20, 45))
    assert [check.question_id for check in found] == [f"attention-{number}" for number in range(1, 21)]
    assert len(checks(30, 30)) == 1  # one text once
    repeated = item(answer_one="word " * 40)
    assert list(_jumbled_checks([repeated], np.random.default_rng(0))) == []


def test_checks_of_ones_own_are_numbered_from_1(tmp_path: Path) -> None:
    rows = [{"question": "q", "better": f"good {n}", "worse": f"bad {n}"} for n in (1, 2)]
    first, second = items.read_checks(write_rows(tmp_path / "c.jsonl", rows))
    assert (first.question_id, first.answer_one, first.answer_two, first.better) == (
        "attention-1",
        "bad 1",
        "good 1",
        2,
    )
    assert (second.question_id, second.answer_one, second.better) == ("attention-2", "good 2", 1)
    with pytest.raises(ValueError, match="no attention checks"):
        items.read_checks(write_rows(tmp_path / "none.jsonl", []))


def test_what_a_folder_means(tmp_path: Path) -> None:
    answered, begun = tmp_path / "runs" / "b", tmp_path / "begun"
    for folder in (answered, tmp_path / "runs" / "a"):
        write_rows(folder / "answers" / "open.jsonl", [])
    begun.mkdir()
    (begun / RECORD_FILE).write_text("{}")
    for itself in (answered, begun, tmp_path / "no_such_file.jsonl"):
        assert answer_sources(itself, "open") == [itself]
    assert answer_sources(tmp_path / "runs", "open") == [tmp_path / "runs" / "a", answered]
    files = tmp_path / "files"
    (files / "folder.jsonl").mkdir(parents=True)
    for name in ("b.tsv", "a.JSON.gz", "note.txt", "a.settings.json"):
        (files / name).write_text("")
    assert answer_sources(files, "open") == [files / "a.JSON.gz", files / "b.tsv"]


def test_a_contest_of_before_is_known_again() -> None:
    contest = Contest(items=(item(),), checks=(), seed=1)
    assert contest.sha256 == "01e3eb0b6237a62adb010242ada0f5c3ebbe2b9f013b4388e54d4946558ecc27"


def test_questions_that_nobody_shares_are_said_with_the_notes(tmp_path: Path) -> None:
    options = contest_options(tmp_path)
    write_rows(options.answers[0], [{"question_id": 1, "system": "okapi-7", "answer": "here"}])
    write_rows(options.answers[1], [{"question_id": 2, "system": "quagga-9", "answer": "there"}])
    with pytest.raises(
        ValueError, match=r"okapi-7, quagga-9 answered one of the 4 questions of .*questions\.jsonl; 2 of 4"
    ):
        draw_contest(replace(options, answers=options.answers[:2]))
    with pytest.raises(ValueError, match="answers of no system: people compare two"):
        draw_contest(replace(options, answers=()))


def test_rules_begin_as_in_the_paper_and_end_at_their_largest() -> None:
    assert Rules() == Rules(raters_per_item=3, check_rate=0.1, claim_seconds=1800.0)
    with pytest.raises(ValueError, match=r"raters_per_item=1001: expected 1 to 1000"):
        Rules(raters_per_item=MAX_RATERS_PER_ITEM + 1)
    assert Rules(check_rate=0.99, claim_seconds=0.5).claim_seconds == 0.5


def test_a_store_is_one_file_in_a_folder_that_is_made_for_it(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there"
    contest = Contest(items=(item(),), checks=(), seed=1)
    made = create_store(folder, contest, Rules())
    with made.reading() as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert db.execute("PRAGMA busy_timeout").fetchone() == (int(1000 * store.BUSY_SECONDS),) == (30_000,)
    other = Contest(items=(item("2"),), checks=(), seed=9)
    _write_contest(folder / DATABASE, other, Rules())  # another process was quicker
    assert VoteStore(folder / DATABASE).seed == 1
    assert [path.name for path in folder.iterdir() if not path.name.startswith(DATABASE)] == []
    assert made.fact("created").endswith("+00:00")
    made._add_turns()  # another process was quicker
    made.set_fact("schema_version", 3)
    with pytest.raises(ValueError, match="schema version 3, this program knows 2"):
        VoteStore(made.path)


def test_how_two_contests_differ(tmp_path: Path) -> None:
    one, two, three = (item(name) for name in "123")
    made = create_store(tmp_path, Contest(items=(one, two), checks=(), seed=1), Rules())

    def said(*offered: Item, seed: int = 1) -> str:
        return _difference(made, Contest(items=offered, checks=(), seed=seed))

    assert said(one, two, seed=2) == "seed 1, not 2"
    end = "the first is question {}, a against b"
    assert said(one) == f"1 of its 2 items are not in these files, 0 are new; {end.format(2)}"
    assert said(one, two, three) == f"0 of its 2 items are not in these files, 1 are new; {end.format(3)}"
    assert said(three) == f"2 of its 2 items are not in these files, 1 are new; {end.format(3)}"
    assert said(one, replace(two, answer_one="z")) == "question 2, a against b has another text"
    assert said(two, one) == "the items come in another order"


def test_turns_are_kept_as_they_read(tmp_path: Path) -> None:
    turns = (("q1", "\u00e9", "y1"), ("q2", "x2", "y2"))
    made = create_store(tmp_path, Contest(items=(item(turns=turns), item("2")), checks=(), seed=0), Rules())
    with made.reading() as db:
        kept = [row[0] for row in db.execute("SELECT turns FROM items ORDER BY item_id")]
    assert kept == ['[["q1", "\u00e9", "y1"], ["q2", "x2", "y2"]]', None]


def test_secrets_have_192_bits(tmp_path: Path) -> None:
    made = make_store(tmp_path)
    token = add_rater(made, "ann")
    assert (8 * SECRET_BYTES, len(token.partition(".")[2])) == (192, 32)
    assert find_rater(made, token) == list_raters(made)[0]


def test_the_sides_of_a_page_are_what_they_always_were() -> None:
    seeds = [side_seed(*place) for place in ((0, 1, 1), (0, 1, 2), (0, 2, 1), (1, 1, 1))]
    assert seeds == [901243215, 3884055042, 1961547765, 1639030180]
    assert [is_swapped(seed) for seed in range(8)] == [True, False, True, True, True, True, False, True]


def test_one_vote_can_be_undone_and_its_page_stays_for_as_long_as_a_new_one(tmp_path: Path) -> None:
    clock = Clock()
    made = make_store(tmp_path, clock, num_questions=1, claim_seconds=10.0)
    add_rater(made, "ann")
    page = claim(made, 1)
    assert page is not None
    record_vote(made, 1, page.assignment_id, Choice.left)
    assert progress(made, 1).can_undo
    clock.seconds += 100
    assert undo(made, 1)
    assert not progress(made, 1).can_undo
    view = overview(made)
    assert (view.num_open, view.num_expired, view.raters[0].num_open) == (1, 0, 1)
    clock.seconds += 10
    assert claim(made, 1) == page
    clock.seconds += 10.5
    view = overview(made)
    assert (view.num_open, view.num_expired, view.raters[0].num_open) == (0, 1, 0)


def test_a_late_vote_of_one_who_has_the_item_again_is_gone(tmp_path: Path) -> None:
    clock = Clock()
    made = make_store(tmp_path, clock, num_questions=1, systems=("okapi-7", "zebra-3"), claim_seconds=10.0)
    add_rater(made, "ann")
    pages = []
    for _ in range(2):
        pages.append(claim(made, 1))
        clock.seconds += 10.5
    assert pages[0] is not None
    assert pages[1] is not None
    assert pages[0].assignment_id != pages[1].assignment_id
    assert record_vote(made, 1, pages[1].assignment_id, Choice.tie).value == "stored"
    assert record_vote(made, 1, pages[0].assignment_id, Choice.tie).value == "gone"


def test_what_the_admin_sees_before_anyone_votes_and_how_sure_agreement_is(tmp_path: Path) -> None:
    made = make_store(tmp_path, num_questions=2)
    for name in ("ann", "bob"):
        add_rater(made, name)
    nobody = overview(made)
    assert (nobody.num_votes, nobody.num_complete, nobody.num_wanted, nobody.num_check_votes) == (0, 0, 18, 0)
    assert (nobody.agreement, nobody.position) == (None, None)
    assert [(view.agreement, view.num_compared) for view in nobody.raters] == [(None, 0)] * 2
    path = tmp_path / "votes.csv"
    path.write_text(f"{HEADER}\n1,okapi-7,zebra-3,1,ann\n1,okapi-7,zebra-3,1,bob\n2,okapi-7,zebra-3,1,ann\n")
    store_ballots(made, read_ballots(path))
    levels = rater_agreement(to_verdicts(votes(made)), NUM_RESAMPLES, np.random.default_rng(made.seed))
    assert overview(made).agreement == levels["all"]
    assert NUM_RESAMPLES == 200


def test_votes_on_other_items_may_be_left_out_and_new_raters_are_counted(tmp_path: Path) -> None:
    made = make_store(tmp_path)
    add_rater(made, "ann")
    page = claim(made, 1)
    assert page is not None
    path = tmp_path / "votes.csv"
    own = f"{page.item.question_id},{page.item.system_one},{page.item.system_two},1,ann"
    path.write_text(f"{HEADER}\n{own}\n99,okapi-7,zebra-3,1,ann\n2,zebra-3,okapi-7,2,eve\n{own}\n")
    summary = store_ballots(made, read_ballots(path), only_known=True)
    assert (summary.num_stored, summary.num_known, summary.num_foreign, summary.num_raters) == (2, 1, 1, 1)
    assert [(vote.system_a, vote.system_b, vote.rater) for vote in votes(made)][1:] == [("zebra-3", "okapi-7", "eve")]
    assert overview(made).num_open == 0  # the page that was open is let go


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("voted", "1970-12-31T23:59:59+00:00", "expected a time of 1971 to 2999"),
        ("voted", "3000-01-01T00:00:00+00:00", "expected a time of 1971 to 2999"),
        ("both_bad", "2", "both_bad '2' with verdict '1'"),
        ("seconds", "1000000001", "expected a number from 0 to 1000000000, or nothing"),
    ],
)
def test_fields_beyond_their_ends(tmp_path: Path, column: str, value: str, message: str) -> None:
    path = tmp_path / "votes.csv"
    path.write_text(f"{HEADER},{column}\n1,a,b,1,ann,{value}\n")
    with pytest.raises(ValueError, match=message):
        read_ballots(path)


def test_a_system_may_be_called_by_a_number(tmp_path: Path) -> None:
    path = tmp_path / "votes.csv"
    path.write_text(f"{HEADER}\n1,2,1,1,ann\n1.0, 2,b,Both Bad,ann\n")
    first, second = read_ballots(path)
    assert (first.system_a, first.system_b, first.choice) == ("2", "1", Choice.left)
    assert (second.question_id, second.system_a, second.choice) == ("1", "2", Choice.both_bad)


def test_a_batchs_results_are_written_to_the_letter(tmp_path: Path) -> None:
    clock = Clock(0.0)
    made = make_store(tmp_path, clock)
    add_rater(made, "ann")
    for choice, spent in ((Choice.left, 1.5), (Choice.both_bad, 2.0)):
        page = claim(made, 1)
        assert page is not None
        clock.seconds += spent
        record_vote(made, 1, page.assignment_id, choice)
    path = tmp_path / "results.csv"
    assert write_mturk_results(made, path) == 2
    header, first, second = (line.split(",") for line in path.read_text().splitlines())
    rows = [dict(zip(header, row, strict=True)) for row in (first, second)]
    assert [row["AssignmentId"] for row in rows] == ["V1", "V2"]
    assert [row["HITId"] for row in rows] == [f"H{row['Input.item']}" for row in rows]
    assert [row["WorkTimeInSeconds"] for row in rows] == ["1.500", "2.000"]
    assert [row["SubmitTime"] for row in rows] == ["1970-01-01T00:00:01.500+00:00", "1970-01-01T00:00:03.500+00:00"]
    assert [row["Answer.verdict"] for row in rows] == ["a", "both_bad"]
    assert {len(row["Input.item"]) for row in rows} == {16}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("W1,1,okapi-7,zebra-3,true,on", "line 2: 2 of Answer.verdict.1, Answer.verdict.2 are marked; expected one"),
        (",1,okapi-7,zebra-3,true,", "line 2: WorkerId or a name of the item is empty"),
        ("W1,1,,zebra-3,true,", "line 2: WorkerId or a name of the item is empty"),
    ],
)
def test_a_batchs_rows_that_are_no_vote(tmp_path: Path, row: str, message: str) -> None:
    path = tmp_path / "results.csv"
    path.write_text(
        f"WorkerId,Input.question_id,Input.system_a,Input.system_b,Answer.verdict.1,Answer.verdict.2\n{row}\n"
    )
    with pytest.raises(ValueError, match=message):
        read_mturk_results(make_store(tmp_path), path)


def test_texts_of_a_batch_are_one_line_in_the_basic_plane_and_no_formula(tmp_path: Path) -> None:
    assert _portable("\uffff\U00010000\r\n") == "\uffff&#65536;&#10;"
    made = create_store(tmp_path, Contest(items=(item(question="=1+1"),), checks=(), seed=0), Rules())
    path = tmp_path / "in.csv"
    assert write_mturk_input(made, path) == 1
    assert ",&#61;1+1," in path.read_text()


def test_an_address_is_cut_where_there_is_no_room() -> None:
    assert (MAX_ADDRESS, MAX_ADDRESSES, markdown.MAX_GROWTH) == (400, 20_000, 16)
    room: dict[str, Any] = {ADDRESSES: 1000}
    whole, cut = "x" * MAX_ADDRESS, "x" * (MAX_ADDRESS + 1)
    assert _written_out(whole, room) == f"<small>({whole})</small>"
    assert _written_out(cut, room) == f"<small>({whole}\N{HORIZONTAL ELLIPSIS})</small>"
    assert room == {ADDRESSES: 200}
    assert _written_out(whole, room) == f"<small>({'x' * 200}\N{HORIZONTAL ELLIPSIS})</small>"
    assert _written_out("y", room) == "<small>(\N{HORIZONTAL ELLIPSIS})</small>"


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("#### low\n\n###### lowest", "<h6>low</h6>\n<h6>lowest</h6>"),
        ("![](http://x)", "<p>[image: no description] <small>(http://x)</small></p>"),
        ("[a](b) [c](d)", "<p>a <small>(b)</small> c <small>(d)</small></p>"),
        ("[*a* b](c)", "<p><em>a</em> b <small>(c)</small></p>"),
        ("![a]()", "<p>[image: a] <small>()</small></p>"),
        ("[a]()", "<p>a <small>()</small></p>"),
        ("a  \nb\nc", "<p>a<br>\nb<br>\nc</p>"),
        ("<!-- a -->", "&lt;!-- a --&gt;"),
        ("[a]: http://x", ""),
    ],
)
def test_markdown_by_the_letter(text: str, html: str) -> None:
    assert html in render_answer(text).strip()


def test_text_is_shown_whole_at_every_depth() -> None:
    shown = [render_answer("> " * depth + "the end") for depth in range(1, 24)]
    assert all("the end" in html for html in shown)
    assert [html.startswith("<pre>") for html in shown] == [depth > 17 for depth in range(1, 24)]


def test_a_vote_is_refused_by_the_database_where_it_belongs_to_nothing(tmp_path: Path) -> None:
    made = make_store(tmp_path)
    with pytest.raises(sqlite3.IntegrityError), made.writing() as db:
        db.execute("INSERT INTO undone VALUES (99, 'left', 0, 0)")
