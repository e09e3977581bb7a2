"""Times our answers beside `model.generate` one prompt at a time: the same greedy texts, in turns A B A B.

    python -m benchmarks.evaluation.generation --prompts 32 --max-new-tokens 128
    python -m benchmarks.evaluation.generation --adapters 4      # four adapters in one batch beside one

SmolLM2 in float32 on 2 threads, chat-templated prompts of mixed length (the embedded open prompts, each
third with a longer dialogue before it). Prints seconds, tokens a second, the ratio and how many texts are equal.
Records: benchmarks/results/mmlu-cpu-*.md.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from benchmarks.evaluation.mmlu import PLAIN, Seconds, add_adapters, smollm2
from eval.answers.dialogue import encode_dialogue
from eval.answers.generate import Request, generate
from eval.answers.prompt_format import PromptFormat
from eval.answers.questions import load_open_questions
from eval.answers.sequences import Decoded
from eval.answers.settings import GenerateSettings
from harness.banks.load import LoadedBase, load_base
from harness.models.convert import checkpoint_folder


def main() -> None:
    """Times both sides in turn, or several adapters in one batch, and prints the record."""
    options = parse_options()
    torch.set_num_threads(options.threads)
    source, cache = smollm2(options.cache), Path(options.cache)
    base = load_base(source, PLAIN, torch.device("cpu"), cache)
    settings = GenerateSettings(max_new_tokens=options.max_new_tokens, greedy=True, stop=(), num_slots=options.slots)
    prompts = mixed_prompts(base, options.prompts)
    print(json.dumps({"prompts": len(prompts), "prompt_tokens": sorted(map(len, prompts))}))
    if options.adapters:
        time_adapters(base, prompts, settings, options.adapters, options.repeats)
        return
    model = AutoModelForCausalLM.from_pretrained(checkpoint_folder(source, cache), dtype=torch.float32)
    for _ in range(options.repeats):
        ours_spent, ours = time_ours(base, [(None, prompt) for prompt in prompts], settings)
        theirs_spent, theirs = time_transformers(model, prompts, options.max_new_tokens)
        tokens = sum(map(len, theirs))
        line: dict[str, object] = {"ours": ours_spent.rounded(), "generate": theirs_spent.rounded()}
        line |= {
            "ratio_wall": theirs_spent.wall / ours_spent.wall,
            "ratio_cpu": theirs_spent.cpu / ours_spent.cpu,
            "ours_tokens_per_second": tokens / ours_spent.wall,
            "new_tokens": tokens,
            "equal_texts": sum(a == b for a, b in zip(ours, theirs, strict=True)),
            "of": len(prompts),
        }
        print(json.dumps(line), flush=True)


def parse_options() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--adapters", type=int, default=0, help="time so many adapters in one batch instead")
    parser.add_argument("--cache", default=".cache")
    return parser.parse_args()


def mixed_prompts(base: LoadedBase, count: int) -> list[list[int]]:
    """Chat prompts: every third with one earlier exchange, every fifth with three."""
    questions = load_open_questions("embedded")
    prompts = []
    for number in range(count):
        before = 3 if number % 5 == 0 else 1 if number % 3 == 0 else 0
        dialogue = []
        for step in range(before):
            earlier = questions[(number + step + 1) % len(questions)].turns[0]
            dialogue += [("user", earlier), ("assistant", f"That depends on the case. {earlier} " * 2)]
        dialogue.append(("user", questions[number % len(questions)].turns[0]))
        prompts.append(encode_dialogue(base.tokenizer, dialogue, PromptFormat.auto))
    return prompts


def time_ours(
    base: LoadedBase, jobs: list[tuple[str | None, list[int]]], settings: GenerateSettings
) -> tuple[Seconds, list[tuple[int, ...]]]:
    """Answers all prompts in one batch. -> seconds, and the new tokens of each prompt"""
    requests = [
        Request(system=str(member), member=member, question_id=str(number), prompt_tokens=prompt, seed=number)
        for number, (member, prompt) in enumerate(jobs)
    ]
    found: dict[str, tuple[int, ...]] = {}

    def keep(request: Request, text: str, decoded: Decoded) -> None:
        found[request.question_id] = decoded.tokens

    start = Seconds.now()
    generate(base, requests, settings, keep)
    return Seconds.now() - start, [found[str(number)] for number in range(len(jobs))]


def time_transformers(
    model: Any, prompts: list[list[int]], max_new_tokens: int
) -> tuple[Seconds, list[tuple[int, ...]]]:
    """Answers by `model.generate`, one prompt at a time. -> seconds, and the new tokens of each prompt"""
    texts = []
    start = Seconds.now()
    for prompt in prompts:
        tokens = torch.tensor([prompt])
        with torch.inference_mode():
            out = model.generate(
                tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=max_new_tokens, do_sample=False
            )
        new = out[0, len(prompt) :].tolist()
        texts.append(tuple(new[:-1] if new[-1] == model.generation_config.eos_token_id else new))
    return Seconds.now() - start, texts


def time_adapters(
    base: LoadedBase, prompts: list[list[int]], settings: GenerateSettings, count: int, repeats: int
) -> None:
    """The prompts for one adapter, then for `count` in one batch; decoding: what comes after the first tokens."""
    names = add_adapters(base, count)
    first_token = replace(settings, max_new_tokens=1)
    for _ in range(repeats):
        line: dict[str, object] = {}
        totals, decoding = [], []
        for members in (names[:1], names):
            jobs: list[tuple[str | None, list[int]]] = [(name, prompt) for name in members for prompt in prompts]
            slots = len(jobs)
            prefill, _ = time_ours(base, jobs, replace(first_token, num_slots=slots))
            spent, texts = time_ours(base, jobs, replace(settings, num_slots=slots))
            totals.append(spent)
            decoding.append(spent - prefill)
            line[f"{len(members)} adapters"] = {**spent.rounded(), "new_tokens": sum(map(len, texts))}
        line["ratio_wall"] = totals[1].wall / totals[0].wall
        line["ratio_wall_decoding"] = decoding[1].wall / decoding[0].wall
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
