"""Tiny RoBERTa and T5 checkpoints with trained tokenizers, and rows in the published fields of GLUE and Super-NI.

The rows are written by hand for these tests; none is taken from the datasets.
"""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

VOCAB_SIZE = 400
ROBERTA_SPECIALS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
T5_SPECIALS = ["<pad>", "</s>", "<unk>"]
WORDS = ("red", "blue", "green", "warm", "cold", "tall", "small", "quiet")


def _trained(specials: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [row["sentence1"] for row in glue_mrpc_rows(24)] + [row["definition"] for row in super_ni_rows(2)]
    tokenizer.train_from_iterator(texts * 3, trainer)
    return tokenizer


def make_roberta(folder: Path, seed: int = 0, width: int = 32) -> Path:
    """A masked-language model, as the published one is: its classification head starts fresh."""
    trained = json.loads(_trained(ROBERTA_SPECIALS).to_str())["model"]
    merges = [tuple(pair) for pair in trained["merges"]]
    tokenizer = RobertaTokenizerFast(vocab=trained["vocab"], merges=merges, model_max_length=64)
    torch.manual_seed(seed)
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=66,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )
    RobertaForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_t5(folder: Path, seed: int = 0) -> Path:
    """T5 v1.1 (gated, untied)."""
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=_trained(T5_SPECIALS), eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    torch.manual_seed(seed)
    more: dict[str, Any] = {"tie_word_embeddings": False, "decoder_start_token_id": 0}
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        pad_token_id=0,
        eos_token_id=1,
        **more,
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def glue_mrpc_rows(count: int) -> list[dict[str, Any]]:
    """In the fields of nyu-mll/glue, mrpc: the second sentence repeats the first, or names another thing."""
    rows: list[dict[str, Any]] = []
    for number in range(count):
        word, other = WORDS[number % len(WORDS)], WORDS[(number + 3) % len(WORDS)]
        label = number % 2
        rows.append(
            {
                "sentence1": f"The house is {word}.",
                "sentence2": f"The house is {word if label else other}.",
                "label": label,
                "idx": number,
            }
        )
    return rows


def super_ni_rows(count: int, num_tasks: int = 2) -> list[dict[str, Any]]:
    """In the fields of jayelm/natural-instructions: one row a reference, so that rows repeat an `id`."""
    rows: list[dict[str, Any]] = []
    for number in range(count):
        task, word = f"task{number % num_tasks:03}_say_it", WORDS[number % len(WORDS)]
        for target in (word, f"the word {word}")[: 1 + number % 2]:
            rows.append(
                {
                    "task_name": task,
                    "id": f"{task}-{number}",
                    "definition": "Repeat the word that you are given",
                    "inputs": f"Say {word}",
                    "targets": target,
                    "pos_0_input": "Say grey",
                    "pos_0_output": "grey",
                    "pos_0_explanation": "It is the word.",
                    "pos_1_input": "Say white",
                    "pos_1_output": "white",
                    "pos_1_explanation": "It is the word.",
                    "neg_0_input": "Say black",
                    "neg_0_output": "hello",
                    "neg_0_explanation": "It is another word.",
                    "eval": True,
                }
            )
    return rows
