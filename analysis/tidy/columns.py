"""Says what each column of the frames is, in which unit, and of which type.

unit_of("peak_memory_bytes")    # "bytes"
describe(frame)                 # a frame with a row a column: name, type, unit, about
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.tidy.axes import AXES, Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of the frames; a name means the same in all of them."""

    name: str
    kind: Kind
    about: str
    unit: str | None = None


def _columns(kind: Kind, *rows: tuple[str, str] | tuple[str, str, str]) -> list[Column]:
    return [Column(name=row[0], kind=kind, about=row[1], unit=row[2] if len(row) == 3 else None) for row in rows]


COLUMNS: tuple[Column, ...] = (
    *_columns(
        Kind.choice,
        ("run_id", "Names the run and its folder: a hash of all that can change its result."),
        ("label", "The run's name for people; unique within a sweep."),
        (
            "state",
            "done, queued, claimed, failed, cancelled, stopped; cut: no record; unreadable: a bad file.",
        ),
        ("group", "Equal for runs that can share a loaded base."),
        ("device", "What the run was trained on."),
        ("optimizer_used", "The optimizer that really ran."),
        ("evaluation", "What was measured and on what: mmlu, perplexity pile_cc, glue rte."),
        ("metric", "The name of the number in the evaluation's file."),
        ("unit", "Of `value`."),
        ("settings", "What a score can't be compared without, in words."),
        ("settings_sha256", "Of questions and protocol: scores of different ones can't be compared."),
        ("question_id", "The question or prompt, as its file names it."),
        ("question", "The question, row or document of an evaluation; unique within it."),
        ("category", "The question's subject or task."),
        ("system", "Who answered, or is rated: a run's label or another system's name."),
        ("system_a", "The system that was shown first."),
        ("system_b", "The system that was shown second."),
        ("judge", "Who judged; missing where the file doesn't say it."),
        ("rater", "Which person judged; missing where the file doesn't say it."),
        ("benchmark", "The set of questions that it is of; missing where the file doesn't say it."),
        ("verdict", "system_a, system_b (who is better), tie or unparsed."),
        ("bench", "Which questions were answered: the answer file's name."),
        ("finish_reason", "Why the answer ended: eos, stop, length."),
        ("rating", "Which rating: elo, bradley_terry or davidson."),
        ("git_commit", "The harness's commit."),
    ),
    *_columns(
        Kind.text,
        ("reason", "Why there is no value: why a run failed, or what is missing."),
        ("notes", "What happened in training, joined by semicolons."),
        ("prompt", "The text of the question; of a dialogue its turns."),
        ("answer", "The text of the answer."),
    ),
    *_columns(
        Kind.flag,
        ("higher_is_better", "Whether higher values are better; missing where the number says nothing of quality."),
        ("is_headline", "Whether it is the number that stands for the whole evaluation."),
        ("git_dirty", "Whether the harness had changes that were not committed."),
    ),
    *_columns(
        Kind.whole,
        ("num_steps", "Optimizer steps that were made.", "steps"),
        ("num_examples", "Rows of the tokenized dataset.", "rows"),
        ("num_truncated_sources", "Inputs that were cut.", "rows"),
        ("num_truncated_targets", "Outputs that were cut.", "rows"),
        ("target_tokens", "Tokens that carried loss: of the run, or of the step.", "tokens"),
        ("peak_memory_bytes", "The most memory that the device held.", "bytes"),
        ("row_tokens", "Tokens of a forward pass at most.", "tokens"),
        ("step", "The optimizer step, counted from 1.", "steps"),
        ("num_members", "Runs that shared the step.", "runs"),
        ("n", "Questions, rows or documents behind the value.", "questions"),
        ("turn", "Of a dialogue, counted from 0."),
        ("judged_turn", "Of the question's dialogue, counted from 1 as verdict files do."),
        ("num_tokens", "Tokens that were generated, stop text included.", "tokens"),
        ("answer_seed", "The seed of the answer's sampling."),
        ("num_dropped_turns", "Oldest turns that the context did not hold.", "turns"),
        ("rank", "The place among the rated systems, 1 is best."),
        ("rank_low", "Lower end of the rank's 95 % interval."),
        ("rank_high", "Upper end of the rank's 95 % interval."),
    ),
    *_columns(
        Kind.number,
        ("final_loss", "Mean training loss of the last tenth of the steps.", "nats a token"),
        ("eval_loss", "Mean loss of the held-out rows, with the weights that the run left.", "nats a token"),
        (
            "eval_bits_per_byte",
            "The same by bytes of the targets, which compares models of several tokenizers.",
            "bits a byte",
        ),
        ("train_seconds", "Of the steps, each shared out over the runs that trained in it.", "seconds"),
        ("quantized_share", "Share of the base's weights in few bits.", "share"),
        ("loss", "Training loss of the step.", "nats a token"),
        ("step_learning_rate", "The learning rate of the step."),
        ("grad_norm", "Norm of the gradient before clipping."),
        ("seconds", "Of the whole group's step.", "seconds"),
        ("value", "The score; `unit` has its unit."),
        ("low", "Lower end of the 95 % interval, in the value's unit."),
        ("high", "Upper end of the 95 % interval, in the value's unit."),
        ("weight", "Of the question in the run's mean; missing: all alike."),
        ("best_probability", "The chance that the system is the best.", "probability"),
    ),
)
TIMES = ("started", "finished")  # of type datetime64, in UTC
BY_NAME: Mapping[str, Column] = {column.name: column for column in COLUMNS}
_ABOUT: Mapping[str, str] = {
    **{axis.name: axis.about for axis in AXES},
    **{column.name: column.about for column in COLUMNS},
    **dict.fromkeys(TIMES, "When it was, in UTC."),
}
UNITS: Mapping[str, str] = {
    **{axis.name: axis.unit for axis in AXES if axis.unit is not None},
    **{column.name: column.unit for column in COLUMNS if column.unit is not None},
    **dict.fromkeys(TIMES, "UTC"),
}


def unit_of(name: str) -> str | None:
    """The unit of a column; None for names, flags and plain numbers.

    A score's unit stands in its own row, in `unit`.
    """
    return UNITS.get(name)


def meaning_of(name: str) -> str:
    """What a column is, in a sentence."""
    return _ABOUT.get(name, "A key of the run's config.")


def describe(frame: pd.DataFrame) -> pd.DataFrame:
    """What each column of a frame is: a row a column with `name`, `type`, `unit` and `about`."""
    names = [str(name) for name in frame]
    return pd.DataFrame(
        {
            "name": names,
            "type": [str(frame[name].dtype) for name in names],
            "unit": [unit_of(name) for name in names],
            "about": [meaning_of(name) for name in names],
        },
        dtype="string",
    )


def ordered(frame: pd.DataFrame, first: Sequence[str]) -> pd.DataFrame:
    """The frame with these columns in front."""
    return frame[[*first, *(name for name in frame if name not in first)]]
