"""`ninestory prompt ls | show | run | lint | bench`: task prompts as data, checked and compared by measurement."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ninestory.cli.app import language as spoken_language
from ninestory.cli.chat.open_chat import DEFAULT_MODEL
from ninestory.cli.output import Json, print_json, print_table
from ninestory.core.errors import InvalidRequest, NinestoryError
from ninestory.core.regular_file import read_regular_text

if TYPE_CHECKING:
    from ninestory.floors.chat import Case, ChatModel, Prompt, Reply

app = typer.Typer(no_args_is_help=True, help="Task prompts: ls, show, run, lint, bench.")
Reference = Annotated[str, typer.Argument(help="Id of the library, or FILE.toml\\[#ID].")]
Language = Annotated[str, typer.Option("--language", help="The prompt's language: en or zh; yours when left out.")]
Model = Annotated[str, typer.Option("--model", "-m", help="Model reference.")]
Context = Annotated[int | None, typer.Option(help="Tokens of a conversation.")]


@app.command("ls")
def ls(as_json: Json = False) -> None:
    """The library: summarise, infer, transform, expand, translate, correct, classify, extract."""
    from ninestory.floors.chat import load_prompts
    from ninestory.floors.chat import prompt_as_dict as as_dict

    prompts = list(load_prompts().values())
    if as_json:
        print_json([as_dict(prompt) for prompt in prompts])
        return
    chosen = spoken_language()
    print_table(
        ["prompt", "task", "title", "variables", "cases"],
        [
            [p.id, p.task, getattr(p.title, chosen), ", ".join(v.name for v in p.variables), len(p.cases)]
            for p in prompts
        ],
    )


@app.command("show")
def show(prompt: Reference, language: Language = "", toml: bool = False, as_json: Json = False) -> None:
    """Text, variables and cases of a prompt; --toml prints the library's file, to begin one's own with."""
    from importlib import resources

    from ninestory.floors.chat import find_prompt
    from ninestory.floors.chat import prompt_as_dict as as_dict

    found, chosen = find_prompt(prompt), language or spoken_language()
    if as_json:
        print_json(as_dict(found))
        return
    if toml:
        text = (resources.files("ninestory.catalog") / "prompts" / "tasks.toml").read_text(encoding="utf-8")
        parts = text.split("[[prompts]]\n")
        print("[[prompts]]\n" + next((p for p in parts if p.startswith(f'id = "{found.id}"')), parts[1]).rstrip())
        return
    print(f"{found.id} {found.version} ({found.task}): {getattr(found.title, chosen)}\n")
    print(getattr(found.text, chosen) + "\n")
    rows = [
        [v.name, v.type, "" if v.default is None else v.default, ", ".join(v.choices), getattr(v.about, chosen)]
        for v in found.variables
    ]
    print_table(["variable", "type", "default", "choices", "about"], rows)


@app.command("run")
def run(
    prompt: Reference,
    values: Annotated[list[str] | None, typer.Argument(help="NAME=VALUE; NAME=@FILE reads a file.")] = None,
    model: Model = DEFAULT_MODEL,
    language: Language = "",
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer in tokens.")] = None,
    temperature: Annotated[float | None, typer.Option(help="The prompt's own when left out.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answer.")] = None,
    repairs: Annotated[int, typer.Option(min=0, max=5, help="Ask again when an answer is not the JSON asked for.")] = 2,
    dry: Annotated[bool, typer.Option("--dry", help="Print the messages and ask nobody.")] = False,
    context: Context = None,
    as_json: Json = False,
) -> None:
    """Fill in a prompt and ask. What is piped in becomes the first variable that is missing."""
    from ninestory.floors.chat import compose, find_prompt

    found, chosen = find_prompt(prompt), language or spoken_language()
    messages = compose(found, _values(found, values or []), chosen)
    if dry:
        print_json(messages) if as_json else print(_as_text(messages))
        return
    options = {"max_tokens": max_tokens, "seed": seed}
    options = {name: value for name, value in options.items() if value is not None}
    with _open(model, context) as loaded:
        heat = found.temperature if temperature is None else temperature
        reply, fault = _asked(loaded, found, messages, {**options, "temperature": heat}, repairs)
    if as_json:
        print_json({"messages": messages, "answer": reply.text, "fault": fault, "usage": reply.usage})
    else:
        print(reply.text)
    if fault:
        raise NinestoryError(
            f"The answer is not the JSON that was asked for: {fault}.",
            hint="Take a larger model, or raise --repairs or --max-tokens.",
            hint_zh="请换用更大的模型，或增大 --repairs 或 --max-tokens。",
            code="answer_not_json",
        )


@app.command("lint")
def lint(
    prompt: Annotated[str, typer.Argument(help="Id, FILE.toml\\[#ID], a text file, or - for the input.")],
    language: Language = "",
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail unless delimiters and output format are there.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check a prompt against the guidelines: delimiters, output format, conditions, few-shot, steps."""
    from ninestory.floors.chat import essential_kept
    from ninestory.floors.chat import lint_prompt as remarks_on

    chosen = language or spoken_language()
    text, examples = _text_of(prompt, chosen)
    remarks = remarks_on(text, examples=examples)
    if as_json:
        print_json([dataclasses.asdict(remark) for remark in remarks])
    else:
        rows = [["ok" if r.kept else "missing", r.rule, "" if r.kept else getattr(r.advice, chosen)] for r in remarks]
        print_table(["", "guideline", "advice"], rows)
    if strict and not essential_kept(remarks):
        raise InvalidRequest(
            "The prompt names no delimiters or no output format.",
            hint="Follow the advice above, or leave out --strict.",
            hint_zh="请按上面的建议修改，或去掉 --strict。",
            code="prompt_lint",
        )


