"""Writes a reproduced table of the paper as Markdown, CSV, HTML and LaTeX, and for a terminal.

The CSV has a line a printed value and setting; the others
show a row a system, the paper's value beside ours, and in words what came of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from rich.console import Group
from rich.text import Text

from analysis.paper.memory import ALTERNATIVES, ALTERNATIVES_HEADER, BASIS, alternatives
from analysis.paper.tables import OWN, Cell, Reproduction, Status, mean_absolute_error, printed_table
from analysis.paper.values import SOURCES
from analysis.report.formats import number
from harness.console import TextTable
from harness.files.atomic import csv_text

TITLES = {
    "elo_human_vicuna": "Elo by people on the Vicuna benchmark",
    "elo_gpt4_vicuna": "Elo by GPT-4 on the Vicuna benchmark",
    "elo_gpt4_oa": "Elo by GPT-4 on the Open Assistant benchmark",
    "chatgpt_vs_sys_pct": "ChatGPT first",
    "sys_vs_chatgpt_pct": "system first",
    "mean_pct": "mean",
    "ci95_pct": "+-",
}
RANK_OF = {
    "elo_human_vicuna": "rank_human_vicuna",
    "elo_gpt4_vicuna": "rank_gpt4_vicuna",
    "elo_gpt4_oa": "rank_gpt4_oa",
}
CSV_COLUMNS = (
    "table",
    "row",
    "column",
    "setting",
    "paper",
    "ours",
    "difference",
    "low",
    "high",
    "status",
    "reason",
    "note",
    "paper_source",
)
MISSING = "-"
MINUS = "\N{MINUS SIGN}"
HTML_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}"
    "table{border-collapse:collapse;margin:1.5rem 0}caption{text-align:left;font-weight:600}"
    "th,td{padding:.25rem .75rem;border-bottom:1px solid;text-align:left}thead{display:table-header-group}"
    "div{overflow-x:auto}li{overflow-wrap:anywhere}"
)
LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "%": r"\%",
    "&": r"\&",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}
OF_JUDGMENTS = ("1", "6", "7", "12")  # the other tables are made of runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One table to be shown."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def to_csv(reproduction: Reproduction) -> str:
    """The CSV, with a line for each cell and setting."""
    return csv_text(CSV_COLUMNS, [_csv_row(reproduction.table, cell) for cell in reproduction.cells])


def to_markdown(reproduction: Reproduction) -> str:
    """The whole page."""
    lines = [f"# Table {reproduction.table}: {reproduction.caption}", "", f"The paper: {reproduction.citation}.", ""]
    for section in sections(reproduction):
        lines += [f"## {section.title}", "", _line(section.header), _line(["---"] * len(section.header))]
        lines += [*map(_line, section.rows), ""]
    return "\n".join([*lines, *(f"- {line}" for line in remarks(reproduction))]) + "\n"


def to_terminal(reproduction: Reproduction) -> Group:
    """The same, for rich's console."""
    tables = [
        TextTable(
            title=section.title,
            columns=section.header,
            rows=section.rows,
            numbers=section.header[1:-1],
            prose=section.header[-1:],
        )
        for section in sections(reproduction)
    ]
    caption = Text(f"Table {reproduction.table}: {reproduction.caption}", style="bold")
    return Group(caption, *tables, *(Text(line) for line in remarks(reproduction)))


def sections(reproduction: Reproduction) -> list[Section]:
    """The tables that something could be computed for."""
    if reproduction.table not in OF_JUDGMENTS:
        return [_cells_section(reproduction, "The paper's cells and ours", reproduction.cells)]
    memory = _cells(reproduction, column="memory_gb", run=True)
    last = [_cells_section(reproduction, f"Memory, GB; {BASIS}", memory)] if memory else []
    if memory:
        last.append(Section(title=ALTERNATIVES, header=ALTERNATIVES_HEADER, rows=alternatives()))
    if reproduction.table == "12":
        return [_wins_section(reproduction, setting) for setting in _settings_run(reproduction.cells)]
    if reproduction.table == "6":
        judged = [cell for cell in reproduction.cells if cell.column.endswith("_pct")]
        return [*(_relative_section(reproduction, setting) for setting in _settings_run(judged)), *last]
    found = [section for column in RANK_OF for section in _elo_sections(reproduction, column)]
    medians = _cells(reproduction, column="median_rank", run=True)
    return [*found, *([_median_section(reproduction)] if medians else []), *last]


