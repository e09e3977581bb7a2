"""What can be configured: a dataclass for each config group, with units and the paper's defaults.

`harness.config.compose` turns a Hydra config into these
classes once; below the entry points there is no `DictConfig`. Fields whose metadata say
`identity=False` can't change a run's result and stay out of `run_id` (see `harness.runs.spec`).
`auto` values are resolved at plan time, so a stored config holds no `auto`.

Source of the defaults: QLoRA, arXiv 2305.14314, section 5 and appendix B, and its released scripts.

`SlurmConfig` and `RayConfig` say what a worker asks of a cluster; they are parts of `launch`.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

MISSING: Any = "???"  # as in OmegaConf: a value that is still to be given; importing it from there takes 0.1 s


class ModelKind(Enum):
    """What a model computes: the next token, an output for an input (T5), or a class (RoBERTa)."""

    causal = "causal"
    seq2seq = "seq2seq"
    classifier = "classifier"


class QuantMethod(Enum):
    """How the base's linear layers are stored: in 4 bits (NF4, FP4), in LLM.int8()'s 8 bits, or unquantized."""

    nf4 = "nf4"
    fp4 = "fp4"
    int8 = "int8"
    none = "none"


class DType(Enum):
    """Data type of matrix products; `auto` is resolved by the device."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class AdapterMethod(Enum):
    """What is trained. Runs of `lora`, `rslora` and `allora` share a loaded base; the others have one each."""

    none = "none"  # nothing: the untouched base
    lora = "lora"
    rslora = "rslora"  # scale alpha / sqrt(r), arXiv 2312.03732
    dora = "dora"  # arXiv 2402.09353
    pissa = "pissa"  # arXiv 2404.02948
    olora = "olora"  # arXiv 2406.01775
    corda = "corda"  # arXiv 2406.05223
    eva = "eva"  # arXiv 2410.07170
    loftq = "loftq"  # arXiv 2310.08659
    lq_lora = "lq_lora"  # arXiv 2311.12023
    lora_ga = "lora_ga"  # arXiv 2407.05000
    lora_fa = "lora_fa"  # A stays at its random start, arXiv 2308.03303
    allora = "allora"  # no scale, no dropout, rates by B's rows, arXiv 2410.09692
    peft = "peft"  # the method that `adapter.peft_type` names, by PEFT's own layers
    s2ft = "s2ft"  # dense submatrices of a few heads and channels, arXiv 2412.06289
    hft = "hft"  # a half of each layer's weights, arXiv 2404.18466
    qst = "qst"  # a small network beside the frozen base, arXiv 2401.07159
    full = "full"  # every weight of the model: the paper's 16-bit baseline


ALL_LINEAR = "all-linear"  # in `adapter.targets`: every linear layer but lm_head
_INTERPOLATION = re.compile(r"(\\*)\$\{")
_LAYER_ORDER = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")  # as papers list them
_SHORT_DTYPES = {DType.float32: "fp32", DType.bfloat16: "bf16", DType.float16: "fp16", DType.auto: "auto"}
SHORTEST_ROW_TOKENS = 2048  # of a forward pass where `train.max_microbatch_tokens` is null: it fits any device
SHARED_BASE_METHODS = frozenset({AdapterMethod.none, AdapterMethod.lora, AdapterMethod.rslora, AdapterMethod.allora})
WHOLE_METHODS = frozenset({AdapterMethod.full, AdapterMethod.hft})  # a run leaves a checkpoint
UNSCALED_METHODS = frozenset({AdapterMethod.allora, AdapterMethod.s2ft})  # alpha is the rank: B A itself is added


class Schedule(Enum):
    """How the learning rate goes on after the warm-up: constant, or to zero in a line or a cosine."""

    constant = "constant"
    linear = "linear"
    cosine = "cosine"


class Mode(Enum):
    """fast: packed rows without padding. faithful: the original's padded batches, in its order."""

    fast = "fast"
    faithful = "faithful"


