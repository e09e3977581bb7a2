"""An encoder-decoder model (T5) with one adapter, or with every weight trained.

The encoder reads the source, and the decoder learns the target. T5 can't be packed (its relative
positions are counted within a row), so examples are sorted by length and padded in batches whose padded size stays
within the tokens of the row that the loop handed over.
An item's tokens are the source followed by the target; the source gets an EOS if it has none, as T5's own
tokenizer gives it. Source of the recipe: QLoRA section 4 (T5 on Super-NaturalInstructions); T5 (arXiv 1910.10683).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForSeq2SeqLM

from harness.banks.owned import OwnedBank
from harness.models.reading import OnTheWay, read_config, read_model
from harness.nn.batch import Item, Tokens, pad, padded_batches
from harness.nn.loss import target_losses, trained_head_losses
from harness.nn.rows import its_own_errors, trial_sequences

MODEL_TYPES = ("t5", "mt5", "umt5")  # others shift targets and bias logits in their own ways


class Seq2SeqBank(OwnedBank):
    """A bank of one member over a T5 of its own."""

    task_type = "SEQ_2_SEQ_LM"

    def read(self, folder: Path, dtype: torch.dtype, device: torch.device, on_the_way: OnTheWay | None) -> nn.Module:
        """Raises ValueError for an encoder-decoder that isn't a T5."""
        config = read_config(folder)
        if config.model_type not in MODEL_TYPES:
            raise ValueError(
                f"{folder}: model_type {config.model_type}; model.kind=seq2seq serves {', '.join(MODEL_TYPES)}"
            )
        model: nn.Module = read_model(AutoModelForSeq2SeqLM, folder, config, dtype, device, on_the_way=on_the_way)
        return model

    def _take(self, model: nn.Module) -> None:
        """Raises ValueError for a model whose losses in a batch are not its own."""
        super()._take(model)
        with self._evaluating():
            with its_own_errors(model, self.folder):
                ours_M, own_M = self._trial_losses()
            self._require_own(ours_M, own_M)

    def _trial_losses(self) -> tuple[Tensor, Tensor]:
        """-> losses of two pairs in a batch, and of each alone by the model's own `forward`"""
        pairs = [(part[0, :-3], part[0, -3:]) for part in trial_sequences(self.model)]
        own = []
        for source_S, target_T in pairs:
            ids_1S = (
                torch.from_numpy(self._with_eos(source_S.cpu().numpy().astype(np.int32))).long().to(self.device)[None]
            )
            logits_TV = self.model(input_ids=ids_1S, labels=target_T[None]).logits[0].float()
            own.append(functional.cross_entropy(logits_TV, target_T, reduction="none"))
        items = [
            Item(
                member="",
                tokens=torch.cat(pair).cpu().numpy().astype(np.int32),
                num_source=len(pair[0]),
                dropout_key=0,
                weight=1.0,
            )
            for pair in pairs
        ]
        sources = [self._source(item) for item in items]
        return torch.cat(list(self._batch_losses(sources, items))), torch.cat(own)

    def item_losses(self, items: Sequence[Item]) -> Tensor:
        """-> negative log-likelihood of every target token, in the items' order, [targets] float32.

        Raises:
            ValueError: an item without a source: the encoder has nothing to read.
        """
        losses: dict[int, Tensor] = {}
        sources = [self._source(item) for item in items]
        for batch in padded_batches([max(len(s), i.num_targets) for s, i in zip(sources, items, strict=True)]):
            with self._drawing(items[batch[0]].dropout_key + 1):
                parts = self._batch_losses([sources[i] for i in batch], [items[i] for i in batch])
            losses.update(zip(batch, parts, strict=True))
        return torch.cat([losses[i] for i in range(len(items))])

    @torch.no_grad()
    def generate(self, sources: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
        """Greedy decoding. -> the new tokens of each source, without the start token, EOS and padding.

        Raises:
            ValueError: logits that are NaN or infinite.
        """
        batch = [self._with_eos(np.asarray(source, dtype=np.int32)) for source in sources]
        input_ids, mask = pad(batch, self._pad, self.device)
        out = self.base.generate(
            input_ids=input_ids,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            logits_processor=[self._require_numbers],
        )
        special = (self._pad, self.base.config.eos_token_id)
        return [[token for token in row[1:].tolist() if token not in special] for row in out]

    def _batch_losses(self, sources: Sequence[Tokens], items: Sequence[Item]) -> Sequence[Tensor]:
        model = self.base
        source_BS, source_mask = pad(sources, self._pad, self.device)
        targets = [item.tokens[item.num_source :] for item in items]
        target_BT, target_mask = pad(targets, self._pad, self.device)
        start = torch.full_like(target_BT[:, :1], model.config.decoder_start_token_id)
        encoded = model.get_encoder()(input_ids=source_BS, attention_mask=source_mask)
        hidden_BTD = model.get_decoder()(
            input_ids=torch.cat([start, target_BT[:, :-1]], dim=1),  # what follows a target's end is not looked at
            encoder_hidden_states=encoded.last_hidden_state,
            encoder_attention_mask=source_mask,
            use_cache=False,
        ).last_hidden_state
        is_target_BT = target_mask.bool()
        hidden_MD = hidden_BTD[is_target_BT]
        if getattr(model.config, "scale_decoder_outputs", model.config.tie_word_embeddings):
            hidden_MD = hidden_MD * model.config.d_model**-0.5
        head = model.get_output_embeddings().weight
        head_losses = trained_head_losses if head.requires_grad else target_losses
        parts: Sequence[Tensor] = head_losses(hidden_MD, head, target_BT[is_target_BT]).split([len(t) for t in targets])
        return parts

    def _require_numbers(self, ids_BT: Tensor, logits_BV: Tensor) -> Tensor:
        """Called by `generate` before each token; refuses logits that are no numbers."""
        if not logits_BV.amax(dim=-1).isfinite().all():
            who = ", ".join([str(self.folder), *self.configs])
            raise ValueError(
                f"{who}: its logits are NaN or infinite after {ids_BT.shape[1] - 1} tokens of an answer, so it has no "
                "next token; its training diverged, a file is damaged, or the numbers are too large for its data type"
            )
        return logits_BV

    def _source(self, item: Item) -> Tokens:
        if item.num_source < 1:
            raise ValueError(
                "model.kind=seq2seq: an example without a source has nothing for the encoder; use a dataset with "
                "inputs, and dataset.train_on_source=false"
            )
        return self._with_eos(item.tokens[: item.num_source])

    def _with_eos(self, source: Tokens) -> Tokens:
        eos = self.base.config.eos_token_id
        return source if source[-1] == eos else np.append(source, np.int32(eos))

    @property
    def _pad(self) -> int:
        return int(self.base.config.pad_token_id or 0)
