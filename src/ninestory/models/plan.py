"""The predicted memory of a model, device by device: plain data, and the one place where it is put together.

Main memory is a device like each card is. The arithmetic is each runtime's own (`runtimes/<name>/plan.py`), and that
of tuning is `training/plan.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ninestory.core.machine import FreeMemory

RAM = "ram"
_PARTS = ("process_bytes", "weight_bytes", "cache_bytes", "activation_bytes", "optimizer_bytes")


@dataclass(frozen=True, kw_only=True)
class MemoryParts:
    """Bytes that a model takes on one device.

    Attributes:
        process_bytes: of the process before it opens a model; on a card, the CUDA context.
        activation_bytes: what a forward or training step holds beside weights and cache, and buffers of loading.
    """

    process_bytes: int = 0
    weight_bytes: int = 0
    cache_bytes: int = 0
    activation_bytes: int = 0
    optimizer_bytes: int = 0

    @property
    def needed_bytes(self) -> int:
        return sum(getattr(self, part) for part in _PARTS)


@dataclass(frozen=True, kw_only=True)
class DeviceMemory(MemoryParts):
    """One device of a plan.

    Attributes:
        device: "ram", or a card by torch's name ("cuda:0").
        name: of the card, as its driver says; "" for main memory.
    """

    device: str
    name: str = ""
    free_bytes: int

    @property
    def fits(self) -> bool:
        return self.needed_bytes <= self.free_bytes

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON data, with the sum and the verdict."""
        return {**dataclasses.asdict(self), "needed_bytes": self.needed_bytes, "fits": self.fits}


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """A predicted peak. Its parts are sums over devices; `available_bytes` is what main memory has free.

    Attributes:
        devices: main memory first, then every card, also one that is not used.
        notes: what the figures leave out, or rest on.
    """

    model: str
    devices: list[DeviceMemory]
    notes: list[str] = field(default_factory=list)

    @property
    def process_bytes(self) -> int:
        return sum(device.process_bytes for device in self.devices)

    @property
    def weight_bytes(self) -> int:
        return sum(device.weight_bytes for device in self.devices)

    @property
    def cache_bytes(self) -> int:
        return sum(device.cache_bytes for device in self.devices)

    @property
    def activation_bytes(self) -> int:
        return sum(device.activation_bytes for device in self.devices)

    @property
    def optimizer_bytes(self) -> int:
        return sum(device.optimizer_bytes for device in self.devices)

    @property
    def total_bytes(self) -> int:
        return sum(device.needed_bytes for device in self.devices)

    @property
    def available_bytes(self) -> int:
        return self.devices[0].free_bytes

    @property
    def fits(self) -> bool:
        return all(device.fits for device in self.devices)

    @property
    def lacking(self) -> DeviceMemory:
        """The device that lacks most, or has least to spare."""
        return max(self.devices, key=lambda device: device.needed_bytes - device.free_bytes)

    @property
    def needed(self) -> dict[str, int]:
        """Bytes needed of each device that is used."""
        return {device.device: device.needed_bytes for device in self.devices if device.needed_bytes}

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON data: fields, parts, sums and the devices."""
        own = {name: value for name, value in dataclasses.asdict(self).items() if name != "devices"}
        parts = {part: getattr(self, part) for part in _PARTS}
        sums = {"total_bytes": self.total_bytes, "available_bytes": self.available_bytes, "fits": self.fits}
        return {**own, **parts, **sums, "devices": [device.as_dict() for device in self.devices]}


@dataclass(frozen=True, kw_only=True)
class Plan(MemoryPlan):
    """The predicted peak of a model that answers requests."""

    runtime: str
    context: int
    slots: int


P = TypeVar("P", bound=MemoryPlan)


def make_plan(cls: type[P], free: FreeMemory, needs: Mapping[str, MemoryParts], **fields: Any) -> P:
    """Put a plan together.

    Args:
        needs: device → what is needed of it; devices that are left out need nothing.
        fields: the plan's own (model, runtime, notes, …).
    """
    nothing = MemoryParts()

    def device(name: str, title: str, free_bytes: int) -> DeviceMemory:
        return DeviceMemory(
            device=name, name=title, free_bytes=free_bytes, **dataclasses.asdict(needs.get(name, nothing))
        )

    cards = [device(name, card.name, card.free_bytes) for name, card in free.cards.items()]
    return cls(devices=[device(RAM, "", free.ram_bytes), *cards], **fields)


def largest_that_fits(plans: Sequence[Plan]) -> Plan | None:
    """Of several variants the largest that fits."""
    return max((p for p in plans if p.fits), key=lambda p: p.weight_bytes, default=None)
