"""The loss curve of one adapter, small enough for the metadata of its materialization."""

from __future__ import annotations

import polars as pl

from persona_assets.reporting.figures import style
from persona_assets.reporting.figures.context import Provenance
from persona_assets.reporting.figures.errors import FigureError
from persona_assets.reporting.figures.frames import rows
from persona_assets.reporting.figures.output import Drawing


def loss_curve(history: pl.DataFrame, provenance: Provenance, *, persona: str, seed: int) -> Drawing:
    """Draw the training loss of one adapter by optimizer step.

    Args:
        history: Columns `step` (optimizer steps, each once) and `loss` (mean cross-entropy in nats per
            token); a null loss is a gap in the line.
        provenance: Where the adapter comes from.
        persona: The source persona.
        seed: The training seed.

    Raises:
        FigureError: There are no steps, a step occurs twice, or no step has a loss.
    """
    taken = sorted(rows(history, ("step", "loss"), "loss history"), key=lambda r: r["step"])
    steps = [r["step"] for r in taken]
    if len(set(steps)) != len(steps):
        raise FigureError(f"the loss history of {persona} has a step twice: pass one training run only")
    logged = [r for r in taken if r["loss"] is not None]
    if not logged:
        raise FigureError(f"the loss history of {persona} has no loss at any of its {len(taken)} steps")
    with style.styled():
        figure = style.new_figure(style.HALF_PAGE, 1.9)
        axes = figure.subplots()
        losses = [float("nan") if r["loss"] is None else r["loss"] for r in taken]
        axes.plot(steps, losses, color=style.BLUE, marker="o" if len(taken) <= 40 else "", markersize=2.5)
        axes.set_ylim(0, 1.08 * max(r["loss"] for r in logged) or 1)
        axes.set_xlabel("Optimizer step")
        axes.set_ylabel("Training loss (nats)")
        first, last = logged[0], logged[-1]
        axes.set_title(
            f"{style.readable(persona)}: {style.picture_number(first['loss'])} → "
            f"{style.picture_number(last['loss'])}",
            loc="left",
        )
    caption = (
        f"Training loss of the adapter of {persona} (seed {seed}, {provenance.study}): "
        f"{style.caption_number(first['loss'])} at step {first['step']}, "
        f"{style.caption_number(last['loss'])} at step {last['step']}."
    )
    return Drawing(
        "loss_curve", figure, caption, {"persona": persona, "seed": seed, "steps": taken}, provenance
    )
