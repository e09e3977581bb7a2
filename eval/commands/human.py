"""The commands `python -m eval human ...`: let people vote on pairs of answers.

    python -m eval human serve answers/*.jsonl --tournament tournaments/t --rater ann --rater bob
    python -m eval human raters add eve --tournament tournaments/t
    python -m eval human export --tournament tournaments/t          # human.csv, for `python -m eval rate`
    python -m eval human import more.csv --tournament tournaments/t

What they do is in `eval.human`; only the `human` extra's packages are needed to serve.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from harness.console import STDERR, friendly_errors, say, show

if TYPE_CHECKING:
    from eval.human.items import ContestOptions
    from eval.human.store import VoteStore
    from eval.human.web.server import ServeOptions


EXTRA = ("fastapi", "uvicorn", "nh3", "markdown_it")  # what pyproject.toml's `human` brings

app = typer.Typer(help="Let people vote on pairs of answers, blind.", no_args_is_help=True)
raters_app = typer.Typer(help="Who may vote: each rater has a link of their own.", no_args_is_help=True)
app.add_typer(raters_app, name="raters")

Tournament = Annotated[Path, typer.Option(help="Folder that keeps the votes, in human.sqlite.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on standard output.")]


class Shape(StrEnum):
    """Layouts of a file of votes."""

    verdicts = "verdicts"
    mturk = "mturk"
    mturk_input = "mturk-input"


@app.command()
def serve(
    tournament: Tournament,
    answers: Annotated[list[Path] | None, typer.Argument(help="Answer files, run folders, or folders of them.")] = None,
    sweep: Annotated[str | None, typer.Option(help="All finished runs of this sweep.")] = None,
    run: Annotated[list[str] | None, typer.Option(help="A run id; may be repeated.")] = None,
    runs: Annotated[Path | None, typer.Option(help="Folder of the runs; default: HARNESS_RUNS, else runs/.")] = None,
    questions: Annotated[Path | None, typer.Option(help="Questions .jsonl; default: embedded.")] = None,
    bench: Annotated[str, typer.Option(help="Which answers of a run folder.")] = "open",
    max_questions: Annotated[int | None, typer.Option(help="The first so many questions.")] = None,
    only_judged: Annotated[bool, typer.Option(help="Only what stands in the tournament's verdicts.csv.")] = False,
    allow_empty: Annotated[bool, typer.Option(help="Show empty answers too, as such.")] = False,
    rater: Annotated[list[str] | None, typer.Option(help="Add a rater and print the link; may be repeated.")] = None,
    raters_per_item: Annotated[int | None, typer.Option(help="Votes wanted on each item; default 3.")] = None,
    check_rate: Annotated[float | None, typer.Option(help="Share of attention checks; default 0.1.")] = None,
    checks: Annotated[Path | None, typer.Option(help="Checks .jsonl: question, better, worse.")] = None,
    claim_minutes: Annotated[float | None, typer.Option(help="Until an open item goes to others; default 30.")] = None,
    order: Annotated[str, typer.Option(help="even, or informative: pairs first that make ratings surer.")] = "even",
    seed: Annotated[int, typer.Option(help="Of order, sides and checks; fixed at the first start.")] = 0,
    host: Annotated[str, typer.Option(help="Other than loopback needs HARNESS_HUMAN_TOKEN.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any free one.")] = 8000,
    public_url: Annotated[str | None, typer.Option(help="What raters type, where a proxy stands in front.")] = None,
    prepare: Annotated[bool, typer.Option(help="Draw up the items, add raters, and don't serve.")] = False,
) -> None:
    """Serve the vote. Started again without answers it goes on with what is there.

    The admin's page is guarded by HARNESS_HUMAN_TOKEN, or by a token drawn at the start. Stop with Ctrl-C: no vote
    is lost.
    """
    with friendly_errors(), _needs_extra():
        from eval.human.items import ContestOptions
        from eval.human.web.server import ServeOptions, admin_token

        where = ServeOptions(host=host, port=port, public_url=public_url)
        names = _checked_names(rater or [])
        if not prepare:
            admin_token(host)  # refused before anything is read or written
        sources = _sources(answers or [], sweep, run or [], runs)
        contest: dict[str, Any] = {
            "questions": questions,
            "benchmark": bench,
            "max_questions": max_questions,
            "checks": checks,
        }
        contest |= {"only_judged": only_judged, "allow_empty": allow_empty, "seed": seed, "order": order}
        options = ContestOptions(answers=sources, tournament=tournament, **contest)
        store = _open_or_begin(options, raters_per_item, check_rate, claim_minutes)
        _announce_or_serve(store, where, names, prepare)


@app.command("export")
def export_votes(
    tournament: Tournament,
    out: Annotated[Path | None, typer.Option(help="File to write; default: human.csv in the tournament.")] = None,
    shape: Annotated[
        Shape, typer.Option("--format", help="verdicts; mturk: a batch's results; mturk-input: what a batch takes.")
    ] = Shape.verdicts,
    checks: Annotated[bool, typer.Option(help="The attention checks' votes instead, with the right answer.")] = False,
    as_json: Json = False,
) -> None:
    """Write the votes as CSV: `python -m eval rate` reads it, and nothing is lost."""
    with friendly_errors(), _needs_extra():
        from eval.human.ballots import write_votes
        from eval.human.mturk import write_mturk_input, write_mturk_results

        store = _open(tournament)
        if checks and shape is not Shape.verdicts:
            raise ValueError(f"--checks with --format {shape.value}: only --format verdicts keeps them apart")
        names = {Shape.verdicts: "human.csv", Shape.mturk: "mturk_results.csv", Shape.mturk_input: "mturk_input.csv"}
        path = out or tournament / ("attention.csv" if checks else names[shape])
        if shape is Shape.verdicts:
            num = write_votes(store, path, checks)
        else:
            num = (write_mturk_results if shape is Shape.mturk else write_mturk_input)(store, path)
        show({"path": str(path), "num_rows": num}, Text(f"{num} rows in {path}"), as_json)


@app.command("import")
def import_votes(
    files: Annotated[list[Path], typer.Argument(help="CSV files of people's votes.")],
    tournament: Tournament,
    shape: Annotated[Shape, typer.Option("--format", help="verdicts, or mturk: a batch's results.")] = Shape.verdicts,
    only_known: Annotated[bool, typer.Option(help="Leave out rows on items that are not voted on here.")] = False,
    as_json: Json = False,
) -> None:
    """Add votes that were cast elsewhere. All of the files or, where a row is wrong, none of them."""
    with friendly_errors(), _needs_extra():
        from eval.human.ballots import read_ballots, store_ballots
        from eval.human.mturk import read_mturk_results

        if shape is Shape.mturk_input:
            raise ValueError(
                "--format mturk-input: that file holds no votes; give the batch's results with --format mturk"
            )
        store, ballots, num_rejected = _open(tournament), [], 0
        for path in files:
            if shape is Shape.mturk:
                read, rejected = read_mturk_results(store, path)
                num_rejected += rejected
            else:
                read = read_ballots(path)
            ballots += read
        summary = store_ballots(store, ballots, only_known)
        values = {
            "num_stored": summary.num_stored,
            "num_known": summary.num_known,
            "num_foreign": summary.num_foreign,
            "num_rejected": num_rejected,
            "num_new_raters": summary.num_raters,
        }
        text = (
            f"{summary.num_stored} votes added, {summary.num_known} were here already, {summary.num_foreign} on other "
            f"items left out, {num_rejected} rejected assignments left out; {summary.num_raters} new raters"
        )
        show(values, Text(text), as_json)


@raters_app.command("add")
def raters_add(
    names: Annotated[list[str], typer.Argument(help="Names, as they will stand in exports.")], tournament: Tournament
) -> None:
    """Add raters and print their links, which are shown this once."""
    with friendly_errors():
        from eval.human.raters import add_rater

        store = _open(tournament)
        for name in _checked_names(names):
            print(f"{name}: {_base_url(store)}/enter/{add_rater(store, name)}")


@raters_app.command("renew")
def raters_renew(name: Annotated[str, typer.Argument(help="Whose link.")], tournament: Tournament) -> None:
    """Print a new link; the old one opens nothing from now on."""
    with friendly_errors():
        from eval.human.raters import renew_rater

        store = _open(tournament)
        print(f"{name}: {_base_url(store)}/enter/{renew_rater(store, name)}")


@raters_app.command("remove")
def raters_remove(name: Annotated[str, typer.Argument(help="Whose link.")], tournament: Tournament) -> None:
    """Close a rater's link; votes stay."""
    with friendly_errors():
        from eval.human.raters import remove_rater

        remove_rater(_open(tournament), name)


