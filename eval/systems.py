"""Opens the systems that are measured, with several adapters over one loaded base.

A `Target` is what a command measures: finished runs, or a model with any number of adapters. A base is loaded once
for all of its systems.
"""

import copy
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from eval.logit_arithmetic import MEMBER, is_proxy, parse_proxy, proxied
from harness.banks.load import LoadedBase, load_base
from harness.config.choices import model_choice, quant_choice
from harness.config.paths import paths_of_environment
from harness.config.schema import (
    SHARED_BASE_METHODS,
    AdapterConfig,
    AdapterMethod,
    Device,
    ModelConfig,
    ModelKind,
    PathsConfig,
    QuantConfig,
)
from harness.console import STDERR, say
from harness.data.render import folder_has_template
from harness.data.tokens import with_chat_template
from harness.devices.torch_device import resolve_device, resolved_quant, slow_dtype
from harness.files.hub import Missing
from harness.files.names import file_name
from harness.ledger.finished import left_out, sweep_runs
from harness.ledger.open import ledger_url
from harness.models.convert import checkpoint_folder
from harness.models.locate import ModelSource, locate_model, tokenizer_fingerprint, weights_differ
from harness.runs.adapter_files import ADAPTER_CONFIG, CHAT_TEMPLATE, MODEL_CONFIG, bank_method, read_peft_config
from harness.runs.folder import changed_problem, stored_spec
from harness.runs.record import RECORD_FILE, RunRecord, load_record
from harness.runs.spec import RunSpec

SNAPSHOTS = "adapters"  # in a run's folder, the one of the adapters that it kept while it trained
_PROBE = " A text,\n  to see what becomes of it: 123 \u00e4"  # and of its blanks, before which some put one more


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A finished run, or an untouched base, under its name in tables."""

    name: str
    run_id: str
    spec: RunSpec
    folder: Path  # runs/<run_id>

    @property
    def member(self) -> str | None:
        """Its name in the adapter bank; None for an untouched base."""
        return None if self.spec.adapter.method is AdapterMethod.none else self.run_id


class Answerer(Protocol):
    """Who answers open prompts: a run, or what a command names."""

    @property
    def name(self) -> str: ...

    @property
    def member(self) -> str | None:
        """Its name in the adapter bank; None for an untouched base."""
        ...

    @property
    def folder(self) -> Path:
        """Its answers lie in `answers/` below it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedModel:
    """A model or an adapter that a command names, with a folder for its answers."""

    name: str
    member: str | None
    folder: Path


def open_system(folder: Path) -> System:
    """Reads a run folder.

    Raises:
        ValueError: the folder holds no finished run.
    """
    record = load_record(folder)
    if record is None:
        raise ValueError(f"{folder}: no record.json, so this run is not done; finish it with harness.run first")
    spec = stored_spec(folder)
    return System(name=record.label, run_id=record.run_id, spec=spec, folder=folder)


def by_base(systems: Sequence[System]) -> list[list[System]]:
    """Systems that share a frozen base, together, in the order of their first."""
    groups: dict[str, list[System]] = {}
    for system in systems:
        groups.setdefault(_served_spec(system).group, []).append(system)
    return list(groups.values())


def serving_method(system: System) -> AdapterMethod:
    """The method whose bank serves a run: LoRA's, which shares its base, where plain LoRA was saved (S2FT, LoRA-FA)."""
    spec, adapter = system.spec, system.folder / "adapter"
    if spec.adapter.method in SHARED_BASE_METHODS or spec.model.kind is not ModelKind.causal or not adapter.is_dir():
        return spec.adapter.method
    return AdapterMethod.lora if bank_method(adapter) is AdapterMethod.lora else spec.adapter.method


def _served_spec(system: System) -> RunSpec:
    """What a run is to the bank that serves it."""
    method = serving_method(system)
    if method is system.spec.adapter.method:
        return system.spec
    return replace(system.spec, adapter=AdapterConfig(name=method.value, method=method))


