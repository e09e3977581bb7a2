"""Answers: the same as transformers gives one prompt at a time, whoever shares the batch; stored and resumed."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from eval.answers.decoding import decode
from eval.answers.dialogue import SYSTEM_SENTENCE, encode_dialogue, human_text
from eval.answers.files import read_answers
from eval.answers.generate import (
    OnAnswer,
    Request,
    cut_at_stop,
    generate_answers,
    prompt_seed,
    run_sha256,
    stored_answers,
)
from eval.answers.prompt_format import PromptFormat
from eval.answers.questions import OpenQuestion, load_open_questions, split_dialogue
from eval.answers.sampling import nucleus_tokens
from eval.answers.sequences import Decoded, DecodingRequest, DecodingSettings, uniform_numbers
from eval.answers.settings import GenerateSettings
from eval.systems import System
from harness.banks.load import LoadedBase, load_base
from harness.banks.shared import AdapterBank
from harness.config.schema import (
    AdapterConfig,
    AdapterMethod,
    DatasetConfig,
    DType,
    ModelConfig,
    QuantConfig,
    QuantMethod,
)
from harness.models.locate import ModelSource
from harness.runs.record import save_record
from harness.runs.spec import RunSpec
from tests.builders import record
from tests.tiny import make_checkpoint

MEMBERS: tuple[str | None, ...] = (None, "narrow", "wide")
GREEDY = DecodingSettings(max_new_tokens=12, greedy=True, temperature=1.0, top_p=1.0, num_slots=4)
SAMPLING = dataclasses.replace(GREEDY, greedy=False, temperature=0.9, top_p=0.9)
PLAIN = QuantConfig(name="none", method=QuantMethod.none, compute_dtype=DType.float32)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def base(checkpoint: Path) -> LoadedBase:
    source = ModelSource(kind="folder", location=str(checkpoint), revision="main", max_length=256)
    loaded = load_base(source, PLAIN, torch.device("cpu"), checkpoint)
    _add_adapters(loaded.bank)
    return loaded


def _add_adapters(bank: AdapterBank) -> None:
    torch.manual_seed(1)
    for name, rank in (("narrow", 2), ("wide", 5)):
        bank.add_member(name, AdapterConfig(name="lora", lora_r=rank, lora_alpha=16), seed=rank)
        for parameter in bank.member_parameters(name).values():
            parameter.data.normal_(0, 0.2)
    bank.eval()


def make_requests(num_each: int = 4) -> list[DecodingRequest]:
    rng = np.random.default_rng(0)
    return [
        DecodingRequest(tokens=rng.integers(3, 384, size=rng.integers(1, 40)).tolist(), member=member, seed=seed)
        for seed in range(num_each)
        for member in MEMBERS
    ]


def run(
    base: LoadedBase, requests: Sequence[DecodingRequest], settings: DecodingSettings, eos: frozenset[int] = frozenset()
) -> dict[int, Decoded]:
    return {decoded.index: decoded for decoded in decode(base, requests, settings, eos)}


def merged_model(checkpoint: Path, base: LoadedBase, member: str | None) -> LlamaForCausalLM:
    """transformers' own model with an adapter added to its weights: the reference knows nothing of the bank."""
    model = LlamaForCausalLM.from_pretrained(checkpoint)
    for name, layer in base.bank.layers.items():
        if member is not None:
            delta = layer.lora_b[member] @ layer.lora_a[member] * layer.scale[member]
            model.get_submodule(name).weight.data += delta.detach()
    return model.eval()


@pytest.mark.parametrize("num_slots", [1, 3, 32])
def test_greedy_is_transformers_generate_one_prompt_at_a_time(
    base: LoadedBase, checkpoint: Path, num_slots: int
) -> None:
    requests = make_requests()
    found = run(base, requests, dataclasses.replace(GREEDY, num_slots=num_slots))
    assert sorted(found) == list(range(len(requests)))
    for member in MEMBERS:
        model = merged_model(checkpoint, base, member)
        for index, request in enumerate(requests):
            if request.member != member:
                continue
            tokens = torch.tensor([list(request.tokens)])
            expected = model.generate(
                tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=12, do_sample=False, eos_token_id=None
            )[0, tokens.shape[1] :].tolist()
            assert list(found[index].tokens) == expected, f"request {index} of {member}"
            assert found[index].finish_reason == "length"


