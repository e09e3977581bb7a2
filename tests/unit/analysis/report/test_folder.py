"""The report as a folder of pages: every link leads somewhere, data are safe, and what was found is right."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

import pytest

from analysis.report import page as report_page
from analysis.report.content import gather
from analysis.report.examples.failures import repeats_itself
from analysis.report.page import ReportOptions, write_report
from analysis.report.plots.drawing import shade, short
from analysis.report.plots.gallery import all_figures
from analysis.report.plots.tournament import position_bias
from analysis.report.records import load_runs, load_tournament
from analysis.report.site.names import page_name
from analysis.report.site.script_data import data_script
from eval.judging.matches import Judgment
from eval.verdicts.codes import FIRST
from harness.files.atomic import append_jsonl, write_json
from harness.ledger.finished import SweepRuns
from tests.payloads import PAYLOADS
from tests.records.reports import (
    ANSWERS,
    EVIL,
    QUESTIONS,
    SYSTEMS,
    Page,
    build,
    make_grid,
    make_run,
    make_runs,
    make_spec,
    make_tournament,
    make_verdicts,
    ratings_json,
)

HOSTILE = ("</script><script>alert(1)</script>", "../../up & 'down'", 'a"\u2028b')


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_page, "MAX_SYSTEMS", 1)


def site_data(folder: Path, name: str) -> Any:
    text = (folder / "data" / f"{name}.js").read_text()
    return json.loads(text.partition("] = ")[2].removesuffix(";\n"))


def pages_of(folder: Path) -> dict[str, Page]:
    return {str(path.relative_to(folder)): Page(path.read_text()) for path in sorted(folder.rglob("*.html"))}


@pytest.mark.usefixtures("small_limit")
def test_every_link_of_the_folder_leads_to_a_file_of_it(tmp_path: Path) -> None:
    build(tmp_path / "out", make_runs(tmp_path), make_tournament(tmp_path))
    pages = pages_of(tmp_path / "out")
    assert {"pair.html", "find.html", "failures.html", "questions/1.html", f"systems/{SYSTEMS[0]}.html"} <= set(pages)
    for name, page in pages.items():
        ids = {attrs["id"] for _, attrs in page.elements if "id" in attrs}
        targets = [attrs.get("href") or attrs.get("src") for _, attrs in page.elements]
        for target in filter(None, targets):
            parts = urlsplit(target)
            assert (parts.scheme, parts.netloc) == ("", ""), (name, target)
            if parts.path:
                assert ((tmp_path / "out" / name).parent / unquote(parts.path)).is_file(), (name, target)
            else:
                assert parts.fragment in ids, (name, target)
        assert len(ids) == sum("id" in attrs for _, attrs in page.elements), name
        assert [tag for tag, _ in page.elements if tag == "h1"] == ["h1"], name


@pytest.mark.usefixtures("small_limit")
def test_hostile_names_and_answers_stay_text_in_pages_and_data(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    ids = [make_run(runs, name, make_spec(data), [2.0], None) for name, data in zip(HOSTILE, "xyz", strict=True)]
    for payload in PAYLOADS.values():
        row = {"question_id": payload, "system": HOSTILE[0], "question": payload, "answer": payload}
        append_jsonl(runs / ids[0] / "answers" / "open.jsonl", row)
    verdicts = tmp_path / "t"
    make_verdicts(verdicts, tuple(name.replace('"', '""') for name in HOSTILE), judge="<b>judge</b>")
    write_json(verdicts / "ratings.json", {**ratings_json(HOSTILE), "verdict": [EVIL], "notes": [EVIL]})
    build(tmp_path / "out", (runs, ids), verdicts)
    for name, page in pages_of(tmp_path / "out").items():
        assert page.num_running == 1, name
        assert not [attrs for _, attrs in page.elements if any(key.startswith("on") for key in attrs)], name
        assert (
            page.count("iframe")
            == page.count("img")
            == page.count("form") - name.count("pair.html") - (name in ("find.html", "failures.html"))
        ), name
    for path in (tmp_path / "out").rglob("*.js"):
        text = path.read_text(encoding="ascii" if "data" in path.parts else "utf-8")
        assert "data" not in path.parts or not re.search(r"[<>&]", text), path
    index = site_data(tmp_path / "out", "index")
    assert {name for name, _ in index["systems"]} == set(HOSTILE)
    assert {path.name for path in (tmp_path / "out" / "systems").iterdir()} == {f"{page_name(n)}.html" for n in HOSTILE}


def test_no_name_leaves_the_folder_and_none_meets_another() -> None:
    names = [
        "a",
        "A",
        "a.",
        ".",
        "..",
        "",
        "../a",
        "a/b",
        "a\\b",
        "con fig",
        "\u00e4",
        "x" * 300,
        "a-b",
        "a\x00b",
        "\ud800",
    ]
    made = [page_name(name) for name in names]
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9_.-]{0,68}", name) for name in made), made
    assert len({name.lower() for name in made}) == len(names)
    assert (page_name("llama-7b_r16.v2"), page_name("a-b")) == ("llama-7b_r16.v2", "a-b")


def test_data_files_hold_nothing_that_ends_a_script() -> None:
    text = data_script("a</script>", {"k": "</script><!--\u2028\u2029&\ud800"})
    assert text.isascii()
    assert not re.search(r"[<>&]", text)
    assert json.loads(text.partition("] = ")[2].rstrip(";\n")) == {"k": "</script><!--\u2028\u2029&\ud800"}


@pytest.mark.usefixtures("small_limit")
def test_items_say_what_is_worth_a_look(tmp_path: Path) -> None:
    runs, played = make_runs(tmp_path), make_tournament(tmp_path)
    path = runs[0] / runs[1][1] / "answers" / "open.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**row, "finish_reason": "length", "answer": " "}) + "\n" for row in lines))
    with (played / "verdicts.csv").open("a") as stream:
        stream.write(f"1,{SYSTEMS[0]},{SYSTEMS[1]},2,another judge\n")
    build(tmp_path / "out", runs, played)
    index, items = site_data(tmp_path / "out", "index"), site_data(tmp_path / "out", "items")
    found = {
        (index["questions"][q][0], index["systems"][one][0], index["systems"][two][0], index["judges"][judge]): (
            first, second, {flag for place, flag in enumerate(index["flags"]) if flags >> place & 1}, gap,
        )
        for q, one, two, judge, first, second, flags, gap in items
    }  # fmt: skip
    a, b, c = SYSTEMS
    assert len(items) == 3 * len(QUESTIONS) + 1
    assert found["1", a, b, "smollm2-135m"][:3] == ("a", "t", {"tied", "cut", "empty", "disagree"})
    assert found["1", a, b, "another judge"][:3] == ("b", "", {"cut", "empty", "disagree"})
    assert found["2", a, b, "smollm2-135m"][:3] == ("?", "a", {"unparsed", "cut", "empty"})
    assert found["3", a, c, "smollm2-135m"][:3] == ("a", "b", {"reversed"})
    assert found["3", a, b, "smollm2-135m"][3] == len(ANSWERS[0]) - len(" ")
    kinds = {kind: place for place, kind in enumerate(index["kinds"])}
    failing = [row for row in site_data(tmp_path / "out", "failures") if row[2] >> kinds["empty"] & 1]
    assert len(failing) == len(QUESTIONS)
    assert all(row[2] >> kinds["cut"] & 1 for row in failing)


@pytest.mark.usefixtures("small_limit")
def test_a_pair_has_what_the_judge_wrote(tmp_path: Path) -> None:
    runs, folder = make_runs(tmp_path), make_tournament(tmp_path)
    said = Judgment(
        question_id="1", system_a=SYSTEMS[1], system_b=SYSTEMS[0], prompt_sha256="p", verdict=FIRST,
        raw_text="Two is <i>clearer</i>.\n1", cost_usd=0.5,
    )  # fmt: skip
    key = ("smollm2-135m", "1", SYSTEMS[1], SYSTEMS[0])
    played = replace(load_tournament(folder), judgments={key: said})
    rows = write_report(tmp_path / "o", SweepRuns(run_ids=()), load_runs(*runs), played, ReportOptions(title="t"))
    pairs = site_data(tmp_path / "o", f"pairs/{SYSTEMS[0]}")
    assert [(row[4], row[5]) for row in pairs["1"]] == [(None, "Two is <i>clearer</i>.\n1"), (None, None), (None, None)]
    assert [row.judging_usd for row in rows] == [0.25, 0.25, None]
    answers = site_data(tmp_path / "o", f"answers/{SYSTEMS[2]}")
    assert [row[0] for row in answers] == [0, 1, 2]


def test_a_smaller_report_removes_the_pages_of_a_larger_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, played, out = make_runs(tmp_path), make_tournament(tmp_path), tmp_path / "out"
    out.mkdir()
    (out / "mine.html").write_text("mine")
    with monkeypatch.context() as patch:
        patch.setattr(report_page, "MAX_SYSTEMS", 1)
        first = build(out, runs, played)
        before = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
        assert build(out, runs, played) == first
        assert {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    build(out, runs, played)
    left = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert {name for name in left if not name.startswith("figures/")} == {
        "index.html", "leaderboard.csv", "leaderboard.json", "scores.csv", "report-files.json", "mine.html",
    }  # fmt: skip


def test_figures_have_numbers_and_say_what_is_missing(tmp_path: Path) -> None:
    runs, folder = make_runs(tmp_path), make_tournament(tmp_path)
    content = gather(SweepRuns(run_ids=()), load_runs(*runs), load_tournament(folder), ReportOptions(title="t"))
    figures = {figure.name: figure for figure in all_figures(content)}
    assert len(figures) == 14
    drawn = {name for name, figure in figures.items() if figure.drawing}
    assert drawn == {
        "ratings", "win-matrix", "position-bias", "length-against-win", "rating-by-category", "mmlu-against-rating",
        "mmlu-by-subject", "cost-against-quality", "losses",
    }  # fmt: skip
    assert all(figure.caption.startswith("Not measured") for name, figure in figures.items() if name not in drawn)
    for name in drawn:
        assert figures[name].svg.startswith('<svg xmlns="http://www.w3.org/2000/svg"')
        assert len(figures[name].csv.splitlines()) > 1
    assert figures["position-bias"].csv.splitlines()[1] == "smollm2-135m,11,3,3,1"
    assert f"{SYSTEMS[0]},{SYSTEMS[2]}," in figures["win-matrix"].csv
    bare = gather(SweepRuns(run_ids=()), (), None, ReportOptions(title="t"))
    assert not any(figure.drawing for figure in all_figures(bare))
    assert content.tournament is not None
    graded = replace(content.tournament, ratings={**(content.tournament.ratings or {}), "position_bias": None})
    assert position_bias(replace(content, tournament=graded)).drawing is None


def test_categories_are_not_taken_from_another_bench_of_the_same_numbers(tmp_path: Path) -> None:
    runs = make_runs(tmp_path)
    sweep, options = SweepRuns(run_ids=()), ReportOptions(title="t")
    assert gather(sweep, load_runs(*runs), None, options).categories["1"] == "generic"
    path = runs[0] / runs[1][0] / "answers" / "open.jsonl"
    for run_id in runs[1]:
        path = runs[0] / run_id / "answers" / "open.jsonl"
        path.write_text(path.read_text().replace("How can a busy person", "Another question"))
    assert "1" not in gather(sweep, load_runs(*runs), None, options).categories


def test_answer_files_without_runs_are_systems(tmp_path: Path) -> None:
    path = tmp_path / "others.jsonl"
    for system in ("x", "y"):
        append_jsonl(path, {"question_id": 1, "system": system, "question": "Why?", "answer": "So."})
    options = ReportOptions(title="t", answers=(path,))
    rows = write_report(tmp_path / "o", SweepRuns(run_ids=()), (), None, options)
    assert [row.system for row in rows] == ["x", "y"]
    assert Page((tmp_path / "o" / "index.html").read_text()).text.count("So.") == 2


def test_what_repeats_and_what_does_not() -> None:
    assert repeats_itself("It is hot outside today.\n" * 5)
    assert not repeats_itself("It is hot outside today. " + "Every other sentence differs from it. Or so. " * 2)
    assert not repeats_itself("ha ha ha ha ha ha ha")
    assert not repeats_itself("")


def test_colours_and_labels_of_drawings() -> None:
    assert shade(0.5) == "#f4f4f1"
    assert shade(1.0) == "#4d8fba"
    assert shade(0.0) == "#d58b52"
    long = "a" * 40 + "-s17"
    assert short("abc") == "abc"
    assert len(short(long, 21)) == 21
    assert short(long, 21).endswith("-s17")


def test_a_grid_has_its_seeds_merged_and_an_effect_for_each_axis(tmp_path: Path) -> None:
    runs, ids = make_grid(tmp_path)
    content = gather(SweepRuns(run_ids=()), load_runs(runs, ids), None, ReportOptions(title="t"))
    mmlu, loss = content.grid
    assert [(row["words"], row["num_seeds"]) for row in mmlu.settings[:2]] == [("b, nf4", 2), ("b, fp4", 2)]
    assert [round(row["value"], 4) for row in mmlu.settings] == [0.505, 0.505, 0.305, 0.305]
    effects = {(e.axis, e.value, e.against): round(e.difference or 0.0, 6) for e in mmlu.effects}
    assert effects == {("data_type", "nf4", "fp4"): 0.0, ("dataset", "b", "a"): 0.2}
    assert [e.margin for e in mmlu.equalities] == [0.01]
    assert {e.axis for e in loss.effects} == {"data_type"}  # losses of different datasets can't be compared
    assert loss.higher_is_better is False
    write_report(tmp_path / "o", SweepRuns(run_ids=()), content.runs, None, ReportOptions(title="t"))
    text = Page((tmp_path / "o" / "index.html").read_text()).text
    assert "What the axes do" in text
    assert "Settings, seeds merged" in text
    assert "MMLU accuracy,dataset,b,a,0.2" in (tmp_path / "o" / "figures" / "axis-effects.csv").read_text()


def test_a_list_of_systems_is_no_grid(tmp_path: Path) -> None:
    runs = make_runs(tmp_path)
    assert gather(SweepRuns(run_ids=()), load_runs(*runs), None, ReportOptions(title="t")).grid == []


@pytest.mark.usefixtures("small_limit")
def test_questions_that_were_only_judged_are_found_too(tmp_path: Path) -> None:
    runs, played = make_runs(tmp_path), make_tournament(tmp_path)
    with (played / "verdicts.csv").open("a") as stream:
        stream.write(f"q/unknown,{SYSTEMS[0]},{SYSTEMS[1]},2,smollm2-135m\n")
    build(tmp_path / "out", runs, played, max_questions=2)
    index, items = site_data(tmp_path / "out", "index"), site_data(tmp_path / "out", "items")
    assert [question[0] for question in index["questions"]] == ["1", "2", "q/unknown"]
    assert sum(item[0] == 2 for item in items) == 1
    page = Page((tmp_path / "out" / "questions" / f"{page_name('q/unknown')}.html").read_text())
    assert "Its text is not known." in page.text
    assert "No answers on disk." in page.text
    assert "Only of the first 2 of 3 questions." in Page((tmp_path / "out" / "find.html").read_text()).text


@pytest.mark.usefixtures("small_limit")
def test_every_trained_system_has_its_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.report.sections.MAX_CURVES", 1)
    build(tmp_path / "out", make_runs(tmp_path), None)
    pages = {path.stem: path.read_text() for path in (tmp_path / "out" / "systems").iterdir()}
    assert {name: 'class="curve"' in text for name, text in pages.items()} == dict(
        zip(SYSTEMS, (True, True, False), strict=True)
    )


def test_drawings_are_xml_whatever_systems_are_called(tmp_path: Path) -> None:
    names = (EVIL, "a\ufffeb\x0bc", "]]>&'\"")
    runs = tmp_path / "runs"
    ids = [make_run(runs, name, make_spec(data), [2.0, 1.0], 0.3) for name, data in zip(names, "xyz", strict=True)]
    content = gather(SweepRuns(run_ids=()), load_runs(runs, ids), None, ReportOptions(title="t"))
    drawn = [figure for figure in all_figures(content) if figure.drawing]
    assert len(drawn) == 3
    for figure in drawn:
        root = ElementTree.fromstring(figure.svg)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert not root.findall(".//{http://www.w3.org/2000/svg}script")


def test_ratings_of_a_grid_have_effects(tmp_path: Path) -> None:
    runs, ids = make_grid(tmp_path)
    folder = tmp_path / "t"
    make_verdicts(folder, tuple(f"run-{place}" for place in range(8)))
    content = gather(SweepRuns(run_ids=()), load_runs(runs, ids), load_tournament(folder), ReportOptions(title="t"))
    rating = content.grid[0]
    assert (rating.name, rating.problem, rating.unit) == ("rating", "", "points")
    assert {effect.axis for effect in rating.effects} == {"dataset", "data_type"}
    better = next(effect for effect in rating.effects if effect.axis == "dataset")
    assert (better.value, better.against) == ("b", "a")
    assert better.difference is not None
    assert better.difference < 0  # the earlier runs, of dataset a, win mostly
    assert [equality.margin for equality in rating.equalities] == [20.0]
