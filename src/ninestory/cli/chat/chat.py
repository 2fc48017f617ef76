"""`ninestory chat`: a conversation on a terminal, or one question in a pipe."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import typer

from ninestory.cli.chat.open_chat import DEFAULT_MODEL, Opener
from ninestory.cli.chat.options import (
    Context,
    Docs,
    Dtype,
    Fast,
    FrequencyPenalty,
    KnowledgeBase,
    MaxTokens,
    MinP,
    Model,
    Plugin,
    PresencePenalty,
    Prompt,
    Raw,
    RepetitionPenalty,
    Runtime,
    Seed,
    Stop,
    Strategy,
    System,
    Temperature,
    Template,
    Threads,
    TopK,
    TopP,
)
from ninestory.cli.client import DEFAULT, Server, running_server
from ninestory.cli.output import Json, print_json
from ninestory.core.errors import InvalidRequest

app = typer.Typer()


@app.command()
def chat(
    model: Model = DEFAULT_MODEL,
    prompt: Prompt = None,
    system: System = "",
    raw: Raw = False,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    min_p: MinP = None,
    repetition_penalty: RepetitionPenalty = None,
    presence_penalty: PresencePenalty = None,
    frequency_penalty: FrequencyPenalty = None,
    seed: Seed = None,
    stop: Stop = None,
    template: Template = None,
    context: Context = None,
    threads: Threads = None,
    dtype: Dtype = None,
    fast: Fast = None,
    plugin: Plugin = None,
    strategy: Strategy = None,
    runtime: Runtime = None,
    docs: Docs = None,
    kb: KnowledgeBase = "",
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
    elif raw or as_json or not _rwkv_program(opener, system, options, question):
        _converse(opener, model, question, system, raw, options, as_json)


def _converse(
    opener: Opener, model: str, question: str | None, system: str, raw: bool, options: dict[str, Any], as_json: bool
) -> None:
    """Answer the one question, or talk on the terminal until the user leaves."""
    if question is None:
        from ninestory.cli.chat.conversation import Conversation

        Conversation(opener, model, system, options).loop()
        return
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
        if as_json:
            info = model.info
            chosen = {
                name: getattr(info, name) for name in ("runtime", "template", "template_source", "dtype", "notes")
            }
            print_json(dataclasses.asdict(reply) | {"engine": chosen})
        else:
            print(reply.text)
        return
    for piece in model.chat(_turns(system, prompt), stream=True, **options):
        print(piece, end="", flush=True)
    print()


def _turns(system: str, prompt: str) -> list[dict[str, str]]:
    head = [{"role": "system", "content": system}] if system else []
    return [*head, {"role": "user", "content": prompt}]
