"""`ninestory chat`: a conversation on a terminal, or one question in a pipe."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ninestory.cli.client import DEFAULT, Server, ServerClient, running_server
from ninestory.cli.output import Json, print_json
from ninestory.core.errors import InvalidRequest
from ninestory.core.paths import Home

if TYPE_CHECKING:
    from ninestory.core.config import RuntimeSettings
    from ninestory.floors.chat import ChatModel
    from ninestory.models.resolved import ResolvedModel

app = typer.Typer()
DEFAULT_MODEL = "starter:smollm2-135m-instruct"


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
    dtype: Annotated[str | None, typer.Option(help="torch: float32, bfloat16, float16 or int8.")] = None,
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
    if prompt is None and not sys.stdin.isatty():
        prompt = sys.stdin.read().strip()
        if not prompt:
            raise InvalidRequest(
                "There is no question.",
                hint="Write one to the pipe, or use --prompt.",
                hint_zh="请通过管道或 --prompt 提供问题。",
            )

    asked = running_server(server)
    if asked:
        _leave_loading_to_the_server(model, template=template, dtype=dtype, fast=fast)
    here = None if asked else _resolved(model, strategy)
    if here and here.architecture == "rwkv" and not (raw or as_json):
        from ninestory.cli.rwkv_conversation import chat_program

        if chat_program(here, settings.runtime, {**options, "system": system} if system else options, prompt):
            return

    def open_model(reference: str) -> ChatModel:
        if asked:
            loaded = _of_server(asked, reference, settings.runtime)
        else:
            loaded = _of_files(here if here and reference == model else _resolved(reference), settings.runtime)
        print("; ".join([*loaded.info.notes, *_format_of(loaded)]), file=sys.stderr)
        return loaded

    if plugin:
        from ninestory.cli.moss_conversation import plugin_chat

        with open_model(model) as loaded:
            plugin_chat(here, loaded, plugin, options, prompt)
        return
    if prompt is None:
        from ninestory.cli.conversation import Conversation

        Conversation(open_model, model, system, options).loop()
        return
    with open_model(model) as loaded:
        _answer_once(loaded, prompt, system, raw, options, as_json)


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


def _format_of(model: ChatModel) -> list[str]:
    """Which prompt format was chosen, and by whom; nothing for a model without one, or a remote one."""
    info = model.info
    return [f"prompt format {info.template} ({info.template_source})"] if info.template else []


def _resolved(reference: str, strategy: str | None = None) -> ResolvedModel:
    from ninestory.models.resolve import resolve

    found = resolve(reference, Home.default())
    if strategy and found.architecture != "rwkv":
        raise InvalidRequest(
            f"A strategy is for RWKV, and {reference} is {found.architecture}.",
            hint="Leave --strategy out; the settings runtime.dtype and runtime.device say the same of other models.",
            hint_zh="请去掉 --strategy；其他模型用 runtime.dtype 与 runtime.device 设置。",
            param="strategy",
        )
    return found


def _of_files(model: ResolvedModel, settings: RuntimeSettings) -> ChatModel:
    from ninestory.floors.chat import ChatModel
    from ninestory.runtimes.load import load_engine

    return ChatModel(load_engine(model, settings))


def _of_server(client: ServerClient, reference: str, settings: RuntimeSettings) -> ChatModel:
    """The model of a running server, through the API that any client uses."""
    from ninestory.floors.chat import ChatModel
    from ninestory.models.resolved import ResolvedModel
    from ninestory.runtimes.remote import RemoteEngine

    model = ResolvedModel(
        reference=f"server:{reference}",
        path=None,
        format="remote",
        architecture="remote",
        task="chat",
        context=0,
        endpoint=f"{client.address}/v1",
    )
    return ChatModel(RemoteEngine(model, settings, api_key=client.key))


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
