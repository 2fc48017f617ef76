"""The command line by subprocess, as a user runs it."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import tiny_models
from tests.e2e.api_server import MODEL, ApiServer

pytestmark = [pytest.mark.slow, pytest.mark.starter]
ENVIRON = {"NINESTORY_RUNTIME_THREADS": "1", "NINESTORY_RUNTIME_CONTEXT": "512"}


def run(
    home: Path, *arguments: str, given: str = "", check: bool = True, **environ: str
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "ninestory", *arguments],
        input=given,
        capture_output=True,
        text=True,
        cwd=home,
        env={**os.environ, **ENVIRON, "NINESTORY_HOME": str(home), "LANG": "C.UTF-8", **environ},
        timeout=200,
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def test_one_question_in_a_pipe_prints_only_the_answer(tmp_path: Path) -> None:
    done = run(tmp_path, "chat", "--max-tokens", "8", "--temperature", "0", given="What is the capital of France?\n")
    assert done.stdout.strip() and len(done.stdout.split()) <= 8
    assert done.stderr == ""
    again = run(
        tmp_path, "chat", "--max-tokens", "8", "--temperature", "0", "--json", given="What is the capital of France?\n"
    )
    assert json.loads(again.stdout)["text"].strip() == done.stdout.strip()


def test_the_terminal_chat_remembers_and_obeys_commands(tmp_path: Path) -> None:
    """Through a real pseudo-terminal."""
    leader, follower = pty.openpty()
    environ = {**os.environ, **ENVIRON, "NINESTORY_HOME": str(tmp_path), "TERM": "dumb"}
    command = [sys.executable, "-m", "ninestory", "chat", "--max-tokens", "6", "--temperature", "0"]
    process = subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower, env=environ, cwd=tmp_path)
    os.close(follower)
    seen = ""

    def until(word: str, seconds: float = 60) -> None:
        nonlocal seen
        deadline = time.monotonic() + seconds
        while word not in seen:
            assert time.monotonic() < deadline, seen[-2000:]
            if select.select([leader], [], [], 0.2)[0]:
                seen += os.read(leader, 65536).decode("utf-8", errors="replace")
        seen = seen.split(word, 1)[1]

    def say(text: str) -> None:
        os.write(leader, text.encode() + b"\r")

    until(">")
    say("/help")
    until("/regenerate")
    say("Say hello.")
    time.sleep(3)
    say("/save talk.json")
    time.sleep(1)
    say("/exit")
    deadline = time.monotonic() + 30
    while process.poll() is None:
        assert time.monotonic() < deadline
        if select.select([leader], [], [], 0.1)[0]:
            try:
                os.read(leader, 65536)
            except OSError:
                break
    assert process.wait(10) == 0
    saved = json.loads((tmp_path / "talk.json").read_text())
    assert [turn["role"] for turn in saved["messages"]] == ["user", "assistant"]


def test_list_show_and_plan(tmp_path: Path) -> None:
    rows = json.loads(run(tmp_path, "list", "--floor", "1", "--json").stdout)
    assert len(rows) == 11
    assert "THUDM/chatglm-6b-int4" in run(tmp_path, "show", "chatglm-6b").stdout
    assert "双语对话" in run(tmp_path, "show", "chatglm-6b", NINESTORY_LANGUAGE="zh").stdout
    plan = json.loads(run(tmp_path, "plan", MODEL, "--context", "512", "--concurrency", "2", "--json").stdout)["plans"][
        0
    ]
    assert plan["fits"] and plan["weight_bytes"] == 98_362_432
    assert plan["total_bytes"] == sum(
        plan[k]
        for k in plan
        if k.endswith("_bytes") and k.split("_")[0] in ("process", "weight", "cache", "activation", "optimizer")
    )


def test_what_does_not_fit_is_refused_with_the_nearest_that_does(tmp_path: Path) -> None:
    done = run(tmp_path, "plan", "bloomz:176b", check=False)
    assert done.returncode == 8
    assert "bloomz:" in done.stderr


def test_store_import_verify_rm(tmp_path: Path, starter_gguf: Path) -> None:
    run(tmp_path, "import", str(starter_gguf), "--name", "gpt4all:falcon-q4_0")
    names = [m["reference"] for m in json.loads(run(tmp_path, "ls", "--json").stdout)]
    assert "gpt4all:falcon-q4_0" in names
    assert "sound" in run(tmp_path, "verify", "gpt4all:falcon-q4_0").stdout
    assert run(tmp_path, "chat", "gpt4all:falcon-q4_0", "--prompt", "Hi", "--max-tokens", "3").stdout.strip()
    run(tmp_path, "rm", "gpt4all:falcon-q4_0")
    assert run(tmp_path, "verify", "gpt4all:falcon-q4_0", check=False).returncode == 3


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["chat", "vicunna"], 3, "vicuna"),
        (["chat", "not a name"], 2, "reference"),
        (["chat", "./nothing.gguf"], 3, "nothing"),
        (["ps", "--server", "http://127.0.0.1:9"], 9, "ninestory serve"),
        (["rm", MODEL], 4, "package"),
        (["pull", "vicuna"], 2, "vicuna:7b-v1.5"),
    ],
)
def test_errors_say_cause_and_cure(tmp_path: Path, arguments: list[str], code: int, said: str) -> None:
    done = run(tmp_path, *arguments, given="x", check=False)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr
    chinese = run(tmp_path, *arguments, given="x", check=False, NINESTORY_LANGUAGE="zh")
    assert "错误" in chinese.stderr


def test_errors_are_json_for_machines(tmp_path: Path) -> None:
    done = run(tmp_path, "verify", "hf:nobody/nothing", "--json", check=False)
    assert json.loads(done.stderr)["error"]["code"] == "model_not_installed"


def test_config_shows_origins_and_hides_secrets(tmp_path: Path) -> None:
    (tmp_path / "ninestory.toml").write_text("[serve]\nport = 1234\n")
    done = run(tmp_path, "config", "--json", NINESTORY_SERVE_API_KEY="very-secret")
    rows = {row["key"]: row for row in json.loads(done.stdout)}
    assert rows["serve.port"]["value"] == 1234 and rows["serve.port"]["origin"] == "ninestory.toml"
    assert "very-secret" not in done.stdout


def test_doctor_knows_this_machine_and_a_damaged_folder(tmp_path: Path) -> None:
    assert "Python" in run(tmp_path, "doctor", check=False).stdout
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "chatglm", "auto_map": {"AutoModel": "evil.Model"}}))
    (folder / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    done = run(tmp_path, "doctor", str(folder), check=False)
    assert done.returncode == 1 and "is damaged" in done.stdout  # a damaged file ends the examination
    tiny_models.write_safetensors(folder / "model.safetensors")
    said = run(tmp_path, "doctor", str(folder), check=False).stdout
    assert "is damaged" not in said and "chatglm-6b" in said and "auto_map" in said


def test_tour_writes_a_report(tmp_path: Path) -> None:
    run(tmp_path, "tour", "--threads", "1", "--report", "tour.html")
    report = (tmp_path / "tour.html").read_text()
    assert "neural network" in report and "故宫" in report and "<script" not in report


def test_ps_load_unload_ask_a_running_server(tmp_path: Path, api_server: ApiServer) -> None:
    at = ["--server", api_server.url]
    run(tmp_path, "load", MODEL, *at)
    assert MODEL in run(tmp_path, "ps", *at).stdout
    assert "unloaded" in run(tmp_path, "unload", MODEL, *at).stdout


def test_a_public_bind_without_a_key_is_refused(tmp_path: Path) -> None:
    done = run(tmp_path, "serve", "--host", "0.0.0.0", "--port", "0", check=False)
    assert done.returncode == 2 and "--api-key-file" in done.stderr


def test_a_second_server_of_one_home_is_refused(api_server: ApiServer) -> None:
    done = run(api_server.home, "serve", "--port", "0", check=False)
    assert done.returncode == 5


def test_a_missing_extra_is_said_in_one_line(tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from ninestory.core.extras import require; require('torch', 'torch', 'running safetensors models')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ninestory.core.errors.MissingExtra" in done.stderr


def test_library_session_remembers(tmp_path: Path) -> None:
    code = (
        "import ninestory as ns\n"
        f"with ns.load('{MODEL}', threads=1, slots=1, context=512) as model, model.chat_session('Be short.') as chat:\n"
        "    a = chat.ask('Say hello.', max_tokens=6, seed=1)\n"
        "    pieces = list(model.chat('Hi', stream=True, max_tokens=4, seed=1))\n"
        "    print(len(chat.messages), bool(str(a)), len(pieces) > 0, len(model.tokenize('hello world')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "NINESTORY_HOME": str(tmp_path)},
    )
    assert done.stdout.split()[:3] == ["3", "True", "True"], done.stderr
