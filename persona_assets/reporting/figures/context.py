"""What a figure has to know besides the tables it draws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from persona_assets.panel import CATEGORIES
from persona_assets.reporting.figures.errors import FigureError

if TYPE_CHECKING:
    from persona_assets.study import Study


@dataclass(frozen=True)
class Provenance:
    """Where the numbers of a figure come from.

    Attributes:
        study: Name of the study (for a picture of one adapter: of the profile).
        asset: Key of the asset that the picture belongs to, written with slashes.
        data_version: Data version of the tables that are drawn.
    """

    study: str
    asset: str
    data_version: str

    def __post_init__(self) -> None:
        """Refuse an empty field.

        Raises:
            FigureError: A field is empty.
        """
        for field in ("study", "asset", "data_version"):
            if not getattr(self, field):
                raise FigureError(
                    f"{field} of a figure is empty: a picture without its origin cannot be checked"
                )


@dataclass(frozen=True)
class FigureContext(Provenance):
    """Provenance and the facts of the analysis plan that the pictures show.

    Attributes:
        primary_layers: The pre-registered layers.
        alpha: Two-sided significance level of the plan.
        confidence_level: Level of every interval drawn.
        anchor: Persona that cosines are taken to.
        panel: Persona ids in panel order.
        categories: Category of every persona of the panel.
        drift_low_share: Share of drops from which the drift trigger fires.
        drift_match_share: Share of drops that matches the earlier episode.
        not_within_category: Personas left out of the within-category statistics.
    """

    primary_layers: tuple[int, ...]
    alpha: float
    confidence_level: float
    anchor: str
    panel: tuple[str, ...]
    categories: Mapping[str, str]
    drift_low_share: float
    drift_match_share: float
    not_within_category: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse facts that cannot be drawn.

        Raises:
            FigureError: A level outside 0-1, an anchor or a category that does not fit the panel.
        """
        super().__post_init__()
        for field in ("alpha", "confidence_level"):
            if not 0 < getattr(self, field) < 1:
                raise FigureError(f"{field} must lie between 0 and 1, got {getattr(self, field)}")
        if len(set(self.panel)) != len(self.panel):
            raise FigureError("the panel of a figure names a persona twice")
        if self.anchor not in self.panel:
            raise FigureError(f"the anchor {self.anchor!r} is not in the panel {list(self.panel)}")
        wrong = {p: self.categories.get(p) for p in self.panel if self.categories.get(p) not in CATEGORIES}
        if wrong:
            raise FigureError(f"every persona of the panel needs a category out of {CATEGORIES}; got {wrong}")

    @classmethod
    def from_study(cls, study: Study, *, asset: str, data_version: str) -> FigureContext:
        """Take the plan facts from a study.

        Args:
            study: The pre-registered study.
            asset: Key of the asset that publishes the pictures, written with slashes.
            data_version: Data version of the drawn tables.

        Returns:
            The context of this study's figures.
        """
        plan = study.analysis
        return cls(
            study=study.name,
            asset=asset,
            data_version=data_version,
            primary_layers=tuple(plan.primary_layers),
            alpha=plan.alpha,
            confidence_level=plan.confidence_level,
            anchor=study.panel.anchor,
            panel=tuple(study.panel.ids),
            categories=dict(study.panel.categories),
            drift_low_share=plan.drift_low_share,
            drift_match_share=plan.drift_match_share,
            not_within_category=tuple(p.id for p in study.panel.personas if p.exclude_from_within_category),
        )

    @property
    def confidence_words(self) -> str:
        """The level of the intervals as captions write it: `95%`."""
        return f"{100 * self.confidence_level:g}%"

    @property
    def present_categories(self) -> tuple[str, ...]:
        """Categories that the panel has, in their order."""
        return tuple(category for category in CATEGORIES if category in self.categories.values())

    @property
    def by_category(self) -> tuple[str, ...]:
        """Persona ids ordered by category, in panel order within one."""
        return tuple(p for category in CATEGORIES for p in self.panel if self.categories[p] == category)
