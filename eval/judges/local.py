"""A judge that is a local model: it prefers the answer whose verdict is the likelier next token.

`python -m eval judge` builds it by `load_judge`. Nothing is generated: one pass for each match gives the
log-probabilities of " A" and " B" after a cue, so that every reply is a verdict. Matches that share question
and first answer share their prefix (`eval.scoring.next_token`): the prompt puts the second answer and the cue last.

A small model's preference is mostly for a position. So each answer is also shown against itself, where only
the position can speak, and that is taken off (contextual calibration, arXiv 2102.09690, with the answers
themselves as the content-free input):

    preference(a, b) = d(a, b) - (d(a, a) + d(b, b)) / 2,   d(x, y) = logp(" A" | x, y) - logp(" B" | x, y)

The prompt is a bare text by default. Of seven layouts, tried on five to eleven questions of the Vicuna benchmark
with answers cut to 48 tokens, it served SmolLM2-135M best: GPT-4's answers got 72 points of 100, a constant one
35, one that begs for a win 10, and 14 % of pairs were contradicted under swapped order; through its chat
template 68, 34, 54 and 22 %; with tagged delimiters in that, as in `eval.judging.prompts`, 50, 59, 61 and 28 %.
What looks like its own verdict ("Answer A: B") wins for all that, whatever is done to the label
(benchmarks/evaluation/judge_controls.py): a small judge's ratings are no evidence where answers may be hostile.
It sees fluency more than relevance: answers to other questions got 68. On twelve questions, eleven of them new:
ChatGPT 60, GPT-4 59, Guanaco-7B 55, Vicuna-13B 52, the constant answer 25; 37 of 120 pairs were contradicted,
and the second answer won 139 matches, the first 64. A larger instruct model may want `chat_template`. Labels
and control tokens inside an answer are disarmed.

A reference answer, where the question has one, stands below the question and is cut as answers are.

A preference within the margin is a tie. 0.1 nats is 52.5 against 47.5 %: in the first trial it cut the
contradictions from 24 (no margin) to 14 % and moved no contestant by more than 6 points. A match's verdict
depends on its own texts only, never on what else is in the tournament.
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from eval.answers.dialogue import chat_text, prompt_tokens
from eval.answers.questions import join_turns
from eval.judging.injection import neutralise
from eval.judging.matches import Failure, Judgment, Match
from eval.judging.options import LocalOptions
from eval.judging.prompts import fill, hash_text
from eval.scoring.next_token import Prompt, next_token_logprobs
from eval.scoring.row_sizes import row_sizes
from eval.verdicts.codes import FIRST, SECOND, TIE
from harness.banks.load import LoadedBase, load_base
from harness.data.render import folder_has_template
from harness.devices.torch_device import resolve_device, resolved_quant
from harness.files.hub import Missing
from harness.models.locate import locate_model

VERDICTS = (" A", " B")
SYSTEM = "You are a fair judge of answers."  # only where the chat template is used
USER = (
    "Question: {question}\n\nAnswer A: {answer_1}\n\nAnswer B: {answer_2}\n\n"
    "Which answer is more helpful, relevant, accurate and detailed?"
)
REFERENCE = "{question}\n\nReference answer, which is correct: {reference}"
CUE = "Answer"
LABEL = re.compile(
    r"^([^\S\n]*(?:question|reference[^\S\n]+answer[^:\n]{0,20}?|answer[^\S\n]*[a-c]))[^\S\n]*[:\uff1a]",
    re.IGNORECASE | re.MULTILINE,
)
ASKING = re.compile(r"^(?=[^\S\n]*which answer is more\b)", re.IGNORECASE | re.MULTILINE)
PASS_ROWS = 4  # rows of tokens in a pass, unless a single question has more
Shown = tuple[str, str, str]  # question (with its reference) and answers, cut and disarmed: what the model sees


class LocalJudge:
    """A frozen causal model, without any adapter, as judge."""

    is_waiting = False
    stopped: str | None = None

    def __init__(
        self,
        base: LoadedBase,
        name: str,
        max_answer_tokens: int = 256,
        max_question_tokens: int = 512,
        margin_nats: float = 0.1,
        chat_template: bool = False,
    ) -> None:
        """Takes a loaded model.

        Args:
            base: the model; adapters in its bank are not used.
            name: the judge's name in verdict files.
            max_answer_tokens: each answer is cut to this many tokens.
            max_question_tokens: each question is cut to this many tokens.
            margin_nats: calibrated preferences up to this are ties.
            chat_template: ask through the tokenizer's chat template.

        Raises:
            ValueError: the tokenizer has no chat template, a verdict is more than one token after the cue, or
                a limit is not positive.
        """
        if max_answer_tokens < 1 or max_question_tokens < 1 or margin_nats < 0:
            raise ValueError(
                f"max_answer_tokens={max_answer_tokens}, max_question_tokens={max_question_tokens}, "
                f"margin_nats={margin_nats}: limits are at least 1, the margin at least 0"
            )
        if chat_template and base.tokenizer.chat_template is None:
            raise ValueError(f"chat_template=true: the tokenizer of {name} has none")
        self.name = name
        self._base = base
        self._chat_template = chat_template
        self._max_answer_tokens, self._max_question_tokens = max_answer_tokens, max_question_tokens
        self._margin_nats = margin_nats
        self._control_tokens = sorted(base.tokenizer.get_added_vocab(), key=len, reverse=True)
        self._cut: dict[tuple[str, int], str] = {}
        template = self._text(("{question}", "{answer_1}", "{answer_2}"))
        self._candidates = verdict_tokens(base.tokenizer, template)
        self.settings: Mapping[str, Any] = {
            "kind": "local",
            "base_fingerprint": base.fingerprint,
            "prompt_sha256": hash_text(template),
            "logprobs": [*VERDICTS, "position offset"],
            "calibration": "each answer against itself",
            "max_answer_tokens": max_answer_tokens,
            "max_question_tokens": max_question_tokens,
            "margin_nats": margin_nats,
        }

    def prompt_sha256(self, match: Match) -> str:
        """The hash of the text that the model reads, with answers cut to their limits."""
        return hash_text(self._text(self._shown(match)))

    def judge(self, matches: Sequence[Match], on_judgment: Callable[[Judgment], None]) -> list[Failure]:
        """Decides matches question by question; a question's judgments come together."""
        shown = {match.key: self._shown(match) for match in matches}
        tokens = {pair: self._tokens(pair) for pair in with_calibration(shown.values())}
        failures = []
        fitting: dict[str, list[Match]] = {}
        for match in matches:
            if max(len(tokens[pair]) for pair in with_calibration([shown[match.key]])) <= self._base.max_length:
                fitting.setdefault(shown[match.key][0], []).append(match)
            else:
                failures.append(self._too_long(match))
        pass_tokens = PASS_ROWS * row_sizes(self._base.bank).row_tokens
        for batch in _batches(list(fitting.values()), lambda match: len(tokens[shown[match.key]]), pass_tokens):
            started = time.monotonic()
            logprobs = self._score({p: tokens[p] for p in with_calibration([shown[m.key] for m in batch])})
            seconds = (time.monotonic() - started) / len(batch)
            for match in batch:
                pair = shown[match.key]
                on_judgment(self._judgment(match, logprobs, pair, len(tokens[pair]), seconds))
        return failures

    def _score(self, tokens: Mapping[Shown, Sequence[int]]) -> dict[Shown, tuple[float, float]]:
        pairs = sorted(tokens)  # equal question and first answer side by side
        prompts = [Prompt(tokens=tokens[pair], group=hash_text("\n".join(pair[:2]))) for pair in pairs]
        scores = next_token_logprobs(self._base, prompts, self._candidates)
        return {pair: (float(row[0]), float(row[1])) for pair, row in zip(pairs, scores, strict=True)}

    def _judgment(
        self,
        match: Match,
        logprobs: Mapping[Shown, tuple[float, float]],
        pair: Shown,
        num_tokens: int,
        seconds: float,
    ) -> Judgment:
        question, one, two = pair
        offset = (_difference(logprobs[question, one, one]) + _difference(logprobs[question, two, two])) / 2
        preference = _difference(logprobs[pair]) - offset
        verdict = TIE if abs(preference) <= self._margin_nats else FIRST if preference > 0 else SECOND
        question_id, first, second = match.key
        return Judgment(
            question_id=question_id,
            system_a=first,
            system_b=second,
            prompt_sha256=self.prompt_sha256(match),
            verdict=verdict,
            logprobs=(*logprobs[pair], offset),
            num_prompt_tokens=num_tokens,
            latency_seconds=seconds,
        )

    def _too_long(self, match: Match) -> Failure:
        question, first, second = match.key
        reason = f"longer than the {self._base.max_length} tokens that the judge takes; lower max_answer_tokens"
        return Failure(question_id=question, system_a=first, system_b=second, reason=reason)

    def _shown(self, match: Match) -> Shown:
        question = self._data(match.question.text, self._max_question_tokens)
        if any(match.question.references):
            reference = self._data(join_turns(match.question.references), self._max_answer_tokens)
            question = REFERENCE.format(question=question, reference=reference)
        return (
            question,
            self._data(match.answer_a, self._max_answer_tokens),
            self._data(match.answer_b, self._max_answer_tokens),
        )

    def _data(self, text: str, max_tokens: int) -> str:
        """Cuts a text to its limit and disarms what could pass for the prompt's own parts."""
        if (text, max_tokens) not in self._cut:
            self._cut[text, max_tokens] = self._disarmed(cut(self._base.tokenizer, self._disarmed(text), max_tokens))
        return self._cut[text, max_tokens]

    def _disarmed(self, text: str) -> str:
        text = ASKING.sub("> ", LABEL.sub(r"\1 -", neutralise(text)))
        for token in self._control_tokens:  # the tokenizer would read them as control tokens, data or not
            if len(token) > 1:
                text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    def _text(self, pair: Shown) -> str:
        question, one, two = pair
        user = fill(USER, {"question": question, "answer_1": one, "answer_2": two})
        if not self._chat_template:
            return f"{user} {CUE}"
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": user}]
        return chat_text(self._base.tokenizer, messages) + CUE

    def _tokens(self, pair: Shown) -> tuple[int, ...]:
        add_bos = not self._chat_template  # a chat template writes it itself
        return tuple(prompt_tokens(self._base.tokenizer, self._text(pair), add_special_tokens=add_bos))


