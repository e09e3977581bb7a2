"""The body of `python -m eval judge`, and its messages before the first paid call and at the end.

`Estimate` and `JudgeSummary` of `eval.judging.options` say the same in JSON.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.judges.registry import choose_judge
from eval.judges.tournament import estimate, run
from eval.judging.flags import JudgeFlags
from eval.judging.matches import PositionBias
from eval.judging.options import ApiOptions, Estimate, Grade, JudgeOptions, JudgeSummary
from eval.judging.prompts import Mode
from harness.devices.torch_device import quiet_libraries
from harness.progress import Progress

if TYPE_CHECKING:
    from eval.judges.ensemble import EnsembleSummary


RISEN = 1.25  # of the cost that a person agreed to; beyond it the new one is told


def estimate_text(ahead: Estimate) -> str:
    """Calls, tokens and cost ahead, in one line."""
    if ahead.cost_usd is None or ahead.max_cost_usd is None:
        cost = "no price is known, so no cost (give --usd-per-million-prompt-tokens, -completion-tokens or --prices)"
    else:
        cost = f"about {ahead.cost_usd:.4f} USD, at most {ahead.max_cost_usd:.4f} without retries"
        cost += f" ({ahead.price_source}{', at the batch price' if ahead.batch else ''})"
    basis = f"measured on {ahead.num_measured} judgments" if ahead.num_measured else "assumed, none is measured yet"
    return (
        f"ahead: {ahead.num_calls} calls, about {ahead.num_prompt_tokens} tokens to read and "
        f"{ahead.num_completion_tokens} to write ({basis}), at most {ahead.max_completion_tokens}; {cost}"
    )


def risen_text(agreed: Estimate, ahead: Estimate) -> str | None:
    """Says that measured replies cost more than a person agreed to; None where they don't, or no price is known."""
    if agreed.cost_usd is None or ahead.cost_usd is None:
        return None
    whole = ahead.paid_usd + ahead.cost_usd
    if whole <= RISEN * agreed.cost_usd:
        return None
    return (
        f"this run will cost more than was agreed to: about {whole:.4f} USD, of which {ahead.paid_usd:.4f} are paid, "
        f"not {agreed.cost_usd:.4f}; Ctrl-C ends it, what is judged stays, and --budget-usd is a hard stop"
    )


def summary_text(summary: JudgeSummary) -> str:
    """The summary as lines for a terminal."""
    lines = [
        f"{summary.judge}: {summary.num_matches} matches of {summary.num_systems} systems on "
        f"{summary.num_questions} questions; {summary.num_judged} judged now, {summary.num_reused} before, "
        f"{summary.num_failed} failed, "
        + (f"{summary.num_unasked} not asked, " if summary.num_unasked else "")
        + f"{summary.num_unparsed} unparsed, {summary.seconds:.1f} s",
        *position_lines(summary.position_bias),
    ]
    if summary.flagged.num_answers:
        found = summary.flagged
        wins = f"they win {found.num_wins} of {found.num_matches} matches against others, {found.num_ties} are ties"
        lines.append(
            f"flagged: {found.num_answers} answers hold what may steer a judge (delimiters, control tokens, a verdict, "
            f"orders){f'; {wins}' if found.num_matches else ''}"
        )
    if summary.spent_usd or summary.cost_usd:
        unknown = f", of which {summary.unknown_usd:.4f} are the most that calls without a known bill can have cost"
        lines.append(f"spent in this folder: {summary.spent_usd:.4f} USD{unknown if summary.unknown_usd else ''}")
    lines += [grade_line(grade) for grade in summary.grades]
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
    if summary.num_changed is not None:
        lines.append(f"read anew: {summary.num_changed} judgments changed; --reparse asks nobody")
    if summary.num_failed or summary.num_unasked:
        command = "the same command" if summary.num_changed is None else "the same command without --reparse"
        lines.append(f"{command} asks about what has no judgment yet, and about nothing else")
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
    answers: tuple[Path, ...],
    tournament: Path,
    judge: str,
    flags: JudgeFlags,
    *,
    mode: str = "pairwise",
    reference: str | None = None,
    **rest: Any,
) -> JudgeOptions:
    """The typed options of a tournament.

    Args:
        answers: answer files or run folders.
        tournament: the folder.
        judge: a name as `eval.judges.registry` reads it.
        flags: what the command line says about the judge.
        mode: pairwise or single.
        reference: the system that ten-point scores are relative to; makes the mode relative.
        **rest: further fields of `JudgeOptions`.

    Raises:
        ValueError: an option, or two of them together, can't be.
    """
    names = [known.value for known in Mode]
    if mode not in names:
        raise ValueError(f"--mode {mode}: expected {' or '.join(names)}")
    chosen_mode = Mode.relative if reference is not None and mode == Mode.pairwise.value else Mode(mode)
    return JudgeOptions(
        answers=answers,
        tournament=tournament,
        judge=choose_judge(judge, flags),
        mode=chosen_mode,
        reference=reference,
        **rest,
    )


