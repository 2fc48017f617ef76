"""The nine floors by name, and what each adds to the command line, the server, the jobs and the page.

Strings only: reading the table loads no floor. `module:name` is imported by `load_part` when it is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Text:
    """A text in both languages."""

    en: str
    zh: str

    def in_language(self, language: str) -> str:
        return self.zh if language == "zh" else self.en


@dataclass(frozen=True)
class JobKind:
    """A kind of job that a floor's `JOB_HANDLERS` runs.

    Attributes:
        title: its name on the page.
        lane: the lane it runs in (serving/job_process.py).
    """

    name: str
    title: Text
    lane: str


@dataclass(frozen=True)
class Floor:
    """What a floor contributes. A floor that is not built yet has a name, a number, a view and a title only.

    Attributes:
        name: of its packages below `ninestory.floors`, `ninestory.cli` and `ninestory.serving.floors`.
        number: its story in the tower, from 1.
        view: name of its view in the page's addresses and of its icon.
        title: its name on the page.
        page: folder below `webui/static/floors` with index.js, i18n.js and style.css; "" when it has no page yet.
        verbs: its commands: verb → (module below `ninestory.cli.<name>`, line of help).
        routes: "module:name" of the function (context) → its routers; "" when the server has none of it.
        recipes: "module:name" of its `RECIPES`, by objective; "" when nothing of it is trained.
        ready_recipes: folder of recipe files in its package.
        job_handlers: "module:name" of its `JOB_HANDLERS`, by kind; "" when it has no kind of job.
        job_kinds: the kinds of job of which it has the handlers.
        extra: the optional dependency of pyproject.toml that it needs.
    """

    name: str
    number: int
    view: str
    title: Text
    page: str = ""
    verbs: Mapping[str, tuple[str, Text]] = field(default_factory=dict)
    routes: str = ""
    recipes: str = ""
    ready_recipes: str = ""
    job_handlers: str = ""
    job_kinds: tuple[JobKind, ...] = ()
    extra: str = ""


FLOORS: dict[str, Floor] = {
    floor.name: floor
    for floor in (
        Floor(
            "chat",
            1,
            "chat",
            Text("Chat", "对话"),
            page="chat",
            verbs={
                "chat": (
                    "chat",
                    Text("Talk with a model, or answer one question in a pipe", "与模型对话，或在管道中回答一个问题"),
                ),
                "prompt": ("prompt", Text("Task prompts: run, check and compare them", "任务提示：运行、检查与比较")),
                "judge": (
                    "judge",
                    Text("A model rates or compares the answers of others", "让一个模型为其他模型的回答评分或比较"),
                ),
                "arena": (
                    "arena",
                    Text("Blind comparisons of two models, votes and ratings", "两个模型的盲评、投票与评分"),
                ),
            },
            routes="ninestory.serving.floors.chat:routes",
        ),
        Floor(
            "retrieval",
            2,
            "documents",
            Text("Documents", "文档"),
            page="retrieval",
            verbs={
                "kb": (
                    "kb",
                    Text(
                        "Knowledge bases: create, add, sync, ls, show, search …",
                        "知识库：create、add、sync、ls、show、search 等",
                    ),
                ),
                "ask": ("ask", Text("Ask your documents; the answer has citations", "向文档提问，回答附引用")),
            },
            routes="ninestory.serving.floors.retrieval:routes",
            job_handlers="ninestory.floors.retrieval.jobs:JOB_HANDLERS",
            job_kinds=(JobKind("ingest", Text("Reading documents", "读取文档"), "short"),),
            extra="ocr",
        ),
        Floor("text_to_image", 3, "draw", Text("Draw", "绘图"), extra="image"),
        Floor("visual_qa", 4, "look", Text("Look", "看图"), extra="image"),
        Floor("speech_to_text", 5, "listen", Text("Listen", "听写"), extra="speech"),
        Floor("text_to_speech", 6, "speak", Text("Speak", "朗读"), extra="speech"),
        Floor("agents", 7, "agents", Text("Agents", "智能体")),
        Floor(
            "finetuning",
            8,
            "tune",
            Text("Tune", "微调"),
            page="finetuning",
            verbs={
                "tune": ("tune", Text("Make a model yours, and see that it got better", "微调模型，并对比微调前后"))
            },
            routes="ninestory.serving.floors.finetuning:routes",
            recipes="ninestory.floors.finetuning.recipes:RECIPES",
            ready_recipes="ready_recipes",
            extra="train",
        ),
        Floor("verticals", 9, "fields", Text("Fields", "行业")),
    )
}


def load_part(reference: str) -> Any:
    """Import what a "module:name" of the table names."""
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)


def page_floors() -> Iterator[dict[str, Any]]:
    """What the page needs of each floor, as plain data in the order of the tower."""
    for floor in FLOORS.values():
        yield {
            "name": floor.name,
            "number": floor.number,
            "view": floor.view,
            "title": {"en": floor.title.en, "zh": floor.title.zh},
            "folder": floor.page,
            "job_kinds": {kind.name: {"en": kind.title.en, "zh": kind.title.zh} for kind in floor.job_kinds},
        }
