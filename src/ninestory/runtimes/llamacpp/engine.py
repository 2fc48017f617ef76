"""GGUF models by llama.cpp, in process: typed requests in, chunks out. One thread a running request."""

from __future__ import annotations

import itertools
import math
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from ninestory.core.config import RuntimeSettings
from ninestory.core.errors import Cancelled, InvalidRequest, Unsupported
from ninestory.core.paths import Home
from ninestory.core.tasks import Task
from ninestory.models.convert.lora_gguf import adapter_gguf
from ninestory.models.gguf_reader import GgufFile, read_gguf
from ninestory.models.resolved import ResolvedModel
from ninestory.runtimes.answer_edit import AnswerEdit
from ninestory.runtimes.dispatch import Handler, dispatch
from ninestory.runtimes.json_schema import choices_grammar, schema_grammar
from ninestory.runtimes.llamacpp.library import Library
from ninestory.runtimes.llamacpp.prompts import GgufPrompts
from ninestory.runtimes.prompts import Prompt
from ninestory.runtimes.protocol import (
    ChatRequest,
    Chunk,
    CompletionRequest,
    Constraint,
    EmbeddingRequest,
    Embeddings,
    EngineInfo,
    Feed,
    Finished,
    Generation,
    Prefill,
    Relevance,
    Request,
    RerankRequest,
    ScoreRequest,
    Scores,
    Started,
    Text,
    TokenizeRequest,
    TokenLogprob,
    Tokens,
    Usage,
)
from ninestory.runtimes.reasoning import ThinkingSplitter
from ninestory.runtimes.threads import free_processors
from ninestory.runtimes.tool_calling import answer_or_call

DEFAULT_CONTEXT = 4096
_FORCING_BIAS = 1000.0  # logits differ by some tens
_TASKS: dict[str, list[Task]] = {
    "chat": ["chat", "completion", "score"],
    "embedding": ["embedding"],
    "rerank": ["rerank"],
}
_RANDOM_SEED = 0xFFFFFFFF  # llama.cpp's word for "draw one"


