"""Votes as CSV, the project's and Mechanical Turk's: out and in again without loss; bad rows named, none stored."""

import csv
import json
from pathlib import Path

import pytest

from eval.human.ballots import read_ballots, store_ballots, write_votes
from eval.human.items import ContestOptions, draw_contest
from eval.human.mturk import INPUT_COLUMNS, read_mturk_results, write_mturk_input, write_mturk_results
from eval.human.overview import overview
from eval.human.raters import add_rater, list_raters
from eval.human.store import Rules, VoteStore, create_store
from eval.human.votes import Choice, claim, record_vote, votes
from eval.ratings.rate import RateOptions, rate_files
from eval.verdicts.columns import VerdictError
from eval.verdicts.table import load_verdicts
from tests.golden.released.extract import write_extract
from tests.voting import SYSTEMS, Clock, make_store, write_rows

HEADER = "question_id,system_a,system_b,verdict,rater\n"


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def voted_store(folder: Path, **rules: float) -> VoteStore:
    """Two raters have said everything there is to say, all four choices among it."""
    clock = Clock()
    store = make_store(folder, clock, **rules)
    for name in ("ann", "bob"):
        add_rater(store, name)
    for rater in list_raters(store):
        at = 0
        while (assignment := claim(store, rater.rater_id)) is not None:
            clock.seconds += 7.25
            record_vote(store, rater.rater_id, assignment.assignment_id, list(Choice)[at % 4])
            at += 1
    return store


def test_rate_reads_an_export_and_counts_each_choice(tmp_path: Path) -> None:
    store = voted_store(tmp_path)
    path = tmp_path / "human.csv"
    assert write_votes(store, path) == 24
    rows = rows_of(path)
    for row, vote in zip(rows, votes(store), strict=True):
        assert (row["system_a"], row["system_b"], row["rater"]) == (vote.system_a, vote.system_b, vote.rater)
        assert row["both_bad"] == str(int(vote.choice is Choice.both_bad))
        assert row["verdict"] == {"left": "1", "right": "2"}.get(vote.choice.value, "3")
    assert {row["both_bad"] for row in rows} == {"0", "1"}
    verdicts = load_verdicts([path])
    assert (sorted(verdicts.rater.values), verdicts.system_names) == (["ann", "bob"], sorted(SYSTEMS))
    result = rate_files([path], RateOptions(orderings=10, resamples=10))
    assert set(result.bradley_terry) == set(SYSTEMS)


def test_an_export_comes_back_whole_and_twice_is_once(tmp_path: Path) -> None:
    store = voted_store(tmp_path / "one", check_rate=0.3)
    files = [tmp_path / "human.csv", tmp_path / "attention.csv"]
    nums = [write_votes(store, path, checks) for path, checks in zip(files, (False, True), strict=True)]
    assert nums[0] == 24
    assert nums[1] > 0
    other = make_store(tmp_path / "two")
    for num, path in zip(nums, files, strict=True):
        summary = store_ballots(other, read_ballots(path))
        assert (summary.num_stored, summary.num_known) == (num, 0)
        again = store_ballots(other, read_ballots(path))
        assert (again.num_stored, again.num_known) == (0, num)
    assert sorted(votes(other), key=repr) == sorted(votes(store), key=repr)
    assert [(r.name, r.can_enter) for r in list_raters(other)] == [("ann", False), ("bob", False)]


