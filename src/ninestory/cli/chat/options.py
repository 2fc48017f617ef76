"""The options of `ninestory chat`: a type each, with its flag and its line of help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[str, typer.Argument(help="Model reference.")]
Prompt = Annotated[str | None, typer.Option("--prompt", "-p", help="One question; print the answer and end.")]
System = Annotated[str, typer.Option(help="System message.")]
Raw = Annotated[bool, typer.Option("--raw", help="Continue the text as it is, without a chat template.")]
MaxTokens = Annotated[int | None, typer.Option(help="Longest answer in tokens.")]
Temperature = Annotated[float | None, typer.Option(help="0 always takes the likeliest token.")]
TopP = Annotated[float | None, typer.Option(help="Keep the likeliest tokens of this total probability.")]
TopK = Annotated[int | None, typer.Option(help="Keep this many tokens.")]
MinP = Annotated[float | None, typer.Option(help="Drop tokens below this part of the likeliest.")]
RepetitionPenalty = Annotated[float | None, typer.Option(help="Above 1 repeats less.")]
PresencePenalty = Annotated[float | None, typer.Option(help="Subtracted once from tokens already used.")]
FrequencyPenalty = Annotated[float | None, typer.Option(help="Subtracted for each use of a token.")]
Seed = Annotated[int | None, typer.Option(help="The same seed gives the same answer.")]
Stop = Annotated[list[str] | None, typer.Option(help="End the answer here; may be repeated.")]
Template = Annotated[
    str | None, typer.Option(help="Prompt template, or 'checkpoint'; else the catalogue's, then the checkpoint's.")
]
Context = Annotated[int | None, typer.Option(help="Tokens of the conversation.")]
Threads = Annotated[int | None, typer.Option(help="Threads.")]
Dtype = Annotated[str | None, typer.Option(help="torch: float32, bfloat16, float16, int8, or int4 on a GPU.")]
Fast = Annotated[
    bool | None, typer.Option("--fast", help="torch on a CPU: fastest linears, bits may depend on neighbours.")
]
Plugin = Annotated[
    list[str] | None, typer.Option(help="MOSS only: calculator, solver, search=COMMAND, draw=COMMAND; repeatable.")
]
Strategy = Annotated[
    str | None, typer.Option(help="RWKV only: which layers run where, e.g. 'cpu fp32i8 *10 -> cpu fp32'.")
]
Runtime = Annotated[str | None, typer.Option(help="llamacpp, torch or remote; chosen by the files when left out.")]
Docs = Annotated[
    Path | None, typer.Option(help="Answer from the documents of this folder, with sources; it is kept in step.")
]
KnowledgeBase = Annotated[str, typer.Option(help="Answer from this knowledge base (ninestory kb ls).")]
