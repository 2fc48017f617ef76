"""How much memory a tuning run will take: the formula of the training step.

Holds for `training/` with its allocator setting. benchmarks/tuning_plan.py compares it with measured peaks of every
method, on shapes that its constants were not settled on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ninestory.core.errors import NotFound
from ninestory.core.machine import FreeMemory, free_memory
from ninestory.core.paths import Home
from ninestory.models.catalogue import find
from ninestory.models.gguf_reader import read_gguf
from ninestory.models.plan import RAM, MemoryParts, MemoryPlan, make_plan
from ninestory.models.read_sizes import packing_of as packing_of_config
from ninestory.models.read_sizes import shape_of
from ninestory.models.reference import parse_reference
from ninestory.models.resolve import read_config, resolve
from ninestory.models.resolved import ResolvedModel
from ninestory.models.shapes import TIED_FAMILIES, ModelShape
from ninestory.runtimes.torch.plan import CUDA_CONTEXT_BYTES
from ninestory.training.method_spec import METHODS, MethodSpec, Planner
from ninestory.training.settings import OptimizerName

_MB = 1 << 20
IMPORT_BYTES = 400 * _MB  # torch, transformers and peft, before the model
_OVERHEAD = 25 * _MB
UNGATED = (
    "chatglm",
    "bloom",
    "codegen",
    "moss",
    "gpt2",
    "gptj",
    "gpt_neox",
    "falcon",
    "opt",
)  # two matrices a block's MLP
CHUNK = 256  # positions whose logits are alive at once (training/loss.py)
# of one packed weight, scales counted: NF4, doubly quantised in blocks of 64; GPTQ in groups of 128
_WEIGHT_BYTES = {"nf4": 4.127 / 8, "gptq": 4.16 / 8}
_WIDENED_BYTES = 6
_STATE_BYTES = {"adamw": 8, "paged_adamw_32bit": 8, "paged_adamw_8bit": 2}  # of a parameter: the optimizer's averages
# the two tables of the vocabulary, by the names that modules_to_save has for them
_EMBEDDINGS = ("embed_tokens", "word_embeddings", "wte", "embed_in")
_HEADS = ("lm_head", "embed_out")


@dataclass(frozen=True)
class TunedShape:
    """Sizes of a model that the plan needs. `tied`: its head shares the embedding's memory."""

    sizes: ModelShape
    tied: bool
    mlp_matrices: int = 3  # gate, up and down; 2 for the families in UNGATED
    packing: Literal["", "nf4", "gptq"] = ""  # of the linears on disk


@dataclass(frozen=True)
class TuningJob:
    """Settings of a run that the plan depends on.

    Attributes:
        method: its name (training/settings.py).
        tokens: of one micro-batch, of preferences both answers'; labels: of those the learned ones.
        rank, trainable_layers, virtual_tokens, modules_to_save: the method's; of the last the vocabulary's tables count.
    """

    method: str
    tokens: int
    labels: int
    rank: int = 8
    trainable_layers: int = 2
    virtual_tokens: int = 16
    checkpointing: bool = False
    modules_to_save: tuple[str, ...] = ()
    optimizer: OptimizerName = "adamw"

    @property
    def spec(self) -> MethodSpec:
        """Properties of the method."""
        return METHODS[self.method]


@dataclass(frozen=True, kw_only=True)
class TuningPlan(MemoryPlan):
    """Predicted peak of a run of one process. `trainable`: parameters that the optimizer holds."""

    job: TuningJob
    trainable: int


