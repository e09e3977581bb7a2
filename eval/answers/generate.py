"""Lets the systems that share a base answer open questions, and appends each answer to its file as it comes.

    generate_answers(base, systems, load_open_questions("embedded"), "embedded", GenerateSettings(max_new_tokens=256))

As `python -m eval generate`. Rows go to `runs/<run_id>/answers/<bench>.jsonl`; a killed call goes on with
what is missing. A `<bench>.settings.json` beside the rows ties them to settings, model, adapter, tokenizer with
chat template, and questions: rows of other settings are refused, never mixed.

Source: QLoRA section 5.3: nucleus sampling, p = 0.9, temperature 0.7; artidoro/qlora answer_prompts.py.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from eval.answers.decoding import ShouldStop, decode
from eval.answers.dialogue import fitting_prompt, turn_end
from eval.answers.files import Answer, AnswerFile, read_answers
from eval.answers.questions import OpenQuestion
from eval.answers.sequences import Decoded, DecodingRequest, DecodingSettings
from eval.answers.settings import GenerateSettings
from eval.answers.vllm import VllmBase, decode_vllm
from eval.scoring.model_key import model_sha256
from eval.systems import Answerer, own_template, refuse_equal_names
from harness.banks.load import LoadedBase
from harness.data.tokens import with_chat_template
from harness.progress import Progress
from harness.runs.record import load_record


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A question to be answered by one system."""

    system: str
    member: str | None
    question_id: str
    prompt_tokens: Sequence[int]
    seed: int
    turn: int = 0
    num_dropped_turns: int = 0


OnAnswer = Callable[[Request, str, Decoded], None]


def generate(
    base: LoadedBase | VllmBase,
    requests: Sequence[Request],
    settings: GenerateSettings,
    on_answer: OnAnswer,
    on_progress: Progress | None = None,
) -> None:
    """Answers requests of any members of one base; `on_answer` is called as each finishes.

    Raises:
        ValueError: a prompt that doesn't fit the model's context; names system and question.
    """
    for request in requests:
        if not 0 < len(request.prompt_tokens) < base.max_length:
            raise ValueError(
                f"{request.system}, question {request.question_id}: a prompt of {len(request.prompt_tokens)} tokens; "
                f"the context of {base.max_length} must hold it and an answer: shorten it, or leave it out"
            )
    decoding = [
        DecodingRequest(tokens=r.prompt_tokens, member=r.member, seed=r.seed, system=r.system) for r in requests
    ]
    options = DecodingSettings(
        max_new_tokens=settings.max_new_tokens,
        greedy=settings.greedy,
        temperature=settings.temperature,
        top_p=settings.top_p,
        num_slots=settings.num_slots,
    )
    end = turn_end(base.tokenizer, settings.prompt_format)
    stop = end.texts if settings.stop is None else settings.stop
    if isinstance(base, VllmBase):
        answers = decode_vllm(base, decoding, options, base.eos_tokens | end.tokens, stop)
    else:
        answers = decode(base, decoding, options, eos_tokens(base) | end.tokens, _stop_check(base, stop))
    for done, decoded in enumerate(answers, start=1):
        on_answer(requests[decoded.index], _text(base, decoded, stop), decoded)
        if on_progress is not None:
            on_progress(done, len(requests))


def generate_answers(
    base: LoadedBase | VllmBase,
    systems: Sequence[Answerer],
    questions: Sequence[OpenQuestion],
    bench: str,
    settings: GenerateSettings,
    on_progress: Progress | None = None,
    fresh: bool = False,
) -> dict[str, list[Answer]]:
    """Writes the missing answers of systems that share a base to `<run folder>/answers/<bench>.jsonl`.

    Args:
        base: with the systems' members in its bank, or in vLLM; answers are tied to which of the two.
        fresh: throw away answers of other settings instead of refusing.

    Returns:
        Every system's answers (new and old), by system name, in the questions' order. A question that is longer than
        the model's context has none.

    Raises:
        ValueError: stored answers were made with other settings, or with another model.
    """
    refuse_equal_names(systems)
    answers: dict[str, list[Answer]] = {}
    for template, together in _by_template(systems).items():
        answers |= _answers(_read_by(base, template), together, questions, bench, settings, on_progress, fresh)
    return answers


