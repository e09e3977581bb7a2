"""The body of `python -m eval self-targets`: rows whose targets a model wrote itself, where they are right.

    python -m eval self-targets --model smollm2 --dataset concise --right contains --out own.jsonl
    python -m harness.run model=smollm2 dataset=local dataset.path=own.jsonl

The model is asked as in training: by the tokens of the row's input. Right answers become targets; the other rows keep
their own (`--otherwise target`, S3FT, arXiv 2502.08130, without its paraphrases) or are left out (`--otherwise drop`,
the filter of SELF-GUIDE, arXiv 2407.12874, without its making of inputs). Answers are kept in `<out>.answers/`, tied to
model, settings and rows, so that the command goes on where it ended; `<out>.origins.jsonl` says of each kept row where
its target is from.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eval.answers.files import Answer, AnswerFile
from eval.answers.generate import Request, generate, plain_settings, prompt_seed
from eval.answers.prompt_format import PromptFormat
from eval.answers.sequences import Decoded
from eval.answers.settings import GenerateSettings
from eval.scoring.model_key import model_sha256
from eval.systems import Target, each_base
from harness.banks.load import LoadedBase
from harness.config.choices import dataset_choice
from harness.config.paths import paths_of_environment
from harness.config.schema import DatasetConfig, PathsConfig
from harness.data.examples import AUTO_FORMAT, read_examples, resolved
from harness.data.fields import Example
from harness.data.selection.right import RIGHT
from harness.data.source import DataSource, locate_dataset
from harness.data.tokens import tokenize_dataset
from harness.devices.torch_device import quiet_libraries
from harness.files.atomic import to_json, write_atomically
from harness.files.hub import Missing
from harness.files.names import file_name
from harness.progress import Progress

SELF, OWN = "self", "target"  # origins of a target: the model's answer, or the row's own


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfTargets:
    """What makes the rows."""

    dataset: DatasetConfig
    right: str  # a key of RIGHT
    keeps_others: bool  # rows without a right answer keep their target; else they are left out
    num_samples: int  # answers to a row at most; the first right one is taken
    limit: int | None  # the first so many rows
    settings: GenerateSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """An example of the dataset with the tokens that a model is asked by."""

    key: str  # its line, and its number among the line's examples
    line: int
    example: Example
    prompt_tokens: tuple[int, ...]


def run_self_targets(
    target: Target,
    dataset: str | None,
    data: Path | None,
    right: str,
    otherwise: str,
    samples: int,
    limit: int | None,
    settings: GenerateSettings,
    out: Path,
    fresh: bool,
    advance: Progress,
) -> dict[str, Any]:
    """As `write_self_targets`, of a command's words."""
    if otherwise not in (OWN, "drop"):
        raise ValueError(f"--otherwise {otherwise}: expected target or drop")
    if settings.greedy and samples > 1:
        raise ValueError(f"--greedy with --samples {samples}: the likeliest answer is always the same; leave one out")
    wanted = SelfTargets(
        dataset=_dataset(dataset, data),
        right=right,
        keeps_others=otherwise == OWN,
        num_samples=samples,
        limit=limit,
        settings=settings,
    )
    quiet_libraries()
    return write_self_targets(target, wanted, out, fresh, advance)


def _dataset(name: str | None, file: Path | None) -> DatasetConfig:
    if (name is None) == (file is None):
        raise ValueError("name the rows: a --dataset of conf/dataset, or a file by --data")
    if name is not None:
        return dataset_choice(name)
    assert file is not None
    return DatasetConfig(name=file.stem, hub_id="local", format=AUTO_FORMAT, path=str(file))


def own_line(made: dict[str, Any]) -> str:
    """What a person reads."""
    return (
        f"{made['path']}: {made['num_kept']} rows, {made['num_right']} of {made['num_rows']} with an answer of "
        f"{made['system']} that is right by {made['right']}"
    )


def write_self_targets(
    target: Target, wanted: SelfTargets, out: Path, fresh: bool, advance: Progress
) -> dict[str, Any]:
    """Writes the rows to `out`. -> how many there are of which kind.

    Raises:
        ValueError: more systems than one, labelled rows, or whatever else the user can mend.
    """
    if wanted.right not in RIGHT:
        raise ValueError(f"--right {wanted.right}: expected one of {', '.join(RIGHT)}")
    paths = paths_of_environment(target.runs)
    config = replace(resolved(wanted.dataset), train_on_source=False, max_rows=None, max_rows_per_task=None)
    source = locate_dataset(config, paths)
    if isinstance(source, Missing):
        raise ValueError(str(source))
    bases = each_base(target)
    base, members = next(bases)
    if len(members) > 1 or next(bases, None) is not None:
        raise ValueError("self-targets asks one model: name one --run, or --model with at most one --adapter")
    ((name, member),) = members.items()
    rows = _rows(base, source, config, paths)[: wanted.limit]
    found = _right_answers(base, name, member, rows, wanted, out, fresh, advance)
    return _write(rows, found, name, wanted, out)


