"""What is written beside the paper's tables: their parts, the remarks below, rows of ratings and of scores."""

from types import SimpleNamespace
from typing import Any

import pytest

from analysis.paper import text
from analysis.paper.tables import OWN, Cell, Reproduction, Setting, Status


def made(**values: Any) -> Any:
    return SimpleNamespace(**values)


def cell(column: str = "elo_gpt4_vicuna", row: str = "a", **more: Any) -> Cell:
    values: dict[str, Any] = {
        "row": row, "column": column, "setting": "stated", "paper": 1000, "ours": 1010.0, "status": Status.differs,
        "where": "P",
    }  # fmt: skip
    return Cell(**(values | more))


NOT_RUN: dict[str, Any] = {"ours": None, "status": Status.not_run}


def table(name: str, *cells: Cell, **more: Any) -> Reproduction:
    facts: dict[str, Any] = {"caption": "C", "citation": "", "settings": (), "sources": (), "missing": ()}
    return Reproduction(table=name, cells=cells, **(facts | more))


MEMORY = cell("memory_gb", setting="", paper=5.0, ours=5.2, status=Status.reproduces)


def titles(found: Reproduction) -> list[str]:
    return [section.title for section in text.sections(found)]


def test_a_table_has_the_parts_that_something_was_computed_for() -> None:
    elo, own = text.TITLES["elo_gpt4_vicuna"], f", {OWN}"
    memory = [f"Memory, GB; {text.BASIS}", text.ALTERNATIVES]
    assert titles(table("1", cell(), MEMORY)) == [elo, *memory]
    assert titles(table("1", cell(), cell("memory_gb", setting="", **NOT_RUN))) == [elo]
    assert titles(table("1", cell(), cell(setting=OWN))) == [elo, elo + own]
    assert titles(table("1", cell(setting=OWN), cell(**NOT_RUN))) == [elo + own]
    assert titles(table("7", cell(), cell("median_rank", paper=1, ours=2.0))) == [elo, "Median rank"]
    assert titles(table("7", cell(), cell("median_rank", **NOT_RUN))) == [elo]
    assert titles(table("5", cell("x"))) == ["The paper's cells and ours"]
    wins = "Wins less losses, a question"
    twelve = [cell("b", setting=name, paper=0.5, ours=0.25) for name in ("", OWN)]
    assert titles(table("12", *twelve, MEMORY)) == [wins, wins + own]
    scores = [cell(name, setting="", paper=90.0) for name in text.TITLES if name.endswith("_pct")]
    assert titles(table("6", *scores, MEMORY)) == ["Score relative to ChatGPT, %", *memory]
    assert titles(table("6", *(cell(one.column, setting="", **NOT_RUN) for one in scores))) == []


@pytest.mark.parametrize("has_settings", [True, False])
def test_what_a_reader_must_know(has_settings: bool) -> None:
    setting = Setting(name="stated", k=32.0, sample_size=None, words="K = 32")
    cells = [
        cell(note="odd", status=Status.reproduces), cell(row="b", note="odd"), cell("x", row="b", where="GP"),
        cell("x", reason="no file", where="", **NOT_RUN), cell("y", reason="no file", **NOT_RUN),
        cell("x", row="c", reason="no file", **NOT_RUN), cell("z", **NOT_RUN),
    ]  # fmt: skip
    found = table(
        "5", *cells, settings=(setting,) * has_settings, sources=("f: as released",), missing=("no file", "none")
    )
    lines = text.remarks(found)
    counts = "cells: 1 reproduces, 2 differs, 4 not run" + " (Elo cells count once a setting)" * has_settings
    noise = [line for line in lines if line.startswith("the paper's +-1 is noise of the ordering")]
    assert len(noise) == has_settings
    remark = text.printed_table("5").remark
    assert [line for line in lines if line not in noise] == [
        counts, "made of: f: as released", *([remark] if remark else []), "none",
        *["setting stated: K = 32"] * has_settings,
        "a elo_gpt4_vicuna, b elo_gpt4_vicuna: odd", "not run: x, y: no file",
        f"the paper's values were read in: G = {text.SOURCES['G']}; P = {text.SOURCES['P']}",
    ]  # fmt: skip
    unknown = text.remarks(table("5", cell(where="")))
    assert unknown[-1] == "the paper's values were read in: no source that we have: they are from memory"


def test_rows_of_ratings_with_their_ranks_and_errors() -> None:
    rank = text.RANK_OF["elo_gpt4_vicuna"]
    cells = [
        cell(low=990.0, high=1030.4), cell(setting="drawn", ours=999.0, status=Status.reproduces),
        cell("elo_ci95", paper=1, ours=2.0), cell(rank, paper=1, ours=2.0),
        cell(rank, setting="drawn", paper=1, ours=1.0),
        cell(row="b", paper=900, ours=903.0), cell(row="b", setting="drawn", paper=900, **NOT_RUN),
        cell(rank, row="b", paper=2, ours=2.0), cell(rank, row="b", setting="drawn", paper=2, **NOT_RUN),
    ]  # fmt: skip
    [section] = text._elo_sections(table("7", *cells), "elo_gpt4_vicuna")
    assert section.header == ("system", "paper", "stated", "drawn", "95 % over prompts (stated)", "rank", "reads")
    assert section.rows == (
        ("a", "1000 +-1", "1010.0 +-2.0 (+10.0)", f"999.0 ({text.MINUS}1.0)", "990 to 1030", "1 / 2, 1",
         "reproduces (drawn); differs by +10.0 stated"),
        ("b", "900", "903.0 (+3.0)", text.MISSING, text.MISSING, f"2 / 2, {text.MISSING}", "differs by +3.0 stated"),
        ("mean error", "", "6.50", "1.00", "", "", ""),
    )  # fmt: skip
    [bare] = text._elo_sections(table("1", cell(setting=OWN)), "elo_gpt4_vicuna")
    assert bare.header == ("system", "paper", OWN, "95 % over prompts", "reads")
    assert bare.rows[-1] == ("mean error", "", "10.00", "", "")
    assert text._elo_sections(table("1", cell(**NOT_RUN)), "elo_gpt4_vicuna") == []


def test_rows_of_scores_relative_to_chatgpt() -> None:
    columns = [name for name in text.TITLES if name.endswith("_pct")]
    cells = [cell(name, setting="s", paper=90.0, ours=90.0, status=Status.reproduces) for name in columns]
    place = columns.index("mean_pct")
    cells[place] = cell("mean_pct", setting="s", paper=90.0, ours=91.0, low=88.04, high=94.0)
    other = [cell(name, setting="t", paper=90.0, **NOT_RUN) for name in columns]
    section = text._relative_section(table("6", *other, *cells), "s")
    assert section.header == (
        "system",
        *(f"{text.TITLES[c]}, paper / ours" for c in columns),
        "95 % over prompts",
        "reads",
    )
    texts = ["90.0 / 90.0"] * len(columns)
    texts[place] = "90.0 / 91.0"
    assert section.rows == (("a", *texts, "88.0 to 94.0", f"differs: {text.TITLES['mean_pct']} +1.0"),)
    [row] = text._relative_section(table("6", *other), "t").rows
    assert row == ("a", *[f"90.0 / {text.MISSING}"] * len(columns), text.MISSING, "not run")