def remarks(reproduction: Reproduction) -> list[str]:
    """What a reader must know: the sources, the settings, odd values, and what could not be run."""
    num = reproduction.num
    counts = ", ".join(f"{count} {status}" for status, count in num.items())
    lines = [f"cells: {counts}" + (" (Elo cells count once a setting)" if reproduction.settings else "")]
    lines += [f"made of: {source}" for source in reproduction.sources]
    if (remark := printed_table(reproduction.table).remark) is not None:
        lines.append(remark)
    said = {cell.reason for cell in reproduction.cells}
    lines += [line for line in reproduction.missing if line not in said]
    if reproduction.settings:
        lines += [f"setting {setting.name}: {setting.words}" for setting in reproduction.settings]
        lines.append(
            "the paper's +-1 is noise of the ordering, and so is ours in +-; with other prompts the ratings would "
            "move within the 95 % shown"
        )
    notes: dict[str, list[str]] = {}
    for cell in reproduction.cells:
        if cell.note:
            notes.setdefault(cell.note, []).append(f"{cell.row} {cell.column}")
    lines += [f"{', '.join(dict.fromkeys(places))}: {note}" for note, places in notes.items()]
    reasons: dict[str, list[str]] = {}
    for cell in reproduction.cells:
        if cell.status is Status.not_run and cell.reason:
            reasons.setdefault(cell.reason, []).append(cell.column)
    lines += [f"not run: {', '.join(dict.fromkeys(columns))}: {reason}" for reason, columns in reasons.items()]
    used = sorted({letter for cell in reproduction.cells for letter in cell.where})
    read = "; ".join(f"{u} = {SOURCES[u]}" for u in used) or "no source that we have: they are from memory"
    return [*lines, f"the paper's values were read in: {read}"]


def _csv_row(table: str, cell: Cell) -> tuple[object, ...]:
    numbers = (cell.ours, cell.difference, cell.low, cell.high)
    return (
        table,
        cell.row,
        cell.column,
        cell.setting,
        cell.paper,
        *("" if value is None else f"{value:.2f}" for value in numbers),
        cell.status.value,
        cell.reason or "",
        cell.note or "",
        cell.where or "from memory",
    )


def _settings_run(cells: Sequence[Cell]) -> list[str]:
    """The settings under which some cell has a value."""
    return list(dict.fromkeys(cell.setting for cell in cells if cell.status is not Status.not_run))


def _elo_sections(reproduction: Reproduction, column: str) -> list[Section]:
    """Of the released judgments under every setting, and of own runs; those of them that give the column a value."""
    run = _settings_run(_cells(reproduction, column=column))
    parts = [setting for setting in run if setting != OWN], [setting for setting in run if setting == OWN]
    return [_elo_section(reproduction, column, settings) for settings in parts if settings]


def _elo_section(reproduction: Reproduction, column: str, settings: Sequence[str]) -> Section:
    mine = [cell for cell in reproduction.cells if cell.setting in settings]
    ranked = any(cell.column == RANK_OF[column] for cell in mine)
    systems = dict.fromkeys(cell.row for cell in mine if cell.column == column)
    rows = [_elo_row([cell for cell in mine if cell.row == system], column, ranked) for system in systems]
    errors = (mean_absolute_error(reproduction, column, setting) for setting in settings)
    blank = [""] * (ranked + 2)
    rows.append(("mean error", "", *(number(error, ".2f", MISSING) for error in errors), *blank))
    interval = "95 % over prompts" + (f" ({settings[0]})" if len(settings) > 1 else "")
    header = ("system", "paper", *settings, interval, *(("rank",) if ranked else ()))
    title = f"{TITLES[column]}{_of(OWN if OWN in settings else '')}"
    return Section(title=title, header=(*header, "reads"), rows=tuple(rows))