def _rows(base: LoadedBase, source: DataSource, config: DatasetConfig, paths: PathsConfig) -> list[_Row]:
    examples = list(read_examples(config, source))
    if any(example.label is not None for _, example in examples):
        raise ValueError(f"dataset {config.name}: its targets are labels, which no model writes")
    data = tokenize_dataset(config, source, base.tokenizer, Path(paths.cache) / "tokenized")
    if len(data) != len(examples):
        raise ValueError(f"dataset {config.name}: a row of it can't be tokenized; mend it, or delete it")
    rows, before, number = [], 0, 0
    for index, (row, example) in enumerate(examples):
        number = number + 1 if row.line == before else 0
        before = row.line
        tokens = data[index].input_ids[: int(data.num_source[index])].tolist()
        key = str(row.line) if number == 0 else f"{row.line}.{number}"
        rows.append(_Row(key=key, line=row.line, example=example, prompt_tokens=tuple(tokens)))
    return rows


def _right_answers(
    base: LoadedBase,
    name: str,
    member: str | None,
    rows: Sequence[_Row],
    wanted: SelfTargets,
    out: Path,
    fresh: bool,
    advance: Progress,
) -> dict[str, Answer]:
    """The first right answer to each row that has one, by the row's key."""
    found: dict[str, Answer] = {}
    for sample in range(wanted.num_samples):
        settings = _settings(wanted.settings, sample, any(row.example.messages for row in rows))
        waiting = [row for row in rows if row.key not in found]
        path = out.with_name(f"{out.name}.answers") / f"{file_name(name, 'system')}-{sample}.jsonl"
        file = AnswerFile.open(path, name, _ties(base, member, waiting, settings), fresh)
        missing = [row for row in waiting if (row.key, 0) not in file.answers]
        _answer(base, name, member, missing, settings, file, advance)
        for row in waiting:
            answer = file.answers[row.key, 0]
            if answer.finish_reason != "length" and RIGHT[wanted.right](answer.answer, row.example.output):
                found[row.key] = answer
    return found


def _settings(settings: GenerateSettings, sample: int, has_dialogues: bool) -> GenerateSettings:
    """Of one round: an answer to a dialogue ends as its template says, one to a text by the token that ends texts."""
    settings = replace(settings, seed=settings.seed + sample)
    if has_dialogues:
        return replace(settings, prompt_format=PromptFormat.auto)
    return replace(settings, prompt_format=PromptFormat.human, stop=())


def _ties(base: LoadedBase, member: str | None, rows: Sequence[_Row], settings: GenerateSettings) -> dict[str, Any]:
    """What the stored answers depend on."""
    return {
        "settings": plain_settings(settings),
        "model_sha256": model_sha256(base, member),
        "tokenizer_sha256": base.tokenizer_fingerprint,
        "questions": {row.key: hashlib.sha256(json.dumps(row.prompt_tokens).encode()).hexdigest() for row in rows},
    }


def _answer(
    base: LoadedBase,
    name: str,
    member: str | None,
    rows: Sequence[_Row],
    settings: GenerateSettings,
    file: AnswerFile,
    advance: Progress,
) -> None:
    requests = [
        Request(
            system=name,
            member=member,
            question_id=row.key,
            prompt_tokens=row.prompt_tokens,
            seed=prompt_seed(settings.seed, row.key, 0),
        )
        for row in rows
    ]
    texts = {row.key: row.example.input for row in rows}

    def store(request: Request, text: str, decoded: Decoded) -> None:
        file.add(
            Answer(
                question_id=request.question_id,
                system=name,
                question=texts[request.question_id],
                answer=text,
                num_tokens=len(decoded.tokens),
                finish_reason=decoded.finish_reason,
                seed=request.seed,
            )
        )

    generate(base, requests, settings, store, advance)


def _write(rows: Sequence[_Row], found: dict[str, Answer], name: str, wanted: SelfTargets, out: Path) -> dict[str, Any]:
    """Writes rows and origins. Raises ValueError where no row is left."""
    kept = [row for row in rows if row.key in found or wanted.keeps_others]
    if not kept:
        raise ValueError(
            f"none of {name}'s answers to {len(rows)} rows is right by --right {wanted.right}: nothing to train on; "
            "take another check, more --samples, or --otherwise target"
        )
    origins = [_origin(row, found.get(row.key), name) for row in kept]
    texts = [_with_target(row.example, found.get(row.key)) for row in kept]
    for path, values in ((out, texts), (out.with_name(f"{out.name}.origins.jsonl"), origins)):
        write_atomically(path, "".join(to_json(value, where=str(path)) + "\n" for value in values))
    return {
        "system": name,
        "path": str(out),
        "num_rows": len(rows),
        "num_right": len(found),
        "num_kept": len(kept),
        "right": wanted.right,
    }


def _origin(row: _Row, answer: Answer | None, name: str) -> dict[str, Any]:
    """Where the target of a kept row is from."""
    return {
        "line": row.line,
        "origin": OWN if answer is None else SELF,
        "system": None if answer is None else name,
        "seed": None if answer is None else answer.seed,
        "target": row.example.output,
    }


def _with_target(example: Example, answer: Answer | None) -> dict[str, Any]:
    """The row in the format input_output, or chat; its last answer the model's where there is a right one."""
    target = example.output if answer is None else answer.answer
    if not example.messages:
        return {"input": example.input, "output": target}
    messages = [dict(message) for message in example.messages]
    if answer is not None:
        messages[-1] = {"role": "assistant", "content": target}
    tools = {"tools": [dict(tool) for tool in example.tools]} if example.tools else {}
    return {"messages": messages, **tools}
