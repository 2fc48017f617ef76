"""`ninestory chat`: a conversation on a terminal, or one question in a pipe."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ninestory.cli.chat.open_chat import DEFAULT_MODEL, Opener
from ninestory.cli.client import DEFAULT, Server, running_server
from ninestory.cli.output import Json, print_json
from ninestory.core.errors import InvalidRequest

app = typer.Typer()


@app.command()
def chat(
    model: Annotated[str, typer.Argument(help="Model reference.")] = DEFAULT_MODEL,
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="One question; print the answer and end.")
    ] = None,
    system: Annotated[str, typer.Option(help="System message.")] = "",
    raw: Annotated[bool, typer.Option("--raw", help="Continue the text as it is, without a chat template.")] = False,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer in tokens.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 always takes the likeliest token.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Keep the likeliest tokens of this total probability.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Keep this many tokens.")] = None,
    min_p: Annotated[float | None, typer.Option(help="Drop tokens below this part of the likeliest.")] = None,
    repetition_penalty: Annotated[float | None, typer.Option(help="Above 1 repeats less.")] = None,
    presence_penalty: Annotated[float | None, typer.Option(help="Subtracted once from tokens already used.")] = None,
    frequency_penalty: Annotated[float | None, typer.Option(help="Subtracted for each use of a token.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answer.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="End the answer here; may be repeated.")] = None,
    template: Annotated[
        str | None, typer.Option(help="Prompt template, or 'checkpoint'; else the catalogue's, then the checkpoint's.")
    ] = None,
    context: Annotated[int | None, typer.Option(help="Tokens of the conversation.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads.")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="torch: float32, bfloat16, float16, int8, or int4 on a GPU.")
    ] = None,
    fast: Annotated[
        bool | None, typer.Option("--fast", help="torch on a CPU: fastest linears, bits may depend on neighbours.")
    ] = None,
    plugin: Annotated[
        list[str] | None, typer.Option(help="MOSS only: calculator, solver, search=COMMAND, draw=COMMAND; repeatable.")
    ] = None,
    strategy: Annotated[
        str | None, typer.Option(help="RWKV only: which layers run where, e.g. 'cpu fp32i8 *10 -> cpu fp32'.")
    ] = None,
    runtime: Annotated[
        str | None, typer.Option(help="llamacpp, torch or remote; chosen by the files when left out.")
    ] = None,
    docs: Annotated[
        Path | None, typer.Option(help="Answer from the documents of this folder, with sources; it is kept in step.")
    ] = None,
    kb: Annotated[str, typer.Option(help="Answer from this knowledge base (ninestory kb ls).")] = "",
    server: Server = DEFAULT,
    as_json: Json = False,
) -> None:
    """Talk with a model. In a pipe the whole input is one question and only the answer is printed."""
    from ninestory.core.config import load_settings
    from ninestory.core.logs import set_up_logs

    flags = {
        "runtime.context": context,
        "runtime.threads": threads,
        "runtime.runtime": runtime,
        "runtime.template": template,
        "runtime.rwkv_strategy": strategy,
        "runtime.dtype": dtype,
        "runtime.fast": fast,
        "runtime.slots": 1,
    }
    settings = load_settings(flags).settings
    set_up_logs("warning", settings.log_json)
    sampling = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "presence_penalty": presence_penalty,
        "frequency_penalty": frequency_penalty,
        "seed": seed,
        "stop": stop,
    }
    options = {key: value for key, value in sampling.items() if value is not None}
    opener = Opener(model, settings.runtime, running_server(server), strategy)
    if opener.here is None:  # looked for before the pipe is read: of two mistakes the model's name is the first
        _leave_loading_to_the_server(model, template=template, dtype=dtype, fast=fast)
    question = _question(prompt)
    if docs or kb:
        _refuse_beside_documents(docs=docs and kb, system=system, raw=raw, plugin=plugin)
        from ninestory.cli.retrieval.document_chat import document_chat

        document_chat(opener, docs, kb, options, question, as_json)
    elif plugin:
        from ninestory.cli.chat.moss_conversation import plugin_chat

        with opener(model) as loaded:
            plugin_chat(opener.here, loaded, plugin, options, question)
    elif not (raw or as_json) and _rwkv_program(opener, system, options, question):
        return
    elif question is None:
        from ninestory.cli.chat.conversation import Conversation

        Conversation(opener, model, system, options).loop()
    else:
        with opener(model) as loaded:
            _answer_once(loaded, question, system, raw, options, as_json)


def _question(prompt: str | None) -> str | None:
    """The one question to answer: the flag's, or all of a pipe; None on a terminal.

    Raises:
        InvalidRequest: an empty pipe.
    """
    if prompt is not None or sys.stdin.isatty():
        return prompt
    piped = sys.stdin.read().strip()
    if not piped:
        raise InvalidRequest(
            "There is no question.",
            hint="Write one to the pipe, or use --prompt.",
            hint_zh="请通过管道或 --prompt 提供问题。",
        )
    return piped


def _rwkv_program(opener: Opener, system: str, options: dict[str, Any], question: str | None) -> bool:
    """Whether ChatRWKV's own program took the conversation: for RWKV's files, and not for one plain question."""
    if opener.here is None or opener.here.architecture != "rwkv":
        return False
    from ninestory.cli.chat.rwkv_conversation import chat_program

    return chat_program(opener.here, opener.settings, {**options, "system": system} if system else options, question)


def _refuse_beside_documents(**given: Any) -> None:
    """Raises InvalidRequest: documents come with a prompt of their own, and steer no plugins."""
    if flag := next((name for name, value in given.items() if value), ""):
        raise InvalidRequest(
            f"--{flag} cannot stand beside {'--kb' if flag == 'docs' else 'documents'}.",
            hint="Leave one of them out.",
            hint_zh="请去掉其中之一。",
            param=flag,
        )


def _leave_loading_to_the_server(model: str, **given: str | bool | None) -> None:
    """Raises InvalidRequest: a flag says how to load a model, which a running server does itself."""
    flags = [f"--{name}" if value is True else f"--{name} {value}" for name, value in given.items() if value]
    if flags:
        command = f"ninestory load {model} {' '.join(flags)}"
        raise InvalidRequest(
            f"A running server loads its models itself: {' '.join(flags)} is said there.",
            hint=command,
            hint_zh=f"请运行：{command}",
            param=next(name for name, value in given.items() if value),
        )


def _answer_once(model: Any, prompt: str, system: str, raw: bool, options: dict[str, Any], as_json: bool) -> None:
    if as_json or raw:
        reply = model.complete(prompt, **options) if raw else model.chat(_turns(system, prompt), **options)
        print_json(dataclasses.asdict(reply)) if as_json else print(reply.text)
        return
    for piece in model.chat(_turns(system, prompt), stream=True, **options):
        print(piece, end="", flush=True)
    print()


def _turns(system: str, prompt: str) -> list[dict[str, str]]:
    head = [{"role": "system", "content": system}] if system else []
    return [*head, {"role": "user", "content": prompt}]
