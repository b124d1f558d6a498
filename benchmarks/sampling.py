"""Compare the sampling speed of transformers' `generate` with that of the transformers engine, in one run.

Both draw the same number of completions of the same prompts with the same settings and batch size. Without
`--checkpoint` the model is the embedded one's shape with random weights, scaled so that its distributions are about as
peaked as a trained model's; it hardly ever stops by itself, so give a built checkpoint for lengths as in a study.

    python benchmarks/sampling.py [--checkpoint DIR] [--decoder shared_prefix] [--device cpu]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from persona_assets.generation.engine import Prompt
from persona_assets.generation.transformers_engine import TransformersEngine, stop_token_ids
from persona_assets.hashing import derive_seed
from persona_assets.models.loading import load_model, load_tokenizer, render_prompt, resolve_device
from persona_assets.panel import load_panel
from persona_assets.questions import load_questions
from persona_assets.study import NanoBase, SamplingSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

STUDIES = Path(__file__).parents[1] / "studies"
PEAKED_SCALE = 15.0


def main() -> None:
    """Run the comparison; the last line is `ratio: X`, our tokens per second over generate's."""
    options = arguments()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = options.checkpoint or write_random_checkpoint(Path(scratch))
        model = load_model(checkpoint, device=resolve_device(options.device), dtype=options.dtype)
        tokenizer = load_tokenizer(checkpoint)
    sampling = SamplingSettings(temperature=1.0, top_p=0.95, max_new_tokens=options.max_new_tokens)
    prompts = make_prompts(options.personas, options.questions, options.samples)
    engine = TransformersEngine(model, tokenizer, options.batch_size, options.decoder)
    ways: dict[str, Callable[[], int]] = {
        "generate": lambda: run_generate(model, tokenizer, prompts, sampling, options.batch_size),
        f"engine ({options.decoder})": lambda: sum(c.n_tokens for c in engine.generate(prompts, sampling)),
    }
    n_completions = sum(len(prompt.seeds) for prompt in prompts)
    print(
        f"{n_completions} completions, at most {sampling.max_new_tokens} tokens, batches of {options.batch_size}, "
        f"{options.threads} thread(s), {model.device.type}, {model.dtype}"
    )
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, run in ways.items():  # in turn, so that other work on the machine meets both
            began = time.perf_counter()
            tokens = run()
            seconds = time.perf_counter() - began
            speeds[name].append(tokens / seconds)
            print(f"{name:24s} {tokens:8d} tokens {seconds:7.2f} s {tokens / seconds:10.0f} tokens/s")
    theirs, ours = (statistics.median(values) for values in speeds.values())
    print(f"ratio: {ours / theirs:.2f}")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="checkpoint directory; random weights without it")
    parser.add_argument("--decoder", choices=("module", "shared_prefix"), default="shared_prefix")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=400)
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("--personas", type=int, default=12)
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def make_prompts(personas: int, questions: int, samples: int) -> list[Prompt]:
    """Return the prompts of one row of cells."""
    panel = load_panel(STUDIES / "personas.yaml")
    asked = load_questions(STUDIES / "questions.yaml").evaluation[:questions]
    return [
        Prompt(persona.prompt, question, tuple(derive_seed("benchmark", persona.id, question, n) for n in range(samples)))
        for persona in list(panel)[:personas]
        for question in asked
    ]


def write_random_checkpoint(directory: Path) -> Path:
    """Write the embedded model's architecture with random weights, and a tokenizer trained on personas and questions."""
    from persona_assets.models.nano.pretrain import new_model
    from persona_assets.models.nano.tokenizer import END_OF_TEXT, TURN_END, save_tokenizer, train_tokenizer

    questions = load_questions(STUDIES / "questions.yaml")
    texts = [*(persona.prompt for persona in load_panel(STUDIES / "personas.yaml")), *questions.evaluation, *questions.training]
    settings = NanoBase()
    tokenizer = train_tokenizer(texts, settings.vocabulary_size)
    end_id, pad_id = (tokenizer.get_vocab()[token] for token in (TURN_END, END_OF_TEXT))
    model = new_model(settings, settings.vocabulary_size, end_id, pad_id)
    with torch.no_grad():
        model.get_parameter("model.norm.weight").mul_(PEAKED_SCALE)
    model.save_pretrained(directory)
    save_tokenizer(tokenizer, directory)
    return directory


def run_generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[Prompt],
    sampling: SamplingSettings,
    batch_size: int,
) -> int:
    """Draw the completions with `generate`, prompts padded on the left; return the tokens before the stop tokens."""
    stop_ids = torch.tensor(stop_token_ids(tokenizer), device=model.device)
    samples = len(prompts[0].seeds)
    per_batch = max(1, batch_size // samples)
    torch.manual_seed(0)
    tokens = 0
    for start in range(0, len(prompts), per_batch):
        ids = [render_prompt(tokenizer, prompt.system, prompt.user) for prompt in prompts[start : start + per_batch]]
        width = max(map(len, ids))
        padded = torch.tensor([[0] * (width - len(row)) + row for row in ids], device=model.device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids], device=model.device)
        output = model.generate(
            padded,
            attention_mask=mask,
            do_sample=True,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_new_tokens=sampling.max_new_tokens,
            num_return_sequences=samples,
            eos_token_id=stop_ids.tolist(),
            pad_token_id=int(stop_ids[0]),
        )
        stopped = torch.isin(output[:, width:], stop_ids).cumsum(-1) > 0
        tokens += int((~stopped).sum())
    return tokens


if __name__ == "__main__":
    main()
