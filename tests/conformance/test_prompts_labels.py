"""What is learned of a training text, against the originals' own preprocessing (tests/fixtures/prompts/README.md)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ninestory.core.errors import InvalidRequest
from ninestory.floors.finetuning.conversations import has_valid_roles, split_long
from ninestory.floors.finetuning.masking import mask_conversation, text_blocks
from ninestory.models.templates import load_templates
from ninestory.tokenizers.sentencepiece_family import SentencePieceTokenizer
from ninestory.training.batches import TokenRow

from .conftest import FIXTURES

FOLDER = FIXTURES / "prompts"
BY_ALIAS = {alias: t.id for t in load_templates().values() for alias in t.aliases}
ROLES = {"human": "user", "gpt": "assistant", "assistant": "assistant"}


def read(name: str) -> Any:
    path = FOLDER / name
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def tokenizer(table: dict[str, Any], **settings: Any) -> SentencePieceTokenizer:
    """The fixture's, with `[PAD]` behind its last piece where the fixture says so."""
    path = Path(FOLDER / table["tokenizer"])
    size = SentencePieceTokenizer(path).vocab_size
    pad = {"[PAD]": size} if "PAD" in table.get("note", "") + table.get("pad", "") else {}
    return SentencePieceTokenizer(path, {}, pad, **settings)


def messages(conversation: list[dict[str, str]], system: str = "") -> list[dict[str, str]]:
    turns = [{"role": ROLES[turn["from"].lower()], "content": turn["value"]} for turn in conversation]
    turns = turns[1:] if turns and turns[0]["role"] == "assistant" else turns
    return [{"role": "system", "content": system}] * bool(system) + turns


def instruction(row: dict[str, str]) -> list[dict[str, str]]:
    question = {"role": "user", "content": row["instruction"], "input": row.get("input", "")}
    return [question, {"role": "assistant", "content": row["output"]}]


def learned(labels: list[int]) -> bool:
    return any(label >= 0 for label in labels)


def same(row: TokenRow, case: dict[str, Any], length: int | None = None) -> None:
    assert row.ids == case["input_ids"][:length]
    assert row.labels == case["labels"][:length]


ALPACA = read("alpaca_sft.json")


@pytest.mark.parametrize("case", ALPACA.get("cases", []), ids=lambda c: f"{c['example']}-{c['model_max_length']}")
def test_alpaca(case: dict[str, Any]) -> None:
    turns = instruction(ALPACA["examples"][case["example"]])
    same(mask_conversation(tokenizer(ALPACA), "alpaca", turns, max_length=case["model_max_length"]), case)


CHINESE = read("chinese_alpaca_sft.json")


@pytest.mark.parametrize("case", CHINESE.get("cases", []), ids=lambda c: f"{c['example']}-{c['max_seq_length']}")
def test_chinese_alpaca(case: dict[str, Any]) -> None:
    turns = instruction(CHINESE["examples"][case["example"]])
    same(mask_conversation(tokenizer(CHINESE), "chinese-alpaca", turns, max_length=case["max_seq_length"]), case)


def cornucopia() -> Iterator[Any]:
    table = read("cornucopia_prompts.json")
    for name, rows in table.get("templates", {}).items():
        for i, row in enumerate(rows):
            for case in row["labels_cases"]:
                yield pytest.param(BY_ALIAS[f"cornucopia:{name}"], row, case, id=f"{name}-{i}-{case['cutoff_len']}")


@pytest.mark.parametrize(("template", "row", "case"), list(cornucopia()))
def test_cornucopia(template: str, row: dict[str, str], case: dict[str, Any]) -> None:
    table = read("cornucopia_prompts.json")
    same(mask_conversation(tokenizer(table), template, instruction(row), max_length=case["cutoff_len"]), case)


BELLE = read("belle_sft.json")


@pytest.mark.parametrize(
    "case",
    [case for case in BELLE.get("cases", []) if not case["fix_length"]],  # the other branch learns its padding
    ids=lambda c: f"{c['conversation']}-{c['model_max_length']}",
)
def test_belle(case: dict[str, Any]) -> None:
    turns = messages(BELLE["conversations"][case["conversation"]])
    if turns[-1]["role"] != "assistant":
        with pytest.raises(InvalidRequest, match="ends without an answer"):
            mask_conversation(tokenizer(BELLE), "belle", turns, max_length=case["model_max_length"])
        return
    row = mask_conversation(tokenizer(BELLE), "belle", turns, max_length=case["model_max_length"])
    assert row.ids == case["input_ids"]
    if learned(row.labels):
        assert row.labels == case["labels"]
    else:  # where the window holds no answer the original learns a few tokens of the question
        assert learned(case["labels"])


