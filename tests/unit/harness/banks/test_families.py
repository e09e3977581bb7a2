"""Packed rows across architectures: what each model computes for a sequence alone, it computes in a row of many."""

from copy import deepcopy

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, MistralConfig, PretrainedConfig

from harness.banks.shared import AdapterBank, PaddedAdapterBank, packable
from harness.config.schema import AdapterConfig
from harness.nn.attention import PACKED
from harness.nn.batch import Segment
from tests.builders import FAMILIES, SIZES

LENGTHS = (5, 9, 7)


def make_bank(config: PretrainedConfig, like: torch.nn.Module) -> AdapterBank:
    packed = packable(config)
    attention = {"attn_implementation": PACKED} if packed else {}
    model = AutoModelForCausalLM.from_config(deepcopy(config), **attention)  # loading writes into the config
    model.load_state_dict(like.state_dict())
    bank = AdapterBank(model) if packed else PaddedAdapterBank(model)
    bank.eval()
    return bank


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_of_many_equals_each_alone(family: str) -> None:
    torch.manual_seed(0)
    plain = AutoModelForCausalLM.from_config(deepcopy(FAMILIES[family]), attn_implementation="eager").eval()
    bank = make_bank(FAMILIES[family], plain)
    rows = [torch.randint(3, 100, (1, length)) for length in LENGTHS]
    with torch.no_grad():
        alone = torch.cat([plain(row).logits[0] for row in rows])
        segments = [Segment(num_tokens=length, member=None) for length in LENGTHS]
        together = bank.logits(bank(torch.cat(rows, 1), segments)[0])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "bloom"])
def test_an_adapter_drops_out_alike_alone_and_in_company(family: str) -> None:
    torch.manual_seed(0)
    plain = AutoModelForCausalLM.from_config(deepcopy(FAMILIES[family]))
    bank = make_bank(FAMILIES[family], plain)
    bank.add_member("a", AdapterConfig(name="lora", lora_r=4, lora_dropout=0.3), seed=1)
    for name, parameter in bank.member_parameters("a").items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    bank.train()
    rows = [torch.randint(3, 100, (1, length)) for length in LENGTHS]
    segments = [Segment(num_tokens=length, member="a", dropout_key=i) for i, length in enumerate(LENGTHS)]
    with torch.no_grad():
        alone = torch.cat([bank(row, [segment])[0] for row, segment in zip(rows, segments, strict=True)])
        together = bank(torch.cat(rows, 1), segments)[0]
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_what_packed_rows_would_get_wrong_is_refused() -> None:
    window = MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=4)
    capped = Gemma2Config(**SIZES, num_key_value_heads=2, head_dim=8)
    for config, message in ((window, "sliding window of 4"), (capped, "caps its attention")):
        bank = AdapterBank(AutoModelForCausalLM.from_config(config, attn_implementation=PACKED))
        with pytest.raises(ValueError, match=message):
            bank(torch.randint(3, 100, (1, 9)), [Segment(num_tokens=9, member=None)])
