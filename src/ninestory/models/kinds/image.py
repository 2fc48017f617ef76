"""Models that see or draw: BLIP, BLIP-2, MiniGPT-4, VisualGLM, Stable Diffusion, in their releases' own layouts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ninestory.core.tasks import Task
from ninestory.models.kinds.contents import Contents, ModelKind, contents_of, is_pipeline

LOOKED_FOR = "tensors of BLIP, BLIP-2, MiniGPT-4, VisualGLM or Stable Diffusion, or a model_index.json of diffusers"

FAMILIES: Mapping[str, tuple[Task, ...]] = {
    "blip": ("caption", "match"),
    "blip2": ("caption", "match"),
    "minigpt4": ("caption",),
    "visualglm": ("caption",),
    "stable-diffusion": ("image",),
}
# Prefixes of tensors' names that a family's release has, the most particular family first: MiniGPT-4 holds BLIP-2's
# Q-Former, which holds a BERT as BLIP does.
_PREFIXES: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "stable-diffusion": (("model.diffusion_model.", "first_stage_model."),),
    "visualglm": (("mixins.eva.model.", "transformer."), ("image_encoder.", "transformer.", "lm_head.")),
    "minigpt4": (("llama_proj.",),),
    "blip2": (("Qformer.", "query_tokens"),),
    "blip": (("visual_encoder.", "text_decoder."), ("visual_encoder.", "text_encoder.")),
}
_MODEL_TYPES = {"blip": "blip", "blip-2": "blip2", "instructblip": "blip2"}


def matches(path: Path) -> bool:
    """Whether this is a model that sees or draws."""
    return bool(_family(contents_of(path)))


def describe(path: Path) -> ModelKind:
    """What a model that `matches` is."""
    contents = contents_of(path)
    family = _family(contents)
    return ModelKind(FAMILIES[family], "safetensors" if is_pipeline(path) else contents.format, family)


def _family(contents: Contents) -> str:
    """The family by config.json where that names one, else by the names of the tensors; "" for none of these."""
    if is_pipeline(contents.path):
        return "stable-diffusion"
    if contents.model_type == "chatglm" and {"eva_config", "qformer_config"} & set(contents.config):
        return "visualglm"  # which names itself after its language model
    if contents.says_what_it_is:
        return _MODEL_TYPES.get(contents.model_type, "")
    for family, layouts in _PREFIXES.items():
        if any(contents.has_tensors(*prefixes) for prefixes in layouts):
            return family
    return ""
