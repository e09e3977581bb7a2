"""Adapters for models whose attention can't be packed (BLOOM's own, with ALiBi): padded batches instead.

The same `AdapterBank`, same members, same dropout by key; only the base's forward pass sees a padded batch with
an attention mask. `packable` tells the two kinds of model apart when a base is loaded.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PretrainedConfig

from harness.adapters import AdapterBank
from harness.attention import AttentionPlan
from harness.segments import Segment

UNPACKABLE = frozenset({"bloom"})  # model types that ignore transformers' attention interface


def packable(config: PretrainedConfig) -> bool:
    """Whether a model's attention goes through transformers' interface, and so can be given packed rows."""
    return config.model_type not in UNPACKABLE


class PaddedAdapterBank(AdapterBank):
    """An `AdapterBank` whose rows are padded on the right, one sequence a row."""

    def forward(
        self,
        input_ids_1N: Tensor,
        segments: Sequence[Segment],
        position_ids_1N: Tensor | None = None,
        plan: AttentionPlan | None = None,
    ) -> Tensor:
        """As `AdapterBank.forward`, for whole sequences only.

        Raises:
            ValueError: a plan other than the default; shared prefixes and decoding need packed attention.
        """
        if plan is not None:
            raise ValueError(
                f"{type(self.base).__name__}: its attention can't share prefixes or decode from a cache here"
            )
        lengths = [segment.num_tokens for segment in segments]
        longest = max(lengths)
        ids = torch.zeros(len(lengths), longest, dtype=torch.long, device=input_ids_1N.device)
        real = torch.arange(longest, device=ids.device)[None, :] < torch.tensor(lengths, device=ids.device)[:, None]
        ids[real] = input_ids_1N[0]
        self.begin_row(segments, stride=longest)
        decoder = self.base.get_decoder()  # type: ignore[operator]
        out = decoder(input_ids=ids, attention_mask=real.long(), use_cache=False)
        hidden: Tensor = out.last_hidden_state[real][None]
        return hidden
