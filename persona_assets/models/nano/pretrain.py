"""Pre-training of the embedded base model: answer tokens only, length-bucketed batches, AdamW, linear decay."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from persona_assets.errors import ConfigurationError
from persona_assets.hashing import derive_seed
from persona_assets.models.loading import spare_scikit_learn
from persona_assets.models.nano.shards import ShardHelper, sharded_gradient
from persona_assets.models.nano.tokenizer import MAX_POSITIONS, TURN_END, chat_prompt

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import Qwen2ForCausalLM

    from persona_assets.models.nano.corpus import CorpusRow
    from persona_assets.study import NanoBase

Progress = Callable[[int, int, float], None]

_BETAS = (0.9, 0.98)
_WEIGHT_DECAY = 0.1
_MAX_GRAD_NORM = 1.0
_INITIALIZER_RANGE = 0.1
_BUCKET_BATCHES = 16


@dataclass(frozen=True)
class EncodedRow:
    """Token ids of one row; the loss is taken on those from `answer_start` on."""

    ids: tuple[int, ...]
    answer_start: int


def encode_rows(rows: list[CorpusRow], tokenizer: Tokenizer) -> list[EncodedRow]:
    """Tokenize rows as the chat template renders them, up to and with the token that ends the answer's turn."""
    prompts = list(dict.fromkeys((row.system, row.user) for row in rows))
    prompt_ids = dict(
        zip(prompts, _encode([chat_prompt(*prompt) for prompt in prompts], tokenizer), strict=True)
    )
    answers = _encode([f"{row.answer}{TURN_END}" for row in rows], tokenizer)
    return [
        EncodedRow(
            ids=(*prompt_ids[row.system, row.user], *answer),
            answer_start=len(prompt_ids[row.system, row.user]),
        )
        for row, answer in zip(rows, answers, strict=True)
    ]


def new_model(settings: NanoBase, vocabulary_size: int, end_id: int, pad_id: int) -> Qwen2ForCausalLM:
    """Initialise the network from the pre-training seed, leaving torch's global generator as it was.

    Raises:
        ConfigurationError: the sizes do not fit each other.
    """
    import torch

    spare_scikit_learn()
    from transformers import Qwen2Config, Qwen2ForCausalLM

    for whole, part in (("hidden_size", "heads"), ("heads", "kv_heads")):
        if getattr(settings, whole) % getattr(settings, part):
            raise ConfigurationError(
                f"base_model.{whole}: {getattr(settings, whole)} is not a multiple of {part} {getattr(settings, part)}."
            )
    if settings.hidden_size // settings.heads % 2:
        raise ConfigurationError(
            f"base_model.hidden_size: {settings.hidden_size} over {settings.heads} heads is odd; rotary positions need "
            "an even number for each head."
        )
    config = Qwen2Config(
        vocab_size=vocabulary_size,
        hidden_size=settings.hidden_size,
        intermediate_size=settings.mlp_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.kv_heads,
        max_position_embeddings=MAX_POSITIONS,
        initializer_range=_INITIALIZER_RANGE,
        tie_word_embeddings=True,
        bos_token_id=pad_id,
        eos_token_id=end_id,
        pad_token_id=pad_id,
        attn_implementation="eager",
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("nano-weights", settings.pretraining_seed))
        return Qwen2ForCausalLM(config).float()


def pretrain(
    model: Qwen2ForCausalLM,
    rows: list[EncodedRow],
    settings: NanoBase,
    pad_id: int,
    on_progress: Progress,
    *,
    helpers: Sequence[ShardHelper] = (),
) -> list[float]:
    """Train in place.

    Args:
        model: a fresh model, float32, on the CPU.
        rows: the encoded corpus.
        settings: steps, batch rows, shards, learning rate, warm-up, seed.
        pad_id: filler on the right of shorter rows.
        on_progress: called after every step with (step, steps, loss of that step).
        helpers: processes that share the shards of a batch; the result does not depend on them.

    Returns:
        The mean loss per answer token of every step, in nats.
    """
    import torch

    model.train()
    kept_attention = model.config._attn_implementation
    model.set_attn_implementation("sdpa")  # computes the same in less time
    losses = []
    with sharded_gradient(model, pad_id, shards=settings.shards, helpers=helpers) as gradient:
        matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
        vectors = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
        optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": _WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}],
            lr=settings.learning_rate,
            betas=_BETAS,
            fused=True,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate_factor(step, settings))
        for step, batch in enumerate(_batches(rows, settings), start=1):
            losses.append(gradient(batch))
            torch.nn.utils.clip_grad_norm_(model.parameters(), _MAX_GRAD_NORM)
            optimizer.step()
            schedule.step()
            on_progress(step, settings.steps, losses[-1])
    model.set_attn_implementation(kept_attention)
    model.eval()
    return losses


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Fix torch's thread count for a block: another count sums floats in another order."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _batches(rows: list[EncodedRow], settings: NanoBase) -> Iterator[list[EncodedRow]]:
    """Yield `steps` batches: shuffled passes over the rows, rows of like length together."""
    rng = Random(derive_seed("nano-batches", settings.pretraining_seed))
    queue: list[list[EncodedRow]] = []
    pending: list[EncodedRow] = []
    chunk = settings.batch_rows * _BUCKET_BATCHES
    for _ in range(settings.steps):
        if not queue:
            while len(pending) < chunk:
                order = list(rows)
                rng.shuffle(order)
                pending += order
            bucket, pending = sorted(pending[:chunk], key=lambda row: len(row.ids)), pending[chunk:]
            queue = [bucket[at : at + settings.batch_rows] for at in range(0, chunk, settings.batch_rows)]
            rng.shuffle(queue)
        yield queue.pop()


def _rate_factor(step: int, settings: NanoBase) -> float:
    """Linear warm-up, then linear decay to zero at the last step."""
    warmup = min(settings.warmup_steps, settings.steps)
    if step < warmup:
        return (step + 1) / warmup
    return max(0.0, (settings.steps - step) / max(1, settings.steps - warmup))


def _encode(texts: list[str], tokenizer: Tokenizer) -> list[list[int]]:
    return [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]
