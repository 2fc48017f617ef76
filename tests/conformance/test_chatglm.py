"""ChatGLM-6B against what its original code gave (tests/fixtures/chatglm/README.md holds the tolerances)."""

from __future__ import annotations

import json
import re

import pytest

pytest.importorskip("torch")
import torch
from safetensors.torch import load_file

from ninestory.architectures.chatglm import ChatGLMConfig, ChatGLMForConditionalGeneration, positions_and_mask
from ninestory.architectures.quantized_linear import RowQuantizedLinear, dequantize_rows, quantize_rows
from ninestory.tokenizers.chatglm import ChatGLMTokenizer, ResponseStream, chat_prompt, process_response

from .conftest import FIXTURES

pytestmark = pytest.mark.torch
FOLDER = FIXTURES / "chatglm"
CASES = json.loads((FOLDER / "cases.json").read_text()) if FOLDER.exists() else {}
TOKENIZER_CASES = json.loads((FOLDER / "tokenizer_cases.json").read_text()) if FOLDER.exists() else {}


def of_kind(*kinds: str) -> list[str]:
    return [name for name, case in CASES.items() if case["kind"] in kinds]


@pytest.fixture(scope="module")
def oracle() -> dict[str, torch.Tensor]:
    return load_file(FOLDER / "outputs.safetensors")


def build(name: str) -> ChatGLMForConditionalGeneration:
    """The model that case `name` was made with, from the original files."""
    prefix = re.match(r"prefix_(plain|proj)", name)
    bits = re.match(r"int(\d)", name)
    options: dict[str, object] = {"quantization_bit": int(bits[1])} if bits else {}
    weights = load_file(FOLDER / (f"model_{bits[0]}.safetensors" if bits else "model.safetensors"))
    if prefix:
        extra = load_file(FOLDER / f"{prefix[0]}.safetensors")
        length = extra["transformer.prefix_encoder.embedding.weight"].shape[0]
        options |= {"pre_seq_len": length, "prefix_projection": prefix[1] == "proj"}
        weights |= extra
    model = ChatGLMForConditionalGeneration(ChatGLMConfig(**json.loads((FOLDER / "config.json").read_text()) | options))
    weights = {k: v if v.dtype == torch.int8 or k.endswith("scale") else v.float() for k, v in weights.items()}
    missing, surplus = model.load_state_dict(weights, strict=False, assign=True)
    assert not missing
    assert all(key.endswith("rotary_emb.inv_freq") for key in surplus)
    return model.eval()


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-3, rtol=1e-4)


