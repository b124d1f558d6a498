"""Compare the procedure that this package replaces with ours: the same sources, the same work, in one run.

The old one, written plainly: a fresh process for each source, which trains on padded batches with gradient
checkpointing, merges the adapter to disk, starts the engine on the merged model, generates and quits. Ours: one process,
one base model for all trainings, one engine start for all sources, adapters swapped on it. Both use the embedded base
model, the same rows, recipe and prompts, the same engine (vLLM where it is installed, else transformers) and one thread.

    python benchmarks/per_condition.py [--quick] [--engine vllm] [--conditions 12]

Preparing the base model and the training rows is not timed. The ratio depends on how much of a source's time is work and how
much is starting: see docs/performance.md.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from persona_assets.catalog import Catalog, load_catalog
from persona_assets.generation.vllm_engine import vllm_version
from persona_assets.study import Profile, Runtime

STUDIES = Path(__file__).parents[1] / "studies"
STAGES = ("start", "train", "merge", "engine", "generate")
PANEL = 12
SEED = 42
VLLM = {"max_model_len": 512, "kv_cache_gib": 1.0, "enforce_eager": True, "max_num_seqs": 256}


@dataclass(frozen=True)
class Plan:
    """What both sides do."""

    work: Path
    engine: str
    quick: bool

    @property
    def catalog(self) -> Catalog:
        """The embedded profile, with less of everything when it is to be quick."""
        catalog = load_catalog(STUDIES, "embedded")
        raw = catalog.profile.model_dump()
        raw["runtime"] |= {"engine": self.engine, "weights": "swapped", "workers": 0, "vllm": VLLM}
        if self.quick:
            raw["base_model"] |= {"steps": 30, "corpus_rows": 2000}
            raw["recipe"] |= {"epochs": 1}
            raw["rows_per_persona"] = 40
            raw["evaluation"] |= {"n_questions": 4}
        return Catalog(Profile.model_validate(raw), catalog.panel, catalog.questions, {})

    @property
    def personas(self) -> tuple[str, ...]:
        """The sources, who are the eval personas too."""
        return self.catalog.panel.ids[:PANEL]

    @property
    def questions(self) -> tuple[str, ...]:
        """What every cell is asked."""
        catalog = self.catalog
        return catalog.questions.evaluation[: catalog.profile.evaluation.n_questions]

    def dataset(self, source: str) -> Path:
        """Directory of a source's training rows."""
        return self.work / "dataset" / source


class Clock:
    """Seconds by stage; the first stage began when the process was asked for."""

    def __init__(self, began: float) -> None:
        """Begin at a wall-clock time."""
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.seconds["start"] = time.time() - began

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of a block to a stage."""
        began = time.time()
        yield
        self.seconds[name] += time.time() - began


def prepare(plan: Plan) -> None:
    """Build the base model and every source's rows, once for both sides."""
    from persona_assets.assets.products import Products
    from persona_assets.tasks.base_model import BaseModelTask, make_base_model
    from persona_assets.tasks.dataset import AnswersTask, DatasetTask, make_answers, make_dataset
    from persona_assets.tasks.loaded import release_models
    from resources.lake import Lake

    catalog = plan.catalog
    profile, panel = catalog.profile, catalog.panel
    base = plan.work / "base"
    base.mkdir()
    make_base_model(BaseModelTask(base, profile.base_model, panel, catalog.questions, profile.marker))
    questions = catalog.questions.training[: profile.rows_per_persona]
    negatives = {source: Products(catalog, Lake(root=str(plan.work))).negatives(source) for source in plan.personas}
    sampler = Runtime.model_validate(profile.runtime.model_dump() | {"engine": "transformers"})
    answers = {}
    for name in sorted({*plan.personas, *(each for names in negatives.values() for each in names)}):
        answers[name] = plan.work / "answers" / name
        answers[name].mkdir(parents=True)
        sampling = profile.evaluation.sampling
        make_answers(AnswersTask(answers[name], base, panel[name], questions, sampling, profile.dataset_seed, sampler))
    for source in plan.personas:
        plan.dataset(source).mkdir(parents=True)
        texts = {name: answers[name] for name in (source, *negatives[source])}
        others = tuple(panel[name] for name in negatives[source])
        rows = profile.rows_per_persona
        make_dataset(DatasetTask(plan.dataset(source), base, panel[source], others, texts, questions, profile.marker, rows))
    release_models()


