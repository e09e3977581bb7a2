"""The report in Debian's Chromium, from a disk: readable by everybody, hostile text does nothing, filters work."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis.report import page as report_page
from analysis.report.content import ReportOptions
from analysis.report.page import write_report
from analysis.report.records import load_runs, load_tournament
from eval.judging.matches import Judgment
from eval.ratings.rate import RateOptions, rate_files
from eval.verdicts.codes import FIRST, SECOND
from harness.files.atomic import append_jsonl, write_json
from harness.ledger.finished import SweepRuns
from tests.payloads import PAYLOADS
from tests.records.reports import (
    SYSTEMS,
    make_grid,
    make_run,
    make_runs,
    make_spec,
    make_tournament,
    make_verdicts,
    write_perplexity,
)
from tests.servers.axe import find_axe, violations
from tests.servers.chromium import Chromium, find_chromium

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_chromium() is None, reason="no chromium (Debian: apt-get install chromium)"),
]
PAGES = (
    "index.html", "effects.html", "judging.html", "scores.html", "figures.html", "runs.html", "find.html",
    "failures.html", "questions.html", "pair.html", "questions/1.html", f"systems/{SYSTEMS[0]}.html",
)  # fmt: skip
A4_PIXELS = 794
EVIL = PAYLOADS["title_break"] + PAYLOADS["script"]
ELEMENTS = "script, img, iframe, object, embed, math, link, meta, video"
BY_LOSS = "[...document.querySelectorAll('#measures thead button')].find(b => b.textContent === 'Loss').click()"
OVERLAPS = """(() => {
  const box = (text) => text.getBoundingClientRect();
  const boxes = [...document.querySelectorAll('SELECTOR')].map((svg) => [...svg.querySelectorAll('text')].map(box));
  const along = (a, b) => a.left < b.right - 1 && b.left < a.right - 1;
  const collide = (a, b) => along(a, b) && a.top < b.bottom - 1 && b.top < a.bottom - 1;
  const hits = (texts) => texts.flatMap((one, i) => texts.slice(i + 1).filter((two) => collide(one, two)));
  return boxes.flatMap(hits).length;
})()"""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(tmp_path_factory.mktemp("profile"), "--host-resolver-rules=MAP * ~NOTFOUND") as made:
        yield made


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same records as one page and as a folder."""
    folder = tmp_path_factory.mktemp("reports")
    runs, played = make_runs(folder), make_tournament(folder)
    rated = rate_files([played / "verdicts.csv"], RateOptions(orderings=20, resamples=50))
    write_json(played / "ratings.json", rated.to_json())
    write_perplexity(runs[0] / runs[1][0], 1.25, "e" * 64)
    tournament = load_tournament(played)
    for name, most in (("page", 16), ("folder", 1)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(report_page, "MAX_SYSTEMS", most)
            sweep = SweepRuns(run_ids=tuple(runs[1]), command="python -m harness.run")
            write_report(folder / name, sweep, load_runs(*runs), tournament, ReportOptions(title="demo"))
    grid = make_grid(folder / "grid")
    write_report(folder / "axes", SweepRuns(run_ids=()), load_runs(*grid), None, ReportOptions(title="axes"))
    return {name: folder / name for name in ("page", "folder", "axes")}


def settle(chromium: Chromium) -> None:
    """Until what a page starts has had its turn."""
    chromium.value("new Promise(done => requestAnimationFrame(() => setTimeout(done, 250)))")


def count(chromium: Chromium, what: str) -> int:
    return int(chromium.value(f"document.querySelectorAll({json.dumps(what)}).length"))


@pytest.mark.skipif(find_axe() is None, reason="no axe-core (npm install --no-save --prefix .axe axe-core)")
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_finds_nothing_on_any_page(chromium: Chromium, reports: dict[str, Path], width: int, dark: bool) -> None:
    chromium.screen(width, 900, dark=dark, phone=width < 800)
    alone = [f"{reports[name]}/index.html" for name in ("page", "axes")]
    for address in (*alone, *(f"{reports['folder']}/{page}" for page in PAGES)):
        chromium.open(f"file://{address}")
        settle(chromium)
        chromium.value("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        assert violations(chromium) == [], address
        assert chromium.value("document.documentElement.scrollWidth") <= width, address


def test_pages_load_only_files_of_the_folder(chromium: Chromium, reports: dict[str, Path]) -> None:
    chromium.screen(1280, 900)
    chromium.errors.clear()
    for page in PAGES:
        chromium.requests.clear()
        chromium.open(f"file://{reports['folder']}/{page}")
        settle(chromium)
        assert all(url.startswith(f"file://{reports['folder']}/") for url in chromium.requests), page
        assert chromium.errors == [], page
    chromium.requests.clear()
    chromium.open(f"file://{reports['page']}/index.html")
    settle(chromium)
    assert chromium.requests == [f"file://{reports['page']}/index.html"]
    assert chromium.errors == []


def test_hostile_names_answers_and_replies_do_nothing(tmp_path: Path, chromium: Chromium) -> None:
    names = (PAYLOADS["script"], PAYLOADS["onerror"], "</script>\"\u2028'")
    runs = tmp_path / "runs"
    ids = [make_run(runs, name, make_spec(data), [2.0, 1.5], None) for name, data in zip(names, "xyz", strict=True)]
    for run_id, name in zip(ids, names, strict=True):
        for key, payload in PAYLOADS.items():
            row = {"question_id": f"{key} {payload}", "system": name, "question": payload, "answer": payload}
            append_jsonl(runs / run_id / "answers" / "open.jsonl", row)
    folder = tmp_path / "t"
    make_verdicts(folder, tuple(name.replace('"', '""') for name in names), judge=PAYLOADS["svg"].replace(",", ""))
    tournament = load_tournament(folder)
    judge = tournament.verdicts[0].judge
    said = {
        (judge, "1", names[0], names[1]): Judgment(
            question_id="1", system_a=names[0], system_b=names[1], prompt_sha256="p", verdict=FIRST,
            raw_text="\n".join(PAYLOADS.values()),
        )
    }  # fmt: skip
    tournament = replace(tournament, judgments=said)
    chromium.screen(1280, 900)
    for most in (16, 1):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(report_page, "MAX_SYSTEMS", most)
            out = tmp_path / f"out{most}"
            write_report(
                out, SweepRuns(run_ids=tuple(ids)), load_runs(runs, ids), tournament, ReportOptions(title=EVIL)
            )
        for page in sorted(out.rglob("*.html")):
            chromium.requests.clear()
            chromium.errors.clear()
            chromium.open(page.as_uri())
            settle(chromium)
            assert chromium.value("typeof window.pwned") == "undefined", page.name
            assert all(url.startswith(f"file://{out}/") for url in chromium.requests), page.name
            assert count(chromium, "main :is(script, img, iframe, object, embed, math, link, meta, video)") == 0, (
                page.name
            )
            assert chromium.errors == [], page.name
    assert chromium.dialogs == []
    chromium.open((tmp_path / "out1" / "pair.html").as_uri())
    settle(chromium)
    assert "wins" not in chromium.value("document.getElementById('pair-count').textContent")
    assert PAYLOADS["svg"] in chromium.value("document.getElementById('pair-rows').textContent")


@pytest.mark.parametrize("kind", ["page", "folder"])
def test_filters_find_and_notes_are_kept_and_exported(chromium: Chromium, reports: dict[str, Path], kind: str) -> None:
    index = f"file://{reports[kind]}/" + ("index.html" if kind == "page" else "{}.html")
    chromium.screen(1280, 900)
    chromium.open(index.format("find"))
    settle(chromium)
    assert chromium.value("document.getElementById('find-count').textContent") == "9 of 9 pairs of answers"
    choose(chromium, "#find-flags input[value=reversed]")
    assert chromium.value("document.getElementById('find-count').textContent") == "3 of 9 pairs of answers"
    choose(chromium, "#find-flags input[value=unparsed]")
    assert chromium.value("document.getElementById('find-count').textContent") == "0 of 9 pairs of answers"
    chromium.open(index.format("failures"))
    chromium.value("localStorage.clear()")
    chromium.open(index.format("failures"))
    settle(chromium)
    fill(chromium, "#failures-kind", "")
    assert count(chromium, "#failures-rows > li") == 9
    chromium.value("document.querySelector('#failures-rows details').open = true")
    fill(chromium, "#failures-rows select", "wrong fact")
    fill(chromium, "#failures-rows textarea", '=1+1 "quoted"')
    chromium.open(index.format("failures"))
    settle(chromium)
    assert chromium.value("document.getElementById('notes-count').textContent") == "1 answer has a note."
    saved = saved_file(chromium, "#notes-csv").splitlines()
    assert saved[0] == "question,system,seen,kind,text,answer"
    assert '"wrong fact","\'=1+1 ""quoted"""' in saved[1]
    assert json.loads(saved_file(chromium, "#notes-json"))[0]["text"] == '=1+1 "quoted"'


def test_a_pair_shows_answers_verdicts_and_words(tmp_path: Path, chromium: Chromium) -> None:
    runs, folder = make_runs(tmp_path), make_tournament(tmp_path)
    said = Judgment(
        question_id="1",
        system_a=SYSTEMS[2],
        system_b=SYSTEMS[1],
        prompt_sha256="p",
        verdict=SECOND,
        raw_text="Why not.\n2",
    )
    votes = tuple(v for v in load_tournament(folder).verdicts if v.question_id == "1" and v.first == SYSTEMS[1])
    tournament = replace(
        load_tournament(folder), judgments={("smollm2-135m", "1", SYSTEMS[2], SYSTEMS[1]): said},
        votes=tuple(replace(vote, judge="", verdict=SECOND) for vote in votes),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_page, "MAX_SYSTEMS", 1)
        write_report(tmp_path / "o", SweepRuns(run_ids=()), load_runs(*runs), tournament, ReportOptions(title="t"))
    chromium.screen(1280, 900)
    chromium.open(f"file://{tmp_path}/o/pair.html?one={SYSTEMS[2]}&two={SYSTEMS[1]}")
    settle(chromium)
    assert chromium.value("document.querySelector('h1').textContent") == f"{SYSTEMS[2]} against {SYSTEMS[1]}"
    assert count(chromium, "#pair-rows > section") == 3
    first = chromium.value("document.querySelector('#pair-rows > section').innerText")
    assert "Why not." in first
    assert "people" in first
    assert first.index("indented") < first.index("Pick a fixed time")
    fill(chromium, "#pair-flag", "disagree")
    assert count(chromium, "#pair-rows > section") == 1


def test_long_tables_show_fifty_rows_sorted_and_found(tmp_path: Path, chromium: Chromium) -> None:
    runs = tmp_path / "runs"
    ids = [make_run(runs, f"run-{n:03d}", make_spec("d", seed=n), [2.0 - n / 100], None) for n in range(120)]
    write_report(tmp_path / "o", SweepRuns(run_ids=tuple(ids)), load_runs(runs, ids), None, ReportOptions(title="t"))
    chromium.screen(1280, 900)
    chromium.open(f"file://{tmp_path}/o/index.html")
    settle(chromium)
    assert count(chromium, "#measures tbody tr") == 50
    chromium.value(BY_LOSS)
    assert chromium.value("document.querySelector('#measures tbody th').textContent") == "run-000"
    chromium.value(BY_LOSS)
    assert chromium.value("document.querySelector('#measures tbody th').textContent") == "run-119"
    fill(chromium, "#measures input[type=search]", "run-07")
    assert count(chromium, "#measures tbody tr") == 10


def test_print_repeats_headers_and_no_labels_collide(chromium: Chromium, reports: dict[str, Path]) -> None:
    chromium.screen(A4_PIXELS, 1123)
    chromium.call("Emulation.setEmulatedMedia", media="print")
    try:
        for address in (f"{reports['page']}/index.html", f"{reports['folder']}/figures.html"):
            chromium.open(f"file://{address}")
            settle(chromium)
            assert chromium.value(OVERLAPS.replace("SELECTOR", "svg.axis, svg.plot:not(:has(.p-in-cell))")) == 0
            heads = chromium.value("[...document.querySelectorAll('thead')].map(t => getComputedStyle(t).display)")
            assert set(heads) <= {"table-header-group"}
            sorts = chromium.value("[...document.querySelectorAll('.sort')].map(b => getComputedStyle(b).display)")
            assert set(sorts) <= {"contents"}  # Chromium doesn't paint a button's box in a header that it repeats
            assert chromium.value("document.documentElement.scrollWidth") <= A4_PIXELS
    finally:
        chromium.call("Emulation.setEmulatedMedia", media="")


def choose(chromium: Chromium, what: str) -> None:
    chromium.value(f"document.querySelector({json.dumps(what)}).click()")
    settle(chromium)


def fill(chromium: Chromium, what: str, value: str) -> None:
    chromium.value(
        f"(() => {{ const field = document.querySelector({json.dumps(what)}); field.value = {json.dumps(value)};"
        "for (const kind of ['input', 'change']) field.dispatchEvent(new Event(kind, {bubbles: true})); })()"
    )
    settle(chromium)


def saved_file(chromium: Chromium, button: str) -> Any:
    """The text that a button offers as a file."""
    chromium.value(
        "(() => { URL.createObjectURL = (blob) => { window.saved = blob.text(); return '#'; };"
        f"document.querySelector({json.dumps(button)}).click(); }})()"
    )
    return chromium.value("window.saved")
