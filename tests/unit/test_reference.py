"""The grammar of model names: what it takes, what it refuses, and that `str` is its inverse."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ninestory.core.errors import InvalidRequest
from ninestory.models.reference import MAX_WEIGHT, Adapter, Reference, parse_reference

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,12}", fullmatch=True).filter(
    lambda name: not name.endswith((".gguf", ".safetensors", ".pth", ".bin", ".pt"))
)
repositories = st.builds("{}/{}".format, names, names)
revisions = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,12}", fullmatch=True).filter(
    lambda text: ".." not in text and not text.endswith((".gguf", ".safetensors", ".pth", ".bin", ".pt"))
)
weights = st.floats(-MAX_WEIGHT, MAX_WEIGHT).map(lambda w: w + 0.0)
adapters = st.lists(st.builds(Adapter, names | repositories.map("hf:{}".format), weights), max_size=3).map(tuple)
variants = st.none() | names
references = st.one_of(
    st.builds(Reference, st.just("catalogue"), names, variants, st.none() | revisions, adapters),
    st.builds(Reference, st.sampled_from(["hf", "ms"]), repositories, variants, st.none() | revisions, adapters),
    st.builds(Reference, st.just("starter"), names, variants, st.none(), adapters),
    st.builds(Reference, st.just("path"), names.map("./{}.gguf".format), adapters=adapters),
    st.builds(Reference, st.sampled_from(["openai", "ft"]), st.builds("{}:{}".format, names, names), adapters=adapters),
)


@given(references)
def test_what_is_written_parses_back_to_the_same(reference: Reference) -> None:
    assert parse_reference(str(reference)) == reference


@given(st.text(max_size=60) | st.text("ab:@+=/.~\\ \n-1e", max_size=30))
def test_any_text_is_a_reference_or_a_refusal_with_a_cure(text: str) -> None:
    try:
        reference = parse_reference(text)
    except InvalidRequest as error:
        assert error.code == "bad_model_reference" and error.hint and error.hint_zh and error.param == "model"
        return
    assert parse_reference(str(reference)) == reference
    assert all(math.isfinite(adapter.weight) for adapter in reference.adapters)


@given(references)
def test_the_base_has_no_adapters_and_stays_the_same_model(reference: Reference) -> None:
    assert reference.base.adapters == ()
    assert str(reference).startswith(str(reference.base))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        ("x" * 5000, "too long"),
        ("a\nb", "control"),
        ("hf:name", "not an org/name"),
        ("hf:a/b/c", "not an org/name"),
        ("hf:../b", "not an org/name"),
        ("hf:a/..", "not an org/name"),
        ("hf:a/b:", "not a variant"),
        ("name:../x", "not a variant"),
        ("name@", "not a revision"),
        ("name@a..b", "not a revision"),
        ("name@/abs", "not a revision"),
        ("openai:", "name is empty"),
        ("ft:", "name is empty"),
        ("name+", "adapter has no name"),
        ("name+=1", "adapter has no name"),
        ("name+a=", "not a number"),
        ("name+a=x", "not a number"),
        ("name+a=nan", "not a number"),
        ("name+a=inf", "not a number"),
        ("name+a=1001", "not a number"),
        ("na me", "not a name"),
        ("名称", "not a name"),
    ],
)
def test_what_is_wrong_is_named(text: str, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        parse_reference(text)


@pytest.mark.parametrize("text", ["/m", "./m", "../m", "~/m", ".", "C:\\m", "C:/m", "m.gguf", "m.safetensors", "m.pth"])
def test_paths_are_known_by_their_look(text: str) -> None:
    assert parse_reference(f"{text}+a=0.5") == Reference("path", text, adapters=(Adapter("a", 0.5),))
