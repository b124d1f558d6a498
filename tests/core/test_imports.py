"""An import points down, never up; and the code location loads without the heavy libraries."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
# From the bottom up; a module belongs to the layer with the longest name that it begins with.
LAYERS = ("persona_assets", "resources", "persona_assets.assets", "sensors", "definitions", "persona_assets.cli")
CORE = LAYERS[0]
HEAVY = ("torch", "transformers", "peft", "vllm", "matplotlib", "pandas", "scipy", "sklearn", "statsmodels", "pingouin", "wandb")


def modules(root: Path) -> dict[str, Path]:
    """Every module of the project by its dotted name."""
    files = [root / "definitions.py"]
    for top in ("persona_assets", "resources", "sensors"):
        files += sorted(root.glob(f"{top}/**/*.py"))
    found = {}
    for file in files:
        parts = file.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def layer(module: str) -> str | None:
    """Layer of a module; None when it is not the project's."""
    fitting = [name for name in LAYERS if module == name or module.startswith(f"{name}.")]
    return max(fitting, key=len, default=None)


def imports(name: str, file: Path) -> Iterator[tuple[int, str]]:
    """Every import statement of a module, wherever it stands: line and dotted name of what is imported."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            source = ".".join(part for part in (base, node.module) if part)
            # `from persona_assets import assets` imports a module as well
            yield from ((node.lineno, f"{source}.{alias.name}") for alias in node.names)


def violations(root: Path) -> list[str]:
    """Every import that points up, and every import of Dagster in the core."""
    found = []
    for name, file in modules(root).items():
        own = layer(name)
        assert own is not None
        for line, imported in imports(name, file):
            other = layer(imported)
            if other is not None and LAYERS.index(other) > LAYERS.index(own):
                found.append(f"{file.relative_to(root)}:{line}: {own} imports {imported}, which is above it")
            if own == CORE and imported.split(".")[0].startswith("dagster"):
                found.append(f"{file.relative_to(root)}:{line}: the core imports {imported}")
    return found


def test_imports_point_down() -> None:
    found = modules(REPOSITORY)
    assert {layer(name) for name in found} == set(LAYERS)
    assert len(found) > 50
    assert violations(REPOSITORY) == []


@pytest.mark.parametrize(
    ("file", "code", "said"),
    [
        ("persona_assets/store.py", "from persona_assets.assets.products import Products", "persona_assets/store.py:1"),
        ("persona_assets/store.py", "from persona_assets import assets", "persona_assets/store.py:1"),
        ("persona_assets/store.py", "from . import cli", "persona_assets/store.py:1"),
        ("persona_assets/statistics/rates.py", "from ..assets import products", "persona_assets/statistics/rates.py:1"),
        ("persona_assets/statistics/__init__.py", "from ..cli.app import main", "persona_assets/statistics/__init__.py:1"),
        ("persona_assets/store.py", "def f():\n    import resources.lake", "persona_assets/store.py:2"),
        ("persona_assets/store.py", "import dagster", "the core imports dagster"),
        ("persona_assets/store.py", "def f():\n    from dagster import asset", "the core imports dagster.asset"),
        ("persona_assets/store.py", "if TYPE_CHECKING:\n    from dagster_shared import E", "the core imports dagster_shared"),
        ("resources/lake.py", "from persona_assets.assets import steps", "resources/lake.py:1"),
        ("persona_assets/assets/steps.py", "import sensors", "persona_assets/assets/steps.py:1"),
        ("persona_assets/assets/steps.py", "from persona_assets.cli.app import main", "persona_assets/assets/steps.py:1"),
        ("sensors/__init__.py", "import definitions", "sensors/__init__.py:1"),
        ("definitions.py", "import persona_assets.cli.app", "definitions.py:1"),
    ],
)
def test_an_import_that_points_up_is_found(tmp_path: Path, file: str, code: str, said: str) -> None:
    (tmp_path / "definitions.py").touch()
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(code, encoding="utf-8")
    found = violations(tmp_path)
    assert len(found) == 1
    assert said in found[0]


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("persona_assets/store.py", "from persona_assets.hashing import sha256_file\nfrom . import errors\nimport torch"),
        ("resources/lake.py", "import dagster\nfrom persona_assets.store import Store"),
        ("persona_assets/assets/steps.py", "from resources.lake import Lake\nfrom . import products"),
        ("definitions.py", "import sensors\nfrom persona_assets.assets.building import profile_definitions"),
        ("persona_assets/cli/app.py", "import definitions\nfrom dagster import DagsterInstance"),
    ],
)
def test_an_import_that_points_down_is_no_fault(tmp_path: Path, file: str, code: str) -> None:
    (tmp_path / "definitions.py").touch()
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(code, encoding="utf-8")
    assert violations(tmp_path) == []


def test_the_code_location_loads_without_heavy_libraries() -> None:
    """The UI imports the definitions again and again; seconds of imports belong inside the functions that need them."""
    code = f"import definitions, sys; print(*(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