class Optimizer(Enum):
    """AdamW: torch's own, or bitsandbytes' with state in 8 bits, or paged. Others keep their state on the device."""

    adamw = "adamw"
    adamw_8bit = "adamw_8bit"
    ademamix = "ademamix"  # arXiv 2409.03137; alpha and beta3 rise over the run
    ademamix_8bit = "ademamix_8bit"
    lion = "lion"  # arXiv 2302.06675; its authors' adam_beta2 is 0.99, their rate a tenth to a third of AdamW's
    lion_8bit = "lion_8bit"
    muon = "muon"  # of matrices only; its rate is scaled so that AdamW's suits it (arXiv 2502.16982)
    paged_adamw_32bit = "paged_adamw_32bit"
    paged_adamw_8bit = "paged_adamw_8bit"

    @property
    def num_moments(self) -> int:
        """Averages that it keeps of each trained number."""
        return {"ademamix": 3, "lion": 1, "muon": 1}.get(self.value.removesuffix("_8bit"), 2)

    @property
    def in_8_bits(self) -> bool:
        """Whether it keeps them in 8 bits, but for small tensors."""
        return self.value.endswith("_8bit")


class MasterWeights(Enum):
    """What full finetuning keeps its weights in: float32, cast where they are used, or `quant.compute_dtype`."""

    auto = "auto"  # float32; resolved at plan time
    float32 = "float32"
    compute = "compute"  # pure 16 bits, as the original's `--full_finetune --bf16`: half the memory, lost updates


class LossMean(Enum):
    """How a step's loss is averaged: over all target tokens of the batch, or within each example first."""

    token = "token"
    example = "example"


class EmptyTargets(Enum):
    """What to do with a row whose output is blank: refuse the dataset, train on EOS alone, or leave it out."""

    refuse = "refuse"
    keep = "keep"
    drop = "drop"


class AssistantTurns(Enum):
    """Which of the assistant's turns in a dialogue carry loss: the last one, or all (an example for each)."""

    last = "last"
    all = "all"


class EvalSource(Enum):
    """Where the rows come from that a run's held-out loss is measured on."""

    holdout = "holdout"  # taken out of the training rows, by `train.data_seed`
    split = "split"  # rows of `dataset.eval_split`


class Device(Enum):
    """Where models are computed; `auto` is CUDA where there is a CUDA device, else the CPU."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Launcher(Enum):
    """Who starts the worker processes: keys of `sweeps.launch.launchers.LAUNCHERS`."""

    local = "local"
    slurm = "slurm"
    ray = "ray"


class WandbMode(Enum):
    """What Weights & Biases gets: files on this machine, a live upload, or nothing."""

    offline = "offline"
    online = "online"
    disabled = "disabled"


class Select(Enum):
    """By what the rows that train are chosen (`harness.data.selection.orders`)."""

    random = "random"
    length = "length"  # the longest targets
    kmeans = "kmeans"  # as many of each cluster of the base's hidden states
    confidence = "confidence"  # those whose targets the base finds likeliest
    quality = "quality"  # those of which `dataset.quality_rule` predicts the lowest held-out loss


def since(default: Any) -> Any:
    """A field added after runs were recorded: left out of `run_id` at the value that is the old behaviour."""
    return field(default=default, metadata={"identity_since": default})


def since_empty() -> Any:
    """As `since`, for a mapping that was not there before."""
    return field(default_factory=dict, metadata={"identity_since": {}})


def not_identity(default: Any = MISSING, **kwargs: Any) -> Any:
    """A field that can't change a run's result: it says where, how fast or how verbosely. It stays out of `run_id`."""
    if "default_factory" not in kwargs:
        kwargs["default"] = default
    return field(metadata={"identity": False}, **kwargs)


@dataclass(slots=True, kw_only=True)
class ShapeConfig:
    """The architecture's numbers, for planning without weights; a checkpoint's own config wins."""

    vocab_size: int = 0
    hidden_size: int = 0
    intermediate_size: int = 0
    num_layers: int = 0
    num_heads: int = 0
    num_kv_heads: int = 0
    gated_mlp: bool = True  # three feed-forward matrices (LLaMA) instead of two
    tied_embeddings: bool = False


@dataclass(slots=True, kw_only=True)
class ModelConfig:
    """A base model: where its checkpoint is found, and what it takes (conf/model)."""

    name: str = not_identity()  # the choice's file name; says which folder of the model store
    hub_id: str = MISSING  # "owner/name" on the hub, or "embedded/..." for a model that a package ships
    revision: str = "main"  # the hub revision: branch, tag or commit
    aliases: list[str] = not_identity(default_factory=list)  # other folder names in the model store
    kind: ModelKind = ModelKind.causal
    path: str | None = not_identity(None)  # a local folder that holds the checkpoint; beats the store
    max_length: int = 2048  # the longest sequence the model takes, in tokens
    recipe_size: str = not_identity("7b")  # which row of a dataset's recipe serves this size: 7b, 13b, 33b, 65b
    shape: ShapeConfig = not_identity(default_factory=ShapeConfig)


@dataclass(slots=True, kw_only=True)
class RecipeRow:
    """What the paper did with one dataset at one model size; fills what `train` leaves open."""

    max_steps: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    lora_dropout: float | None = None
    max_epochs: float | None = None


@dataclass(slots=True, kw_only=True)
class DatasetConfig:
    """Rows to train on: where they are found, and how each becomes an input and an output (conf/dataset)."""

    name: str = not_identity()  # the choice's file name; says which file of the data store
    hub_id: str = MISSING  # "owner/name" on the hub, or "embedded/..." for rows that this project ships
    subset: str | None = None  # the hub dataset's configuration name
    split: str = "train"
    revision: str = "main"
    format: str = MISSING  # how a row becomes input and output: a key of `harness.data.formats.DATASETS`
    path: str | None = not_identity(None)  # a local file; identity is its content hash, not its path
    source_max_tokens: int = 384  # an input is cut to this many tokens, BOS included
    target_max_tokens: int = 128  # an output is cut to this many tokens, EOS included
    max_rows: int | None = None  # a seeded sample of this many rows; null takes all
    train_on_source: bool = False  # loss on the input too
    empty_targets: EmptyTargets = EmptyTargets.refuse  # the original kept them (Alpaca has 28)
    max_rows_per_task: int | None = since(None)  # a seeded sample of this many rows of each `task_name`; null takes all
    num_labels: int | None = since(None)  # classes of a labelled dataset, 1: a number to predict; null: as its rows say
    label_names: list[str] | None = since(None)  # the classes in order, so that a row may name its class
    assistant_turns: AssistantTurns = since(AssistantTurns.last)  # of a dialogue, which of its answers are learned
    chat_template: str | None = since(None)  # a Jinja file or text for models without one; its text is the identity
    skip_bad_rows: bool = since(False)  # leave rows out that can't be read, and count them, instead of refusing
    ignore_columns: list[str] | None = since(None)  # filled columns that the format may leave unused
    fraction: float = since(1.0)  # of the rows that aren't held out, the share that trains; smaller ones are nested
    select: Select = since(Select.random)  # which rows these are
    quality_rule: str | None = since(None)  # of select=quality: a file of `python -m sweeps quality-rule`, or its text
    rationale_weight: float = since(1.0)  # of format=step_by_step: of a rationale's loss beside that of a label
    stream: bool = since(False)  # take `max_rows` rows of the hub's shuffled stream where no copy is on this machine
    eval_split: str = not_identity("validation")  # of the hub's splits, the one that evaluations score
    recipe: dict[str, RecipeRow] = not_identity(default_factory=dict)  # by `model.recipe_size`, or `default`

    def __post_init__(self) -> None:
        sizes = ("source_max_tokens", "target_max_tokens", "max_rows", "max_rows_per_task", "num_labels")
        require(self, "dataset", 1e-9, *sizes)
        if isinstance(self.fraction, float) and not 0 < self.fraction <= 1:
            raise ValueError(f"dataset.fraction={self.fraction}: expected a share above 0, to 1 for all rows")
        if isinstance(self.rationale_weight, float) and not 0 <= self.rationale_weight < math.inf:
            raise ValueError(f"dataset.rationale_weight={self.rationale_weight}: expected a number of 0 or more")
        names = self.label_names
        if not isinstance(names, list):
            return
        if len(names) < 2 or len(set(names)) < len(names):
            raise ValueError(f"dataset.label_names={names}: name at least two classes, each once")
        if isinstance(self.num_labels, int) and self.num_labels != len(names):
            raise ValueError(
                f"dataset.num_labels={self.num_labels} and dataset.label_names={names}: as many names as classes; "
                "leave dataset.num_labels out"
            )


@dataclass(slots=True, kw_only=True)
class QuantConfig:
    """How the frozen base is stored and computed (conf/quant)."""

    name: str = not_identity()
    method: QuantMethod = QuantMethod.nf4
    double_quant: bool = True  # quantize the absmax constants too (paper section 3)
    block_size: int = 64  # weights that share one absmax constant: 64 to 4096, a power of two
    compute_dtype: DType = DType.auto  # of matrix products; auto: bfloat16 on CUDA (older cards: float16), else float32

    def __post_init__(self) -> None:
        if isinstance(self.block_size, int) and self.block_size not in (64, 128, 256, 512, 1024, 2048, 4096):
            raise ValueError(f"quant.block_size={self.block_size}: bitsandbytes takes a power of two from 64 to 4096")

    @property
    def label(self) -> str:
        """The word of labels, tables and pages: the choice's name, and of unquantized weights their data type."""
        return quant_label(self.name, self.method, self.compute_dtype)


