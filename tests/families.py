"""A tiny config of each family that trains and scores exactly, with what makes it differ set to values that show.

`FAMILIES` are tried by the fast tests, `MORE_FAMILIES` by one slow one.
"""

from typing import Any

import torch
from transformers import (
    AutoConfig,
    BloomConfig,
    CodeGenConfig,
    Cohere2Config,
    CohereConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTBigCodeConfig,
    GPTJConfig,
    GPTNeoXConfig,
    GraniteConfig,
    Lfm2Config,
    LlamaConfig,
    MistralConfig,
    MptConfig,
    NemotronConfig,
    Olmo2Config,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    RecurrentGemmaConfig,
    StableLmConfig,
    Starcoder2Config,
)

SIZES: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED: dict[str, Any] = SIZES | {"num_key_value_heads": 2}
_GEMMA: dict[str, Any] = GROUPED | {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 4}
_LAYERS = ["sliding_attention", "full_attention"]
_OLD: dict[str, Any] = {
    "vocab_size": 100,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_FALCON: dict[str, Any] = {key: value for key, value in SIZES.items() if key != "intermediate_size"}

PACKED_FAMILIES: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**GROUPED),
    "qwen2": Qwen2Config(**GROUPED),
    "qwen3": Qwen3Config(**GROUPED, head_dim=8),
    "mistral": MistralConfig(**GROUPED, sliding_window=4),
    "phi": PhiConfig(**SIZES, resid_pdrop=0.1, embd_pdrop=0.1),
    "phi3": Phi3Config(**GROUPED, resid_pdrop=0.1),
    "gemma": GemmaConfig(**GROUPED, head_dim=8),
    "gemma3": Gemma3TextConfig(**_GEMMA, layer_types=_LAYERS),
    "granite": GraniteConfig(
        **GROUPED, logits_scaling=3.0, embedding_multiplier=2.0, residual_multiplier=0.5, attention_multiplier=0.3
    ),
    "cohere": CohereConfig(**GROUPED, logit_scale=0.2),
    "cohere2": Cohere2Config(**GROUPED, logit_scale=0.2, sliding_window=4, layer_types=_LAYERS),
    "olmo2": Olmo2Config(**GROUPED),
    "starcoder2": Starcoder2Config(**GROUPED, residual_dropout=0.1, embedding_dropout=0.1, attention_dropout=0.1),
    "gpt_neox": GPTNeoXConfig(**SIZES, hidden_dropout=0.1),
    "gpt2": GPT2Config(**_OLD),
    "gpt_bigcode": GPTBigCodeConfig(**_OLD),
    "opt": OPTConfig(
        vocab_size=100,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=64,
        word_embed_proj_dim=16,
        do_layer_norm_before=False,
        layerdrop=0.1,
    ),
}
PADDED_FAMILIES: dict[str, PretrainedConfig] = {
    "gemma2": Gemma2Config(**_GEMMA, final_logit_softcapping=2.0, attn_logit_softcapping=2.0),
    "stablelm": StableLmConfig(**GROUPED, hidden_dropout=0.1),
    "falcon": FalconConfig(**_FALCON, hidden_dropout=0.1),
    "falcon_new": FalconConfig(**_FALCON, num_kv_heads=2, new_decoder_architecture=True),
    "falcon_alibi": FalconConfig(**_FALCON, alibi=True, parallel_attn=False, bias=True, attention_dropout=0.1),
    "gptj": GPTJConfig(**_OLD, rotary_dim=4),
    "codegen": CodeGenConfig(**_OLD, rotary_dim=4),
    "bloom": BloomConfig(vocab_size=100, hidden_size=32, n_layer=2, n_head=4, hidden_dropout=0.1),
    "mpt": MptConfig(
        vocab_size=100, d_model=32, n_layers=2, n_heads=4, attn_config={"attn_pdrop": 1}
    ),  # an integer by its type
    "nemotron": NemotronConfig(**GROUPED),
    "lfm2": Lfm2Config(**GROUPED, layer_types=["conv", "full_attention"]),
    "recurrent_gemma": RecurrentGemmaConfig(
        **SIZES,
        lru_width=32,
        head_dim=8,
        attention_window_size=4,
        block_types=("recurrent", "attention"),
        logits_soft_cap=2.0,
    ),
}
FAMILIES = PACKED_FAMILIES | PADDED_FAMILIES

_WINDOWS: dict[str, Any] = GROUPED | {"sliding_window": 4, "layer_types": _LAYERS}
_MULTIPLIERS: dict[str, Any] = {
    "logits_scaling": 3.0,
    "embedding_multiplier": 2.0,
    "residual_multiplier": 0.5,
    "attention_multiplier": 0.3,
}
_LATENT: dict[str, Any] = {
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
}
_MORE_PACKED: dict[str, dict[str, Any]] = {
    "apertus": GROUPED,
    "arcee": GROUPED,
    "biogpt": SIZES,
    "bitnet": GROUPED,
    "ctrl": _OLD | {"dff": 64},
    "cwm": _WINDOWS,
    "diffllama": GROUPED,
    "ernie4_5": GROUPED | {"use_bias": True},
    "exaone4": _WINDOWS,
    "gemma4_text": _GEMMA
    | {
        "layer_types": _LAYERS,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": 100,
        "global_head_dim": 16,
    },
    "glm": GROUPED | {"head_dim": 8},
    "glm4": GROUPED | {"head_dim": 8},
    "helium": GROUPED | {"head_dim": 8},
    "hunyuan_v1_dense": GROUPED | {"head_dim": 8},
    "hyperclovax": GROUPED | _MULTIPLIERS,
    "internlm3": GROUPED | {"head_dim": 8},
    "iquestcoder": GROUPED,
    "jais2": GROUPED,
    "minicpm3": SIZES | _LATENT | {"dim_model_base": 8},
    "ministral": _WINDOWS | {"head_dim": 8},
    "ministral3": GROUPED | {"head_dim": 8},
    "nanochat": GROUPED | {"final_logit_softcapping": 2.0},
    "olmo": GROUPED | {"clip_qkv": 0.5},
    "olmo3": _WINDOWS,
    "persimmon": SIZES,
    "seed_oss": GROUPED | {"head_dim": 8},
    "smollm3": GROUPED | {"no_rope_layers": [0, 1]},
}
_MORE_PADDED: dict[str, dict[str, Any]] = {
    "gpt_neo": {
        **_OLD,
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 4,
    },
    "gpt_neox_japanese": SIZES,
    "granite_swa": _WINDOWS | _MULTIPLIERS,
    "lfm3": GROUPED | {"layer_types": ["conv", "full_attention"], "head_dim": 8},
    "openai-gpt": _OLD,
    "vaultgemma": _GEMMA | {"layer_types": _LAYERS, "final_logit_softcapping": 2.0, "attn_logit_softcapping": 2.0},
    "xglm": {**SIZES, "d_model": 32, "ffn_dim": 64, "num_layers": 2, "attention_heads": 4},
}
MORE_PACKED = {name: AutoConfig.for_model(name, **values) for name, values in _MORE_PACKED.items()}
MORE_PADDED = {name: AutoConfig.for_model(name, **values) for name, values in _MORE_PADDED.items()}
MORE_FAMILIES = MORE_PACKED | MORE_PADDED


def draw_weights(model: PreTrainedModel) -> PreTrainedModel:
    """With values that tell tokens apart, in biases and norms too."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "A_log" not in name and "dt_proj" not in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2 + 0.5 * ("norm" in name)
    return model.eval()
