"""Mutations that once no test noticed, each with the tests that have to notice it: `make mutants NAMED=1`.

A text that is no longer in its file is an error: mend the line here when the code changes.
"""

from dataclasses import dataclass
from pathlib import Path

from tests.mutants.mutations import Mutation

UNIT = "tests/unit"
STEPS = "tests/parity/test_reference_steps.py"


@dataclass(frozen=True, slots=True)
class Named:
    """A change of one place in a file."""

    file: str
    old: str  # occurs once
    new: str
    tests: tuple[str, ...]  # files

    def mutation(self, root: Path) -> Mutation:
        """The change as a mutation.

        Raises:
            ValueError: the text isn't in the file, or more than once.
        """
        source = (root / self.file).read_text()
        if source.count(self.old) != 1:
            raise ValueError(f"{self.file}: {self.old!r} occurs {source.count(self.old)} times, expected once")
        line = source[: source.index(self.old)].count("\n") + 1
        old, new = (" ".join(text.split()) for text in (self.old, self.new))
        text = source.replace(self.old, self.new)
        return Mutation(file=self.file, place="", line=line, statement=range(0), old=old, new=new, number=1, text=text)


_LOW_RANK, _LOOP = "harness/nn/low_rank.py", "harness/training/loop.py"
_OF_LOW_RANK = (f"{UNIT}/harness/nn/test_low_rank.py", STEPS)
_OF_LOOP = (STEPS, f"{UNIT}/harness/training/test_loop.py", f"{UNIT}/harness/training/test_optim.py")
_ALONE = "        torch.mm(grad_h_TC, a_KRI[0], out=out_TI)\n        if mask_TI is not None:\n            out_TI.mul_"
_BLOCKS = "a_KRI.flatten(0, 1), out=out_TI)\n        if mask_TI is not None:\n            out_TI.mul_"

NAMED = (
    # the mask of dropout
    Named(_LOW_RANK, _ALONE + "(_factor(mask_TI, out_TI))", _ALONE + "(1)", _OF_LOW_RANK),
    Named(_LOW_RANK, _BLOCKS + "(_factor(mask_TI, out_TI))", _BLOCKS + "(1)", _OF_LOW_RANK),
    Named(_LOW_RANK, "_factor(mask_TI, grad_TI), out=out_TI", "1, out=out_TI", _OF_LOW_RANK),
    Named(_LOW_RANK, "grad_a(grad_h_TC, _masked(x_NI[rows], mask_TI))", "grad_a(grad_h_TC, x_NI[rows])", _OF_LOW_RANK),
    Named(_LOW_RANK, "down(_masked(x_NI[term.rows], term.mask_TI),", "down(x_NI[term.rows],", _OF_LOW_RANK),
    # memory that nobody wrote to, where members' targets differ
    Named(
        _LOW_RANK,
        "            if at < term.start:\n                out_NO[at : term.start] = y_NO[at : term.start]\n",
        "",
        _OF_LOW_RANK,
    ),
    Named(_LOW_RANK, "        if at < len(y_NO):\n            out_NO[at:] = y_NO[at:]\n", "", _OF_LOW_RANK),
    Named(
        _LOW_RANK,
        "                if at < rows.start:\n                    grad_x_NI[at : rows.start] = 0\n",
        "",
        _OF_LOW_RANK,
    ),
    Named(_LOW_RANK, "            grad_x_NI[at:] = 0\n", "            pass\n", _OF_LOW_RANK),
    # clipping, schedule, what is not finite, memory
    Named(
        "harness/config/schema.py",
        "max_grad_norm: float = 0.3",
        "max_grad_norm: float = 1.0",
        (*_OF_LOOP, f"{UNIT}/harness/runs/test_spec.py"),
    ),
    Named(_LOOP, "[member.train.max_grad_norm for member in active]", "[1.0 for member in active]", _OF_LOOP),
    Named("harness/training/optim.py", "nn.utils.clip_grads_with_norm_(trained, max_norm, norm)", "pass", _OF_LOOP),
    Named(
        _LOOP,
        "learning_rate(member.train, member.step, member.total_steps)",
        "learning_rate(member.train, member.step + 1, member.total_steps)",
        _OF_LOOP,
    ),
    Named(
        _LOOP,
        "learning_rate(member.train, member.step, member.total_steps)",
        "learning_rate(member.train, max(0, member.step - 1), member.total_steps)",
        _OF_LOOP,
    ),
    Named(
        _LOOP,
        "batch_indices(member.train, member.num_characters, member.step)",
        "batch_indices(member.train, member.num_characters, member.step + 1)",
        _OF_LOOP,
    ),
    Named(
        "harness/training/schedule.py",
        "progress = (step - warmup) / max(1, total_steps - warmup)",
        "progress = (step - warmup + 1) / max(1, total_steps - warmup)",
        (f"{UNIT}/harness/training/test_schedule.py",),
    ),
    Named(
        "harness/training/schedule.py",
        "(step + int(train.mode is Mode.fast)) / warmup",
        "step / warmup",
        (f"{UNIT}/harness/training/test_schedule.py",),
    ),
    Named(_LOOP, "if math.isfinite(loss) and math.isfinite(norm):", "if math.isfinite(loss):", _OF_LOOP),
    Named(_LOOP, "if math.isfinite(loss) and math.isfinite(norm):", "if math.isfinite(norm):", _OF_LOOP),
    Named(_LOOP, "            parameter.grad = None\n", "            pass\n", _OF_LOOP),
    # scales, groups, biases
    Named(
        "harness/banks/shared.py",
        "math.sqrt(config.lora_r) if config.method is AdapterMethod.rslora else config.lora_r",
        "config.lora_r",
        (STEPS,),
    ),
    Named(
        "harness/banks/shared.py",
        'AdapterMethod.rslora if saved.get("use_rslora") else AdapterMethod.lora',
        "AdapterMethod.lora",
        (f"{UNIT}/harness/banks/test_loading.py", f"{UNIT}/harness/training/test_loop.py"),
    ),
    Named(
        "harness/runs/adapter_files.py",
        '"use_rslora": config.method is AdapterMethod.rslora',
        '"use_rslora": False',
        (f"{UNIT}/harness/banks/test_loading.py", f"{UNIT}/harness/training/test_loop.py"),
    ),
    Named(
        "harness/config/schema.py",
        "{AdapterMethod.none, AdapterMethod.lora, AdapterMethod.rslora}",
        "{AdapterMethod.none, AdapterMethod.lora, AdapterMethod.rslora, AdapterMethod.full}",
        (f"{UNIT}/harness/runs/test_spec.py",),
    ),
    Named(
        "harness/runs/spec.py",
        "if self.adapter.method not in SHARED_BASE_METHODS or self.model.kind is not ModelKind.causal:",
        "if self.model.kind is not ModelKind.causal:",
        (f"{UNIT}/harness/runs/test_spec.py",),
    ),
    Named(
        "harness/runs/spec.py",
        "if self.adapter.method not in SHARED_BASE_METHODS or self.model.kind is not ModelKind.causal:",
        "if self.adapter.method not in SHARED_BASE_METHODS:",
        (f"{UNIT}/harness/runs/test_spec.py",),
    ),
    Named(
        "harness/nn/quant.py",
        "    layer.bias = linear.bias\n",
        "    layer.bias = None\n",
        (f"{UNIT}/harness/nn/test_quant.py",),
    ),
)
