"""What does `python -m eval judge` tell a person, before the first paid call and at the end?

Library only; the same in JSON is `Estimate` and `JudgeSummary` of `eval.judge_options`.
"""

from eval.judge_options import Estimate, JudgeSummary
from eval.judging import PositionBias


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
    """Everything that a reader of a terminal needs."""
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
    lines += [f"failed: {reason} ({count} matches)" for reason, count in summary.failures.items()]
    lines.append(f"verdicts in {summary.output}")
    if summary.stopped:
        lines.append(f"stopped: {summary.stopped}")
    if summary.num_failed:
        lines.append("the same command asks about what failed again, and about nothing else")
    return "\n".join(lines)


def position_lines(bias: PositionBias) -> list[str]:
    """How much the order of the answers decides."""
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