@raters_app.command("list")
def raters_list(tournament: Tournament, as_json: Json = False) -> None:
    """Everybody, with the number of their votes."""
    with friendly_errors():
        from eval.human.overview import overview

        rows = [
            {"name": rater.name, "can_enter": rater.can_enter, "num_votes": rater.num_votes}
            for rater in overview(_open(tournament)).raters
        ]
        lines = [f"{row['name']}: {row['num_votes']} votes{'' if row['can_enter'] else ', no link'}" for row in rows]
        show(rows, Text("\n".join(lines) or "no raters yet"), as_json)


@contextmanager
def _needs_extra() -> Iterator[None]:
    """A missing web package is named with what installs it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in EXTRA:
            raise
        raise ValueError(f"{error.name} is not installed; pip install 'qlora-harness[human]' brings it") from None


def _say(line: str) -> None:
    """Prints on standard error, without breaking links into lines."""
    say(line, STDERR)


def _sources(answers: Sequence[Path], sweep: str | None, run_ids: Sequence[str], runs: Path | None) -> tuple[Path, ...]:
    if not (sweep or run_ids):
        return tuple(answers)
    from eval.systems import judged_answers  # imports torch: only who names runs waits for it

    return judged_answers(answers, sweep, run_ids, runs)


def _open(tournament: Path) -> "VoteStore":
    from eval.human.store import DATABASE, VoteStore

    return VoteStore(tournament / DATABASE)


def _open_or_begin(
    options: "ContestOptions", raters_per_item: int | None, check_rate: float | None, claim_minutes: float | None
) -> "VoteStore":
    """Goes on with what is there, or begins; rules that were said now replace those of before."""
    from eval.human.items import draw_contest
    from eval.human.store import DATABASE, Rules, create_store

    claim_seconds = None if claim_minutes is None else 60.0 * claim_minutes
    given_rules: dict[str, Any] = {
        "raters_per_item": raters_per_item,
        "check_rate": check_rate,
        "claim_seconds": claim_seconds,
    }
    given_rules = {key: value for key, value in given_rules.items() if value is not None}
    if options.answers or not (options.tournament / DATABASE).is_file():
        if not options.answers:
            raise ValueError("nothing to vote on: name answer files or run folders, a --sweep or a --run")
        contest = draw_contest(options)
        store = create_store(options.tournament, contest, replace(Rules(), **given_rules))
        for note in contest.notes:
            _say(note)
        same = sum(item.answer_one == item.answer_two for item in contest.items)
        line = f"{len(contest.items)} items, {len(contest.checks)} attention checks in {store.path}"
        _say(line + (f"; {same} items show one text twice" if same else ""))
    else:
        store = _open(options.tournament)
    if given_rules:
        store.set_fact("rules", asdict(replace(store.rules, **given_rules)))
    if not store.num_checks and store.rules.check_rate:
        _say("no attention checks: no answer has 12 to 150 different words; --checks FILE brings your own")
    return store


def _announce_or_serve(store: "VoteStore", where: "ServeOptions", names: Sequence[str], prepare: bool) -> None:
    """Adds raters and prints their links; unless only preparing, serves until Ctrl-C.

    A link is shown once, so that nobody is added before the port is ours.
    """
    from eval.human.web.server import serve as serve_votes

    def announce(url: str, token: str | None) -> None:
        _add_raters(store, names, url, _say)
        secret = f"{url}/admin/enter/{token}" if token else f"{url}/admin (its token: HARNESS_HUMAN_TOKEN)"
        _say(f"admin: {secret}")

    if prepare:
        _add_raters(store, names, _base_url(store), print)
    else:
        serve_votes(store, where, announce)


def _add_raters(store: "VoteStore", names: Sequence[str], url: str, show_link: Callable[[str], None]) -> None:
    """Shows each link the moment it is made; who has a link already keeps it. `names`: checked."""
    from eval.human.raters import add_rater, list_raters

    there = {rater.name for rater in list_raters(store) if rater.can_enter}
    for name in names:
        if name in there:
            _say(f"{name}: keeps the link of before (`human raters renew` makes a new one)")
        else:
            show_link(f"{name}: {url}/enter/{add_rater(store, name)}")
    if not there and not names:
        _say(f"no raters yet: python -m eval human raters add NAME --tournament {store.path.parent}")


def _checked_names(names: Sequence[str]) -> list[str]:
    """Names that can all be added, each once. Raises ValueError before any is."""
    from eval.human.raters import checked_name

    return list(dict.fromkeys(checked_name(name) for name in names))


def _base_url(store: "VoteStore") -> str:
    """The address where the vote was served last."""
    return str(store.fact("url") or "http://127.0.0.1:8000")
