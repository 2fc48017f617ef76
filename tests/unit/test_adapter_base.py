"""An adapter stands on the weights that it was trained on: other ones of the same shapes are refused, by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ninestory.core.errors import Conflict
from ninestory.models.adapter_base import check_adapter_bases, fingerprint
from ninestory.models.resolved import ResolvedAdapter, ResolvedModel


def base(folder: Path, weights: bytes) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def adapter(folder: Path, name: str, **note: Any) -> ResolvedAdapter:
    path = folder / name
    path.mkdir()
    if note:
        (path / "ninestory.json").write_text(json.dumps(note))
    return ResolvedAdapter(name=name, path=path)


def model(reference: str, path: Path, *adapters: ResolvedAdapter) -> ResolvedModel:
    return ResolvedModel(
        reference=reference,
        path=path,
        format="safetensors",
        architecture="llama",
        tasks=("chat",),
        context=1,
        adapters=[*adapters],
    )


def test_weights_are_told_apart_by_their_content_wherever_they_lie(tmp_path: Path) -> None:
    first, same = base(tmp_path / "a", b"1" * 99), base(tmp_path / "b", b"1" * 99)
    other = base(tmp_path / "c", b"1" * 98 + b"2")
    assert fingerprint(first) == fingerprint(same) != fingerprint(other)
    files = [tmp_path / name for name in ("x.gguf", "y.gguf", "z.gguf")]
    for file, content in zip(files, (b"1", b"1", b"2"), strict=True):
        file.write_bytes(content)
    assert fingerprint(files[0]) == fingerprint(files[1]) != fingerprint(files[2])


def test_its_own_base_is_taken_under_any_name_and_another_refused(tmp_path: Path) -> None:
    own, other = base(tmp_path / "own", b"1"), base(tmp_path / "other", b"2")
    mine = adapter(tmp_path, "mine", base="alpaca:7b", base_fingerprint=fingerprint(own))
    assert check_adapter_bases(model("./elsewhere+mine", own, mine)) == []
    with pytest.raises(Conflict, match=r"mine was trained on alpaca:7b, and \./other has other weights") as refused:
        check_adapter_bases(model("./other+mine", other, mine))
    assert refused.value.code == "adapter_for_another_base" and "alpaca:7b+mine" in refused.value.hint_zh
    for changed in ("alpaca:7b+mine", "ft:mine"):
        with pytest.raises(Conflict, match="files have changed since"):
            check_adapter_bases(model(changed, other, mine))


def test_another_form_of_the_same_model_is_taken_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    own, packed = base(tmp_path / "own", b"1"), base(tmp_path / "packed", b"2")
    mine = adapter(tmp_path, "mine", base="chatglm-6b:fp16", base_fingerprint=fingerprint(own))
    (told,) = check_adapter_bases(model("chatglm-6b:int4+mine=0.5", packed, mine))
    assert told == "mine was trained on chatglm-6b:fp16: on chatglm-6b:int4 its answers differ a little"
    assert caplog.messages == [told]  # whoever loads it sees it, a chat in a pipe too


def test_of_two_adapters_each_is_looked_at(tmp_path: Path) -> None:
    own, other = base(tmp_path / "own", b"1"), base(tmp_path / "other", b"2")
    first = adapter(tmp_path, "first", base="./own", base_fingerprint=fingerprint(own))
    second = adapter(tmp_path, "second", base="./other", base_fingerprint=fingerprint(other))
    with pytest.raises(Conflict, match=r"second was trained on \./other, and \./own"):
        check_adapter_bases(model("ft:first+second=0.3", own, first, second))


def test_what_is_not_known_is_not_refused(tmp_path: Path) -> None:
    own = base(tmp_path / "own", b"1")
    published = adapter(tmp_path, "published")
    assert check_adapter_bases(model("./own+published", own, published)) == []
    copy = base(tmp_path / "0123456789abcdef", b"3")  # QLoRA's 4-bit copy lies under its base's fingerprint
    quantised = adapter(tmp_path, "q", base="./own", base_fingerprint=copy.name)
    assert check_adapter_bases(model("ft:q", copy, quantised)) == []
