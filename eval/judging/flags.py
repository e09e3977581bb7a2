"""What the command line says about a judge. Imports nothing heavy, so that the command's help is there at once."""

from dataclasses import dataclass
from pathlib import Path

DEFAULT_JUDGE = "local:smollm2"
FREE_JUDGES = frozenset({"local", "replay"})  # kinds of judges that cost no money; `eval.judges.registry` has them all


def costs_money(judge: str) -> bool:
    """Whether a judge of this name is paid for: a name without a kind, `local` alone too, is an API model's."""
    kind, colon, _ = judge.partition(":")
    return not colon or kind not in FREE_JUDGES


def replayed_file(name: str) -> tuple[Path, str | None]:
    """(the file, whose verdicts in it) of `replay:FILE` and `replay:FILE#JUDGE`; None: it has one judge's only."""
    path = name.removeprefix("replay:")
    file, mark, judge = path.rpartition("#")
    return (Path(file), judge) if mark and judge and not Path(path).exists() else (Path(path), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeFlags:
    """The command line's options about any judge; each kind takes those that concern it."""

    max_answer_tokens: int = 256
    chat_template: bool = False
    base_url: str = "https://api.openai.com/v1"
    key_variable: str = "OPENAI_API_KEY"
    temperature: float = 0.2
    max_tokens: int = 1024
    reasoning_effort: str | None = None
    structured: bool | None = None
    budget_usd: float | None = None
    usd_per_million_prompt_tokens: float | None = None
    usd_per_million_completion_tokens: float | None = None
    prices: Path | None = None
    num_concurrent: int = 8
    request_timeout_seconds: float = 120.0
    batch: bool = False