def test_eos_ends_a_sequence_and_is_left_out(base: LoadedBase) -> None:
    requests = make_requests()
    whole = run(base, requests, GREEDY)
    ends = frozenset({whole[0].tokens[3], whole[1].tokens[5]})
    cut = run(base, requests, GREEDY, ends)
    reasons = set()
    for index, decoded in cut.items():
        places = [place for place, token in enumerate(whole[index].tokens) if token in ends]
        assert decoded.tokens == whole[index].tokens[: places[0]] if places else whole[index].tokens
        assert decoded.finish_reason == ("eos" if places else "length")
        reasons.add(decoded.finish_reason)
    assert "eos" in reasons


def test_sampling_does_not_depend_on_the_batch(base: LoadedBase) -> None:
    requests = make_requests()
    together = run(base, requests, SAMPLING)
    reverse = run(base, requests[::-1], dataclasses.replace(SAMPLING, num_slots=32))
    for index, request in enumerate(requests):
        alone = run(base, [request], SAMPLING)[0]
        assert together[index].tokens == alone.tokens
        assert reverse[len(requests) - 1 - index].tokens == alone.tokens
    reseeded = [dataclasses.replace(request, seed=99) for request in requests]
    assert [d.tokens for d in run(base, reseeded, SAMPLING).values()] != [d.tokens for d in together.values()]


def test_answers_fit_the_context_and_a_prompt_that_leaves_no_room_is_refused(base: LoadedBase) -> None:
    near_the_end = DecodingRequest(tokens=[5] * 250, member=None)
    assert len(run(base, [near_the_end], GREEDY)[0].tokens) == 6
    with pytest.raises(ValueError, match="prompt of 256 tokens; this model's context of 256"):
        run(base, [DecodingRequest(tokens=[5] * 256, member=None)], GREEDY)
    assert run(base, [], GREEDY) == {}


def test_nucleus_sampling_draws_from_the_nucleus_in_proportion() -> None:
    probs = torch.tensor([0.05, 0.5, 0.3, 0.15])
    uniform = uniform_numbers(0, 2500)
    drawn = [nucleus_tokens(probs.log()[None], uniform[i : i + 1], 1.0, 0.8)[1][0] for i in range(2000)]
    counts = np.bincount(drawn, minlength=4)
    assert counts[0] == counts[3] == 0  # 0.5 + 0.3 reach 0.8
    assert counts[1] / 2000 == pytest.approx(0.625, abs=0.04)
    everything = {nucleus_tokens(probs.log()[None], uniform[i : i + 1], 1.0, 1.0)[1][0] for i in range(2000, 2500)}
    assert everything == {0, 1, 2, 3}


def test_a_nucleus_wider_than_the_first_guess_is_sampled_whole() -> None:
    logits = torch.zeros(2, 5000)
    logits[1, 7] = 50.0
    uniform = torch.stack([uniform_numbers(seed, 400) for seed in (0, 1)])
    drawn = []
    for step in range(400):
        on_device, on_host = nucleus_tokens(logits, uniform[:, step], 1.0, 0.9)
        assert on_device.tolist() == on_host
        drawn.append(on_host)
    assert len({row[0] for row in drawn}) > 350
    assert {row[1] for row in drawn} == {7}


def test_temperature_near_zero_is_greedy(base: LoadedBase) -> None:
    requests = make_requests(2)
    cold = run(base, requests, dataclasses.replace(SAMPLING, temperature=1e-4))
    assert {i: d.tokens for i, d in cold.items()} == {i: d.tokens for i, d in run(base, requests, GREEDY).items()}


def make_systems(folder: Path) -> list[System]:
    systems = []
    for member in MEMBERS:
        method = AdapterMethod.none if member is None else AdapterMethod.lora
        model = ModelConfig(name="tiny", hub_id="tests/tiny")
        spec = RunSpec(model=model, quant=PLAIN, adapter=AdapterConfig(method=method), dataset=None, train=None)
        run_id = member or "base"
        systems.append(System(name=f"tiny-{run_id}", run_id=run_id, spec=spec, folder=folder / run_id))
    return systems


