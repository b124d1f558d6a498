"""Measure training, sampling and hidden states at the shape of Qwen2.5-7B with random weights, beside what the device allows.

Nothing is downloaded: the weights are drawn on the device. The roofline comes from the device's own speed: bytes per second of a
large copy, operations per second of a large matrix product. The table that it writes is what `persona-assets estimate` reads.

    python benchmarks/throughput.py --out benchmarks/results/throughput.json
    python benchmarks/throughput.py --shape tiny --device cpu --dtype float32 --out /tmp/tiny.json   # does it run?
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from gpu_checks import CHECKS
from sampling import make_prompts
from synthetic import TINY, build_model, build_tokenizer, make_rows

from persona_assets.capacity.devices import describe_device, library_versions, measure_bandwidth, measure_matmul_rate
from persona_assets.capacity.shape import QWEN2_5_7B
from persona_assets.capacity.table import Measured, NotMeasured, ThroughputTable
from persona_assets.generation.opening import open_engine
from persona_assets.generation.transformers_engine import TransformersEngine
from persona_assets.generation.vllm_engine import vllm_version
from persona_assets.models.loading import render_prompt, resolve_device, resolve_dtype
from persona_assets.study import Recipe, Runtime, SamplingSettings
from persona_assets.training import LoraTrainer, tokenize_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from persona_assets.generation.engine import Engine

SHAPES = {"qwen2.5-7b": QWEN2_5_7B, "tiny": TINY}
PEAKED_SCALE = 10.0
"""Scale of the final norm while sampling: random logits are then about as peaked as a trained model's."""


