"""A chat model for `ninestory chat`: of the files here, or of a running server through its API."""

from __future__ import annotations

import sys
from functools import cached_property
from typing import TYPE_CHECKING

from ninestory.cli.app import language
from ninestory.cli.client import ServerClient
from ninestory.core.errors import InvalidRequest
from ninestory.core.paths import Home

if TYPE_CHECKING:
    from ninestory.core.config import RuntimeSettings
    from ninestory.floors.chat import ChatModel
    from ninestory.models.resolved import ResolvedModel

_RUNTIMES = {"llamacpp": "llama.cpp", "torch": "PyTorch"}
DEFAULT_MODEL = "starter:smollm2-135m-instruct"


class Opener:
    """Called with a reference it gives the loaded model; on a terminal it says in one line what answers.

    Args:
        model: the reference that the command named.
        server: None to load in this process.
        strategy: RWKV's; refused for other models.
    """

    def __init__(
        self, model: str, settings: RuntimeSettings, server: ServerClient | None, strategy: str | None = None
    ) -> None:
        self.model, self.settings, self.server, self._strategy = model, settings, server, strategy

    @cached_property
    def here(self) -> ResolvedModel | None:
        """The named model's files; None for a server's.

        Raises:
            NotFound: it is not on this machine. InvalidRequest: a strategy for another model than RWKV.
        """
        if self.server:
            return None
        found = _resolved(self.model)
        if self._strategy and found.architecture != "rwkv":
            raise InvalidRequest(
                f"A strategy is for RWKV, and {self.model} is {found.architecture}.",
                hint="Leave --strategy out; the settings runtime.dtype and runtime.device say the same of other models.",
                hint_zh="请去掉 --strategy；其他模型用 runtime.dtype 与 runtime.device 设置。",
                param="strategy",
            )
        return found

    def __call__(self, reference: str) -> ChatModel:
        if self.server:
            loaded = _of_server(self.server, reference, self.settings)
        else:
            named = self.here if reference == self.model else None
            loaded = _of_files(named or _resolved(reference), self.settings)
        runtime = loaded.info.runtime
        program = self.server.address if self.server else _RUNTIMES.get(runtime, runtime)
        print_first_line(reference, program, loaded.info.context)
        return loaded


def print_first_line(reference: str, program: str, context: int | None) -> None:
    """Say on a terminal, in the user's language, what answers: the model, the program that runs it, its context.

    Args:
        context: in tokens; None or 0 where there is no limit, or none is known.
    """
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    tokens = {"en": f"{context} tokens of context", "zh": f"上下文 {context} 词元"}[language()]
    print(" · ".join([reference, program, *([tokens] if context else [])]), file=sys.stderr)


def _resolved(reference: str) -> ResolvedModel:
    from ninestory.models.resolve import resolve

    return resolve(reference, Home.default())


def _of_files(model: ResolvedModel, settings: RuntimeSettings) -> ChatModel:
    from ninestory.floors.chat import ChatModel
    from ninestory.runtimes.load import load_engine

    return ChatModel(load_engine(model, settings))


def _of_server(client: ServerClient, reference: str, settings: RuntimeSettings) -> ChatModel:
    """The model of a running server, through the API that any client uses."""
    from ninestory.floors.chat import ChatModel
    from ninestory.models.resolved import ResolvedModel
    from ninestory.runtimes.remote.engine import RemoteEngine

    model = ResolvedModel(
        reference=f"server:{reference}",
        path=None,
        format="remote",
        architecture="remote",
        tasks=("chat", "completion"),
        context=0,
        endpoint=f"{client.address}/v1",
    )
    return ChatModel(RemoteEngine(model, settings, api_key=client.key))
