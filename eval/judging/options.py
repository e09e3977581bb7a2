"""The options of a tournament and of its judge, and the summary that `python -m eval judge` reports.

It imports little: the judges themselves are imported when one is built.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

from eval.judging.injection import FlaggedWins
from eval.judging.matches import PositionBias
from eval.judging.prompts import Mode
from harness.config.schema import Device, ModelConfig, PathsConfig, QuantConfig
from harness.runs.estimate import Interval


class JudgeChoice(Protocol):
    """The options of a judge that is still to be made, of a kind that `eval.judges.registry` knows."""

    kind: ClassVar[str]  # the kind's name in JUDGES


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalOptions:
    """A causal model on this machine that compares two answers by the likelihood of its verdict tokens."""

    kind: ClassVar[str] = "local"

    model: ModelConfig
    quant: QuantConfig
    paths: PathsConfig
    device: Device = Device.auto
    max_answer_tokens: int = 256  # of each answer; the rest is cut off
    max_question_tokens: int = 512
    margin_nats: float = 0.1  # calibrated preferences up to this are ties: 0.1 is 52.5 against 47.5 %
    chat_template: bool = False  # ask through the tokenizer's chat template; see `eval.judges.local` for what it does


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOptions:
    """Files of verdicts that exist already, in place of a judge."""

    kind: ClassVar[str] = "replay"

    files: tuple[Path, ...]
    judge: str | None = None  # whose verdicts, where the files hold several judges'


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiOptions:
    """A chat model behind any OpenAI-compatible server."""

    kind: ClassVar[str] = "api"

    model: str  # pinned as the server names it, such as a dated snapshot
    base_url: str = "https://api.openai.com/v1"
    key_variable: str = "OPENAI_API_KEY"  # the environment variable that holds the key, read at the call only
    temperature: float | None = 0.2  # the paper's; None: not sent, for models that refuse it
    max_tokens: int = 1024  # of a reply without thoughts; the paper's
    thought_tokens: int = 0  # of thoughts before it, which servers count and bill as parts of the reply
    reasoning_effort: str | None = None  # low, medium, high, as the server names them; None: not sent
    seed: int | None = None
    structured: bool | None = None  # JSON-schema replies; None: try, and go on without where the server refuses
    num_concurrent: int = 8
    max_attempts: int = 6  # of one match, the first included
    backoff_seconds: float = 1.0  # before the second attempt where the server names no time; doubles with each
    max_wait_seconds: float = 60.0  # a server that asks for a longer wait ends the run
    request_timeout_seconds: float = 120.0  # of one attempt, from connecting to the last byte
    usd_per_million_prompt_tokens: float | None = None
    usd_per_million_completion_tokens: float | None = None
    price_source: str = "price as given"  # whose prices these are, for a reader
    budget_usd: float | None = None  # for all paid calls of the tournament folder, earlier runs included
    batch: bool = False  # by the server's Batch API: half the price, an answer within 24 hours
    batch_poll_seconds: float = 30.0  # between two looks at a batch

    @property
    def limit_tokens(self) -> int:
        """Of a reply as servers count it, its thoughts included."""
        return self.max_tokens + self.thought_tokens

    def __post_init__(self) -> None:
        if self.thought_tokens < 0:
            raise ValueError(f"thought_tokens={self.thought_tokens}: must be at least 0")
        if self.budget_usd is not None and None in (
            self.usd_per_million_prompt_tokens,
            self.usd_per_million_completion_tokens,
        ):
            raise ValueError(f"budget_usd={self.budget_usd:g}: give both prices a million tokens, or no cost is known")
        for name in ("num_concurrent", "max_attempts", "max_tokens", "request_timeout_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)}: must be above 0")
        if "@" in self.base_url.split("//")[-1].split("/")[0]:
            raise ValueError(f"base_url: it holds a user or password; put the key into {self.key_variable} instead")


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeOptions:
    """One tournament, or one more judge of it."""

    answers: tuple[Path, ...]  # answer files or run folders
    tournament: Path  # folder of judgments.sqlite and verdicts.csv
    judge: JudgeChoice
    questions: Path | None = None  # None: the embedded open prompts
    benchmark: str = "open"  # which answers of a run folder
    mode: Mode = Mode.pairwise
    reference: str | None = None  # the system that `relative` compares with
    reference_answers: bool = True  # show the judge the reference answers that questions have
    prompts: Path | None = None  # a released prompt file; None: this project's own
    null_control: bool = False  # adds the constant-answer contestant
    max_questions: int | None = None  # only the first N; None takes all
    seed: int = 0  # of the order in which matches are judged
    retry_unparsed: bool = False  # ask again about matches whose reply could not be read
    reparse: bool = False  # read stored replies anew, which costs nothing

    def __post_init__(self) -> None:
        if (self.mode is Mode.relative) != (self.reference is not None):
            raise ValueError(
                f"mode={self.mode.value}, reference={self.reference}: only relative scores need a reference"
            )
        if self.retry_unparsed and self.reparse:
            raise ValueError("retry_unparsed, reparse: one of the two at a time; read anew first, then ask again")
        if self.max_questions is not None and self.max_questions < 1:
            raise ValueError(f"max_questions={self.max_questions}: must be at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What is ahead of a paid judge.

    Tokens to read are the prompts' UTF-8 bytes over the bytes a token, tokens to write the mean length of a reply; both
    are measured on this judge's judgments of the tournament, and assumed where there are none yet.
    """

    num_calls: int
    num_prompt_tokens: int
    num_completion_tokens: int  # expected
    max_completion_tokens: int  # every reply at its limit
    num_measured: int  # judgments that the expectation rests on
    cost_usd: float | None  # expected; None where no price is known
    max_cost_usd: float | None  # every prompt byte a token, every reply at its limit, no retries
    price_source: str  # whose prices these are
    batch: bool = False  # at the batch price
    paid_usd: float = 0.0  # for this run's judgments, which are no longer ahead


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """A system's mean grade from 1 to 10 by this judge."""

    system: str
    mean: float
    ci95: Interval | None  # over questions; None for a single one
    num_answers: int  # graded turns; unread grades are left out


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeSummary:
    """What a judge did. Counts are of matches judged at any time, but `failures` are those of this run."""

    judge: str
    mode: Mode
    num_systems: int
    num_questions: int
    num_matches: int
    num_judged: int  # in this run
    num_reused: int  # matches whose prompt had been judged before
    num_failed: int  # brought no judgment; left for the next run
    num_unasked: int  # left for the next run because this one stopped before, or asks nobody (`reparse`)
    num_unparsed: int
    num_changed: int | None = None  # stored judgments that `reparse` reads otherwise; None where nothing was read anew
    failures: dict[str, int] = field(default_factory=dict)  # reason -> matches
    unparsed: dict[str, int] = field(default_factory=dict)  # reason -> matches whose reply could not be read
    notes: tuple[str, ...] = ()  # answers that match no question
    unmatched_systems: tuple[str, ...] = ()  # they met nobody and can't be rated
    position_bias: PositionBias
    flagged: FlaggedWins  # answers that may try to steer the judge
    cost_usd: float | None  # of all judgments in use, whenever they were paid; None where no price is known
    spent_usd: float  # of all calls of the folder, those without a known bill at the most that they can have cost
    unknown_usd: float  # the part of it that no bill is known for
    seconds: float
    output: Path  # verdicts.csv, scores.csv or grades.csv
    grades: tuple[Grade, ...] = ()  # of one answer at a time, the best system first
    stopped: str | None = None  # why the run ended before its last match