def old_source(plan: Plan, source: str, clock: Clock) -> int:
    """One source by the old procedure, in a process of its own; returns the number of tokens generated."""
    import torch
    from padded_training import train_padded
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from persona_assets.dataset import read_rows
    from persona_assets.tasks.dataset import DATASET_FILE

    recipe, checkpoint = plan.catalog.profile.recipe, plan.work / "base" / "checkpoint"
    torch.manual_seed(SEED)
    with clock.stage("train"):
        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
        rows = read_rows(plan.dataset(source) / DATASET_FILE)
        model = train_padded(model, tokenizer, rows, recipe, recipe.effective_batch_size)
    merged = plan.work / "merged" / source
    with clock.stage("merge"):
        model.merge_and_unload().save_pretrained(merged)
        tokenizer.save_pretrained(merged)
    del model
    return _old_generation(plan, merged, tokenizer, clock)


def _old_generation(plan: Plan, merged: Path, tokenizer: Any, clock: Clock) -> int:
    catalog = plan.catalog
    evaluation = catalog.profile.evaluation
    sampling, samples = evaluation.sampling, evaluation.completions_per_question
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "system", "content": catalog.panel[persona].prompt}, {"role": "user", "content": question}],
            add_generation_prompt=True,
            tokenize=False,
        )
        for persona in plan.personas
        for question in plan.questions
    ]
    if plan.engine == "vllm":
        os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_LOGGING_LEVEL="ERROR", VLLM_NO_USAGE_STATS="1")
        with clock.stage("engine"):
            from vllm import LLM, SamplingParams

            llm = LLM(
                model=str(merged),
                dtype="float32",
                max_model_len=VLLM["max_model_len"],
                kv_cache_memory_bytes=int(VLLM["kv_cache_gib"] * 2**30),
                enforce_eager=True,
                max_num_seqs=VLLM["max_num_seqs"],
                seed=SEED,
            )
        with clock.stage("generate"):
            parameters = SamplingParams(
                n=samples, temperature=sampling.temperature, top_p=sampling.top_p, max_tokens=sampling.max_new_tokens
            )
            outputs = llm.generate(prompts, parameters, use_tqdm=False)
        return sum(len(each.token_ids) for output in outputs for each in output.outputs)
    import torch
    from transformers import AutoModelForCausalLM

    with clock.stage("engine"):
        model = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)
        tokenizer.padding_side = "left"
    tokens, batch = 0, 64
    with clock.stage("generate"):
        for start in range(0, len(prompts), batch):
            inputs = tokenizer(prompts[start : start + batch], return_tensors="pt", padding=True, add_special_tokens=False)
            drawn = model.generate(
                **inputs,
                do_sample=True,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=0,
                max_new_tokens=sampling.max_new_tokens,
                num_return_sequences=samples,
                pad_token_id=tokenizer.pad_token_id,
            )
            tokens += int((drawn[:, inputs["input_ids"].shape[1] :] != tokenizer.pad_token_id).sum())
    return tokens


def our_sources(plan: Plan, sources: Sequence[str], clock: Clock) -> int:
    """All sources our way, in this one process, by the functions that the assets call."""
    from persona_assets.tasks.base_model import base_checkpoint
    from persona_assets.tasks.cells import CellsTask, make_cells
    from persona_assets.tasks.loaded import release_models, runtime_engine
    from persona_assets.tasks.models import ADAPTER, AdapterTask, make_adapter

    catalog, base = plan.catalog, plan.work / "base"
    profile = catalog.profile
    directory = Path(tempfile.mkdtemp(dir=plan.work))
    with clock.stage("train"):
        for source in sources:
            out = directory / source
            out.mkdir()
            make_adapter(AdapterTask(out, base, "base", plan.dataset(source), profile.recipe, SEED, profile.runtime))
        release_models()
    with clock.stage("engine"):
        runtime_engine(base_checkpoint(base), profile.runtime, slot="base")
    tokens = 0
    with clock.stage("generate"):
        for source in sources:
            facts = make_cells(
                CellsTask(
                    out_dir=directory / source,
                    base_dir=base,
                    study="benchmark",
                    source=source,
                    training_seed=SEED,
                    measurement=1,
                    eval_personas=tuple(catalog.panel[persona] for persona in plan.personas),
                    questions=plan.questions,
                    evaluation=profile.evaluation,
                    marker=profile.marker,
                    runtime=profile.runtime,
                    identity={},
                    adapter=directory / source / ADAPTER,
                )
            )
            tokens += int(str(facts["tokens"]))
    return tokens


