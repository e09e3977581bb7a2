"""The options of `python -m analysis leaderboard`, and those that it hands to the commands that it drives."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from analysis.places import require_file, require_folder
from eval.benchmarks.registry import BENCHMARKS

GENERATE, JUDGE, RATE, REPORT = "generate", "judge", "rate", "report"
NO_JUDGE = "none"
RESERVED: Mapping[str, str] = {  # an option of a command that this one gives itself -> what to say instead
    "--sweep": "--sweep",
    "--run": "--run",
    "--run-id": "--run",
    "--runs": "--runs",
    "--questions": "--questions",
    "--bench": "--bench",
    "--tournament": "--tournament",
    "--judge": "--judge",
    "--budget-usd": "--budget-usd",
    "--verdicts": "--verdicts",
    "--title": "--title",
    "--out": "--out",
    "--json": "--json",
    "--yes": "--yes",
    "--estimate": "--plan",
    "--limit": "--max-questions",
    "--max-questions": "--max-questions",
}
OF_BENCHMARKS = frozenset({"--questions", "--limit", "--bench", "--judge"})  # which mean something else there


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderboardOptions:
    """From what a leaderboard is made, how, and where."""

    out: Path  # folder of the site
    tournament: Path  # folder of judgments, verdicts, ratings and the record of the steps
    sweep: str | None = None
    run_ids: tuple[str, ...] = ()
    runs: Path | None = None  # folder of the run folders; None: as the environment says, else runs/
    answers: tuple[Path, ...] = ()  # files of other systems' answers
    questions: Path | None = None  # None: the embedded open prompts
    verdicts: tuple[Path, ...] = ()  # files of verdicts that exist
    judges: tuple[str, ...] = ()  # none: nobody judges
    budget_usd: float | None = None
    benchmarks: tuple[str, ...] = ()
    max_questions: int | None = None
    bench: str = "open"  # name of the answers' files in run folders
    title: str | None = None
    further: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # command -> options for it

    def __post_init__(self) -> None:
        require_folder(self.out, "--out")
        require_folder(self.tournament, "--tournament")
        for path in self.answers:
            require_file(path, "--answers")
        for path in self.verdicts:
            require_file(path, "--verdicts")
        if self.questions is not None:
            require_file(self.questions, "--questions")
        unknown = [name for name in self.benchmarks if name not in scored_by_command()]
        if unknown:
            raise ValueError(f"--benchmarks {','.join(unknown)}: expected some of {', '.join(scored_by_command())}")
        if not (self.sweep or self.run_ids or self.answers or self.verdicts):
            raise ValueError(
                "nothing to compare: name a --sweep, runs by --run, files of --answers, or files of --verdicts"
            )


def scored_by_command() -> list[str]:
    """The benchmarks that `python -m eval NAME` measures."""
    return [name for name, benchmark in BENCHMARKS.items() if benchmark.command == name]


def read_judges(texts: Sequence[str]) -> tuple[str, ...]:
    """The judges that `--judge` names, with commas or repeated; none where it says `none`.

    Raises:
        ValueError: one of them stands there twice, or `none` beside others.
    """
    names = tuple(name.strip() for text in texts for name in text.split(",") if name.strip())
    if not names or len(set(names)) < len(names) or (NO_JUDGE in names and len(names) > 1):
        raise ValueError(f"--judge {','.join(texts)}: name each judge once, or {NO_JUDGE} alone")
    return () if names == (NO_JUDGE,) else names


def read_further(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Reads `--with "judge --max-answer-tokens 48"`. -> {command: its further options}

    Raises:
        ValueError: a text that begins with no such command, or an option that the leaderboard gives by itself.
    """
    known = (GENERATE, JUDGE, RATE, REPORT, *scored_by_command())
    found: dict[str, tuple[str, ...]] = {}
    for text in texts:
        try:
            command, *options = shlex.split(text)
        except ValueError as error:
            raise ValueError(f"--with {text!r}: {error or 'empty'}; begin with one of {', '.join(known)}") from None
        if command not in known:
            raise ValueError(f"--with {text!r}: it begins with no command; expected one of {', '.join(known)}")
        _refuse_reserved(command, options, text)
        found[command] = (*found.get(command, ()), *options)
    return found


def _refuse_reserved(command: str, options: Sequence[str], text: str) -> None:
    for option in options:
        name = option.partition("=")[0]
        own = RESERVED.get(name)
        if own is not None and not (command in BENCHMARKS and name in OF_BENCHMARKS):
            raise ValueError(f"--with {text!r}: {name} is given to {command} by this command; say {own} to it")


def option_of(options: Sequence[str], name: str) -> str | None:
    """The value of an option among the words of a command line, given as `--name value` or `--name=value`."""
    for place, word in enumerate(options):
        if word == name and place + 1 < len(options):
            return options[place + 1]
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return None
