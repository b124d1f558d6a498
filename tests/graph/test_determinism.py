"""The same study gives the same bytes in another directory, under another PYTHONHASHSEED, with other threads and workers."""

from __future__ import annotations

from pathlib import Path

import pytest
from deployments import PROFILE, Site, new_site

pytestmark = pytest.mark.slow


def test_two_runs_give_the_same_data_versions(small_site: Site, tmp_path: Path) -> None:
    site = new_site(tmp_path / "an other place" / "ü")
    site.edit(f"{PROFILE}/profile.yaml", lambda content: content["runtime"].update(workers=1))
    site.run("small", more={"PYTHONHASHSEED": "4711", "OMP_NUM_THREADS": "2", "TZ": "Asia/Tokyo", "LC_ALL": "C"})
    expected, found = small_site.data_versions(), site.data_versions()
    assert set(found) == set(expected)
    assert {path for path in found if found[path] != expected[path]} == set()
    assert {path.removeprefix(f"{PROFILE}/").removeprefix("small/").split("/")[0] for path in found} >= {
        *("base_model", "training_answers", "training_dataset", "adapter", "merged_model", "layer_centroids", "base_cells"),
        *("eval_cells", "marker_scores", "tables", "figures", "clean_result"),
    }
    # Made here, and not copied: different runs, the same content.
    assert not {m.run_id for m in site.manifests().values()} & {m.run_id for m in small_site.manifests().values()}


def test_threads_are_the_profiles_in_this_process_as_well(base_site: Site, small_site: Site, tmp_path: Path) -> None:
    """Without workers, the number of threads must not come from the environment: other threads, other sums."""
    import torch

    from persona_assets.catalog import load_catalog
    from resources.model_runtime import ModelRuntime

    profile = load_catalog(base_site.studies, PROFILE).profile
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        seen = [outcome.result for outcome in ModelRuntime().run(profile, lambda _: torch.get_num_threads(), {"x": None})]
        assert seen == [profile.runtime.threads] == [1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
