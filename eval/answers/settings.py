"""How answers are written. Imports nothing heavy, so that the command's help is there at once."""

from dataclasses import dataclass

from eval.answers.prompt_format import PromptFormat

ENGINES = ("own", "vllm")


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateSettings:
    """How answers are sampled, how long they may get, and which engine writes them."""

    max_new_tokens: int = 512
    greedy: bool = False
    temperature: float = 0.7
    top_p: float = 0.9
    seed: int = 0
    stop: tuple[str, ...] | None = None  # an answer ends before the first of these; None: what its prompt format says
    prompt_format: PromptFormat = PromptFormat.auto
    num_slots: int | None = None  # answers under way at once, which can't change them; None: as many as fit, up to 32
    engine: str = "own"  # own: eval/answers/decoding.py; vllm: eval/answers/vllm.py

    def __post_init__(self) -> None:
        for key in ("max_new_tokens", "num_slots"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"{key}={value}: expected 1 or more")
        if self.temperature <= 0:
            raise ValueError(f"temperature={self.temperature}: expected above 0; for the likeliest token set greedy")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p}: expected above 0, at most 1")
        if self.engine not in ENGINES:
            raise ValueError(f"engine={self.engine}: expected one of {', '.join(ENGINES)}")
        if any(not stop for stop in self.stop or ()):
            raise ValueError("stop: an empty text would end every answer at once; leave it out")
