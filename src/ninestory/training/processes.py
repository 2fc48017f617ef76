"""Data-parallel processes of one run, started by torchrun or accelerate.

    torchrun --nproc-per-node 2 -m ninestory tune run RECIPE.yaml

Every process knows the whole plan, so a step's label count needs no message. `ddp`: each holds the whole model, and
after the backward pass one flat sum goes round. `fsdp2`: each holds a share of every weight (torch's `fully_shard`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, distribute_tensor

from ninestory.core.errors import Unsupported
from ninestory.training.method_spec import METHODS
from ninestory.training.methods import AdaptedModel, blocks_of

Item = TypeVar("Item")
_PATIENCE = timedelta(hours=12)  # the first process measures the base while the others wait


@dataclass(frozen=True)
class Processes:
    """One of `world` processes; the first writes the log, the checkpoints and the result."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, items: Sequence[Item], rank: int | None = None) -> Sequence[Item]:
        """Return every `world`-th item: the share of this process, or of `rank`."""
        return items[self.rank if rank is None else rank :: self.world]

    def wait(self) -> None:
        """Wait until every process has called this."""
        if self.world > 1:
            dist.barrier()

    def all_reduce(self, parameters: Iterable[torch.nn.Parameter], loss: float) -> float:
        """Sum gradients and loss over all processes in one message; return the summed loss."""
        if self.world == 1:
            return loss
        owners = list(parameters)
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in owners]
        flat = torch.cat([*(grad.flatten() for grad in grads), torch.tensor([loss], device=own_device())])
        dist.all_reduce(flat)
        start = 0
        for parameter in owners:
            parameter.grad = flat[start : start + parameter.numel()].view_as(parameter)
            start += parameter.numel()
        return float(flat[-1])


SINGLE_PROCESS = Processes()


def join() -> Processes:
    """Join the process group that torchrun opened; without one, return the single process."""
    if "RANK" not in os.environ or os.environ.get("WORLD_SIZE", "1") == "1":
        return SINGLE_PROCESS
    if not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=_PATIENCE)
    return Processes(dist.get_rank(), dist.get_world_size())


def own_device() -> str:
    """Return the device of this process: the CUDA card of its local rank, else the CPU."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"


def shard(adapted: AdaptedModel, processes: Processes) -> None:
    """Shard every weight over the processes, block by block (FSDP2); `adapted.trainable` then holds the shards.

    Raises:
        Unsupported: a method whose parameters are changed from outside the backward pass, or packed weights.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if not adapted.method.spec.shardable:
        shardable = ", ".join(spec.name for spec in METHODS.values() if spec.shardable)
        raise Unsupported(
            f"method.name is {adapted.method.name}; fsdp2 expects one of {shardable}.",
            hint="Set train.parallel to ddp.",
            hint_zh="请将 train.parallel 设为 ddp。",
            param="train.parallel",
        )
    module: Any = adapted.module
    mesh = init_device_mesh(next(module.parameters()).device.type, (processes.world,))
    base = module.get_base_model() if hasattr(module, "get_base_model") else module
    for block in blocks_of(base)[1]:
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)
    adapted.trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}


def full_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """Gather a tensor that may be sharded; every process has to call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_like(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Shard full `values` as `like` is; return them unchanged if it is not sharded."""
    if not isinstance(like, DTensor):
        return values
    return distribute_tensor(values.to(like.device), like.device_mesh, like.placements)