def plan_tuning(name: str, model: TunedShape, job: TuningJob, *, free: FreeMemory | None = None) -> TuningPlan:
    """Plan one run: in main memory, or on the first card, which is where a single process of `tune` trains.

    The figures for a card are arithmetic only: nothing could be run on one. There weights that are not packed stay in
    16 bits, the adapter and its gradients are float32, and activations are counted in float32, which is an upper
    bound. The averages of paged optimizers are counted in main memory, to which they move when the card is full.

    Args:
        free: what the devices have free; None = what this machine has now.
    """
    free = free or free_memory()
    card = next(iter(free.cards), None)
    shape = model.sizes
    linears, table = linear_parameters(model), shape.vocabulary * shape.hidden
    others = table * (1 if model.tied else 2) + shape.layers * 2 * shape.hidden + shape.hidden
    trainable = trainable_parameters(model, job)
    packing = packing_of(model, job)
    float_bytes = 2 if card else 4
    weights = int((_WEIGHT_BYTES[packing] if packing else float_bytes) * linears) + float_bytes * others
    # one weight at a time is widened for its product: its codes as int32, and its values
    widened = _WIDENED_BYTES * shape.hidden * shape.ffn if packing else 0
    averages = _STATE_BYTES[job.optimizer] * trainable
    step = MemoryParts(
        weight_bytes=weights,
        optimizer_bytes=averages + (0 if job.spec.trains_base else 4 * trainable),
        activation_bytes=_activations(model, job, trainable) + widened,
    )
    process = IMPORT_BYTES + _OVERHEAD
    if card is None:
        needs, notes = {RAM: replace(step, process_bytes=process)}, []
    else:
        paged = averages if job.optimizer != "adamw" else 0
        needs = {
            RAM: MemoryParts(process_bytes=process, optimizer_bytes=paged, activation_bytes=float_bytes * table),
            card: replace(step, process_bytes=CUDA_CONTEXT_BYTES, optimizer_bytes=step.optimizer_bytes - paged),
        }
        notes = [f"figures for {card} are arithmetic, not measured"]
    return make_plan(TuningPlan, free, needs, model=name, job=job, trainable=trainable, notes=notes)