def _elo_row(cells: Sequence[Cell], column: str, ranked: bool) -> tuple[str, ...]:
    mine = [cell for cell in cells if cell.column == column]
    widths = [cell for cell in cells if cell.column == "elo_ci95"]
    ranks = [cell for cell in cells if cell.column == RANK_OF[column]]
    return (
        mine[0].row,
        f"{mine[0].paper}" + (f" +-{widths[0].paper}" if widths else ""),
        *(_elo_text(cell, widths) for cell in mine),
        MISSING if mine[0].low is None else f"{number(mine[0].low)} to {number(mine[0].high)}",
        *([_rank_text(ranks)] if ranked else []),
        _words(mine),
    )


def _elo_text(cell: Cell, widths: Sequence[Cell]) -> str:
    width = next((w.ours for w in widths if w.setting == cell.setting), None)
    spread = "" if width is None else f" +-{width:.1f}"
    return MISSING if cell.ours is None else f"{cell.ours:.1f}{spread} ({number(cell.difference, '+.1f')})"


def _rank_text(ranks: Sequence[Cell]) -> str:
    """The paper's, and ours; each setting's where they differ."""
    ours = [MISSING if cell.ours is None else f"{cell.ours:.0f}" for cell in ranks]
    return f"{ranks[0].paper} / {ours[0] if len(set(ours)) == 1 else ', '.join(ours)}"


def _words(cells: Sequence[Cell]) -> str:
    """The outcome of a row in words, under each setting where there are several."""
    if len(cells) == 1:
        return _outcome(cells[0])
    fits = [cell.setting for cell in cells if cell.status is Status.reproduces]
    off = [f"{number(c.difference, '+.1f')} {c.setting}" for c in cells if c.status is Status.differs]
    if not fits and not off:
        return Status.not_run.value  # the reasons stand below, each once
    words = ["reproduces" + (f" ({', '.join(fits)})" if off else "")] if fits else []
    return "; ".join([*words, *([f"differs by {', '.join(off)}"] if off else [])])


def _cells_section(reproduction: Reproduction, title: str, cells: Sequence[Cell]) -> Section:
    """A line a cell; a row's name stands before the first of its cells."""
    rows, before = [], None
    for cell in cells:
        interval = MISSING if cell.low is None else f"{plain(cell.low)} to {plain(cell.high)}"
        name = cell.row if cell.row != before else ""
        rows.append((name, cell.column, plain(cell.paper), plain(cell.ours), interval, _outcome(cell)))
        before = cell.row
    return Section(title=title, header=("row", "column", "paper", "ours", "95\u00a0%", "reads"), rows=tuple(rows))


def _outcome(cell: Cell) -> str:
    if cell.status is not Status.differs or cell.difference is None:
        return str(cell.status.value)
    decimals = max(1, len(str(cell.paper).partition(".")[2]))  # as printed
    shown = number(cell.difference, f"+.{decimals}f")
    return f"differs by {shown if float(shown.replace(MINUS, '-')) else number(cell.difference, '+.2g')}"


def plain(value: object) -> str:
    """A number to one decimal, or to four digits where it is below one: 0.0002, 38.4, 10000."""
    if value is None:
        return MISSING
    if not isinstance(value, (int, float)):
        return str(value)
    return str(value) if isinstance(value, int) else format(value, ".4g" if abs(value) < 1 else ".1f")


def _median_section(reproduction: Reproduction) -> Section:
    cells = _cells(reproduction, column="median_rank", run=True)
    rows = []
    for system in dict.fromkeys(cell.row for cell in cells):
        mine = [cell for cell in cells if cell.row == system]
        rows.append((system, _rank_text(mine), _words(mine)))
    return Section(title="Median rank", header=("system", "paper / ours", "reads"), rows=tuple(rows))


def _relative_section(reproduction: Reproduction, setting: str) -> Section:
    columns = [column for column in TITLES if column.endswith("_pct")]
    rows = []
    for system in dict.fromkeys(cell.row for cell in reproduction.cells):
        found = [c for column in columns for c in _cells(reproduction, column=column, row=system)]
        mine = [cell for cell in found if cell.setting == setting]
        texts = [f"{c.paper} / {number(c.ours, '.1f', MISSING)}" for c in mine]
        mean = next(cell for cell in mine if cell.column == "mean_pct")
        interval = MISSING if mean.low is None else f"{number(mean.low, '.1f')} to {number(mean.high, '.1f')}"
        rows.append((system, *texts, interval, _relative_words(mine)))
    header = ("system", *(f"{TITLES[column]}, paper / ours" for column in columns), "95 % over prompts", "reads")
    return Section(title=f"Score relative to ChatGPT, %{_of(setting)}", header=header, rows=tuple(rows))