def _by_template(systems: Sequence[Answerer]) -> dict[str | None, list[Answerer]]:
    """-> the systems by the chat template that they were trained in; None: their base's own."""
    groups: dict[str | None, list[Answerer]] = {}
    for system in systems:
        groups.setdefault(own_template(system), []).append(system)
    return groups


def _read_by(base: LoadedBase | VllmBase, template: str | None) -> LoadedBase | VllmBase:
    """The base, its texts written by a chat template of the systems' own."""
    if template is None:
        return base
    return replace(base, tokenizer=with_chat_template(base.tokenizer, template))


def _answers(
    base: LoadedBase | VllmBase,
    systems: Sequence[Answerer],
    questions: Sequence[OpenQuestion],
    bench: str,
    settings: GenerateSettings,
    on_progress: Progress | None,
    fresh: bool,
) -> dict[str, list[Answer]]:
    files = {
        system.name: AnswerFile.open(
            system.folder / "answers" / f"{bench}.jsonl",
            system.name,
            _settings_record(base, system, questions, settings),
            fresh,
        )
        for system in systems
    }
    for turn in range(max(len(question.turns) for question in questions)):
        _answer_turn(base, systems, questions, turn, files, settings, on_progress)
    return {
        name: [
            file.answers[q.question_id, turn]
            for q in questions
            for turn in range(len(q.turns))
            if (q.question_id, turn) in file.answers
        ]
        for name, file in files.items()
    }


def _answer_turn(
    base: LoadedBase | VllmBase,
    systems: Sequence[Answerer],
    questions: Sequence[OpenQuestion],
    turn: int,
    files: Mapping[str, AnswerFile],
    settings: GenerateSettings,
    on_progress: Progress | None,
) -> None:
    """Lets every system answer this turn of the questions that have it; each answer goes to its system's file."""
    wanted = [
        _request(base, system, question, turn, files[system.name], settings)
        for system in systems
        for question in questions
        if _is_next(question, turn, files[system.name])
    ]
    requests = [request for request in wanted if len(request.prompt_tokens) < base.max_length]
    texts = {question.question_id: question.turns[turn] for question in questions if turn < len(question.turns)}

    def store(request: Request, text: str, decoded: Decoded) -> None:
        files[request.system].add(_answer(request, text, decoded, texts[request.question_id]))

    generate(base, requests, settings, store, on_progress)


def _is_next(question: OpenQuestion, turn: int, file: AnswerFile) -> bool:
    """Whether a turn is to be answered: it has no answer yet, and the turn before has one."""
    before = (question.question_id, turn - 1)
    is_open = turn < len(question.turns) and (question.question_id, turn) not in file.answers
    return is_open and (turn == 0 or before in file.answers)


def stored_answers(
    systems: Sequence[Answerer],
    questions: Sequence[OpenQuestion],
    bench: str,
    settings: GenerateSettings,
    tokenizer_sha256: str | None = None,
) -> dict[str, list[Answer]] | None:
    """All answers, if none is missing and what decides them hasn't changed; else None. Loads no model.

    Args:
        tokenizer_sha256: of the base's tokenizer and chat template as they are now; None where they aren't here.
    """
    wanted = [(question.question_id, turn) for question in questions for turn in range(len(question.turns))]
    found: dict[str, list[Answer]] = {}
    for system in systems:
        path = system.folder / "answers" / f"{bench}.jsonl"
        beside = path.with_suffix(".settings.json")
        if not (path.is_file() and beside.is_file()):
            return None
        stored = json.loads(beside.read_text())
        digests = question_digests(questions)
        unchanged = (
            stored["settings"] == _settings_of(system, settings)
            and stored.get("run_sha256") == run_sha256(system) is not None
            and (tokenizer_sha256 is None or stored.get("tokenizer_sha256") in (None, tokenizer_sha256))
            and {key: stored["questions"].get(key) for key in digests} == digests
        )
        rows = {(row.question_id, row.turn): row for row in read_answers(path)}
        if not unchanged or any(key not in rows for key in wanted):
            return None
        found[system.name] = [rows[key] for key in wanted]
    return found


def run_sha256(system: Answerer) -> str | None:
    """A digest of a run's model by its record: base, quantization, adapter. Needs no loaded model."""
    record = load_record(system.folder)
    if record is None:
        return None
    parts = [record.base_fingerprint, record.spec["quant"], record.adapter_sha256]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def plain_settings(settings: GenerateSettings) -> dict[str, Any]:
    """The settings that decide an answer, as JSON has them."""
    kept = {key: value for key, value in asdict(settings).items() if key != "num_slots"}
    if settings.engine == "own":  # answers from before there was another
        del kept["engine"]
    stop = None if settings.stop is None else list(settings.stop)
    return kept | {"prompt_format": settings.prompt_format.value, "stop": stop}