class LlamaCppEngine:
    """One GGUF file loaded by llama.cpp.

    Raises:
        Damaged: the header is not sound (checked before native code sees the file).
        Unsupported: an architecture or option this build cannot run.
    """

    def __init__(self, model: ResolvedModel, settings: RuntimeSettings) -> None:
        if model.path is None:
            raise Unsupported(f"{model.reference} has no file to open.")
        file = read_gguf(model.path)
        trained = int(file.field("context_length", DEFAULT_CONTEXT))
        self._context = context = settings.context or min(trained, DEFAULT_CONTEXT)
        embeds = model.task in ("embedding", "rerank")
        slots = 1 if embeds else max(1, settings.slots)
        threads = settings.threads or free_processors()
        self._weights = {adapter.name: adapter.weight for adapter in model.adapters}
        self._library = Library(
            model.path,
            context=context,
            slots=slots,
            threads=threads,
            cache_mb=settings.prompt_cache_mb,
            device=settings.device,
            adapters=[adapter_gguf(adapter.path, file, _home(model)) for adapter in model.adapters],
            embeds=embeds,
            pooling=_pooling(model, file),
        )
        self._prompts = GgufPrompts(model, file, self._library, context, settings.template)
        form = self._prompts.format
        self.info = EngineInfo(
            model=model.reference,
            runtime="llamacpp",
            architecture=file.architecture,
            tasks=_TASKS[model.task],
            tokenizes=True,
            context=context,
            slots=slots,
            template=form.id if form else "",
            template_source=form.source if form else "",
            adapters=list(self._weights),
            dtype=_most_common_dtype(file),
            threads=threads,
            notes=[*model.notes, f"llama.cpp with {threads} thread(s), {slots} slot(s) of {context} tokens"],
        )

    def run(self, request: Request, cancel: threading.Event, feed: Feed | None = None) -> Iterator[Chunk]:
        handlers: dict[str, Handler] = {
            "chat": self._chat,
            "completion": self._complete,
            "embedding": self._embed,
            "rerank": self._rerank,
            "score": self._score,
            "tokenize": self._tokenize,
        }
        return dispatch(self, handlers, request, cancel, feed)

    def close(self) -> None:
        self._library.close()

    # --- one function a kind of request -------------------------------------------------------------------------

    def _chat(self, request: ChatRequest, cancel: threading.Event) -> Iterator[Chunk]:
        if request.tools and request.tool_choice != "none":
            return answer_or_call(self, self._prompts, request, cancel)
        return self._answer(request, cancel)

    def _answer(self, request: ChatRequest, cancel: threading.Event) -> Iterator[Chunk]:
        prompt = self._prompts.chat(request, cancel)
        ends = [*prompt.stops, *self._prompts.spellings(prompt.stop_ids)]
        choices = [
            _Choice(i, request.logprobs, self._prompts, ThinkingSplitter(inside=prompt.thinking), ends, prompt.edit())
            for i in range(request.n)
        ]
        yield from self._generate(prompt, request, choices, cancel)

    def _complete(self, request: CompletionRequest, cancel: threading.Event) -> Iterator[Chunk]:
        prompt = self._prompts.completion(request)
        echo = self._echo(prompt, request, cancel) if request.echo else Text(text="")
        choices = [
            _Choice(i, request.logprobs, self._prompts, completes=True, begins_at=len(echo.text))
            for i in range(request.n)
        ]
        yield from self._generate(prompt, request, choices, cancel, echo)

    def _embed(self, request: EmbeddingRequest, cancel: threading.Event) -> Iterator[Chunk]:
        if request.role:
            raise Unsupported(
                f"{self.info.model} does not say what it wants before a {request.role}.",
                hint="Write the prefix into the text and leave input_type out.",
                hint_zh="请把前缀直接写入文本，并去掉 input_type。",
                param="input_type",
            )
        inputs = [self._prompts.embedded(given) for given in request.inputs]
        vectors: list[list[float]] = []
        for ids in inputs:  # one text a call: there is one slot, and a cancel waits for one text at most
            if cancel.is_set():
                raise Cancelled("The request was cancelled.")
            vectors.append(self._library.embeddings({"input": [ids]})["data"][0]["embedding"])
        yield Embeddings(vectors=vectors, prompt_tokens=sum(len(ids) for ids in inputs))

    def _rerank(self, request: RerankRequest, cancel: threading.Event) -> Iterator[Chunk]:
        """A cross-encoder's logit of each document, one a call, made a sigmoid."""
        values, tokens = [], 0
        for document in request.documents:
            if cancel.is_set():
                raise Cancelled("The request was cancelled.")
            answer = self._library.rerank({"query": request.query, "documents": [document]})
            values.append(1 / (1 + math.exp(-answer["results"][0]["relevance_score"])))
            tokens += answer.get("usage", {}).get("prompt_tokens", 0)
        yield Relevance(values=values, prompt_tokens=tokens)

    def _tokenize(self, request: TokenizeRequest, cancel: threading.Event) -> Iterator[Chunk]:
        segments = [(request.text or "", False)]
        if request.messages is not None:
            chat = ChatRequest(messages=request.messages, template=request.template)
            segments = self._prompts.render(request.messages, chat, cancel)
        pairs = self._prompts.pieces(segments)
        yield Tokens(ids=[i for i, _ in pairs], pieces=[piece for _, piece in pairs])

    def _score(self, request: ScoreRequest, cancel: threading.Event) -> Iterator[Chunk]:
        values: list[list[list[float]]] = []
        greedy: list[list[bool]] = []
        tokens = 0
        asked = CompletionRequest(prompt="", logprobs=1)
        for item in request.items:
            pairs = self._prompts.scored(item)
            scored = [self._scored([*b, *t], len(b), asked, cancel, param="items") for b, t in pairs]
            values.append([[entry["logprob"] for entry in entries] for entries in scored])
            greedy.append([all(e["top_logprobs"][0]["id"] == e["id"] for e in entries) for entries in scored])
            tokens += sum(len(before) + len(targets) for before, targets in pairs)
        yield Scores(values=values, greedy=greedy, prompt_tokens=tokens)

    def _echo(self, prompt: Prompt, request: CompletionRequest, cancel: threading.Event) -> Text:
        """The prompt's text, with the log-probabilities of its tokens where they are asked for."""
        given, ids = request.prompt, prompt.ids
        text = given if isinstance(given, str) else self._prompts.detokenise(ids)
        if request.logprobs is None:
            return Text(text=text)
        first = self._prompts.piece(ids[0])
        if "\ufffd" in first:
            raise _part_of_a_character(0, "prompt")
        scored = self._scored(ids, 1, request, cancel, param="prompt")
        entries = [
            TokenLogprob(token=first, logprob=None, bytes=list(first.encode())),
            *(_logprob(entry, request.logprobs, self._prompts) for entry in scored),
        ]
        # Special tokens are written out where the prompt was ids; SentencePiece puts a blank before a text.
        hidden = isinstance(given, str)
        pieces = ["" if hidden and self._prompts.is_special(i) else self._prompts.piece(i) for i in ids]
        dropped = 1 if hidden and "".join(pieces) == f" {text}" else 0
        ends = list(itertools.accumulate(map(len, pieces), initial=-dropped))
        offsets = [max(0, end) for end in ends[:-1]]
        placed = [replace(entry, text_offset=offset) for entry, offset in zip(entries, offsets, strict=True)]
        return Text(text="".join(pieces)[dropped:], logprobs=placed)

    def _scored(
        self, ids: list[int], start: int, request: Generation, cancel: threading.Event, *, param: str
    ) -> list[dict[str, Any]]:
        """llama.cpp's entries of the tokens from place `start` on, each foretold by all before it.

        One decode step a token: the token is forced, and its log-probability is that before the forcing.

        Raises:
            Unsupported: a token is a part of a character; llama.cpp gives no log-probabilities of those that end
                inside one.
        """
        asked = CompletionRequest(prompt="", max_tokens=1, logprobs=request.logprobs, adapters=request.adapters)
        entries: list[dict[str, Any]] = []
        for place in range(start, len(ids)):
            body = self._body(Prompt(ids[:place]), asked, seed=0)
            body |= {"temperature": 0.0, "logit_bias": [[ids[place], _FORCING_BIAS]], "stream": False}
            body["return_progress"] = False
            for event in self._library.stream(body, cancel):
                content = (event["choices"][0]["logprobs"] or {}).get("content")
                if not content or content[0]["id"] != ids[place] or not _is_text(content[0]["bytes"]):
                    raise _part_of_a_character(place - (start if param == "items" else 0), param)
                entries.append(content[0])
        return entries

    # --- generation ---------------------------------------------------------------------------------------------

    def _generate(
        self,
        prompt: Prompt,
        request: Generation,
        choices: list[_Choice],
        cancel: threading.Event,
        echo: Text | None = None,
    ) -> Iterator[Chunk]:
        seed = secrets.randbits(31) if request.sampling.seed is None else request.sampling.seed
        body = self._body(prompt, request, seed)
        yield Started(seed=seed, template=prompt.template, dropped_messages=prompt.dropped_messages)
        if echo is not None and (echo.text or echo.logprobs):
            yield from (replace(echo, index=choice.index) for choice in choices)
        if request.max_tokens == 0:  # the library would still decode one
            yield from (Finished(index=choice.index, reason="length") for choice in choices)
            yield Usage(prompt_tokens=len(prompt.ids))
            return
        started, first = time.perf_counter(), 0.0
        cached = 0
        for event in self._library.stream(body, cancel):
            if progress := event.get("prompt_progress"):
                yield Prefill(done=progress["processed"], total=progress["total"])
                continue
            first = first or time.perf_counter()
            yield from choices[event["choices"][0]["index"]].feed(event)
            cached = max(cached, event.get("usage", {}).get("prompt_tokens_details", {}).get("cached_tokens", 0))
        now = time.perf_counter()
        yield Usage(
            prompt_tokens=len(prompt.ids),
            cached_tokens=cached,
            completion_tokens=sum(choice.tokens for choice in choices),
            reasoning_tokens=sum(choice.reasoning_tokens for choice in choices),
            prefill_seconds=(first or now) - started,
            decode_seconds=now - (first or now),
        )

    def _body(self, prompt: Prompt, request: Generation, seed: int) -> dict[str, Any]:
        """The request in llama.cpp's words. It ignores what it does not know, so nothing doubtful is passed on."""
        sampling = request.sampling
        self._prompts.check_ids(list(sampling.logit_bias), "logit_bias")
        room = self._context - len(prompt.ids)
        marks = self._prompts.spellings(prompt.stop_ids)
        stops = list(dict.fromkeys([*request.stop, *prompt.stops, *marks]))
        body: dict[str, Any] = {
            "prompt": prompt.ids,
            "stream": True,
            "return_progress": True,  # a callback a batch, so that a prefill can be cancelled
            "n": request.n,
            "n_predict": room if request.max_tokens is None else request.max_tokens,
            "stop": stops,
            "preserved_tokens": marks,  # special tokens have no text otherwise, and no stop string would be met
            "verbose": bool(stops),  # the only way to learn which stop string was met
            "seed": seed % _RANDOM_SEED,
            "repeat_last_n": self._context,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            "logit_bias": [[token, bias] for token, bias in sampling.logit_bias.items()],
            "cache_prompt": True,
            "lora": self._adapter_scales(request),
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
        if request.constraint is not None:
            body["grammar"] = _grammar(request.constraint)
        return body

    def _adapter_scales(self, request: Generation) -> list[dict[str, float]]:
        """Every loaded adapter with its weight: the request's, or, where it names none at all, the reference's."""
        if unknown := sorted(set(request.adapters) - set(self._weights)):
            raise InvalidRequest(
                f"The adapter {unknown[0]!r} is not loaded; loaded are: {', '.join(self._weights) or 'none'}.",
                hint="Load the model as NAME+ADAPTER.",
                hint_zh="请以 名称+适配器 的形式加载模型。",
                param="adapters",
            )
        weights = request.adapters or self._weights
        return [{"id": i, "scale": weights.get(name, 0.0)} for i, name in enumerate(self._weights)]


class _Choice:
    """One of the n answers: turns the library's events into chunks and counts its tokens."""

    def __init__(
        self,
        index: int,
        alternatives: int | None,
        prompts: GgufPrompts,
        splitter: ThinkingSplitter | None = None,
        ends: Sequence[str] = (),
        edit: AnswerEdit | None = None,
        *,
        completes: bool = False,
        begins_at: int = 0,
    ) -> None:
        self._edit = edit
        self._prompts, self._completes = prompts, completes
        self._begins_at, self._entries = begins_at, 0
        self._text = self._pieces = ""  # what was sent, and what the tokens with a log-probability are written as
        self._ends = ends  # the prompt format's own stop strings, which nobody asked for by name
        self.index, self.tokens, self.reasoning_tokens = index, 0, 0
        self._alternatives, self._splitter = alternatives, splitter
        self._logprobs: list[TokenLogprob] = []  # of text that the splitter still holds

    def feed(self, event: dict[str, Any]) -> Iterator[Chunk]:
        choice = event["choices"][0]
        for entry in (choice.get("logprobs") or {}).get("content", []):
            self._take(entry)
        text = self._edit.push(choice["text"]) if self._edit else choice["text"]
        text += self._edit.finish() if self._edit and choice["finish_reason"] else ""
        self._text += choice["text"]
        if text:
            pieces = self._splitter.feed(text) if self._splitter else [(text, False)]
            self.reasoning_tokens += any(thinking for _, thinking in pieces)
            yield from self._texts(pieces)
        if not choice["finish_reason"]:
            return
        yield from self._texts(self._splitter.flush() if self._splitter else [])
        self.tokens = event.get("usage", {}).get("completion_tokens", 0)
        met = event.get("__verbose", {}).get("stopping_word") or None
        if self._completes and self._alternatives is not None:
            self._add_missing_entries()
            if self._logprobs and not met:  # of tokens at the end that have no text
                yield from self._texts([("", False)])
        yield Finished(
            index=self.index,
            reason="stop" if choice["finish_reason"] == "stop" else "length",
            stop=None if met in self._ends else met,
        )

    def _take(self, entry: dict[str, Any]) -> None:
        logprob = _logprob(entry, self._alternatives or 0, self._prompts)
        self._logprobs.append(replace(logprob, text_offset=self._begins_at + len(self._pieces)))
        self._entries += 1
        self._pieces += "" if self._prompts.is_special(entry["id"]) else logprob.token

    def _add_missing_entries(self) -> None:
        """Add an entry without a log-probability for each token at the end of the answer that llama.cpp left out.

        It leaves out tokens that end inside a character; a list that is one short would shift what clients cut from it.

        Raises:
            Unsupported: a token before the end is missing.
        """
        missing = self.tokens - self._entries
        if not missing:
            return
        if not self._pieces.startswith(self._text):
            raise _part_of_a_character(None, "logprobs")
        end = self._begins_at + len(self._pieces)
        self._logprobs += [TokenLogprob(token="", logprob=None, bytes=[], text_offset=end)] * missing

    def _texts(self, pieces: list[tuple[str, bool]]) -> Iterator[Text]:
        for text, thinking in pieces:
            logprobs, self._logprobs = self._logprobs, []
            yield Text(index=self.index, text=text, reasoning=thinking, logprobs=logprobs)


def _grammar(constraint: Constraint) -> str:
    if constraint.json_schema is not None:
        return "%llguidance {}\n" + schema_grammar(constraint.json_schema)
    if constraint.choices is not None:
        return "%llguidance {}\n" + choices_grammar(constraint.choices)
    grammar = constraint.grammar or ""
    if not grammar.strip() or grammar.lstrip().startswith("%llguidance"):
        raise Unsupported(
            "llama.cpp takes a grammar in GBNF.",
            hint="Write 'root ::= …'.",
            hint_zh="请写成“root ::= …”。",
            param="grammar",
        )
    return grammar


def _home(model: ResolvedModel) -> Home:
    if model.home is None:
        raise ValueError(f"{model.reference} has adapters and no home to keep their GGUF form in")
    return Home(model.home)


def _pooling(model: ResolvedModel, file: GgufFile) -> str:
    """What llama.cpp must be told: it takes an embedding's from the file, a reranker's only from here."""
    if model.task == "rerank":
        return "rank"
    return "mean" if model.task == "embedding" and file.field("pooling_type") is None else ""


def _most_common_dtype(file: GgufFile) -> str:
    sizes: dict[str, int] = {}
    for tensor in file.tensors.values():
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.nbytes
    return max(sizes, key=lambda dtype: sizes[dtype])


def _logprob(entry: dict[str, Any], alternatives: int, prompts: GgufPrompts) -> TokenLogprob:
    """llama.cpp names a chosen token by the text that it sent with it, which stop strings hold back."""
    top = []
    for other in entry.get("top_logprobs", [])[:alternatives]:
        special = prompts.is_special(other["id"])  # llama.cpp gives them no text
        token = prompts.piece(other["id"]) if special else other["token"]
        data = list(token.encode()) if special else other["bytes"]
        top.append(TokenLogprob(token=token, logprob=other["logprob"], bytes=data))
    piece = prompts.piece(entry["id"])
    data = entry["bytes"] if entry["token"] == piece else list(piece.encode())
    return TokenLogprob(token=piece, logprob=entry["logprob"], bytes=data, top=top)


def _is_text(data: list[int]) -> bool:
    try:
        bytes(data).decode()
    except UnicodeDecodeError:
        return False
    return True


def _part_of_a_character(place: int | None, param: str) -> Unsupported:
    which = f"Token {place} of the {param}" if place is not None else "A token of the answer"
    return Unsupported(
        f"{which} is a part of a character, of which llama.cpp gives no log-probability.",
        hint="Use the model in safetensors form (the torch runtime).",
        hint_zh="请改用 safetensors 格式的模型（torch 运行时）。",
        param=param,
    )