def _relative_words(cells: Sequence[Cell]) -> str:
    """The outcome of a row's four numbers; an order that nobody judged has none."""
    none = [TITLES[cell.column] for cell in cells if cell.status is Status.not_run]
    if len(none) == len(cells):
        return Status.not_run.value
    off = [f"{TITLES[c.column]} {number(c.difference, '+.1f')}" for c in cells if c.status is Status.differs]
    words = f"differs: {', '.join(off)}" if off else Status.reproduces.value
    return f"{words}; not run: {', '.join(none)}" if none else words


def _wins_section(reproduction: Reproduction, setting: str) -> Section:
    """Table 12: a row and a column a system."""
    cells = [cell for cell in reproduction.cells if cell.setting == setting]
    systems = list(dict.fromkeys(cell.row for cell in cells))
    found = {(cell.row, cell.column): cell for cell in cells}
    rows = []
    for row in systems:
        mine = [found.get((row, column)) for column in systems]
        off = [c.column for c in mine if c is not None and c.status is Status.differs]
        none = [c.column for c in mine if c is not None and c.status is Status.not_run]
        reads = "; ".join(
            [*([f"differs: {', '.join(off)}"] if off else []), *([f"not run: {', '.join(none)}"] if none else [])]
        )
        rows.append((row, *(_wins_text(cell) for cell in mine), reads or "reproduces"))
    header = ("paper / ours, against", *systems, "reads")
    return Section(title=f"Wins less losses, a question{_of(setting)}", header=header, rows=tuple(rows))


def _wins_text(cell: Cell | None) -> str:
    if cell is None:
        return ""
    return f"{cell.paper:.2f} / {MISSING if cell.ours is None else f'{cell.ours:.2f}'}"


def _of(setting: str) -> str:
    return f", {setting}" if setting else ""


def _cells(reproduction: Reproduction, *, column: str, row: str | None = None, run: bool = False) -> list[Cell]:
    return [
        cell
        for cell in reproduction.cells
        if cell.column == column and row in (None, cell.row) and (not run or cell.status is not Status.not_run)
    ]


def _line(fields: Sequence[str]) -> str:
    return f"| {' | '.join(field.replace('|', chr(92) + '|') for field in fields)} |"


def to_html(reproduction: Reproduction) -> str:
    """A page of its own."""
    parts = [f"<h1>Table {reproduction.table}: {escape(reproduction.caption)}</h1>"]
    parts.append(f"<p>The paper: {escape(reproduction.citation)}.</p>")
    for section in sections(reproduction):
        head = "".join(f'<th scope="col">{escape(name)}</th>' for name in section.header)
        body = "".join(f"<tr>{''.join(f'<td>{escape(text)}</td>' for text in row)}</tr>" for row in section.rows)
        parts.append(
            f'<div role="group" tabindex="0" aria-label="{escape(section.title)}"><table>'
            f"<caption>{escape(section.title)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )
    notes = "".join(f"<li>{escape(line)}</li>" for line in remarks(reproduction))
    body = "\n".join([*parts, f"<ul>{notes}</ul>"])
    title = f"Table {reproduction.table} of QLoRA, and ours"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{HTML_STYLE}</style></head><body><main>\n{body}\n</main></body></html>\n"
    )


def to_latex(reproduction: Reproduction) -> str:
    """A `table` with booktabs' rules for each section."""
    return "\n".join(_latex_table(reproduction, section) for section in sections(reproduction))


def _latex_table(reproduction: Reproduction, section: Section) -> str:
    rows = [" & ".join(map(latex, row)) + r" \\" for row in section.rows]
    caption = latex(f"Table {reproduction.table} of QLoRA beside ours. {section.title}")
    return "\n".join(
        [
            "% \\usepackage{booktabs}",
            r"\begin{table}",
            rf"\caption{{{caption}}}",
            rf"\begin{{tabular}}{{{'l' * len(section.header)}}}",
            r"\toprule",
            " & ".join(map(latex, section.header)) + r" \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def latex(text: str) -> str:
    """A text with LaTeX's own characters escaped."""
    return "".join(LATEX.get(character, character) for character in text)
