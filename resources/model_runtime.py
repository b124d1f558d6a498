"""The model runtime: where the tasks of GPU assets run, and which models they keep loaded."""

from __future__ import annotations

import atexit
import gc
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from enum import Enum
from typing import TypeVar

from dagster import ConfigurableResource, InitResourceContext
from pydantic import Field, ValidationError

from persona_assets.errors import ConfigurationError
from persona_assets.models.nano.pretrain import torch_threads
from persona_assets.processes import preload_model_libraries
from persona_assets.study import Profile, Runtime
from persona_assets.tasks.base_model import HUB_CACHE_VARIABLE
from persona_assets.tasks.loaded import release_models
from persona_assets.workers import Outcome, shared_pool

TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")

# `release_models` freezes what is there, and DuckDB reports on the terminal as leaked what is still frozen at the end.
atexit.register(gc.unfreeze)


class Device(str, Enum):  # noqa: UP042  # Dagster's config knows no other
    """Where models work. As an enumeration, so that the launchpad offers the values and takes no other."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class ModelRuntime(ConfigurableResource):  # type: ignore[type-arg]  # no resource value other than itself
    """Runs tasks as the profile says; its fields override the profile for one deployment or one run."""

    device: Device | None = Field(
        default=None, description="auto (a GPU if there is one), cpu or cuda, instead of the profile's runtime.device"
    )
    workers: int | None = Field(
        default=None, description="worker processes, instead of the profile's runtime.workers; results do not depend on it"
    )

    hub_cache: str | None = Field(
        default=None,
        description="directory for downloaded base models, instead of hub_cache in the lake's root (HF_HOME wins over that too)",
    )

    def settings(self, profile: Profile) -> Runtime:
        """Return the profile's runtime with this resource's overrides, validated.

        Raises:
            ConfigurationError: an override is no device, or no number of workers.
        """
        overrides = {name: value for name, value in (("device", self.device), ("workers", self.workers)) if value is not None}
        try:
            return Runtime.model_validate(profile.runtime.model_dump() | overrides)
        except ValidationError as error:
            wrong = "; ".join(
                f"{'.'.join(map(str, each['loc']))}: {each['msg']} (given: {each['input']!r})"
                if each["loc"]
                else each["msg"].removeprefix("Value error, ")  # of several fields together
                for each in error.errors()
            )
            raise ConfigurationError(f"The config of the resource model_runtime is refused: {wrong}.") from error

    def run(
        self, profile: Profile, function: Callable[[TaskT], ResultT], tasks: Mapping[str, TaskT], *, models: bool = True
    ) -> Iterator[Outcome[ResultT]]:
        """Run tasks by key, yielding outcomes as they arrive; models stay loaded from task to task.

        Args:
            profile: whose runtime settings.
            function: a module-level function.
            tasks: task by key.
            models: whether the tasks work with models; then worker processes begin with the libraries for them.

        Tasks have the profile's number of threads, in this process as in a worker: another number gives other sums. What was
        loaded in this process is freed at the end, so that the next step finds the device's memory empty.
        """
        settings = self.settings(profile)
        if self.hub_cache is not None:
            os.environ[HUB_CACHE_VARIABLE] = self.hub_cache  # workers inherit it
        if settings.workers and models and tasks:
            preload_model_libraries(settings.threads)
        pool = shared_pool(settings.workers, settings.threads)
        with nullcontext() if settings.workers else torch_threads(settings.threads):
            try:
                yield from pool.run(function, tasks)
            finally:
                release_models()

    def teardown_after_execution(self, context: InitResourceContext) -> None:
        """Free the models that this process holds; worker processes stay warm until it exits."""
        release_models()
