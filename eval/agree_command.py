"""What `python -m eval agree A.csv B.csv` does: compare two judges, and show it. The command line is elsewhere.

result, shown = agree_command(Path("gpt4.csv"), Path("human.csv"), AgreeOptions())
"""

from pathlib import Path

from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from eval.agreement import AgreementResult, AgreeOptions, JudgeReport, Level, agree_files

MISSING = "-"


def agree_command(a: Path, b: Path, options: AgreeOptions) -> tuple[AgreementResult, Group]:
    """Compare two verdict files.

    Raises:
        ValueError: A file or an option can't be used; see `eval.agreement.agree_files`.
    """
    result = agree_files(a, b, options)
    return result, show_agreement(result)


def show_agreement(result: AgreementResult) -> Group:
    """All that a reader needs of the result, as a table and lines."""
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
        table.add_row(escape(name), statistic.replace("_", " "), value, bounds, str(level.num))
        name = ""
    table.add_section()


def _judge_lines(judge: JudgeReport) -> list[str]:
    lines = [f"{judge.file}: {judge.num_verdicts} verdicts, {judge.num_unparsed} unparsed"]
    if judge.position_bias.first_win_rate is not None:
        lines.append(f"  the first answer wins {judge.position_bias.first_win_rate:.1%} of decisive verdicts")
    if judge.length_bias is not None and judge.length_bias.rate is not None:
        lines.append(f"  the longer answer wins {judge.length_bias.rate:.1%} of decisive verdicts")
    own = judge.self_preference
    if own is not None and own.excess is not None:
        lines.append(
            f"  {own.system} wins {own.by_itself.rate:.1%} of its decisive verdicts here, "
            f"{own.by_the_other.rate:.1%} with the other judge ({own.excess:+.1%})"
        )
    return lines
