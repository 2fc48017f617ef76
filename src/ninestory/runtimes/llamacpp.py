"""GGUF models by llama.cpp, in process, through xllamacpp's callbacks (never its HTTP API for generation).

Prompts are rendered and tokenised here, and llama.cpp is given ids: so a user's text never becomes a special token,
both numbers of an overflow are known beforehand, and chat and completion are one path. One thread a running request
waits in the library; its callback feeds the iterator that `run` returns.
The library always starts an HTTP server: it is locked into a Unix socket in a private directory with a random key,
and used only for what has no callback (tokenising, the adapter list).
"""

from __future__ import annotations

import http.client
import json
import queue
import secrets
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from ninestory.core.config import RuntimeSettings
from ninestory.core.errors import Cancelled, ContextOverflow, InvalidRequest, NinestoryError, Unsupported
from ninestory.models.chat_template import render_segments
from ninestory.models.gguf_reader import GgufFile, read_gguf
from ninestory.models.resolved import ResolvedModel
from ninestory.runtimes.protocol import (
    ChatRequest,
    Chunk,
    CompletionRequest,
    EmbeddingRequest,
    Embeddings,
    EngineInfo,
    Finished,
    Generation,
    Message,
    Prefill,
    Request,
    Started,
    Text,
    TokenizeRequest,
    TokenLogprob,
    Tokens,
    Usage,
)
from ninestory.runtimes.reasoning import ThinkingSplitter
from ninestory.runtimes.threads import free_processors

DEFAULT_CONTEXT = 4096
PREFILL_BATCH = 256  # tokens between two chances to cancel; about 0.4 s at 600 tokens/s
_CONTROL_TOKEN = 3  # tokenizer.ggml.token_type of special tokens


