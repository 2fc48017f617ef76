"""`ninestory tour`: one real thing on each floor that exists, with the starter models, and a report of it."""

from __future__ import annotations

import html
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ninestory.cli.output import Json, print_json
from ninestory.core.paths import Home, atomic_write

app = typer.Typer()


@dataclass(frozen=True)
class Stop:
    """What was done on a floor. `seconds` of wall time."""

    floor: int
    title: str
    title_zh: str
    given: str
    got: str
    seconds: float
    memory_mb: float


@app.command()
def tour(
    report: Annotated[
        Path | None, typer.Option(help="Where to write the report; default in the home's outputs.")
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads.")] = 0,
    as_json: Json = False,
) -> None:
    """Climb the floors that exist and write an HTML report: inputs, outputs, seconds, memory."""
    stops = []
    for climb in FLOORS:
        stop = climb(threads)
        stops.append(stop)
        if not as_json:
            print(
                f"{stop.floor}. {stop.title} · {stop.title_zh}  ({stop.seconds:.1f} s)\n   {stop.given}\n   → {stop.got}\n"
            )
    path = report or Home.default().ensure().outputs / f"tour-{time.strftime('%Y%m%d-%H%M%S')}.html"
    with atomic_write(path, "w") as out:
        out.write(render(stops))
    print_json([vars(s) for s in stops]) if as_json else print(f"Report: {path}")


def _chat(threads: int) -> Stop:
    from ninestory import load

    question = "Explain what a neural network is in two sentences."
    began = time.perf_counter()
    with load("starter:smollm2-135m-instruct", threads=threads, slots=1, context=1024) as model:
        reply = model.chat(question, max_tokens=80, temperature=0)
        return Stop(1, "Chat", "对话", question, reply.text, time.perf_counter() - began, _resident_mb())


def _find(threads: int) -> Stop:
    from ninestory import load

    questions = ["北京有哪些著名景点？", "How are Python packages installed?"]
    passages = ["故宫、天坛和长城是北京最有名的地方。", "pip installs Python packages.", "市盈率是股价与每股收益之比。"]
    began = time.perf_counter()
    with load("starter:multilingual-e5-small", threads=threads) as model:
        asked, offered = model.embed(questions, role="query"), model.embed(passages, role="passage")
    found = []
    for vector in asked:
        scores = [sum(a * b for a, b in zip(vector, other, strict=True)) for other in offered]
        best = max(range(len(passages)), key=scores.__getitem__)
        found.append(f"{passages[best]} ({scores[best]:.3f})")
    return Stop(
        2,
        "Find the passage that answers",
        "找出能回答问题的段落",
        " / ".join(questions),
        " / ".join(found),
        time.perf_counter() - began,
        _resident_mb(),
    )


def _fit(threads: int) -> Stop:
    from ninestory.cli.output import size
    from ninestory.library import plan

    name, began = "llmtune", time.perf_counter()
    plans = plan(name)
    got = "; ".join(
        f"{p.model}: {size(p.total_bytes)}, {'fits 放得下' if p.fits else 'too large 放不下'}" for p in plans
    )
    given = f"ninestory plan {name} ({size(plans[0].available_bytes)} free 可用)"
    return Stop(8, "Will it fit?", "放得下吗？", given, got, time.perf_counter() - began, _resident_mb())


# A floor joins the tour with one function.
FLOORS: tuple[Callable[[int], Stop], ...] = (_chat, _find, _fit)


def _resident_mb() -> float:
    import psutil

    return float(psutil.Process().memory_info().rss / 1e6)


def render(stops: list[Stop]) -> str:
    """The report: one file without scripts or addresses."""
    rows = "".join(
        f"<section><h2>{s.floor}. {html.escape(s.title)} · {html.escape(s.title_zh)}</h2>"
        f"<p class=q>{html.escape(s.given)}</p><p>{html.escape(s.got)}</p>"
        f"<p class=f>{s.seconds:.1f} s · {s.memory_mb:.0f} MB</p></section>"
        for s in stops
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>ninestory tour</title><style>'
        "body{font:16px/1.6 system-ui,sans-serif;max-width:720px;margin:40px auto;padding:0 16px;color:#1f1e1b;background:#fbfaf8}"
        "section{border-top:1px solid #e0dcd4;padding:8px 0}.q{color:#615d55}.f{color:#615d55;font-size:13px}</style>"
        f"<h1>ninestory · 九层妖塔</h1>{rows}</html>\n"
    )
