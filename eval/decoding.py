"""How are many prompts, of several adapters, answered in one pass a token? Continuous batching over one base.

Prompts wait longest first; free slots are filled by prefilling several prompts in one packed row; each
pass then continues every active sequence by one token. A finished sequence leaves its slot at once.
A pass keeps the tokens of one member together, as the bank wants them. Memory: slots x (longest prompt +
its new tokens).

Source: continuous batching as in Orca (OSDI 2022). tests/unit/test_generate.py holds greedy texts against
transformers' `generate`, one prompt at a time.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from eval.sampling import greedy_tokens, nucleus_tokens
from harness.adapters import AdapterBank
from harness.attention import Decode, KeyValue, KeyValueCache, Packed
from harness.models import LoadedBase
from harness.segments import Segment

PREFILL_TOKENS = {"cpu": 1024, "cuda": 8192}  # of a packed row of new prompts

ShouldStop = Callable[[Sequence[int]], bool]  # of the tokens generated so far


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodingSettings:
    max_new_tokens: int
    greedy: bool
    temperature: float
    top_p: float
    num_slots: int  # sequences under way at once


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodingRequest:
    tokens: Sequence[int]  # the whole prompt
    member: str | None  # whose adapter answers; None: the untouched base
    seed: int = 0  # of this prompt's random stream


@dataclass(slots=True)
class _Sequence:
    """A request under way."""

    index: int  # of the request
    request: DecodingRequest
    generator: torch.Generator
    max_new_tokens: int
    new_tokens: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    index: int  # of the request
    tokens: tuple[int, ...]  # without the end-of-sequence token
    finish_reason: str  # eos, stop, length


def decode(
    base: LoadedBase,
    requests: Sequence[DecodingRequest],
    settings: DecodingSettings,
    eos_tokens: frozenset[int],
    should_stop: ShouldStop | None = None,
) -> Iterator[Decoded]:
    """Answers requests, in the order in which they finish.

    Args:
        base: with the requests' members in its bank.
        eos_tokens: any of them ends a sequence and is left out.
        should_stop: looked at after each token; a true one ends the sequence, the token included.

    Raises:
        ValueError: an empty prompt, or one that leaves no room for a token in the model's context.
    """
    waiting = deque(_sequences(base, requests, settings))
    if not waiting:
        return
    cache = KeyValueCache(
        num_slots=min(settings.num_slots, len(waiting)),
        max_tokens=max(len(s.request.tokens) + s.max_new_tokens for s in waiting),
    )
    ranks = {member: rank for rank, member in enumerate(dict.fromkeys(r.member for r in requests))}
    active: list[_Sequence] = []
    while waiting or active:
        with torch.inference_mode():
            if waiting and len(active) < cache.num_slots:
                started = _start(base.bank, waiting, cache, active, ranks, settings)
            else:
                started = active
                _step(base.bank, cache, active, ranks, settings)
            finished = _retire(cache, active, started, eos_tokens, should_stop)
        yield from finished


def _sequences(base: LoadedBase, requests: Sequence[DecodingRequest], settings: DecodingSettings) -> list[_Sequence]:
    found = []
    for index, request in enumerate(requests):
        room = base.max_length - len(request.tokens)
        if not request.tokens or room < 1:
            raise ValueError(
                f"request {index} has a prompt of {len(request.tokens)} tokens; this model's context of "
                f"{base.max_length} must hold it and an answer: shorten it, or leave it out"
            )
        generator = torch.Generator().manual_seed(request.seed)
        found.append(_Sequence(index, request, generator, min(settings.max_new_tokens, room)))
    return sorted(found, key=lambda s: -len(s.request.tokens))


def _start(
    bank: AdapterBank,
    waiting: deque[_Sequence],
    cache: KeyValueCache,
    active: list[_Sequence],
    ranks: dict[str | None, int],
    settings: DecodingSettings,
) -> list[_Sequence]:
    """Prefills as many waiting prompts as there are slots and room in a row, and picks their first tokens."""
    limit, total = PREFILL_TOKENS.get(bank.device.type, 1024), 0
    fresh: list[_Sequence] = []
    while waiting and len(active) + len(fresh) < cache.num_slots:
        total += len(waiting[0].request.tokens)
        if fresh and total > limit:
            break
        fresh.append(waiting.popleft())
    fresh.sort(key=lambda s: ranks[s.request.member])
    lengths = [len(s.request.tokens) for s in fresh]
    segments = [Segment(num_tokens=n, member=s.request.member) for n, s in zip(lengths, fresh, strict=True)]
    record: list[KeyValue] = []
    row = torch.tensor([token for s in fresh for token in s.request.tokens], device=bank.device)[None]
    hidden_1ND = bank(row, segments, plan=Packed(lengths, record=record))
    end = 0
    ends = []
    for sequence, length in zip(fresh, lengths, strict=True):
        cache.fill(len(active), record, slice(end, end + length))
        active.append(sequence)
        end += length
        ends.append(end - 1)
    _pick(bank.logits(hidden_1ND[0, ends]), fresh, settings)
    return fresh


def _step(
    bank: AdapterBank,
    cache: KeyValueCache,
    active: Sequence[_Sequence],
    ranks: dict[str | None, int],
    settings: DecodingSettings,
) -> None:
    """Continues every active sequence by one token; slot i holds `active[i]`."""
    slots = sorted(range(len(active)), key=lambda slot: ranks[active[slot].request.member])
    rows = [active[slot] for slot in slots]
    tokens = torch.tensor([[s.new_tokens[-1] for s in rows]], device=bank.device)
    positions = torch.tensor([[cache.lengths[slot] for slot in slots]], device=bank.device)
    segments = [Segment(num_tokens=1, member=s.request.member) for s in rows]
    hidden_1BD = bank(tokens, segments, position_ids_1N=positions, plan=Decode(cache, slots))
    for slot in slots:
        cache.lengths[slot] += 1
    _pick(bank.logits(hidden_1BD[0]), rows, settings)


def _pick(logits_BV: Tensor, rows: Sequence[_Sequence], settings: DecodingSettings) -> None:
    if settings.greedy:
        picked = greedy_tokens(logits_BV)
    else:
        picked = nucleus_tokens(logits_BV, [s.generator for s in rows], settings.temperature, settings.top_p)
    for sequence, token in zip(rows, picked, strict=True):
        sequence.new_tokens.append(token)


def _retire(
    cache: KeyValueCache,
    active: list[_Sequence],
    stepped: Sequence[_Sequence],
    eos_tokens: frozenset[int],
    should_stop: ShouldStop | None,
) -> list[Decoded]:
    """Takes finished sequences out; the last slot's sequence moves into a freed one."""
    reasons = {id(s): reason for s in stepped if (reason := _finish_reason(s, eos_tokens, should_stop))}
    finished = []
    for slot in range(len(active) - 1, -1, -1):
        sequence = active[slot]
        reason = reasons.get(id(sequence))
        if reason is None:
            continue
        last = active.pop()
        if last is not sequence:
            cache.move(len(active), slot)
            active[slot] = last
        tokens = sequence.new_tokens[:-1] if reason == "eos" else sequence.new_tokens
        finished.append(Decoded(index=sequence.index, tokens=tuple(tokens), finish_reason=reason))
    return finished


def _finish_reason(sequence: _Sequence, eos_tokens: frozenset[int], should_stop: ShouldStop | None) -> str | None:
    if sequence.new_tokens[-1] in eos_tokens:
        return "eos"
    if should_stop is not None and should_stop(sequence.new_tokens):
        return "stop"
    return "length" if len(sequence.new_tokens) >= sequence.max_new_tokens else None
