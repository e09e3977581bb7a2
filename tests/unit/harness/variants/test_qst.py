"""QST's side network: the base's function at step 0, no graph through the base, and it learns."""

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, LlamaConfig

from harness.variants.qst import SideNetwork, keeping


def _base():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return AutoModelForCausalLM.from_config(config).eval()


def _run(base, side, ids):
    with keeping(base) as kept:
        last = base.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
    return kept, base.lm_head(side(kept, last))


@pytest.mark.parametrize("down_rank", [0, 2])
def test_the_base_at_step_0_then_it_learns_without_a_graph_through_the_base(down_rank):
    base = _base()  # its parameters ask for gradients, so that a graph through them would show
    side = SideNetwork(base, reduction=4, down_rank=down_rank)
    ids = torch.arange(1, 9)[None]
    own = base(input_ids=ids).logits
    optimizer, losses = torch.optim.Adam(side.parameters(), lr=0.01), []
    for step in range(8):
        kept, logits = _run(base, side, ids)
        if step == 0:
            assert torch.equal(logits, own)
        assert all(not hidden.requires_grad for hidden in kept.hidden)
        loss = functional.cross_entropy(logits[0, :-1], ids[0, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert all(parameter.grad is None for parameter in base.get_decoder().parameters())
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in side.parameters())
    assert losses[-1] < losses[0]


def test_later_tokens_are_not_seen():
    base = _base()
    side = SideNetwork(base, reduction=4)
    side.alpha.data.zero_()
    ids = torch.arange(1, 9)[None]
    assert torch.allclose(_run(base, side, ids)[1][:, :5], _run(base, side, ids[:, :5])[1], atol=1e-5)


@pytest.mark.parametrize("reduction", [1, 3, 8])
def test_a_reduction_that_leaves_no_even_heads_is_refused(reduction):
    with pytest.raises(ValueError, match=r"adapter\.reduction"):
        SideNetwork(_base(), reduction=reduction)


def test_as_many_numbers_as_its_parts_have():
    side = SideNetwork(_base(), reduction=4)  # width 8, inner width 16, heads of 2, half as many of keys and values
    block = 8 * 8 + 2 * 4 * 8 + 8 * 8 + 3 * 8 * 16 + 2 * 8
    assert sum(p.numel() for p in side.parameters()) == 2 * (block + 32 * 8 + 8) + 8 + 8 * 32 + 1