class LlamaCppEngine:
    """One GGUF file loaded by llama.cpp.

    Raises:
        Damaged: the header is not sound (checked before native code sees the file).
        Unsupported: an architecture or option this build cannot run.
    """

    def __init__(self, model: ResolvedModel, settings: RuntimeSettings) -> None:
        if model.path is None:
            raise Unsupported(f"{model.reference} has no file to open.")
        self._file = read_gguf(model.path)
        trained = int(self._file.field("context_length", DEFAULT_CONTEXT))
        context = settings.context or min(trained, DEFAULT_CONTEXT)
        embeds = model.task == "embedding"
        slots = 1 if embeds else max(1, settings.slots)
        threads = settings.threads or free_processors()
        self._adapters = [adapter.name for adapter in model.adapters]
        self._directory = Path(tempfile.mkdtemp(prefix="ninestory-"))  # mkdtemp gives mode 0700
        self._key = secrets.token_urlsafe(24)
        self._server = self._start(model, settings, context, slots, threads, embeds)
        self._template = str(self._file.metadata.get("tokenizer.chat_template", ""))
        self._specials = _special_tokens(self._file)
        self.info = EngineInfo(
            model=model.reference,
            runtime="llamacpp",
            architecture=self._file.architecture,
            tasks=["embedding", "tokenize"] if embeds else ["chat", "completion", "tokenize"],
            context=context,
            slots=slots,
            template="checkpoint" if self._template else "",
            template_source="checkpoint" if self._template else "",
            adapters=self._adapters,
            dtype=_most_common_dtype(self._file),
            threads=threads,
            notes=[*model.notes, f"llama.cpp with {threads} thread(s), {slots} slot(s) of {context} tokens"],
        )

    # --- the protocol -------------------------------------------------------------------------------------------

    def run(self, request: Request, cancel: threading.Event) -> Iterator[Chunk]:
        if isinstance(request, ChatRequest):
            if request.tools and request.tool_choice != "none":
                from ninestory.runtimes.tool_calling import run_with_tools

                return run_with_tools(self, request, cancel)
            return self._chat(request, cancel)
        if isinstance(request, CompletionRequest):
            return self._complete(request, cancel)
        if isinstance(request, EmbeddingRequest):
            return self._embed(request)
        if isinstance(request, TokenizeRequest):
            return self._tokenize_request(request)
        raise Unsupported(
            f"llama.cpp cannot answer {request.kind!r} requests.",
            hint="Use a model in safetensors form (the torch runtime) for this.",
            hint_zh="请改用 safetensors 格式的模型（torch 运行时）。",
        )

    def close(self) -> None:
        self._server = None
        shutil.rmtree(self._directory, ignore_errors=True)

    # --- requests -----------------------------------------------------------------------------------------------

    def _chat(self, request: ChatRequest, cancel: threading.Event) -> Iterator[Chunk]:
        ids, dropped = self._fit(request)
        opened = self._render(request.messages[dropped:], request)[-1][0].rstrip().endswith("<think>")
        yield from self._generate(ids, request, cancel, ThinkingSplitter(inside=opened), dropped)

    def _complete(self, request: CompletionRequest, cancel: threading.Event) -> Iterator[Chunk]:
        ids = self._tokenize(request.prompt, special=False) if isinstance(request.prompt, str) else request.prompt
        self._check_fits(len(ids), request)
        prompt = ""
        if request.echo:
            prompt = (
                request.prompt
                if isinstance(request.prompt, str)
                else self._post("/detokenize", {"tokens": ids})["content"]
            )
        yield from self._generate(ids, request, cancel, None, 0, echo=prompt)

    def _embed(self, request: EmbeddingRequest) -> Iterator[Chunk]:
        answer = json.loads(_called(self._server.handle_embeddings, json.dumps({"input": request.inputs})))
        if "error" in answer:
            raise _error(answer["error"])
        rows = sorted(answer["data"], key=lambda row: row["index"])
        yield Embeddings(vectors=[row["embedding"] for row in rows], prompt_tokens=answer["usage"]["prompt_tokens"])

    def _tokenize_request(self, request: TokenizeRequest) -> Iterator[Chunk]:
        if request.messages is not None:
            segments = self._render(request.messages, ChatRequest(messages=request.messages, template=request.template))
        else:
            segments = [(request.text or "", False)]
        pairs = [pair for text, special in segments for pair in self._pieces(text, special)]
        yield Tokens(ids=[i for i, _ in pairs], pieces=[piece for _, piece in pairs])

    # --- prompts ------------------------------------------------------------------------------------------------

    def _render(self, messages: list[Message], request: ChatRequest) -> list[tuple[str, bool]]:
        if request.template not in (None, "checkpoint"):
            raise Unsupported(
                f"This runtime renders with the checkpoint's own template, not {request.template!r}.",
                hint="Leave the template out.",
                hint_zh="请去掉 template。",
                param="template",
            )
        if not self._template:
            raise InvalidRequest(
                f"{self.info.model} has no chat template: it is a base model.",
                hint="Use completion instead (/v1/completions, ninestory chat --raw).",
                hint_zh="请改用补全（/v1/completions，ninestory chat --raw）。",
                code="no_chat_template",
            )
        turns = [_as_dict(message) for message in messages]
        continued = ""
        if request.continue_final_message:
            if not turns or turns[-1]["role"] != "assistant":
                raise InvalidRequest(
                    "continue_final_message needs an assistant message at the end.", param="continue_final_message"
                )
            continued = turns.pop()["content"]
        variables: dict[str, Any] = {} if request.thinking is None else {"enable_thinking": request.thinking}
        segments = render_segments(
            self._template,
            turns,
            special_tokens=self._specials.values(),
            bos_token=self._specials.get(self._file.metadata.get("tokenizer.ggml.bos_token_id", -1), ""),
            eos_token=self._specials.get(self._file.metadata.get("tokenizer.ggml.eos_token_id", -1), ""),
            **variables,
        )
        return [*segments, (continued, False)] if continued else segments

    def _fit(self, request: ChatRequest) -> tuple[list[int], int]:
        """Prompt ids, and how many of the oldest turns were left out to make them fit ("auto")."""
        messages, dropped = request.messages, 0
        while True:
            ids = [i for text, special in self._render(messages, request) for i in self._tokenize(text, special)]
            kept_system = 1 if messages and messages[0].role in ("system", "developer") else 0
            if request.truncation == "disabled" or self._fits(len(ids), request) or len(messages) <= kept_system + 1:
                self._check_fits(len(ids), request)
                return ids, dropped
            step = 2 if len(messages) > kept_system + 2 else 1  # a question goes with its answer
            messages = [*messages[:kept_system], *messages[kept_system + step :]]
            dropped += step

    def _fits(self, prompt_tokens: int, request: Generation) -> bool:
        return prompt_tokens + (request.max_tokens if request.max_tokens is not None else 1) <= self.info.context

    def _check_fits(self, prompt_tokens: int, request: Generation) -> None:
        if self._fits(prompt_tokens, request):
            return
        asked = f" and {request.max_tokens} were asked for" if request.max_tokens else ""
        raise ContextOverflow(
            f"The prompt has {prompt_tokens} tokens{asked}; the context holds {self.info.context}.",
            hint='Shorten it, ask for fewer tokens, set truncation to "auto", or load the model with a larger --context.',
            hint_zh="请缩短输入、减少 max_tokens、将 truncation 设为 auto，或用更大的 --context 加载模型。",
            param="messages",
            prompt_tokens=prompt_tokens,
            context=self.info.context,
        )

    # --- generation ---------------------------------------------------------------------------------------------

    def _generate(
        self,
        ids: list[int],
        request: Generation,
        cancel: threading.Event,
        splitter: ThinkingSplitter | None,
        dropped: int,
        echo: str = "",
    ) -> Iterator[Chunk]:
        if not ids:
            raise InvalidRequest("The prompt is empty.", param="prompt")
        seed = request.sampling.seed if request.sampling.seed is not None else secrets.randbits(31)
        yield Started(seed=seed, template=self.info.template if splitter else "", dropped_messages=dropped)
        splitters = [splitter if i == 0 else ThinkingSplitter() for i in range(request.n)] if splitter else None
        if echo:
            yield from (Text(index=i, text=echo) for i in range(request.n))
        if request.max_tokens == 0:
            yield from (Finished(index=i, reason="length") for i in range(request.n))
            yield Usage(prompt_tokens=len(ids))
            return
        started, first = time.perf_counter(), 0.0
        cached = completion = reasoning = 0
        for event in self._events(self._body(ids, request, seed), cancel):
            if progress := event.get("prompt_progress"):
                yield Prefill(done=progress["processed"], total=progress["total"])
                continue
            choice = event["choices"][0]
            first = first or time.perf_counter()
            index, text = choice["index"], choice["text"]
            if text:
                completion += 1
                logprobs = [_logprob(entry) for entry in (choice.get("logprobs") or {}).get("content", [])]
                pieces = splitters[index].feed(text) if splitters else [(text, False)]
                for position, (piece, thinking) in enumerate(pieces):
                    reasoning += thinking
                    yield Text(index=index, text=piece, reasoning=thinking, logprobs=[] if position else logprobs)
            if choice["finish_reason"]:
                for piece, thinking in splitters[index].flush() if splitters else []:
                    yield Text(index=index, text=piece, reasoning=thinking)
                stopped_by = event.get("__verbose", {}).get("stopping_word") or None
                reason: Literal["stop", "length"] = "stop" if choice["finish_reason"] == "stop" else "length"
                yield Finished(index=index, reason=reason, stop=stopped_by)
                usage = event.get("usage", {})
                cached = max(cached, usage.get("prompt_tokens_details", {}).get("cached_tokens", 0))
        now = time.perf_counter()
        yield Usage(
            prompt_tokens=len(ids),
            cached_tokens=cached,
            completion_tokens=completion,
            reasoning_tokens=reasoning,
            prefill_seconds=(first or now) - started,
            decode_seconds=now - (first or now),
        )

    def _events(self, body: dict[str, Any], cancel: threading.Event) -> Iterator[dict[str, Any]]:
        """Run one blocking call in a thread of its own and yield what it calls back with."""
        events: queue.SimpleQueue[dict[str, Any] | BaseException | None] = queue.SimpleQueue()
        abandoned = threading.Event()

        def on_event(text: str) -> bool:  # runs in the library: nothing may escape from here
            try:
                if not abandoned.is_set():
                    events.put(json.loads(text))
            except Exception as error:
                events.put(error)
            return cancel.is_set() or abandoned.is_set()

        def call() -> None:
            try:
                self._server.handle_completions(json.dumps(body), on_event)
                events.put(None)
            except Exception as error:
                events.put(error)

        thread = threading.Thread(target=call, name="llama-request", daemon=True)
        thread.start()
        try:
            while (event := events.get()) is not None:
                if cancel.is_set():
                    raise Cancelled("The request was cancelled.")
                if isinstance(event, BaseException):
                    raise InvalidRequest(f"llama.cpp refused the request: {event}") from event
                if "error" in event:
                    raise _error(event["error"])
                yield event
            if cancel.is_set():
                raise Cancelled("The request was cancelled.")
        finally:
            abandoned.set()

    def _body(self, ids: list[int], request: Generation, seed: int) -> dict[str, Any]:
        sampling = request.sampling
        unknown = set(request.adapters) - set(self._adapters)
        if unknown:
            raise InvalidRequest(
                f"The adapter {sorted(unknown)[0]!r} is not loaded; loaded are: {', '.join(self._adapters) or 'none'}.",
                hint="Load the model as NAME+ADAPTER.",
                hint_zh="请以 名称+适配器 的形式加载模型。",
                param="adapters",
            )
        body: dict[str, Any] = {
            "prompt": ids,
            "stream": True,
            "return_progress": True,
            "n": request.n,
            "n_predict": request.max_tokens if request.max_tokens is not None else self.info.context - len(ids),
            "stop": request.stop,
            "verbose": bool(request.stop),  # the only way to learn which stop string was met
            "seed": seed,
            "repeat_last_n": self.info.context,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            "logit_bias": [[token, bias] for token, bias in sampling.logit_bias.items()],
            "cache_prompt": True,
            "lora": [{"id": i, "scale": request.adapters.get(name, 0.0)} for i, name in enumerate(self._adapters)],
        }
        given = {
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "min_p": sampling.min_p,
            "repeat_penalty": sampling.repetition_penalty,
        }
        body |= {key: value for key, value in given.items() if value is not None}
        if request.logprobs is not None:
            body["n_probs"] = max(1, request.logprobs)
        if constraint := request.constraint:
            if constraint.json_schema is not None:
                body["json_schema"] = constraint.json_schema
            elif constraint.choices is not None:
                body["grammar"] = "root ::= " + " | ".join(
                    json.dumps(c, ensure_ascii=False) for c in constraint.choices
                )
            elif constraint.grammar is not None:
                body["grammar"] = constraint.grammar
        return body

    # --- the library --------------------------------------------------------------------------------------------

    def _start(
        self, model: ResolvedModel, settings: RuntimeSettings, context: int, slots: int, threads: int, embeds: bool
    ) -> Any:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(model.path)
        params.n_ctx = context * slots  # divided over the slots; never 0, which would take the file's own figure
        params.n_parallel = slots
        params.kv_unified = False  # attention over everybody's cells costs a third of the speed of eight streams
        params.n_batch = params.n_ubatch = max(PREFILL_BATCH, context) if embeds else PREFILL_BATCH
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.cache_ram_mib = settings.prompt_cache_mb  # the library's own default would take 8 GB
        params.check_tensors = True
        params.warmup = False
        params.verbosity = -1
        params.embedding = embeds
        params.hostnames = [str(self._directory / "llama.sock")]
        params.api_keys = [self._key]
        params.ui = False
        if settings.device == "cpu":
            params.n_gpu_layers = 0
        if model.adapters:
            from ninestory.models.convert.lora_gguf import adapter_gguf

            loras = []
            for adapter in model.adapters:
                info = xllamacpp.CommonAdapterLoraInfo()
                info.path, info.scale = str(adapter_gguf(adapter.path, self._file)), 0.0
                loras.append(info)
            params.lora_adapters = loras
        try:
            return xllamacpp.Server(params)
        except Exception as error:
            shutil.rmtree(self._directory, ignore_errors=True)
            raise Unsupported(
                f"llama.cpp could not load {model.reference}: {error}.",
                hint="'ninestory verify' checks the file, 'ninestory plan' the memory.",
                hint_zh="可用 ninestory verify 检查文件，用 ninestory plan 检查内存。",
                code="load_failed",
            ) from error

    def _tokenize(self, text: str, special: bool) -> list[int]:
        return [i for i, _ in self._pieces(text, special)]

    def _pieces(self, text: str, special: bool) -> list[tuple[int, str]]:
        body = {"content": text, "add_special": False, "parse_special": special, "with_pieces": True}
        return [(t["id"], _piece_text(t["piece"])) for t in self._post("/tokenize", body)["tokens"]]

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        """One call to the library's private socket."""
        connection = http.client.HTTPConnection("llama")
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.sock.connect(str(self._directory / "llama.sock"))
            headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
            connection.request("POST", path, json.dumps(body), headers)
            answer = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        if isinstance(answer, dict) and "error" in answer:
            raise _error(answer["error"])
        return answer


