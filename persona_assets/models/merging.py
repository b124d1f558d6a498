"""Merge an adapter into its base model, and prove from the files written that they are base plus adapter."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from persona_assets.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from persona_assets.errors import PersonaAssetsError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


# Copied byte for byte from the base, so that base and merged models share one chat template digest.
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


class MergeError(PersonaAssetsError):
    """An adapter that does not fit its base, or a merge that did not come out as base plus adapter."""


@dataclass(frozen=True)
class Tolerance:
    """How far the logits of a merged model may be from those of base and adapter side by side.

    Attributes:
        relative: largest allowed absolute difference, as a share of the largest absolute logit.
        agreement: smallest allowed share of positions with the same most likely token.
    """

    relative: float
    agreement: float


# Merging rounds each weight once to the base's precision, where base plus adapter rounds activations instead.
TOLERANCES = {
    "float32": Tolerance(relative=1e-4, agreement=0.99),
    "bfloat16": Tolerance(relative=5e-2, agreement=0.9),
    "float16": Tolerance(relative=1e-2, agreement=0.95),
}


@dataclass(frozen=True)
class MergeReport:
    """What the comparison on the probe prompts found; differences are in logits.

    Attributes:
        n_positions: token positions compared.
        n_merged_modules: linear layers whose weights the adapter changed.
        max_abs_difference: between the written checkpoint, read back, and base plus adapter.
        allowed_difference: what the tolerance of the precision allows.
        argmax_agreement: share of positions with the same most likely token.
        adapter_effect: largest absolute difference between base plus adapter and base alone: what the adapter
            does on these prompts, to be seen beside the error.
    """

    n_positions: int
    n_merged_modules: int
    max_abs_difference: float
    allowed_difference: float
    argmax_agreement: float
    adapter_effect: float


class AdapterMerger:
    """Merges one adapter after another into a base model that is loaded once and never changed."""

    def __init__(
        self,
        base_checkpoint: Path,
        *,
        probe_prompts: Sequence[tuple[str, str]],
        dtype: str = "float32",
        device: str = "cpu",
    ) -> None:
        """Load the base model and compute its logits on the probe prompts.

        Args:
            base_checkpoint: checkpoint directory of the base model.
            probe_prompts: (system, user) messages to compare logits on.
            dtype: precision the weights are merged and written in.
            device: torch device.

        Raises:
            MergeError: no probe prompt, or a precision without a tolerance.
        """
        from persona_assets.models.loading import load_model, load_tokenizer, render_prompt

        if not probe_prompts:
            raise MergeError("A merge is verified on probe prompts, and none was given.")
        if dtype not in TOLERANCES:
            raise MergeError(f"dtype: no merge tolerance for {dtype!r}; there are: {', '.join(TOLERANCES)}.")
        self._base_checkpoint = base_checkpoint
        self._dtype = dtype
        self._device = device
        self._base: PreTrainedModel = load_model(base_checkpoint, device=device, dtype=dtype)
        tokenizer = load_tokenizer(base_checkpoint)
        self._probes = [render_prompt(tokenizer, system, user) for system, user in probe_prompts]
        self._base_logits = _logits(self._base, self._probes)

    def merge(self, adapter_dir: Path, out_dir: Path) -> MergeReport:
        """Write base plus adapter as an ordinary checkpoint directory, and verify what was written.

        Args:
            adapter_dir: directory with peft's adapter_config.json and adapter_model.safetensors.
            out_dir: directory for the checkpoint; it must be absent or empty.

        Raises:
            MergeError: the adapter does not fit the base, `out_dir` is not empty, or the checkpoint read back
                does not give the logits of base plus adapter (it is left there for inspection).
        """
        from persona_assets.models.loading import load_model

        if out_dir.exists() and any(out_dir.iterdir()):
            raise MergeError(f"{out_dir}: is not empty; a merged model is written into an empty directory.")
        n_modules, expected, merged = self._merged(adapter_dir)
        merged.save_pretrained(out_dir)
        for name in _TOKENIZER_FILES:
            if (self._base_checkpoint / name).is_file():
                shutil.copyfile(self._base_checkpoint / name, out_dir / name)
        del merged
        observed = _logits(load_model(out_dir, device=self._device, dtype=self._dtype), self._probes)
        report = self._compare(expected, observed, n_modules)
        self._judge(report, adapter_dir)
        return report

    def check(self, adapter_dir: Path) -> MergeReport:
        """Merge in memory alone, and verify what came of it.

        Raises:
            MergeError: as `merge` does.
        """
        n_modules, expected, merged = self._merged(adapter_dir)
        report = self._compare(expected, _logits(merged, self._probes), n_modules)
        self._judge(report, adapter_dir)
        return report

    def _merged(self, adapter_dir: Path) -> tuple[int, torch.Tensor, PreTrainedModel]:
        """Return the number of layers changed, the logits of base and adapter side by side, and the merged model."""
        from peft import PeftModel

        n_modules = check_adapter_fits(self._base, adapter_dir)
        # A copy: merging adds to the weights in place, and subtracting would not bring back the same bits.
        adapted = PeftModel.from_pretrained(copy.deepcopy(self._base), str(adapter_dir)).eval()
        expected = _logits(adapted, self._probes)
        if not expected.isfinite().all():
            raise MergeError(f"{adapter_dir}: with this adapter logits are not finite; train it again.")
        return n_modules, expected, adapted.merge_and_unload(safe_merge=True)

    def _compare(self, expected: torch.Tensor, observed: torch.Tensor, n_modules: int) -> MergeReport:
        scale = expected.abs().max().item()
        return MergeReport(
            n_positions=len(expected),
            n_merged_modules=n_modules,
            max_abs_difference=(observed - expected).abs().max().item(),
            allowed_difference=TOLERANCES[self._dtype].relative * scale,
            argmax_agreement=(observed.argmax(-1) == expected.argmax(-1)).double().mean().item(),
            adapter_effect=(expected - self._base_logits).abs().max().item(),
        )

    def _judge(self, report: MergeReport, adapter_dir: Path) -> None:
        needed = TOLERANCES[self._dtype].agreement
        if report.max_abs_difference <= report.allowed_difference and report.argmax_agreement >= needed:
            return
        raise MergeError(
            f"{adapter_dir}: the merged model does not act like base plus adapter: logits differ by up to "
            f"{report.max_abs_difference:.3g} (allowed in {self._dtype}: {report.allowed_difference:.3g}), "
            f"the most likely token agrees at {report.argmax_agreement:.1%} of {report.n_positions} places "
            f"(needed: {needed:.0%}), and the adapter itself moves logits by {report.adapter_effect:.3g}. "
            "Merge again; if it stays so, merge in float32."
        )


def merge_adapter(
    base_checkpoint: Path,
    adapter_dir: Path,
    out_dir: Path,
    *,
    probe_prompts: Sequence[tuple[str, str]],
    dtype: str = "float32",
    device: str = "cpu",
) -> MergeReport:
    """Merge one adapter; see `AdapterMerger`, which keeps the base loaded when there are several."""
    return AdapterMerger(base_checkpoint, probe_prompts=probe_prompts, dtype=dtype, device=device).merge(adapter_dir, out_dir)


def check_adapter_fits(base: PreTrainedModel, adapter_dir: Path) -> int:
    """Compare an adapter's tensors with those the base model needs, from the file's header alone.

    peft itself only warns about missing keys, and lets an extra `base_layer.weight` overwrite base weights.

    Returns:
        Number of linear layers that the adapter changes.

    Raises:
        MergeError: files are missing, the configuration is not one of plain LoRA, or a tensor is missing,
            extra or of another shape; the message names the first of them.
    """
    from safetensors import SafetensorError, safe_open

    try:
        config = json.loads((adapter_dir / CONFIG_FILE).read_text(encoding="utf-8"))
        with safe_open(adapter_dir / WEIGHTS_FILE, framework="pt") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, ValueError, SafetensorError) as error:
        raise MergeError(f"{adapter_dir}: not a readable adapter: {error}") from error
    needed = _needed_tensors(base, config, adapter_dir)
    problems = [
        *(f"{name} is missing" for name in needed if name not in found),
        *(f"{name} is not expected" for name in sorted(found) if name not in needed),
        *(
            f"{name} has shape {list(found[name])}, the base needs {list(shape)}"
            for name, shape in needed.items()
            if name in found and found[name] != shape
        ),
    ]
    if problems:
        raise MergeError(
            f"{adapter_dir}: the adapter does not fit the base model {type(base).__name__}: {problems[0]} "
            f"({len(problems)} such tensors). It was made for another base, or it is damaged."
        )
    return len(needed) // 2


def _needed_tensors(base: PreTrainedModel, config: object, adapter_dir: Path) -> dict[str, tuple[int, ...]]:
    import torch

    where = adapter_dir / CONFIG_FILE
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise MergeError(f"{where}: peft_type is not LORA, and only LoRA adapters can be merged.")
    rank, targets = config.get("r"), config.get("target_modules")
    if not isinstance(rank, int) or not isinstance(targets, list):
        raise MergeError(f"{where}: r must be a whole number, and target_modules a list of names.")
    needed: dict[str, tuple[int, ...]] = {}
    for name, module in base.named_modules():
        if isinstance(module, torch.nn.Linear) and name.rsplit(".", 1)[-1] in targets:
            needed[f"base_model.model.{name}.lora_A.weight"] = (rank, module.in_features)
            needed[f"base_model.model.{name}.lora_B.weight"] = (module.out_features, rank)
    if not needed:
        raise MergeError(f"{where}: the base model has no linear layer named {', '.join(map(str, targets))}.")
    return needed


def _logits(model: torch.nn.Module, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return the logits at all positions of all prompts: float32 [positions, vocabulary] on the CPU."""
    import torch

    device = next(model.parameters()).device
    with torch.inference_mode():
        outputs = [model(input_ids=torch.tensor([ids], device=device)).logits[0].float() for ids in prompts]
    return torch.cat(outputs).cpu()
