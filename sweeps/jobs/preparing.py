"""Before a run's first step: its folder, its rows, and its member of the group."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import yaml

from eval.benchmarks.held_out_rows import split_examples
from harness.banks.load import LoadedBase, calibrate, set_master_weights, set_num_labels, take_over
from harness.config.schema import AdapterConfig, ModelKind
from harness.data.labels import num_labels
from harness.data.selection.holdout import divided, shared_lines
from harness.data.selection.knowledge import knowledge_file, knowledge_texts
from harness.data.selection.rows import SELECTED_FILE, write_selected
from harness.data.source import fingerprint, locate_dataset
from harness.data.tokens import EncodedExamples, Lengths, TokenizedExample, tokenize_dataset
from harness.files.atomic import write_atomically, write_json
from harness.files.hub import Missing
from harness.identity.kept import proved
from harness.runs.record import CHECKPOINT_FOLDER, CONFIG_FILE, RECORD_FILE
from harness.runs.start import start_digest
from harness.training.checkpoint import checkpoints
from harness.training.group import Member, StepMetrics
from harness.training.held_out import EvalPoint, HeldOut
from harness.training.schedule import num_steps
from harness.training.tracking import Tracker
from sweeps.jobs.callbacks import remove_callback_files
from sweeps.jobs.claimed_run import ClaimedRun
from sweeps.jobs.context import Context, Workplace
from sweeps.jobs.held_out import target_bytes
from sweeps.jobs.selection import Chosen, chosen_parts
from sweeps.plan.inputs import DATA, require_planned

_KEPT_TOKENS = 512  # of a text whose knowledge is kept
_YAML = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # the same text, ten times as fast, where libyaml is there


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What a run trains on, and what it is measured on."""

    examples: EncodedExamples
    num_characters: Lengths  # of each
    held_out: HeldOut | None
    chosen: Chosen


def prepare(context: Context, base: LoadedBase, run: ClaimedRun) -> None:
    """Writes the resolved config, tokenizes, opens the member. Raises ValueError for what a user can mend."""
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / RECORD_FILE).unlink(missing_ok=True)  # from here on the folder is not done
    write_atomically(run.folder / CONFIG_FILE, yaml.dump(run.spec.to_dict(), Dumper=_YAML, sort_keys=False))
    if run.spec.dataset is None:
        return
    assert run.spec.train is not None
    context.tell(run.claim, phase="tokenizing")
    rows = read_rows(context, base, run)
    _note_rows(context, run, rows.chosen)
    total = num_steps(run.spec.train, len(rows.examples))
    _drop_checkpoint_of_other_inputs(run, base)
    if not checkpoints(run.folder / CHECKPOINT_FOLDER):
        remove_callback_files(run.folder)
    run.read_earlier_metrics()
    run.tracker = Tracker.start(context.settings.tracking, run.spec, run.label, context.settings.sweep, run.folder)

    def on_step(metrics: StepMetrics) -> None:
        if context.is_lost(run.claim):
            return
        run.add_step(metrics)
        assert run.tracker is not None
        run.tracker.log(metrics)
        context.tell(run.claim, phase="training", step=metrics.step, total=total, loss=metrics.loss)

    def on_eval(point: EvalPoint) -> None:
        run.add_point(point)
        assert run.tracker is not None
        run.tracker.log_values(point.step, asdict(point))

    run.member = member_of(base, run, rows, Path(context.settings.paths.cache), on_step)
    run.member.on_eval = on_eval
    run.member.lost = lambda: context.is_lost(run.claim)


def _note_rows(context: Context, run: ClaimedRun, chosen: Chosen) -> None:
    """Writes which rows were chosen into the run folder, and tells what its rows have to be told about."""
    assert run.spec.dataset is not None
    if chosen.selected is not None and chosen.lines is not None:
        write_selected(run.folder, chosen.selected, chosen.lines)
        run.notes.append(
            f"{len(chosen.selected.places):,} of {len(chosen.lines):,} rows train, chosen by "
            f"dataset.select={run.spec.dataset.select.value}: {SELECTED_FILE}"
        )
    for note in run.data.notes if run.data is not None else ():
        context.tell(run.claim, phase="note", note=f"note: {note}")