def _called(function: Any, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except Exception as error:
        raise InvalidRequest(f"llama.cpp refused the request: {error}") from error


def _error(error: dict[str, Any]) -> NinestoryError:
    """The library's error object as one of ours."""
    if "n_ctx" in error:
        return ContextOverflow(
            f"The prompt has {error.get('n_prompt_tokens')} tokens; the context holds {error['n_ctx']}."
        )
    status = error.get("code", 500)
    kind = InvalidRequest if isinstance(status, int) and 400 <= status < 500 else NinestoryError
    return kind(f"llama.cpp: {error.get('message', error)}")


def _as_dict(message: Message) -> dict[str, Any]:
    """A message as chat templates expect it."""
    data: dict[str, Any] = {"role": "system" if message.role == "developer" else message.role, "content": message.text}
    if message.tool_calls:
        data["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.reasoning:
        data["reasoning_content"] = message.reasoning
    return data


def _special_tokens(file: GgufFile) -> dict[int, str]:
    """id → spelling of the control tokens."""
    tokens, kinds = file.metadata.get("tokenizer.ggml.tokens", []), file.metadata.get("tokenizer.ggml.token_type", [])
    return {i: token for i, (token, kind) in enumerate(zip(tokens, kinds, strict=False)) if kind == _CONTROL_TOKEN}


def _most_common_dtype(file: GgufFile) -> str:
    sizes: dict[str, int] = {}
    for tensor in file.tensors.values():
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.nbytes
    return max(sizes, key=lambda dtype: sizes[dtype])


def _logprob(entry: dict[str, Any]) -> TokenLogprob:
    top = [_logprob(t) for t in entry.get("top_logprobs", [])]
    return TokenLogprob(token=entry["token"], logprob=entry["logprob"], bytes=entry["bytes"], top=top)


def _piece_text(piece: str | list[int]) -> str:
    """llama.cpp gives a piece that is no valid UTF-8 as a list of bytes."""
    return piece if isinstance(piece, str) else bytes(piece).decode("utf-8", errors="replace")
