"""The body of `python -m eval judge`, and its messages before the first paid call and at the end.

`Estimate` and `JudgeSummary` of `eval.judging.options` say the same in JSON.
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eval.judges.registry import choose_judge
from eval.judges.tournament import estimate, run
from eval.judging.flags import JudgeFlags
from eval.judging.matches import PositionBias
from eval.judging.options import Estimate, JudgeOptions, JudgeSummary
from eval.judging.prompts import Mode
from harness.devices.torch_device import quiet_libraries
from harness.progress import Progress


def estimate_text(ahead: Estimate) -> str:
    """Calls, tokens and cost ahead, in one line."""
    if ahead.cost_usd is None or ahead.max_cost_usd is None:
        cost = "no price was given, so the cost is not known (--usd-per-million-prompt-tokens, -completion-tokens)"
    else:
        cost = f"about {ahead.cost_usd:.4f} USD, at most {ahead.max_cost_usd:.4f} without retries"
        cost += " (at the batch price)" if ahead.batch else ""
    return (
        f"ahead: {ahead.num_calls} calls, about {ahead.num_prompt_tokens} tokens to read and at most "
        f"{ahead.num_completion_tokens} to write; {cost}"
    )


def summary_text(summary: JudgeSummary) -> str:
    """The summary as lines for a terminal."""
    lines = [
        f"{summary.judge}: {summary.num_matches} matches of {summary.num_systems} systems on "
        f"{summary.num_questions} questions; {summary.num_judged} judged now, {summary.num_reused} before, "
        f"{summary.num_failed} failed, {summary.num_unparsed} unparsed, {summary.seconds:.1f} s",
        *position_lines(summary.position_bias),
    ]
    if summary.spent_usd or summary.cost_usd:
        lines.append(f"spent in this folder: {summary.spent_usd:.4f} USD, calls under way at their most")
    if summary.unmatched_systems:
        lines.append(f"met nobody, so can't be rated: {', '.join(summary.unmatched_systems)}")
    lines += [f"note: {note}" for note in summary.notes]
    lines += [f"failed: {reason} ({count} matches)" for reason, count in summary.failures.items()]
    lines += [f"unparsed: {reason} ({count} matches)" for reason, count in summary.unparsed.items()]
    if summary.num_unparsed:
        lines.append("--reparse reads stored replies anew, for nothing; --retry-unparsed asks about them again")
    lines.append(f"verdicts in {summary.output}")
    if summary.stopped:
        lines.append(f"stopped: {summary.stopped}")
    if summary.num_failed:
        lines.append("the same command asks about what failed again, and about nothing else")
    return "\n".join(lines)


def position_lines(bias: PositionBias) -> list[str]:
    """Lines that say how much the order of the answers decides."""
    decisive = bias.first_wins + bias.second_wins
    if not decisive + bias.ties:
        return []
    share = f" ({bias.first_wins / decisive:.0%} of decisive verdicts)" if decisive else ""
    lines = [
        f"position: the first answer wins {bias.first_wins}, the second {bias.second_wins}{share}, {bias.ties} ties"
    ]
    if bias.num_pairs:
        lines.append(
            f"swapped order: of {bias.num_pairs} pairs {bias.num_consistent} keep their verdict, {bias.num_reversed} "
            f"reverse it, {bias.num_tie_and_win} are a tie in one order only"
        )
    return lines


def judge_options(
    answers: tuple[Path, ...], tournament: Path, judge: str, flags: JudgeFlags, *, reference: str | None, **rest: Any
) -> JudgeOptions:
    """The typed options of a tournament. `judge`: a name as `eval.judges.registry` reads it."""
    mode = Mode.pairwise if reference is None else Mode.relative
    chosen = choose_judge(judge, flags)
    return JudgeOptions(answers=answers, tournament=tournament, judge=chosen, mode=mode, reference=reference, **rest)


def run_judge(
    options: JudgeOptions, advance: Progress, announce: Callable[[str], None]
) -> tuple[dict[str, Any], str, bool]:
    """Judges. -> the summary as plain values, as text, and whether every match has a verdict."""
    quiet_libraries()
    summary = run(options, advance, on_estimate=lambda ahead: announce(estimate_text(ahead)), say=announce)
    values = asdict(summary) | {"output": str(summary.output), "mode": summary.mode.value}
    return values, summary_text(summary), not summary.num_failed and not summary.num_unparsed


def run_estimate(options: JudgeOptions) -> tuple[dict[str, Any], str]:
    """What an API judge would cost. Raises ValueError for other judges."""
    ahead = estimate(options)
    return asdict(ahead), estimate_text(ahead)
