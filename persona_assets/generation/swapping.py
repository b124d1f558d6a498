"""Adapters swapped on one loaded model: base weights plus adapter in memory, as merging would write them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from persona_assets.generation.engine import EngineError
from persona_assets.models.merging import MergeError, check_adapter_fits

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class AdapterSwapper:
    """Puts one adapter after another into a model's weights, and takes it out again to the bit.

    The sum is peft's own merge, so completions are those of the merged checkpoint in the same precision. While an
    adapter is in, the weights that it changed are held twice.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        """Take the loaded base model; it is changed only inside `attached`."""
        self._model = model
        self._attached: Path | None = None

    @contextmanager
    def attached(self, adapter: Path | None) -> Iterator[None]:
        """Have an adapter in force for a while; None is the base model.

        Raises:
            EngineError: the adapter does not fit the base model, or another generation still goes on.
        """
        if self._attached is not None:
            raise EngineError(
                f"The adapter {self._attached} is still in force: read a generation to its end before the next one starts."
            )
        if adapter is None:
            yield
            return
        try:
            check_adapter_fits(self._model, adapter)
        except MergeError as error:
            raise EngineError(str(error)) from error
        self._attached = adapter
        # References, not copies: merging safely gives a layer new weights and leaves the old tensor as it is.
        before = {name: parameter.data for name, parameter in self._model.named_parameters()}
        try:
            self._merge(adapter)
            yield
        finally:
            for name, parameter in self._model.named_parameters():
                parameter.data = before[name]
            self._attached = None

    def _merge(self, adapter: Path) -> None:
        from peft import PeftModel

        PeftModel.from_pretrained(self._model, str(adapter)).merge_and_unload(safe_merge=True)
        self._model.train(False)
