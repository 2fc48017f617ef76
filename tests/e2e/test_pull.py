"""`pull` against a hub on loopback: what is fetched, what is kept, what is refused, whatever goes wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ninestory.core.config import HubSettings
from ninestory.core.errors import (
    Cancelled,
    Damaged,
    DiskFull,
    Forbidden,
    InvalidRequest,
    NinestoryError,
    NotFound,
    RemoteFailed,
    Unauthorized,
)
from ninestory.core.paths import Home
from ninestory.core.progress import Silent
from ninestory.models import download
from ninestory.models.pull import pull
from ninestory.models.resolve import resolve
from ninestory.models.store import list_installed, remove
from tests import tiny_models
from tests.e2e.loopback_hub import COMMIT, LoopbackHub, Repository

NAME = "org/small"
WEIGHTS = 400_000  # bytes


def safetensors(nbytes: int, fill: int = 7) -> bytes:
    header = json.dumps({"w": {"dtype": "U8", "shape": [nbytes], "data_offsets": [0, nbytes]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes([fill]) * nbytes


def checkpoint() -> dict[str, bytes]:
    """A repository as one finds them: weights in two forms, scripts, pictures and leftovers beside what is needed."""
    return {
        "config.json": json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}).encode(),
        "tokenizer.json": b"{}",
        "model.safetensors": safetensors(WEIGHTS),
        "pytorch_model.bin": b"P" * 5000,
        "modeling_evil.py": b"raise SystemExit",
        "onnx/model.onnx": b"O" * 3000,
        "LICENSE": b"as it is",
        "README.md": b"words",
        ".gitattributes": b"x",
    }


NEEDED = {"config.json", "tokenizer.json", "model.safetensors", "LICENSE", "pulled.json"}


class Watcher(Silent):
    """A `Progress` that keeps what it is told, and cancels at a number of bytes."""

    def __init__(self, cancel_at: float = float("inf")) -> None:
        super().__init__()
        self.updates: list[tuple[float, float | None, str]] = []
        self.events: dict[str, dict[str, Any]] = {}
        self._cancel_at = cancel_at

    def update(self, done: float, total: float | None = None, message: str = "") -> None:
        self.updates.append((done, total, message))
        self.cancelled = done >= self._cancel_at
        super().update(done, total, message)

    def event(self, kind: str, **data: Any) -> None:
        self.events[kind] = data


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    with LoopbackHub() as hub:
        hub.repositories[NAME] = Repository(checkpoint())
        yield hub


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "no-cache"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setattr(download, "FIRST_PAUSE_SECONDS", 0.001)
    return Home(tmp_path / "home")


def settings(hub: LoopbackHub, token: str = "") -> HubSettings:
    return HubSettings(hf_endpoint=hub.url, hf_token=token, ms_endpoint=hub.url, timeout=5)


def names(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def hidden(home: Home) -> list[Path]:
    return [p for p in home.models.rglob(".*") if p.is_dir()]


def test_only_what_is_needed_comes_and_it_is_recorded(hub: LoopbackHub, home: Home) -> None:
    watcher = Watcher()
    model = pull(f"hf:{NAME}", home, settings(hub), watcher)
    assert model.path is not None
    assert names(model.path) == NEEDED
    assert (model.format, model.architecture, model.licence) == ("safetensors", "llama", "apache-2.0")
    note = json.loads((model.path / "pulled.json").read_text())
    assert note["commit"] == COMMIT
    assert watcher.events["licence"]["licence"] == "apache-2.0"
    done, total, _ = watcher.updates[-1]
    assert done == total == sum(len(checkpoint()[n]) for n in NEEDED - {"pulled.json"})
    assert [m.reference for m in list_installed(home) if m.source == "store"] == [f"hf:{NAME}"]
    assert not hidden(home)


def test_a_second_pull_asks_nobody(hub: LoopbackHub, home: Home) -> None:
    first = pull(f"hf:{NAME}", home, settings(hub))
    hub.api_seen.clear()
    assert pull(f"hf:{NAME}", home, settings(hub)) == first
    assert hub.api_seen == []


def test_resolve_never_asks_the_hub_and_says_how_to_pull(hub: LoopbackHub, home: Home) -> None:
    with pytest.raises(NotFound) as caught:
        resolve(f"hf:{NAME}", home)
    assert caught.value.hint == f"ninestory pull hf:{NAME}"
    assert hub.api_seen == []


def test_the_token_goes_to_the_hub_and_not_where_it_redirects(hub: LoopbackHub, home: Home) -> None:
    hub.repositories[NAME].gated = True
    pull(f"hf:{NAME}", home, settings(hub, hub.token))
    assert {s.authorization for s in hub.api_seen} == {f"Bearer {hub.token}"}
    assert {s.authorization for s in hub.storage_seen} == {None}


@pytest.mark.parametrize(
    ("token", "kind", "code"), [("", Unauthorized, "token_needed"), ("hf_other", Forbidden, "gated_model")]
)
def test_a_gated_model_says_what_to_do(
    hub: LoopbackHub, home: Home, token: str, kind: type[NinestoryError], code: str
) -> None:
    hub.repositories[NAME].gated = True
    with pytest.raises(kind) as caught:
        pull(f"hf:{NAME}", home, settings(hub, token))
    assert caught.value.code == code
    assert "licence" in caught.value.hint and "许可" in caught.value.hint_zh
    assert "hf_other" not in str(caught.value.as_dict())


@pytest.mark.parametrize("reference", ["hf:org/absent", f"hf:{NAME}@no-such-branch", "ms:org/absent"])
def test_what_is_not_there_is_not_found(hub: LoopbackHub, home: Home, reference: str) -> None:
    with pytest.raises(NotFound, match=r"org/(absent|small)"):
        pull(reference, home, settings(hub))
    assert [m for m in list_installed(home) if m.source == "store"] == []


def test_a_broken_connection_continues_where_it_broke(hub: LoopbackHub, home: Home) -> None:
    hub.faults.cut_after, hub.faults.cuts = 150_000, 2
    model = pull(f"hf:{NAME}", home, settings(hub))
    ranges = [s.range for s in hub.storage_seen if s.path.endswith("model.safetensors")]
    assert ranges == [None, "bytes=150000-", "bytes=300000-"]
    assert model.path and (model.path / "model.safetensors").read_bytes() == checkpoint()["model.safetensors"]


def test_a_hub_without_ranges_starts_again(hub: LoopbackHub, home: Home) -> None:
    hub.faults.no_ranges, hub.faults.cut_after, hub.faults.cuts = True, 150_000, 1
    model = pull(f"hf:{NAME}", home, settings(hub))
    assert model.path and (model.path / "model.safetensors").read_bytes() == checkpoint()["model.safetensors"]


def test_a_body_that_always_ends_early_is_given_up_with_its_numbers(hub: LoopbackHub, home: Home) -> None:
    hub.faults.cut_after, hub.faults.cuts = 0, 1000
    with pytest.raises(RemoteFailed) as caught:
        pull(f"hf:{NAME}", home, settings(hub))
    assert caught.value.hint
    assert [m for m in list_installed(home) if m.source == "store"] == []


def test_a_storage_that_answers_500_is_tried_again_then_reported(hub: LoopbackHub, home: Home) -> None:
    hub.faults.storage_status = 503
    with pytest.raises(RemoteFailed, match="503"):
        pull(f"hf:{NAME}", home, settings(hub))
    assert len(hub.storage_seen) == download.ATTEMPTS


def test_a_hub_that_is_not_there_names_the_cures(home: Home) -> None:
    dead = HubSettings(hf_endpoint="http://127.0.0.1:1", timeout=2)
    with pytest.raises(RemoteFailed, match=r"127\.0\.0\.1") as caught:
        pull(f"hf:{NAME}", home, dead)
    assert "HF_ENDPOINT" in caught.value.hint and "HF_ENDPOINT" in caught.value.hint_zh


@pytest.mark.parametrize("location", ["ftp://127.0.0.1/x", "file:///etc/passwd"])
def test_a_redirect_to_another_protocol_is_refused(hub: LoopbackHub, home: Home, location: str) -> None:
    hub.faults.location = location
    with pytest.raises(RemoteFailed, match="not safe to follow"):
        pull(f"hf:{NAME}", home, settings(hub))


def test_a_redirect_in_circles_ends(hub: LoopbackHub, home: Home) -> None:
    hub.faults.location = f"{hub.url}/{NAME}/resolve/main/config.json"
    with pytest.raises(RemoteFailed, match="circles"):
        pull(f"hf:{NAME}", home, settings(hub))


def test_a_wrong_sum_is_refused_deleted_and_cured_by_the_next_pull(hub: LoopbackHub, home: Home) -> None:
    hub.repositories[NAME].listed_sha256["model.safetensors"] = "ab" * 32
    with pytest.raises(Damaged) as caught:
        pull(f"hf:{NAME}", home, settings(hub))
    assert caught.value.code == "wrong_checksum" and "ab" * 32 in caught.value.message
    assert [m for m in list_installed(home) if m.source == "store"] == []
    assert not any(n.startswith("model.safetensors") for folder in hidden(home) for n in names(folder))
    hub.repositories[NAME].listed_sha256.clear()
    assert pull(f"hf:{NAME}", home, settings(hub)).path


def test_a_small_file_is_checked_by_its_git_sum(hub: LoopbackHub, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    import tests.e2e.loopback_hub as module

    said = module._sibling
    monkeypatch.setattr(
        module, "_sibling", lambda r, p, blobs: said(r, p, blobs) | ({"blobId": "1" * 40} if p == "LICENSE" else {})
    )
    with pytest.raises(Damaged, match="LICENSE has the checksum"):
        pull(f"hf:{NAME}", home, settings(hub))


def test_a_longer_body_than_listed_is_cut_off(hub: LoopbackHub, home: Home) -> None:
    hub.faults.extra_bytes = 10_000_000
    with pytest.raises(Damaged, match="longer than"):
        pull(f"hf:{NAME}", home, settings(hub))
    assert sum(p.stat().st_size for p in home.root.rglob("*") if p.is_file()) < 2_000_000


def test_a_file_that_verify_refuses_is_never_listed(hub: LoopbackHub, home: Home) -> None:
    hub.repositories[NAME].files["model.safetensors"] = struct.pack("<Q", 1 << 40) + b"x" * 2000
    with pytest.raises(Damaged):
        pull(f"hf:{NAME}", home, settings(hub))
    assert [m for m in list_installed(home) if m.source == "store"] == [] and not hidden(home)


def test_a_listing_cannot_write_outside_its_folder(hub: LoopbackHub, home: Home) -> None:
    for name in ("../../evil.json", "/tmp/evil-of-a-test.json", "a/../../evil.json", "..\\evil.json"):
        hub.repositories[NAME].files[name] = b"{}"
    model = pull(f"hf:{NAME}", home, settings(hub))
    assert model.path and names(model.path) == NEEDED
    assert not [p for p in home.root.parent.rglob("evil*")] and not Path("/tmp/evil-of-a-test.json").exists()


def test_cancelling_keeps_what_came(hub: LoopbackHub, home: Home) -> None:
    hub.repositories[NAME].files["model.safetensors"] = safetensors(8_000_000)
    with pytest.raises(Cancelled):
        pull(f"hf:{NAME}", home, settings(hub), Watcher(cancel_at=3_000_000))
    assert [m for m in list_installed(home) if m.source == "store"] == []
    pull(f"hf:{NAME}", home, settings(hub))
    last = hub.storage_seen[-1]
    assert last.range and int(last.range.removeprefix("bytes=").removesuffix("-")) >= 2_000_000


def test_too_little_disk_is_seen_before_the_first_byte(
    hub: LoopbackHub, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(home.root.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10_000_000))
    with pytest.raises(DiskFull) as caught:
        pull(f"hf:{NAME}", home, settings(hub))
    assert "10 MB are free" in caught.value.message and caught.value.hint_zh
    assert hub.storage_seen == []


# --- through the command line, with real processes ---------------------------------------------------------------


def start(hub: LoopbackHub, home: Home, *arguments: str, limit_bytes: int = 0) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if "PROXY" not in k.upper()}
    environment |= {
        "NINESTORY_HOME": str(home.root),
        "HF_ENDPOINT": hub.url,
        "NINESTORY_HUB_MS_ENDPOINT": hub.url,
        "HF_HOME": str(home.root.parent / "no-cache"),
    }

    def limit() -> None:
        import resource

        if limit_bytes:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

    return subprocess.Popen(
        [sys.executable, "-m", "ninestory", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limit,
    )


@pytest.mark.slow
def test_the_command_line_pulls_lists_and_removes(hub: LoopbackHub, home: Home) -> None:
    out, err = start(hub, home, "pull", f"ms:{NAME}", "--json").communicate(timeout=60)
    assert json.loads(out)["reference"] == f"ms:{NAME}", err
    out, err = start(hub, home, "ls", "--json").communicate(timeout=60)
    assert f"ms:{NAME}" in [m["reference"] for m in json.loads(out)], err
    process = start(hub, home, "rm", f"ms:{NAME}")
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert [m for m in list_installed(home) if m.source == "store"] == []
    assert [p for p in home.models.rglob("*") if p.is_file()] == []


@pytest.mark.slow
def test_a_refusal_has_its_exit_code_and_its_cure_on_stderr(hub: LoopbackHub, home: Home) -> None:
    process = start(hub, home, "pull", "hf:org/absent")
    out, err = process.communicate(timeout=60)
    assert process.returncode == NotFound.exit_code
    assert out == "" and "no such model" in err and "Traceback" not in err


@pytest.mark.slow
def test_kill_9_in_mid_pull_then_the_next_pull_continues(hub: LoopbackHub, home: Home) -> None:
    hub.repositories[NAME].files["model.safetensors"] = safetensors(4_000_000)
    hub.faults.pause_per_chunk = 0.01
    process = start(hub, home, "pull", f"hf:{NAME}")
    deadline = time.monotonic() + 60
    while not any(p.stat().st_size > 1_000_000 for p in home.models.rglob("model.safetensors.part")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert [m for m in list_installed(home) if m.source == "store"] == []
    hub.faults.pause_per_chunk = 0
    model = pull(f"hf:{NAME}", home, settings(hub))
    assert model.path and (model.path / "model.safetensors").read_bytes() == safetensors(4_000_000)
    continued = hub.storage_seen[-1].range
    assert continued and int(continued.removeprefix("bytes=").removesuffix("-")) > 1_000_000
    assert not hidden(home)


@pytest.mark.slow
def test_two_processes_fetch_a_model_once(hub: LoopbackHub, home: Home) -> None:
    hub.repositories[NAME].files["model.safetensors"] = safetensors(1_500_000)
    hub.faults.pause_per_chunk = 0.01
    processes = [start(hub, home, "pull", f"hf:{NAME}", "--json") for _ in range(2)]
    answers = [process.communicate(timeout=90) for process in processes]
    assert [p.returncode for p in processes] == [0, 0], answers
    assert json.loads(answers[0][0]) == json.loads(answers[1][0])
    assert len([s for s in hub.storage_seen if s.path.endswith("model.safetensors")]) == 1


@pytest.mark.slow
def test_a_device_that_takes_no_more_is_disk_full_and_nothing_is_listed(hub: LoopbackHub, home: Home) -> None:
    process = start(hub, home, "pull", f"hf:{NAME}", limit_bytes=200_000)
    _, err = process.communicate(timeout=60)
    assert process.returncode == DiskFull.exit_code, err
    assert "no room" in err and "Traceback" not in err
    assert [m for m in list_installed(home) if m.source == "store"] == []
    assert pull(f"hf:{NAME}", home, settings(hub)).path  # with room again, the same command goes on


# --- variants ----------------------------------------------------------------------------------------------------


@pytest.fixture
def gguf_files(hub: LoopbackHub, tmp_path: Path) -> dict[str, bytes]:
    body = tiny_models.write_gguf(tmp_path / "tiny.gguf").read_bytes()
    files = {f"tiny.{q}.gguf": body for q in ("Q4_K_M", "Q4_K_S", "Q8_0")} | {
        "mmproj-tiny.gguf": body,
        "README.md": b"",
    }
    hub.repositories["org/ggufs"] = Repository(files, licence="mit")
    return files


def test_one_gguf_of_many_by_its_variant(hub: LoopbackHub, home: Home, gguf_files: dict[str, bytes]) -> None:
    with pytest.raises(InvalidRequest, match=r"tiny\.Q4_K_M\.gguf, tiny\.Q4_K_S\.gguf, tiny\.Q8_0\.gguf"):
        pull("hf:org/ggufs", home, settings(hub))
    with pytest.raises(InvalidRequest, match="no files that fit 'Q5_0'"):
        pull("hf:org/ggufs:Q5_0", home, settings(hub))
    model = pull("hf:org/ggufs:q4_k_m", home, settings(hub))
    assert model.path and model.path.name == "tiny.Q4_K_M.gguf" and model.format == "gguf" and model.licence == "mit"
    assert names(model.path.parent) == {"tiny.Q4_K_M.gguf", "pulled.json"}
    assert resolve("hf:org/ggufs", home).path == model.path  # the only one here answers for the repository
    pull("hf:org/ggufs:Q8_0", home, settings(hub))
    with pytest.raises(InvalidRequest, match="Q8_0, q4_k_m"):
        resolve("hf:org/ggufs", home)
    remove(home, "hf:org/ggufs:Q8_0")
    assert resolve("hf:org/ggufs:q4_k_m", home).path == model.path


def test_a_revision_with_a_slash_has_its_own_copy(hub: LoopbackHub, home: Home) -> None:
    pull(f"hf:{NAME}@refs/pr/1", home, settings(hub))
    assert [m.reference for m in list_installed(home) if m.source == "store"] == [f"hf:{NAME}@refs/pr/1"]
    with pytest.raises(NotFound):
        resolve(f"hf:{NAME}", home)


def test_a_catalogue_name_is_pulled_from_where_it_is_published(hub: LoopbackHub, home: Home) -> None:
    hub.repositories["bigscience/bloomz-560m"] = Repository(checkpoint())
    with pytest.raises(InvalidRequest, match="bloomz is published in") as caught:
        pull("bloomz", home, settings(hub))
    assert "bloomz:560m" in caught.value.hint
    model = pull("bloomz:560m", home, settings(hub))
    assert (model.reference, model.system) == ("bloomz:560m", "bloomz")
    assert resolve("bloomz", home).path == model.path


def test_an_adapter_comes_with_its_base(hub: LoopbackHub, home: Home) -> None:
    hub.repositories["org/lora"] = Repository(
        {"adapter_config.json": b"{}", "adapter_model.safetensors": safetensors(2000)}
    )
    model = pull(f"hf:{NAME}+hf:org/lora=0.5", home, settings(hub))
    assert [(a.name, a.weight) for a in model.adapters] == [("hf:org/lora", 0.5)]
    assert (model.adapters[0].path / "adapter_model.safetensors").is_file()


def test_a_damaged_copy_is_fetched_anew(hub: LoopbackHub, home: Home) -> None:
    model = pull(f"hf:{NAME}", home, settings(hub))
    assert model.path
    (model.path / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(Damaged):
        resolve(f"hf:{NAME}", home)
    assert pull(f"hf:{NAME}", home, settings(hub)).path == model.path
    assert (model.path / "model.safetensors").read_bytes() == checkpoint()["model.safetensors"]