def refuse_equal_names(systems: Sequence[Answerer]) -> None:
    """Raises ValueError where two runs have one name, by which results are told apart."""
    seen: dict[str, str] = {}
    for system in systems:
        if system.name in seen:
            raise ValueError(
                f"runs {seen[system.name]} and {system.folder.name} are both called {system.name}: take one at a time, "
                f"or start both in one sweep, which gives each a name of its own"
            )
        seen[system.name] = system.folder.name  # a run's is called by its id


@contextmanager
def loaded(
    systems: Sequence[System], paths: PathsConfig, device: torch.device, with_adapters: bool = True
) -> Iterator[LoadedBase]:
    """One base with the adapters of all `systems` (of one group) in its bank, named by run_id; or the base alone."""
    spec = systems[0].spec
    source = locate_model(spec.model, paths)
    if isinstance(source, Missing):
        raise ValueError(str(source))
    say_if_slow(spec.quant, device)
    base = load_base(source, spec.quant, device, Path(paths.cache), spec.model.kind, serving_method(systems[0]))
    require_same_base(systems, base.fingerprint, base.source.location)
    require_same_tokenizer(systems, base.tokenizer_fingerprint, base.source.location)
    if with_adapters:
        load_members(base, systems)
    yield base


def require_same_base(systems: Sequence[System], fingerprint: str, location: str) -> None:
    """Refuses runs that were trained on other weights than those that are in their base's place now.

    Args:
        systems: runs with their records.
        fingerprint: of the weights that are there now.
        location: where they are.

    Raises:
        ValueError: a run whose record names another fingerprint.
    """
    for system in systems:
        record = load_record(system.folder)
        assert record is not None, "open_system has read it"
        require_recorded_base(record, fingerprint, location)


def require_same_tokenizer(systems: Sequence[System], fingerprint: str | None, location: str) -> None:
    """As `require_same_base`, for the tokenizer and the chat template; runs of old versions recorded none."""
    for system in systems:
        record = load_record(system.folder)
        if record is not None and record.tokenizer_fingerprint not in (None, fingerprint):
            raise ValueError(
                f"run {record.run_id} ({record.label}) was trained with another tokenizer or chat template than "
                f"{location} has now; put the old files back"
            )


def require_recorded_base(record: RunRecord, fingerprint: str, location: str) -> None:
    """As `require_same_base`, for one run by its record."""
    if record.base_fingerprint != fingerprint:
        raise ValueError(
            f"run {record.run_id} ({record.label}) was trained on another base than {location}: then "
            f"{record.base_fingerprint[:12]}, now {fingerprint[:12]}; name the model that it was trained on, "
            "or put its weights back"
        )


def say_if_slow(quant: QuantConfig, device: torch.device) -> None:
    """One line on standard error where what was trained elsewhere is slow here in its own data type."""
    if (line := slow_dtype(quant.compute_dtype, device)) is not None:
        say_note(line)


def say_note(line: str) -> None:
    """One line on standard error."""
    say(f"note: {line}", STDERR)


