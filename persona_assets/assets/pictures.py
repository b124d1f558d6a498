"""Pictures in metadata."""

from __future__ import annotations

from pathlib import Path

from dagster import MetadataValue

from persona_assets.store import Manifest


def loss_curve_picture(curve: Path, manifest: Manifest, seed: int) -> MetadataValue:
    """Draw an adapter's loss curve for its metadata."""
    import polars as pl

    from persona_assets.reporting.figures import Provenance, loss_curve, png_bytes_to_markdown

    profile, persona = manifest.path.split("/")[0], manifest.path.rsplit("persona=", 1)[1]
    provenance = Provenance(study=profile, asset=f"{profile}/adapter", data_version=manifest.data_version)
    drawing = loss_curve(pl.read_parquet(curve), provenance, persona=persona, seed=seed)
    return MetadataValue.md(png_bytes_to_markdown(drawing.png()))


def picture(file: Path) -> MetadataValue:
    """Show a png."""
    from persona_assets.reporting.figures import png_bytes_to_markdown

    return MetadataValue.md(png_bytes_to_markdown(file.read_bytes()))


def pictures(directory: Path) -> dict[str, MetadataValue]:
    """Show every png of a directory, by its name."""
    return {file.stem: picture(file) for file in sorted(directory.glob("*.png"))}
