"""Decoding: shelves of like length, slots by free memory, one wait for the device a token, harmless failures."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from eval.answers import decoding
from eval.answers.decoding import decode
from eval.answers.key_value_cache import Decode, Prefill, Shelf, Slots
from eval.answers.sampling import TokenPicker, nucleus_tokens
from eval.answers.sequences import Decoded, DecodingRequest, DecodingSettings, uniform_numbers
from eval.scoring import row_sizes
from eval.scoring.row_sizes import kept_token_bytes
from harness.banks.load import LoadedBase, load_base
from harness.config.schema import AdapterConfig, DType, QuantConfig, QuantMethod
from harness.models.locate import ModelSource
from harness.nn.attention import Packed
from tests.tiny import VOCAB_SIZE, make_checkpoint

GREEDY = DecodingSettings(max_new_tokens=12, greedy=True, temperature=0.9, top_p=0.9)
SAMPLING = dataclasses.replace(GREEDY, greedy=False)
PLAIN = QuantConfig(name="none", method=QuantMethod.none, compute_dtype=DType.float32)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> LoadedBase:
    folder = make_checkpoint(tmp_path_factory.mktemp("tiny"))
    source = ModelSource(kind="folder", location=str(folder), revision="main", max_length=512)
    loaded = load_base(source, PLAIN, torch.device("cpu"), Path(folder))
    loaded.bank.add_member("tuned", AdapterConfig(name="lora", lora_r=3, lora_alpha=16), seed=3)
    torch.manual_seed(3)
    for parameter in loaded.bank.member_parameters("tuned").values():
        parameter.data.normal_(0, 0.2)
    return loaded


def requests(lengths: Sequence[int]) -> list[DecodingRequest]:
    rng = np.random.default_rng(0)
    return [
        DecodingRequest(
            tokens=rng.integers(3, VOCAB_SIZE, length).tolist(), member=("tuned", None)[place % 2], seed=place
        )
        for place, length in enumerate(lengths)
    ]


def run(base: LoadedBase, asked: Sequence[DecodingRequest], settings: DecodingSettings) -> dict[int, Decoded]:
    found: dict[int, Decoded] = {}
    for decoded in decode(base, asked, settings, frozenset()):
        assert decoded.index not in found
        found[decoded.index] = decoded
    assert sorted(found) == list(range(len(asked)))
    return found


@pytest.fixture
def shelves(monkeypatch: pytest.MonkeyPatch) -> list[Shelf]:
    """Every shelf that is made, in order."""
    made: list[Shelf] = []

    def keep(**options: Any) -> Shelf:
        made.append(Shelf(**options))
        return made[-1]

    monkeypatch.setattr(decoding, "Shelf", keep)
    return made


def test_one_long_prompt_does_not_widen_the_slots_of_short_ones(base: LoadedBase, shelves: list[Shelf]) -> None:
    asked = requests([400, *range(30, 61)])
    found = run(base, asked, GREEDY)
    assert [(s.num_slots, s.max_tokens) for s in shelves] == [(1, 412), (31, 72)]
    assert sum(s.num_tokens for s in shelves) < 32 * 412 / 4
    for place in (0, 7):
        assert run(base, [asked[place]], GREEDY)[0].tokens == found[place].tokens


def set_free(monkeypatch: pytest.MonkeyPatch, base: LoadedBase, tokens: int) -> None:
    """As much free memory as leaves the cache room for so many tokens."""
    free = int(tokens * kept_token_bytes(base.bank.base) / row_sizes._KEPT_SHARE) + 1
    monkeypatch.setattr(row_sizes, "free_bytes", lambda device: free)


def test_slots_follow_the_free_memory_unless_the_user_says_how_many(
    base: LoadedBase, shelves: list[Shelf], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = requests([20] * 40)
    whole = run(base, asked, GREEDY)
    assert [s.num_slots for s in shelves] == [32, 8]  # the first 32 end together
    for tokens, num_slots in ((5 * 32, 5), (31, 1)):  # a sequence takes 20 and 12 tokens; one is tried in any case
        shelves.clear()
        set_free(monkeypatch, base, tokens)
        assert {i: d.tokens for i, d in run(base, asked, GREEDY).items()} == {i: d.tokens for i, d in whole.items()}
        assert {s.num_slots for s in shelves} == {num_slots}
    shelves.clear()
    run(base, asked, dataclasses.replace(GREEDY, num_slots=7))
    assert [s.num_slots for s in shelves] == [7] * 5 + [5]


def test_what_is_under_way_never_takes_more_than_is_free(
    base: LoadedBase, shelves: list[Shelf], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_free(monkeypatch, base, 500)
    most = 0

    class Watched(decoding._Batch):
        def advance(self, *args: Any) -> Any:
            nonlocal most
            found = super().advance(*args)
            most = max(most, sum(shelf.cache.num_tokens for shelf in self.shelves))
            return found

    monkeypatch.setattr(decoding, "_Batch", Watched)
    asked = requests([200, 190, 180, *[15] * 20, 90, 80])
    found = run(base, asked, GREEDY)
    assert 300 < most <= 500
    for place in (0, 2, 12, 24):
        assert run(base, [asked[place]], GREEDY)[0].tokens == found[place].tokens


def streams_of_old(logits: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    return torch.stack([torch.rand(1, generator=generator, dtype=torch.float64) for generator in generators])[:, 0]


def test_random_numbers_are_those_of_a_generator_a_prompt_asked_once_a_token() -> None:
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 7)]
    ahead = torch.stack([uniform_numbers(seed, 100) for seed in (0, 7)])
    logits = torch.randn(2, VOCAB_SIZE, generator=torch.Generator().manual_seed(1)) * 3
    for place in range(100):
        one_by_one = streams_of_old(logits, generators)
        assert torch.equal(one_by_one, ahead[:, place])
        assert nucleus_tokens(logits, one_by_one, 0.7, 0.9)[1] == nucleus_tokens(logits, ahead[:, place], 0.7, 0.9)[1]


class Waits(TorchDispatchMode):
    """Counts what makes the host wait for a device, or sends it something."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = self.sends = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.reads += name in ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "unique")
        masked = name.startswith("index") and any(t is not None and t.dtype is torch.bool for t in _indices(args))
        self.reads += masked  # its result's size is known to the device only
        self.sends += name in ("lift_fresh", "lift_fresh_copy", "lift")  # torch.tensor of Python's numbers
        return func(*args, **(kwargs or {}))