@pytest.mark.skipif(not BELLE, reason="this set of fixtures has none of it")
def test_belle_exam() -> None:
    data, case = BELLE["exam"]["data"], BELLE["exam"]
    question = (
        f'回答下面的{data["type"]}题，用json返回答案，包括原因和答案，如{{"reason":..., "answer":...}}\n'
        f"{data['question']}\n选项：{' '.join(data['candidates'])}"
    )
    answer = json.dumps({"reason": data["reason"], "answer": data["answer"]}, ensure_ascii=False)
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    same(mask_conversation(tokenizer(BELLE), "belle", turns, max_length=case["model_max_length"]), case)


@pytest.mark.skipif(not BELLE, reason="this set of fixtures has none of it")
def test_belle_pretraining() -> None:
    case = BELLE["pretrain_grouped"]
    made = text_blocks(tokenizer(BELLE), case["texts"], case["model_max_length"], bos=False, eos=True)
    assert [row.ids for row in made] == case["input_ids"]
    assert [row.labels for row in made] == case["labels"]


VICUNA = read("vicuna_labels.json")


@pytest.mark.parametrize(
    "case", VICUNA.get("cases", []), ids=lambda c: f"{c['id']}-{c['legacy']}-{c['model_max_length']}"
)
def test_vicuna(case: dict[str, Any]) -> None:
    turns = next(c["conversations"] for c in VICUNA["conversations"] if c["id"] == case["id"])
    made = mask_conversation(
        tokenizer(VICUNA, legacy=case["legacy"]), "vicuna-v1.1", messages(turns), max_length=case["model_max_length"]
    )
    length = sum(case["attention_mask"])
    assert made.ids == case["input_ids"][:length]
    if learned(case["labels"]):
        assert made.labels == case["labels"][:length]
    if length < case["model_max_length"]:
        assert learned(made.labels), "nothing is thrown away"


LABELS = read("fastchat_template_labels.json")
OURS = [case for case in LABELS.get("cases", []) if f"fastchat:{case['template']}" in BY_ALIAS]


@pytest.mark.parametrize("case", OURS, ids=lambda c: f"{c['template']}-{c['id']}")
def test_vicuna_training_with_other_templates(case: dict[str, Any]) -> None:
    """The original's second trainer masks each answer's first token and its end, which a model must learn to stop."""
    turns = next(c["conversations"] for c in VICUNA["conversations"] if c["id"] == case["id"])
    template = BY_ALIAS[f"fastchat:{case['template']}"]
    made = mask_conversation(
        tokenizer(LABELS), template, messages(turns, case["system"]), max_length=case["model_max_length"]
    )
    assert made.ids == case["input_ids"][: len(made.ids)]
    ours = {i for i, label in enumerate(made.labels) if label >= 0}
    theirs = {i for i, label in enumerate(case["labels"]) if label >= 0}
    marker = load_templates()[template].assistant.strip()
    answers = sum(turn["from"] == "gpt" for turn in turns)
    if theirs and not any(marker in turn["value"] for turn in turns):  # there it takes a question for an answer
        assert len(theirs - ours) <= answers and len(ours - theirs) <= 3 * answers
    if len(made.ids) < case["model_max_length"]:
        assert made.ids[max(ours)] in tokenizer(LABELS).eos_ids


SPLIT = read("fastchat_split_long.json")


@pytest.mark.parametrize("result", SPLIT.get("results", []), ids=lambda r: f"{r['id']}-{r['max_length']}")
def test_long_conversations_are_split(result: dict[str, Any]) -> None:
    sample = next(s for s in SPLIT["samples"] if s["id"] == result["id"])
    encoder, overhead = tokenizer(SPLIT), SPLIT["per_message_overhead_tokens"]
    lengths = [len(encoder.bos_ids + encoder.encode(t["value"])) + overhead for t in sample["conversations"]]
    pieces = split_long(lengths, result["max_length"])
    ours = [(f"{result['id']}_{p.start}", len(p)) for p in pieces]
    theirs = [(p["id"], p["n_messages"]) for p in result["pieces"] if p["n_messages"]]
    assert [piece for piece in ours if piece in theirs] == theirs
    whole = len(lengths) - len(lengths) % 2
    assert [i for p in pieces for i in p] == list(range(whole)), "the original loses an overflowing last pair"


@pytest.mark.skipif(not SPLIT, reason="this set of fixtures has none of it")
def test_conversations_with_wrong_roles_are_left_out() -> None:
    rows = SPLIT["filter_invalid_roles"]["input"]
    kept = [r["id"] for r in rows if has_valid_roles([ROLES[turn["from"]] for turn in r["conversations"]])]
    assert kept == SPLIT["filter_invalid_roles"]["kept_ids"]