def test_imported_raters_fill_places_and_may_get_a_link_later(tmp_path: Path) -> None:
    store = make_store(tmp_path, raters_per_item=1)
    path = tmp_path / "more.csv"
    path.write_text(HEADER + "1,okapi-7,zebra-3,1,eve\n")
    store_ballots(store, read_ballots(path))
    add_rater(store, "eve")
    (eve,) = list_raters(store)
    assert eve.can_enter
    seen = set()
    while (assignment := claim(store, eve.rater_id)) is not None:
        record_vote(store, eve.rater_id, assignment.assignment_id, Choice.tie)
        seen.add((assignment.item.question_id, assignment.item.system_one, assignment.item.system_two))
    assert len(seen) == 11
    assert ("1", "okapi-7", "zebra-3") not in seen


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1,okapi-7,zebra-3,7,ann", r"line 3: verdict '7'; a person's vote is"),
        ("1,okapi-7,zebra-3,-1,ann", r"line 3: verdict '-1'"),
        ("1,okapi-7,zebra-3,1,", r"line 3: rater is empty"),
        ("1,okapi-7,A,a,ann", r"line 3: verdict 'a' is a code and the name of system_b; write 1, 2 or 3"),
        (",okapi-7,zebra-3,1,ann", r"line 3: question_id is empty"),
        ("1,okapi-7,gnu,1,ann", r"line 3: question 1, okapi-7 against gnu is not voted on here"),
        ("99,okapi-7,zebra-3,1,ann", r"line 3: question 99"),
        ("2,okapi-7,zebra-3,2,ann", r"line 3: ann has another vote on question 2"),
        ("1,okapi-7,zebra-3,1", r"line 3: 4 fields, the header has 5"),
    ],
)
def test_bad_rows_are_named_and_nothing_is_stored(tmp_path: Path, row: str, message: str) -> None:
    store = make_store(tmp_path)
    path = tmp_path / "votes.csv"
    path.write_text(f"{HEADER}2,okapi-7,zebra-3,1,ann\n{row}\n")
    with pytest.raises(ValueError, match=message):
        store_ballots(store, read_ballots(path))
    assert votes(store) == []
    assert list_raters(store) == []


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("question_id,system_a,system_b,verdict", "no column rater"),
        ("question_id,system_a,system_b,winner,rater", "no column verdict; unknown column winner"),
        ("question_id,system_a,system_b,verdict,rater,mood", "unknown column mood"),
        ("question_id,system_a,system_b,verdict,rater,rater_slot", "rater stands beside rater_slot"),
    ],
)
def test_wrong_columns(tmp_path: Path, header: str, message: str) -> None:
    path = tmp_path / "votes.csv"
    path.write_text(header + "\n" + "1," * header.count(",") + "1\n")
    with pytest.raises(ValueError, match=message):
        read_ballots(path)


def test_fields_beside_the_verdict_are_read_to_their_ends(tmp_path: Path) -> None:
    path = tmp_path / "votes.csv"
    names = "both_bad,seconds,voted,side_seed,judge"
    path.write_text(
        f"{HEADER[:-1]},{names}\n"
        f"1,okapi-7,zebra-3,3,ann,1,1e9,1971-01-01T00:00:00+00:00,{2**63 - 1},human\n"
        "2,okapi-7,zebra-3,2,bob,0,0,2999-12-31T00:00:00+00:00,0,\n"
        "3,okapi-7,zebra-3,1,bob,,,,,\n"
    )
    first, second, bare = read_ballots(path)
    assert (first.choice, first.seconds, first.voted, first.side_seed) == (Choice.both_bad, 1e9, 31536000.0, 2**63 - 1)
    assert (second.choice, second.seconds, second.side_seed) == (Choice.right, 0.0, 0)
    assert (bare.choice, bare.seconds, bare.voted, bare.side_seed) == (Choice.left, None, None, None)
    assert [ballot.rater for ballot in (first, second, bare)] == ["ann", "bob", "bob"]


