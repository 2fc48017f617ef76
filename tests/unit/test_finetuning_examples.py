"""Samples as ids and labels: exactly the answers are learned, in a checkpoint's own template and in raw text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ninestory.core.errors import InvalidRequest
from ninestory.core.machine import FreeMemory
from ninestory.core.progress import Silent
from ninestory.floors.finetuning.examples import question, question_text, read_examples, render
from ninestory.floors.finetuning.formats import FORMATS, Sample
from ninestory.floors.finetuning.inspection import histogram
from ninestory.models.convert.gguf_safetensors import write_checkpoint
from ninestory.models.prompt_format import PromptFormat
from ninestory.models.shapes import ModelShape
from ninestory.models.templates import find_template
from ninestory.tokenizers.load import load_tokenizer
from ninestory.tokenizers.tokenizer import Tokenizer
from ninestory.training.batches import IGNORED
from ninestory.training.plan import TunedShape, TuningJob, nearest_that_fits, plan_tuning, trainable_parameters
from tests import tiny_models

JINJA = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}"
    "{% if m.role == 'assistant' %}{{ eos_token }}\n{% else %}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
TALK = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "ab </s> ?"},
    {"role": "assistant", "content": "ba"},
    {"role": "user", "content": "the 你"},
    {"role": "assistant", "content": "好 t"},
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_checkpoint(tiny_models.write_gguf(folder / "tiny.gguf"), folder / "float", Silent())
    return load_tokenizer(folder / "float")


def learned(tokenizer: Tokenizer, row: Any) -> str:
    return tokenizer.decode([label for label in row.labels if label != IGNORED], skip_special=False)


def own(jinja: str = JINJA) -> PromptFormat:
    return PromptFormat("checkpoint", "checkpoint", jinja=jinja)


def test_of_a_conversation_the_answers_and_their_ends_are_learned(tokenizer: Tokenizer) -> None:
    row = render(Sample("conversation", messages=TALK), tokenizer, own(), 500)
    assert learned(tokenizer, row).split() == ["ba</s>", "好", "t</s>"] or learned(tokenizer, row) == "ba</s> 好 t</s>"
    assert row.ids.count(1) == 1 and row.ids[0] == 1  # the template writes <s>: no second one is put before it
    assert row.ids.count(2) == 2  # the user's "</s>" stayed text
    assert all(label in (IGNORED, token) for token, label in zip(row.ids, row.labels, strict=True))


def test_the_question_of_the_evaluation_is_what_serving_would_ask(tokenizer: Tokenizer) -> None:
    ids, answer = question(Sample("conversation", messages=TALK), tokenizer, own())
    whole = render(Sample("conversation", messages=TALK), tokenizer, own(), 500)
    assert answer == "好 t" and tokenizer.decode(ids).endswith("[assistant] ")
    assert whole.ids[: len(ids) - 1] == ids[:-1]


def test_a_question_is_shown_in_the_words_of_the_data() -> None:
    row = {"role": "user", "content": "Add.", "input": "1 2"}
    assert question_text(Sample("conversation", messages=[row, {"role": "assistant", "content": "3"}])) == "Add.\n1 2"
    assert question_text(Sample("conversation", messages=TALK)).splitlines()[-1] == TALK[-2]["content"]
    assert question_text(Sample("text", prompt="ab", completion="ba")) == "ab"
    assert question_text(Sample("moss", moss={"chat": {"turn_1": {"Human": "hi", "MOSS": "yo"}}})) == "hi"


GREETING = {"role": "assistant", "content": "the hat"}
CATALOGUE = PromptFormat("vicuna-v1.1", "--template", template=find_template("vicuna-v1.1"))


@pytest.mark.parametrize("prompts", [own(), CATALOGUE], ids=["checkpoint", "catalogue"])
def test_a_greeting_is_given_and_not_learned(prompts: PromptFormat, tokenizer: Tokenizer) -> None:
    plain = render(Sample("conversation", messages=TALK), tokenizer, prompts, 500)
    greeted = render(Sample("conversation", messages=[TALK[0], GREETING, *TALK[1:]]), tokenizer, prompts, 500)
    text = tokenizer.decode(greeted.ids)
    assert text.index("the hat") < text.index("ab </s> ?") and "the hat" not in tokenizer.decode(plain.ids)
    assert learned(tokenizer, greeted) == learned(tokenizer, plain)


def test_lost_turns_are_counted_and_their_rows_are_kept(tokenizer: Tokenizer, tmp_path: Path) -> None:
    last_question = {"role": "user", "content": "ab"}
    talks = [TALK[1:], [*TALK[1:], last_question], [GREETING, *TALK[1:], last_question]]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in talks))
    refusing = "{% if messages[0].role == 'assistant' %}{{ raise_exception('user first') }}{% endif %}" + JINJA
    for prompts, lost_greetings in ((own(), 0), (own(refusing), 1)):
        examples = read_examples([tmp_path / "a.jsonl"], tokenizer, prompts, max_length=200)
        assert (len(examples.good), examples.invalid_count) == (3, 0)
        assert (examples.lost_questions, examples.lost_greetings) == (2, lost_greetings)
        assert ("the hat" in tokenizer.decode(examples.good[2].row.ids)) == (not lost_greetings)
        question(examples.good[2].sample, tokenizer, prompts)  # the evaluation asks in the same format


def test_a_template_that_rewrites_earlier_turns_is_refused(tokenizer: Tokenizer) -> None:
    rewriting = "{{ messages | length }}" + JINJA
    with pytest.raises(InvalidRequest, match="rewrites earlier turns"):
        render(Sample("conversation", messages=TALK), tokenizer, own(rewriting), 500)


def test_raw_text(tokenizer: Tokenizer) -> None:
    row = render(Sample("text", prompt="ab", completion="ba"), tokenizer, None, 500)
    assert row.ids[0] == 1 and row.ids[-1] == 2 and learned(tokenizer, row).strip() == "ba</s>"
    whole = render(Sample("text", completion="the ab"), tokenizer, None, 500)
    assert whole.labels == [IGNORED, *whole.ids[1:]]
    with pytest.raises(InvalidRequest, match="no prompt format"):
        render(Sample("conversation", messages=TALK), tokenizer, None, 500)


def test_an_input_stands_in_its_place_or_below_the_instruction(tokenizer: Tokenizer) -> None:
    sample = FORMATS["alpaca"]({"instruction": "ab", "input": "ba", "output": "t"})
    alpaca = PromptFormat("alpaca", "--template", template=find_template("alpaca"))
    vicuna = PromptFormat("vicuna-v1.1", "--template", template=find_template("vicuna-v1.1"))
    by_alpaca, by_vicuna = (tokenizer.decode(render(sample, tokenizer, form, 900).ids) for form in (alpaca, vicuna))
    assert "### Input:\nba\n" in by_alpaca and "USER: ab\nba " in by_vicuna


def test_rows_are_counted_cut_and_named(tokenizer: Tokenizer, tmp_path: Path) -> None:
    rows: list[Any] = [
        {"prompt": "ab", "completion": "ba"},
        {"prompt": "ab", "completion": "ba"},
        {"prompt": "t", "completion": "t" * 100},
        {"prompt": "t" * 100, "completion": "t"},
        {"prompt": "t", "completion": 3},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\nnonsense", encoding="utf-8")
    found = read_examples([tmp_path / "a.jsonl"], tokenizer, None, max_length=20)
    assert (found.format, len(found.good), found.duplicates, found.invalid_count) == ("prompt-completion", 3, 1, 3)
    assert [example.cut for example in found.good] == [False, False, True]
    assert [bad.line for bad in found.invalid] == [4, 5, 6]
    assert len(read_examples([tmp_path / "a.jsonl"], tokenizer, None, max_length=20, limit=1).good) == 1


def test_a_corpus_is_put_end_to_end_and_cut_into_blocks(tokenizer: Tokenizer, tmp_path: Path) -> None:
    texts = ["the ab " * 9, "", "ba", "tab " * 30]
    lines = [json.dumps({"text": text}) for text in texts]
    (tmp_path / "a.jsonl").write_text("\n".join([*lines, "nonsense"]), encoding="utf-8")
    found = read_examples([tmp_path / "a.jsonl"], tokenizer, None, max_length=16, data_format="corpus")
    blocks = [example.row for example in found.good]
    whole = [id for text in texts if text for id in [*tokenizer.bos_ids, *tokenizer.encode(text)]]
    assert [id for block in blocks for id in block.ids] == whole
    assert {len(block.ids) for block in blocks[:-1]} == {16} and all(block.labels == block.ids for block in blocks)
    assert [bad.line for bad in found.invalid] == [2, 5] and not any(example.cut for example in found.good)
    begins = [example.line for example in found.good]
    assert begins == sorted(begins) and begins[0] == 1 and begins[-1] == 4
    few = read_examples([tmp_path / "a.jsonl"], tokenizer, None, max_length=16, data_format="corpus", limit=2)
    assert [example.row for example in few.good] == blocks[:2]


def test_histograms_count_every_row() -> None:
    lengths = [3, 3, 4, 50, 51, 99, 100]
    bars = histogram(lengths)
    assert sum(count for _, _, count in bars) == 7 and len(bars) <= 10
    assert all(sum(low <= n <= high for n in lengths) == count for low, high, count in bars)


SIZES = ModelShape(layers=30, hidden=576, kv_heads=3, head_dim=64, ffn=1536, vocabulary=49152, heads=9)
SHAPE = TunedShape(SIZES, tied=True)


@pytest.mark.torch
@pytest.mark.parametrize("method", ["full", "freeze", "lora", "ia3", "prompt", "prefix"])
def test_the_plan_counts_what_the_method_trains(method: Any) -> None:
    pytest.importorskip("torch")
    from ninestory.training.methods import adapt_model
    from ninestory.training.settings import Method
    from tests.tiny_training import tiny_llama

    tuned = adapt_model(tiny_llama(), Method(name=method, trainable_layers=2, virtual_tokens=5), seed=0, total_steps=1)
    shape = ModelShape(layers=3, hidden=32, kv_heads=2, head_dim=8, ffn=48, vocabulary=300, heads=4)
    job = TuningJob(method, 10, 5, trainable_layers=2, virtual_tokens=5)
    assert sum(p.numel() for p in tuned.trainable.values()) == trainable_parameters(TunedShape(shape, tied=True), job)


def test_the_plan_orders_methods_and_finds_what_fits() -> None:
    def total(method: str, **more: Any) -> int:
        job = TuningJob(method, 2048, 1024, **more)
        return plan_tuning("m", SHAPE, job, free=FreeMemory(0)).total_bytes

    assert total("qlora") < total("lora") < total("full")
    assert total("lora", checkpointing=True) < total("lora") and total("freeze", trainable_layers=2) < total(
        "freeze", trainable_layers=20
    )
    assert nearest_that_fits("m", SHAPE, TuningJob("full", 2048, 1024)) is not None
