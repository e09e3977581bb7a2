"""A tiny LLaMA checkpoint with a trained tokenizer: real formats at test size."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEXT = [
    "Give three tips for staying healthy. Eat well, sleep well, move often.",
    "What is the capital of France? The capital of France is Paris.",
    "### Human: Hello! ### Assistant: Hello, how can I help you today?",
    "The following are multiple choice questions (with answers) about astronomy. Answer: A B C D",
]
VOCAB_SIZE = 384


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE of a few hundred tokens with LLaMA's special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT * 3, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", model_max_length=2048
    )


def tiny_config(seed: int = 0) -> LlamaConfig:
    """Two layers, grouped-query attention, untied output layer."""
    return LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=32 + 32 * (seed % 2),
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        initializer_range=0.2,  # large enough for the frozen output layer to tell tokens apart
        bos_token_id=1,
        eos_token_id=2,
    )


def make_checkpoint(folder: Path, seed: int = 0) -> Path:
    """Writes config, random float32 weights and tokenizer to `folder`."""
    torch.manual_seed(seed)
    LlamaForCausalLM(tiny_config(seed)).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder
