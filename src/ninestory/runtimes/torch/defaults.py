"""How a model is sampled when the request leaves it open: the catalogue, then the checkpoint, then ours."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ninestory.models.catalogue import load_catalogue
from ninestory.models.resolved import ResolvedModel
from ninestory.runtimes.protocol import Sampling
from ninestory.runtimes.torch.sampling import Rule

_NAMES = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
_NOTHING_CUT = Rule(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0)


def default_rule(model: ResolvedModel) -> Rule:
    """The first source that says how to sample says all of it: what it does not name is off."""
    system = load_catalogue().get(model.system or "")
    for source in (system.generation if system else {}, _generation_config(model.path)):
        if rule := _stated(source):
            return rule
    return Rule()


def settled(sampling: Sampling, default: Rule) -> Rule:
    """The request's values, the default's where it has none."""
    given = {name: value for name in _NAMES if (value := getattr(sampling, name)) is not None}
    return dataclasses.replace(
        default,
        **given,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        logit_bias=sampling.logit_bias,
    )


def _stated(source: Mapping[str, Any]) -> Rule | None:
    if source.get("do_sample") is False:
        return dataclasses.replace(_NOTHING_CUT, temperature=0.0)
    named = {name: source[name] for name in _NAMES if isinstance(source.get(name), int | float)}
    return dataclasses.replace(_NOTHING_CUT, **named) if named else None


def _generation_config(path: Path | None) -> dict[str, Any]:
    file = path / "generation_config.json" if path is not None and path.is_dir() else None
    if file is None or not file.is_file():
        return {}
    data = json.loads(file.read_text(encoding="utf-8"))
    return data if isinstance(data, dict) else {}
