"""All figures of a report, in the order in which its page shows them."""

from analysis.report.content import Content
from analysis.report.plots import axes, runs, tournament
from analysis.report.plots.drawing import Figure

FIGURES = (
    tournament.ratings,
    tournament.win_matrix,
    tournament.position_bias,
    tournament.length_against_win,
    tournament.rating_by_category,
    tournament.agreement,
    axes.axis_effects,
    axes.two_axes,
    axes.all_settings,
    runs.mmlu_against_rating,
    runs.mmlu_by_subject,
    runs.cost_against_quality,
    runs.memory,
    runs.losses,
)


def all_figures(content: Content) -> list[Figure]:
    """Each figure; one that has nothing to draw says so in its caption."""
    return [make(content) for make in FIGURES]
