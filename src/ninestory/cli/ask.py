"""`ninestory ask KB "…"`: an answer from documents, with numbered citations."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ninestory.cli.chat import DEFAULT_MODEL
from ninestory.cli.client import DEFAULT, Server, running_server
from ninestory.cli.output import Json, print_json
from ninestory.core.errors import InvalidRequest
from ninestory.core.paths import Home

if TYPE_CHECKING:
    from ninestory.floors.retrieval.answer import Prepared

app = typer.Typer()


@app.command()
def ask(
    knowledge_base: Annotated[str, typer.Argument(help="Name or id of a knowledge base.")],
    question: Annotated[str, typer.Argument(help="The question.")],
    model: Annotated[str, typer.Option(help="Chat model.")] = DEFAULT_MODEL,
    mode: Annotated[str, typer.Option(help="auto, generate, or extract: quote the documents, no chat model.")] = "auto",
    limit: Annotated[int, typer.Option(help="Passages looked at.")] = 6,
    max_tokens: Annotated[int, typer.Option(help="Longest answer in tokens.")] = 512,
    server: Server = DEFAULT,
    as_json: Json = False,
) -> None:
    """Ask your documents. The answer's [n] are listed below it with file, page and heading."""
    from ninestory.core.config import load_settings
    from ninestory.core.logs import set_up_logs

    if mode not in ("auto", "generate", "extract"):
        raise InvalidRequest(f"--mode {mode} is none of auto, generate, extract.", param="mode")
    set_up_logs("warning", load_settings().settings.log_json)
    if client := running_server(server):
        turns, sampling = [{"role": "user", "content": question}], {"max_output_tokens": max_tokens}
        ask_server(client, knowledge_base, turns, model, limit, sampling, as_json)
        return
    from ninestory.floors.retrieval.knowledge_base import open_base

    prepared, text = _answer(
        open_base(Home.default(), knowledge_base), question, model, mode, limit, max_tokens, as_json
    )
    _print_answer(prepared, text, as_json)


def _answer(
    base: Any, question: str, model: str, mode: Any, limit: int, max_tokens: int, as_json: bool
) -> tuple[Prepared, str]:
    """Search, then ask the chat model if one is needed; its words are printed as they come."""
    import dataclasses

    from ninestory.cli.kb import open_embedder
    from ninestory.core.config import load_settings
    from ninestory.floors.retrieval.answer import languages_of, prepare, quoted
    from ninestory.floors.retrieval.hits import SearchOptions
    from ninestory.floors.retrieval.search import search
    from ninestory.floors.retrieval.table import ChunkReader
    from ninestory.models.resolve import resolve
    from ninestory.runtimes.load import load_engine
    from ninestory.runtimes.protocol import Text

    settings = load_settings().settings.runtime
    with open_embedder(base) as embedder:
        vector = embedder.query(question)
        hits = search(ChunkReader(base), question, vector, SearchOptions(limit=limit))
        resolved = resolve(model, Home.default())
        prepared = prepare(
            question,
            hits,
            threshold=base.get("threshold"),
            context_tokens=settings.context or min(resolved.context or 4096, 4096),
            mode=mode,
            model_languages=languages_of(model),
        )
        if prepared.reason == "extract":
            vectors = embedder.passages([text for _, text in prepared.sentences])
            return prepared, quoted(prepared, vector.tolist(), vectors.tolist())
    if prepared.request is None:
        return prepared, prepared.text
    engine = load_engine(resolved, settings)
    pieces = []
    try:
        request = dataclasses.replace(prepared.request, max_tokens=max_tokens)
        for chunk in engine.run(request, threading.Event()):
            if isinstance(chunk, Text) and not chunk.reasoning:
                pieces.append(chunk.text)
                if not as_json:
                    print(chunk.text, end="", flush=True)
    finally:
        engine.close()
    return prepared, "".join(pieces)


def _print_answer(prepared: Prepared, text: str, as_json: bool) -> None:
    if not as_json and prepared.request is None:
        print(text, end="")
    print_sources(prepared, text, as_json)


def print_sources(prepared: Prepared, text: str, as_json: bool) -> None:
    """What stands below an answer that was printed; with `as_json` the answer and its sources in one object."""
    from ninestory.floors.retrieval.answer import as_source, citations, language_of, place_of

    cited = sorted({citation.number for citation in citations(text, prepared.passages)})
    if as_json:
        sources = [as_source(number, hit) for number, hit in enumerate(prepared.passages, 1)]
        print_json(
            {"answer": text, "mode": prepared.reason, "notice": prepared.notice, "cited": cited, "sources": sources}
        )
        return
    print()
    if prepared.notice:
        print(f"({prepared.notice})", file=sys.stderr)
    language = language_of(prepared.question)
    for number, hit in enumerate(prepared.passages, 1):
        if number in cited or not cited:
            print(f"[{number}] {place_of(hit, language)}")


def ask_server(
    client: Any, base: str, turns: list[dict[str, str]], model: str, limit: int, sampling: dict[str, Any], as_json: bool
) -> str:
    """The last of `turns` through `/v1/responses` and its file_search tool, as any client would; returns the answer.

    Args:
        sampling: fields of that API: max_output_tokens, temperature, top_p.
    """
    stores = client.call("GET", "/v1/vector_stores?limit=100")["data"]
    store = next((s["id"] for s in stores if base in (s["id"], s["name"])), base)
    tool = {"type": "file_search", "vector_store_ids": [store], "max_num_results": limit}
    response = client.call("POST", "/v1/responses", json={"model": model, "input": turns, "tools": [tool], **sampling})
    content = next(item for item in response["output"] if item["type"] == "message")["content"][0]
    if as_json:
        print_json(response)
        return str(content["text"])
    print(content["text"])
    for mark in content["annotations"]:
        page = f", page {mark['page']}" if mark.get("page") else ""
        print(f"[{mark['number']}] {mark['filename']}{page}")
    return str(content["text"])
