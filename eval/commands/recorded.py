"""Records every command of `python -m eval` that makes something, in `steps.json` beside what it made.

    record_commands(app)

The record has the words as they were typed, the version, the digests of the files that were read, when it started and
how long it took; passwords and keys are masked. It lies in the tournament's folder; in the folder of each run that a
command answers for or scores in place; else in the folder of `--out`. A command that was refused, or that only prints,
leaves none. A step of `python -m analysis leaderboard` is recorded by that command.
"""

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from eval.judging.flags import replayed_file
from harness.console import EXIT_FAILED, EXIT_INTERRUPTED, STDERR, say, version
from harness.ledger.passwords import url_without_password
from harness.runs.steps import KEPT_BY_CALLER, UNRECORDED, StepRecord, digests, keep_step

WORDS = "words of the command line"
WRITTEN = ("out",)  # parameters that name what is written
_KEY = re.compile(r"\b(?:sk|hf|gsk|ghp|xai|AIza)[-_]?[\w-]{16,}")  # a key by its form


class RecordedCommand(TyperCommand):
    """A command that leaves a record of itself."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keeps the words before they are read."""
        ctx.meta[WORDS] = tuple(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Runs the command, and records it: as done, or as begun where it left something open or was stopped."""
        started, began = datetime.now(UTC), time.monotonic()
        try:
            result = super().invoke(ctx)
        except (typer.Exit, SystemExit) as left:
            code = left.exit_code if isinstance(left, typer.Exit) else left.code
            if code in (EXIT_FAILED, EXIT_INTERRUPTED):
                _record(ctx, started, began, is_done=False)
            raise
        _record(ctx, started, began, is_done=True)
        return result


def record_commands(app: typer.Typer) -> None:
    """Has the commands of an application record themselves; those of groups in it are left as they are."""
    for command in app.registered_commands:
        command.cls = RecordedCommand


def _record(ctx: Any, started: datetime, began: float, is_done: bool) -> None:
    params: Mapping[str, Any] = ctx.params
    if os.environ.get(KEPT_BY_CALLER) or params.get("estimate_only"):
        return
    try:
        runs = list(_run_folders(params))
        if not (folders := _folders(params, runs)):
            return
        words = [*_names(ctx), *masked(word for word in ctx.meta[WORDS] if word not in UNRECORDED)]
        record = StepRecord(
            key=" ".join(words),
            command=["python", "-m", "eval", *words],
            is_done=is_done,
            inputs=digests(_inputs(params, runs)),
            version=version(),
            started=started.isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - began, 1),
        )
        for folder in folders:
            keep_step(record, folder)
    except (ValueError, OSError) as error:  # what the command made is there all the same
        say(f"note: this command is not recorded: {error}", STDERR)


def masked(words: Iterator[str]) -> Iterator[str]:
    """The words with `***` for passwords and for what has the form of a key."""
    return (_KEY.sub("***", url_without_password(word)) for word in words)


def _names(ctx: Any) -> list[str]:
    """The command's name, behind those of its groups."""
    names: list[str] = []
    while ctx.parent is not None:
        names.insert(0, str(ctx.info_name))
        ctx = ctx.parent
    return names


def _folders(params: Mapping[str, Any], runs: Sequence[Path]) -> list[Path]:
    """Where the command's record belongs; nowhere for one that only prints."""
    if params.get("tournament") is not None:
        return [Path(params["tournament"])]
    if runs and params.get("in_runs", True):
        return list(runs)
    if params.get("out") is None:
        return []
    out = Path(params["out"])
    return [out.parent if out.is_file() else out]


def _run_folders(params: Mapping[str, Any]) -> Iterator[Path]:
    """The folders of the runs that `--sweep` and `--run` name."""
    from harness.config.paths import paths_of_environment
    from harness.ledger.finished import sweep_runs
    from harness.ledger.open import ledger_url

    sweep, named = params.get("sweep"), params.get("run") or ()
    if not (sweep or named):
        return
    paths = paths_of_environment(params.get("runs"))
    of_sweep = sweep_runs(sweep, ledger_url(paths)).run_ids if sweep else ()
    for run_id in dict.fromkeys((*of_sweep, *named)):
        yield Path(paths.runs) / run_id


def _inputs(params: Mapping[str, Any], runs: Sequence[Path]) -> Iterator[Path]:
    """The files that the command read: those that its options name, and the answers of runs that were judged."""
    answers = Path("answers") / f"{params.get('bench')}.jsonl"
    if params.get("tournament") is not None:
        yield from (run / answers for run in runs)
    for name, value in params.items():
        for word in value if isinstance(value, (list, tuple)) else (value,):
            if name in WRITTEN or not isinstance(word, (str, Path)):
                continue
            path = replayed_file(str(word))[0] if str(word).startswith("replay:") else Path(str(word))
            yield from (path, path / answers, path / "adapter_model.safetensors")
