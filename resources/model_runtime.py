"""The model runtime: where the tasks of GPU assets run, and which models they keep loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import TypeVar

from dagster import ConfigurableResource, InitResourceContext
from pydantic import Field

from persona_assets.models.nano.pretrain import torch_threads
from persona_assets.study import Profile, Runtime
from persona_assets.tasks.loaded import release_models
from persona_assets.workers import Outcome, shared_pool

TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")


class ModelRuntime(ConfigurableResource):  # type: ignore[type-arg]  # no resource value other than itself
    """Runs tasks as the profile says; its fields override the profile for one deployment or one run."""

    device: str | None = Field(default=None, description="cpu or cuda, instead of the profile's runtime.device")
    workers: int | None = Field(
        default=None, description="worker processes, instead of the profile's runtime.workers; results do not depend on it"
    )

    def settings(self, profile: Profile) -> Runtime:
        """Return the profile's runtime with this resource's overrides, validated."""
        overrides = {name: value for name, value in (("device", self.device), ("workers", self.workers)) if value is not None}
        return Runtime.model_validate(profile.runtime.model_dump() | overrides)

    def run(
        self, profile: Profile, function: Callable[[TaskT], ResultT], tasks: Mapping[str, TaskT]
    ) -> Iterator[Outcome[ResultT]]:
        """Run tasks by key, yielding outcomes as they arrive; models stay loaded for the next call.

        Tasks have the profile's number of threads, in this process as in a worker: another number gives other sums.
        """
        settings = self.settings(profile)
        pool = shared_pool(settings.workers, settings.threads)
        with nullcontext() if settings.workers else torch_threads(settings.threads):
            yield from pool.run(function, tasks)

    def teardown_after_execution(self, context: InitResourceContext) -> None:
        """Free the models that this process holds; worker processes stay warm until it exits."""
        release_models()
