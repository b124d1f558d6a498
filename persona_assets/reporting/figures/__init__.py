"""The pictures of a study: functions of tables, each giving a `Drawing` to write as png, pdf and meta.json.

Every number in a picture comes from a table or is written into its meta.json; what is missing in a table is
missing in the picture, and the caption says so.
"""

from persona_assets.reporting.figures.baselines import surface_baselines
from persona_assets.reporting.figures.context import FigureContext, Provenance
from persona_assets.reporting.figures.continuous import continuous_vs_cosine, rate_vs_log_prob
from persona_assets.reporting.figures.cosine import source_rate_vs_cosine, within_category
from persona_assets.reporting.figures.drift_plots import drift, drift_counts
from persona_assets.reporting.figures.errors import FigureError
from persona_assets.reporting.figures.heatmap import rate_heatmap
from persona_assets.reporting.figures.inherited import MEASUREMENTS
from persona_assets.reporting.figures.layers import spearman_by_layer
from persona_assets.reporting.figures.offdiagonal import off_diagonal
from persona_assets.reporting.figures.output import Drawing, WrittenFigure, png_bytes_to_markdown
from persona_assets.reporting.figures.panels import attenuation, length_partial
from persona_assets.reporting.figures.power_curves import power
from persona_assets.reporting.figures.rates import source_rates
from persona_assets.reporting.figures.training import loss_curve
from persona_assets.reporting.figures.validation import cv_error_by_layer

__all__ = [
    "MEASUREMENTS",
    "Drawing",
    "FigureContext",
    "FigureError",
    "Provenance",
    "WrittenFigure",
    "attenuation",
    "continuous_vs_cosine",
    "cv_error_by_layer",
    "drift",
    "drift_counts",
    "length_partial",
    "loss_curve",
    "off_diagonal",
    "png_bytes_to_markdown",
    "power",
    "rate_heatmap",
    "rate_vs_log_prob",
    "source_rate_vs_cosine",
    "source_rates",
    "spearman_by_layer",
    "surface_baselines",
    "within_category",
]
