"""The gradient of a batch in shards: each its own sum, added in a fixed order, on one process or on several.

Two threads of one process give other bytes than one and wait for each other at every small product. Shards are cut
by the settings and added in order, so the bytes are the same however many processes share the work.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from typing import TYPE_CHECKING

from persona_assets.errors import PersonaAssetsError
from persona_assets.malloc import keep_freed_memory
from persona_assets.models.loading import spare_scikit_learn

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    import torch
    from transformers import Qwen2ForCausalLM

    from persona_assets.models.nano.pretrain import EncodedRow

_ALIGNMENT = 16  # floats in the 64 bytes to which products want their operands aligned, for the same sums anywhere
_JOIN_SECONDS = 10.0


def answer_gradient(
    model: Qwen2ForCausalLM, rows: Sequence[EncodedRow], n_targets: int, pad_id: int, out: torch.Tensor
) -> float:
    """Write a shard's share of the gradient of the mean loss per answer token.

    Args:
        model: the network.
        rows: the shard.
        n_targets: answer tokens of the whole batch.
        pad_id: filler on the right of shorter rows, where no loss is taken and causal attention never looks.
        out: takes the gradient, laid out as `flatten_parameters` lays out the parameters.

    Returns:
        The shard's share of the mean loss.
    """
    import torch

    width = max(len(row.ids) for row in rows)
    ids = torch.tensor([(*row.ids, *([pad_id] * (width - len(row.ids)))) for row in rows])
    # Position p predicts token p + 1: from the last token of the prompt to the last but one of the row. Logits of those
    # positions alone save a third of the time.
    places = torch.tensor(
        [at * width + p for at, row in enumerate(rows) for p in range(row.answer_start - 1, len(row.ids) - 1)]
    )
    model.zero_grad(set_to_none=True)
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state.reshape(len(rows) * width, -1)
    logits = model.lm_head(hidden.index_select(0, places))
    targets = ids.reshape(-1).index_select(0, places + 1)
    loss = torch.nn.functional.cross_entropy(logits, targets, reduction="sum") / n_targets
    loss.backward()
    for parameter, place in _places(model):
        assert parameter.grad is not None
        out[place].copy_(parameter.grad.view(-1))
    return float(loss.item())


def flatten_parameters(model: Qwen2ForCausalLM, flat: torch.Tensor | None = None) -> torch.Tensor:
    """Make the parameters views of one float32 vector and return it.

    Args:
        model: the network.
        flat: the vector of another process's network, to look at the same numbers; None lays out a new one in shared memory.
    """
    import torch

    places = list(_places(model))
    vector = torch.zeros(places[-1][1].stop).share_memory_() if flat is None else flat
    for parameter, place in places:
        if flat is None:
            vector[place].copy_(parameter.detach().view(-1))
        parameter.data = vector[place].view_as(parameter)
    return vector


class ShardedGradient:
    """The gradient of whole batches, left in the parameters' `grad`."""

    def __init__(self, model: Qwen2ForCausalLM, pad_id: int, shards: int, helpers: Sequence[ShardHelper]) -> None:
        """See `sharded_gradient`."""
        import torch

        self._model, self._pad_id, self._shards, self._helpers = model, pad_id, shards, helpers
        size = next(reversed(list(_places(model))))[1].stop
        self._parts = [torch.zeros(size) for _ in range(shards - len(helpers))] + [helper.gradient for helper in helpers]

    def __call__(self, batch: Sequence[EncodedRow]) -> float:
        """Set `grad` of every parameter and return the batch's mean loss per answer token, in nats.

        Raises:
            PersonaAssetsError: a helper process died.
        """
        import torch

        n_targets = sum(len(row.ids) - row.answer_start for row in batch)
        parts = [batch[shard :: self._shards] for shard in range(self._shards)]
        own = self._shards - len(self._helpers)
        for helper, rows in zip(self._helpers, parts[own:], strict=True):
            helper.start(rows, n_targets)
        losses = [
            answer_gradient(self._model, rows, n_targets, self._pad_id, out) if rows else _nothing(out)
            for rows, out in zip(parts[:own], self._parts, strict=False)
        ]
        losses += [helper.finish() for helper in self._helpers]
        total = self._parts[0]
        for part in self._parts[1:]:
            torch.add(total, part, out=total)
        for parameter, place in _places(self._model):
            parameter.grad = total[place].view_as(parameter)
        return sum(losses)


