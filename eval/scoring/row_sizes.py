"""Decides by the free memory how many tokens a pass of an evaluation takes and keeps, and less after a failure.

    sizes = row_sizes(base.bank, row_tokens=None)
    backoff = Backoff(sizes.row_tokens, base.bank.device, "prompt", "shorten it")
    for batch, scores in backoff.in_batches(waiting, next_batch, score, smallest=len): ...

Rows on a CPU have a fixed size, so that results don't depend on what else the machine does; on other devices they
follow the free memory, up to what keeps the matrix products busy. The estimates are of a pass without gradients, by
the model's own configuration; what they miss, `Backoff` mends: it halves the size where a device has no room, as
training does, and asks for the same work again.
"""

import gc
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from harness.devices.memory import free_bytes, is_out_of_memory, release_cached

ROW_TOKENS = {"cpu": 1024, "cuda": 16_384}  # of a flat row: enough to keep matrix products busy
PREFILL_TOKENS = {"cpu": 1024, "cuda": 8192}  # of a packed row of new prompts
MAX_SLOTS = 32  # sequences decoded at once; more cost more time a token than they bring
PREFIX_ROWS = 8  # rows of tokens whose keys and values are kept for prompts that begin alike, at most
_OTHER = 1024  # on any other device
_MIN_ROW_TOKENS = 128
_PASS_SHARE = 0.25  # of the free memory, for what lives during a pass
_KEPT_SHARE = 0.6  # for keys and values that are kept from pass to pass

P = TypeVar("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSizes:
    """Tokens of a pass, and of the keys and values that fit beside it."""

    row_tokens: int
    kept_tokens: int


def row_sizes(bank: Any, row_tokens: int | None = None, usual: dict[str, int] | None = None) -> RowSizes:
    """The sizes that fit into the memory that is free now.

    Args:
        bank: with its base loaded.
        row_tokens: what the user wants; None: by device and free memory.
        usual: tokens of a row by device type, where memory is plenty; default: `ROW_TOKENS`.
    """
    device: torch.device = bank.device
    free, share = free_bytes(device), float(getattr(bank, "beside_share", 0))
    if row_tokens is None:
        row_tokens = (usual or ROW_TOKENS).get(device.type, _OTHER)
        if device.type != "cpu":
            fitting = int(_PASS_SHARE * free) // (pass_token_bytes(bank.base) + _states_bytes(bank.base, share))
            row_tokens = min(row_tokens, max(fitting, _MIN_ROW_TOKENS))
    kept_bytes = int(kept_token_bytes(bank.base) * (1 + share))
    return RowSizes(row_tokens=row_tokens, kept_tokens=int(_KEPT_SHARE * free) // kept_bytes)


def _states_bytes(base: nn.Module, share: float) -> int:
    """Bytes of what a side network keeps of one token: each layer's states at this share of their width."""
    return int(share * sum(config.hidden_size for config in _layer_configs(base)) * _element_bytes(base))


def kept_token_bytes(base: nn.Module) -> int:
    """Bytes of the keys and values of one token, in all layers."""
    return int(2 * sum(_kept_width(config) for config in _layer_configs(base)) * _element_bytes(base))


def _kept_width(config: Any) -> int:
    """Elements of one token's keys in a layer; of a layer without heads (a recurrent one) those of its state."""
    heads: int | None = getattr(config, "num_attention_heads", None)
    if not heads:
        return int(config.hidden_size)
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return int((getattr(config, "num_key_value_heads", None) or heads) * size)


def pass_token_bytes(base: nn.Module) -> int:
    """Bytes that one token takes at the worst moment of a pass without gradients.

    In the feed-forward part: the residual stream and its normed copy, float32 copies of both, gate, up, their product
    and an adapter's part of the widest.
    """
    layers = _layer_configs(base)
    hidden = layers[0].hidden_size
    inner = max(getattr(c, "intermediate_size", None) or getattr(c, "ffn_dim", None) or 4 * hidden for c in layers)
    return int((6 * hidden + 4 * inner) * _element_bytes(base) + 2 * 4 * hidden)


def _layer_configs(base: nn.Module) -> list[Any]:
    """The config of each layer of the decoder: heads and widths may differ (Gemma 4)."""
    whole: Any = base.config
    config = whole.get_text_config(decoder=True)
    return [config.per_layer_config[layer] for layer in range(config.num_hidden_layers)]


def _element_bytes(base: nn.Module) -> int:
    """Bytes of an element in the compute dtype, which the embeddings have however other layers are stored."""
    return int(base.get_input_embeddings().weight.element_size())  # type: ignore[operator]


class Backoff:
    """A size of work, in any unit, that is halved each time a device has no room for it.

    Args:
        size: to begin with.
        device: where the work is done.
        unit: what the smallest piece is, as "sequence".
        remedy: what the user can do where even the smallest piece doesn't fit; a clause.
    """

    def __init__(self, size: int, device: torch.device, unit: str, remedy: str) -> None:
        self.size = max(1, size)
        self.num_halvings = 0
        self._device, self._unit, self._remedy = device, unit, remedy

    def run(self, work: Callable[[int], T], smallest: int, give_up: Callable[[], None] | None = None) -> T:
        """Does a piece of work of at most `size`, a smaller one where that doesn't fit.

        Args:
            work: is given the size; changes nothing that a second call would have to undo, or `give_up` undoes it.
            smallest: what the piece can't be less than, as the tokens of one sequence.
            give_up: called after a failure, before the next try: drops what the device can do without.

        Raises:
            torch.OutOfMemoryError: the smallest piece doesn't fit; names what is free and the remedy.
        """
        while True:
            try:
                return work(self.size)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = str(error).splitlines()[0]
            # beyond the handler the failed pass's tensors, which the error's traceback holds, are free
            if give_up is not None:
                give_up()
            self._make_smaller(smallest, reason)

    def in_batches(
        self,
        waiting: deque[P],
        next_batch: Callable[[Sequence[P], int], list[P]],
        work: Callable[[list[P]], T],
        smallest: Callable[[P], int],
        give_up: Callable[[], None] | None = None,
    ) -> Iterator[tuple[list[P], T]]:
        """Works through what waits, the first ones first.

        Args:
            waiting: emptied as batches are done.
            next_batch: the first ones of those that wait which make a piece of about a size; one at least.
            work: a batch's result; is called again, with a smaller batch, where the device had no room.
            smallest: the size of a batch that is this one alone.
            give_up: as for `run`.

        Yields:
            Each batch and its result, as they are done.
        """

        def work_next(size: int) -> tuple[list[P], T]:
            batch = next_batch(waiting, size)
            return batch, work(batch)

        while waiting:
            batch, result = self.run(work_next, smallest(waiting[0]), give_up)
            for _ in batch:
                waiting.popleft()
            yield batch, result

    def _make_smaller(self, smallest: int, reason: str) -> None:
        gc.collect()
        release_cached(self._device)
        if self.size <= smallest:
            raise torch.OutOfMemoryError(
                f"{reason}; {free_bytes(self._device) / 2**30:.1f} GiB of {self._device} are free beside the model, "
                f"too few for one {self._unit} of this evaluation: {self._remedy}, load the model in fewer bits "
                "(quant=nf4), or end other processes on the device"
            )
        self.size = max(self.size // 2, smallest)
        self.num_halvings += 1
