"""`ninestory chat`: a conversation on a terminal, or one question in a pipe."""

from __future__ import annotations

import dataclasses
import json
import sys
import threading
from pathlib import Path
from typing import Annotated, Any

import typer

from ninestory.cli.output import Json, print_json
from ninestory.core.errors import Cancelled, InvalidRequest, NinestoryError
from ninestory.core.paths import Home

app = typer.Typer()
DEFAULT_MODEL = "starter:smollm2-135m-instruct"
HELP = """/help  this list          /clear  forget the conversation   /system TEXT  set the system message
/save FILE  write it as JSON   /load FILE  read one               /regenerate  answer again
/params KEY=VALUE …  set sampling, e.g. temperature=0.2 seed=7    /exit  leave
End a line with \\ to write another. Ctrl-C stops an answer."""


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
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answer.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="End the answer here; may be repeated.")] = None,
    context: Annotated[int | None, typer.Option(help="Tokens of the conversation.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads.")] = None,
    runtime: Annotated[
        str | None, typer.Option(help="llamacpp, torch or remote; chosen by the files when left out.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Talk with a model. In a pipe the whole input is one question and only the answer is printed."""
    from ninestory.core.config import load_settings
    from ninestory.core.logs import set_up_logs
    from ninestory.floors.chat import ChatModel
    from ninestory.models.resolve import resolve
    from ninestory.runtimes.load import load_engine

    flags = {"runtime.context": context, "runtime.threads": threads, "runtime.runtime": runtime, "runtime.slots": 1}
    settings = load_settings(flags).settings
    set_up_logs("warning", settings.log_json)
    sampling = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
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
    with ChatModel(load_engine(resolve(model, Home.default()), settings.runtime)) as loaded:
        print("; ".join(loaded.info.notes), file=sys.stderr)
        if prompt is not None:
            _answer_once(loaded, prompt, system, raw, options, as_json)
        else:
            Conversation(loaded, system, options).loop()


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


class Conversation:
    """The loop on a terminal."""

    def __init__(self, model: Any, system: str, options: dict[str, Any]) -> None:
        self.model, self.system, self.options = model, system, options
        self.turns: list[dict[str, str]] = []

    def loop(self) -> None:
        """Read, answer, until the end of input or /exit."""
        from prompt_toolkit import PromptSession
        from prompt_toolkit.history import FileHistory

        history = Home.default().ensure().root / "chat_history"
        session: Any = PromptSession(history=FileHistory(str(history)))
        print("/help lists the commands.", file=sys.stderr)
        while True:
            try:
                line = session.prompt("> ")
                while line.endswith("\\"):
                    line = line[:-1] + "\n" + session.prompt("… ")
            except EOFError:
                return
            except KeyboardInterrupt:
                continue
            try:
                if line.startswith("/"):
                    if self._command(line) == "exit":
                        return
                elif line.strip():
                    self.turns.append({"role": "user", "content": line})
                    self._answer()
            except NinestoryError as error:
                print(f"error: {error.message}" + (f"\n  → {error.hint}" if error.hint else ""), file=sys.stderr)

    def _answer(self) -> None:
        """Stream an answer; Ctrl-C keeps what came."""
        from ninestory.floors.chat.model import chat_request
        from ninestory.runtimes.protocol import Text

        head = [{"role": "system", "content": self.system}] if self.system else []
        cancel, text = threading.Event(), ""
        try:
            for chunk in self.model.run(chat_request([*head, *self.turns], self.options), cancel):
                if isinstance(chunk, Text):
                    print(chunk.text, end="", flush=True)
                    text += "" if chunk.reasoning else chunk.text
        except KeyboardInterrupt:
            cancel.set()
            print(" [stopped]", end="")
        except Cancelled:
            pass
        except NinestoryError:
            self.turns.pop()
            raise
        print()
        self.turns.append({"role": "assistant", "content": text})

    def _command(self, line: str) -> str:
        name, _, rest = line[1:].partition(" ")
        if name == "exit":
            return "exit"
        if name == "clear":
            self.turns = []
        elif name == "system":
            self.system = rest
        elif name == "save":
            Path(rest).expanduser().write_text(
                json.dumps({"system": self.system, "messages": self.turns}, ensure_ascii=False, indent=1)
            )
        elif name == "load":
            data = json.loads(Path(rest).expanduser().read_text())
            self.system, self.turns = data["system"], data["messages"]
        elif name == "params":
            self.options |= {k: json.loads(v) for k, _, v in (item.partition("=") for item in rest.split())}
            print(self.options)
        elif name == "regenerate" and self.turns:
            if self.turns[-1]["role"] == "assistant":
                self.turns.pop()
            self._answer()
        else:
            print(HELP)
        return ""
