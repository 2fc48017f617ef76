"""`ninestory ask KB "…"`: answers from documents, with numbered citations; a conversation when no question is given."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ninestory.cli.chat.open_chat import DEFAULT_MODEL
from ninestory.cli.client import DEFAULT, Server, running_server
from ninestory.cli.output import Json, print_json
from ninestory.core.errors import InvalidRequest

if TYPE_CHECKING:
    from ninestory.cli.retrieval.document_session import DocumentConversation
    from ninestory.floors.retrieval import Prepared

app = typer.Typer()


@app.command()
def ask(
    knowledge_base: Annotated[str, typer.Argument(help="Name or id of a knowledge base; with --file the question.")],
    question: Annotated[str, typer.Argument(help="The question; a conversation when left out.")] = "",
    also: Annotated[list[str] | None, typer.Option("--also", help="One more knowledge base to search.")] = None,
    file: Annotated[Path | None, typer.Option(help="Ask this one file, which is forgotten afterwards.")] = None,
    model: Annotated[str, typer.Option(help="Chat model.")] = DEFAULT_MODEL,
    mode: Annotated[str, typer.Option(help="auto, generate, or extract: quote the documents, no chat model.")] = "auto",
    limit: Annotated[int, typer.Option(help="Passages looked at.")] = 6,
    rerank: Annotated[str, typer.Option(help="late, or a reranker: judges the passages once more.")] = "",
    only: Annotated[list[str] | None, typer.Option("--only", help="KEY=VALUE: only files with this attribute.")] = None,
    web: Annotated[bool, typer.Option("--web", help="Ask the configured web search too.")] = False,
    max_tokens: Annotated[int, typer.Option(help="Longest answer in tokens.")] = 512,
    server: Server = DEFAULT,
    as_json: Json = False,
) -> None:
    r"""Ask your documents. The answer's \[n] are listed below it with file, page and heading."""
    from ninestory.cli.retrieval.document_session import DocumentConversation, attribute_filter
    from ninestory.core.config import load_settings
    from ninestory.core.logs import set_up_logs
    from ninestory.floors.retrieval import AnswerOptions, SearchOptions

    if mode not in ("auto", "generate", "extract"):
        raise InvalidRequest(f"--mode {mode} is none of auto, generate, extract.", param="mode")
    settings = load_settings().settings
    set_up_logs("warning", settings.log_json)
    if (client := running_server(server)) and file is None:
        if not question:
            raise InvalidRequest("With --server a question is needed: a conversation runs in this process.")
        extras: dict[str, Any] = {"rerank": rerank, "web_search": web, "answer_mode": mode}
        extras |= {"filters": filters} if (filters := attribute_filter(only or [])) else {}
        turns, sampling = [{"role": "user", "content": question}], {"max_output_tokens": max_tokens}
        ask_server(client, [knowledge_base, *(also or [])], turns, model, limit, sampling, as_json, extras)
        return

    if file is not None:
        names, question = [], question or knowledge_base
    else:
        names = [knowledge_base, *(also or [])]
    options = AnswerOptions(
        mode=mode,  # type: ignore[arg-type]
        search=SearchOptions(limit=limit),
        filters=attribute_filter(only or []),
        reranker=rerank,
        web=settings.web_search if web else None,
    )
    generation = {"max_tokens": max_tokens}
    with DocumentConversation(names, model, options, generation=generation, file=file) as session:
        for asked in [question] if question else _typed():
            print_answer(session, asked, as_json)


def _typed() -> Any:
    """Questions from the terminal until its end, or an empty line."""
    while True:
        try:
            asked = input("> " if sys.stdin.isatty() else "").strip()
        except (EOFError, KeyboardInterrupt):
            return
        if not asked:
            return
        yield asked


def print_answer(session: DocumentConversation, question: str, as_json: bool) -> None:
    """Ask; the answer's words as they come, and below them what they stand on."""
    prepared, text = session.answer(question, None if as_json else lambda piece: print(piece, end="", flush=True))
    if not as_json and prepared.request is None:
        print(text, end="")
    _print_sources(prepared, text, as_json)


def _print_sources(prepared: Prepared, text: str, as_json: bool) -> None:
    """What stands below an answer that was printed; with `as_json` the answer and its sources in one object."""
    from ninestory.floors.retrieval import as_source, citations, language_of, place_of

    marks = citations(text, prepared.passages)
    cited = sorted({mark.number for mark in marks})
    if as_json:
        sources = [as_source(number, hit) for number, hit in enumerate(prepared.passages, 1)]
        told = {"answer": text, "mode": prepared.reason, "notice": prepared.notice, "cited": cited}
        print_json(told | {"citations": [mark.as_dict() for mark in marks], "sources": sources})
        return
    print()
    if prepared.notice:
        print(f"({prepared.notice})", file=sys.stderr)
    language = language_of(prepared.question)
    for number, hit in enumerate(prepared.passages, 1):
        if number in cited or not cited:
            print(f"[{number}] {place_of(hit, language)}")


def ask_server(
    client: Any,
    bases: list[str],
    turns: list[dict[str, str]],
    model: str,
    limit: int,
    sampling: dict[str, Any],
    as_json: bool,
    search: dict[str, Any] | None = None,
) -> str:
    """The last of `turns` through `/v1/responses` and its file_search tool, as any client would; returns the answer.

    Args:
        sampling: fields of that API: max_output_tokens, temperature, top_p.
        search: more fields of the tool: filters, rerank, web_search, answer_mode.
    """
    from ninestory.cli.retrieval.kb_server import store_of

    ids = [store_of(client, base)["id"] for base in bases]
    tool = {"type": "file_search", "vector_store_ids": ids, "max_num_results": limit, **(search or {})}
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
