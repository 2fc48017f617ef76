"""The template in a GGUF's metadata: rendered here within limits, and never run by llama.cpp itself."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import tiny_models


@pytest.mark.slow
@pytest.mark.parametrize("template", ["endless", "recursive", "damaged"])
def test_llama_cpp_does_not_run_the_file_s_template_on_loading(tmp_path: Path, template: str) -> None:
    """A loop in it never ended, recursion ended the process by a signal, and a mistake refused the whole file."""
    templates = {
        "endless": "{% for i in range(100000) %}" * 6 + "x" + "{% endfor %}" * 6,
        "recursive": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "damaged": "{% for",
    }
    model = tiny_models.write_gguf(tmp_path / "tiny.gguf", chat_template=templates[template])
    code = (
        "import sys, threading\nfrom pathlib import Path\n"
        "from ninestory.core.config import RuntimeSettings\nfrom ninestory.core.errors import NinestoryError\n"
        "from ninestory.models.resolved import ResolvedModel\nfrom ninestory.runtimes.llamacpp.engine import LlamaCppEngine\n"
        "from ninestory.runtimes.protocol import ChatRequest, CompletionRequest, Message\n"
        "path = Path(sys.argv[1])\n"
        "model = ResolvedModel(reference=str(path), path=path, format='gguf', architecture='llama', tasks=('chat',), context=64)\n"
        "engine = LlamaCppEngine(model, RuntimeSettings(threads=1, context=64, slots=1))\n"
        "list(engine.run(CompletionRequest(prompt='ab', max_tokens=1), threading.Event()))\n"
        "try:\n    list(engine.run(ChatRequest(messages=[Message(role='user', content='a')]), threading.Event()))\n"
        "except NinestoryError as error:\n    print(error.status, error.code)\n"
        "engine.close()\n"
    )
    started = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-c", code, str(model)], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert ended.stdout.split() == ["400", "template_refused" if template == "damaged" else "template_limit"]
    assert time.monotonic() - started < 20
