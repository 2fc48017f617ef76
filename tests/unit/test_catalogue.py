"""The catalogue is data that people rely on: complete, in both languages, well formed."""

from __future__ import annotations

import re

import pytest

from ninestory.core.errors import Damaged, NotFound
from ninestory.models.catalogue import System, build, find, load_catalogue
from ninestory.models.templates import load_templates

FLOORS = {
    1: "chatglm-6b alpaca chinese-llama-alpaca vicuna gpt4all moss bloomz belle chatrwkv chatgpt openbuddy",
    2: "langchain-chatglm",
    3: "stable-diffusion stable-diffusion-webui novelai lora",
    4: "blip blip2 minigpt4 visualglm-6b",
    5: "mms-asr",
    6: "mms-tts",
    7: "auto-gpt",
    8: "llmtune guanaco",
    9: "cornucopia",
}
SYSTEMS = load_catalogue()
CHINESE = re.compile("[\u4e00-\u9fff]")
HUB_ID = re.compile(r"[A-Za-z0-9._-]+/[A-Za-z0-9._-]+")


def test_the_tower_is_complete() -> None:
    assert {name: s.floor for name, s in SYSTEMS.items()} == {
        n: f for f, names in FLOORS.items() for n in names.split()
    }


@pytest.mark.parametrize("system", SYSTEMS.values(), ids=lambda s: s.name)
def test_a_system_is_described_in_both_languages(system: System) -> None:
    assert system.title.en and system.title.zh and system.licence and system.variants and system.pitfalls
    texts = [system.description, *(t for p in system.pitfalls for t in (p.problem, p.cure))]
    for text in texts:
        assert text.en and not CHINESE.search(text.en)
        assert CHINESE.search(text.zh)


@pytest.mark.parametrize("system", SYSTEMS.values(), ids=lambda s: s.name)
def test_variants_are_well_formed(system: System) -> None:
    names = [v.name for v in system.variants]
    assert len(set(names)) == len(names)
    for variant in system.variants:
        assert variant.format and variant.nbytes >= 0
        assert all(HUB_ID.fullmatch(repo) for repo in (variant.hf, variant.ms) if repo)
        if variant.shape is not None and variant.shape.heads:
            assert variant.shape.heads % variant.shape.kv_heads == 0


@pytest.mark.parametrize("system", [s for s in SYSTEMS.values() if s.template], ids=lambda s: s.name)
def test_a_named_prompt_template_exists(system: System) -> None:
    assert system.template == "checkpoint" or system.template in load_templates()


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(NotFound) as caught:
        find("vicunna")
    assert "vicuna" in caught.value.hint and "vicuna" in caught.value.hint_zh


@pytest.mark.parametrize("change", [{"colour": "red"}, {"floor": "one"}, {"title": {"en": "x"}}])
def test_a_faulty_file_is_named_with_its_key(change: dict) -> None:
    text = {"en": "a", "zh": "b"}
    good = {"name": "x", "floor": 1, "family": "f", "title": text, "description": text, "licence": "MIT"}
    assert build(System, good, "x.toml").name == "x"
    with pytest.raises(Damaged, match=r"x\.toml"):
        build(System, {**good, **change}, "x.toml")