def load_members(base: LoadedBase, systems: Sequence[System]) -> None:
    """Reads the systems' adapters, or fully trained weights, into the base's bank, each held against its record.

    Raises:
        ValueError: base or tokenizer are not those that a run was made on, or an adapter's file not the one it wrote.
    """
    require_same_base(systems, base.fingerprint, base.source.location)
    require_same_tokenizer(systems, base.tokenizer_fingerprint, base.source.location)
    for system in systems:
        if system.member is None:
            continue
        record = load_record(system.folder)
        if record is not None and (problem := changed_problem(system.folder / "adapter", record)):
            raise ValueError(problem)
        base.bank.load_member(system.member, system.folder / "adapter")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is to be scored: runs that exist, or a model with any number of adapters."""

    model: str | None
    adapters: tuple[Path, ...]
    quant: str | None  # None: as the adapters' own records say, else unquantized
    run_ids: tuple[str, ...]
    sweep: str | None
    runs: Path | None


def each_base(target: Target) -> Iterator[tuple[LoadedBase, dict[str, str | None]]]:
    """Loads each base once. -> the base, and its systems: name -> member of its bank, None for the untouched base.

    Raises:
        ValueError: nothing to measure, or a model that isn't a causal language model.
    """
    if target.model is not None:
        yield from _open_proxy(target) if is_proxy(target.model) else _open_model(target)
        return
    if target.adapters:
        raise ValueError("--adapter needs --model: the base that the adapter was trained on")
    chosen = chosen_systems(target.sweep, target.run_ids, target.runs)
    refuse_equal_names(chosen)
    for system in chosen:
        require_causal(system.name, system.spec.model.kind)
    for systems in by_base(chosen):
        with loaded(systems, paths_of_environment(target.runs), resolve_device(Device.auto)) as base:
            yield base, {system.name: system.member for system in systems}


def require_templates(target: Target) -> None:
    """Refuses systems without a chat template, by their files, before any model is loaded.

    Raises:
        ValueError: names the first; one whose files aren't on this machine is left to its loading.
    """
    paths = paths_of_environment(target.runs)
    if target.model is not None:
        if not target.adapters or not all(folder_has_template(a) or _adapters_template(a) for a in target.adapters):
            _require_template(named_model(target.model), paths)
        return
    for system in chosen_systems(target.sweep, target.run_ids, target.runs):
        if own_template(system) is None:
            _require_template(system.spec.model, paths)


def _require_template(model: ModelConfig, paths: PathsConfig) -> None:
    source = locate_model(model, paths)
    if isinstance(source, ModelSource) and source.kind == "folder" and not folder_has_template(Path(source.location)):
        raise ValueError(
            f"{source.location}: its tokenizer has no chat template, and is to be asked through one; take an instruct "
            "model, or a prompt format that needs none (auto, human)"
        )


def own_template(system: Answerer) -> str | None:
    """The chat template that a run's dialogues were trained in, where its dataset gave one for its base's."""
    return system.spec.own_template if isinstance(system, System) else None


def read_by_template(base: LoadedBase, template: str | None) -> LoadedBase:
    """The base, its texts written by a chat template of a run's own; `base` itself where the run has none."""
    if template is None:
        return base
    digest = hashlib.sha256(f"{base.tokenizer_fingerprint}\n{template}".encode()).hexdigest()
    return replace(base, tokenizer=with_chat_template(base.tokenizer, template), tokenizer_fingerprint=digest)


def tokenizer_here(model: ModelConfig, paths: PathsConfig) -> str | None:
    """A model's `tokenizer_fingerprint` as its files are now; None where it is no folder of this machine."""
    source = locate_model(model, paths)
    if isinstance(source, Missing) or source.kind != "folder":
        return None
    return tokenizer_fingerprint(Path(source.location))


def require_causal(name: str, kind: ModelKind) -> None:
    """Raises ValueError for an encoder-decoder or a classifier, which scores no next token of a text."""
    if kind is not ModelKind.causal:
        raise ValueError(
            f"{name}: a model of kind {kind.value} scores no next token of a whole text; MMLU, perplexity and tasks "
            f"are for causal models"
        )


def chosen_systems(sweep: str | None, run_ids: Sequence[str], runs: Path | None) -> list[System]:
    """The runs that are named, and the finished runs of a sweep, in its order. A note says which are left out.

    Raises:
        ValueError: no such sweep or run, or a sweep of which nothing is done.
    """
    paths = paths_of_environment(runs)
    folder = Path(paths.runs)
    if sweep is None and not run_ids:
        raise ValueError("nothing to measure: name a --sweep or a --run")
    named = [open_system(folder / run_id) for run_id in run_ids]
    found = named if sweep is None else [*named, *_of_sweep(paths, sweep)]
    unique: dict[str, System] = {}
    for system in found:
        unique.setdefault(system.run_id, system)
    return list(unique.values())


