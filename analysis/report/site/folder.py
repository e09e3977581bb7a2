"""Writes a report as a folder of pages, for tournaments and sweeps that are too large for one.

  index.html            which is best, the leaderboard, all systems as a table
  effects.html          what the axes of the sweep do: effects, equality, best by axis, seeds merged
  judging.html          position bias, win matrix, all pairs
  scores.html           every other benchmark
  figures.html          the figures, each with its SVG and CSV
  runs.html             every run
  find.html             search and filters over all judged pairs of answers
  failures.html         answers by kind of failure, with the reader's notes
  questions.html        the questions; questions/NAME.html has everybody's answers and the verdicts
  systems/NAME.html     one system: recipe, curve, scores, opponents, answers
  pair.html?one=&two=   two systems: answers side by side, what judges wrote, people's votes
  data/*.js             what the script of those pages loads when it needs it

The first page needs index.html, site.css and site.js.
"""

from collections.abc import Sequence
from typing import Any

from analysis.report.answers import AnswersView, QuestionView, answers_view, judged_only
from analysis.report.content import Content
from analysis.report.render import render, script, style
from analysis.report.sections import curves_view
from analysis.report.site.data import answers_data, failures_data, index_data, items_data, pairs_data
from analysis.report.site.files import SiteFiles
from analysis.report.site.names import page_name, page_names, system_links
from analysis.report.site.script_data import data_script
from analysis.report.site.systems import category_rates, opponents, subject_scores, system_scores

PAGES = ("index", "effects", "judging", "scores", "figures", "runs", "find", "failures", "questions", "pair")
MAX_BOARD_ROWS = 24  # drawn with bars on the first page; all systems are in the table below


def write_folder(files: SiteFiles, content: Content, context: dict[str, Any]) -> None:
    """Writes all pages and data; `context` is what the pages about the whole tournament print."""
    view = answers_view(content.answers, content.order, content.tournament, content.options.max_questions)
    asked = content.asked(content.options.max_questions)
    pages = page_names(content.order)
    shared = {**context, "is_folder": True, "page_of": pages, "link_of": system_links(pages, pages), "answers": view}
    shared |= {"question_page": page_names(asked), "categories": content.categories, "texts": content.questions}
    shared |= {"asked": asked, "max_board_rows": MAX_BOARD_ROWS}
    shared |= {"linked_pages": linked_pages(content, shared)}
    files.write("site.css", style())
    files.write("site.js", script())
    for page in PAGES:
        files.write(f"{page}.html", render(f"site/{page}.html.j2", **shared))
    below = {**shared, "root": "../", "link_of": system_links(pages, pages, "../")}
    for question in _questions(content, view, asked):
        files.write(f"questions/{page_name(question.question_id)}.html", _question_page(question, below))
    _write_systems(files, content, below)
    _write_data(files, content, asked)


def linked_pages(content: Content, shared: dict[str, Any]) -> list[tuple[str, str]]:
    """-> (page, its name in the menu) of the pages that hold something"""
    pages = {
        "index": ("Leaderboard", True),
        "effects": ("Axes", content.grid),
        "judging": ("Judging", content.tournament),
        "scores": ("Scores", shared["scores"]),
        "figures": ("Figures", True),
        "runs": ("Runs", content.runs),
        "questions": ("Questions", shared["asked"]),
        "find": ("Find matches", content.items),
        "failures": ("Failures", content.answers),
    }
    return [(page, words) for page, (words, has_content) in pages.items() if has_content]


def _questions(content: Content, view: AnswersView | None, asked: Sequence[str]) -> list[QuestionView]:
    """Those with answers, then those that were only judged."""
    answered = list(view.questions) if view else []
    if content.tournament is None:
        return answered
    known = {question.question_id for question in answered}
    others = {name: content.questions[name] for name in asked if name not in known}
    return [*answered, *judged_only(others, content.order, content.tournament)]


def _question_page(question: QuestionView, shared: dict[str, Any]) -> str:
    return render("site/question.html.j2", **shared, question=question)


def _write_systems(files: SiteFiles, content: Content, shared: dict[str, Any]) -> None:
    runs = {run.record.label: run for run in content.runs}
    met, rates = opponents(content), category_rates(content)
    for ranked in shared["leaderboard"].rows:
        name = ranked.row.system
        run = runs.get(name)
        page = render(
            "site/system.html.j2",
            **shared,
            view=ranked,
            run=run,
            loss=curves_view([run]) if run else None,
            opponents=met.get(name, ()),
            category_rates=rates.get(name, {}),
            subjects=subject_scores(run),
            other_scores=system_scores(run),
        )
        files.write(f"systems/{page_name(name)}.html", page)


def _write_data(files: SiteFiles, content: Content, asked: Sequence[str]) -> None:
    data: dict[str, Any] = {
        "index": index_data(content, asked, is_folder=True),
        "items": items_data(content, asked),
        "failures": failures_data(content, asked),
    }
    data |= {f"pairs/{page_name(system)}": found for system, found in pairs_data(content, asked).items()}
    answered = content.answers.by_system if content.answers else {}
    data |= {f"answers/{page_name(system)}": answers_data(content, system, asked) for system in answered}
    for name, value in data.items():
        files.write(f"data/{name}.js", data_script(name, value))