def quant_label(name: str, method: QuantMethod, dtype: DType) -> str:
    """As `QuantConfig.label`, of values that a record holds."""
    return _SHORT_DTYPES[dtype] if method is QuantMethod.none else name


@dataclass(slots=True, kw_only=True)
class AdapterConfig:
    """What is trained on the base, and of what size (conf/adapter)."""

    name: str = not_identity()
    method: AdapterMethod = AdapterMethod.lora
    lora_r: int = 64
    lora_alpha: int = 16
    lora_dropout: float | None = None  # null: the dataset's recipe for the model's size, else 0.1
    targets: list[str] = field(default_factory=lambda: [ALL_LINEAR])  # suffixes of linear layers, lm_head never
    lora_plus_ratio: float | None = since(None)  # LoRA+: the rate of B is this times that of A; null: equal rates
    peft_type: str | None = since(None)  # of method=peft: PEFT's name of a method (`python -m harness.methods`)
    layers: list[int] | None = since(None)  # of the blocks, counted from 0, those that learn; null: all
    allora_eta: float | None = since(None)  # of method=allora: how many times B's gradient is enlarged where B is 0
    corda_keep: str | None = not_identity(None)  # of method=corda: a file of knowledge to keep; identity is its content
    corda_keep_sha256: str | None = since(None)  # of that file; the plan fills it in
    lq_rounds: int | None = since(None)  # of method=lq_lora: how often a weight is taken apart anew, at most
    bits: float | None = since(None)  # of method=lq_lora: of an adapted weight on average; null: all as quant says
    fisher: bool = since(False)  # of method=lq_lora: examples' squared gradients say what each weight counts
    s2ft_share: float | None = since(None)  # of method=s2ft: of heads and of channels, the share that learns
    qst_reduction: int | None = since(None)  # of method=qst: the side network's width is the base's divided by this
    qst_down_rank: int | None = since(None)  # of method=qst: of the matrices that narrow the base's states; 0: whole
    peft: dict[str, Any] = since_empty()  # of method=peft: more fields of its config: +adapter.peft.oft_block_size=16

    def __post_init__(self) -> None:
        require(self, "adapter", 1e-9, "lora_r", "lora_alpha", "lora_plus_ratio", "allora_eta", "lq_rounds")
        require(self, "adapter", 0, "qst_down_rank")
        if isinstance(self.qst_reduction, int) and self.qst_reduction < 2:
            raise ValueError(f"adapter.qst_reduction={self.qst_reduction}: a side network is narrower; use 2 or more")
        if isinstance(self.s2ft_share, float) and not 0 < self.s2ft_share <= 1:
            raise ValueError(f"adapter.s2ft_share={self.s2ft_share}: expected a share above 0, to 1 for all")
        if isinstance(self.layers, list):
            self.layers = _checked_layers(self.layers)
        if isinstance(self.peft_type, str):
            self.peft_type = self.peft_type.upper()
        if isinstance(self.targets, list) and not self.targets:
            raise ValueError("adapter.targets=[]: name at least one linear layer, or all-linear")
        if isinstance(self.targets, list):
            self.targets = _in_order(self.targets)
        if isinstance(self.lora_dropout, float) and not 0 <= self.lora_dropout < 1:
            raise ValueError(f"adapter.lora_dropout={self.lora_dropout}: expected a probability from 0 to below 1")

    @property
    def method_name(self) -> str:
        """The method's name for people and tables: `lora`, and of `method=peft` PEFT's own, `miss`."""
        own = ("peft_type", "peft", "lora_plus_ratio", "corda_keep", "bits", "fisher")
        return method_name({"method": self.method.value} | {key: getattr(self, key) for key in own})


