"""The interface every engine keeps: prompts and sampling settings in, completions in order out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from persona_assets.errors import PersonaAssetsError

if TYPE_CHECKING:
    from persona_assets.study import SamplingSettings

FinishReason = Literal["stop", "length"]
_SEED_LIMIT = 2**64


class EngineError(PersonaAssetsError):
    """An engine cannot do what it was asked: prompts, settings or model are not acceptable."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One conversation to continue, and the seeds of its samples.

    Attributes:
        system: system message; passed to the chat template even when empty, so no template default slips in.
        user: user message.
        seeds: one completion is drawn per seed. A completion depends on the prompt, its own seed, the model
            and the settings alone (up to floating-point noise), not on the other prompts.
    """

    system: str
    user: str
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse seeds that would draw nothing, draw twice the same or do not fit the generator's key."""
        if not self.seeds:
            raise EngineError(f"The prompt {self.user[:60]!r} has no seeds: give one per completion wanted.")
        if len(set(self.seeds)) != len(self.seeds):
            raise EngineError(
                f"The prompt {self.user[:60]!r} repeats a seed; its completions would be copies."
            )
        bad = [seed for seed in self.seeds if not 0 <= seed < _SEED_LIMIT]
        if bad:
            raise EngineError(
                f"The prompt {self.user[:60]!r} has the seed {bad[0]}; seeds lie in 0 .. 2**64 - 1."
            )


@dataclass(frozen=True, slots=True)
class Completion:
    """One drawn completion.

    Attributes:
        prompt_index: index of the prompt in the list given.
        sample_index: index of the seed in the prompt's seeds.
        seed: that seed.
        text: the decoded tokens without special tokens.
        token_ids: the drawn tokens without the stop token.
        n_tokens: `len(token_ids)`, so the stop token is not counted.
        finish_reason: "stop" if a stop token was drawn, "length" if `max_new_tokens` tokens were drawn
            without one.
    """

    prompt_index: int
    sample_index: int
    seed: int
    text: str
    token_ids: tuple[int, ...]
    n_tokens: int
    finish_reason: FinishReason


class Engine(Protocol):
    """What the pipeline asks of an engine."""

    def identity(self) -> dict[str, object]:
        """Describe what besides the prompts, settings and weights can change a completion, as JSON values."""
        ...

    def generate(
        self, prompts: Sequence[Prompt], sampling: SamplingSettings, adapter: Path | None = None
    ) -> Iterator[Completion]:
        """Draw one completion per prompt and seed, in the order (prompt, sample).

        Args:
            prompts: conversations with the seeds of their samples.
            sampling: every sampling setting.
            adapter: directory of the peft adapter in force, for an engine that swaps adapters; None draws from the
                weights that the engine was opened with.

        Raises:
            EngineError: the prompts, the settings or the adapter are not acceptable.
        """
        ...

    def close(self) -> None:
        """Give the model's memory back; the engine cannot be used any more."""
        ...
