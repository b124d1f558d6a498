"""What one more source costs on a GPU, beside its sampling: by the procedure that this package replaces, and by ours.

The old one starts from a checkpoint on disk for every source: it loads the base, trains on padded batches with gradient
checkpointing, merges, writes the merged weights and loads them into the engine. Ours keeps one base loaded, trains packed
rows and swaps the adapter in. Both train the same rows by the registered recipe on the shape of Qwen2.5-7B with random weights,
in one run; sampling takes both the same and is in benchmarks/throughput.py.

    python benchmarks/condition_on_gpu.py
    python benchmarks/condition_on_gpu.py --shape tiny --device cpu --dtype float32   # does it run?
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from padded_training import train_padded
from synthetic import TINY, build_model, build_tokenizer, make_rows

from persona_assets.capacity.devices import describe_device, library_versions
from persona_assets.capacity.shape import QWEN2_5_7B
from persona_assets.generation.swapping import AdapterSwapper
from persona_assets.models.loading import load_model, load_tokenizer, resolve_device
from persona_assets.study import Recipe
from persona_assets.training import LoraTrainer

if TYPE_CHECKING:
    from persona_assets.dataset import TrainingRow

SHAPES = {"qwen2.5-7b": QWEN2_5_7B, "tiny": TINY}
ROWS = 600
"""Training rows of a source: 200 of its own and 400 of its negatives."""


@dataclass
class Comparison:
    """Seconds of each part of a source, on both sides."""

    options: argparse.Namespace
    device: torch.device
    rows: list[TrainingRow]
    recipe: Recipe
    work: Path
    steps: int
    seconds: dict[str, dict[str, float]] = field(default_factory=lambda: {"old": {}, "ours": {}})

    def timed(self, side: str, part: str, work: Callable[[], Any]) -> Any:
        """Do a part and note its seconds, the device's included."""
        self._synchronise()
        began = time.perf_counter()
        result = work()
        self._synchronise()
        self._note(side, part, time.perf_counter() - began)
        return result

    def trained(self, side: str, train: Callable[[Callable[[Any], None]], Any]) -> Any:
        """Train for a few steps and note the seconds of a whole training: its steps, each as long as the median but the first."""
        times = [time.perf_counter()]

        def on_step(_: Any = None) -> None:
            self._synchronise()
            times.append(time.perf_counter())

        result = train(on_step)
        step = statistics.median(end - start for start, end in pairwise(times[1:]))
        self._note(side, "train", step * self.steps)
        return result

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _note(self, side: str, part: str, seconds: float) -> None:
        self.seconds[side][part] = seconds
        print(f"{side:5s}{part:28s}{seconds:8.1f} s", flush=True)

    def forget(self) -> None:
        """Give back what is not in use, and measure the memory's peak anew."""
        gc.collect()
        if self.device.type == "cuda":
            print(f"     most memory in use {torch.cuda.max_memory_allocated(self.device) / 2**30:.1f} GiB", flush=True)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def load(self, checkpoint: Path) -> Any:
        """Load a checkpoint as both sides do."""
        return load_model(checkpoint, device=str(self.device), dtype=self.options.dtype)

    def old(self, base: Path) -> None:
        """Every part of the old procedure."""
        tokenizer = load_tokenizer(base)
        model = self.timed("old", "load the base", lambda: self.load(base))
        tuned = self.trained(
            "old", partial(train_padded, model, tokenizer, self.rows, self.recipe, self.options.padded_rows)
        )
        merged = self.work / "merged"
        whole = self.timed("old", "merge", tuned.merge_and_unload)
        self.timed("old", "write the merged weights", partial(whole.save_pretrained, merged))
        del model, tuned, whole
        self.forget()
        self.timed("old", "load the merged weights", partial(self.load, merged))
        shutil.rmtree(merged)
        self.forget()

    def ours(self, base: Path) -> None:
        """Every part of ours; the base is loaded once for all sources, which is noted but belongs to none."""
        tokenizer = load_tokenizer(base)
        model = self.load(base)
        trainer = LoraTrainer(
            model,
            tokenizer,
            self.recipe,
            base_name="random",
            micro_batch_size=self.options.micro_batch,
            micro_batch_tokens=self.options.micro_batch_tokens,
        )
        result = self.trained("ours", partial(trainer.train, self.rows, 42))
        self.timed("ours", "write the adapter", partial(result.save_weights, self.work / "adapter"))
        del trainer, model
        self.forget()
        adapters = AdapterSwapper(self.load(base))

        def swap() -> None:
            with adapters.attached(self.work / "adapter"):
                pass

        self.timed("ours", "swap the adapter in and out", swap)
        self.forget()


def main() -> None:
    """Measure both sides; the last line is `ratio: X`, old over ours for a source without its sampling."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=tuple(SHAPES), default="qwen2.5-7b")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--measured-steps", type=int, default=3)
    parser.add_argument("--padded-rows", type=int, default=16, help="rows of a padded batch")
    parser.add_argument("--micro-batch", type=int, default=32, help="rows of a packed batch, at most")
    parser.add_argument("--micro-batch-tokens", type=int, default=8192)
    parser.add_argument("--answer-words", type=int, nargs=2, default=[60, 220], help="shortest and longest answer trained on")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device = resolve_device(options.device)
    whole = Recipe()
    steps = -(-ROWS // whole.effective_batch_size) * whole.epochs
    recipe = Recipe(epochs=1)
    rows = make_rows((options.measured_steps + 1) * recipe.effective_batch_size, tuple(options.answer_words))
    with tempfile.TemporaryDirectory() as work:
        base = Path(work) / "base"
        build_tokenizer(base)
        model = build_model(SHAPES[options.shape], options.dtype, device)
        model.save_pretrained(base)
        del model
        comparison = Comparison(options, device, rows, recipe, Path(work), steps)
        comparison.forget()
        comparison.old(base)
        comparison.ours(base)
    totals = {side: sum(parts.values()) for side, parts in comparison.seconds.items()}
    found = {
        "device": describe_device(device).name,
        "versions": library_versions(),
        "options": {name: value for name, value in vars(options).items() if name != "out"},
        "steps": steps,
        "seconds": comparison.seconds,
        "totals": totals,
    }
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"{found['device']}; a source, without its sampling: old {totals['old']:.1f} s, ours {totals['ours']:.1f} s")
    print(f"\nratio: {totals['old'] / totals['ours']:.2f}")


if __name__ == "__main__":
    main()