@app.command("bench")
def bench(
    prompts: Annotated[
        list[str], typer.Argument(help="Variants: ids or FILE.toml\\[#ID]; the first brings the cases.")
    ],
    models: Annotated[list[str] | None, typer.Option("--model", "-m", help="Model reference; may be repeated.")] = None,
    cases: Annotated[Path | None, typer.Option(help='JSON lines: {"values": {…}, "checks": [{…}]}.')] = None,
    language: Language = "",
    max_tokens: Annotated[int, typer.Option(help="Longest answer in tokens.")] = 256,
    seed: Annotated[int, typer.Option(help="The same seed gives the same answers.")] = 0,
    price_in: Annotated[float, typer.Option(help="Price of a million prompt tokens.")] = 0.0,
    price_out: Annotated[float, typer.Option(help="Price of a million answer tokens.")] = 0.0,
    context: Context = None,
    out: Annotated[Path | None, typer.Option(help="Keep every answer in this file (JSON).")] = None,
    as_json: Json = False,
) -> None:
    """Try variants × cases × models; print scores and costs, best first. One model is loaded at a time."""
    from ninestory.core.paths import atomic_write
    from ninestory.evaluation.prompt_bench import TrialAnswer, table, trials
    from ninestory.floors.chat import compose, find_prompt

    chosen = language or spoken_language()
    found = {reference: find_prompt(reference) for reference in prompts}
    tried = _cases(cases, next(iter(found.values())), chosen)
    variants = {name: lambda n, p=p: compose(p, tried[n].values, chosen) for name, p in found.items()}
    made = []
    for name in models or [DEFAULT_MODEL]:
        with _open(name, context) as model:

            def ask(variant: str, messages: list[dict[str, str]], model: Any = model) -> TrialAnswer:
                heat = found[variant].temperature
                reply = model.chat(messages, temperature=heat, max_tokens=max_tokens, seed=seed)
                usage = reply.usage
                return (
                    TrialAnswer(reply.text, usage.prompt_tokens, usage.completion_tokens)
                    if usage
                    else TrialAnswer(reply.text)
                )

            made += list(trials(variants, [case.checks for case in tried], name, ask, expected=NinestoryError))
    rows = table(made, price_in, price_out)
    report = {"rows": [dataclasses.asdict(r) for r in rows], "trials": [dataclasses.asdict(t) for t in made]}
    if out:
        with atomic_write(out) as file:
            file.write(json.dumps(report, ensure_ascii=False, indent=1).encode())
    if as_json:
        print_json(report)
        return
    print_table(
        ["prompt", "model", "mean", "worst", "cases", "faults", "tokens in", "tokens out", "seconds", "cost"],
        [
            [
                *(row.variant, row.model, f"{row.mean:.3f}", f"{row.worst:.3f}", row.cases, row.faults),
                *(row.prompt_tokens, row.completion_tokens, f"{row.seconds:.1f}", f"{row.cost:.6f}"),
            ]
            for row in rows
        ],
    )


