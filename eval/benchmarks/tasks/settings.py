"""The settings of lm-eval's tasks: which ones, and how many of their questions."""

from dataclasses import dataclass

from eval.benchmarks.settings import require_at_least, row_tokens, setting

ZERO_SHOT = ("hellaswag", "piqa", "arc_easy", "arc_challenge", "winogrande")  # the paper's data-type figure


@dataclass(frozen=True, slots=True, kw_only=True)
class TasksSettings:
    """The tasks, the examples before a question, and how many questions."""

    names: list[str] = setting(
        list(ZERO_SHOT),
        "lm-eval's names, with commas: hellaswag,piqa,crows_pairs_english.",
        option="--tasks",
        is_required=True,
    )
    num_fewshot: int | None = setting(None, "Examples before a question; default: the task's own, often 0.")
    limit: int | None = setting(None, "Ask only the first N questions of each task.")
    folder: str | None = setting(
        None, "Folder with YAML files of further tasks, over local data.", option="--task-folder"
    )
    chat: bool = setting(False, "Ask through the chat template, examples as earlier turns.", since=True)
    max_gen_toks: int | None = setting(
        None, "Tokens of a generated answer at most; default: what its task says.", since=True
    )
    seed: int = setting(0, "Of the answers of tasks that sample.", since=True)
    row_tokens: int | None = row_tokens()

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError(f"names=[]: name at least one of lm-eval's tasks, for example {','.join(ZERO_SHOT)}")
        require_at_least(self, 0, "num_fewshot")
        require_at_least(self, 1, "limit", "max_gen_toks", "row_tokens")
