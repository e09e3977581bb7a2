"""Lists every kind of judge by its name, and reads the names of judges.

`local:smollm2` is the judge `smollm2` of the kind `local`; a name without a kind is an API model's, which
may hold colons of its own. To add a judge: one module in this folder whose class is a `eval.judging.matches.Judge`, and
one entry in `JUDGES`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from eval.judges.prices import price_of
from eval.judging.flags import FREE_JUDGES, JudgeFlags, replayed_file
from eval.judging.matches import Judge, Judgment, Match
from eval.judging.options import (
    ApiOptions,
    Estimate,
    JudgeChoice,
    JudgeOptions,
    LocalOptions,
    ReplayOptions,
)
from eval.judging.prompts import Mode, PromptSet, load_prompts, own_prompts
from eval.judging.store import JudgmentStore, settings_sha256

API = "api"

Say = Callable[[str], None]
EstimateCalls = Callable[[Any, PromptSet, Sequence[Match], Sequence[tuple[Match, Judgment]]], Estimate]


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeKind:
    """One kind of judge. Heavy imports wait until one is built."""

    choose: Callable[[str, JudgeFlags], JudgeChoice]  # from its name, without the kind, and the command line
    build: Callable[[Any, JudgeOptions, JudgmentStore, Say | None], Judge]  # the first is what `choose` made
    estimate: EstimateCalls | None = None  # None: it costs nothing
    modes: tuple[Mode, ...] = (Mode.pairwise,)
    takes_prompts: bool = False  # a prompt file may replace our own


def choose_judge(name: str, flags: JudgeFlags) -> JudgeChoice:
    """The options of the judge that a name stands for: `local:MODEL`, `replay:FILE`, or an API model.

    Raises:
        ValueError: the name is empty, or the judge can't do what the flags ask for.
    """
    kind, colon, rest = name.partition(":")
    if not colon or kind not in JUDGES:
        kind, rest = API, name
    if not rest.strip():
        raise ValueError(f"--judge {name!r}: no name of a judge; give {', '.join(f'{k}:NAME' for k in JUDGES)}")
    return JUDGES[kind].choose(rest, flags)


def build_judge(options: JudgeOptions, store: JudgmentStore, say: Say | None = None) -> Judge:
    """Makes the judge that the options name.

    Raises:
        ValueError: its model or files are not there, it can't serve the mode, or a batch of it is under way.
    """
    kind = JUDGES[options.judge.kind]
    if options.mode not in kind.modes:
        raise ValueError(
            f"mode={options.mode.value}: only an API judge gives scores and grades; take mode=pairwise for this judge"
        )
    if options.prompts is not None and not kind.takes_prompts:
        raise ValueError(f"prompts={options.prompts}: only an API judge takes a prompt file")
    return kind.build(options.judge, options, store, say)


def prompt_set(options: JudgeOptions) -> PromptSet:
    """The prompts that the options name."""
    return own_prompts(options.mode) if options.prompts is None else load_prompts(options.prompts, options.mode)


def estimate_matches(
    options: JudgeOptions, matches: Sequence[Match], judged: Sequence[tuple[Match, Judgment]]
) -> Estimate | None:
    """What judging the matches would cost, measured on those that are judged; None for a judge that costs nothing."""
    estimate = JUDGES[options.judge.kind].estimate
    return None if estimate is None else estimate(options.judge, prompt_set(options), matches, judged)


def _choose_local(name: str, flags: JudgeFlags) -> LocalOptions:
    from harness.config.choices import model_choice, quant_choice
    from harness.config.paths import paths_of_environment

    _refuse_batch(f"local:{name}", flags)
    return LocalOptions(
        model=model_choice(name),
        quant=quant_choice("none"),
        paths=paths_of_environment(),
        max_answer_tokens=flags.max_answer_tokens,
        chat_template=flags.chat_template,
    )


def _build_local(chosen: LocalOptions, options: JudgeOptions, store: JudgmentStore, say: Say | None) -> Judge:
    from eval.judges.local import load_judge

    return load_judge(chosen)


def _choose_replay(name: str, flags: JudgeFlags) -> ReplayOptions:
    _refuse_batch(f"replay:{name}", flags)
    _refuse_template(f"replay:{name}", flags)
    file, judge = replayed_file(name)
    return ReplayOptions(files=(file,), judge=judge)


def _build_replay(chosen: ReplayOptions, options: JudgeOptions, store: JudgmentStore, say: Say | None) -> Judge:
    from eval.judges.replay import ReplayJudge

    return ReplayJudge(chosen.files, chosen.judge)


def _choose_api(name: str, flags: JudgeFlags) -> ApiOptions:
    _refuse_template(name, flags)
    given = (flags.usd_per_million_prompt_tokens, flags.usd_per_million_completion_tokens)
    listed = price_of(name, flags.prices) if None in given else None
    return ApiOptions(
        model=name,
        base_url=flags.base_url,
        key_variable=flags.key_variable,
        temperature=flags.temperature,
        max_tokens=flags.max_tokens,
        reasoning_effort=flags.reasoning_effort,
        structured=flags.structured,
        budget_usd=flags.budget_usd,
        usd_per_million_prompt_tokens=listed.prompt if listed and given[0] is None else given[0],
        usd_per_million_completion_tokens=listed.completion if listed and given[1] is None else given[1],
        price_source="price as given" if listed is None else listed.source,
        num_concurrent=flags.num_concurrent,
        request_timeout_seconds=flags.request_timeout_seconds,
        batch=flags.batch,
    )


def _build_api(chosen: ApiOptions, options: JudgeOptions, store: JudgmentStore, say: Say | None) -> Judge:
    from eval.judges.batch import BatchJudge
    from eval.judges.batch_store import BatchStore
    from eval.judges.calls import ApiJudge

    prompts = prompt_set(options)
    if chosen.batch:
        return BatchJudge(chosen, prompts, store, say)
    judge = ApiJudge(chosen, prompts, store)
    waiting = [booking.batch_id or booking.name for booking in BatchStore(store).unsettled(settings_sha256(judge))]
    if waiting:
        raise ValueError(
            f"batch {', '.join(waiting)} of {chosen.model} is under way, and its matches would be paid twice: collect "
            f"it with --batch (after cancelling it at the server, if you don't want to wait)"
        )
    return judge


def _estimate_api(
    chosen: ApiOptions, prompts: PromptSet, matches: Sequence[Match], judged: Sequence[tuple[Match, Judgment]]
) -> Estimate:
    from eval.judges.request import estimate_calls

    return estimate_calls(chosen, prompts, matches, judged)


def _refuse_batch(name: str, flags: JudgeFlags) -> None:
    if flags.batch:
        raise ValueError(f"--batch: {name} is no API model; only those have a Batch API")


def _refuse_template(name: str, flags: JudgeFlags) -> None:
    if flags.chat_template:
        raise ValueError(f"--chat-template: {name} is no local judge; a server writes its model's chat template itself")


JUDGES: dict[str, JudgeKind] = {
    "local": JudgeKind(choose=_choose_local, build=_build_local),
    "replay": JudgeKind(choose=_choose_replay, build=_build_replay),
    API: JudgeKind(choose=_choose_api, build=_build_api, estimate=_estimate_api, modes=tuple(Mode), takes_prompts=True),
}
assert {name for name, kind in JUDGES.items() if kind.estimate is None} == FREE_JUDGES, (
    "what costs nothing is known to plans"
)
