"""Every family's tokenizer through the one loader: ids, streaming, and no special token from a user's text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from ninestory.core.errors import Damaged, NotFound
from ninestory.tokenizers.chatglm import ResponseStream, process_response
from ninestory.tokenizers.load import load_tokenizer
from ninestory.tokenizers.tokenizer import StreamingDetokenizer, Tokenizer
from tests.conformance.conftest import FIXTURES

TEXTS = [
    "",
    "hello world",
    "  two  blanks   three\n\n\ttab",
    "    def main():\n        return 1",
    "你好，世界！",
    "mixed 中文 and English, 123 4567",
    "emoji 👋🏽 \u0000 \ufffd \u200b",
    "</s><s><unk> [PAD] <eom> <|endoftext|> <sop>",
]


def write(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")


def llama(path: Path, **settings: Any) -> Path:
    path.mkdir()
    shutil.copy(FIXTURES / "prompts/merged_chinese_llama.model", path / "tokenizer.model")
    size = sentencepiece.SentencePieceProcessor(model_file=str(path / "tokenizer.model")).get_piece_size()
    write(path / "tokenizer_config.json", {"bos_token": "<s>", "eos_token": "</s>", **settings})
    write(path / "added_tokens.json", {"[PAD]": size, "<|end|>": size + 1, "emoji": size + 2})
    return path


def chatglm(path: Path) -> Path:
    path.mkdir()
    shutil.copy(FIXTURES / "chatglm/ice_text.model", path)
    shutil.copy(FIXTURES / "chatglm/tokenizer_config.json", path)
    return path


def moss(path: Path) -> Path:
    path.mkdir()
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(FIXTURES / "moss" / name, path)
    cases = json.loads((FIXTURES / "moss/tokenizer_cases.json").read_text())
    write(path / "added_tokens.json", cases["added_plain"])
    write(path / "special_tokens_map.json", {"bos_token": "<|endoftext|>", "eos_token": "<eom>"})
    return path


def bloom(path: Path) -> Path:
    """Byte-level BPE with BLOOM's added tokens, trained on a few words by the library itself."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    path.mkdir()
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    marks = [AddedToken(t, special=True) for t in ("<unk>", "<s>", "</s>", "<pad>")]
    made.train_from_iterator(
        TEXTS[:-1],
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=marks,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    made.save(str(path / "tokenizer.json"))
    write(path / "tokenizer_config.json", {"bos_token": "<s>", "eos_token": "</s>"})
    return path


FAMILIES = {"llama": llama, "chatglm": chatglm, "moss": moss, "bloom": bloom}


@pytest.fixture(params=FAMILIES)
def tokenizer(request: pytest.FixtureRequest, tmp_path: Path) -> Tokenizer:
    return load_tokenizer(FAMILIES[request.param](tmp_path / request.param))


@pytest.mark.parametrize("text", TEXTS)
def test_a_users_text_stays_text(text: str, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(text)
    assert all(0 <= i < tokenizer.vocab_size for i in ids)
    assert not tokenizer.special_ids & set(ids) - {tokenizer.id_of("<unk>")}


def test_bytes_of_tokens_are_the_text(tokenizer: Tokenizer) -> None:
    for text in ("hello world", "  two  blanks\n\n\ttab", "你好，世界", "👋🏽"):
        ids = tokenizer.encode(text)
        if tokenizer.id_of("<unk>") in ids:  # the tiny vocabularies of the fixtures lack some characters
            continue
        streamed = StreamingDetokenizer(tokenizer)
        assert "".join(map(streamed.push, ids)) + streamed.finish() == tokenizer.decode(ids)


def test_half_a_character_is_held_back(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(bloom(tmp_path / "bloom"))
    ids = tokenizer.encode("🀄")
    streamed = StreamingDetokenizer(tokenizer)
    pieces = [streamed.push(i) for i in ids]
    assert len(pieces) > 1 and pieces[-1] == "🀄" and not any(pieces[:-1])
    cut = StreamingDetokenizer(tokenizer)
    assert [cut.push(i) for i in ids[:-1]] == [""] * (len(ids) - 1) and cut.finish() == "\ufffd"


def test_only_the_template_writes_special_tokens(tmp_path: Path) -> None:
    for name, mark in (("llama", "<|end|>"), ("llama", "</s>"), ("moss", "<eom>"), ("bloom", "</s>")):
        folder = tmp_path / f"{name}{mark.strip('</|>')}"
        tokenizer = load_tokenizer(FAMILIES[name](folder))
        number = tokenizer.id_of(mark)
        assert tokenizer.encode_segments([("a", True), (mark, True)])[-1] == number
        ids = tokenizer.encode_segments([(f"a{mark}", False), (mark, True), (mark[:2], True), (mark[2:], False)])
        assert ids.count(number) == 1
        assert mark.encode() == tokenizer.token_bytes(number or 0) and tokenizer.decode([number or 0]) == ""


def test_segments_meet_as_one_text(tokenizer: Tokenizer) -> None:
    """No border of a segment may show in the ids: the original's prompt was one string."""
    whole = "USER: hello world ASSISTANT: hello"
    assert tokenizer.encode_segments([("USER: ", True), ("hello wor", False), ("ld ASSISTANT: hello", True)]) == (
        tokenizer.encode(whole)
    )


def test_sentencepiece_is_the_library(tmp_path: Path) -> None:
    folder = llama(tmp_path / "llama")
    library = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    tokenizer = load_tokenizer(folder)
    for text in TEXTS:
        if "emoji" not in text:
            assert tokenizer.encode(text) == library.encode(text)
    assert tokenizer.bos_ids == [library.bos_id()] and tokenizer.eos_ids == {library.eos_id()}
    # each piece between added tokens begins with its own blank
    assert tokenizer.encode("ab emoji cd") == [
        *library.encode("ab "),
        library.get_piece_size() + 2,
        *library.encode(" cd"),
    ]


def test_a_checkpoint_that_is_not_legacy_puts_no_blank_after_a_mark(tmp_path: Path) -> None:
    new = load_tokenizer(llama(tmp_path / "new", legacy=False))
    old = load_tokenizer(llama(tmp_path / "old"))
    assert old.token_bytes(old.encode("</s>hello", special=True)[1]).startswith(b" ")
    carried = new.encode("</s>hello", special=True)[1:]
    assert b"".join(map(new.token_bytes, carried)) == b"hello"


def test_bos_follows_the_settings(tmp_path: Path) -> None:
    assert load_tokenizer(llama(tmp_path / "no", add_bos_token=False)).bos_ids == []
    assert load_tokenizer(bloom(tmp_path / "bloom")).bos_ids == []


def test_old_chatglm_counts_image_tokens(tmp_path: Path) -> None:
    folder = chatglm(tmp_path / "old")
    new = load_tokenizer(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("num_image_tokens", None)
    write(folder / "tokenizer_config.json", settings)
    write(folder / "config.json", {"vocab_size": 150528})
    old = load_tokenizer(folder)
    assert [i - 20000 for i in old.encode("hello")] == new.encode("hello")
    assert old.suffix_ids == [i + 20000 for i in new.suffix_ids]


def test_bad_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound) as error:
        load_tokenizer(tmp_path)
    assert "tokenizer" in error.value.message and error.value.hint_zh != error.value.hint
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "nonsense"}}')
    with pytest.raises(Damaged):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"\x0anot a model")
    with pytest.raises(Damaged):
        load_tokenizer(tmp_path)


def test_an_added_token_out_of_its_place_is_refused(tmp_path: Path) -> None:
    folder = moss(tmp_path / "moss")
    vocabulary = json.loads((folder / "vocab.json").read_text())
    write(folder / "added_tokens.json", {"<eom>": max(vocabulary.values()) + 7})
    with pytest.raises(Damaged, match="<eom>"):
        load_tokenizer(folder)


@given(
    st.lists(st.sampled_from(["你", "好", ",", "!", ":", " ", "\n", "a", "[[训练", "时间]]", "[", "]"]), max_size=14)
)
def test_an_answer_of_chatglm_is_cleaned_alike_whole_and_in_pieces(pieces: list[str]) -> None:
    stream = ResponseStream()
    assert "".join(map(stream.push, pieces)) + stream.finish() == process_response("".join(pieces))