def _of_sweep(paths: PathsConfig, sweep: str) -> list[System]:
    """The runs of a sweep whose folders are whole; a note says which are left out."""
    planned = sweep_runs(sweep, ledger_url(paths))
    systems: list[System] = []
    unfinished = list(planned.unfinished)
    for run_id in planned.run_ids:
        try:
            systems.append(open_system(Path(paths.runs) / file_name(run_id, "run")))
        except (OSError, ValueError) as error:
            unfinished.append((run_id, str(error)))
    line = left_out(sweep, unfinished)
    if not systems:
        raise ValueError(line or f"--sweep {sweep}: it has no runs")
    if line is not None:
        say_note(line)
    return systems


def _open_model(target: Target) -> Iterator[tuple[LoadedBase, dict[str, str | None]]]:
    """Each adapter that needs a base of its own, then the model with all those that can share it."""
    assert target.model is not None
    model: ModelConfig = model_choice(target.model)
    paths = paths_of_environment(target.runs)
    source = locate_model(model, paths)
    if isinstance(source, Missing):
        raise ValueError(str(source))
    checkpoint = checkpoint_folder(source, Path(paths.cache))
    is_seq2seq = AutoConfig.from_pretrained(checkpoint).is_encoder_decoder
    require_causal(target.model, ModelKind.seq2seq if is_seq2seq else model.kind)
    device = resolve_device(Device.auto)
    quant = resolved_quant(
        adapters_quant(target.adapters) if target.quant is None else quant_choice(target.quant), device
    )
    say_if_slow(quant, device)
    methods = [bank_method(folder) for folder in target.adapters]
    named = list(zip(adapter_names(target.adapters), target.adapters, methods, strict=True))
    before: LoadedBase | None = None
    for name, folder, method in named:
        if method in SHARED_BASE_METHODS:
            continue
        if before is not None:
            before.bank.remove_member("adapter")  # whoever scored it still holds it: one model in memory is enough
        before = load_base(source, quant, device, Path(paths.cache), method=method)
        load_adapter_of(before, "adapter", folder, model)
        yield with_own_tokenizer(before, folder), {name: "adapter"}
    shared = {name: folder for name, folder, method in named if method in SHARED_BASE_METHODS}
    if shared or not named:
        if before is not None:
            before.bank.remove_member("adapter")
        base = load_base(source, quant, device, Path(paths.cache))
        yield from _sharing(base, shared, model)


def named_model(model: str) -> ModelConfig:
    """The model that --model names; of logit arithmetic the large one, by whose tokenizer texts are read."""
    return model_choice(parse_proxy(model).large if is_proxy(model) else model)


def _open_proxy(target: Target) -> Iterator[tuple[LoadedBase, dict[str, str | None]]]:
    """The large model with the run's change of the small one, as one system."""
    assert target.model is not None
    spec, paths = parse_proxy(target.model), paths_of_environment(target.runs)
    if target.adapters:
        raise ValueError(f"--adapter with --model {target.model}: its run says which adapter; leave --adapter out")
    folder = Path(paths.runs) / spec.run
    system = open_system(folder if folder.is_dir() else Path(spec.run))
    if system.member is None:
        raise ValueError(f"--model {target.model}: {system.name} is an untouched base, which changed nothing")
    require_causal(system.name, system.spec.model.kind)
    if (method := serving_method(system)) not in SHARED_BASE_METHODS:
        served = ", ".join(sorted(one.value for one in SHARED_BASE_METHODS - {AdapterMethod.none}))
        raise ValueError(
            f"--model {target.model}: {system.name} is adapter.method={method.value}, beside which its untouched base "
            f"isn't kept; take a run of {served}"
        )
    ((large, _),) = _open_model(replace(target, model=spec.large))
    with loaded([system], paths, resolve_device(Device.auto)) as small:
        times = "" if spec.alpha == 1 else f"@{spec.alpha:g}"
        name = f"{named_model(target.model).name}+{system.name}{times}"
        yield proxied(large, small, system.member, spec.alpha, name), {name: MEMBER}


