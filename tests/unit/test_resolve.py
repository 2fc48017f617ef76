"""From a reference to files: paths, the home, other tools' caches; and what is said when there is nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ninestory.core.errors import Conflict, Damaged, DiskFull, Forbidden, InvalidRequest, NinestoryError, NotFound
from ninestory.core.paths import Home
from ninestory.models import store
from ninestory.models.prompt_format import PromptFormat, choose_format, sample_prompt
from ninestory.models.resolve import resolve
from ninestory.models.store import import_path, list_installed, remove
from ninestory.models.templates import find_template
from tests import tiny_models

CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "max_position_embeddings": 77}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "ollama"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.delenv("HUGGINGFACE_HUB_CACHE", raising=False)
    return Home(tmp_path / "home").ensure()


def checkpoint(folder: Path, **changed: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | changed))
    tiny_models.write_safetensors(folder / "model.safetensors")
    return folder


def ours(home: Home) -> list[str]:
    return [m.reference for m in list_installed(home) if m.source != "starter"]


def test_a_gguf_is_known_by_its_header_not_by_its_name(home: Home, tmp_path: Path) -> None:
    path = tiny_models.write_gguf(tmp_path / "x.gguf").rename(tmp_path / "blob")
    model = resolve(f"./{path.name}" if Path.cwd() == tmp_path else str(path), home)
    assert (model.format, model.architecture, model.path) == ("gguf", "llama", path)
    assert model.total_bytes == path.stat().st_size


def test_a_checkpoint_directory_says_what_it_is(home: Home, tmp_path: Path) -> None:
    model = resolve(str(checkpoint(tmp_path / "m", auto_map={"AutoModel": "evil.py"})), home)
    assert (model.format, model.architecture, model.task, model.context) == ("safetensors", "llama", "chat", 77)
    assert any("no remote code" in note for note in model.notes)


def test_of_many_gguf_files_one_must_be_named(home: Home, tmp_path: Path) -> None:
    for name in ("a.Q4_0.gguf", "a.Q8_0.gguf"):
        tiny_models.write_gguf(tmp_path / name)
    with pytest.raises(InvalidRequest, match=r"a\.Q4_0\.gguf, a\.Q8_0\.gguf"):
        resolve(str(tmp_path), home)


def test_of_a_split_gguf_the_first_part_stands_for_all(home: Home, tmp_path: Path) -> None:
    folder = home.models / "hf" / "org" / "split" / "main"
    folder.mkdir(parents=True)
    for n in (1, 2):
        tiny_models.write_gguf(folder / f"a-Q4_0-0000{n}-of-00002.gguf")
    found = resolve("hf:org/split:q4_0", home)
    assert found.path and found.path.name == "a-Q4_0-00001-of-00002.gguf"


@pytest.mark.parametrize(
    ("reference", "kind", "words"),
    [
        ("./nothing-here", NotFound, "nothing at"),
        ("hf:org/absent", NotFound, "not on this machine"),
        ("ms:org/absent:Q4_0@v1", NotFound, "not on this machine"),
        ("bloomz:560m", NotFound, "not on this machine"),
        ("bloomz:999b", InvalidRequest, "no variant"),
        ("ft:absent", NotFound, "No tuned model"),
        ("starter:absent", NotFound, "does not exist"),
        ("vicunna", NotFound, "no system"),
    ],
)
def test_what_is_not_there_is_said_with_a_cure(
    home: Home, reference: str, kind: type[NinestoryError], words: str
) -> None:
    with pytest.raises(kind, match=words) as caught:
        resolve(reference, home)
    assert caught.value.hint and caught.value.hint_zh and caught.value.hint != caught.value.hint_zh
    assert list(home.root.iterdir()) == []


@pytest.mark.parametrize("config", ["", "[]", "{", "[" * 100_000])
def test_a_config_that_is_no_object_is_damaged(home: Home, tmp_path: Path, config: str) -> None:
    (checkpoint(tmp_path / "m") / "config.json").write_text(config)
    with pytest.raises(Damaged):
        resolve(str(tmp_path / "m"), home)


def test_a_hugging_face_cache_is_used_in_place(home: Home, tmp_path: Path) -> None:
    root = tmp_path / "hf" / "hub" / "models--org--cached"
    snapshot = checkpoint(root / "snapshots" / "abc")
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("abc")
    assert resolve("hf:org/cached", home).path == snapshot
    assert resolve("hf:org/cached@abc", home).path == snapshot
    assert ours(home) == ["hf:org/cached"]
    with pytest.raises(Forbidden, match="Hugging Face cache"):
        remove(home, "hf:org/cached")
    (root / "refs" / "main").write_text("../../..")
    with pytest.raises(NotFound):
        resolve("hf:org/cached", home)


def test_an_ollama_store_is_used_in_place(home: Home, tmp_path: Path) -> None:
    digest = "ab" * 32
    library = tmp_path / "ollama" / "manifests" / "registry.ollama.ai" / "library" / "tiny"
    (tmp_path / "ollama" / "blobs").mkdir(parents=True)
    library.mkdir(parents=True)
    layers = [
        {"mediaType": "application/vnd.ollama.image.license", "digest": "sha256:" + "cd" * 32},
        {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}"},
    ]
    (library / "1b").write_text(json.dumps({"layers": layers}))
    blob = tmp_path / "ollama" / "blobs" / f"sha256-{digest}"
    tiny_models.write_gguf(tmp_path / "t.gguf").rename(blob)
    assert resolve("tiny:1b", home).path == blob
    assert ours(home) == ["tiny:1b"]
    with pytest.raises(NotFound):
        resolve("tiny", home)  # no tag "latest"
    layers[1]["digest"] = "sha256:../../../t"
    (library / "1b").write_text(json.dumps({"layers": layers}))
    with pytest.raises(NotFound):
        resolve("tiny:1b", home)


def test_a_tuned_model_by_its_alias_and_adapters_by_run_or_folder(home: Home, tmp_path: Path) -> None:
    run = checkpoint(home.runs / "law")
    (run / "ninestory.json").write_text(json.dumps({"alias": "ft:law"}))
    adapter = run / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    base = checkpoint(tmp_path / "base")
    assert resolve("ft:law", home).path == run
    other = tmp_path / "other"
    other.mkdir()
    (other / "adapter_config.json").write_text("{}")
    model = resolve(f"{base}+law=0.5+{other}", home)
    assert [(a.path, a.weight) for a in model.adapters] == [(adapter, 0.5), (other, 1.0)]
    with pytest.raises(InvalidRequest, match="named twice"):
        resolve(f"{base}+law=0.5+{adapter}", home)
    with pytest.raises(NotFound, match="no adapter 'other'"):
        resolve(f"{base}+other", home)


def test_an_adapter_is_asked_in_the_format_that_it_was_trained_in(
    home: Home, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base, adapters = checkpoint(tmp_path / "base"), {"a": "alpaca-short", "v": "vicuna-v1.1"}
    for name, template in adapters.items():
        folder = home.runs / name / "adapter"
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text("{}")
        written = sample_prompt(PromptFormat(template, "catalogue", template=find_template(template)))
        (folder / "ninestory.json").write_text(json.dumps({"template": template, "rendered": written}))
    model = resolve(f"{base}+a", home)
    form = choose_format(model)
    assert form is not None and (form.id, form.source) == ("alpaca-short", "adapter")
    both = resolve(f"{base}+v+a", home)
    assert (both.template, "alpaca-short" in both.notes[-1]) == ("vicuna-v1.1", True)
    other = choose_format(model, "vicuna-v1.1")
    assert other is not None and other.source == "--template"
    assert "was trained in alpaca-short" in caplog.text
    note = home.runs / "a" / "adapter" / "ninestory.json"
    note.write_text(json.dumps({"template": "checkpoint", "rendered": "{{ messages[0].content }}"}))
    of_catalogue = replace(resolve(f"{base}+a", home), system="vicuna")
    own = choose_format(of_catalogue, own="{{ messages[0].content }}")
    assert own is not None and (own.id, own.source) == ("checkpoint", "adapter")
    with pytest.raises(Conflict, match="not written as it was"):
        choose_format(of_catalogue, own="{{ messages[1].content }}")
    with pytest.raises(InvalidRequest, match="no chat template of its own"):
        choose_format(of_catalogue)
    note.write_text(json.dumps({"template": "alpaca-short", "rendered": "### Instruction: as it was\n"}))
    with pytest.raises(Conflict, match="not written as it was"):
        choose_format(resolve(f"{base}+a", home))


# --- the store ---------------------------------------------------------------------------------------------------


def test_import_then_resolve_then_remove(home: Home, tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "m")
    (source / "modeling.py").write_text("raise SystemExit")
    imported = import_path(home, source, "bloomz:560m")
    model = resolve("bloomz:560m", home)
    assert model.path == imported.path and model.system == "bloomz"
    assert sorted(p.name for p in (imported.path or source).iterdir()) == ["config.json", "model.safetensors"]
    with pytest.raises(Conflict):
        import_path(home, source, "bloomz:560m")
    assert remove(home, "bloomz").reference == "bloomz:560m"  # the only variant that is here
    assert ours(home) == [] and (source / "model.safetensors").is_file()


def test_import_refuses_what_is_damaged_or_has_no_place(home: Home, tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + b"\xff" * 100)
    with pytest.raises(Damaged):
        import_path(home, tmp_path / "bad.gguf", "bloomz:560m")
    good = tiny_models.write_gguf(tmp_path / "good.gguf")
    for name, kind in (("bloomz", InvalidRequest), ("starter:x", InvalidRequest), ("blooomz:x", NotFound)):
        with pytest.raises(kind):
            import_path(home, good, name)
    assert [p for p in home.root.rglob("*") if p.is_file()] == []


def test_a_copy_that_finds_no_room_leaves_nothing(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = checkpoint(tmp_path / "m")

    def no_link(*_: object) -> None:
        raise OSError("another file system")

    class Full:
        def write(self, _: bytes) -> int:
            return Path("/dev/full").open("wb", buffering=0).write(b"x")  # the real errno of a full device

    monkeypatch.setattr(store.os, "link", no_link)
    monkeypatch.setattr(store.shutil, "copyfileobj", lambda source, out, size: Full().write(b"x"))
    with pytest.raises(DiskFull):
        import_path(home, source, "bloomz:560m")
    assert ours(home) == [] and [p for p in home.root.rglob("*") if p.is_file()] == []


def test_what_is_half_written_is_not_listed(home: Home) -> None:
    for name in (".pulling-main-abc", ".importing-x-1", ".removing-main-1"):
        checkpoint(home.models / "hf" / "org" / "name" / name)
    checkpoint(home.models / "catalogue" / "bloomz" / ".importing-560m-1")
    assert ours(home) == []
    with pytest.raises(NotFound):
        resolve("hf:org/name", home)
    with pytest.raises(NotFound):
        resolve("bloomz", home)


def test_removing_names_what_it_could_be(home: Home) -> None:
    for variant in ("560m", "1b7"):
        checkpoint(home.models / "catalogue" / "bloomz" / variant)
    with pytest.raises(NotFound, match=r"bloomz:1b7, bloomz:560m"):
        remove(home, "bloomz")
    assert len(ours(home)) == 2


@pytest.mark.torch
@pytest.mark.parametrize(("rows", "template"), [(65536, "rwkv-world"), (50277, "rwkv-raven")])
def test_a_release_of_rwkv_says_its_version_and_prompt_format(tmp_path: Path, rows: int, template: str) -> None:
    from tests.tiny_rwkv import write_release

    path = write_release(tmp_path / "RWKV.pth", "6", vocabulary=rows, width=32, layers=1)
    for reference in (path, tmp_path):  # the file, or the folder that holds nothing else
        model = resolve(str(reference), Home(tmp_path))
        assert (model.path, model.format, model.architecture) == (path, "pickle", "rwkv")
        assert model.template == template
        assert any("RWKV-6" in note for note in model.notes)
