"""The sections of a clean-result write-up, in order: what the writer fills and the lint requires."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from persona_assets.study import Study

Names = Callable[[Study], list[str]]
TAKEAWAYS = "**Main takeaways:**"
TLDR_PARTS = ("Motivation", "Experiment", "Results", "Takeaways", "Next steps", "Confidence")
SENSITIVITY_LABEL = "**Sensitivity"
MINIMUM_SAMPLES = 2


@dataclass(frozen=True)
class Section:
    """A section of the write-up.

    Attributes:
        key: name of its template.
        heading: as it stands in the text.
        figures: names of the figures it has to show; None where it is no result.
        needs_parent: whether a study without a parent has nothing to say here but that.
        needs_table: table without which an imported study has nothing to say here but that.
    """

    key: str
    heading: str
    figures: Names | None = None
    needs_parent: bool = False
    needs_table: str | None = None

    @property
    def is_result(self) -> bool:
        """Whether the section reports a result."""
        return self.figures is not None

    def has_content(self, study: Study) -> bool:
        """Say whether the study has what the section is about."""
        return self.without_content(study) is None

    def without_content(self, study: Study) -> str | None:
        """Name of the template that says why the section has no content; None where it has."""
        if study.parent is None and self.needs_parent:
            return "no_parent"
        if study.imported is not None and self.needs_table not in (None, *study.imported.tables):
            return "imported_without"
        return None

    def figure_names(self, study: Study) -> list[str]:
        """Figures that the section has to show for this study."""
        return self.figures(study) if self.figures is not None and self.has_content(study) else []


def _layers(stem: str) -> Names:
    return lambda study: [f"{stem}_layer{layer}" for layer in study.analysis.primary_layers]


def _rate_figures(study: Study) -> list[str]:
    whole = study.imported is None or "off_diagonal" in study.imported.tables
    return ["source_rates", *(["rate_heatmap"] if whole else [])]


HUMAN_TLDR = Section("human_tldr", "Human TL;DR")
AI_TLDR = Section("ai_tldr", "AI TL;DR")
ARTIFACTS = Section("artifacts", "Artifacts")
RESULTS = (
    Section("rates", "Result: how often each adapter emits the marker", _rate_figures),
    Section(
        "cosine",
        "Result: source rate and closeness to the anchor",
        lambda study: [*_layers("source_rate_vs_cosine")(study), "spearman_by_layer"],
    ),
    Section("gates", "Result: splits, gates and bucket", lambda study: ["power", *_layers("within_category")(study)]),
    Section(
        "surface",
        "Result: prompt length and surface text",
        lambda study: ["surface_baselines", *([] if study.parent is None else ["length_partial"])],
    ),
    Section("prediction", "Result: predicting personas left out", lambda _: ["cv_error_by_layer"]),
    Section("bystanders", "Result: leakage to other personas", _layers("off_diagonal"), needs_table="off_diagonal"),
    Section("drift", "Result: drift of inherited sources", lambda _: ["inherited_drift", "drift_counts"], needs_parent=True),
    Section("attenuation", "Result: attenuation over panels", lambda _: ["attenuation"], needs_parent=True),
)
SECTIONS = (
    HUMAN_TLDR,
    AI_TLDR,
    Section("human_summary", "Human summary"),
    Section("setup", "Setup and hyper-parameters"),
    Section("background", "Background"),
    Section("methodology", "Methodology"),
    *RESULTS,
    Section("samples", "Sample outputs"),
    ARTIFACTS,
    Section("caveats", "Caveats"),
)
