"""Plans the steps of a leaderboard from what is there. It reads and starts nothing, so it can be tried on made-up data.

    plan = make_plan(options, look(options), is_current)

A step is one child process. Nothing is to be done for it where what it makes is complete, or where the record says that
the same command made it of the same files.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from analysis.leaderboard.found import RATINGS_FILE, Found, FoundRun
from analysis.leaderboard.options import GENERATE, JUDGE, RATE, REPORT, LeaderboardOptions, option_of
from eval.benchmarks.registry import BENCHMARKS
from eval.judging.flags import costs_money, replayed_file
from eval.judging.store import SCORES_FILE, VERDICTS_FILE
from eval.verdicts.files import ENSEMBLE_FILE, GRADED_VERDICTS_FILE
from harness.runs.scores import eval_file

PYTHON = ("python", "-m")
PAGE = "index.html"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One child process, and what is known of its work before it starts."""

    key: str  # the same for the same part of a leaderboard in every call
    title: str
    command: tuple[str, ...]
    inputs: tuple[Path, ...] = ()  # files that decide its result
    outputs: tuple[Path, ...] = ()
    needs: tuple[str, ...] = ()  # keys of the steps before it whose results it reads
    there: str = ""  # what was made before
    to_make: str = ""  # empty: nothing is to be done
    pays: bool = False
    run_ids: tuple[str, ...] = ()  # the runs that it works on alone

    @property
    def kind(self) -> str:
        """What kind of step it is: generate, judge, rate, report, or a benchmark."""
        return self.key.partition(" ")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All steps, in the order in which they are done, and what the user should know."""

    steps: tuple[Step, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    options: LeaderboardOptions
    found: Found
    is_current: Callable[[Step], bool]

    def further(self, command: str) -> tuple[str, ...]:
        """The options that `--with` hands to a command."""
        return self.options.further.get(command, ())


def make_plan(options: LeaderboardOptions, found: Found, is_current: Callable[[Step], bool]) -> Plan:
    """The steps from what is there to the site: answers, judging, rating, scores, site.

    Whoever pays is asked before the scores, which may take hours.

    Args:
        options: what is asked for.
        found: what is there.
        is_current: whether the record has a step as done by the same command, with the files as they are.

    Raises:
        ValueError: there is nothing to compare and nothing to show.
    """
    facts = _Facts(options=options, found=found, is_current=is_current)
    answers = _answers(facts) if options.judges else []
    judging = _judging(facts, answers)
    rating = _rating(facts, judging)
    notes = [*found.notes, *_tournament_notes(facts), *_scores_notes(facts)]
    shows_answers = bool(found.others) and not options.judges
    if not (found.runs or rating or shows_answers):
        found_none = "; ".join(notes) or "there is nothing to compare"
        raise ValueError(f"{found_none}; add systems by --sweep, --run or --answers, or verdicts by --verdicts")
    steps = [*answers, *judging, *rating, *_scores(facts)]
    return Plan(steps=(*steps, _site(facts, bool(rating))), notes=tuple(notes))


def _answers(facts: _Facts) -> list[Step]:
    """A step for each base, so that one that fails costs the others nothing."""
    groups = _by_base(facts.found.players)
    return [_answers_of(facts, runs, alone=len(groups) == 1) for runs in groups]


def _answers_of(facts: _Facts, runs: Sequence[FoundRun], alone: bool) -> Step:
    options, further = facts.options, facts.further(GENERATE)
    limit = ("--limit", str(options.max_questions)) if options.max_questions else ()
    files = tuple(run.folder / "answers" / f"{options.bench}.jsonl" for run in runs)
    step = Step(
        key=f"{GENERATE} {runs[0].group}",
        title=f"answers of {_counted(len(runs), 'system')} on {runs[0].base}",
        command=(*_eval(GENERATE), *_chosen(facts, runs, alone), *_asked(options), *_runs(options), *limit, *further),
        inputs=_questions(options),
        outputs=files,
        run_ids=tuple(run.run_id for run in runs),
    )
    missing = sum(run.num_missing for run in runs)
    there = facts.found.num_turns * len(runs) - missing
    if facts.is_current(step) or (not missing and not further):
        return replace(step, there=_counted(there, "answer"))
    to_make = _counted(missing, "answer") if missing else "a look whether --with made them"
    return replace(step, there=_counted(there, "answer") if there else "", to_make=to_make)


def _judging(facts: _Facts, answers: Sequence[Step]) -> list[Step]:
    options, found = facts.options, facts.found
    if not options.judges or not num_matches(facts):
        return []
    answer_files = tuple(run.folder / "answers" / f"{options.bench}.jsonl" for run in found.players)
    names = tuple(word for name in options.judges for word in ("--judge", name))
    limit = ("--max-questions", str(options.max_questions)) if options.max_questions else ()
    replayed = tuple(replayed_file(name)[0] for name in options.judges if name.startswith("replay:"))
    budget = () if options.budget_usd is None else ("--budget-usd", f"{options.budget_usd:g}")
    step = Step(
        key=f"{JUDGE} {','.join(options.judges)}",
        title=f"verdicts of {', '.join(options.judges)}",
        command=(
            *_eval(JUDGE),
            *map(str, options.answers),
            *(_chosen(facts, found.players, alone=True) if found.players else ()),
            *("--tournament", str(options.tournament)),
            *_asked(options),
            *_runs(options),
            *names,
            *limit,
            *budget,
            *facts.further(JUDGE),
        ),
        inputs=(*answer_files, *options.answers, *_questions(options), *replayed),
        outputs=(_verdict_file(facts),),
        needs=tuple(step.key for step in answers),
        pays=any(map(costs_money, options.judges)),
    )
    matches = _counted(num_matches(facts) * len(options.judges), "match", "matches")
    if not _is_open(answers) and facts.is_current(step):
        return [replace(step, there=f"verdicts on {matches}")]
    return [replace(step, to_make=f"verdicts on {matches}{', each paid' if step.pays else ''}")]


def num_matches(facts: _Facts) -> int:
    """How many matches a judge decides, once all answers are there."""
    found, further = facts.found, facts.further(JUDGE)
    players = [frozenset(found.questions)] * len(found.players) + [
        found.others[name] & set(found.questions) for name in found.others
    ]
    players += [frozenset(found.questions)] * ("--null-control" in further)
    if option_of(further, "--mode") == "single":
        return sum(map(len, players))
    if (reference := option_of(further, "--reference")) is not None:
        theirs = found.others.get(reference, frozenset(found.questions))
        return 2 * (sum(len(theirs & player) for player in players) - len(theirs))
    return 2 * sum(len(one & other) for one, other in combinations(players, 2))


def _rating(facts: _Facts, judging: Sequence[Step]) -> list[Step]:
    options, found = facts.options, facts.found
    own = [_verdict_file(facts)] if judging else [options.tournament / VERDICTS_FILE] * found.has_verdicts
    files = (*own, *options.verdicts)
    if not files:
        return []
    ratings = options.tournament / RATINGS_FILE
    step = Step(
        key=RATE,
        title="ratings",
        command=(*rate_command(files, ratings), *facts.further(RATE)),
        inputs=files,
        outputs=(ratings,),
        needs=tuple(step.key for step in judging),
    )
    is_there = facts.is_current(step) or (found.has_ratings and not judging and not facts.further(RATE))
    if is_there and not _is_open(judging):
        return [replace(step, there="ratings")]
    return [replace(step, to_make=f"from {_counted(len(files), 'file')}")]


def rate_command(files: Sequence[Path], ratings: Path) -> tuple[str, ...]:
    """The command that rates files of verdicts."""
    return (*_eval(RATE), *map(str, files), "--out", str(ratings))


def _scores(facts: _Facts) -> list[Step]:
    """A step for each benchmark and base, so that one that fails costs the others nothing."""
    steps = []
    for name in facts.options.benchmarks:
        groups = _by_base([run for run in facts.found.runs if _is_scored(name, run)])
        steps += [_scores_of(facts, name, runs, alone=len(groups) == 1) for runs in groups]
    return steps


def _scores_of(facts: _Facts, name: str, runs: Sequence[FoundRun], alone: bool) -> Step:
    further = facts.further(name)
    step = Step(
        key=f"{name} {runs[0].group}",
        title=f"{BENCHMARKS[name].title} of {_counted(len(runs), 'system')} on {runs[0].base}",
        command=(*_eval(name), *_chosen(facts, runs, alone), "--in-runs", *_runs(facts.options), *further),
        outputs=tuple(eval_file(run.folder, name) for run in runs),
        run_ids=tuple(run.run_id for run in runs),
    )
    there = sum(name in run.scored for run in runs)
    missing = len(runs) if "--fresh" in further else len(runs) - there
    if facts.is_current(step) or not missing:
        return replace(step, there=_counted(there, "score"))
    return replace(step, there=_counted(there, "score") if there else "", to_make=_counted(missing, "score"))


def _site(facts: _Facts, is_rated: bool) -> Step:
    options = facts.options
    command = (
        *PYTHON,
        *("analysis", "report"),
        *(("--sweep", options.sweep) if options.sweep else ()),
        *(word for run_id in options.run_ids for word in ("--run", run_id)),
        *_runs(options),
        *(("--tournament", str(options.tournament)) if is_rated else ()),
        *(word for path in options.verdicts for word in ("--verdicts", str(path))),
        *(word for path in options.answers for word in ("--answers", str(path))),
        *_asked(options),
        *(("--title", options.title) if options.title else ()),
        *("--out", str(options.out)),
        *facts.further(REPORT),
    )
    return Step(key=REPORT, title="site", command=command, outputs=(options.out / PAGE,), to_make="from all of these")


def _tournament_notes(facts: _Facts) -> list[str]:
    """Says where nobody can be compared by a judge."""
    found, options = facts.found, facts.options
    names = [*(run.name for run in found.players), *found.others]
    if options.judges and len(names) == 1:
        return [f"one system, {names[0]}: there is nothing to compare, so no judge is asked"]
    if options.judges and names and not num_matches(facts):
        return ["no two systems answered one question, so no judge can compare them"]
    return []


def _scores_notes(facts: _Facts) -> list[str]:
    """Says which runs a benchmark doesn't score, and where options come too late."""
    notes = []
    for name in facts.options.benchmarks:
        benchmark, runs = BENCHMARKS[name], facts.found.runs
        others = [run.name for run in runs if not _is_scored(name, run)]
        if others:
            what = f"finetuned {benchmark.kind.value}" if benchmark.scores_own_dataset else benchmark.kind.value
            notes.append(f"{name}: left out {', '.join(others)}: it scores {what} models only")
        num = sum(name in run.scored for run in runs)
        further = facts.further(name)
        steps = [step for step in _scores(facts) if step.kind == name]
        if num and further and "--fresh" not in further and not all(facts.is_current(step) for step in steps):
            notes.append(
                f'{name}: {_counted(num, "score")} from before are kept, whatever their settings; --with "{name} '
                f'--fresh ..." makes them anew'
            )
    return notes


