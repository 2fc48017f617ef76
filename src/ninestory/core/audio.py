"""Sound as the speech floors exchange it: mono float32 samples with their rate. Decoding of files is the runtimes'."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Waveform:
    """One channel of sound.

    Attributes:
        samples: shape (n,), float32 in [-1, 1].
        sample_rate: samples per second (Hz).
    """

    samples: npt.NDArray[np.float32]
    sample_rate: int

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.sample_rate

    def pcm16(self) -> bytes:
        """The samples as little-endian signed 16-bit integers, clipped to the range."""
        import numpy as np

        return (np.clip(self.samples, -1.0, 1.0) * 32767.0).round().astype("<i2").tobytes()