QUESTIONS = [
    OpenQuestion(question_id="1", turns=("What is the capital of France?",)),
    OpenQuestion(question_id="2", turns=("Hello!", "And now?")),
    OpenQuestion(question_id="3", turns=("More?",), history=(("user", "Tips?"), ("assistant", "Eat well."))),
]
SETTINGS = GenerateSettings(max_new_tokens=10, num_slots=3)


def test_answers_are_stored_for_every_system_and_turn(base: LoadedBase, tmp_path: Path) -> None:
    systems = make_systems(tmp_path)
    seen: list[tuple[int, int]] = []
    found = generate_answers(base, systems, QUESTIONS, "open", SETTINGS, lambda *done: seen.append(done))
    assert seen[-1] == (3, 3)  # the second turn has one question of three systems
    for system in systems:
        rows = read_answers(system.folder / "answers" / "open.jsonl")
        assert {(row.question_id, row.turn) for row in rows} == {("1", 0), ("2", 0), ("2", 1), ("3", 0)}
        assert [(row.question_id, row.turn) for row in found[system.name]] == [("1", 0), ("2", 0), ("2", 1), ("3", 0)]
        assert all(row.system == system.name and row.num_tokens <= 10 for row in rows)
        assert {row.seed for row in rows if row.question_id == "1"} == {prompt_seed(0, "1", 0)}
    answers = {name: [row.answer for row in rows] for name, rows in found.items()}
    assert answers["tiny-base"] != answers["tiny-narrow"] != answers["tiny-wide"]