def _open(name: str, context: int | None) -> ChatModel:
    from ninestory.core.config import load_settings
    from ninestory.library import load

    return load(name, slots=1, context=context or load_settings().settings.runtime.context)


def _asked(
    model: ChatModel, prompt: Prompt, messages: list[dict[str, str]], options: dict[str, Any], repairs: int
) -> tuple[Reply, str]:
    """The answer and what is wrong with it. Where JSON is due it is forced if the runtime can, and checked anyway."""
    from ninestory.floors.chat import answer_schema, json_fault

    schema = answer_schema(prompt)
    if schema is None:
        return model.chat(messages, **options), ""
    turns = list(messages)
    for round_number in range(repairs + 1):
        reply = model.chat(turns, json_schema=schema, **options)
        fault = json_fault(reply.text, schema)
        if not fault or round_number == repairs:
            break
        turns = [*messages, {"role": "assistant", "content": reply.text}]
        turns.append({"role": "user", "content": f"That is not right: {fault}. Answer again with the JSON only."})
    return reply, fault


def _values(prompt: Prompt, given: list[str]) -> dict[str, str]:
    values = {}
    for item in given:
        name, equals, value = item.partition("=")
        if not equals:
            raise InvalidRequest(
                f"{item[:80]!r} is not NAME=VALUE.",
                hint=f"Variables of {prompt.id}: {', '.join(v.name for v in prompt.variables)}.",
                hint_zh=f"{prompt.id} 的变量：{'、'.join(v.name for v in prompt.variables)}。",
                param=name,
            )
        values[name] = _read(Path(value[1:])) if value.startswith("@") else value
    missing = [v.name for v in prompt.variables if v.required and v.name not in values]
    if missing and not sys.stdin.isatty():
        values[missing[0]] = sys.stdin.read().strip()
    return values


def _text_of(reference: str, language: str) -> tuple[str, int]:
    """The text that is checked, and how many examples go with it."""
    from ninestory.floors.chat import compose, find_prompt

    if reference == "-":
        return sys.stdin.read(), 0
    if Path(reference).suffix not in ("", ".toml") or (Path(reference).is_file() and not reference.endswith(".toml")):
        return _read(Path(reference)), 0
    found = find_prompt(reference)
    filled = {v.name: "…" for v in found.variables if v.required}
    messages = compose(found, filled, language)
    return messages[-1]["content"], len(messages) // 2


def _cases(file: Path | None, prompt: Prompt, language: str) -> list[Case]:
    from ninestory.floors.chat import Case

    if file is None:
        found = [case for case in prompt.cases if case.language == language]
        if found:
            return found
        raise InvalidRequest(
            f"{prompt.id} has no cases in {language}.",
            hint="Give some with --cases FILE.",
            hint_zh="请用 --cases 文件 提供用例。",
        )
    made = []
    for number, line in enumerate(_read(file).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            made.append(Case(language, {k: str(v) for k, v in row["values"].items()}, list(row["checks"])))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidRequest(
                f"{file}, line {number} is not a case: {type(error).__name__} {error}.",
                hint='Write lines like {"values": {"text": "…"}, "checks": [{"contains": ["…"]}]}.',
                hint_zh='每行形如 {"values": {"text": "…"}, "checks": [{"contains": ["…"]}]}。',
                param="cases",
            ) from error
    if not made:
        raise InvalidRequest(f"{file} holds no case.", hint="One JSON object a line.", hint_zh="每行一个 JSON 对象。")
    return made


def _read(file: Path) -> str:
    try:
        return read_regular_text(file.expanduser())
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{file} cannot be read as text: {error}.", hint="Check the path.") from error


def _as_text(messages: list[dict[str, str]]) -> str:
    return "\n\n".join(f"[{message['role']}]\n{message['content']}" for message in messages)
