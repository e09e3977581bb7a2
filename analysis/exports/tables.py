"""Writes all frames of a sweep as Parquet or CSV, with a table of what each column is."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.frames import answers, describe, metrics, questions, ratings, runs, scores, to_parquet, verdicts
from analysis.tidy.sources import Source
from harness.files.atomic import csv_text, write_atomically

COLUMNS_FILE = "columns.csv"


def all_frames(source: Source) -> dict[str, pd.DataFrame]:
    """Every frame of a source, by its name; verdicts and ratings where a tournament is named."""
    runs_of: dict[str, Any] = {
        "runs_folder": source.runs_folder,
        "sweep": source.sweep,
        "tournament": source.tournament,
        "ledger_url": source.ledger_url,
    }
    found = {
        "runs": runs(**runs_of),
        "scores": scores(**runs_of),
        "questions": questions(**runs_of),
        "metrics": metrics(**runs_of),
        "answers": answers(**runs_of),
    }
    if source.tournament is None:
        return found
    return found | {"verdicts": verdicts(tournament=source.tournament), "ratings": ratings(**runs_of)}


def write_parquet(frames: dict[str, pd.DataFrame], out: Path) -> Iterator[Path]:
    """A Parquet file a frame; units and meanings are in its fields' metadata."""
    for name, frame in frames.items():
        to_parquet(frame, out / f"{name}.parquet")
        yield out / f"{name}.parquet"


def write_csv(frames: dict[str, pd.DataFrame], out: Path) -> Iterator[Path]:
    """A CSV a frame, with no cell that a spreadsheet would run, and what their columns are; what is missing: empty."""
    for name, frame in {**frames, COLUMNS_FILE.removesuffix(".csv"): columns_of(frames)}.items():
        plain = frame.astype("object").where(frame.notna(), None)
        write_atomically(out / f"{name}.csv", csv_text([str(column) for column in plain], plain.to_numpy().tolist()))
        yield out / f"{name}.csv"


def columns_of(frames: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """What the columns of several frames are: frame, name, type, unit, about."""
    parts = [describe(frame).assign(frame=name) for name, frame in frames.items()]
    return pd.concat(parts, ignore_index=True)[["frame", "name", "type", "unit", "about"]]