class Benchmark:
    """One device, one model; each part adds rows to the table."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.began = time.perf_counter()
        self.shape = SHAPES[options.shape]
        self.device = resolve_device(options.device)
        self.dtype = options.dtype
        self.measured: list[Measured] = []
        self.missing: list[NotMeasured] = []
        self.checks: dict[str, str] = {}
        self.bandwidth = measure_bandwidth(self.device, options.copy_bytes)
        self.rate = measure_matmul_rate(self.device, resolve_dtype(self.dtype), options.matmul_size)
        self.say(f"{describe_device(self.device).name}: copy {self.bandwidth / 1e12:.3f} TB/s, "
                 f"matmul {self.rate / 1e12:.1f} TFLOP/s {self.dtype}")  # fmt: skip
        self.scratch = Path(tempfile.mkdtemp(prefix="throughput-"))
        self.tokenizer: PreTrainedTokenizerBase = build_tokenizer(self.scratch / "checkpoint")
        self.adapter = self.scratch / "adapter"
        self.model: PreTrainedModel | None = None

    def say(self, text: str) -> None:
        """Print a line with the time since the start."""
        print(f"[{time.perf_counter() - self.began:6.1f} s] {text}", flush=True)

    def add(self, **values: Any) -> None:
        """Add a row to the table, print it, and write the table as it is."""
        row = Measured(value=statistics.median(values["repeats"]), peak_bytes=self.peak(), **values)
        self.measured.append(row)
        share = "" if row.share is None else f", {row.share:.0%} of the roofline {row.roofline:,.0f}"
        memory = "" if row.peak_bytes is None else f", {row.peak_bytes / 2**30:.1f} GiB"
        kind = " ".join(filter(None, (row.stage, row.engine, row.weights)))
        self.say(f"{kind} {row.settings}: {row.value:,.0f} {row.unit}{share}{memory}")
        self.write()

    def peak(self) -> int | None:
        """Most device memory in use since `forget`."""
        return torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else None

    def forget(self) -> None:
        """Give back what is not in use, and measure the memory's peak anew."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def timed(self, work: Callable[[], Any]) -> tuple[float, Any]:
        """Seconds of some work, the device's included, and its result."""
        self.synchronise()
        began = time.perf_counter()
        result = work()
        self.synchronise()
        return time.perf_counter() - began, result

    def synchronise(self) -> None:
        """Wait until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def write(self) -> None:
        """Write the table."""
        device = describe_device(self.device)
        ThroughputTable(
            made_on=time.strftime("%Y-%m-%d", time.gmtime()),
            command=f"python benchmarks/throughput.py --shape {self.options.shape} --dtype {self.dtype}",
            device=device.name,
            device_bytes=device.memory_bytes,
            driver=device.driver,
            versions=library_versions(),
            shape=asdict(self.shape),
            dtype=self.dtype,
            bandwidth=self.bandwidth,
            matmul_rate=self.rate,
            checks=self.checks,
            measured=tuple(self.measured),
            not_measured=tuple(self.missing),
        ).write(self.options.out)

    def check(self) -> None:
        """Small models: is what is about to be timed right on this device?"""
        for name, check in CHECKS.items():
            try:
                found = check(self.device)
            except Exception as error:  # noqa: BLE001  # one check that fails must not cost the others their turn
                found = f"FAILED: {type(error).__name__}: {error}"
                traceback.print_exc()
            self.checks[name] = found
            self.say(f"check {name}: {found}")

    def build(self) -> None:
        """Draw the weights on the device."""
        self.forget()
        seconds, self.model = self.timed(lambda: build_model(self.shape, self.dtype, self.device))
        self.say(f"built {self.shape.parameters / 1e9:.2f} B parameters in {seconds:.1f} s")
        if vllm_version() is not None and not self.options.only:
            with self._peaked():
                self.model.save_pretrained(self.scratch / "checkpoint")

    def centroids(self) -> None:
        """Hidden states of personas, as the asset layer_centroids reads them."""
        from persona_assets.geometry.centroids import question_vectors

        assert self.model is not None
        prompts = make_prompts(self.options.personas, 20, 1)
        by_persona: dict[str, list[str]] = {}
        for prompt in prompts:
            by_persona.setdefault(prompt.system, []).append(prompt.user)
        tokens = sum(len(render_prompt(self.tokenizer, prompt.system, prompt.user)) for prompt in prompts)

        def read() -> None:
            for system, questions in by_persona.items():
                question_vectors(self.model, self.tokenizer, system, questions, self.options.generation_batch[0])

        read()
        repeats = tuple(tokens / self.timed(read)[0] for _ in range(self.options.repeats))
        roofline = self.rate / self.shape.forward_operations(tokens / len(prompts) / 2)
        self.add(stage="centroids", engine="transformers", unit="tokens/s", repeats=repeats, roofline=roofline,
                 settings={"personas": len(by_persona), "questions": 20, "tokens": tokens})  # fmt: skip

    @contextmanager
    def _peaked(self) -> Iterator[None]:
        assert self.model is not None
        norm = self.model.get_decoder().norm.weight
        with torch.no_grad():
            norm.mul_(PEAKED_SCALE)
        try:
            yield
        finally:
            with torch.no_grad():
                norm.div_(PEAKED_SCALE)

    def sampling(self, weights: str) -> None:
        """Completions of one row of cells, through our transformers engine."""
        if weights == "swapped" and not self.adapter.is_dir():
            raise RuntimeError("no adapter was trained, so none can be swapped in")
        with self._peaked():
            for batch in self.options.generation_batch:
                self._sampling(TransformersEngine(self.model, self.tokenizer, batch, "module", weights), weights, batch)

    def _sampling(self, engine: Engine, weights: str, batch: int) -> None:
        """Time an engine; no completion ends early with random weights."""
        adapter = self.adapter if weights == "swapped" else None
        prompts = make_prompts(48, 20, 5)[: max(1, batch // 5)]
        length = statistics.mean(len(render_prompt(self.tokenizer, each.system, each.user)) for each in prompts)

        def draw(limit: int = self.options.new_tokens) -> int:
            sampling = SamplingSettings(temperature=1.0, top_p=0.95, max_new_tokens=limit)
            return sum(completion.n_tokens for completion in engine.generate(prompts, sampling, adapter))

        self.forget()
        draw(8)
        repeats = []
        for _ in range(self.options.repeats):
            seconds, tokens = self.timed(draw)
            repeats.append(tokens / seconds)
        name = str(engine.identity()["engine"])
        if self.options.profile and name == "transformers":
            self._profile(lambda: draw(8), f"8 tokens of {weights} sampling, batch {batch}")
        rows, context = 5 * len(prompts), length + self.options.new_tokens / 2
        least = self.shape.decoding_seconds(rows, context, self.dtype, self.bandwidth, self.rate)
        settings = {"batch": rows, "new_tokens": self.options.new_tokens, "prompt_tokens": round(length, 1)}
        self.add(stage="generation", engine=name, weights=weights, unit="tokens/s", repeats=tuple(repeats), roofline=rows / least,
                 settings=settings)  # fmt: skip

    def training(self) -> None:
        """Optimizer steps of the registered recipe on rows of about the length of a 7B model's answers."""
        assert self.model is not None
        recipe = Recipe(epochs=1, effective_batch_size=self.options.effective_batch)
        trainer = LoraTrainer(self.model, self.tokenizer, recipe, base_name="random", micro_batch_size=self.options.micro_batch,
                              micro_batch_tokens=self.options.micro_batch_tokens)  # fmt: skip
        try:
            self._steps(trainer, self.options.repeats, "ours", deterministic=True)
            if self.options.profile:
                rows = make_rows(recipe.effective_batch_size, self.options.answer_words)
                self._profile(lambda: trainer.gradients(rows), "one effective batch of training")
            if self.options.compare:
                with mock.patch("persona_assets.training.lora.deterministic_sums", return_value=nullcontext()):
                    self._steps(trainer, 1, "ours", deterministic=False)
                self._plain_steps(trainer)
        finally:
            trainer._model.unload()  # the base model again, for sampling
            for module in self.model.modules():
                vars(module).pop("forward", None)
            self.model.set_attn_implementation("sdpa")
            self.model.eval()

    def _plain_steps(self, trainer: LoraTrainer) -> None:
        """The same with the modules' own forward, of peft and transformers; half the rows at a time, for it takes more memory."""
        assert self.model is not None
        ours = {module: vars(module).pop("forward") for module in self.model.modules() if "forward" in vars(module)}
        size, trainer._batch.size = trainer._batch.size, max(1, trainer._batch.size // 2)
        try:
            self._steps(trainer, 1, "peft", deterministic=False)
        finally:
            trainer._batch.size = size
            for module, forward in ours.items():
                module.forward = forward

    def _steps(self, trainer: LoraTrainer, repeats: int, forward: str, *, deterministic: bool) -> None:
        self.forget()
        recipe = trainer.recipe
        rows = make_rows((repeats + 1) * recipe.effective_batch_size, self.options.answer_words)
        tokenized = tokenize_rows(self.tokenizer, rows, recipe.max_length)
        all_tokens = sum(len(row.input_ids) - 1 for row in tokenized)
        completion_tokens = sum(row.n_completion_tokens for row in tokenized)
        times = [time.perf_counter()]

        def step(_: object) -> None:
            self.synchronise()
            times.append(time.perf_counter())

        result = trainer.train(rows, 42, on_step=step)
        if not self.adapter.exists():
            result.save_weights(self.adapter)
        # A step's record counts its completion tokens; all tokens stand to them as over all rows.
        speeds = [
            record.tokens * all_tokens / completion_tokens / (end - start)
            for record, start, end in zip(result.loss_curve, times[:-1], times[1:], strict=True)
        ][1:]
        operations = self.shape.training_operations(recipe.r, all_tokens / len(rows), completion_tokens / all_tokens)
        self.add(stage="training", engine="trainer", unit="tokens/s", repeats=tuple(speeds), roofline=self.rate / operations,
                 settings={"micro_batch_size": trainer.micro_batch_size, "effective_batch_size": recipe.effective_batch_size,
                           "micro_batch_tokens": trainer.micro_batch_tokens or 0, "rank": recipe.r, "dropout": recipe.dropout,
                           "row_tokens": round(all_tokens / len(rows), 1),
                           "completion_share": round(completion_tokens / all_tokens, 3),
                           "lora_forward": forward, "deterministic": deterministic})  # fmt: skip

    def _profile(self, work: Callable[[], Any], what: str) -> None:
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.device.type == "cuda" else [])]
        seconds, _ = self.timed(work)
        with profile(activities=activities) as found:
            work()
            self.synchronise()
        self.say(f"profile of {what}: {seconds:.3f} s without the profiler")
        busy = sum(each.self_device_time_total for each in found.key_averages() if each.key.startswith("aten::"))
        self.say(f"device busy {busy / 1e6:.3f} s; {sum(each.count for each in found.key_averages())} operations")
        order = "self_device_time_total" if self.device.type == "cuda" else "self_cpu_time_total"
        columns = (f"{getattr(each, order) / 1e3:10.1f} ms {each.count:7d} x  {each.key[:100]}"
                   for each in sorted(found.key_averages(), key=lambda each: -getattr(each, order))[:26])  # fmt: skip
        print("\n".join(columns), flush=True)

    def vllm(self) -> None:
        """Our vLLM engine on the same weights, where vLLM is installed."""
        if vllm_version() is None:
            for weights in ("merged", "swapped"):
                self.missing.append(NotMeasured(stage="generation", engine="vllm", weights=weights, why="vLLM is not installed"))
            return
        self.model = None
        self.forget()
        for weights in ("merged", "swapped"):
            runtime = Runtime(engine="vllm", weights=weights, dtype=self.dtype, device=self.device.type)
            engine = open_engine(self.scratch / "checkpoint", runtime)
            try:
                for batch in self.options.generation_batch:
                    self._sampling(engine, weights, batch)
            finally:
                engine.close()
                self.forget()

    def run(self) -> None:
        """Run every part; one that fails does not stop the others."""
        parts: tuple[tuple[str, Callable[[], None]], ...] = (
            ("checks", self.check),
            ("build", self.build),
            ("centroids", self.centroids),
            ("generation merged", lambda: self.sampling("merged")),
            ("training", self.training),
            ("generation swapped", lambda: self.sampling("swapped")),
            ("vllm", self.vllm),
        )
        for name, part in parts:
            if self.options.only and name not in ("build", *self.options.only):
                continue
            if time.perf_counter() - self.began > self.options.minutes * 60:
                self.say(f"{name}: not started, {self.options.minutes} minutes are over")
                continue
            try:
                part()
            except Exception:  # noqa: BLE001  # what was measured so far is worth more than a clean end
                self.say(f"{name}: FAILED")
                traceback.print_exc()
            self.write()


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=tuple(SHAPES), default="qwen2.5-7b")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "throughput.json")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=7.0, help="start no further part after so many minutes")
    parser.add_argument("--only", nargs="+", metavar="PART", help="these parts alone, for example: --only training")
    parser.add_argument("--personas", type=int, default=12)
    parser.add_argument("--generation-batch", type=int, nargs="+", default=[320, 1280])
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--effective-batch", type=int, default=64)
    parser.add_argument("--micro-batch", type=int, default=16)
    parser.add_argument("--micro-batch-tokens", type=int)
    parser.add_argument("--answer-words", type=int, nargs=2, default=[60, 220], help="shortest and longest answer trained on")
    parser.add_argument("--copy-bytes", type=int, default=4 << 30)
    parser.add_argument("--matmul-size", type=int, default=8192)
    parser.add_argument("--compare", action="store_true", help="also train without fixed order of sums, and with peft's forward")
    parser.add_argument("--profile", action="store_true", help="print the kernels that take the time")
    return parser.parse_args()


def main() -> None:
    """Measure, write the table, print it."""
    options = arguments()
    benchmark = Benchmark(options)
    benchmark.run()
    print(f"\n{options.out}")
    for row in benchmark.measured:
        share = "" if row.share is None else f"{row.share:6.0%} of {row.roofline:12,.0f}"
        print(f"{row.stage:12s} {row.engine:14s} {row.weights or '':8s} {row.value:14,.0f} {row.unit:9s} {share}")
    for gap in benchmark.missing:
        print(f"{gap.stage:12s} {gap.engine:14s} {gap.weights or '':8s} not measured: {gap.why}")
    if any(found.startswith("FAILED") for found in benchmark.checks.values()):
        raise SystemExit("a check failed: the speeds above are of something that is not right")


if __name__ == "__main__":
    main()