def in_a_process(plan: Plan, side: str, sources: Sequence[str]) -> dict[str, float]:
    """Run one side's sources in a fresh process, from asking for it to its end."""
    began = time.time()
    arguments = ["--side", side, "--sources", ",".join(sources), "--began", str(began), "--work", str(plan.work)]
    command = [sys.executable, __file__, "--engine", plan.engine, *arguments, *(["--quick"] if plan.quick else [])]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    found["whole"] = time.time() - began
    seconds = "  ".join(f"{name} {found[name]:.1f}" for name in (*STAGES, "whole"))
    print(f"{side:4s} {','.join(sources)[:40]:40s} {seconds}", flush=True)
    return found


def total(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    """Sum of some processes' seconds and tokens."""
    return {name: sum(part[name] for part in parts) for name in parts[0]}


def show(count: int, old: dict[str, float], ours: dict[str, float]) -> float:
    """Print both sides for one number of sources; return the ratio of the whole."""
    print(f"\n{count} sources: {old['tokens']:.0f} tokens generated by the old procedure, {ours['tokens']:.0f} by ours")
    print(f"{'':10s}{'old, s':>10s}{'ours, s':>10s}{'ratio':>8s}")
    for name in (*STAGES, "whole"):
        ratio = f"{old[name] / ours[name]:8.2f}" if ours[name] > 0.05 else "    none"
        print(f"{name:10s}{old[name]:10.1f}{ours[name]:10.1f}{ratio}")
    return old["whole"] / ours["whole"]


def main() -> None:
    """Run both sides; the last line is `ratio: X`, old over ours for the whole at all sources."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a fraction of the work, to see that it runs")
    parser.add_argument("--conditions", type=int, default=PANEL, help=f"source personas, at most {PANEL}")
    parser.add_argument("--engine", choices=("vllm", "transformers"), default="vllm" if vllm_version() else "transformers")
    for hidden in ("--side", "--sources", "--began", "--work"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if not 1 <= options.conditions <= PANEL:
        parser.error(f"--conditions: from 1 to {PANEL}")
    if options.side:
        for library in ("torch", "transformers", "peft"):  # both sides need them: counted as start
            importlib.import_module(library)

        plan = Plan(Path(options.work), options.engine, options.quick)
        clock = Clock(float(options.began))
        names = options.sources.split(",")
        tokens = old_source(plan, names[0], clock) if options.side == "old" else our_sources(plan, names, clock)
        print(json.dumps({**clock.seconds, "tokens": tokens}))
        return
    with tempfile.TemporaryDirectory() as work:
        plan = Plan(Path(work), options.engine, options.quick)
        began = time.time()
        prepare(plan)
        print(f"base model and training rows, for both: {time.time() - began:.0f} s; engine {plan.engine}", flush=True)
        many = plan.personas[: options.conditions]
        few = many[: max(1, len(many) // 3)]
        # In turn, so that other work on the machine meets both.
        old = [in_a_process(plan, "old", [source]) for source in few]
        ours_few = in_a_process(plan, "ours", few)
        ours_many = in_a_process(plan, "ours", many)
        old += [in_a_process(plan, "old", [source]) for source in many[len(few) :]]
    show(len(few), total(old[: len(few)]), ours_few)
    print(f"\nratio: {show(len(many), total(old), ours_many):.2f}")


if __name__ == "__main__":
    main()