def load_judge(options: LocalOptions) -> LocalJudge:
    """Finds and loads the model that the options name.

    Raises:
        ValueError: its weights are nowhere, or the device isn't there.
    """
    source = locate_model(options.model, options.paths)
    if isinstance(source, Missing):
        raise ValueError(str(source))
    if options.chat_template and source.kind == "folder" and not folder_has_template(Path(source.location)):
        raise ValueError(f"--chat-template: the tokenizer of {options.model.name} has no chat template; leave it out")
    device = resolve_device(options.device)
    base = load_base(source, resolved_quant(options.quant, device), device, Path(options.paths.cache))
    return LocalJudge(
        base,
        name=options.model.name,
        max_answer_tokens=options.max_answer_tokens,
        max_question_tokens=options.max_question_tokens,
        margin_nats=options.margin_nats,
        chat_template=options.chat_template,
    )


def verdict_tokens(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """The token of each of VERDICTS right after `prompt`.

    Raises:
        ValueError: one of them is no single token there, or two are the same.
    """
    before = list(tokenizer(prompt, add_special_tokens=False).input_ids)
    tokens = []
    for verdict in VERDICTS:
        after = list(tokenizer(prompt + verdict, add_special_tokens=False).input_ids)
        if after[:-1] != before:
            raise ValueError(f"{verdict!r} is not one token after the cue for this tokenizer; take another judge model")
        tokens.append(int(after[-1]))
    if len(set(tokens)) < len(tokens):
        raise ValueError(f"{VERDICTS} are the same token for this tokenizer; take another judge model")
    return tokens


def cut(tokenizer: PreTrainedTokenizerBase, text: str, max_tokens: int) -> str:
    """The part of `text` that its first `max_tokens` tokens cover, by characters, so that none is cut in two."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    if len(encoded.input_ids) <= max_tokens:
        return text
    return text[: encoded["offset_mapping"][max_tokens][0]]


def with_calibration(pairs: Iterable[Shown]) -> list[Shown]:
    """The pairs, and each of their answers against itself, without repeats."""
    wanted: dict[Shown, None] = {}
    for question, one, two in pairs:
        wanted |= dict.fromkeys(((question, one, two), (question, one, one), (question, two, two)))
    return list(wanted)


def _batches(
    questions: Sequence[list[Match]], num_tokens: Callable[[Match], int], pass_tokens: int
) -> Iterator[list[Match]]:
    """Yields the matches of whole questions, with at least `pass_tokens` tokens of prompts at a time."""
    batch: list[Match] = []
    for matches in questions:
        batch += matches
        if sum(map(num_tokens, batch)) >= pass_tokens:
            yield batch
            batch = []
    if batch:
        yield batch


def _difference(logprobs: tuple[float, float]) -> float:
    return logprobs[0] - logprobs[1]
