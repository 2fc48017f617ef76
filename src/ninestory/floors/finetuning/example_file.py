"""RenderedRow rows on the disk: data may be larger than memory, of which each row takes 16 bytes here.

A record is a head, the token ids of one or two rows with a byte each for what is learned, and the row's meaning as
JSON. The file has no name: it is gone with the process, so a change of tokenizer or template never meets old tokens.
"""

from __future__ import annotations

import dataclasses
import json
import os
import struct
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ninestory.floors.finetuning.formats import Sample
from ninestory.training.batches import IGNORED, PreferencePair, TokenRow

_HEAD = struct.Struct("<IIIB")  # tokens of the row and of the rejected one, bytes of JSON, whether it was cut


@dataclass(frozen=True)
class TrainingExample:
    """A training row with the sample it was made from.

    Attributes:
        rejected: the worse answer to the same question, where preferences are learned.
        cut: it was longer than the limit.
    """

    row: TokenRow
    sample: Sample
    file: str
    line: int
    cut: bool = False
    rejected: TokenRow | None = None

    @property
    def tokens(self) -> int:
        return len(self.row.ids) + (len(self.rejected.ids) if self.rejected else 0)


class ExampleFile(Sequence[TrainingExample]):
    """All examples of a run on disk, in reading order."""

    def __init__(self, folder: Path | None = None) -> None:
        """`folder`: where the file lies; None = the system's place for temporary files."""
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - it lives as long as this object
        self._places = array("Q")
        self._end = 0

    def append(self, example: TrainingExample) -> None:
        rejected = example.rejected or TokenRow([], [])
        meaning = {"sample": dataclasses.asdict(example.sample), "file": example.file, "line": example.line}
        text = json.dumps(meaning, ensure_ascii=False).encode()
        head = _HEAD.pack(len(example.row.ids), len(rejected.ids), len(text), example.cut)
        record = b"".join([head, *(_packed(row) for row in (example.row, rejected)), text])
        self._file.write(record)
        self._places.append(self._end)
        self._end += len(record)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row, rejected, cut, meaning = self._read(index, whole=True)
        return TrainingExample(row, _sample(meaning["sample"]), meaning["file"], meaning["line"], cut, rejected)

    def training_row(self, index: int) -> TokenRow | PreferencePair:
        """The training row of an example, or its preference pair."""
        row, rejected, _, _ = self._read(index, whole=False)
        return row if rejected is None else PreferencePair(row, rejected)

    def _read(self, index: int, *, whole: bool) -> tuple[TokenRow, TokenRow | None, bool, dict[str, Any]]:
        place = range(len(self))[index]
        start = self._places[place]
        end = self._places[place + 1] if place + 1 < len(self) else self._end
        self._file.flush()
        record = os.pread(self._file.fileno(), end - start, start)
        first, second, text, cut = _HEAD.unpack_from(record)
        at = _HEAD.size
        row = _unpacked(record, at, first)
        rejected = _unpacked(record, at + 5 * first, second) if second else None
        meaning = json.loads(record[len(record) - text :]) if whole else {}
        return row, rejected, bool(cut), meaning


class SelectedExamples(Sequence[TrainingExample]):
    """A selection of examples in its own order; one may occur more than once."""

    def __init__(self, examples: ExampleFile, order: Sequence[int]) -> None:
        self._examples, self._order = examples, array("Q", order)

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self._examples[i] for i in self._order[index]]
        return self._examples[self._order[index]]

    @property
    def rows(self) -> SelectedRows:
        """Their training rows."""
        return SelectedRows(self._examples, self._order)


class SelectedRows(Sequence[Any]):
    """Rows, or pairs of them, read from the disk one at a time."""

    def __init__(self, examples: ExampleFile, order: Sequence[int]) -> None:
        self._examples, self._order = examples, order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self._examples.training_row(i) for i in self._order[index]]
        return self._examples.training_row(self._order[index])

    def __iter__(self) -> Iterator[Any]:
        return (self._examples.training_row(i) for i in self._order)


def _packed(row: TokenRow) -> bytes:
    return array("i", row.ids).tobytes() + bytes(label != IGNORED for label in row.labels)


def _unpacked(record: bytes, at: int, count: int) -> TokenRow:
    ids = array("i", record[at : at + 4 * count]).tolist()
    learned = record[at + 4 * count : at + 5 * count]
    return TokenRow(ids, [token if is_learned else IGNORED for token, is_learned in zip(ids, learned, strict=True)])


def _sample(table: dict[str, Any]) -> Sample:
    rejected = table.pop("rejected")
    return Sample(**table, rejected=_sample(rejected) if rejected else None)
