"""Properties of the tuning methods in one table, read by its preparation, the memory plan, exports and the page."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

MethodName = Literal[
    "full", "freeze", "lora", "rslora", "dora", "adalora", "ia3", "prompt", "prefix", "p_tuning_v2", "qlora"
]
Planner = Literal["full", "freeze", "low_rank", "ia3", "prompt", "prefix", "p_tuning_v2"]


@dataclass(frozen=True)
class MethodSpec:
    """Properties of one method.

    Attributes:
        planner: how its trainable parameters are counted (training/plan.py).
        peft: which peft configuration it has (training/methods.py); "" for our own methods.
        packs: rows may be packed into one line; not where keys or embeddings stand before every row.
        low_rank: it has `rank`, `alpha` and `dropout`.
        prompt_like: it trains virtual tokens, which cannot be merged into weights.
        trains_base: it changes the base's own weights instead of adding an adapter.
        quantizes_base: it packs the base's linears in NF4.
        shardable: its weights may be shared out over processes (fsdp2).
        rank_factor: initial rank over `rank` (AdaLoRA starts higher and prunes).
        inits: values of `init` that it allows beside "default".
    """

    name: str
    planner: Planner
    peft: Literal["", "lora", "adalora", "ia3", "prompt", "prefix"] = ""
    packs: bool = True
    low_rank: bool = False
    prompt_like: bool = False
    trains_base: bool = False
    quantizes_base: bool = False
    shardable: bool = False
    rank_factor: float = 1.0
    inits: tuple[str, ...] = ()

    @property
    def saves_modules(self) -> bool:
        """Whether `modules_to_save` is trained whole beside the adapter."""
        return self.peft == "lora"

    def as_dict(self) -> dict[str, Any]:
        """Plain data for the API."""
        return {**asdict(self), "saves_modules": self.saves_modules}


def _prompt_like(name: str, planner: Planner, peft: Literal["", "prompt", "prefix"] = "") -> MethodSpec:
    return MethodSpec(name, planner, peft, packs=False, prompt_like=True)


METHODS: dict[str, MethodSpec] = {
    spec.name: spec
    for spec in (
        MethodSpec("full", "full", trains_base=True, shardable=True),
        MethodSpec("freeze", "freeze", trains_base=True, shardable=True),
        MethodSpec("lora", "low_rank", "lora", low_rank=True, shardable=True, inits=("pissa",)),
        MethodSpec("rslora", "low_rank", "lora", low_rank=True, shardable=True, inits=("pissa",)),
        MethodSpec("dora", "low_rank", "lora", low_rank=True),
        MethodSpec("adalora", "low_rank", "adalora", low_rank=True, rank_factor=1.5),
        MethodSpec("ia3", "ia3", "ia3"),
        _prompt_like("prompt", "prompt", "prompt"),
        _prompt_like("prefix", "prefix", "prefix"),
        _prompt_like("p_tuning_v2", "p_tuning_v2"),
        MethodSpec("qlora", "low_rank", "lora", low_rank=True, quantizes_base=True, inits=("loftq",)),
    )
}
assert tuple(METHODS) == get_args(MethodName)