def case_layout(name: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    case = CASES[name]
    hidden = torch.tensor(case["attention_mask_true_means_masked"]).bool()
    return torch.tensor(case["input_ids"]), torch.tensor(case["position_ids"]), hidden


@pytest.mark.parametrize("name", of_kind("full"))
def test_full_forward(name: str, oracle: dict[str, torch.Tensor]) -> None:
    ids, positions, hidden = case_layout(name)
    model = build(name)
    with torch.no_grad():
        logits = model(ids, position_ids=positions, attention_mask=hidden).logits
        last = model.transformer(ids, positions, hidden)
    real = ~hidden.all(-1)  # rows of padding are meaningless
    close(logits[real], oracle[f"{name}.logits"][real])
    if f"{name}.final_hidden" in oracle:
        close(last[real], oracle[f"{name}.final_hidden"][real])


@pytest.mark.parametrize("name", of_kind("full"))
def test_layout_from_ids(name: str) -> None:
    ids, positions, hidden = case_layout(name)
    config = build(name).config
    padded = hidden.all(-1).any()
    made = positions_and_mask(ids, config, (ids != config.pad_token_id).long() if padded else None)
    assert torch.equal(made.positions, positions)
    assert torch.equal(made.hidden, hidden)


@pytest.mark.parametrize("name", of_kind("greedy"))
def test_greedy_generation(name: str, oracle: dict[str, torch.Tensor]) -> None:
    case, model = CASES[name], build(name)
    prompt = torch.tensor(case["prompt_ids"])
    expected = torch.tensor(case["generated_ids"])
    out = model.generate(
        prompt,
        attention_mask=(prompt != model.config.pad_token_id).long(),
        do_sample=False,
        max_new_tokens=expected.shape[1],
        eos_token_id=[],  # the original's loop here never stops early
        output_logits=True,
        return_dict_in_generate=True,
    )
    assert torch.equal(out.sequences[:, prompt.shape[1] :], expected)
    if f"{name}.step_logits" in oracle:
        close(torch.stack(out.logits, 1), oracle[f"{name}.step_logits"])


def test_sft_ids_labels_loss_and_gradients(oracle: dict[str, torch.Tensor]) -> None:
    case, model = CASES["sft"], build("sft")
    ids, labels = torch.tensor(case["input_ids"]), torch.tensor(case["labels"])
    out = model(ids, labels=labels)
    out.loss.backward()
    assert out.loss.item() == pytest.approx(case["loss"], abs=1e-4)
    rows = oracle["sft.last_answer_row_logits"]
    close(out.logits[0, : rows.shape[0]].detach(), rows)
    body = model.transformer
    torch.testing.assert_close(
        body.final_layernorm.weight.grad, oracle["sft.grad_final_layernorm_weight"], rtol=1e-3, atol=1e-4
    )
    torch.testing.assert_close(
        body.layers[0].attention.query_key_value.bias.grad, oracle["sft.grad_layer0_qkv_bias"], rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("name", of_kind("sft_loss"))
@pytest.mark.parametrize("checkpointing", [False, True])
def test_prefix_tuning_loss_and_gradient(name: str, checkpointing: bool, oracle: dict[str, torch.Tensor]) -> None:
    case, model = CASES[name], build(name)
    same = CASES[case["same_ids_as"]]
    for key, parameter in model.named_parameters():
        parameter.requires_grad_(key in case["trainable_parameters"])
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        model.transformer.dropout.eval()  # the oracle was made without dropout
    loss = model(torch.tensor(same["input_ids"]), labels=torch.tensor(same["labels"])).loss
    loss.backward()
    assert loss.item() == pytest.approx(case["loss"], abs=1e-4)
    stem = name.removesuffix("_sft")
    grad = model.transformer.prefix_encoder.embedding.weight.grad
    torch.testing.assert_close(grad, oracle[f"{stem}.grad_embedding"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "stem", sorted({name.rsplit("_past", 1)[0].removesuffix("_sft") for name in of_kind("sft_loss")})
)
def test_prefix_keys_and_values(stem: str, oracle: dict[str, torch.Tensor]) -> None:
    model = build(stem)
    pairs = model.transformer.prefix_keys_values(1, torch.float32)
    for part, index in (("past_key_layer0", 0), ("past_value_layer1", 1)):
        expected = oracle[f"{stem}.{part}"]  # [pre_seq_len, batch, heads, head_dim]
        layer = int(part[-1])
        close(pairs[layer][index].permute(2, 0, 1, 3).detach(), expected)


@pytest.mark.parametrize("bits", [8, 4])
def test_quantised_linear_is_exact(bits: int) -> None:
    data = load_file(FOLDER / "quant_linear.safetensors")
    packed, scale = quantize_rows(data["weight"], bits)
    assert torch.equal(packed, data[f"int{bits}.weight"])
    assert torch.equal(scale, data[f"int{bits}.weight_scale"])
    assert torch.equal(dequantize_rows(packed, scale, bits, torch.float32), data[f"int{bits}.dequantized_float"])
    linear = torch.nn.Linear(data["weight"].shape[1], data["weight"].shape[0])
    linear.weight.data, linear.bias.data = data["weight"], data["bias"].float()
    torch.testing.assert_close(
        RowQuantizedLinear.from_linear(linear, bits)(data["input"]), data[f"int{bits}.output_float"]
    )


# --- the tokenizer ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer() -> ChatGLMTokenizer:
    return ChatGLMTokenizer(FOLDER / "ice_text.model")


@pytest.mark.parametrize("case", TOKENIZER_CASES.get("cases", []), ids=lambda c: repr(c["text"])[:30])
def test_tokenizer(case: dict, tokenizer: ChatGLMTokenizer) -> None:
    assert tokenizer.encode(case["text"], special=True) == case["ids_no_special"]
    assert tokenizer.encode_prompt(case["text"], special=True) == case["ids"]
    assert tokenizer.pieces(case["ids_no_special"]) == case["tokens"]
    assert tokenizer.decode(case["ids"]) == case["decoded"]


def test_typed_specials_are_text_by_default(tokenizer: ChatGLMTokenizer) -> None:
    special = {tokenizer.sop_id, tokenizer.eop_id, tokenizer.mask_id, tokenizer.gmask_id, tokenizer.pad_id}
    assert not special & set(tokenizer.encode("<sop><eop>[MASK]<pad>[gMASK]"))


def test_pair(tokenizer: ChatGLMTokenizer) -> None:
    assert tokenizer.encode_pair(*TOKENIZER_CASES["pair"]["texts"]) == TOKENIZER_CASES["pair"]["ids"]


@pytest.mark.parametrize("case", TOKENIZER_CASES.get("chat_prompts", []), ids=lambda c: f"{len(c['history'])} rounds")
def test_chat_prompt(case: dict, tokenizer: ChatGLMTokenizer) -> None:
    prompt = chat_prompt(case["query"], [tuple(pair) for pair in case["history"]])
    assert prompt == case["prompt"]
    assert tokenizer.encode_prompt(prompt) == case["ids"]


@pytest.mark.parametrize("case", TOKENIZER_CASES.get("process_response", []), ids=lambda c: c["raw"])
def test_response_clean_up(case: dict) -> None:
    assert process_response(case["raw"]) == case["processed"]


@pytest.mark.parametrize("case", TOKENIZER_CASES.get("process_response", []), ids=lambda c: c["raw"])
@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_response_clean_up_as_it_is_written(case: dict, size: int) -> None:
    stream, raw = ResponseStream(), case["raw"]
    pieces = [stream.push(raw[i : i + size]) for i in range(0, len(raw), size)]
    assert "".join(pieces) + stream.finish() == case["processed"]
