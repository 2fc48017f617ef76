"""RWKV 4 to 7 against what the `rwkv` package gave (tests/fixtures/rwkv/README.md holds the tolerances)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
import torch
from safetensors.torch import load_file, save_file

from ninestory.architectures.rwkv import RwkvForCausalLM
from ninestory.architectures.rwkv_checkpoint import load_rwkv
from ninestory.architectures.rwkv_strategy import parse_strategy
from ninestory.core.errors import InvalidRequest
from ninestory.floors.chat.rwkv_sampling import Penalty, RwkvSampling, counted, draw, probabilities, sample
from ninestory.floors.chat.rwkv_session import Prompt, RwkvSession, refine_context
from ninestory.tokenizers.rwkv import NeoxTokenizer, WorldTokenizer, packaged_world_vocabulary

from .conftest import FIXTURES

pytestmark = pytest.mark.torch
FOLDER = FIXTURES / "rwkv"
MODELS = sorted(path.parent.name for path in FOLDER.glob("*/case.json"))
FILES = sorted(str(path.relative_to(FOLDER)) for path in FOLDER.glob("*/model.*"))


def read(name: str) -> Any:
    path = FOLDER / name
    return json.loads(path.read_text()) if path.exists() else {}


def with_strategies() -> list[str]:
    """The models that were also run in other dtypes."""
    return [name for name in MODELS if "strategy_bf16.seq_logits" in load_file(FOLDER / name / "outputs.safetensors")]


def case(name: str) -> tuple[dict[str, Any], dict[str, torch.Tensor], torch.Tensor]:
    """Facts, expected tensors and token ids [1, n] of a model."""
    facts = read(f"{name}/case.json")
    return facts, load_file(FOLDER / name / "outputs.safetensors"), torch.tensor([facts["tokens"]])


def close(actual: torch.Tensor, expected: torch.Tensor, atol: float = 1e-4) -> None:
    torch.testing.assert_close(actual, expected, atol=atol, rtol=1e-4)


def step_by_step(model: RwkvForCausalLM, ids: torch.Tensor, state: Any) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([model(ids[:, i : i + 1], state=state).logits[0] for i in range(ids.shape[1])])


# --- the models -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", FILES)
def test_sizes_and_version_from_the_keys(file: str) -> None:
    facts, _, _ = case(Path(file).parts[0])
    config = load_rwkv(FOLDER / file).config
    assert (config.num_hidden_layers, config.hidden_size, config.vocab_size) == (
        facts["n_layer"], facts["n_embd"], facts["vocab"],
    )  # fmt: skip
    if "detected_version" in facts:
        assert float(config.version) == facts["detected_version"]
    else:
        assert config.version == "7"
    if facts["n_head"]:
        assert config.sizes.heads == facts["n_head"]


@pytest.mark.parametrize("file", FILES)
def test_one_call_and_one_token_a_call(file: str) -> None:
    name = Path(file).parts[0]
    facts, expected, ids = case(name)
    model = load_rwkv(FOLDER / file)
    with torch.no_grad():
        whole = model(ids, use_cache=True)
    close(whole.logits[0], expected["seq.logits"])
    state = model.new_state()
    close(step_by_step(model, ids, state), expected["rnn.logits"])
    tensors = [t[0] for layer in state.layers for t in layer.tensors()]
    assert [list(t.shape) for t in tensors] == facts["state_shapes"]
    assert [str(t.dtype).removeprefix("torch.") for t in tensors] == facts["state_dtypes"]
    for i, tensor in enumerate(tensors):
        close(tensor, expected[f"rnn.state.{i}"], atol=5e-4)
    for mine, theirs in zip((t for layer in whole.state.layers for t in layer.tensors()), tensors, strict=True):
        close(mine[0], theirs, atol=5e-3)  # one call and single steps add up in another order


@pytest.mark.parametrize("name", MODELS)
def test_state_after_five_tokens(name: str) -> None:
    _, expected, ids = case(name)
    model = load_rwkv(FOLDER / name / "model.safetensors")
    state = model.new_state()
    step_by_step(model, ids[:, :5], state)
    flat = torch.cat([t[0].flatten().float() for layer in state.layers for t in layer.tensors()])
    close(flat, expected["state_after_5"], atol=5e-4)


@pytest.mark.parametrize("name", MODELS)
def test_greedy_generation(name: str) -> None:
    facts, expected, ids = case(name)
    model = load_rwkv(FOLDER / name / "model.safetensors")
    wanted = facts["greedy_16"]
    out = model.generate(ids, max_new_tokens=len(wanted), do_sample=False, eos_token_id=[])
    assert out[0, ids.shape[1] :].tolist() == wanted
    last = model(out).logits[0, -1].detach()
    close(last, expected["greedy.last_logits"])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("cut", [1, 4, 7])
def test_a_text_in_chunks_is_the_text(name: str, cut: int) -> None:
    _, expected, ids = case(name)
    model = load_rwkv(FOLDER / name / "model.safetensors")
    state = model.new_state()
    with torch.no_grad():
        parts = [model(part, state=state).logits[0] for part in ids.split(cut, dim=1)]
    close(torch.cat(parts), expected["seq.logits"])


@pytest.mark.parametrize("name", MODELS)
def test_left_padding_changes_nothing(name: str) -> None:
    _, expected, ids = case(name)
    model = load_rwkv(FOLDER / name / "model.safetensors")
    short = ids[:, 4:]
    batch = torch.cat((ids, torch.cat((torch.zeros_like(ids[:, :4]), short), 1)))
    mask = torch.ones_like(batch)
    mask[1, :4] = 0
    with torch.no_grad():
        both = model(batch, attention_mask=mask).logits
        alone = model(short).logits[0]
    close(both[0], expected["seq.logits"])
    close(both[1, 4:], alone)


@pytest.mark.parametrize("name", MODELS)
def test_training_learns_everywhere_and_checkpointing_changes_nothing(name: str) -> None:
    _, expected, ids = case(name)
    model = load_rwkv(FOLDER / name / "model.safetensors", for_training=True)
    plain = model(ids, labels=ids)
    close(plain.logits[0].detach(), expected["seq.logits"])
    plain.loss.backward()
    gradients = {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
    assert set(gradients) == {key for key, _ in model.named_parameters()}
    model.zero_grad()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model(ids, labels=ids).loss.backward()
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[key], atol=1e-6, rtol=1e-5)


# --- dtypes and strategies --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", with_strategies())
def test_int8_matrices_are_exact(name: str) -> None:
    _, expected, ids = case(name)
    model = load_rwkv(FOLDER / name / "model.safetensors", strategy="cpu fp32i8")
    mine = model.state_dict()
    kept = {key.removeprefix("fp32i8."): t for key, t in expected.items() if key.startswith("fp32i8.")}
    for key, tensor in kept.items():
        if key != "seq_logits":
            assert torch.equal(mine[key.replace(".weight_", ".")], tensor), key
    with torch.no_grad():
        close(model(ids).logits[0], kept["seq_logits"], atol=1e-3)


@pytest.mark.parametrize("name", with_strategies())
def test_bfloat16_file_and_bfloat16_strategy(name: str, tmp_path: Path) -> None:
    _, expected, ids = case(name)
    rounded = tmp_path / "model.safetensors"
    save_file({key: t.bfloat16() for key, t in load_file(FOLDER / name / "model.safetensors").items()}, rounded)
    model = load_rwkv(rounded)
    assert torch.equal(model.emb.weight, expected["bf16_checkpoint.emb_after_ln0"])
    low = load_rwkv(FOLDER / name / "model.safetensors", strategy="cpu bf16")
    with torch.no_grad():
        close(model(ids).logits[0], expected["bf16_checkpoint.seq_logits"], atol=3e-2)
        close(low(ids).logits[0].float(), expected["strategy_bf16.seq_logits"], atol=3e-2)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("strategy", ["cpu fp32 *1+", "cpu fp32 *0+", "cpu fp32 *1 -> cpu fp32"])
def test_split_and_streamed_layers_give_the_same_numbers(name: str, strategy: str) -> None:
    _, expected, ids = case(name)
    model = load_rwkv(FOLDER / name / "model.safetensors", strategy=strategy)
    with torch.no_grad():
        close(model(ids, use_cache=True).logits[0], expected["seq.logits"])


@pytest.mark.parametrize("entry", read("strategy_cases.json"), ids=lambda c: f"{c['strategy']}/{c['n_layer']}")
def test_strategy(entry: dict[str, Any]) -> None:
    if not entry["valid"]:
        with pytest.raises(InvalidRequest):
            parse_strategy(entry["strategy"], entry["n_layer"])
        return
    strategy = parse_strategy(entry["strategy"], entry["n_layer"])
    layers = []
    for plan in strategy.layers:
        dtype = str(plan.dtype).removeprefix("torch.")
        layers.append([plan.device, dtype, "uint8" if plan.int8 else dtype, plan.streamed])
    assert layers == entry["layers"]
    assert strategy.halved_every == entry["rescale_layer"]


# --- sampling ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", read("sampling_cases.json").get("sampling", []), ids=lambda c: str(c["args"]))
def test_distribution_and_draw(entry: dict[str, Any]) -> None:
    made = probabilities(np.array(entry["logits"], dtype=np.float32), **entry["args"])
    np.testing.assert_allclose(made, entry["probabilities"], atol=1e-6)
    uniform = np.random.RandomState(7).random_sample()
    assert draw(made, uniform) == entry["token_with_numpy_seed_7"]


@pytest.mark.parametrize(
    "entry", read("sampling_cases.json").get("generate_with_penalties", []), ids=lambda c: str(c["args"])
)
def test_generation_with_penalties(entry: dict[str, Any]) -> None:
    args, texts = entry["args"], read("sampling_cases.json")["toy_vocabulary"]
    sampling = RwkvSampling(
        temperature=args["temperature"],
        top_p=args["top_p"],
        presence=args["alpha_presence"],
        frequency=args["alpha_frequency"],
        decay=args.get("alpha_decay", RwkvSampling.decay),
    )
    model = load_rwkv(FOLDER / "v4" / "model.safetensors")
    penalty, state, feed, tokens = Penalty(sampling), model.new_state(), list(entry["prompt_tokens"]), []
    while len(tokens) < entry["token_count"]:
        with torch.no_grad():
            logits = model(torch.tensor([feed]), state=state).logits[0, -1].numpy().copy()
        token = sample(logits, sampling, penalty, 0.5, args.get("token_ban", ()))
        penalty.add(token, counted(texts[token]))
        tokens.append(token)
        feed = [token]
    assert tokens == entry["tokens"]


# --- tokenizers -------------------------------------------------------------------------------------------------

TOKENS = read("tokenizer_cases.json")


@pytest.fixture(scope="module")
def world() -> WorldTokenizer:
    return WorldTokenizer(packaged_world_vocabulary())


@pytest.fixture(scope="module")
def neox() -> NeoxTokenizer:
    return NeoxTokenizer()


@pytest.mark.parametrize("entry", TOKENS.get("world", []), ids=lambda c: repr(c["text"])[:30])
def test_world_text(entry: dict[str, Any], world: WorldTokenizer) -> None:
    assert world.encode(entry["text"]) == entry["ids"]
    assert world.decode_bytes(entry["ids"]).hex() == entry["utf8_hex"]
    assert world.decode(entry["ids"]) == entry["text"]


@pytest.mark.parametrize("entry", TOKENS.get("world_bytes", []), ids=lambda c: c["bytes_hex"])
def test_world_bytes(entry: dict[str, Any], world: WorldTokenizer) -> None:
    assert world.encode_bytes(bytes.fromhex(entry["bytes_hex"])) == entry["ids"]
    assert world.decode_bytes(entry["ids"]).hex() == entry["decoded_bytes_hex"]
    assert world.decode(entry["ids"]) == entry["decode"]


@pytest.mark.parametrize("entry", TOKENS.get("world_decode", []), ids=lambda c: str(c["ids"]))
def test_world_decode(entry: dict[str, Any], world: WorldTokenizer) -> None:
    assert world.decode(entry["ids"], skip_special=False) == entry["decode"]


def test_world_streaming(world: WorldTokenizer) -> None:
    pending: list[int] = []
    for token, emitted in zip(*TOKENS["world_streaming"].values(), strict=True):
        pending.append(token)
        text = world.decode(pending)
        assert (None if "\ufffd" in text else text) == emitted
        pending = [] if emitted is not None else pending


@pytest.mark.parametrize("entry", TOKENS.get("neox_20B", []), ids=lambda c: repr(c["text"])[:30])
def test_neox(entry: dict[str, Any], neox: NeoxTokenizer) -> None:
    assert neox.encode(entry["text"]) == entry["ids"]
    assert neox.decode(entry["ids"], skip_special=False) == entry["decoded"]


def test_facts_of_both_vocabularies(world: WorldTokenizer, neox: NeoxTokenizer) -> None:
    facts = TOKENS["facts"]
    assert [world.newline] == facts["newline_id"]
    assert [world.double_newline] == facts["double_newline_ids"]
    assert [neox.newline] == facts["neox_newline"]
    assert [neox.double_newline] == facts["neox_double_newline"]
    assert [neox.end_of_text] == facts["neox_endoftext"]
    for mark, ids in facts["world_avoid_repeat"].items():
        assert world.encode(mark) == ids
    for mark, ids in facts["neox_avoid_repeat"].items():
        assert neox.encode(mark) == ids
    assert not {neox.end_of_text} & set(neox.encode("<|endoftext|>"))
    assert neox.encode_opening("hi\n\n")[-2:] == [neox.newline] * 2


# --- the chat program -------------------------------------------------------------------------------------------

CHAT = read("chat_commands.json")


class ScriptedModel:
    """Says what it is told; its state is the text so far. The end of a script is the end of the text."""

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary = vocabulary
        self.script: list[int] = []

    def read(self, tokens: list[int], state: list[int] | None) -> tuple[np.ndarray, list[int]]:
        logits = np.zeros(self.vocabulary, dtype=np.float32)
        logits[self.script.pop(0) if self.script else 0] = 1000.0
        return logits, [*(state or []), *tokens]


def test_transcript_of_the_chat_program(neox: NeoxTokenizer) -> None:
    prompt = Prompt(CHAT["user"], CHAT["bot"], "An opening.\n\nBob: hi\n\nAlice: Hello.", CHAT["interface"])
    model = ScriptedModel(50277)
    session = RwkvSession(model, neox, prompt)
    opening = neox.decode(session.saved["chat_init"].tokens)
    assert opening.startswith("\n")
    assert opening.endswith("\n\n")
    assert session.saved["chat_init"].tokens[-2:] == CHAT["init_tokens_tail"][-2:]
    for entry in CHAT["log"]:
        reply = neox.encode(entry["scripted_reply"] or "")
        model.script = list(reply)
        # `+`, `++` and `+++` draw from logits that were kept: the first token of their script goes there.
        again = {"+": "chat_pre", "++": "gen_0", "+++": "gen_1"}.get(entry["message"])
        if again:
            session.saved[again].logits[:] = 0
            session.saved[again].logits[model.script.pop(0)] = 1000.0
        printed = "".join(session.say(entry["message"]))
        assert printed == entry["printed"]
        assert neox.decode(session.now.tokens).replace(opening, "{INIT}") == entry["context_after"]
        assert session.now.state == session.now.tokens
        for name, text in entry["saved"].items():
            assert neox.decode(session.saved[name].tokens).replace(opening, "{INIT}") == text, name
            assert session.saved[name].state == session.saved[name].tokens


@pytest.mark.parametrize("entry", read("refine_context.json"), ids=lambda c: repr(c["in"]))
def test_context_cleaner(entry: dict[str, str]) -> None:
    assert refine_context(entry["in"]) == entry["out"]