def method_name(adapter: Mapping[str, Any]) -> str:
    """As `AdapterConfig.method_name`, of the plain values that a record holds."""
    peft_type = adapter.get("peft_type")
    if adapter.get("method") != AdapterMethod.peft.value or not peft_type:
        parts = {"_kpm": adapter.get("corda_keep") is not None, "_fisher": bool(adapter.get("fisher"))}
        bits = adapter.get("bits")
        parts[f"_{bits:g}_bits" if isinstance(bits, (int, float)) else f"_{bits}_bits"] = bits is not None
        parts["_plus"] = adapter.get("lora_plus_ratio") is not None
        return str(adapter.get("method")) + "".join(part for part, holds in parts.items() if holds)
    if peft_type == "LORA":  # a variant of LoRA that PEFT has and this project has no key for
        return "+".join(["lora", *sorted(adapter.get("peft") or {})])
    return str(peft_type).lower()


def _checked_layers(layers: list[int]) -> list[int]:
    """The numbers of blocks in their order, each once, so that equal sets are one run."""
    if not layers or min(layers) < 0:
        raise ValueError(f"adapter.layers={layers}: name at least one block, counted from 0; null takes all")
    return sorted(set(layers))


def _in_order(targets: list[str]) -> list[str]:
    """The same layers in one order, each once, so that equal sets are one run."""
    if ALL_LINEAR in targets:
        return [ALL_LINEAR]
    known = [name for name in _LAYER_ORDER if name in targets]
    return [*known, *sorted(set(targets) - set(known))]