def test_fields_beside_the_verdict_are_checked_too(tmp_path: Path) -> None:
    path = tmp_path / "votes.csv"
    for column, value, message in (
        ("both_bad", "1", "both_bad '1' with verdict '1'"),
        ("seconds", "-3", "seconds '-3'"),
        ("seconds", "nan", "seconds 'nan'"),
        ("seconds", "1e300", "seconds '1e300'"),
        ("voted", "yesterday", "voted 'yesterday'"),
        ("voted", "0001-01-01T00:00:00+14:00", "voted '0001-01-01"),
        ("voted", "9999-12-31T23:59:59-12:00", "voted '9999-12-31"),
        ("side_seed", "1e300", "side_seed '1e300'"),
        ("side_seed", str(2**63), "side_seed '9223372036854775808'"),
        ("side_seed", "9" * 5000, "side_seed '999"),
        ("side_seed", "1.5", "side_seed '1.5'"),
        ("judge", "gpt-4", "only people's votes"),
    ):
        path.write_text(f"{HEADER[:-1]},{column}\n1,okapi-7,zebra-3,1,ann,{value}\n")
        with pytest.raises(ValueError, match=f"line 2: .*{message}"):
            read_ballots(path)


def test_mturk_there_and_back(tmp_path: Path) -> None:
    store = make_store(tmp_path, check_rate=0.25)
    batch = tmp_path / "input.csv"
    assert write_mturk_input(store, batch) == 12 + 3
    rows = rows_of(batch)
    text = batch.read_text()
    assert tuple(rows[0]) == INPUT_COLUMNS
    assert not any(name in text for name in (*SYSTEMS, "attention"))
    assert len(text.splitlines()) == 16
    results = tmp_path / "results.csv"
    lines = ["HITId,WorkerId,AssignmentStatus,WorkTimeInSeconds,Input.item,Input.question,Answer.verdict"]
    for at, row in enumerate(rows):
        for worker, verdict in (("W1", "a"), ("W2", ("both_bad", "tie", "2")[at % 3])):
            lines.append(f"H{at},{worker},Approved,12,{row['item']},q,{verdict}")
    lines.append(f"H0,W3,Rejected,1,{rows[0]['item']},q,b")
    results.write_text("\n".join(lines) + "\n")
    ballots, num_rejected = read_mturk_results(store, results)
    assert num_rejected == 1
    assert store_ballots(store, ballots).num_stored == 30
    texts = {}
    for item in store.items():
        texts[item.question_id, item.system_one], texts[item.question_id, item.system_two] = (
            item.answer_one,
            item.answer_two,
        )
    for row, ballot in zip(rows, ballots[::2], strict=True):
        assert (ballot.rater, ballot.choice) == ("W1", Choice.left)
        assert texts[ballot.question_id, ballot.system_a] in row["answer_a"]
        assert texts[ballot.question_id, ballot.system_b] in row["answer_b"]
    assert overview(store).raters[1].num_both_bad > 0


def test_mturk_results_are_written_and_read_in_the_same_shape(tmp_path: Path) -> None:
    store = voted_store(tmp_path / "one")
    path = tmp_path / "results.csv"
    assert write_mturk_results(store, path) == 24
    other = make_store(tmp_path / "two")
    store_ballots(other, read_mturk_results(other, path)[0])
    key = [(v.question_id, v.system_a, v.system_b, v.choice, v.rater, v.seconds) for v in votes(store)]
    assert sorted(map(repr, key)) == sorted(
        repr((v.question_id, v.system_a, v.system_b, v.choice, v.rater, v.seconds)) for v in votes(other)
    )


