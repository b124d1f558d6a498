"""The tracker: training and evaluation metrics to Weights & Biases when configured, nothing otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dagster import ConfigurableResource
from pydantic import Field


class Tracker(ConfigurableResource):  # type: ignore[type-arg]  # no resource value other than itself
    """Logs one run for each partition that was worked on; without a project it does nothing."""

    project: str | None = Field(default=None, description="W&B project; empty logs nothing")
    entity: str | None = Field(default=None, description="W&B user or team")
    mode: str = Field(default="online", description="online, or offline and `wandb sync` later")

    def log(
        self,
        name: str,
        *,
        group: str,
        config: Mapping[str, object],
        steps: Sequence[Mapping[str, float]],
        summary: Mapping[str, object],
    ) -> str | None:
        """Log one finished piece of work.

        Args:
            name: for example `adapter/librarian`.
            group: the profile or study.
            config: settings it ran with.
            steps: metrics by step, each with a key `step`.
            summary: final figures.

        Returns:
            The run's directory or URL; None when no project is configured.
        """
        if not self.project:
            return None
        import wandb

        with wandb.init(
            project=self.project,
            entity=self.entity,
            name=name,
            group=group,
            mode=self.mode,  # type: ignore[arg-type]  # wandb checks the value and says which are allowed
            config=dict(config),
        ) as run:
            for metrics in steps:
                values = dict(metrics)
                run.log(values, step=int(values.pop("step")))
            run.summary.update({key: value for key, value in summary.items() if isinstance(value, int | float | str)})
            return run.url if self.mode == "online" else str(run.dir)
