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
    from ninestory.runtimes.protocol import EngineInfo

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
        if sys.stdin.isatty() and sys.stderr.isatty():
            print(_first_line(reference, loaded.info, self.server), file=sys.stderr)
        return loaded


def _first_line(reference: str, info: EngineInfo, server: ServerClient | None) -> str:
    """What answers: the model, its runtime or server, and its context, in the user's language."""
    place = server.address if server else _RUNTIMES.get(info.runtime, info.runtime)
    context = {"en": f"{info.context} tokens of context", "zh": f"上下文 {info.context} 词元"}[language()]
    return " · ".join([reference, place, *([context] if info.context else [])])


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
