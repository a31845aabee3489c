"""Files in object storage: rows in, rows out, and never a half file under its final name."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from airflow_provider_dstny.api.errors import DstnyValidationError

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import ObjectStoragePath


def storage_path(path: str | ObjectStoragePath) -> ObjectStoragePath:
    """Return a path as an ObjectStoragePath: local, ``s3://``, ``gs://`` and what else Airflow knows."""
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    return ObjectStoragePath(path)


def write_jsonl(path: str | ObjectStoragePath, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows as JSON Lines and return their number. The file appears whole or not at all."""
    target = storage_path(path)
    partial = target.parent / f".{target.name}.partial"
    target.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with target.fs.open(partial.path, "w", encoding="utf-8", newline="\n") as lines:
        for row in rows:
            lines.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
            count += 1
    target.fs.mv(partial.path, target.path)
    return count


def count_rows(path: str | ObjectStoragePath) -> int:
    """Return the number of rows of a ``.csv`` or ``.jsonl`` file."""
    return sum(1 for _ in _rows(storage_path(path)))


def read_row(reference: str) -> tuple[dict[str, Any], bool]:
    """Read one row: ``<path>.csv#<row>`` or ``<path>.jsonl#<row>``, counted from 1.

    :return: the row, and whether its values are text cells.
    :raises DstnyValidationError: the reference has another form, or there is no such file or row.
    """
    path, _, number = reference.rpartition("#")
    if not path or not number.isdecimal() or int(number) < 1:
        raise DstnyValidationError(
            None, f"{reference!r} is not a row of a file: it must be like s3://bucket/calls.csv#1, counted from 1."
        )
    target = storage_path(path)
    try:
        row = next(islice(_rows(target), int(number) - 1, None), None)
    except FileNotFoundError:
        raise DstnyValidationError(None, f"{path} does not exist.") from None
    except json.JSONDecodeError as error:
        raise DstnyValidationError(None, f"{path} has a line that is not JSON (line {error.lineno}).") from None
    if not isinstance(row, dict):
        raise DstnyValidationError(None, f"{path} has no row {number}, or it is not an object.")
    return row, target.suffix == ".csv"


def _rows(path: ObjectStoragePath) -> Iterator[Any]:
    match path.suffix:
        case ".csv":
            with path.fs.open(path.path, "r", encoding="utf-8-sig", newline="") as lines:
                yield from csv.DictReader(lines)
        case ".jsonl":
            with path.fs.open(path.path, "r", encoding="utf-8") as lines:
                yield from (json.loads(line) for line in lines if line.strip())
        case suffix:
            raise DstnyValidationError(None, f"{path} must be a .csv or .jsonl file, not {suffix or 'without suffix'}.")