def nearest_that_fits(
    name: str, model: TunedShape, job: TuningJob, *, free: FreeMemory | None = None
) -> TuningPlan | None:
    """Find the smallest change that fits: fewer tokens at once, recomputed activations, then a smaller method.

    `free` is as in `plan_tuning`.
    """
    free = free or free_memory()
    smaller = [dataclasses.replace(job, tokens=n, labels=max(1, job.labels * n // job.tokens))
               for n in (job.tokens // 2, job.tokens // 4, job.tokens // 8) if n >= 64]  # fmt: skip
    recomputed = [dataclasses.replace(j, checkpointing=True) for j in (job, *smaller) if job.method != "prefix"]
    lora = [dataclasses.replace(j, method="lora") for j in recomputed if job.method == "full"]
    packed = [dataclasses.replace(j, method="qlora") for j in recomputed if job.method in ("full", "lora", "freeze")]
    plans = (plan_tuning(name, model, j, free=free) for j in (*smaller, *recomputed, *lora, *packed))
    return next((plan for plan in plans if plan.fits), None)


def trainable_parameters(model: TunedShape, job: TuningJob) -> int:
    """Number of parameters that the optimizer holds."""
    shape = model.sizes
    hidden, kv, ffn = shape.hidden, shape.kv_heads * shape.head_dim, shape.ffn
    per_block = linear_parameters(model) // shape.layers + 2 * hidden
    low_rank = job.rank * (2 * (hidden + hidden) + 2 * (hidden + kv) + model.mlp_matrices * (hidden + ffn))
    table = shape.vocabulary * hidden
    counts: dict[Planner, int] = {
        "full": shape.layers * per_block + hidden + table * (1 if model.tied else 2),
        "freeze": job.trainable_layers * per_block,
        "low_rank": int(shape.layers * low_rank * job.spec.rank_factor) + sum(trained_tables(model, job)) * table,
        "ia3": shape.layers * (2 * kv + ffn),
        "prompt": job.virtual_tokens * hidden,
        "prefix": job.virtual_tokens * 2 * shape.layers * kv,
        "p_tuning_v2": job.virtual_tokens * 2 * shape.layers * hidden,
    }
    return counts[job.spec.planner]


def trained_tables(model: TunedShape, job: TuningJob) -> tuple[int, int]:
    """Whether embedding and head are trained whole beside LoRA, 0 or 1 each; a shared table is the head's."""
    saved = job.modules_to_save if job.spec.saves_modules else ()
    embedding = any(name in _EMBEDDINGS for name in saved)
    head = any(name in _HEADS for name in saved)
    if model.tied:
        return (0, int(embedding or head))
    return (int(embedding), int(head))


def _activations(model: TunedShape, job: TuningJob, trainable: int) -> int:
    """Bytes beside weights and optimizer at the peak of a step."""
    shape = model.sizes
    tokens, hidden = job.tokens, shape.hidden
    layers = job.trainable_layers if job.method == "freeze" else shape.layers
    layer = 4 * tokens * _saved_floats(model, job)
    saved = 4 * tokens * hidden * layers if job.checkpointing else layers * layer
    chunk = min(CHUNK, job.labels) * 4 * shape.vocabulary + 8 * job.labels * hidden
    trains_head = job.method == "full" or trained_tables(model, job)[1]
    head = 4 * shape.vocabulary * hidden if trains_head else 0
    inside = 12 * tokens * shape.ffn + _dense_bytes(model, job)  # of the layer that is worked on
    forward = saved + chunk + head
    backward = saved + (layer if job.checkpointing else 0) + 2 * head + inside
    update = 4 * trainable + 2 * max(head, 4 * hidden * shape.ffn if job.spec.trains_base else 0)
    return max(forward, backward, update)


def _saved_floats(model: TunedShape, job: TuningJob) -> int:
    """Floats that one token saves for the backward pass in one block."""
    shape, gated = model.sizes, model.mlp_matrices == 3
    hidden, kv, ffn = shape.hidden, shape.kv_heads * shape.head_dim, shape.ffn
    # both residuals, the query and the attention's output; key and value; what the MLP's activation needs
    floats = 4 * hidden + 2 * kv + (3 if gated else 1) * ffn
    if job.spec.low_rank or job.spec.trains_base:  # the inputs of every product that has a trained side
        floats += 3 * hidden + ffn
    if job.spec.low_rank:
        floats += 7 * int(job.rank * job.spec.rank_factor)
    if job.spec.trains_base:  # the norms' own weights
        floats += 2 * hidden
    if job.method == "dora":  # what base and adapter give, of every linear
        floats += 2 * (3 * hidden + 2 * kv + (model.mlp_matrices - 1) * ffn)
    if job.method == "ia3":  # what is scaled
        floats += 2 * kv + ffn
    if not job.spec.packs:  # with a mask, shared keys and values are repeated for every head
        floats += 2 * hidden
    return floats


def _dense_bytes(model: TunedShape, job: TuningJob) -> int:
    """DoRA's norm is that of the merged weight: unit matrix, product and sum stand whole for one linear at a time."""
    shape = model.sizes
    return 4 * (shape.ffn * shape.ffn + 3 * shape.hidden * shape.ffn) if job.method == "dora" else 0


def packing_of(model: TunedShape, job: TuningJob) -> Literal["", "nf4", "gptq"]:
    """Packing of the linears in memory: as on disk, or by the method."""
    return "nf4" if job.spec.quantizes_base and not model.packing else model.packing


def linear_parameters(model: TunedShape) -> int:
    """Weights of all blocks' linears."""
    shape = model.sizes
    width = (shape.heads or 1) * shape.head_dim
    attention = 2 * shape.hidden * width + 2 * shape.hidden * shape.kv_heads * shape.head_dim
    return shape.layers * (attention + model.mlp_matrices * shape.hidden * shape.ffn)


def tuning_plans_for(reference: str, jobs: Sequence[TuningJob], home: Home) -> list[TuningPlan]:
    """The plan of each tuning job on one model, which need not be installed when the catalogue states its shape.

    Raises:
        NotFound: neither installed, nor is a shape stated.
    """
    shape, free = _shape_by_reference(reference, home), free_memory()
    return [plan_tuning(reference, shape, job, free=free) for job in jobs]


def _shape_by_reference(reference: str, home: Home) -> TunedShape:
    """Shape from the model's files, else from the catalogue."""
    ref = parse_reference(reference)
    try:
        shape = tuned_shape(resolve(ref, home))
    except NotFound:
        if ref.scheme != "catalogue":
            raise
        system = find(ref.source)
        shapes = [v.shape for v in system.variants if ref.quant in (None, v.name) and v.shape]
        matrices = 2 if system.family in UNGATED else 3
        shape = TunedShape(shapes[0], system.family in TIED_FAMILIES, matrices) if shapes else None
    if shape is None:
        raise NotFound(
            f"The shape of {reference} is unknown.",
            hint="Pull it, or plan a checkpoint folder by its path.",
            hint_zh="请先下载，或用路径指定检查点目录。",
            param="model",
        )
    return shape


def tuned_shape(model: ResolvedModel) -> TunedShape | None:
    """Read a model's shape from its own header or config; None when it states none."""
    sizes = shape_of(model)
    if sizes is None or model.path is None:
        return None
    if model.format == "gguf":
        tied = "output.weight" not in read_gguf(model.path).tensors
    else:
        default = model.architecture in TIED_FAMILIES
        tied = bool(read_config(model.path).get("tie_word_embeddings", default))
    return TunedShape(sizes, tied, 2 if model.architecture in UNGATED else 3, _packing(model))


def _packing(model: ResolvedModel) -> Literal["", "nf4", "gptq"]:
    """Packing of the linears on disk, by the config."""
    if model.path is None or model.format == "gguf":
        return ""
    packing = packing_of_config(read_config(model.path))
    return packing if packing in ("nf4", "gptq") else ""