@dataclass(slots=True, kw_only=True)
class TrainConfig:
    """How long, how fast and in what order a run learns, and what it saves meanwhile (conf/train)."""

    max_steps: int | None = None  # optimizer steps; binds where it is given (decision 0003)
    max_epochs: float | None = None  # passes over the data; both null: the recipe's for the model's size, else 1000, 4
    batch_size: int | None = None  # examples an optimizer step; null: the recipe's, else 16
    learning_rate: float | None = None  # null: the recipe's, else 2e-4
    schedule: Schedule = Schedule.constant
    warmup_steps: int = 0  # of the run's steps, those over which the rate rises to its value
    layer_lr_decay: float = since(1.0)  # the rate of a block is this times that of the next one; the last has all of it
    warmup_ratio: float = since(0.0)  # the same as a share of the run's steps, rounded up as the Trainer does
    optimizer: Optimizer = Optimizer.paged_adamw_32bit  # paged: where its state takes over 1/4 of a GPU's free memory
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    weight_decay: float = 0.0
    max_grad_norm: float = 0.3
    loss_mean: LossMean = LossMean.token
    mode: Mode = since(Mode.fast)  # how batches are laid out and ordered; `faithful` is the paper's
    group_by_length: bool = since(False)  # batches of similar length in characters, as in the original
    master_weights: MasterWeights = since(MasterWeights.compute)  # of adapter.method=full; adapters are always float32
    original_eval_carve: int = since(0)  # rows that the original's do_eval took out of training: 1024 (its slip 3)
    eval_rows: int = since(0)  # rows that never train and whose loss is measured, after the last step at least
    eval_source: EvalSource = since(EvalSource.holdout)  # where they come from
    keep_best: bool = since(False)  # the run ends with the weights of its lowest held-out loss, not with its last ones
    start_from: str | None = not_identity(None)  # a finished run's id, or an adapter's folder; identity is its content
    seed: int = 0  # of the adapter's weights and dropout
    data_seed: int = 42  # of the order of examples, and of the holdout
    max_microbatch_tokens: int | None = not_identity(None)  # of a forward pass; null: 2,048, on a GPU to 16,384 as fit
    gradient_checkpointing: bool = not_identity(False)  # recompute activations; turned on where memory is short
    checkpoint_steps: int = not_identity(100)  # save a resumable checkpoint after every N steps
    keep_checkpoints: int = not_identity(2)  # how many of the newest are kept
    snapshot_steps: int | None = not_identity(None)  # keep the adapter alone after every N steps, for `eval mmlu`
    eval_every_steps: int | None = not_identity(None)  # measure the held-out loss after every N steps, too
    mmlu_every_steps: int | None = not_identity(None)  # MMLU in training after every N steps, and after the last
    mmlu_questions: str = not_identity("embedded")  # of it: "embedded", or a jsonl file; the paper: validation
    mmlu_shots_file: str = not_identity("embedded")  # the examples shown before each question, in the same fields
    mmlu_num_shots: int = not_identity(5)
    mmlu_limit: int | None = not_identity(None)  # only the first N questions; null takes all

    def __post_init__(self) -> None:
        positive = ("max_steps", "batch_size", "max_epochs", "max_microbatch_tokens", "checkpoint_steps")
        require(self, "train", 1e-9, *positive, "keep_checkpoints", "max_grad_norm")
        require(self, "train", 1e-9, "snapshot_steps", "mmlu_every_steps", "mmlu_limit", "eval_every_steps")
        require(self, "train", 0, "warmup_steps", "weight_decay", "original_eval_carve", "seed", "data_seed")
        require(self, "train", 0, "mmlu_num_shots", "eval_rows")
        for key in ("adam_beta1", "adam_beta2", "warmup_ratio"):
            if isinstance(value := getattr(self, key), float) and not 0 <= value < 1:
                raise ValueError(f"train.{key}={value}: expected a value from 0 to below 1")
        if isinstance(self.layer_lr_decay, float) and not 0 < self.layer_lr_decay <= 1:
            raise ValueError(
                f"train.layer_lr_decay={self.layer_lr_decay}: expected a factor above 0, to 1 for equal rates"
            )
        if isinstance(self.learning_rate, float) and not 0 < self.learning_rate < 1:
            raise ValueError(f"train.learning_rate={self.learning_rate}: expected a value between 0 and 1")

    @property
    def row_tokens(self) -> int:
        """`max_microbatch_tokens`, where it is null what fits any device; `harness.memory.row_length` finds
        what fits one.
        """
        return self.max_microbatch_tokens or SHORTEST_ROW_TOKENS


@dataclass(slots=True, kw_only=True)
class EvalConfig:
    """What is measured after training. Entries compose a subclass of this with a field for each benchmark, its
    settings: `eval.benchmarks.registry.eval_config`, since nothing here may know what `eval` has (decision 12).
    """

    after_training: list[str] = field(default_factory=list)  # names of `eval.benchmarks.registry`, e.g. [mmlu]


