"""The entry point: find the verb, import only its module, turn errors into words and exit codes.

`--help` imports nothing but Typer: each verb's line of help stands in a table, here or in floors/table.py.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any, Literal

import typer
from typer.core import TyperCommand, TyperGroup

from ninestory.floors.table import FLOORS, Text

if TYPE_CHECKING:
    from ninestory.core.errors import InvalidRequest, NinestoryError

# Verbs that belong to no floor: verb → (module below ninestory.cli, line of help). Those of the floors stand in
# floors/table.py and are shown between the server and the tools.
OWN_VERBS: dict[str, tuple[str, Text]] = {
    "list": ("catalogue", Text("The catalogue: every system of the tower", "目录：塔中的全部系统")),
    "show": (
        "catalogue",
        Text("One system: variants, sizes, licence, pitfalls", "一个系统：变体、大小、许可证与常见问题"),
    ),
    "pull": ("pull", Text("Fetch a model from its hub", "从模型站点下载模型")),
    "ls": ("store", Text("Models on this machine", "本机已有的模型")),
    "rm": ("store", Text("Delete a model", "删除模型")),
    "verify": ("store", Text("Check a model's files without running anything", "检查模型文件（不执行任何内容）")),
    "import": ("store", Text("Take a file or folder into the store", "将文件或目录导入模型库")),
    "convert": (
        "convert",
        Text("To GGUF, safetensors, int4/int8; BELLE's files", "转换为 GGUF、safetensors、int4/int8；解密 BELLE"),
    ),
    "merge": ("merge", Text("LoRA adapters, weight differences, vocabularies", "合并 LoRA 适配器、权重差值与词表")),
    "plan": ("plan", Text("Will it fit? Predicted memory of a model", "放得下吗？预测模型内存")),
    "doctor": ("doctor", Text("Check this machine, or a checkpoint's known pitfalls", "检查本机或检查点的已知问题")),
    "ps": ("workers", Text("Models loaded in the running server", "服务器中已加载的模型")),
    "load": ("workers", Text("Load a model in the running server", "在服务器中加载模型")),
    "unload": ("workers", Text("Unload a model from the running server", "从服务器中卸载模型")),
    "evaluate": ("evaluate", Text("Measure a model: C-Eval, perplexity", "测量模型：C-Eval、困惑度")),
    "jobs": ("jobs", Text("Long work: ls, logs, cancel, resume, dismiss", "长任务：ls、logs、cancel、resume、dismiss")),
    "config": ("config", Text("Every setting and where its value came from", "全部设置及其来源")),
    "tour": ("tour", Text("Do one real thing on each floor; writes a report", "在每一层做一件真实的事并生成报告")),
}
VERBS: dict[str, tuple[str, Text]] = {
    "serve": ("serve", Text("Run the server and the page", "启动服务器与网页")),
    **{
        verb: (f"{floor.name}.{module}", text)
        for floor in FLOORS.values()
        for verb, (module, text) in floor.verbs.items()
    },
    **OWN_VERBS,
}


class LazyGroup(TyperGroup):
    """Lists verbs from the table; imports the module of the one that runs."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> TyperCommand | TyperGroup | None:
        if cmd_name not in VERBS:
            return None
        module, text = VERBS[cmd_name]
        if not _is_running(cmd_name):
            return TyperCommand(cmd_name, help=text.in_language(language()))
        command: Any = typer.main.get_command(importlib.import_module(f"ninestory.cli.{module}").app)
        group = command.commands if isinstance(command, TyperGroup) else {}
        return group.get(cmd_name, command)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Find the verb; `help VERB …` is `VERB … --help`.

        Raises:
            InvalidRequest: there is no such verb.
        """
        verb, *rest = args
        if verb == "help" and not rest:
            print(ctx.get_help())
            ctx.exit()
        if verb == "help":
            return self.resolve_command(ctx, [*rest, "--help"])
        if verb not in VERBS and not ctx.resilient_parsing:
            raise _unknown_verb(verb)
        return super().resolve_command(ctx, args)


def _unknown_verb(verb: str) -> InvalidRequest:
    from difflib import get_close_matches

    from ninestory.core.errors import InvalidRequest

    near = get_close_matches(verb, VERBS, n=1)
    return InvalidRequest(
        f"{verb[:80]!r} is not a command of ninestory.",
        hint=f"Did you mean {near[0]!r}?" if near else "ninestory --help lists the commands.",
        hint_zh=f"是否想输入 {near[0]!r}？" if near else "运行 ninestory --help 查看全部命令。",
        code="unknown_command",
    )


def _is_running(name: str) -> bool:
    """Whether this verb was called (and not merely listed by --help or by completion)."""
    words = [word for word in sys.argv[1:] if not word.startswith("-")]
    return name in words or bool(os.environ.get("_NINESTORY_COMPLETE"))


def language() -> Literal["en", "zh"]:
    """The user's language, en or zh: the setting `language`, else the locale."""
    from ninestory.core.config import load_settings
    from ninestory.core.errors import NinestoryError

    try:
        chosen = load_settings().settings.language
    except NinestoryError:  # a broken setting must not hide the message about it
        chosen = os.environ.get("NINESTORY_LANGUAGE", "")
    locale = next((os.environ[name] for name in ("LC_ALL", "LC_MESSAGES", "LANG") if os.environ.get(name)), "en")
    return "zh" if (chosen or locale).lower().startswith("zh") else "en"


