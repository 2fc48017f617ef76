"""The folder of a run: its recipe, its log, its checkpoints, its curve and what came out of it.

recipe.json     what was asked for; running it again resumes the folder
log.jsonl       one line a step: {"step", "loss", "learning_rate", "gradient_norm", "tokens", …}
checkpoints/    see `checkpoints`
loss.png        the curve
adapter/        the result (peft's layout), or model/ after full tuning
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ninestory.core.errors import Conflict
from ninestory.core.paths import atomic_write


class RunFolder:
    """One run's files below `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def log(self) -> Path:
        return self.path / "log.jsonl"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def curve(self) -> Path:
        return self.path / "loss.png"

    def open(self, recipe: dict[str, Any], identity: dict[str, Any]) -> None:
        """Make the folder, or reuse the folder of an equal run.

        Args:
            recipe: saved_identity for people and for `resume`.
            identity: what must be equal for a resume (base, data, method, seed, …).

        Raises:
            Conflict: the folder belongs to another run; the message names what differs.
        """
        file = self.path / "recipe.json"
        if file.is_file():
            saved_identity = json.loads(file.read_text(encoding="utf-8"))["identity"]
            different = sorted(
                name for name in {*saved_identity, *identity} if saved_identity.get(name) != identity.get(name)
            )
            if different:
                raise Conflict(
                    f"The run {self.path.name!r} was started with another {', '.join(different)}; expected the same.",
                    hint="Give the new run a name of its own (--name), or delete that folder.",
                    hint_zh="请用 --name 另起名称，或删除该训练目录。",
                    param="name",
                    code="another_run",
                )
        with atomic_write(file, "w") as out:
            json.dump({"recipe": recipe, "identity": identity}, out, ensure_ascii=False, indent=2)

    def recipe(self) -> dict[str, Any]:
        """The recipe that the run was started with."""
        return json.loads((self.path / "recipe.json").read_text(encoding="utf-8"))["recipe"]

    def lines(self, kind: str | None = None) -> Iterator[dict[str, Any]]:
        """The log's lines in order; a torn last line (a killed process) is left out."""
        if not self.log.is_file():
            return
        with self.log.open(encoding="utf-8") as file:
            for text in file:
                if not text.endswith("\n"):
                    return
                line = json.loads(text)
                if kind is None or line["kind"] == kind:
                    yield line

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Append a line. Floats keep every bit."""
        with self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, "step": step, **values}, ensure_ascii=False) + "\n")

    def rewind(self, step: int) -> None:
        """Drop the lines after `step`; those steps will be run again."""
        remaining = [line for line in self.lines() if line["step"] <= step]
        with atomic_write(self.log, "w") as file:
            file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in remaining)

    def draw_curve(self) -> Path | None:
        """Draw the losses over the steps as PNG; None where matplotlib is not installed."""
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
        except ModuleNotFoundError:
            return None
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.subplots()
        for kind, label in (("step", "training"), ("evaluation", "held out")):
            points = [(line["step"], line["loss"]) for line in self.lines(kind)]
            if points:
                axes.plot(*zip(*points, strict=True), label=label, linewidth=1.2, marker="o" if kind != "step" else "")
        axes.set(xlabel="step", ylabel="loss", title=self.path.name)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
        with atomic_write(self.curve) as file:
            FigureCanvasAgg(figure).print_png(file)
        return self.curve
