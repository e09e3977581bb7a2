"""The settings of MMLU."""

from dataclasses import dataclass
from enum import Enum

from eval.benchmarks.settings import require_at_least, row_tokens, setting


class Protocol(Enum):
    """Whose prompt is written, byte for byte (`eval.benchmarks.mmlu.prompts`)."""

    lm_eval = "lm_eval"
    qlora_callback = "qlora_callback"
    hendrycks = "hendrycks"


@dataclass(frozen=True, slots=True, kw_only=True)
class MmluSettings:
    """The questions, the examples before each, and the protocol that writes the prompt."""

    questions: str = setting("embedded", "embedded, hub:SPLIT, a .jsonl or .csv file, or a folder of CSVs.")
    shots_file: str = setting(
        "embedded", "Examples shown before each question, from the same kinds.", option="--shots", option_default=""
    )
    num_shots: int = setting(5, "Examples before each question, 0 to 5.")
    limit_per_subject: int | None = setting(None, "Ask only the first N questions of each subject.")
    protocol: Protocol = setting(Protocol.lm_eval, "lm_eval, qlora_callback or hendrycks.", since=True)
    chat: bool = setting(False, "Ask through the tokenizer's chat template.", since=True)
    limit: int | None = setting(None, "Ask only the first N questions over all subjects.", since=True)
    split_name: str = setting("", "What the questions are called in the result: val, test.", since=True)
    row_tokens: int | None = row_tokens()

    def __post_init__(self) -> None:
        require_at_least(self, 0, "num_shots")
        require_at_least(self, 1, "limit", "limit_per_subject", "row_tokens")
