"""Makes leaderboards, the report of a sweep and its tournament, and the paper's tables from judgments.

    python -m analysis leaderboard --sweep demo --out reports/demo
    python -m analysis watch --sweep demo
    python -m analysis report --sweep demo --runs runs --tournament runs/tournaments/demo --out reports/demo
    python -m analysis tables all --out reports/tables
    python -m analysis figures all --out reports/figures
    python -m analysis data --data data
    python -m analysis compare --sweep demo --axis adapter --on mmlu,eval_loss --margin 1.0
    python -m analysis export --sweep demo --format lm-eval --out exports/demo

Under `--json`, standard output is JSON and nothing else.
"""

from analysis.compare.command import compare
from analysis.exports.command import export
from analysis.leaderboard.entry import add_leaderboard
from analysis.leaderboard.entry_report import add_report
from analysis.paper.command import add_tables
from harness.commands import new_app

app = new_app(f"From runs and answers to leaderboards and tables; nothing is trained here.\n\n\b\n{__doc__}")

app.command()(compare)
app.command()(export)
add_leaderboard(app)
add_report(app)
add_tables(app)

if __name__ == "__main__":
    app(prog_name="python -m analysis")
