"""`ninestory chat --docs FOLDER` or `--kb NAME`: a conversation that answers from documents, as GPT4All's LocalDocs.

Floor 1 talks and floor 2 finds; they meet here. A running server does both itself, by its file_search tool.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

from ninestory.cli.app import explain
from ninestory.cli.chat.conversation import terminal_lines
from ninestory.cli.chat.open_chat import Opener
from ninestory.cli.retrieval.ask import ask_server, print_answer
from ninestory.cli.retrieval.document_session import DocumentConversation
from ninestory.cli.retrieval.knowledge import run_ingest
from ninestory.core.errors import InvalidRequest, NinestoryError, NotFound
from ninestory.core.paths import Home

_API_NAMES = {"max_tokens": "max_output_tokens", "temperature": "temperature", "top_p": "top_p"}


def document_chat(
    opener: Opener, docs: Path | None, kb: str, options: dict[str, Any], question: str | None, as_json: bool
) -> None:
    """Answer one question, or hold a conversation until it is left.

    Raises:
        NotFound: no such knowledge base or folder. Unsupported: the extra [retrieval] is not installed.
    """
    from ninestory.floors.retrieval import AnswerOptions

    if opener.server:
        sampling, limit = _of_the_api(options), AnswerOptions().search.limit
        name = kb or folder_base(docs or Path())
        turns: list[dict[str, str]] = []

        def answer_there(asked: str) -> None:
            asking = [*turns, {"role": "user", "content": asked}]
            text = ask_server(opener.server, [name], asking, opener.model, limit, sampling, as_json)
            turns[:] = [*asking, {"role": "assistant", "content": text}]

        _ask_all(question, answer_there)
        return
    name = kb or folder_base(docs or Path())
    with opener(opener.model) as model:
        talk = DocumentConversation([name], opener.model, AnswerOptions(), generation=options, chat=model)
        with talk as session:
            _ask_all(question, lambda asked: print_answer(session, asked, as_json))


def _of_the_api(options: dict[str, Any]) -> dict[str, Any]:
    """Sampling as `/v1/responses` names it.

    Raises:
        InvalidRequest: an option that it does not have.
    """
    if unknown := sorted(set(options) - set(_API_NAMES)):
        flag = unknown[0].replace("_", "-")
        raise InvalidRequest(
            f"A server answers from documents without --{flag}.",
            hint="Leave it out, or ask in this process, without --server.",
            hint_zh="请去掉该选项，或不带 --server 在本进程内提问。",
            param=unknown[0],
        )
    return {_API_NAMES[name]: value for name, value in options.items()}


def folder_base(folder: Path) -> str:
    """The knowledge base that follows `folder`: made on the first call, brought up to date on every one."""
    from ninestory.floors.retrieval import create_base as create
    from ninestory.floors.retrieval import each_base, open_by_id

    place = folder.expanduser().resolve()
    if not place.is_dir():
        raise NotFound(f"{folder} is no folder.", hint="Name a folder of documents.", hint_zh="请指定文档目录。")
    name = f"{place.name or 'docs'}-{hashlib.sha256(str(place).encode()).hexdigest()[:8]}"
    home = Home.default().ensure()
    base_id = next((b.id for b in each_base(home) if b.name == name), None)
    base = open_by_id(home, base_id) if base_id else create(home, name)
    report = run_ingest(base, {"folders": [str(place)]}, quiet=False)
    for failure in report["failed"]:
        print(f"not read: {failure['file']}: {failure['message']}", file=sys.stderr)
    print(f"knowledge base {name}: {report['chunks'] or 'no new'} passages", file=sys.stderr)
    return name


def _ask_all(question: str | None, answer: Any) -> None:
    if question is not None:
        answer(question)
        return
    for line in terminal_lines():
        try:
            if line.strip():
                answer(line)
        except NinestoryError as error:
            explain(error)
