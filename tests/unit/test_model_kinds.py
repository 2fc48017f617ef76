"""Every release's own layout is known for what it is; nothing is taken for a chat model by default."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ninestory.core.config import RuntimeSettings
from ninestory.core.errors import Unsupported
from ninestory.core.paths import Home
from ninestory.core.tasks import TASKS, VERBS
from ninestory.models import kinds
from ninestory.models.catalogue import load_catalogue
from ninestory.models.resolve import resolve
from ninestory.models.store import list_installed
from ninestory.models.verify import verify
from ninestory.runtimes.load import load_engine
from tests import tiny_models
from tests.conformance.conftest import FIXTURES

FOLDERS = [
    ("blip", ("caption", "match"), "safetensors", "blip", "look"),
    ("blip/pretrain.safetensors", ("caption", "match"), "safetensors", "blip", "look"),
    ("blip/vqa.safetensors", ("caption", "match"), "safetensors", "blip", "look"),
    ("blip2", ("caption", "match"), "safetensors", "blip2", "look"),
    ("minigpt4", ("caption",), "safetensors", "minigpt4", "look"),
    ("visualglm", ("caption",), "safetensors", "visualglm", "look"),
    ("sd_ckpt", ("image",), "safetensors", "stable-diffusion", "draw"),
    ("sd_ckpt/original_layout.safetensors", ("image",), "safetensors", "stable-diffusion", "draw"),
    ("mms_asr", ("transcribe", "align"), "safetensors", "wav2vec2", "transcribe"),
    ("mms_asr/lid", ("identify_language",), "safetensors", "wav2vec2", "identify"),
    ("mms_tts/transformers", ("speak",), "safetensors", "vits", "speak"),
    ("ct2_whisper", ("transcribe",), "ctranslate2", "whisper", "transcribe"),
]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    for name in ("HF_HOME", "OLLAMA_MODELS"):
        monkeypatch.setenv(name, str(tmp_path / name))
    return Home(tmp_path / "home").ensure()


@pytest.mark.parametrize(("folder", "tasks", "form", "family", "verb"), FOLDERS, ids=[row[0] for row in FOLDERS])
def test_a_release_says_what_it_is_and_which_verb_uses_it(
    home: Home, folder: str, tasks: tuple[str, ...], form: str, family: str, verb: str
) -> None:
    kind = kinds.describe(FIXTURES / folder)
    assert (kind.tasks, kind.format, kind.family, kind.verb) == (tasks, form, family, verb)
    model = resolve(str(FIXTURES / folder), home)
    assert (model.tasks, model.format, model.architecture, model.task) == (tasks, form, family, tasks[0])
    assert model.total_bytes > 0 and model.context == 0
    with pytest.raises(Unsupported, match=family) as refused:
        load_engine(model, RuntimeSettings())
    assert f"'ninestory {verb}'" in refused.value.hint


def test_the_original_vits_is_known_beside_its_oracle_files(home: Home, tmp_path: Path) -> None:
    kind = kinds.describe(FIXTURES / "mms_tts")
    assert (kind.tasks, kind.family, kind.verb) == (("speak",), "vits", "speak")
    release = tmp_path / "eng"
    release.mkdir()
    for name in ("G_100000.pth", "config.json", "vocab.txt"):
        shutil.copy(FIXTURES / "mms_tts" / name, release)
    model = resolve(str(release), home)
    assert (model.format, model.tasks) == ("pickle", ("speak",))


def test_a_pipeline_of_diffusers_is_a_drawing_model_and_each_of_its_parts_is_verified(
    home: Home, tmp_path: Path
) -> None:
    for part in ("unet", "vae"):
        (tmp_path / "sd" / part).mkdir(parents=True)
        tiny_models.write_safetensors(tmp_path / "sd" / part / "diffusion_pytorch_model.safetensors")
    (tmp_path / "sd" / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    model = resolve(str(tmp_path / "sd"), home)
    assert (model.architecture, model.tasks) == ("stable-diffusion", ("image",))
    assert len(verify(tmp_path / "sd").files) == 2


@pytest.mark.parametrize("config", [{"model_type": "martian"}, {"architectures": ["MartianModel"]}, {"hidden_size": 8}])
def test_what_is_of_no_known_kind_is_refused_with_a_list_of_what_was_looked_for(
    home: Home, tmp_path: Path, config: dict[str, object]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    tiny_models.write_safetensors(tmp_path / "model.safetensors")
    with pytest.raises(Unsupported, match="no model of a known kind") as refused:
        resolve(str(tmp_path), home)
    assert refused.value.code == "unknown_kind"
    for word in ("Stable Diffusion", "wav2vec2", ".gguf", "RWKV"):
        assert word in refused.value.message


def test_an_installed_model_is_listed_by_its_own_task(home: Home) -> None:
    shutil.copytree(FIXTURES / "mms_asr", home.models / "hf" / "facebook" / "mms" / "main")
    unknown = home.models / "hf" / "org" / "unknown" / "main"
    unknown.mkdir(parents=True)
    (unknown / "config.json").write_text("{")
    tasks = {model.reference: model.task for model in list_installed(home) if model.source == "store"}
    assert tasks == {"hf:facebook/mms": "transcribe", "hf:org/unknown": "other"}


def test_each_task_has_a_verb_and_each_family_of_the_catalogue_a_kind() -> None:
    assert set(VERBS) == set(TASKS)
    without_models = {s.family for s in load_catalogue().values() if not kinds.tasks_of_family(s.family)}
    assert without_models == {"agent", "retrieval"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("mms-tts:eng", ["mms-tts:eng", "speak: used by 'ninestory speak'", "145.0 MB"]),
        (str(FIXTURES / "sd_ckpt"), ["image: used by 'ninestory draw'"]),
        (str(FIXTURES / "mms_asr"), ["transcribe, align: used by 'ninestory transcribe'"]),
    ],
)
def test_plan_says_truly_what_the_files_are(model: str, words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ninestory", "plan", model], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert all(word in done.stdout for word in words) and " 0 B are free" not in done.stdout, done.stdout