def _sharing(
    base: LoadedBase, adapters: Mapping[str, Path], model: ModelConfig
) -> Iterator[tuple[LoadedBase, dict[str, str | None]]]:
    """Adapters in one base's bank: those that read texts by its tokenizer together, others one by one."""
    alone: list[tuple[LoadedBase, dict[str, str | None]]] = []
    together: dict[str, str | None] = {}
    for number, (name, folder) in enumerate(adapters.items()):
        load_adapter_of(base, member := f"adapter{number}", folder, model)
        read = with_own_tokenizer(base, folder)
        if read is base:
            together[name] = member
        else:
            alone.append((read, {name: member}))
    if together or not adapters:
        yield base, together or {model.name: None}
    yield from alone


def with_own_tokenizer(base: LoadedBase, adapter: Path) -> LoadedBase:
    """The base read through the tokenizer and the chat template beside an adapter, where those are others.

    Args:
        base: with the adapter in its bank.
        adapter: its folder.

    Returns:
        `base` itself where nothing differs.

    Raises:
        ValueError: files of a tokenizer that can't be read, or tokens without embeddings.
    """
    own = _own_tokenizer(adapter, base.tokenizer)
    if own is None or _reads_alike(own, base.tokenizer):
        return base
    model: Any = base.bank.base
    rows = model.get_input_embeddings().weight.shape[0]
    if len(own) > rows:
        raise ValueError(f"{adapter}: its tokenizer has {len(own)} tokens, and the embeddings {rows} rows")
    here = base.source.location
    say_note(f"{adapter}: read by the tokenizer and the chat template in it, which are others than those of {here}")
    digest = hashlib.sha256(f"{tokenizer_fingerprint(adapter)}\n{own.chat_template}".encode()).hexdigest()
    return replace(base, tokenizer=own, tokenizer_fingerprint=digest)