def _indices(args: Any) -> Iterator[Tensor | None]:
    for arg in args:
        if isinstance(arg, (list, tuple)):
            yield from (found for found in arg if found is None or isinstance(found, Tensor))


@pytest.mark.parametrize("settings", [GREEDY, SAMPLING], ids=["greedy", "sampling"])
@pytest.mark.parametrize("num_rows", [2, 16])
def test_the_host_waits_for_the_device_once_a_token(
    base: LoadedBase, settings: DecodingSettings, num_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For all rows together: their tokens; and nothing is sent while the same sequences go on."""
    lists: list[int] = []
    to_list = Tensor.tolist

    def counting(tensor: Tensor) -> Any:
        lists.append(tensor.numel())
        return to_list(tensor)

    monkeypatch.setattr(Tensor, "tolist", counting)
    picker = TokenPicker(bank=base.bank, settings=settings, model="")
    batch = decoding._Batch(picker, [None], row_sizes.RowSizes(row_tokens=4096, kept_tokens=10**6))
    asked = [dataclasses.replace(request, member=None) for request in requests([20] * num_rows)]
    waiting = decoding.deque(decoding._sequences(base, asked, settings))
    for _ in range(3):  # prefill, the pass that sends the state, one pass more
        batch.advance(waiting, num_rows, 0)
    lists.clear()
    plain = _forward_alone(base, num_rows)
    with Waits() as waits:
        for _ in range(4):
            batch.advance(waiting, num_rows, 0)
    allowed = 2 if not settings.greedy else 1  # the second: a nucleus wider than the first look
    assert 4 <= len(lists) <= 4 * allowed
    assert set(lists) == {num_rows}
    assert waits.reads == 0
    assert waits.sends <= 4 * plain  # the bank's own, if any: of a pass, not of a row


def _forward_alone(base: LoadedBase, num_rows: int) -> int:
    """What a pass of the model sends by itself."""
    with torch.inference_mode(), Waits() as waits:
        base.bank(
            torch.full((1, num_rows), 5),
            [decoding.Segment(num_tokens=1, member=None)] * num_rows,
            position_ids_1N=torch.zeros(1, num_rows, dtype=torch.long),
            plan=Packed([1] * num_rows),
        )
    return waits.sends


def out_of_memory(text: str) -> Exception:
    return torch.OutOfMemoryError(text) if text.startswith("torch") else RuntimeError(text)


ERRORS = ["torch: no room", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"]


@pytest.fixture(params=ERRORS, ids=["torch", "cublas"])
def cramped(request: pytest.FixtureRequest, base: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list]:
    """A device that has no room for a pass of more sequences or tokens than it is told."""
    forward = base.bank.forward

    def install(most_rows: int = 10**6, most_tokens: int = 10**6, failing_passes: Sequence[int] = ()) -> list[int]:
        passes: list[int] = []

        def limited(tokens: Tensor, segments: Any, *args: Any, **options: Any) -> Tensor:
            passes.append(tokens.shape[1])
            hidden: Tensor = forward(tokens, segments, *args, **options)  # the cache is written by then
            if len(segments) > most_rows or tokens.shape[1] > most_tokens or len(passes) in failing_passes:
                raise out_of_memory(request.param)
            return hidden

        monkeypatch.setattr(base.bank, "forward", limited)
        return passes

    return install


@pytest.mark.parametrize("settings", [GREEDY, SAMPLING], ids=["greedy", "sampling"])
@pytest.mark.parametrize(
    "limits",
    [{"most_rows": 3}, {"most_tokens": 60}, {"failing_passes": (1, 4, 9)}, {"most_rows": 1, "most_tokens": 45}],
)
def test_answers_are_the_same_where_the_device_has_no_room(
    base: LoadedBase, settings: DecodingSettings, limits: dict[str, Any], cramped: Callable[..., list[int]]
) -> None:
    asked = requests([30, 5, 12, 33, 8, 21, 2, 14, 9])
    expected = run(base, asked, settings)
    cramped(**limits)
    found = run(base, asked, settings)
    assert {i: (d.tokens, d.finish_reason) for i, d in found.items()} == {
        i: (d.tokens, d.finish_reason) for i, d in expected.items()
    }


def test_what_was_generated_before_a_failure_is_kept(base: LoadedBase, cramped: Callable[..., list[int]]) -> None:
    passes = cramped(failing_passes=(8,))
    run(base, requests([20, 20, 20]), GREEDY)
    assert passes[:8] == [60] + [3] * 7
    assert passes[8] == 20 + 7  # one slot of three: its prompt and what it had
    assert sum(passes[8:]) == 3 * (20 + 7 + 4)  # of 12 tokens the prefill gives the eighth, four passes the rest


def test_the_smallest_piece_that_does_not_fit_is_named_with_a_remedy(
    base: LoadedBase, cramped: Callable[..., list[int]]
) -> None:
    cramped(most_tokens=10)
    with pytest.raises(
        torch.OutOfMemoryError, match=r"GiB of cpu are free .* one prompt with its answer .*max_new_tok"
    ):
        run(base, requests([20, 5]), GREEDY)


def test_other_errors_are_not_taken_for_it(base: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **options: Any) -> Tensor:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(base.bank, "forward", broken)
    with pytest.raises(RuntimeError, match="device-side assert"):
        run(base, requests([20]), GREEDY)


def test_decoding_against_shelves_is_causal_attention_over_the_whole_sequences() -> None:
    """Three sequences on two shelves, rows in another order than slots, one leaving on the way."""
    heads, kv_heads, size, scale = 4, 2, 8, 0.35
    generator = torch.Generator().manual_seed(0)
    whole = {
        name: [torch.randn(1, n, 12, size, generator=generator) for n in (heads, kv_heads, kv_heads)] for name in "abc"
    }
    expected = {name: Packed([12]).attend(0, *tensors, scale) for name, tensors in whole.items()}
    wide, narrow = Shelf(num_slots=3, max_tokens=12), Shelf(num_slots=1, max_tokens=9)
    begun = {"a": 7, "b": 4, "c": 3}
    plan = Prefill(list(begun.values()), [(wide, wide.add(7)), (narrow, narrow.add(4)), (wide, wide.add(3))])
    row = [torch.cat([whole[name][i][:, :, :n] for name, n in begun.items()], dim=2) for i in range(3)]
    torch.testing.assert_close(
        plan.attend(0, *row, scale), torch.cat([expected[name][:, :, :n] for name, n in begun.items()], dim=2)
    )

    def step(slots: Slots, names: str) -> None:  # names: by row
        new = [torch.cat([whole[n][i][:, :, begun[n], None] for n in names], dim=2) for i in range(3)]
        assert slots.positions_1B.tolist() == [[begun[name] for name in names]]
        with torch.device("meta"):  # whatever is made of nothing says where it lies
            out = Decode(slots).attend(0, *new, scale)
        torch.testing.assert_close(
            out, torch.cat([expected[n][:, :, begun[n], None] for n in names], dim=2), atol=1e-5, rtol=1e-5
        )
        slots.count_up()
        for name in names:
            begun[name] += 1

    slots = Slots([wide, narrow], [2, 0, 1], torch.device("cpu"))  # slots: a, c of the wide shelf, b
    for _ in range(3):
        step(slots, "bac")
    wide.remove(0)  # a leaves, c moves to its slot
    assert wide.lengths == [6]
    slots = Slots([wide, narrow], [0, 1], torch.device("cpu"))
    for _ in range(2):
        step(slots, "cb")
    assert (wide.num_free, narrow.num_free) == (2, 0)


def test_plans_make_their_own_masks_and_rows() -> None:
    """What a pass works out for itself is no argument of it: nobody can hand in another batch's."""
    slots = Slots([Shelf(num_slots=1, max_tokens=4, lengths=[2])], [0], torch.device("cpu"))
    assert Decode(slots).longest == 3
    with pytest.raises(TypeError, match="positional"):
        Decode(slots, {None: []})  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="positional"):
        Prefill([2], [], None)  # type: ignore[call-arg]
