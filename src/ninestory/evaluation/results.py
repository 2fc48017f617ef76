"""Stored results of evaluations: an append-only file of JSON lines, so a run that was cut off continues.

A line's key is a hash of everything that an output depends on: the model, its adapter, the runtime and data type, the
task with its settings, and the case. A changed prompt or checkpoint therefore never reuses an old result.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from ninestory.core.errors import InvalidRequest


@dataclass(frozen=True)
class CaseResult:
    """One case's output (JSON data) and the value of each metric."""

    case: str
    output: Any
    metrics: dict[str, float]


@dataclass(frozen=True)
class ModelIdentity:
    """What distinguishes one model's results from another's.

    Attributes:
        model: fingerprint of the checkpoint.
        adapter: fingerprints of its adapters with their weights, "" for none.
        runtime: torch, llamacpp, openai …
        dtype: of the weights, "" where the runtime does not say.
    """

    model: str
    adapter: str = ""
    runtime: str = ""
    dtype: str = ""


class ResultsFile:
    """The results of one model in a file of JSON lines.

    Raises:
        InvalidRequest: a line other than the last is not a result. A half-written last line (a killed run) is dropped.
    """

    def __init__(self, path: Path, identity: ModelIdentity) -> None:
        self.path = path
        self._identity = asdict(identity)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._results, whole = _read(path)
        self._file = path.open("ab")
        self._file.truncate(whole)

    def __enter__(self) -> ResultsFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def key(self, task: str, settings: Mapping[str, Any], case: str, request: Any) -> str:
        """The key of one case under this model."""
        content = json.dumps(
            [self._identity, task, dict(settings), case, request], sort_keys=True, ensure_ascii=False, default=str
        )
        return hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()

    def get(self, key: str) -> CaseResult | None:
        return self._results.get(key)

    def append(self, key: str, task: str, result: CaseResult) -> None:
        """Add a result; it is on the disk when this returns."""
        line = json.dumps({"key": key, "task": task, **asdict(result)}, ensure_ascii=False)
        self._file.write(line.encode("utf-8", "surrogatepass") + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._results[key] = result


def _read(path: Path) -> tuple[dict[str, CaseResult], int]:
    """The results of a file by key, and how many of its bytes are whole lines."""
    results: dict[str, CaseResult] = {}
    whole = 0
    if not path.exists():
        return results, whole
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            break
        try:
            row = json.loads(line)
            results[row["key"]] = CaseResult(row["case"], row["output"], row["metrics"])
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidRequest(
                f"{path}, line {number} is not a stored result: {error}.",
                hint="Name another results file; this one was written by something else or is damaged.",
                hint_zh="请指定其他结果文件；该文件由其他程序写入或已损坏。",
                param="results",
            ) from error
        whole += len(line)
    return results, whole
