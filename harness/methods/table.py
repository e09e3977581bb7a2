"""The methods of finetuning: which of our keys each has, on what weights it works, and what its paper says of it.

    entry = entry_of(config.adapter)     # MISS: rank is PEFT's `r`, no alpha; works on 4 bits, 8 bits, unquantized

One row a method, and each row is tried by tests (tests/unit/harness/methods). A method of PEFT that has a row needs a
YAML in conf/adapter and nothing else. `works_on` was found with PEFT 0.21 and bitsandbytes 0.50, method by method:
what is not in it fails, or trains something else than it says (docs/methods.md).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from harness.config.schema import AdapterConfig, AdapterMethod, QuantMethod
from harness.methods.side import side_numbers
from harness.methods.submatrices import trained_weights

Layers = Sequence[tuple[int, int, str]]  # (in_features, out_features, name) of each adapted layer
Fields = Mapping[str, Any]  # the method's config, every field of it

FLOAT = frozenset({QuantMethod.none})
FOUR_BITS = FLOAT | {QuantMethod.nf4, QuantMethod.fp4}
ALL = FOUR_BITS | {QuantMethod.int8}


class Start(Enum):
    """What a method's function at step 0 is, as it can be checked."""

    base = "the base's"
    zeroed = "the base's where all that is trained is set to 0; its own start is another one"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What is known of a method."""

    name: str  # as `AdapterConfig.method_name`
    title: str
    paper: str
    formula: str = "not checked"  # of the trained numbers, over the adapted layers of `i` inputs and `o` outputs
    count: Callable[[Layers, Fields], int] | None = None  # the same; None: no formula is checked
    works_on: frozenset[QuantMethod] = ALL
    rank: str | None = None  # PEFT's field that `adapter.lora_r` fills; None: the method has no rank
    alpha: str | None = None  # that `adapter.lora_alpha` fills
    dropout: str | None = None  # that `adapter.lora_dropout` fills: zeros in a layer's input
    keys: tuple[str, ...] = ()  # keys of ours that this method alone has
    needs: tuple[str, ...] = ()  # fields of `adapter.peft` that have to be given
    on_layers: bool = True  # around linear layers; False: of embeddings or norms
    start: Start = Start.base
    differs: str = ""  # from the paper
    verified: str = "tried"  # what tests hold it against: docs/methods.md says what the words mean
    refused: str = ""  # why it can't be trained here at all, with what does instead


def entry_of(adapter: AdapterConfig) -> Entry | None:
    """The row of a method; None where it has none."""
    name = adapter.peft_type or adapter.method.value
    if adapter.lora_plus_ratio is not None and adapter.method is AdapterMethod.lora:
        name = "lora_plus"
    if adapter.corda_keep is not None and adapter.method is AdapterMethod.corda:
        name = "corda_kpm"
    return METHODS.get(name.lower())


def _sum(of_layer: Callable[[int, int, Fields], int]) -> Callable[[Layers, Fields], int]:
    return lambda layers, fields: sum(of_layer(i, o, fields) for i, o, _ in layers)


def _randlora(i: int, o: int, f: Fields) -> int:
    rank: int = f["r"]
    return math.ceil(min(i, o) / rank) * (rank + min(i, o))


def _oft(i: int, o: int, f: Fields) -> int:
    size: int = f["oft_block_size"] or i // f["r"]
    return (1 if f["block_share"] else i // size) * size * (size - 1) // 2


def _boft(i: int, o: int, f: Fields) -> int:
    size: int = f["boft_block_size"] or i // f["boft_block_num"]
    return int(f["boft_n_butterfly_factor"]) * i * size + o


def _vblora(layers: Layers, f: Fields) -> int:
    rank, length, number = int(f["r"]), int(f["vector_length"]), int(f["num_vectors"])
    return sum(rank * (i + o) // length for i, o, _ in layers) * number + number * length


def _ia3(layers: Layers, f: Fields) -> int:
    inner = tuple(f["feedforward_modules"])
    return sum(i if name.endswith(inner) else o for i, o, name in layers)


def _lora(i: int, o: int, f: Fields) -> int:
    return int(f["r"]) * (i + o)


_OF_LORA: dict[str, Any] = {"rank": "r", "alpha": "lora_alpha", "dropout": "lora_dropout"}
_LORA_COUNT: dict[str, Any] = {"formula": "r (i + o)", "count": _sum(_lora)}

_ROWS = (
    Entry(name="lora", title="LoRA", paper="arXiv 2106.09685", verified="proof", **_OF_LORA, **_LORA_COUNT),
    Entry(
        name="rslora",
        title="Rank-stabilized LoRA",
        paper="arXiv 2312.03732",
        verified="proof",
        **_OF_LORA,
        **_LORA_COUNT,
    ),
    Entry(
        name="lora_plus",
        title="LoRA+",
        paper="arXiv 2402.12354",
        **_OF_LORA,
        **_LORA_COUNT,
        differs="adapter.lora_plus_ratio times train.learning_rate for B, the rate itself for A; of any method with A "
        "and B",
    ),
    Entry(
        name="dora",
        title="DoRA",
        paper="arXiv 2402.09353",
        verified="proof",
        formula="r (i + o) + o",
        count=_sum(lambda i, o, f: f["r"] * (i + o) + o),
        **_OF_LORA,
    ),
    Entry(
        name="pissa",
        title="PiSSA",
        paper="arXiv 2404.02948",
        verified="proof",
        **_OF_LORA,
        **_LORA_COUNT,
        differs="on a quantized base it starts at Q(W - s B0 A0) + s B0 A0, the paper's QPiSSA, in one round",
    ),
    Entry(name="olora", title="OLoRA", paper="arXiv 2406.01775", verified="proof", **_OF_LORA, **_LORA_COUNT),
    Entry(
        name="corda",
        title="CorDA, instruction-previewed",
        paper="arXiv 2406.05223",
        verified="proof",
        **_OF_LORA,
        **_LORA_COUNT,
        differs="64 training examples instead of 256",
    ),
    Entry(
        name="corda_kpm",
        title="CorDA, knowledge-preserved",
        paper="arXiv 2406.05223",
        verified="proof",
        **_OF_LORA,
        **_LORA_COUNT,
        keys=("corda_keep",),
        differs="64 rows of adapter.corda_keep instead of 256 of TriviaQA and NQ open; `embedded`: of MMLU questions "
        "that are shipped",
    ),
    Entry(
        name="eva",
        title="EVA",
        paper="arXiv 2410.07170",
        verified="proof",
        **_OF_LORA,
        formula="not checked: its ranks are shared out by the data",
        differs="64 training examples",
    ),
    Entry(
        name="loftq",
        title="LoftQ",
        paper="arXiv 2310.08659",
        verified="proof",
        **_OF_LORA,
        **_LORA_COUNT,
        works_on=ALL - FLOAT,
        start=Start.zeroed,
        differs="one round (T = 1); it starts nearer to the unquantized base than the quantized base is",
    ),
    Entry(
        name="lq_lora",
        title="LQ-LoRA",
        paper="arXiv 2311.12023",
        verified="proof",
        **_OF_LORA,
        **_LORA_COUNT,
        works_on=ALL - FLOAT,
        keys=("lq_rounds", "bits", "fisher"),
        differs="each round quantizes first, so its first one is LoftQ's; the paper's begin with the low-rank matrix. "
        "adapter.bits: the authors' 432 formats, without their kernels, so that a layer is simulated: rounded, and "
        "held in the compute dtype. Formats are chosen by errors of one round (theirs: of up to 100), among those on "
        "a layer's lower hull of bits and plain error; an offset of 32 bits a matrix counts. adapter.fisher: 64 "
        "training examples instead of 10,000 of C4; rows and columns by roots of means, as in the authors' code (the "
        "paper: means of roots)",
    ),
    Entry(
        name="lora_ga",
        title="LoRA-GA",
        paper="arXiv 2407.05000",
        verified="proof",
        **_OF_LORA,
        **_LORA_COUNT,
        differs="64 training examples",
    ),
    Entry(
        name="lora_fa",
        title="LoRA-FA",
        paper="arXiv 2308.03303",
        verified="proof",
        **_OF_LORA,
        formula="r o",
        count=_sum(lambda i, o, f: f["r"] * o),
        differs="the run's own optimizer updates B, as in the paper; PEFT's LoraFAOptimizer projects its gradient",
    ),
    Entry(
        name="allora",
        title="ALLoRA",
        paper="arXiv 2410.09692",
        verified="steps, proof",
        rank="r",
        **_LORA_COUNT,
        keys=("allora_eta",),
        differs="rows are B's of [outputs, rank]; allora_eta=10 is ours. Gradients are scaled before they are clipped; "
        "AdamW, which goes by a gradient's size against its own past, feels only how the factor changes",
    ),
    Entry(
        name="s2ft",
        title="S2FT",
        paper="arXiv 2412.06289",
        verified="steps, proof",
        formula="o x the chosen inputs (o_proj, down_proj), i x the chosen outputs (v_proj, gate_proj, up_proj)",
        count=lambda layers, f: trained_weights(layers, f["s2ft_share"], f["num_heads"]),
        keys=("s2ft_share",),
        differs="heads and channels are chosen at random (S2FT-R). What is trained is kept beside the weights, so it "
        "runs on quantized ones too, and is saved as a LoRA, one factor of which selects; heads of values that several "
        "heads of queries share aren't chosen",
    ),
    Entry(
        name="hft",
        title="HFT, half finetuning",
        paper="arXiv 2404.18466",
        verified="steps, proof",
        formula="a half of each layer's attention, feed-forward and norm matrices",
        works_on=FLOAT,
        on_layers=False,
        differs="the half is drawn once, from the run's seed; of three feed-forward matrices one learns in one layer, "
        "two in the next. Embeddings, the last norm and the output layer are frozen; adapter.targets has no meaning",
    ),
    Entry(
        name="qst",
        title="QST, quantized side tuning",
        paper="arXiv 2401.07159",
        verified="steps, proof",
        formula="of the base's blocks i o / q^2 and biases / q, q the reduction; a block's downsampling k (d + d/q) + "
        "2 d/q, of rank k (0: d d/q), and 3 d/q; once d d/q + d/q + d + 1; d the width",
        count=side_numbers,
        keys=("qst_reduction", "qst_down_rank"),
        on_layers=False,
        differs="alpha is one number that starts at 1, so that it starts at the base; in the authors' code one a "
        "feature that starts at 0.73 of the base's states. Only of llama, mistral and qwen2. No dropout: the authors' "
        "code drops nothing where a dropout is given. Its blocks are drawn as transformers draws the family's. Its "
        "files are its own, no PEFT's",
    ),
    Entry(name="full", title="Full finetuning", paper="arXiv 2305.14314, the 16-bit baseline", works_on=FLOAT),
    Entry(
        name="adalora",
        title="AdaLoRA",
        paper="arXiv 2303.10512",
        verified="steps, proof",
        formula="r0 (i + o + 1), r0 the first rank",
        count=_sum(lambda i, o, f: f["init_r"] * (i + o + 1)),
        rank="target_r",
        alpha="lora_alpha",
        dropout="lora_dropout",
        differs="adapter.lora_r is the mean rank at the end, and the first one is 1.5 times that, as in the paper; its "
        "penalty on P and Q is added once a step and not in the loss that is shown; pruned triplets are saved as zeros",
    ),
    Entry(
        name="miss",
        title="MiSS (Bone)",
        paper="arXiv 2409.15371",
        verified="steps, proof",
        formula="r o",
        count=_sum(lambda i, o, f: f["r"] * (f["mini_r"] if f["init_weights"] == "mini" else o)),
        rank="r",
        dropout="miss_dropout",
    ),
    Entry(
        name="oft",
        title="OFT",
        paper="arXiv 2306.07280, 2506.19847",
        verified="steps, proof",
        formula="i (b - 1) / 2, b the block size",
        count=_sum(_oft),
        differs="rotates the layer's input, by Cayley-Neumann series (OFTv2); the block size is "
        "+adapter.peft.oft_block_size",
    ),
    Entry(
        name="boft",
        title="BOFT",
        paper="arXiv 2311.06243",
        verified="steps, proof",
        formula="m i b + o, m factors, b the block size",
        count=_sum(_boft),
        differs="stores whole b x b blocks, of which the skew-symmetric part counts (b (b - 1) / 2 in the paper), "
        "and a scale for each output",
    ),
    Entry(
        name="shira",
        title="SHiRA",
        paper="arXiv 2406.13175",
        verified="steps, proof",
        formula="r (i + o)",
        count=_sum(_lora),
        rank="r",
        works_on=FOUR_BITS,
        differs="the mask is drawn at random from the run's seed; as many weights as a LoRA of rank r has",
    ),
    Entry(
        name="hira",
        title="HiRA",
        paper="openreview TwJrTz9cRS (ICLR 2025)",
        verified="steps, proof",
        formula="r (i + o)",
        count=_sum(_lora),
        rank="r",
        dropout="hira_dropout",
    ),
    Entry(
        name="vera",
        title="VeRA",
        paper="arXiv 2310.11454",
        verified="steps, proof",
        formula="o + r",
        count=_sum(lambda i, o, f: o + f["r"]),
        rank="r",
        dropout="vera_dropout",
        differs="the shared matrices have one seed for all runs (+adapter.peft.projection_prng_key)",
    ),
    Entry(
        name="pvera",
        title="PVeRA",
        paper="arXiv 2512.07703",
        refused="it samples from the global generator, so a resumed run is another one; use adapter=vera",
    ),
    Entry(
        name="randlora",
        title="RandLoRA",
        paper="arXiv 2502.00987",
        verified="steps, proof",
        formula="n (r + min(i, o)), n = ceil(min(i, o) / r) bases",
        count=_sum(_randlora),
        rank="r",
        alpha="randlora_alpha",
        dropout="randlora_dropout",
        differs="the shared bases have one seed for all runs (+adapter.peft.projection_prng_key)",
    ),
    Entry(
        name="fourierft",
        title="FourierFT",
        paper="arXiv 2405.03003",
        verified="steps, proof",
        formula="n, frequencies a layer",
        count=_sum(lambda i, o, f: f["n_frequency"]),
        start=Start.zeroed,
        differs="starts from normal coefficients, as in the paper, times +adapter.peft.scaling (150; for LLaMA 300)",
    ),
    Entry(
        name="waveft",
        title="WaveFT",
        paper="arXiv 2505.12532",
        formula="n, wavelet coefficients a layer",
        count=_sum(lambda i, o, f: f["n_frequency"]),
    ),
    Entry(
        name="ia3",
        title="IA3",
        paper="arXiv 2205.05638",
        verified="steps, proof",
        formula="i of feed-forward layers, o of others",
        count=_ia3,
        needs=("feedforward_modules",),
    ),
    Entry(
        name="trainable_tokens",
        title="Trainable tokens",
        paper="PEFT 0.21, TrainableTokensConfig",
        verified="steps, proof",
        formula="tokens x hidden size",
        count=_sum(lambda i, o, f: len(f["token_indices"]) * o),
        needs=("token_indices",),
        on_layers=False,
    ),
    Entry(
        name="ln_tuning",
        title="LN tuning",
        paper="arXiv 2312.11420",
        verified="steps, proof",
        formula="all weights of the norms",
        count=_sum(lambda i, o, f: o),
        on_layers=False,
    ),
    Entry(
        name="c3a",
        title="C3A",
        paper="arXiv 2407.19342",
        verified="steps, proof",
        formula="i o / b, b the block size",
        count=_sum(lambda i, o, f: i * o // f["block_size"]),
        works_on=FOUR_BITS,
        needs=("block_size",),
        start=Start.zeroed,
        differs="starts from Xavier-uniform kernels, as in the paper",
    ),
    Entry(
        name="road",
        title="RoAd",
        paper="arXiv 2409.00119",
        verified="steps, proof",
        formula="o (RoAd-1), 2 o, 4 o",
        count=_sum(lambda i, o, f: {"road_1": 1, "road_2": 2, "road_4": 4}[f["variant"]] * o),
    ),
    Entry(
        name="vblora",
        title="VB-LoRA",
        paper="arXiv 2405.15179",
        verified="steps, proof",
        formula="h r (i + o) / b summed over the layers, + h b once: h vectors of length b",
        count=_vblora,
        rank="r",
        dropout="vblora_dropout",
        start=Start.zeroed,
        differs="starts from a random vector bank, as in the paper",
    ),
    Entry(name="beft", title="BEFT", paper="arXiv 2509.15974", formula="o", count=_sum(lambda i, o, f: o)),
    Entry(
        name="gralora",
        title="GraLoRA",
        paper="arXiv 2505.20355",
        formula="(r + hybrid_r) (i + o)",
        count=_sum(lambda i, o, f: (f["r"] + f["hybrid_r"]) * (i + o)),
        rank="r",
        alpha="alpha",
        dropout="gralora_dropout",
        works_on=FOUR_BITS,
    ),
    Entry(name="lily", title="Lily", paper="arXiv 2407.09946", rank="r"),
    Entry(
        name="loha",
        title="LoHa",
        paper="arXiv 2108.06098",
        formula="2 r (i + o)",
        count=_sum(lambda i, o, f: 2 * f["r"] * (i + o)),
        rank="r",
        alpha="alpha",
        works_on=FLOAT,
    ),
    Entry(name="lokr", title="LoKr", paper="arXiv 2309.14859", rank="r", alpha="alpha", works_on=FLOAT),
    Entry(
        name="hra",
        title="HRA",
        paper="arXiv 2405.17484",
        formula="r i",
        count=_sum(lambda i, o, f: f["r"] * i),
        rank="r",
        works_on=FLOAT,
    ),
    Entry(
        name="deft",
        title="DEFT",
        paper="PEFT 0.21, DeftConfig",
        formula="r (i + o)",
        count=_sum(_lora),
        rank="r",
        alpha="alpha",
        works_on=FLOAT,
    ),
    Entry(
        name="delora",
        title="DeLoRA",
        paper="arXiv 2503.18225",
        formula="r (i + o) + 1",
        count=_sum(lambda i, o, f: f["r"] * (i + o) + 1),
        rank="r",
        works_on=FLOAT,
    ),
    Entry(name="glora", title="GLoRA", paper="arXiv 2306.07967", rank="r", works_on=FLOAT),
    Entry(name="frod", title="FRoD", paper="PEFT 0.21, FrodConfig", works_on=FLOAT),
    Entry(name="adamss", title="AdaMSS", paper="PEFT 0.21, AdamssConfig", rank="r", works_on=FLOAT),
    Entry(name="osf", title="OSF", paper="arXiv 2504.07097", works_on=FLOAT),
    Entry(
        name="peanut",
        title="PEANuT",
        paper="arXiv 2410.01870",
        rank="r",
        works_on=FLOAT,
    ),
    Entry(
        name="psoft",
        title="PSOFT",
        paper="openreview FSHrinMArK",
        formula="r (r - 1) / 2 + 2 r",
        count=_sum(lambda i, o, f: f["r"] * (f["r"] - 1) // 2 + f["r"] * (f["psoft_mag_a"] + f["psoft_mag_b"])),
        rank="r",
        alpha="psoft_alpha",
        works_on=FLOAT,
    ),
    Entry(
        name="tinylora",
        title="TinyLoRA",
        paper="arXiv 2602.04118",
        rank="r",
        works_on=FLOAT,
        start=Start.zeroed,
        differs="starts from a small random vector",
    ),
    Entry(
        name="unilora",
        title="Uni-LoRA",
        paper="arXiv 2506.00799",
        formula="d, once",
        count=lambda layers, f: int(f["theta_d_length"]),
        rank="r",
        works_on=FLOAT,
        start=Start.zeroed,
        differs="starts from a small random vector; on quantized weights PEFT 0.21 trains nothing at all",
    ),
    Entry(name="supertuning", title="Super tuning", paper="arXiv 2607.09287", works_on=FLOAT),
    *(
        Entry(name=name, title=title, paper=paper, refused=f"{why}; use adapter=lora, ia3 or trainable_tokens")
        for name, title, paper, why in (
            ("prompt_tuning", "Prompt tuning", "arXiv 2104.08691", "its tokens stand before a sequence"),
            ("p_tuning", "P-tuning", "arXiv 2103.10385", "its tokens stand before a sequence"),
            ("prefix_tuning", "Prefix tuning", "arXiv 2101.00190", "its keys stand before a sequence"),
            ("multitask_prompt_tuning", "MPT", "arXiv 2303.02861", "its tokens stand before a sequence"),
            ("cpt", "Context-aware prompt tuning", "arXiv 2410.17222", "its tokens stand before a sequence"),
            ("cartridge", "Cartridges", "arXiv 2506.06266", "its keys stand before a sequence"),
            ("adaption_prompt", "LLaMA-Adapter", "arXiv 2303.16199", "it replaces whole attention layers"),
            ("poly", "Poly", "arXiv 2202.13914", "it needs the task of every example"),
            ("shadow", "Shadow", "PEFT 0.21, ShadowConfig", "it replaces the model's blocks by a second network"),
            ("xlora", "X-LoRA", "arXiv 2402.07148", "it mixes adapters that were trained before"),
        )
    ),
)
METHODS: Mapping[str, Entry] = {row.name: row for row in _ROWS}
