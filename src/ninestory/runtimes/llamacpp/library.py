"""One native llama.cpp server and the two ways to talk to it: callbacks for what generates, a private socket for the rest.

xllamacpp always starts an HTTP server. It is locked into a Unix socket in a directory of mode 0700 with a random key
and without its page, and used only for what has no callback (tokenising, the adapter list).
Knows nothing of requests and chunks: JSON-able dicts in, dicts out, errors as ours.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import queue
import secrets
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ninestory.core.errors import Cancelled, ContextOverflow, InvalidRequest, NinestoryError, Unavailable, Unsupported
from ninestory.core.scratch import LLAMA_SOCKETS, ScratchFolder

_PREFILL_SECONDS = 0.5  # between two chances to cancel
# Bytes of weights times tokens that one thread works through in a second, on the slowest pair measured (Q4_1, AVX2).
# There 64 tokens a batch took 0.40 s and 256 took 1.5 s, for 5 % less work a token; below 32 it grows by a quarter.
_PREFILL_RATE = 16e9
_CANCEL_POLL_SECONDS = 0.05  # only while the library is silent: a long prefill, or all slots taken
_CLOSE_SECONDS = 5.0
_SOCKET_PATH_BYTES = 107  # of sockaddr_un.sun_path on Linux, without its end


class Library:
    """A loaded model inside llama.cpp.

    Args:
        path: a GGUF file that `read_gguf` has accepted.
        context: tokens of one slot.
        adapters: GGUF adapter files; loaded with weight 0, so that each request says its own.
        pooling: "rank" for a reranker; "mean", "last" or "cls" for an embedding model whose file names none; else "".
        exact: keys and values in float32 and no flash attention, for comparing numbers; slower.

    Raises:
        Unsupported: llama.cpp cannot load the file.
    """

    def __init__(
        self,
        path: Path,
        *,
        context: int,
        slots: int,
        threads: int,
        cache_mb: int,
        device: str = "",
        adapters: Sequence[Path] = (),
        embeds: bool = False,
        pooling: str = "",
        exact: bool = False,
    ) -> None:
        os.environ.setdefault(
            "GGML_NO_BACKTRACE", "1"
        )  # an abort would start gdb and keep the dying process for seconds
        import xllamacpp

        self._directory = ScratchFolder(LLAMA_SOCKETS)
        self._key = secrets.token_urlsafe(24)
        self._closed = threading.Event()
        self._calls: set[threading.Thread] = set()
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx = context * slots  # divided over the slots; never 0, which would take the file's own figure
        params.n_parallel = slots
        params.kv_unified = False  # attention over everybody's cells costs a third of the speed of eight streams
        params.n_batch = params.n_ubatch = context if embeds else prefill_batch(path.stat().st_size, threads)
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.cache_ram_mib = cache_mb  # the library's own default would take 8 GB
        params.check_tensors = True
        params.warmup = False
        params.verbosity = -1
        params.embedding = embeds
        if pooling:
            params.pooling_type = getattr(xllamacpp.llama_pooling_type, f"LLAMA_POOLING_TYPE_{pooling.upper()}")
        params.hostnames = [str(self._socket)]
        params.api_keys = [self._key]
        params.ui = False
        # Prompts come as ids. The file's own template would be parsed and run on loading, without limits: a loop in it
        # never ends, and recursion ends the process.
        params.chat_template = "chatml"
        if exact:
            params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
            params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        if device == "cpu":
            params.n_gpu_layers = 0
        loras = []
        for adapter in adapters:
            lora = xllamacpp.CommonAdapterLoraInfo()
            lora.path, lora.scale = str(adapter), 0.0
            loras.append(lora)
        params.lora_adapters = loras
        try:
            self._server = xllamacpp.Server(params)
        except Exception as error:
            self._directory.close()
            raise Unsupported(
                f"llama.cpp could not load {path.name}: {error}.",
                hint="'ninestory verify' checks the file, 'ninestory plan' the memory.",
                hint_zh="可用 ninestory verify 检查文件，用 ninestory plan 检查内存。",
                code="load_failed",
            ) from error
        self.post("/tokenize", {"content": ""})  # a server that is closed before it listens never ends

    @property
    def _socket(self) -> Path:
        path = self._directory.path / "llama.sock"
        if len(os.fsencode(path)) <= _SOCKET_PATH_BYTES:
            return path
        return Path(f"/proc/self/fd/{self._directory.descriptor}/llama.sock")  # the same folder under a short name

    def stream(self, body: dict[str, Any], cancel: threading.Event) -> Iterator[dict[str, Any]]:
        """Run one completion in a thread of its own and yield what it calls back with.

        Raises:
            Cancelled: within `_CANCEL_POLL_SECONDS`; the slot is free after the next callback (a step, or a batch).
        """
        events: queue.SimpleQueue[dict[str, Any] | Exception | None] = queue.SimpleQueue()
        abandoned = threading.Event()

        def on_event(text: str) -> bool:  # runs in the library: nothing may escape from here
            try:
                if not abandoned.is_set():
                    events.put(json.loads(text))
            except Exception as error:
                events.put(error)
            return cancel.is_set() or abandoned.is_set() or self._closed.is_set()

        def call() -> None:
            try:
                self._server.handle_completions(json.dumps(body), on_event)
                events.put(None)
            except Exception as error:
                events.put(error)
            finally:
                self._calls.discard(threading.current_thread())

        if self._closed.is_set():
            raise _closing()
        thread = threading.Thread(target=call, name="llama-request", daemon=True)
        self._calls.add(thread)
        thread.start()
        try:
            yield from self._received(events, cancel)
        finally:
            abandoned.set()

    def _received(
        self, events: queue.SimpleQueue[dict[str, Any] | Exception | None], cancel: threading.Event
    ) -> Iterator[dict[str, Any]]:
        while True:
            event: dict[str, Any] | Exception | None = {}
            with contextlib.suppress(queue.Empty):
                event = events.get(timeout=_CANCEL_POLL_SECONDS)
            if cancel.is_set():
                raise Cancelled("The request was cancelled.")
            if self._closed.is_set():
                raise _closing()
            if event is None:
                return
            if isinstance(event, Exception):
                raise _refused(event) from event
            if "error" in event:
                raise library_error(event["error"])
            if event:
                yield event

    def embeddings(self, body: dict[str, Any]) -> dict[str, Any]:
        """Answer of /v1/embeddings."""
        answer: dict[str, Any] = json.loads(_called(self._server.handle_embeddings, json.dumps(body)))
        if "error" in answer:
            raise library_error(answer["error"])
        return answer

    def rerank(self, body: dict[str, Any]) -> dict[str, Any]:
        """Answer of /v1/rerank."""
        answer: dict[str, Any] = json.loads(_called(self._server.handle_rerank, json.dumps(body)))
        if "error" in answer:
            raise library_error(answer["error"])
        return answer

    def post(self, path: str, body: Any) -> Any:
        """One call to the private socket."""
        connection = http.client.HTTPConnection("llama")
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.sock.connect(str(self._socket))
            headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
            connection.request("POST", path, json.dumps(body), headers)
            answer = json.loads(connection.getresponse().read())
        except OSError as error:
            raise (_closing() if self._closed.is_set() else NinestoryError(f"llama.cpp's socket: {error}")) from error
        finally:
            connection.close()
        if isinstance(answer, dict) and "error" in answer:
            raise library_error(answer["error"])
        return answer

    def close(self) -> None:
        """End the running calls and free the model. Idempotent."""
        self._closed.set()
        for thread in list(self._calls):
            thread.join(_CLOSE_SECONDS)
        self._server = None
        self._directory.close()


def prefill_batch(weight_bytes: int, threads: int) -> int:
    """Tokens of one prefill batch: a power of two from 32 to 512 that takes about half a second at most.

    >>> prefill_batch(98_000_000, threads=1), prefill_batch(98_000_000, threads=4), prefill_batch(4_000_000_000, threads=4)
    (64, 256, 32)
    """
    tokens = _PREFILL_SECONDS * _PREFILL_RATE * threads / weight_bytes
    return next((size for size in (512, 256, 128, 64) if size <= tokens), 32)


def _called(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except Exception as error:
        raise _refused(error) from error


def _refused(error: Exception) -> InvalidRequest:
    return InvalidRequest(f"llama.cpp refused the request: {error}")


def _closing() -> Unavailable:
    return Unavailable(
        "The model is being unloaded.", hint="Send the request again.", hint_zh="请重新发送请求。", retry_after=1
    )


def library_error(error: dict[str, Any]) -> NinestoryError:
    """The library's error object as one of ours."""
    if "n_ctx" in error:
        return ContextOverflow(
            f"The prompt has {error.get('n_prompt_tokens')} tokens; the context holds {error['n_ctx']}.",
            hint="Shorten it, or load the model with a larger --context.",
            hint_zh="请缩短输入，或用更大的 --context 加载模型。",
            prompt_tokens=error.get("n_prompt_tokens"),
            context=error["n_ctx"],
        )
    status = error.get("code", 500)
    kind = InvalidRequest if isinstance(status, int) and 400 <= status < 500 else NinestoryError
    return kind(f"llama.cpp: {error.get('message', error)}")