@contextmanager
def sharded_gradient(
    model: Qwen2ForCausalLM, pad_id: int, *, shards: int, helpers: Sequence[ShardHelper] = ()
) -> Iterator[ShardedGradient]:
    """Give the gradient function of a network.

    Args:
        model: float32, on the CPU. Its parameters become views of shared memory while the context lasts.
        pad_id: filler on the right of shorter rows.
        shards: parts of a batch; the result depends on their number.
        helpers: fewer than there are shards; the result does not depend on them.
    """
    flat = flatten_parameters(model)
    try:
        for helper in helpers:
            helper.join(model, flat, pad_id)
        yield ShardedGradient(model, pad_id, shards, helpers)
    finally:
        for parameter in model.parameters():
            parameter.data = parameter.detach().clone()
            parameter.grad = None


@contextmanager
def shard_helpers(count: int, threads: int) -> Iterator[list[ShardHelper]]:
    """Start processes that can help with one network; the sooner, the less one waits for their imports, which take seconds.

    Args:
        count: number of processes.
        threads: numeric threads of each.
    """
    helpers: list[ShardHelper] = []
    try:
        for _ in range(count):
            helpers.append(ShardHelper(threads))
        yield helpers
    finally:
        for helper in helpers:
            helper.close()


class ShardHelper:
    """A process that computes one shard of each batch."""

    gradient: torch.Tensor

    def __init__(self, threads: int) -> None:
        """Start the process, which begins with its imports."""
        context = get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_help, args=(theirs, threads), daemon=True)
        self._process.start()
        theirs.close()

    def join(self, model: Qwen2ForCausalLM, flat: torch.Tensor, pad_id: int) -> None:
        """Give the process the network, whose parameters lie in `flat`."""
        import torch
        import torch.multiprocessing  # pickles a tensor as a place in shared memory

        self.gradient = torch.zeros_like(flat).share_memory_()
        self._send((model.config, flat, self.gradient, pad_id))

    def start(self, rows: Sequence[EncodedRow], n_targets: int) -> None:
        """Have it compute a shard's share, as `answer_gradient` does."""
        self._send((rows, n_targets))

    def finish(self) -> float:
        """Wait until `gradient` is written, and return the shard's share of the mean loss."""
        try:
            return float(self._connection.recv())
        except (EOFError, OSError) as error:
            raise _died() from error

    def close(self) -> None:
        """End the process."""
        self._connection.close()  # the process ends when it finds that nobody is there
        self._process.join(_JOIN_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _send(self, message: object) -> None:
        try:
            self._connection.send(message)
        except OSError as error:
            raise _died() from error


def _help(connection: Connection, threads: int) -> None:
    import torch
    import torch.multiprocessing  # what it registers unpickles the tensors

    keep_freed_memory()
    spare_scikit_learn()
    from transformers import Qwen2ForCausalLM

    torch.set_num_threads(threads)
    try:
        config, flat, gradient, pad_id = connection.recv()
    except EOFError:
        return
    model = Qwen2ForCausalLM(config).float()
    flatten_parameters(model, flat)
    model.train()
    while True:
        try:
            rows, n_targets = connection.recv()
        except EOFError:
            return
        connection.send(answer_gradient(model, rows, n_targets, pad_id, gradient) if rows else _nothing(gradient))


def _nothing(out: torch.Tensor) -> float:
    out.zero_()
    return 0.0


def _died() -> PersonaAssetsError:
    return PersonaAssetsError(
        "A process that helped to pre-train the base model died (killed, or out of memory). Run it again."
    )


def _places(model: Qwen2ForCausalLM) -> Iterator[tuple[torch.nn.Parameter, slice]]:
    """Give each parameter, tied ones once, and its aligned place in a flat vector."""
    start = 0
    for parameter in model.parameters():
        yield parameter, slice(start, start + parameter.numel())
        start += -(-parameter.numel() // _ALIGNMENT) * _ALIGNMENT
