"""From a resolved model to an engine in this process: one table of openers, and the provider that lends engines."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from ninestory.core.config import RuntimeSettings
from ninestory.core.errors import Unsupported
from ninestory.core.paths import Home
from ninestory.core.tasks import VERBS, Task
from ninestory.models.adapter_base import check_adapter_bases
from ninestory.models.resolve import resolve
from ninestory.models.resolved import ResolvedModel
from ninestory.runtimes.protocol import Engine

_LANGUAGE_TASKS: set[Task] = {"chat", "embedding", "rerank"}
# (format of the files, family) → "module:function", called with the model and the settings. "*" is any family of
# language models: which of them the runtime knows, it says itself.
OPENERS: dict[tuple[str, str], str] = {
    ("gguf", "*"): "ninestory.runtimes.llamacpp.engine:LlamaCppEngine",
    ("onnx", "*"): "ninestory.runtimes.onnx.engine:open_engine",
    ("remote", "*"): "ninestory.runtimes.remote.engine:RemoteEngine",
    ("safetensors", "*"): "ninestory.runtimes.torch.environment:open_checkpoint",
    ("pickle", "*"): "ninestory.runtimes.torch.environment:open_checkpoint",
}


def find_opener(model: ResolvedModel, settings: RuntimeSettings) -> str:
    """The opener of a model's files.

    Raises:
        Unsupported: no runtime opens this kind of model, or `settings.runtime` names another runtime than the one that
            does.
    """
    opener = OPENERS.get((model.format, model.architecture))
    if opener is None and _LANGUAGE_TASKS & set(model.tasks):
        opener = OPENERS.get((model.format, "*"))
    if opener is None:
        verb = f"'ninestory {VERBS[model.tasks[0]]}'" if model.tasks else "BASE+ADAPTER"
        raise Unsupported(
            f"{model.reference} ({model.architecture}) is for {', '.join(model.tasks) or 'use on a base'}; "
            "no runtime here opens it.",
            hint=f"It is used by {verb}.",
            hint_zh=f"请通过 {verb} 使用。",
            param="model",
        )
    runtime = opener.removeprefix("ninestory.runtimes.").partition(":")[0].partition(".")[0]
    if settings.runtime and settings.runtime != runtime:
        raise Unsupported(
            f"The runtime {settings.runtime!r} cannot open {model.reference} ({model.format} files).",
            hint=f"Leave --runtime out: {runtime} opens them.",
            hint_zh=f"去掉 --runtime：{runtime} 可以打开这些文件。",
            param="runtime",
        )
    return opener


def load_engine(model: ResolvedModel, settings: RuntimeSettings) -> Engine:
    """Load `model` in this process. Heavy modules are imported here, by the runtime that needs them.

    Raises:
        Conflict: one of its adapters was trained on another base. Unsupported: see `find_opener`.
    """
    module, _, name = find_opener(model, settings).partition(":")
    model = replace(model, notes=[*model.notes, *check_adapter_bases(model)])
    engine: Engine = getattr(importlib.import_module(module), name)(model, settings)
    return engine


def check_task(model: str, family: str, tasks: list[Task] | tuple[Task, ...], task: Task) -> None:
    """Refuse a model that is lent for a task it has not.

    Raises:
        Unsupported: it is for other tasks; the hint names the verb that uses it.
    """
    if task in tasks:
        return
    verb = f"It is used by 'ninestory {VERBS[tasks[0]]}'." if tasks else "Use it as BASE+ADAPTER."
    raise Unsupported(
        f"{model} ({family}) cannot {task}; it is for {', '.join(tasks) or 'use on a base'}.",
        hint=verb,
        hint_zh=f"请通过 ninestory {VERBS[tasks[0]]} 使用。" if tasks else "请写成 基座+适配器。",
        param="model",
    )


class LocalEngines:
    """Loads engines into this process; what the command line, the library and their jobs hand to floors.

    One engine is kept for each model and its overrides until `close`, so that a session may ask for it again.

    Args:
        loaded: engines that are there already, by reference; they stay their owner's to close.
    """

    def __init__(self, home: Home, settings: RuntimeSettings, loaded: Mapping[str, Engine] | None = None) -> None:
        self._home, self._settings, self._loaded = home, settings, dict(loaded or {})
        self._engines: dict[tuple[str, int, str], Engine] = {}

    def __enter__(self) -> LocalEngines:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def get(
        self, reference: str, task: Task, *, workers: int = 1, overrides: Mapping[str, Any] | None = None
    ) -> Iterator[Engine]:
        """Lend the engine of a model; see `EngineProvider`."""
        if reference in self._loaded and workers == 1 and not overrides:
            yield self._loaded[reference]
            return
        key = (reference, workers, repr(sorted((overrides or {}).items())))
        if key not in self._engines:
            model = resolve(reference, self._home)
            check_task(model.reference, model.architecture, model.tasks, task)
            settings = replace(self._settings, **(overrides or {}))
            engine = load_engine(model, settings)
            if workers > 1:
                from ninestory.runtimes.engine_process import EngineProcesses

                engine = EngineProcesses(self._home, reference, settings, workers, local=engine)
            self._engines[key] = engine
        engine = self._engines[key]
        check_task(engine.info.model, engine.info.architecture, engine.info.tasks, task)
        yield engine

    def close(self) -> None:
        """Free every engine. Idempotent."""
        while self._engines:
            self._engines.popitem()[1].close()
