"""What to do when a device runs out of memory: halve the batch once, say so, and give up clearly the second time."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import TypeVar

from persona_assets.errors import PersonaAssetsError

LOGGER = logging.getLogger("persona_assets.memory")
ResultT = TypeVar("ResultT")


class DeviceMemoryError(PersonaAssetsError):
    """The device has too little memory for what it was asked to do."""


class HalvingBatch:
    """A batch size that is halved once when the device runs out of memory.

    Attributes:
        size: rows of a batch, at most.
        halved: whether the device ran out of memory before; kept by whoever uses it for later work too.
    """

    def __init__(self, size: int, field: str, advice: str) -> None:
        """Begin with a size.

        Args:
            size: rows of a batch, at most.
            field: the profile's field that it comes from.
            advice: what else helps, beside a smaller size.
        """
        self.size = size
        self.halved = False
        self._field = field
        self._advice = advice

    def attempt(self, work: Callable[[int], ResultT]) -> ResultT:
        """Run `work` on the size; when memory runs out once more on half of it.

        Args:
            work: leaves nothing behind when it raises, since it is called again.

        Raises:
            DeviceMemoryError: memory ran out and the size was halved before, or is 1.
        """
        import torch

        try:
            return work(self.size)
        except torch.OutOfMemoryError as error:
            said = str(error).split("\n")[0]
        # Outside of the except block, whose error keeps the tensors of the failed attempt alive.
        if self.halved or self.size == 1:
            again = " again, after it was halved once" if self.halved else ""
            raise DeviceMemoryError(
                f"The device ran out of memory with {self._field} {self.size}{again}. Lower it in the profile; {self._advice}. "
                f"({said})"
            )
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        before, self.size, self.halved = self.size, self.size // 2, True
        LOGGER.warning(
            "The device ran out of memory with %s %d: going on with %d. Set it in the profile, to save the attempt. (%s)",
            self._field,
            before,
            self.size,
            said,
        )
        return self.attempt(work)