def test_the_second_turn_sees_the_first_answer_and_what_does_not_fit_is_left_out(
    base: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts: dict[tuple[str, int], str] = {}

    def answer_at_once(
        base: LoadedBase, requests: Sequence[Request], settings: object, on_answer: OnAnswer, _: object
    ) -> None:
        for request in requests:
            prompts[request.question_id, request.turn] = str(base.tokenizer.decode(request.prompt_tokens))
            on_answer(request, f"answer {request.turn}", Decoded(index=0, tokens=(5, 6), finish_reason="eos"))

    monkeypatch.setattr("eval.answers.generate.generate", answer_at_once)
    long = OpenQuestion(question_id="4", turns=("x" * 600, "And?"), history=(("user", "Hi"), ("assistant", "Ho")))
    told = OpenQuestion(question_id="5", turns=("And?",), history=(("user", "y" * 300), ("assistant", "z")))
    found = generate_answers(base, make_systems(tmp_path)[:1], [*QUESTIONS, long, told], "open", SETTINGS)["tiny-base"]
    assert [(row.question_id, row.turn) for row in found] == [("1", 0), ("2", 0), ("2", 1), ("3", 0), ("5", 0)]
    assert prompts["2", 1].endswith("### Human: Hello! ### Assistant: answer 0 ### Human: And now? ### Assistant:")
    assert "Tips?" in prompts["3", 0]
    assert "yyy" not in prompts["5", 0]
    rows = read_answers(tmp_path / "base" / "answers" / "open.jsonl")
    assert {row.question_id: row.num_dropped_turns for row in rows} == {"1": 0, "2": 0, "3": 0, "5": 2}


def test_a_killed_call_goes_on_where_it_stopped(base: LoadedBase, tmp_path: Path) -> None:
    whole = generate_answers(base, make_systems(tmp_path / "whole"), QUESTIONS, "open", SETTINGS)
    systems = make_systems(tmp_path / "cut")
    generate_answers(base, systems, QUESTIONS, "open", SETTINGS)
    path = systems[1].folder / "answers" / "open.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + lines[1][:20])  # the second row was torn by the kill
    calls: list[tuple[int, int]] = []
    again = generate_answers(base, systems, QUESTIONS, "open", SETTINGS, lambda *done: calls.append(done))
    assert again == whole
    assert sum(done == total for done, total in calls) in (1, 2)
    assert max(total for _, total in calls) <= 3  # only what was missing
    assert json.loads(path.read_text().splitlines()[0]) == json.loads(lines[0])


def test_answers_made_otherwise_are_refused_unless_fresh(base: LoadedBase, tmp_path: Path) -> None:
    systems = make_systems(tmp_path)[:1]
    generate_answers(base, systems, QUESTIONS[:1], "open", SETTINGS)
    more = generate_answers(base, systems, QUESTIONS, "open", dataclasses.replace(SETTINGS, num_slots=1))
    assert len(more["tiny-base"]) == 4  # more questions, and another batch size, are no other settings
    hotter = dataclasses.replace(SETTINGS, temperature=1.5)
    with pytest.raises(ValueError, match=r"open\.jsonl: holds answers made otherwise \(temperature\)"):
        generate_answers(base, systems, QUESTIONS, "open", hotter)
    reworded = [dataclasses.replace(QUESTIONS[0], turns=("Where is Paris?",))]
    with pytest.raises(ValueError, match="the text of question 1"):
        generate_answers(base, systems, reworded, "open", SETTINGS)
    other_model = [dataclasses.replace(systems[0], spec=make_systems(tmp_path)[1].spec, run_id="narrow")]
    with pytest.raises(ValueError, match="the model"):
        generate_answers(base, other_model, QUESTIONS, "open", SETTINGS)
    redone = generate_answers(base, systems, QUESTIONS[:1], "open", hotter, fresh=True)
    assert len(read_answers(systems[0].folder / "answers" / "open.jsonl")) == len(redone["tiny-base"]) == 1


def test_answers_of_another_tokenizer_or_template_are_not_gone_on_with(base: LoadedBase, tmp_path: Path) -> None:
    systems = make_systems(tmp_path)[:1]
    one = QUESTIONS[:1]
    generate_answers(base, systems, one, "open", SETTINGS)
    changed = dataclasses.replace(base, tokenizer_fingerprint="of another template")
    with pytest.raises(ValueError, match=r"holds answers made otherwise \(the tokenizer or its chat template\)"):
        generate_answers(changed, systems, QUESTIONS, "open", SETTINGS)
    beside = systems[0].folder / "answers" / "open.settings.json"
    stored = json.loads(beside.read_text())
    save_record(systems[0].folder, dataclasses.replace(record(), spec={"quant": {}}))
    beside.write_text(json.dumps(stored | {"run_sha256": run_sha256(systems[0])}))
    assert stored_answers(systems, one, "open", SETTINGS, base.tokenizer_fingerprint) is not None
    assert stored_answers(systems, one, "open", SETTINGS, "of another template") is None
    of_earlier_version = {key: value for key, value in stored.items() if key != "tokenizer_sha256"}
    beside.write_text(json.dumps(of_earlier_version))
    assert len(generate_answers(base, systems, one, "open", SETTINGS)["tiny-base"]) == 1


def test_a_run_is_asked_by_the_template_that_it_was_trained_in(
    base: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts: dict[str, str] = {}

    def answer_at_once(
        base: LoadedBase, requests: Sequence[Request], settings: object, on_answer: OnAnswer, _: object
    ) -> None:
        for request in requests:
            prompts[request.system] = str(base.tokenizer.decode(request.prompt_tokens))
            on_answer(request, "Paris", Decoded(index=0, tokens=(5,), finish_reason="eos"))

    monkeypatch.setattr("eval.answers.generate.generate", answer_at_once)
    plain, *_ = systems = make_systems(tmp_path)[:2]
    template = "{% for turn in messages %}[{{ turn['content'] }}]{% endfor %}"
    data = DatasetConfig(name="mine", hub_id="local", format="chat", chat_template=template)
    own = dataclasses.replace(systems[1], spec=dataclasses.replace(systems[1].spec, dataset=data))
    generate_answers(base, [plain, own], QUESTIONS[:1], "open", SETTINGS)
    assert prompts[own.name] == "[What is the capital of France?]"
    assert prompts[plain.name].endswith("### Human: What is the capital of France? ### Assistant:")
    with pytest.raises(ValueError, match=r"made otherwise \(chat_template, "):  # of the run as it was, without one
        generate_answers(base, [dataclasses.replace(own, folder=plain.folder)], QUESTIONS[:1], "open", SETTINGS)


def test_answers_of_a_run_that_was_renamed_are_kept_under_its_new_name(base: LoadedBase, tmp_path: Path) -> None:
    (system,) = make_systems(tmp_path)[:1]
    generate_answers(base, [system], QUESTIONS[:1], "open", SETTINGS)
    path = system.folder / "answers" / "open.jsonl"
    (before,) = read_answers(path)
    renamed = dataclasses.replace(system, name="tiny-base-s0")
    found = generate_answers(base, [renamed], QUESTIONS, "open", SETTINGS)["tiny-base-s0"]
    assert found[0] == dataclasses.replace(before, system="tiny-base-s0")
    assert {row.system for row in read_answers(path)} == {"tiny-base-s0"}


def test_two_runs_of_one_name_are_refused(base: LoadedBase, tmp_path: Path) -> None:
    one, other, _ = make_systems(tmp_path)
    with pytest.raises(ValueError, match="runs base and narrow are both called tiny-base"):
        generate_answers(base, [one, dataclasses.replace(other, name=one.name)], QUESTIONS, "open", SETTINGS)


def test_a_stop_text_ends_an_answer_and_is_cut_off(base: LoadedBase, tmp_path: Path) -> None:
    systems = make_systems(tmp_path)[:1]
    free = dataclasses.replace(SETTINGS, greedy=True, stop=(), max_new_tokens=20)
    text = generate_answers(base, systems, QUESTIONS[:1], "free", free)["tiny-base"][0].answer
    stop = text[5:8]
    stopped = generate_answers(base, systems, QUESTIONS[:1], "cut", dataclasses.replace(free, stop=(stop,)))
    row = stopped["tiny-base"][0]
    assert row.finish_reason == "stop"
    assert row.answer == text[: text.index(stop)].strip()
    assert row.num_tokens < 20


def test_cut_at_stop_takes_the_first() -> None:
    assert cut_at_stop(" Yes. ### Human: more ### Assistant:", ("### Assistant", "### Human")) == "Yes."
    assert cut_at_stop(" Yes. ", ("### Human",)) == "Yes."


def test_the_papers_prompt_and_the_chat_template(base: LoadedBase) -> None:
    dialogue = [("user", "a"), ("assistant", "b"), ("user", "c")]
    text = f"{SYSTEM_SENTENCE} ### Human: a ### Assistant: b ### Human: c ### Assistant:"
    assert human_text(dialogue) == text
    tokenizer = base.tokenizer
    assert tokenizer.decode(encode_dialogue(tokenizer, dialogue, PromptFormat.auto)) == text
    with pytest.raises(ValueError, match="no chat template"):
        encode_dialogue(tokenizer, dialogue, PromptFormat.chat)


def test_split_dialogue_reads_open_assistants_inputs() -> None:
    text = "### Human: a\nb ### Assistant: c ### Human: d ### Assistant:"
    assert split_dialogue(text) == [("user", "a\nb"), ("assistant", "c"), ("user", "d")]
    assert split_dialogue("no turns") == []


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (['{"question_id": 1, "text": ""}'], "line 1: text is"),
        (['{"question_id": 1, "text": "a"}', '{"text": "a"}'], "line 2: question_id is None"),
        (['{"question_id": 1, "text": "a"}'] * 2, "line 2: question_id 1 was there before"),
        (['{"question_id": 1, "input": "### Assistant: hm"}'], "line 1: has neither text nor turns"),
        (["{"], "line 1: not JSON"),
        ([""], "holds no questions"),
    ],
)
def test_bad_question_files_are_named(tmp_path: Path, rows: list[str], message: str) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(rows))
    with pytest.raises(ValueError, match=message):
        load_open_questions(str(path))


def test_embedded_and_reference_questions_load() -> None:
    embedded = load_open_questions("embedded", limit=3)
    assert [question.question_id for question in embedded] == ["1", "2", "3"]
    folder = Path(__file__).resolve().parents[5] / "shared" / "data" / "questions"
    if not folder.is_dir():
        pytest.skip("no reference data beside this checkout")
    assert len(load_open_questions(str(folder / "vicuna_questions.jsonl"))) == 80
    dialogues = load_open_questions(str(folder / "oa_questions.jsonl"))
    assert len(dialogues) == 953
    assert sum(bool(question.history) for question in dialogues) == 436  # with earlier turns, as the paper has it


@pytest.mark.parametrize(
    ("key", "value"), [("max_new_tokens", 0), ("temperature", 0.0), ("top_p", 1.5), ("stop", ("",)), ("num_slots", 0)]
)
def test_settings_are_checked(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=key):
        GenerateSettings(**{key: value})  # type: ignore[arg-type]
