"""Evaluation tasks for every floor: cases, the kind of request, and metrics per case.

A floor brings cases and metrics, and hands in the callable that asks its engine; running, storing and resuming are
here and in `results.py`, comparing two models is in `paired.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Literal

from ninestory.core.progress import Progress
from ninestory.evaluation.results import CaseResult, ResultsFile

Asked = Literal["score", "generate", "search", "look", "transcribe"]


@dataclass(frozen=True)
class EvalCase:
    """One question of a task, as plain JSON data.

    Attributes:
        id: unique within the task.
        request: the model's input (a prompt, a path, token ids …).
        target: the reference answer; None if nothing is compared.
    """

    id: str
    request: Any
    target: Any = None


@dataclass(frozen=True)
class EvalTask:
    """A set of cases with the metrics that judge their answers.

    Attributes:
        name: as the reports show it, for example `ceval/law`.
        asked: kind of request that the engine has to support.
        cases: in the order of the report.
        metrics: name → function of a case and the model's output; NaN where a case has no value.
        settings: everything else that an output depends on (few-shot examples, token limits); part of the key under
            which a result is stored.
    """

    name: str
    asked: Asked
    cases: Sequence[EvalCase]
    metrics: Mapping[str, Callable[[EvalCase, Any], float]]
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskResult:
    """The outputs and metric values of one model on all cases of a task, in the order of the cases."""

    task: str
    cases: list[CaseResult]

    def values(self, metric: str) -> list[float]:
        """One value per case."""
        return [case.metrics[metric] for case in self.cases]

    def mean(self, metric: str) -> float:
        """Mean over the cases that have a value; NaN if none has."""
        values = [value for value in self.values(metric) if value == value]  # NaN differs from itself
        return fmean(values) if values else float("nan")


def run_task(
    task: EvalTask,
    ask: Callable[[EvalCase], Any],
    *,
    results: ResultsFile | None = None,
    progress: Progress | None = None,
) -> TaskResult:
    """Ask every case once and judge its output.

    Args:
        ask: returns the model's output for a case as JSON data.
        results: stored outputs; a case that is stored is not asked again, a new one is appended when it is answered.
        progress: told after every case; its cancellation stops the run, and a later run continues from `results`.

    Raises:
        Cancelled: by `progress`. Whatever `ask` raises.
    """
    judged = []
    for number, case in enumerate(task.cases, 1):
        key = results.key(task.name, task.settings, case.id, case.request) if results else ""
        stored = results.get(key) if results else None
        output = stored.output if stored else ask(case)
        metrics = {name: float(metric(case, output)) for name, metric in task.metrics.items()}
        result = CaseResult(case.id, output, metrics)
        if results and not stored:
            results.append(key, task.name, result)
        judged.append(result)
        if progress:
            progress.update(number, len(task.cases), task.name)
    return TaskResult(task.name, judged)