def _settings_of(system: Answerer, settings: GenerateSettings) -> dict[str, Any]:
    """`plain_settings` with a digest of the chat template that a run has of its own, where it has one."""
    template = own_template(system)
    own = {} if template is None else {"chat_template": hashlib.sha256(template.encode()).hexdigest()}
    return plain_settings(settings) | own


def question_digests(questions: Sequence[OpenQuestion]) -> dict[str, str]:
    """A digest of each question, by its id, so that more questions can be asked later."""
    return {q.question_id: hashlib.sha256(json.dumps([q.history, q.turns]).encode()).hexdigest() for q in questions}


def eos_tokens(base: LoadedBase) -> frozenset[int]:
    """The tokens that end an answer, by the model's own generation settings and its tokenizer."""
    configured = base.bank.base.generation_config.eos_token_id
    found = set(configured if isinstance(configured, list) else [configured])
    found.add(base.tokenizer.eos_token_id)
    return frozenset(token for token in found if isinstance(token, int))


def prompt_seed(seed: int, question_id: str, turn: int) -> int:
    """The seed of a question: the same for every system, whatever else is asked. Below 2^63."""
    digest = hashlib.sha256(json.dumps([seed, question_id, turn]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def cut_at_stop(text: str, stop: Iterable[str]) -> str:
    """The text before the first of the stop texts, without blanks at its ends."""
    places = [place for place in (text.find(end) for end in stop) if place >= 0]
    return text[: min(places, default=len(text))].strip()


def _stop_check(base: LoadedBase, stop: Sequence[str]) -> ShouldStop | None:
    """Looks at the newest tokens only: as many as the longest stop text has bytes, and a few for its surroundings."""
    if not stop:
        return None
    window = max(len(text.encode()) for text in stop) + 8

    def check(tokens: Sequence[int]) -> bool:
        tail = base.tokenizer.decode(list(tokens[-window:]), skip_special_tokens=True)
        return any(text in tail for text in stop)

    return check


def _text(base: LoadedBase | VllmBase, decoded: Decoded, stop: Sequence[str]) -> str:
    return cut_at_stop(str(base.tokenizer.decode(list(decoded.tokens), skip_special_tokens=True)), stop)


def _request(
    base: LoadedBase | VllmBase,
    system: Answerer,
    question: OpenQuestion,
    turn: int,
    file: AnswerFile,
    settings: GenerateSettings,
) -> Request:
    """The dialogue so far, this system's own earlier answers included."""
    dialogue = list(question.history)
    for earlier in range(turn):
        dialogue.append(("user", question.turns[earlier]))
        dialogue.append(("assistant", file.answers[question.question_id, earlier].answer))
    dialogue.append(("user", question.turns[turn]))
    try:
        tokens, num_dropped = fitting_prompt(
            base.tokenizer, dialogue, settings.prompt_format, base.max_length - settings.max_new_tokens
        )
    except ValueError as error:
        raise ValueError(f"{system.name}, question {question.question_id}: {error}") from None
    return Request(
        system=system.name,
        member=system.member,
        question_id=question.question_id,
        prompt_tokens=tokens,
        seed=prompt_seed(settings.seed, question.question_id, turn),
        turn=turn,
        num_dropped_turns=num_dropped,
    )


def _answer(request: Request, text: str, decoded: Decoded, question: str) -> Answer:
    return Answer(
        question_id=request.question_id,
        system=request.system,
        question=question,
        answer=text,
        num_tokens=len(decoded.tokens),
        finish_reason=decoded.finish_reason,
        seed=request.seed,
        turn=request.turn,
        num_dropped_turns=request.num_dropped_turns,
    )


def _settings_record(
    base: LoadedBase | VllmBase, system: Answerer, questions: Sequence[OpenQuestion], settings: GenerateSettings
) -> dict[str, Any]:
    return {
        "settings": _settings_of(system, settings),
        "model_sha256": (
            base.model_sha256(system) if isinstance(base, VllmBase) else model_sha256(base, system.member)
        ),
        "run_sha256": run_sha256(system),
        "tokenizer_sha256": base.tokenizer_fingerprint,
        "questions": question_digests(questions),
    }
