"""The body of `python -m eval agree A.csv B.csv`: compares two judges and shows the result.

result, shown = agree_command(Path("gpt4.csv"), Path("human.csv"), AgreeOptions())
"""

from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

from eval.ratings.agreement import AgreementResult, AgreeOptions, JudgeReport, Level, agree_files

MISSING = "-"


def agree_command(a: Path, b: Path, options: AgreeOptions) -> tuple[AgreementResult, Group]:
    """Compare two verdict files.

    Raises:
        ValueError: A file or an option can't be used; see `eval.ratings.agreement.agree_files`.
    """
    result = agree_files(a, b, options)
    return result, show_agreement(result)


def show_agreement(result: AgreementResult) -> Group:
    """The result as a table and lines."""
    levels = {
        "items": result.example,
        "items without a tie": result.example_decisive,
        "systems": result.system,
        **{
            f"raters of {judge.file}, {name.replace('_', ' ')}": level
            for judge in result.judges
            for name, level in judge.raters.items()
        },
    }
    table = Table(title="Agreement", caption="95 % intervals over questions")
    for name in ("level", "statistic"):
        table.add_column(name)
    for name in ("value", "95 %", "n"):
        table.add_column(name, justify="right")
    for name, level in levels.items():
        _add_level(table, name, level)
    lines = [line for judge in result.judges for line in _judge_lines(judge)]
    return Group(table, *(Text(line) for line in [*lines, *(f"note: {note}" for note in result.notes)]))


def _add_level(table: Table, name: str, level: Level) -> None:
    for statistic, found in level.statistics.items():
        bounds = MISSING if found.low is None or found.high is None else f"{found.low:.3f} to {found.high:.3f}"
        value = MISSING if found.value is None else f"{found.value:.3f}"
        table.add_row(name, statistic.replace("_", " "), value, bounds, str(level.num))
        name = ""
    table.add_section()


def _judge_lines(judge: JudgeReport) -> list[str]:
    lines = [f"{judge.file}: {judge.num_verdicts} verdicts, {judge.num_unparsed} unparsed"]
    bias = judge.position_bias
    if bias is not None and bias.first_win_rate is not None:
        lines.append(
            f"  position: the first answer wins {bias.first_win_rate:.1%} of decisive verdicts"
            f"{_bounds(bias.low, bias.high)}; swapping the order reversed {bias.swapped_reversals} of "
            f"{bias.swapped_pairs} items"
        )
    longer = judge.length_bias
    if longer is not None and longer.rate is not None:
        lines.append(
            f"  length: the longer answer wins {longer.rate:.1%} of {longer.num:.0f} decisive verdicts"
            f"{_bounds(longer.low, longer.high)}"
        )
    elif longer is not None:
        lines.append("  length: no decisive verdict has two answers of known, different length")
    own = judge.self_preference
    if own is not None and own.excess is not None:
        lines.append(
            f"  self-preference: {own.system} wins {own.by_itself.rate:.1%} of its decisive verdicts here"
            f"{_bounds(own.by_itself.low, own.by_itself.high)}, {own.by_the_other.rate:.1%} with the other judge"
            f"{_bounds(own.by_the_other.low, own.by_the_other.high)}: {own.excess:+.1%}"
        )
    elif own is not None:
        lines.append(f"  self-preference: {own.system} has no decisive verdict by both judges")
    return lines


def _bounds(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" (95 %: {low:.1%} to {high:.1%})"