def test_mturk_radio_buttons_and_batches_made_elsewhere(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    path = tmp_path / "results.csv"
    header = (
        "WorkerId,Input.question_id,Input.system_a,Input.system_b,Answer.verdict.1,Answer.verdict.2,Answer.verdict.3"
    )
    path.write_text(f"{header}\nW1,1,zebra-3,okapi-7,false,true,false\n")
    ballots, _ = read_mturk_results(store, path)
    store_ballots(store, ballots)
    (vote,) = votes(store)
    assert (vote.system_a, vote.system_b, vote.choice) == ("zebra-3", "okapi-7", Choice.right)
    path.write_text(f"{header}\nW1,1,zebra-3,okapi-7,false,false,false\n")
    with pytest.raises(ValueError, match="line 2: 0 of"):
        read_mturk_results(store, path)
    path.write_text("WorkerId,Input.item,Answer.verdict\nW1,feed,1\n")
    with pytest.raises(ValueError, match=r"line 2: Input\.item 'feed' is none of this tournament"):
        read_mturk_results(store, path)
    path.write_text("WorkerId,Input.item,Answer.mood\nW1,feed,1\n")
    with pytest.raises(ValueError, match=r"no column Answer\.verdict"):
        read_mturk_results(store, path)


def test_mturk_texts_are_harmless_and_upload(tmp_path: Path) -> None:
    from eval.human.items import ContestOptions, draw_contest
    from eval.human.store import Rules, create_store

    rows = [
        {"question_id": 1, "system": s, "answer": f"```\na\nb\n```\n<script>x</script> \U0001f600 {s[:2]}"}
        for s in SYSTEMS[:2]
    ]
    options = ContestOptions(
        answers=(write_rows(tmp_path / "a.jsonl", rows),),
        questions=write_rows(tmp_path / "q.jsonl", [{"question_id": 1, "text": "A <b>\nor b?"}]),
        tournament=tmp_path,
    )
    store = create_store(tmp_path, draw_contest(options), Rules())
    write_mturk_input(store, tmp_path / "in.csv")
    text = (tmp_path / "in.csv").read_text()
    assert "<script>" not in text
    assert "A &lt;b&gt;<br>or b?" in text
    assert "a&#10;b" in text
    assert max(map(ord, text)) <= 0xFFFF
    assert "&#128512;" in text


def test_the_papers_annotations_come_in_and_go_out_the_same(tmp_path: Path) -> None:
    """On questions 1 to 20 of them (tests/golden/released)."""
    annotations = write_extract(tmp_path) / "vicuna_human_pairwise.csv"
    released = rows_of(annotations)
    systems = sorted({row[side] for row in released for side in ("system_a", "system_b")})
    ids = range(1, 21)
    answers = [{"question_id": q, "system": s, "answer": f"{s} on {q}"} for s in systems for q in ids]
    options = ContestOptions(
        answers=(write_rows(tmp_path / "a.jsonl", answers),),
        questions=write_rows(tmp_path / "q.jsonl", [{"question_id": q, "text": f"Question {q}?"} for q in ids]),
        tournament=tmp_path,
    )
    store = create_store(tmp_path, draw_contest(options), Rules())
    summary = store_ballots(store, read_ballots(annotations))
    assert (summary.num_stored, summary.num_raters) == (len(released), 3)
    assert len(released) == 28 * 20 * 3
    write_votes(store, tmp_path / "human.csv")
    keys = ("question_id", "system_a", "system_b", "verdict")
    there = sorted((*(row[key] for key in keys), row["rater_slot"]) for row in released)
    assert sorted((*(row[key] for key in keys), row["rater"]) for row in rows_of(tmp_path / "human.csv")) == there


@pytest.mark.parametrize(("yes", "no"), [("1", "0"), ("1.0", "0.0"), ("True", "False"), (True, False), (1, None)])
def test_json_and_spreadsheets_say_what_a_plain_file_says(tmp_path: Path, yes: object, no: object) -> None:
    common = {"question_id": 1, "system_a": "ann", "system_b": "bob", "verdict": 3.0}
    rows = [{**common, "rater": 7, "both_bad": yes}, {**common, "rater": "eve", "both_bad": no}]
    (tmp_path / "v.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [",".join(rows[0]), *(",".join("" if v is None else str(v) for v in row.values()) for row in rows)]
    (tmp_path / "v.csv").write_text("\n".join(lines))
    for name in ("v.jsonl", "v.csv"):
        found = read_ballots(tmp_path / name)
        assert [(b.question_id, b.rater, b.choice) for b in found] == [
            ("1", "7", Choice.both_bad),
            ("1", "eve", Choice.tie),
        ]
    (tmp_path / "v.jsonl").write_text('{"question_id": 1, "system_a": "ann", "verdict": 1, "rater": "r"}\n')
    with pytest.raises(VerdictError, match="no column system_b"):
        read_ballots(tmp_path / "v.jsonl")
