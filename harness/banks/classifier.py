"""A classifier with one adapter and a trained head, or with every weight trained: RoBERTa on GLUE, causal models too.

An item's `label` is its one target. The head starts fresh from the member's seed, stays in 16/32 bits and is saved
with the adapter (PEFT's `modules_to_save`). With one class the label is a number, and the loss its squared error, as
in transformers (STS-B). A causal model is read at its last token ("label-supervised"
finetuning, arXiv 2310.01208). Source of the recipe: QLoRA section 4, GLUE with RoBERTa-large.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForSequenceClassification

from harness.banks.adapters.layers import HEADS
from harness.banks.adapters.loading import read_tensors
from harness.banks.owned import OwnedBank
from harness.data.labels import REGRESSION
from harness.models.reading import OnTheWay, read_config, read_model
from harness.nn.batch import Item, pad, padded_batches
from harness.nn.rows import its_own_errors, trial_sequences
from harness.runs.adapter_files import ADAPTER_CONFIG, MODEL_CONFIG, tensor_shapes


class ClassifierBank(OwnedBank):
    """A bank of one member over a classifier of its own.

    Args:
        args: as for `OwnedBank`.
        num_labels: classes of the head; None takes the checkpoint's own number. A saved member brings its own.
    """

    task_type = "SEQ_CLS"
    head_names = frozenset(HEADS)  # parts of the names of tensors that are no adapter's

    def __init__(self, *args: Any, num_labels: int | None = None) -> None:
        super().__init__(*args)
        self.num_labels = num_labels

    def read(self, folder: Path, dtype: torch.dtype, device: torch.device, on_the_way: OnTheWay | None) -> nn.Module:
        labels = {} if self.num_labels is None else {"num_labels": self.num_labels}
        model: nn.Module = read_model(
            AutoModelForSequenceClassification,
            folder,
            read_config(folder, **labels),
            dtype,
            device,
            on_the_way=on_the_way,
            fresh=HEADS,  # one of another size in the checkpoint gives way, too
        )
        return model

    def _take(self, model: nn.Module) -> None:
        """Raises ValueError for a model whose scores in a batch are not its own."""
        super()._take(model)
        with self._evaluating():
            with its_own_errors(model, self.folder):
                ours_BC, own_BC = self._trial_scores()
            self._require_own(ours_BC, own_BC)

    def _trial_scores(self) -> tuple[Tensor, Tensor]:
        """-> logits of two sequences in a batch, and of each alone by the model's own `forward`"""
        sequences = trial_sequences(self.model)
        own_BC = torch.cat([self.model(input_ids=ids_1T).logits.float() for ids_1T in sequences])
        items = [
            Item(member="", tokens=ids_1T[0].cpu().numpy().astype(np.int32), num_source=0, dropout_key=0, weight=1.0)
            for ids_1T in sequences
        ]
        return self._batch_logits(items), own_BC

    def load_member(self, name: str, folder: Path) -> None:
        """Reads what `save_member` wrote, the head with its number of classes included."""
        before = self.num_labels
        self.num_labels = _saved_labels(folder) or before
        try:
            super().load_member(name, folder)
        except ValueError:
            self.num_labels = before
            raise

    @property
    def has_trained_head(self) -> bool:
        """Whether the head was trained: a member is in, or the checkpoint itself was trained to classify."""
        if self.configs:
            return True
        saved = json.loads((self.folder / "config.json").read_text())
        return any(name.endswith("ForSequenceClassification") for name in saved.get("architectures") or [])

    def item_losses(self, items: Sequence[Item]) -> Tensor:
        """-> negative log-likelihood, or squared error, of every item's label, in their order, [items] float32.

        Raises:
            ValueError: an item without a label, or one that the head has no class for.
        """
        num_labels = self.base.config.num_labels
        for item in items:
            if item.label is None or (num_labels > REGRESSION and not 0 <= item.label < num_labels):
                raise ValueError(
                    f"label {item.label}: a classifier's rows need one from 0 to {num_labels - 1}; check the dataset, "
                    "or the number of classes"
                )
        logits_BC = self.label_logits(items)
        labels_B = torch.tensor([item.label for item in items], device=self.device, dtype=torch.float32)
        if num_labels == REGRESSION:
            return functional.mse_loss(logits_BC[:, 0], labels_B, reduction="none")
        return functional.cross_entropy(logits_BC, labels_B.long(), reduction="none")

    def label_logits(self, items: Sequence[Item]) -> Tensor:
        """-> scores of the classes, [items, classes] float32, in the items' order."""
        logits: dict[int, Tensor] = {}
        for batch in padded_batches([len(item.tokens) for item in items]):
            with self._drawing(items[batch[0]].dropout_key + 1):
                logits.update(zip(batch, self._batch_logits([items[i] for i in batch]), strict=True))
        return torch.stack([logits[i] for i in range(len(items))])

    def _batch_logits(self, items: Sequence[Item]) -> Tensor:
        model = self.base
        fill = model.config.pad_token_id
        ids_BT, mask_BT = pad([item.tokens for item in items], 0 if fill is None else fill, self.device)
        if not hasattr(model, "score"):
            logits: Tensor = model(input_ids=ids_BT, attention_mask=mask_BT).logits
            return logits.float()
        # transformers finds the last token by the padding's id, which a causal model's EOS often shares
        hidden_BTD = model.get_decoder()(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).last_hidden_state
        last_BD = hidden_BTD[torch.arange(len(items)), mask_BT.sum(1) - 1]
        scores: Tensor = model.score(last_BD)
        return scores.float()


def _saved_labels(folder: Path) -> int | None:
    """The number of classes of a saved head: rows of its last layer (`classifier.out_proj` comes after `dense`)."""
    if (folder / ADAPTER_CONFIG).is_file():
        shapes = tensor_shapes(folder) or {key: tuple(value.shape) for key, value in read_tensors(folder).items()}
        names = [key for key in shapes if key.endswith(".weight") and ".lora_" not in key]
        heads = sorted(key for key in names if set(HEADS) & set(key.split(".")))
        return shapes[heads[-1]][0] if heads else None
    if (folder / MODEL_CONFIG).is_file():
        return len(json.loads((folder / MODEL_CONFIG).read_text()).get("id2label") or {}) or None
    return None