@dataclass(slots=True, kw_only=True)
class SlurmConfig:
    """What a worker asks SLURM for; one array task is one worker. Names as in sbatch, units in the key."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None  # node features
    time_minutes: int = 240  # of one worker; at its end it saves, gives back its claims and is requeued
    gpus_per_worker: int | None = None  # null: launch.devices_per_run, or 0 where launch.device=cpu
    cpus_per_worker: int = 4
    mem_gb: float | None = None  # of a worker; null: the partition's default
    setup: list[str] = field(default_factory=list)  # shell lines before the worker starts: module load cuda
    extra: dict[str, Any] = field(default_factory=dict)  # more of sbatch's options: +launch.slurm.extra.exclude=n7
    log_folder: str | None = None  # on the shared file system; null: slurm/<sweep> among the runs
    signal_seconds: int = 90  # before the time limit, when a worker is told to save
    max_timeouts: int = 1000  # how often a worker is requeued at its time limit; preemptions are not counted

    def __post_init__(self) -> None:
        positive = ("time_minutes", "cpus_per_worker", "mem_gb", "signal_seconds")
        require(self, "launch.slurm", 1e-9, *positive)
        require(self, "launch.slurm", 0, "gpus_per_worker", "max_timeouts")


@dataclass(slots=True, kw_only=True)
class RayConfig:
    """Which Ray cluster, and what a worker asks it for; one task is one worker."""

    address: str | None = None  # host:port, ray://..., or auto; null: a cluster on this machine for this command
    gpus_per_worker: float | None = None  # null: as of SLURM; 0.5 puts two workers on a GPU
    cpus_per_worker: float = 1.0
    retries: int = 3  # how often a worker starts again whose process or node was lost
    runtime_env: dict[str, Any] = field(default_factory=dict)  # Ray's own: +launch.ray.runtime_env.working_dir=.

    def __post_init__(self) -> None:
        require(self, "launch.ray", 1e-9, "cpus_per_worker")
        require(self, "launch.ray", 0, "gpus_per_worker", "retries")


@dataclass(slots=True, kw_only=True)
class LaunchConfig:
    """Which worker processes do the jobs, and on what devices (conf/launch)."""

    launcher: Launcher = Launcher.local  # launch=local, launch=slurm, launch=ray
    workers: int | None = None  # worker processes; null: one a GPU (local), what fits the cluster (ray), 1 (slurm, CPU)
    workers_per_device: int | None = None  # local: on one GPU; null: as many as the predicted memory allows
    devices_per_run: int = 1  # devices that share every step of a group: its rows are split, its gradients summed
    shard_base: bool = False  # each of them keeps its part of the frozen base, where one is too small for all of it
    device: Device = Device.auto  # auto: cuda where there is one, else cpu
    keep_dequantized: bool | None = None  # 4-bit layers stay in the compute dtype too; null: on a CPU, where they fit
    max_group_size: int = 8  # adapters trained in one pass over one frozen base
    max_attempts: int = 2  # how often a job is tried at most, if it fails or its worker dies
    lease_seconds: float = 120.0  # a claim that was not renewed for this long is free for others
    hang_seconds: float | None = 3600.0  # a local worker with jobs that is silent for this long is killed; null: never
    peer_seconds: float | None = 300.0  # a rank without a sign of life for this long is lost; null: never
    threads: int | None = None  # CPU threads a worker; null: the cores shared out
    price_per_gpu_hour: float | None = None  # in whatever currency; a plan then says what its runs cost
    dry_run: bool = False  # print the plan and stop
    wait: bool = True  # false (slurm only): submit, say how to watch, and end
    allow_sqlite: bool = False  # share a SQLite ledger between machines all the same; --allow-sqlite
    slurm: SlurmConfig = field(default_factory=SlurmConfig)
    ray: RayConfig = field(default_factory=RayConfig)

    def __post_init__(self) -> None:
        counts = ("workers", "workers_per_device", "devices_per_run", "threads")
        require(self, "launch", 1e-9, *counts, "max_group_size", "max_attempts", "lease_seconds", "hang_seconds")
        require(self, "launch", 1e-9, "peer_seconds")
        require(self, "launch", 0, "price_per_gpu_hour")
        others = {Launcher.slurm: self.slurm != SlurmConfig(), Launcher.ray: self.ray != RayConfig()}
        for launcher, is_set in others.items():
            if is_set and launcher is not self.launcher:
                raise ValueError(
                    f"launch.{launcher.value}...: has no effect with launch={self.launcher.value}; "
                    f"add launch={launcher.value}"
                )
        if not self.wait and self.launcher is not Launcher.slurm:
            raise ValueError(
                f"launch.wait=false: launch={self.launcher.value} ends with its command; only slurm goes on"
            )
        if self.workers_per_device is not None and self.launcher is not Launcher.local:
            raise ValueError(
                "launch.workers_per_device: of launch=local; "
                "on Ray say launch.ray.gpus_per_worker=0.5, on SLURM use the cluster's sharing of GPUs"
            )

    @property
    def gpus_per_worker(self) -> float:
        """What a cluster is asked for; 0 for `launch=local`, whose machine is looked at."""
        if self.launcher is Launcher.local:
            return 0
        asked = self.slurm.gpus_per_worker if self.launcher is Launcher.slurm else self.ray.gpus_per_worker
        return asked if asked is not None else self.devices_per_run * int(self.device is not Device.cpu)


@dataclass(slots=True, kw_only=True)
class PathsConfig:
    """Where runs, models, datasets and the ledger lie on this machine (conf/paths)."""

    runs: str = "runs"  # run folders and the ledger; HARNESS_RUNS
    model_store: str | None = None  # a folder of models, looked at before the hub; HARNESS_MODEL_STORE
    data_store: str | None = None  # a folder of datasets, looked at before the hub; HARNESS_DATA_STORE
    cache: str = MISSING  # converted models and tokenized data; HARNESS_CACHE
    ledger_url: str | None = None  # of the job table; null: SQLite in `runs`; HARNESS_LEDGER_URL

    def __post_init__(self) -> None:
        if not self.runs.strip():
            raise ValueError("paths.runs (HARNESS_RUNS) is empty: name a folder, or leave it out for runs/")
        for key in ("model_store", "data_store", "ledger_url"):
            if not (getattr(self, key) or "").strip():  # an empty variable of the environment is none
                setattr(self, key, None)
        if not self.cache.strip():
            self.cache = ".cache"


@dataclass(slots=True, kw_only=True)
class TrackingConfig:
    """Where else metrics are sent while a run trains (conf/tracking)."""

    wandb_mode: WandbMode = WandbMode.offline
    wandb_project: str = "qlora-harness"


@dataclass(slots=True, kw_only=True)
class Config:
    """All settings of one run, as a command line composes them. `grid` is what an experiment's file spans."""

    model: ModelConfig = field(default_factory=ModelConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    quant: QuantConfig = field(default_factory=QuantConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    sweep_name: str | None = None  # what this set of runs is called in the ledger; null: made from the grid
    grid: list[dict[str, Any]] = field(default_factory=list)  # each: axis -> choices; the sweep is their union


def require(config: Any, group: str, least: float, *keys: str) -> None:
    """Raises ValueError for the first of the keys whose number is below `least`; unset ones pass."""
    for key in keys:
        value = getattr(config, key)
        if isinstance(value, (int, float)) and not value >= least:  # not, so that NaN fails too
            raise ValueError(f"{group}.{key}={value}: must be {'at least 0' if least == 0 else 'above 0'}")


def typed(kind: type, values: dict[str, Any]) -> Any:
    """Makes a checked object of the dataclass `kind` from plain values; OmegaConf refuses a wrong key or type.

    The values are data, of other people perhaps: a `${...}` in them stays what it is and is never resolved.
    """
    from omegaconf import OmegaConf

    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), _literal(values)))


def _literal(value: Any) -> Any:
    """The value with its interpolations escaped, as OmegaConf reads them back to the same text."""
    if isinstance(value, str):
        return _INTERPOLATION.sub(lambda found: 2 * found[1] + "\\${", value)
    if isinstance(value, dict):
        return {key: _literal(item) for key, item in value.items()}
    return [_literal(item) for item in value] if isinstance(value, (list, tuple)) else value
