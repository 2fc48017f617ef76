"""Engines lent in process: by task, once a model, freed together."""

from __future__ import annotations

from pathlib import Path

import pytest

from ninestory.core.config import RuntimeSettings
from ninestory.core.errors import Unsupported
from ninestory.core.paths import Home
from ninestory.models.kinds import KINDS
from ninestory.runtimes.load import OPENERS, LocalEngines

CHAT, E5 = "starter:smollm2-135m-instruct", "starter:multilingual-e5-small"


def test_every_opener_names_a_function_that_is_there() -> None:
    import importlib

    for opener in set(OPENERS.values()) - {"ninestory.runtimes.torch.open:open_engine"}:
        module, _, name = opener.partition(":")
        assert callable(getattr(importlib.import_module(module), name)), opener
    families = {family for kind in KINDS for family in kind.FAMILIES}
    assert {family for _, family in OPENERS} <= families | {"*"}


@pytest.mark.slow
@pytest.mark.starter
def test_an_engine_is_lent_for_its_tasks_only_and_kept_until_the_end() -> None:
    with LocalEngines(Home.default(), RuntimeSettings(threads=1, slots=1, context=256)) as engines:
        with engines.get(CHAT, "chat") as first, engines.get(CHAT, "score") as second:
            assert first is second and first.info.slots == 1
        with engines.get(CHAT, "chat", overrides={"slots": 2}) as other:
            assert other is not first and other.info.slots == 2
        with engines.get(E5, "embedding") as embedder, engines.get(E5, "rerank") as judge:
            assert embedder is judge
        for reference, task in (
            (CHAT, "embedding"),
            (E5, "chat"),
            (str(Path(__file__).parents[1] / "fixtures/blip"), "chat"),
        ):
            with pytest.raises(Unsupported, match=f"cannot {task}"), engines.get(reference, task):  # type: ignore[arg-type]
                pass