def _own_tokenizer(adapter: Path, of_base: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase | None:
    """The tokenizer that an adapter's folder holds; the base's with the folder's template where it has only that."""
    template = _adapters_template(adapter)
    if any((adapter / name).is_file() for name in ("tokenizer_config.json", "tokenizer.json")):
        try:
            own: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(adapter)
        except Exception as error:  # the tokenizers library raises no narrower one
            reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            raise ValueError(
                f"{adapter}: its tokenizer can't be read ({reason}); copy it anew, or remove its files for the base's"
            ) from error
        return own
    if template is None:
        return None
    own = copy.deepcopy(of_base)
    own.chat_template = template
    return own


def _adapters_template(adapter: Path) -> str | None:
    """The chat template in an adapter's folder, or by the record beside it the one that its run was trained in."""
    file = adapter / CHAT_TEMPLATE
    if file.is_file():
        return file.read_text(encoding="utf-8")
    record = record_beside(adapter)
    if record is None or not record.spec:
        return None
    return RunSpec.from_dict(record.spec, str(run_folder_of(adapter) / RECORD_FILE)).own_template


def _reads_alike(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> bool:
    """Whether two tokenizers make the same tokens of a text and end answers by the same one."""

    def facts(tokenizer: PreTrainedTokenizerBase) -> tuple[Any, ...]:
        return tokenizer.eos_token_id, tokenizer.chat_template, tokenizer.encode(_PROBE), tokenizer.get_vocab()

    return facts(one) == facts(other)


def load_adapter_of(base: LoadedBase, member: str, folder: Path, model: ModelConfig) -> None:
    """Reads an adapter that a folder holds into a base's bank, after a look at which base it is for.

    Raises:
        ValueError: an adapter of other weights, by its record or by the folder that it names; one that can't be served.
    """
    if (record := record_beside(folder)) is not None:
        require_recorded_base(record, base.fingerprint, base.source.location)
        if folder.name == "adapter" and (problem := changed_problem(folder, record)):
            raise ValueError(problem)
    elif (folder / ADAPTER_CONFIG).is_file():
        _require_named_base(folder, base, model)
    base.bank.load_member(member, folder)


def adapter_names(folders: Sequence[Path]) -> list[str]:
    """Names of adapters: those of runs are called as their run, and by the step at which a snapshot was kept; others
    as their folder; equal names are numbered.
    """
    names: list[str] = []
    for number, folder in enumerate(map(Path.absolute, folders)):
        name = folder.name if folder.name != "adapter" else folder.parent.name
        if folder.parent.name == SNAPSHOTS:
            name = f"{run_folder_of(folder).name} {folder.name}"
        names.append(name if name not in names else f"{name}-{number}")
    return names


def _require_named_base(folder: Path, base: LoadedBase, model: ModelConfig) -> None:
    """Holds the base that an adapter's config names against the one here, as far as that can be told.

    Raises:
        ValueError: it names a folder of this machine with other weights.
    """
    saved = read_peft_config(folder)
    made_for, revision = str(saved.get("base_model_name_or_path") or ""), saved.get("revision")
    here = Path(base.source.location)
    if not made_for or Path(made_for).resolve() == here.resolve():
        return
    if (Path(made_for) / MODEL_CONFIG).is_file() and here.is_dir() and weights_differ(Path(made_for), here):
        raise ValueError(
            f"{folder}: it was made for {made_for} (base_model_name_or_path), whose weights are not those of {here}; "
            "name that model by --model"
        )
    known = {Path(name).name.lower() for name in (model.hub_id, model.name, *model.aliases, str(here))}
    other_revision = revision not in (None, "main", model.revision)
    if Path(made_for).name.lower() not in known or other_revision:
        at = f", revision {revision}" if revision else ""
        say_note(f"{folder} names {made_for}{at} for its base; it is scored on {model.hub_id} ({here})")


def record_beside(adapter: Path) -> RunRecord | None:
    """The record of the run that an adapter's folder belongs to; None for an adapter of other origin."""
    folder = run_folder_of(adapter)
    return load_record(folder) if (folder / RECORD_FILE).is_file() else None


def run_folder_of(adapter: Path) -> Path:
    """The folder of the run that left an adapter: above `adapter/`, and above `adapters/step-...`."""
    above = adapter.absolute().parent
    return above.parent if above.name == SNAPSHOTS else above


def adapters_quant(adapters: Sequence[Path]) -> QuantConfig:
    """How the adapters' own base was stored, from the records beside them; unquantized where there is no adapter.

    Raises:
        ValueError: an adapter without a record, or adapters of different bases: say --quant.
    """
    if not adapters:
        return quant_choice("none")
    found: list[QuantConfig] = []
    for folder in adapters:
        record = record_beside(folder)
        if record is None:
            raise ValueError(f"--adapter {folder}: no record beside it says how its base was quantized; say --quant")
        found.append(RunSpec.from_dict(record.spec, str(run_folder_of(folder) / RECORD_FILE)).quant)
    if any(quant != found[0] for quant in found):
        raise ValueError("--adapter: these adapters were trained on differently quantized bases; score them apart")
    return found[0]


def judged_answers(
    answers: Sequence[Path], sweep: str | None, run_ids: Sequence[str], runs: Path | None
) -> tuple[Path, ...]:
    """Answer files and run folders that a tournament is to be made of."""
    folders = [system.folder for system in chosen_systems(sweep, run_ids, runs)] if sweep or run_ids else []
    return (*answers, *folders)