def judge_names(texts: Sequence[str]) -> list[str]:
    """The judges that `--judge` names: it may be repeated, and hold several with commas.

    Raises:
        ValueError: one of them stands there twice, or none.
    """
    names = [name.strip() for text in texts for name in text.split(",") if name.strip()]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"--judge {','.join(texts)}: name at least one judge, and each once")
    return names


def run_judges(
    options: Sequence[JudgeOptions],
    bar: Callable[[], AbstractContextManager[Progress]],
    announce: Callable[[str], None],
    confirm: Callable[[str], bool] | None = None,
) -> tuple[dict[str, Any], str, bool]:
    """Has each of several judges judge the same tournament, then combines them. Arguments and result as `run_judge`.

    Raises:
        ValueError: as `run_judge`; or ten-point scores relative to a system are asked of several judges.
    """
    if options[0].mode is Mode.relative:
        raise ValueError("--judge: scores relative to a system take one judge at a time; --mode single takes several")
    results = [run_judge(one, bar, announce, confirm) for one in options]
    from eval.judges.ensemble import combine

    names = [values["judge"] for values, _, _ in results]
    if len(set(names)) < len(names):
        raise ValueError(
            f"--judge: two judges have the name {max(names, key=names.count)}, so they can't be told apart"
        )
    together = combine(options[0].tournament, names, options[0].mode, options[0].seed, options[0].benchmark)
    values = {
        "judges": [values for values, _, _ in results],
        "ensemble": asdict(together) | {"output": str(together.output)},
    }
    text = "\n\n".join([text for _, text, _ in results] + [ensemble_text(together)])
    return values, text, all(complete for _, _, complete in results)


def ensemble_text(together: "EnsembleSummary") -> str:
    """What several judges say together, and how far they agree."""
    lines = [f"{len(together.judges)} judges together: {together.num_items} items (a question, two systems)"]
    for name, level in together.agreement.items():
        shown = []
        for statistic, found in level.statistics.items():
            bounds = "" if found.low is None or found.high is None else f" ({found.low:.3f} to {found.high:.3f})"
            value = "undefined" if found.value is None else f"{found.value:.3f}{bounds}"
            shown.append(f"{statistic.replace('_', ' ')} {value}")
        lines.append(f"agreement, {name.replace('_', ' ')} ({level.num} items): {', '.join(shown)}")
    lines += [grade_line(grade) for grade in together.grades]
    lines.append(f"majority of the judges: python -m eval rate {together.output}")
    return "\n".join(lines)


def grade_line(grade: Grade) -> str:
    """A system's mean grade in one line."""
    bounds = "" if grade.ci95 is None else f" ({grade.ci95[0]:.2f} to {grade.ci95[1]:.2f}, 95 %)"
    return f"grade of {grade.system}: {grade.mean:.2f}{bounds} over {grade.num_answers} answers"


def run_judge(
    options: JudgeOptions,
    bar: Callable[[], AbstractContextManager[Progress]],
    announce: Callable[[str], None],
    confirm: Callable[[str], bool] | None = None,
) -> tuple[dict[str, Any], str, bool]:
    """Judges. -> the summary as plain values, as text, and whether every match has a verdict.

    Args:
        options: what to judge, and how.
        bar: shows progress; opened with the first judgment, so that nothing moves while a person is asked.
        announce: told the plan, and what a batch waits for.
        confirm: asks a person whether to pay; None asks nobody.

    Raises:
        ValueError: the person says no, or as `eval.judges.tournament.run`.
    """
    quiet_libraries()
    with ExitStack() as stack:
        shown: list[Progress] = []

        def advance(done: int, total: int) -> None:
            if not shown:
                shown.append(stack.enter_context(bar()))
            shown[0](done, total)

        agreed: list[Estimate] = []  # to one, by a person whom no budget protects

        def may_pay(ahead: Estimate) -> bool:
            if confirm is None or not ahead.num_calls:
                return True
            is_agreed = confirm("Go on?")
            if is_agreed and isinstance(options.judge, ApiOptions) and options.judge.budget_usd is None:
                agreed.append(ahead)
            return is_agreed

        def tell(ahead: Estimate) -> None:
            announce(estimate_text(ahead))
            risen = risen_text(agreed[0], ahead) if agreed else None
            if risen is not None:
                announce(risen)

        summary = run(options, advance, on_estimate=tell, say=announce, may_pay=may_pay)
    values = asdict(summary) | {"output": str(summary.output), "mode": summary.mode.value}
    complete = not summary.num_failed and not summary.num_unasked and not summary.num_unparsed
    return values, summary_text(summary), complete


def run_estimate(options: JudgeOptions) -> tuple[dict[str, Any], str]:
    """What an API judge would cost. Raises ValueError for other judges."""
    ahead = estimate(options)
    return asdict(ahead), estimate_text(ahead)
