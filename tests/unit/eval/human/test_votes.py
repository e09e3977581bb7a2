"""Claims, votes and undo: k raters an item, never more, none twice; what is abandoned comes back; nothing is lost."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from eval.human.overview import overview
from eval.human.raters import add_rater, find_rater, list_raters, remove_rater, renew_rater
from eval.human.store import VoteStore
from eval.human.votes import (
    Assignment,
    Choice,
    Outcome,
    claim,
    is_swapped,
    progress,
    record_vote,
    side_seed,
    undo,
    votes,
)
from tests.voting import Clock, make_store


def add_raters(store: VoteStore, num: int) -> list[int]:
    for n in range(num):
        add_rater(store, f"rater {n}")
    return [rater.rater_id for rater in list_raters(store)]


def page(store: VoteStore, rater: int) -> Assignment:
    assignment = claim(store, rater)
    assert assignment is not None
    return assignment


def vote_all(store: VoteStore, rater: int, choice: Choice = Choice.left) -> int:
    num = 0
    while (assignment := claim(store, rater)) is not None:
        assert record_vote(store, rater, assignment.assignment_id, choice) is Outcome.stored
        num += 1
    return num


def test_a_page_stays_until_it_is_voted_on(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    (rater,) = add_raters(store, 1)
    first = page(store, rater)
    assert page(store, rater) == first
    assert record_vote(store, rater, first.assignment_id, Choice.tie) is Outcome.stored
    assert page(store, rater).assignment_id != first.assignment_id
    assert record_vote(store, rater, first.assignment_id, Choice.tie) is Outcome.stored  # a form that is sent again
    assert record_vote(store, rater, first.assignment_id, Choice.left) is Outcome.already
    assert [vote.choice for vote in votes(store)] == [Choice.tie]


def test_each_item_gets_k_raters_evenly_and_no_rater_twice(tmp_path: Path) -> None:
    store = make_store(tmp_path, raters_per_item=2)
    raters = add_raters(store, 3)
    assert vote_all(store, raters[0]) == 12
    per_item = Counter(vote.item_id for vote in votes(store))
    assert set(per_item.values()) == {1}
    for _ in range(6):  # two raters in turn: the items fill evenly
        for rater in raters[1:]:
            record_vote(store, rater, page(store, rater).assignment_id, Choice.right)
    assert claim(store, raters[1]) is None
    assert claim(store, raters[2]) is None
    cast = votes(store)
    assert set(Counter(vote.item_id for vote in cast).values()) == {2}
    assert len({(vote.item_id, vote.rater) for vote in cast}) == len(cast) == 24


def test_an_abandoned_item_comes_back(tmp_path: Path) -> None:
    clock = Clock()
    store = make_store(tmp_path, clock, num_questions=1, systems=("okapi-7", "zebra-3"), raters_per_item=1)
    gone, other = add_raters(store, 2)
    first = page(store, gone)
    assert claim(store, other) is None
    clock.seconds += store.rules.claim_seconds + 1
    second = page(store, other)
    assert second.item == first.item
    assert record_vote(store, gone, first.assignment_id, Choice.left) is Outcome.gone
    assert record_vote(store, other, second.assignment_id, Choice.right) is Outcome.stored
    assert [vote.rater for vote in votes(store)] == ["rater 1"]
    assert overview(store).num_expired == 1


def test_a_late_vote_counts_where_there_is_room(tmp_path: Path) -> None:
    clock = Clock()
    store = make_store(tmp_path, clock, raters_per_item=1)
    (rater,) = add_raters(store, 1)
    first = page(store, rater)
    clock.seconds += store.rules.claim_seconds + 1
    assert record_vote(store, rater, first.assignment_id, Choice.left) is Outcome.stored
    assert votes(store)[0].seconds == store.rules.claim_seconds + 1


def test_nobody_votes_on_the_page_of_another(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    one, two = add_raters(store, 2)
    assert record_vote(store, two, page(store, one).assignment_id, Choice.left) is Outcome.unknown
    assert record_vote(store, two, 999, Choice.left) is Outcome.unknown
    assert votes(store) == []


def test_undo_goes_back_vote_by_vote(tmp_path: Path) -> None:
    clock = Clock()
    store = make_store(tmp_path, clock)
    (rater,) = add_raters(store, 1)
    seen = []
    for choice in (Choice.left, Choice.right, Choice.tie):
        seen.append(page(store, rater))
        record_vote(store, rater, seen[-1].assignment_id, choice)
        clock.seconds += 1
    ahead = page(store, rater)
    assert undo(store, rater)
    assert page(store, rater) == seen[2]
    clock.seconds += 1
    assert undo(store, rater)
    assert page(store, rater) == seen[1]
    record_vote(store, rater, seen[1].assignment_id, Choice.both_bad)
    assert page(store, rater) == seen[2]
    record_vote(store, rater, seen[2].assignment_id, Choice.left)
    assert page(store, rater) == ahead
    by_item = {vote.item_id: vote.choice for vote in votes(store)}
    assert list(by_item.values()) == [Choice.left, Choice.both_bad, Choice.left]
    assert overview(store).raters[0].num_undone == 2


def test_nothing_to_undo(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    (rater,) = add_raters(store, 1)
    assert not undo(store, rater)
    assert not progress(store, rater).can_undo


def test_sides_come_from_a_stored_seed_and_both_occur(tmp_path: Path) -> None:
    store = make_store(tmp_path, num_questions=20)
    (rater,) = add_raters(store, 1)
    assert vote_all(store, rater) == 60
    swaps = []
    for vote in votes(store):
        assert vote.seed == side_seed(store.seed, vote.item_id, rater)
        swaps.append(is_swapped(vote.seed))
        assert swaps[-1] == (vote.system_a > vote.system_b)  # items have their systems in alphabetical order
    assert 15 < sum(swaps) < 45
    assert {side_seed(0, 1, r) for r in range(50)} != {side_seed(0, 1, 0)}


def test_attention_checks_come_at_their_rate_and_show_who_fails(tmp_path: Path) -> None:
    store = make_store(tmp_path, num_questions=20, check_rate=0.2)
    careful, careless = add_raters(store, 2)
    for rater, attentive in ((careful, True), (careless, False)):
        while (assignment := claim(store, rater)) is not None:
            choice = Choice.tie
            if assignment.item.better is not None:
                left_is_better = (assignment.item.better == 1) != assignment.swapped
                choice = Choice.left if left_is_better == attentive else Choice.right
            record_vote(store, rater, assignment.assignment_id, choice)
    view = overview(store)
    one, two = view.raters
    assert (view.num_votes, one.num_votes - 60) == (120, one.checks_passed)
    assert view.num_check_votes == one.checks_passed + two.checks_failed
    assert (view.num_wanted, view.num_open, view.raters_per_item) == (180, 0, 3)
    assert 5 <= one.checks_passed <= 20
    assert (one.checks_failed, two.checks_passed) == (0, 0)
    assert two.checks_failed >= 5


def test_progress_counts_votes_claims_and_what_is_left(tmp_path: Path) -> None:
    store = make_store(tmp_path, raters_per_item=1)
    one, two = add_raters(store, 2)
    for _ in range(5):
        record_vote(store, one, page(store, one).assignment_id, Choice.left)
    page(store, two)
    mine, other = progress(store, one), progress(store, two)
    assert (mine.num_mine, mine.num_votes, mine.num_wanted, mine.num_left) == (5, 5, 12, 6)
    assert (other.num_mine, other.num_left) == (0, 7)  # the open page is among them


def test_eight_raters_at_once_lose_nothing_and_overfill_nothing(tmp_path: Path) -> None:
    store = make_store(tmp_path, num_questions=10, raters_per_item=3)
    raters = add_raters(store, 8)
    with ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(lambda rater: vote_all(VoteStore(store.path), rater), raters))
    cast = votes(store)
    assert sum(counts) == len(cast) == 90
    assert set(Counter(vote.item_id for vote in cast).values()) == {3}
    assert len({(vote.item_id, vote.rater) for vote in cast}) == 90


def test_tokens_are_stored_as_hashes_and_open_one_door(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    ann, bob = add_rater(store, "ann"), add_rater(store, " bob ")
    assert [rater.name for rater in list_raters(store)] == ["ann", "bob"]
    found = find_rater(store, ann)
    assert found is not None
    assert found.name == "ann"
    for wrong in (
        "",
        "1",
        "1.",
        f"2.{ann[2:]}",
        f"{ann}x",
        f"1.{bob[2:]}",
        "9.x",
        "-1.x",
        "²." + ann[2:],
        "9" * 30 + ".x",
    ):
        assert find_rater(store, wrong) is None
    stored = b"".join(file.read_bytes() for file in store.path.parent.iterdir())
    assert ann.split(".")[1].encode() not in stored
    new = renew_rater(store, "ann")
    assert find_rater(store, ann) is None
    assert find_rater(store, new) is not None
    remove_rater(store, "ann")
    assert find_rater(store, new) is None


@pytest.mark.parametrize("name", ["", "  ", "x" * 61, "two\nlines"])
def test_names_that_fit_no_table(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="expected a name"):
        add_rater(make_store(tmp_path), name)


def test_a_name_is_taken_once(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    add_rater(store, "ann")
    with pytest.raises(ValueError, match="ann is there already"):
        add_rater(store, "ann")
    with pytest.raises(ValueError, match="no rater eve; there are ann"):
        renew_rater(store, "eve")


def test_agreement_and_position_on_the_admin_page(tmp_path: Path) -> None:
    clock = Clock()
    store = make_store(tmp_path, clock, raters_per_item=2)
    one, two = add_raters(store, 2)
    for rater in (one, two):
        while (assignment := claim(store, rater)) is not None:
            clock.seconds += 2.0 if rater == one else 10.0
            first_is_better = assignment.item.question_id != "1" or rater == one
            choice = Choice.left if first_is_better != assignment.swapped else Choice.right
            record_vote(store, rater, assignment.assignment_id, choice)
    view = overview(store)
    assert view.agreement is not None
    assert view.agreement.num == 12
    assert view.agreement.statistics["percent_agreement"].value == pytest.approx(0.75)
    assert (view.num_complete, view.num_items) == (12, 12)
    fast, slow = view.raters
    assert (fast.median_seconds, fast.num_hasty, slow.median_seconds, slow.num_hasty) == (2.0, 12, 10.0, 0)
    assert (fast.agreement, fast.num_compared) == (0.75, 12)
    assert view.position is not None
    assert view.position.first_wins + view.position.second_wins == 24
