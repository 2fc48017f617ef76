"""Stream the rows of data files with their line numbers: json, jsonl, csv, tsv, parquet, txt."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ninestory.core.errors import Damaged, InvalidRequest, NotFound
from ninestory.core.extras import require
from ninestory.core.regular_file import open_regular_text
from ninestory.core.text import broken_string

SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".txt")
_BLOCK = 1 << 16  # characters of a JSON list that are read at once


@dataclass(frozen=True)
class SourceRow:
    """One row. `fault` says why it could not be read; then `values` is empty."""

    file: str
    line: int
    values: dict[str, Any]
    fault: str = ""


def read_rows(path: Path, kind: str = "") -> Iterator[SourceRow]:
    """The rows of a file, or of every data file of a folder in the order of their names.

    Files are streamed, so they may be larger than memory.

    Args:
        kind: suffix of a file whose name has none (an upload).

    Raises:
        NotFound: nothing is there. InvalidRequest: an unknown kind of file. Damaged: the content is not what the suffix says.
    """
    if path.is_dir():
        files = [file for file in sorted(path.iterdir()) if file.suffix.lower() in SUFFIXES]
        if not files:
            raise _missing(path)
        for file in files:
            yield from read_rows(file)
        return
    if not path.is_file():
        raise _missing(path)
    suffix = kind or path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InvalidRequest(
            f"{path.name} is not a data file; expected {', '.join(SUFFIXES)}.",
            hint="Convert it to JSON lines: one JSON object a line.",
            hint_zh="请转换为 JSONL：每行一个 JSON 对象。",
            param="data",
        )
    if suffix == ".parquet":
        yield from _parquet(path)
        return
    try:
        yield from {".json": _json, ".jsonl": _jsonl, ".csv": _csv, ".tsv": _csv, ".txt": _text}[suffix](path)
    except UnicodeDecodeError as error:
        raise Damaged(
            f"{path.name} is not UTF-8 (byte {error.start}).",
            hint="Save it as UTF-8.",
            hint_zh="请另存为 UTF-8 编码。",
            param="data",
        ) from error


def _json(path: Path) -> Iterator[SourceRow]:
    """A list of objects; what turns out to be JSON lines under this name is read as such."""
    with open_regular_text(path, "utf-8-sig") as file:
        text = file.read(_BLOCK)
        while text.isspace() and (more := file.read(_BLOCK)):
            text += more
        if text.lstrip().startswith("["):
            yield from _listed(path, file, text)
            return
    yield from _jsonl(path)


def _listed(path: Path, file: IO[str], text: str) -> Iterator[SourceRow]:
    """Stream a JSON array. `text` is the read buffer, refilled when an object reaches its end."""
    decoder, at, line, counted = json.JSONDecoder(), text.index("[") + 1, 1, 0
    while True:
        while at < len(text) and text[at] in " \t\r\n,":
            at += 1
        line, counted = line + text.count("\n", counted, at), at
        if text.startswith("]", at):
            return
        try:
            value, end = decoder.raw_decode(text, at)
            complete = end < len(text)  # otherwise a number may go on
            error: Exception | None = None
        except (ValueError, RecursionError) as failed:
            error = failed
            complete = getattr(failed, "pos", 0) < len(text) - 16 and not str(failed).startswith("Unterminated")
        if not complete and (more := file.read(max(_BLOCK, len(text) - at))):
            text, at, counted = text[at:] + more, 0, 0
            continue
        if error:
            raise Damaged(
                f"{path.name}, line {line}: this is not JSON: {error}.",
                hint="Correct that line; nothing after it can be read.",
                hint_zh="请修正该行；其后的内容无法读取。",
                param="data",
            ) from error
        yield _row(path, line, value)
        at = end


def _jsonl(path: Path) -> Iterator[SourceRow]:
    with open_regular_text(path, "utf-8-sig") as file:
        for number, text in enumerate(file, 1):
            if not text.strip():
                continue
            try:
                value = json.loads(text)
            except (ValueError, RecursionError) as error:
                yield SourceRow(path.name, number, {}, f"it is not JSON: {error}")
                continue
            yield _row(path, number, value)


def _row(path: Path, line: int, value: Any) -> SourceRow:
    if (place := broken_string(value)) is not None:
        return SourceRow(path.name, line, {}, f"{place or 'it'} holds half a character (a lone surrogate)")
    if isinstance(value, dict):
        return SourceRow(path.name, line, value)
    return SourceRow(path.name, line, {}, f"it is {str(value)[:40]!r}; expected a JSON object")


def _csv(path: Path) -> Iterator[SourceRow]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    with open_regular_text(path, "utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter=delimiter, restkey="", strict=True)
        while True:
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield SourceRow(path.name, reader.line_num, {}, f"it is not CSV: {error}")
                continue
            if "" in values or None in values.values():
                columns = len(reader.fieldnames or [])
                yield SourceRow(path.name, reader.line_num, {}, f"it does not have the {columns} columns of the head")
                continue
            yield SourceRow(path.name, reader.line_num, dict(values))


def _text(path: Path) -> Iterator[SourceRow]:
    """Paragraphs: a blank line ends a text."""
    lines: list[str] = []
    start = 1
    with open_regular_text(path, "utf-8-sig") as file:
        for number, text in enumerate(itertools.chain(file, [""]), 1):
            if text.strip():
                start = start if lines else number
                lines.append(text.rstrip("\r\n"))
            elif lines:
                yield SourceRow(path.name, start, {"text": "\n".join(lines)})
                lines = []


def _parquet(path: Path) -> Iterator[SourceRow]:
    parquet = require("pyarrow.parquet", "train", "Reading Parquet files")
    try:
        number = 0
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=512):
                for values in batch.to_pylist():
                    number += 1
                    yield SourceRow(path.name, number, values)
    except (OSError, ValueError) as error:
        raise Damaged(
            f"{path.name} is not a valid Parquet file: {error}",
            hint="Write it again.",
            hint_zh="请重新生成该文件。",
            param="data",
        ) from error


def _missing(path: Path) -> NotFound:
    return NotFound(
        f"There is no data at {path}.",
        hint=f"Name a file or a folder of files: {', '.join(SUFFIXES)}.",
        hint_zh=f"请指定数据文件或目录：{'、'.join(SUFFIXES)}。",
        param="data",
    )