app = typer.Typer(
    cls=LazyGroup,
    name="ninestory",
    help="ninestory 九层妖塔: run, serve and plan open models on your own hardware. Offline unless you pull.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        from ninestory import __version__

        print(f"ninestory {__version__}")
        raise typer.Exit


def _speak(chosen: str | None) -> None:
    """Eager, so that a --help after it is in that language."""
    if chosen:
        os.environ["NINESTORY_LANGUAGE"] = chosen


@app.callback()
def _options(
    home: str = typer.Option("", help="Where models, runs and conversations lie (NINESTORY_HOME)."),
    server: str = typer.Option("", help="Address of a running server to ask instead of working in this process."),
    language: Literal["en", "zh"] | None = typer.Option(
        None, callback=_speak, is_eager=True, help="Language of hints: en or zh."
    ),
    log_level: str = typer.Option("", help="debug, info, warning or error."),
    log_json: bool = typer.Option(False, "--log-json", help="One JSON object a log line."),
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    # Handed on by environment, so that worker processes and every module read the same value.
    given = {"NINESTORY_HOME": home, "NINESTORY_SERVER": server, "NINESTORY_LOG_LEVEL": log_level}
    os.environ.update({name: value for name, value in given.items() if value})
    if log_json:
        os.environ["NINESTORY_LOG_JSON"] = "1"


def main() -> None:
    """Run, and end with an exit code that says what went wrong."""
    from ninestory.core.errors import NinestoryError

    try:
        _run()
    except NinestoryError as error:
        explain(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        explain(NinestoryError(f"{error.strerror or error}: {error.filename or type(error).__name__}", code="os_error"))
        sys.exit(1)


def _run() -> None:
    """Typer prints mistakes in the arguments for people; for machines they become errors like all others."""
    if "--json" not in sys.argv:
        app()
    from ninestory.core.errors import InvalidRequest

    try:
        code = app(standalone_mode=False)
    except typer.TyperException as error:
        raise InvalidRequest(
            error.format_message(), hint="--help lists the options.", hint_zh="--help 列出全部选项。"
        ) from error
    sys.exit(code if isinstance(code, int) else 0)


def explain(error: NinestoryError) -> None:
    """Print an error and its cure to stderr, in the user's language, or as JSON for machines."""
    if "--json" in sys.argv:
        import json

        print(json.dumps({"error": error.as_dict()}, ensure_ascii=False), file=sys.stderr)
        return
    zh = language() == "zh"
    hint = error.hint_zh if zh else error.hint
    print(f"{'错误' if zh else 'error'}: {error.message}" + (f"\n  → {hint}" if hint else ""), file=sys.stderr)
