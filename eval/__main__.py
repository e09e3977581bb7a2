"""The commands `python -m eval ...`: measure runs that exist, or any model path.

    python -m eval mmlu --model smollm2 --out scores/
    python -m eval perplexity --model smollm2 --text book.txt --out scores/
    python -m eval tasks --model smollm2 --tasks hellaswag,piqa --out scores/
    python -m eval glue --run RUN_ID
    python -m eval super_ni --run RUN_ID
    python -m eval rouge --sweep demo
    python -m eval generate --sweep demo
    python -m eval judge --sweep demo --tournament tournaments/demo
    python -m eval rate tournaments/demo/verdicts.csv
    python -m eval agree gpt4.csv human.csv
    python -m eval human serve --sweep demo --tournament tournaments/demo

With `eval.commands.scores`, `.human` and `.recorded` the only module of `eval` that knows the command-line library.
Heavy imports wait until a command runs, so that `rate` and `--help` answer at once.
"""

from eval.commands.contests import add_contests
from eval.commands.human import app as human_app
from eval.commands.recorded import record_commands
from eval.commands.scores import add_commands
from harness.commands import new_app

app = new_app("Measure finetuned runs and other models; compare them by judges; rate them.")
app.add_typer(human_app, name="human")

add_commands(app)
add_contests(app)
record_commands(app)
record_commands(human_app)


if __name__ == "__main__":
    app(prog_name="python -m eval")