def _is_scored(name: str, run: FoundRun) -> bool:
    benchmark = BENCHMARKS[name]
    return run.kind is benchmark.kind and (run.has_dataset or not benchmark.scores_own_dataset)


def _verdict_file(facts: _Facts) -> Path:
    """The file of the judge's verdicts that is rated."""
    further = facts.further(JUDGE)
    if len(facts.options.judges) > 1:
        name = ENSEMBLE_FILE
    elif option_of(further, "--mode") == "single":
        name = GRADED_VERDICTS_FILE
    else:
        name = SCORES_FILE if option_of(further, "--reference") is not None else VERDICTS_FILE
    return facts.options.tournament / name


def _eval(command: str) -> tuple[str, ...]:
    return (*PYTHON, "eval", command)


def _chosen(facts: _Facts, runs: Sequence[FoundRun], alone: bool) -> tuple[str, ...]:
    """The options that name these runs: the sweep, where they are all that is done of it."""
    if facts.found.is_whole_sweep and alone and len(runs) == len(facts.found.runs):
        assert facts.options.sweep is not None
        return ("--sweep", facts.options.sweep)
    return tuple(word for run in runs for word in ("--run", run.run_id))


def _asked(options: LeaderboardOptions) -> tuple[str, ...]:
    """The options that say what is asked, and what the answers' files are called."""
    questions = ("--questions", str(options.questions)) if options.questions else ()
    return (*questions, *(("--bench", options.bench) if options.bench != "open" else ()))


def _runs(options: LeaderboardOptions) -> tuple[str, ...]:
    return () if options.runs is None else ("--runs", str(options.runs))


def _questions(options: LeaderboardOptions) -> tuple[Path, ...]:
    return () if options.questions is None else (options.questions,)


def _by_base(runs: Sequence[FoundRun]) -> list[list[FoundRun]]:
    groups: dict[str, list[FoundRun]] = {}
    for run in runs:
        groups.setdefault(run.group, []).append(run)
    return list(groups.values())


def _is_open(steps: Sequence[Step]) -> bool:
    return any(step.to_make for step in steps)


def _counted(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