def read_rows(place: Workplace, base: LoadedBase, run: ClaimedRun) -> Rows:
    """Tokenizes what isn't in the cache yet, and holds rows out."""
    assert run.spec.dataset is not None
    assert run.spec.train is not None
    source = locate_dataset(run.spec.dataset, place.settings.paths)
    if isinstance(source, Missing):
        raise ValueError(str(source))
    run.data_fingerprint = fingerprint(source)
    if source.files:
        require_planned(run.inputs, {DATA: run.data_fingerprint}, run.spec)
    run.data = tokenize_dataset(
        run.spec.dataset,
        source,
        base.tokenizer,
        Path(place.settings.paths.cache) / "tokenized",
        empty_targets=run.spec.dataset.empty_targets.value,
    )
    run.data.require_fits(base.max_length, apart=run.spec.model.kind is ModelKind.seq2seq)
    if run.data.labels is not None:
        set_num_labels(base.bank, num_labels(run.spec.dataset, float(run.data.labels.max())))
    lines = shared_lines(run.spec.dataset, run.data)
    parts = divided(run.data, run.data.num_characters.astype(np.int64), run.spec.train, lines)
    if parts.num_twins:
        run.notes.append(f"{parts.num_twins:,} rows are equal to held-out ones and were left out of training")
    held_out = split_examples(run.spec, base, place.settings.paths) or parts.held_out
    chosen = chosen_parts(run.spec, base, run.data, parts, place.settings.paths)
    parts = chosen.parts
    calibrate(base.bank, run.spec.adapter, _calibration(base, run.spec.adapter, parts.examples), run.spec.train)
    set_master_weights(base.bank, run.spec.adapter, run.spec.train)
    return Rows(
        examples=parts.examples,
        num_characters=parts.num_characters,
        held_out=None if held_out is None else HeldOut(held_out, target_bytes(held_out, base.tokenizer)),
        chosen=chosen,
    )


def _calibration(
    base: LoadedBase, adapter: AdapterConfig, examples: EncodedExamples
) -> EncodedExamples | list[TokenizedExample]:
    """What a method starts from: the rows that train, or those whose knowledge it keeps, cut to 512 tokens."""
    if adapter.corda_keep is None:
        return examples
    texts = knowledge_texts(knowledge_file(adapter.corda_keep), adapter.corda_keep_sha256)
    ids = (np.array(base.tokenizer(text)["input_ids"][:_KEPT_TOKENS], dtype=np.int32) for text in texts)
    return [TokenizedExample(input_ids=tokens, num_source=1) for tokens in ids if len(tokens) > 1]


def member_of(
    base: LoadedBase, run: ClaimedRun, rows: Rows, cache: Path, on_step: Callable[[StepMetrics], None]
) -> Member:
    """What trains in the group, once its method is proved; on every rank the same."""
    assert run.spec.train is not None

    def on_added() -> None:
        weights = f"{base.fingerprint} {run.spec.quant}"
        run.proof = proved(base.bank, run.claim.run_id, run.spec.adapter, weights, cache / "identity")
        _take_start(base, run)

    return Member(
        run_id=run.claim.run_id,
        adapter=run.spec.adapter,
        train=run.spec.train,
        examples=rows.examples,
        num_characters=rows.num_characters,
        held_out=rows.held_out,
        until=run.until,
        checkpoint_folder=run.folder / CHECKPOINT_FOLDER,
        on_step=on_step,
        on_added=on_added,
    )


def _take_start(base: LoadedBase, run: ClaimedRun) -> None:
    """Gives a fresh member the tensors of `train.start_from`. Raises ValueError where they aren't the planned ones."""
    if run.spec.train is None or run.spec.train.start_from is None:
        return
    folder = Path(run.spec.train.start_from)
    if start_digest(folder) != run.spec.start_sha256:
        raise ValueError(
            f"train.start_from={folder}: the adapter was changed after this run was planned; plan it again"
        )
    take_over(base.bank, run.claim.run_id, run.spec.adapter, run.spec.train.seed, folder)
    run.notes.append(f"started from {folder}")


def _drop_checkpoint_of_other_inputs(run: ClaimedRun, base: LoadedBase) -> None:
    """Removes a checkpoint of other weights or rows, which were changed while the run was stopped."""
    inputs = {"base_fingerprint": base.fingerprint, "data_fingerprint": run.data_fingerprint}
    path = run.folder / CHECKPOINT_FOLDER / "inputs.json"
    if path.is_file() and json.loads(path.read_text()) != inputs:
        shutil.rmtree(path.parent)
    write_json(path, inputs)
