"""The command line in this process: the help of every verb, mistyped verbs, the flags of all verbs."""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import typer

from ninestory.cli.app import VERBS, main

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run `ninestory` with arguments and an empty pipe; returns its exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, language: str = "en") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ninestory", *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO(""))
        with mock.patch.dict(os.environ, NINESTORY_HOME=str(tmp_path), NINESTORY_LANGUAGE=language):
            try:
                main()
                code = 0
            except SystemExit as end:
                code = int(end.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def _commands() -> Iterator[tuple[str, Any]]:
    """Every command of every verb's module, with its words."""

    def walk(path: str, command: Any) -> Iterator[tuple[str, Any]]:
        yield path, command
        for name, inner in getattr(command, "commands", {}).items():
            yield from walk(f"{path} {name}", inner)

    for module in sorted({module for module, _ in VERBS.values()}):
        yield from walk(module, typer.main.get_command(importlib.import_module(f"ninestory.cli.{module}").app))


def test_the_help_of_every_verb_prints_its_brackets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rich reads "[n]" as a style and prints nothing of it."""
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 1000)
    lost, commands = [], dict(_commands())
    for path, command in commands.items():
        with pytest.raises(SystemExit):
            command.main(["--help"], prog_name=f"ninestory {path}")
        printed = " ".join(capsys.readouterr().out.replace("│", " ").split())
        texts = [command.help or "", *(getattr(parameter, "help", "") or "" for parameter in command.params)]
        written = [" ".join(text.replace("\\[", "[").split()) for text in texts]
        lost += [f"{path}: {text}" for text in written if "[" in text and text not in printed]
        assert all(text in printed for text in written if "[" not in text), path
    assert len(commands) > 70
    assert not lost


@pytest.mark.parametrize(("typed", "meant"), [("caht", "chat"), ("evalute", "evaluate")])
def test_a_mistyped_verb_is_refused_with_the_nearest(call: Call, typed: str, meant: str) -> None:
    code, _, error = call(typed)
    assert code == 2 and f"'{typed}'" in error and f"'{meant}'" in error
    assert "是否" in call(typed, language="zh")[2]


def test_a_word_near_no_verb_is_refused_with_the_list(call: Call) -> None:
    code, _, error = call("xyzzy")
    assert code == 2 and "'xyzzy'" in error and "ninestory --help" in error


def test_help_is_a_verb_too(call: Call) -> None:
    for words, flags in [(["help"], ["--help"]), (["help", "kb", "add"], ["kb", "add", "--help"])]:
        asked, expected = call(*words), call(*flags)
        assert asked == expected and asked[0] == 0 and "Usage: " in asked[1]
    assert call("help", "caht")[0] == 2


def test_a_model_that_is_not_here_is_named_before_the_empty_pipe(call: Call) -> None:
    code, _, error = call("chat", "nosuchmodel")
    assert code == 3 and "nosuchmodel" in error and "question" not in error


def test_a_language_that_is_not_spoken_is_refused(call: Call) -> None:
    code, _, error = call("--language", "fr", "list")
    assert code == 2 and all(word in error for word in ("'fr'", "'en'", "'zh'"))
    assert call("--language", "zh", "list")[0] == 0


@pytest.mark.parametrize("word", ["/exit", "/quit"])
def test_a_chat_ends_at_exit_and_at_quit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    from prompt_toolkit.application import create_app_session
    from prompt_toolkit.input import create_pipe_input
    from prompt_toolkit.output import DummyOutput

    from ninestory.cli.chat.conversation import terminal_lines

    monkeypatch.setenv("NINESTORY_HOME", str(tmp_path))
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        keys.send_text(f"Hello\r{word}\rlost\r\x04")  # and the end of input
        assert list(terminal_lines()) == ["Hello"]
