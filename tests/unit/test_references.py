"""serving/references.py: a request names models, not files of the server's machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ninestory.core.errors import Forbidden
from ninestory.core.paths import Home
from ninestory.models.reference import parse_reference
from ninestory.serving.references import REFERENCE_PATTERN, requested


@pytest.mark.parametrize(
    "reference",
    [
        "/etc/passwd",
        "../../etc/x.gguf",
        "./x.gguf",
        "~/.ssh/id_rsa",
        "~nobody/x.gguf",
        "starter:smollm2-135m-instruct+/etc",
        "starter:smollm2-135m-instruct+../../../etc",
        "starter:smollm2-135m-instruct+..",
        "starter:smollm2-135m-instruct+~root",
        "{home}/models/../../x.gguf",
        "{home}/link/x.gguf",
    ],
)
def test_files_elsewhere_are_refused(tmp_path: Path, reference: str) -> None:
    home = Home(tmp_path / "home").ensure()
    (home.root / "link").symlink_to(tmp_path)
    with pytest.raises(Forbidden, match="outside its home"):
        requested(reference.format(home=home.root), home)


@pytest.mark.parametrize(
    "reference",
    [
        "chatglm-6b:int4",
        "starter:smollm2-135m-instruct+law=0.5",
        "{home}/models/x.gguf",
        "hf:a/b+{home}/runs/r/adapter",
    ],
)
def test_names_and_files_of_the_home_pass(tmp_path: Path, reference: str) -> None:
    home = Home(tmp_path / "home").ensure()
    requested(reference.format(home=home.root), home)


def test_what_the_operator_preloads_passes(tmp_path: Path) -> None:
    elsewhere = str(tmp_path / "x.gguf")
    assert requested(elsewhere, Home(tmp_path / "home"), [elsewhere]).source == elsewhere


@settings(max_examples=40)
@given(st.from_regex(REFERENCE_PATTERN, fullmatch=True))
def test_what_the_document_allows_is_a_reference(text: str) -> None:
    parse_reference(text)
