"""Which product each asset of a study writes: its place, what its fingerprint covers and which products it reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from persona_assets.assets.producers import product_of
from persona_assets.assets.shared_products import SharedProducts
from persona_assets.store import Product
from persona_assets.study import Study


@dataclass(frozen=True)
class Products(SharedProducts):
    """The products of one profile and its studies."""

    def eval_cells(self, study: Study, source: str, seed: int, measurement: int) -> Product:
        """One measurement of a source's row of cells."""
        return product_of(
            self.lake.measurement(self.profile, study.name, seed, source, measurement),
            "eval_cells",
            {
                "study": study.name,
                "measurement": measurement,
                "eval_personas": {persona.id: persona.prompt for persona in study.panel},
                "weights": self.catalog.profile.runtime.weights,
                **self._measurement(),
            },
            self.base_path,
            (self.adapter if self.swapped else self.merged_model)(source, seed).path,
        )

    def latest_eval_cells(self, study: Study, source: str, seed: int) -> Product:
        """The latest measurement there is, or the first one to be made."""
        number = self.lake.latest_measurement(self.profile, study.name, seed, source)
        return self.eval_cells(study, source, seed, max(number, 1))

    def next_eval_cells(self, study: Study, source: str, seed: int, *, again: bool) -> Product:
        """The measurement a run has to make: the latest one while it is current, else one more."""
        latest = self.latest_eval_cells(study, source, seed)
        number = self.lake.latest_measurement(self.profile, study.name, seed, source)
        if number == 0 or (self.state(latest) == "current" and not again):
            return latest
        return self.eval_cells(study, source, seed, number + 1)

    def measured_cells(self, study: Study) -> tuple[Product, ...]:
        """Every measurement of the study that is in the lake, by seed, source and number."""
        return tuple(
            self.eval_cells(study, source, seed, number)
            for seed in study.seeds
            for source in study.panel.ids
            for number in self.lake.measurement_numbers(self.profile, study.name, seed, source)
        )

    def marker_scores(self, study: Study, source: str, seed: int, measurement: int) -> Product:
        """Scores of the completions of one measurement."""
        profile = self.catalog.profile
        return product_of(
            self.lake.marker_scores(self.profile, study.name, seed, source, measurement),
            "marker_scores",
            {
                "study": study.name,
                "measurement": measurement,
                "marker": profile.marker,
                "scoring": profile.scoring.model_dump(mode="json"),
                "dtype": profile.runtime.dtype,
                "threads": profile.runtime.threads,
            },
            self.base_path,
            self.adapter(source, seed).path,
            self.lake.measurement(self.profile, study.name, seed, source, measurement),
        )

    def latest_marker_scores(self, study: Study, source: str, seed: int) -> Product:
        """Scores of the latest measurement there is, or of the first one to be made."""
        number = self.lake.latest_measurement(self.profile, study.name, seed, source)
        return self.marker_scores(study, source, seed, max(number, 1))

    def scores_there(self, study: Study) -> tuple[Product, ...]:
        """Scores of the latest measurements that are in the lake: no table needs them, those that can use them do."""
        rows = (self.latest_marker_scores(study, source, seed) for seed in study.seeds for source in study.panel.ids)
        return tuple(product for product in rows if self.store.manifest(product.path) is not None)

    def imported_path(self, study: Study) -> str:
        """Place of what was imported of an earlier study."""
        return self.lake.imported(self.profile, study.name)

    def source_rates(self, study: Study) -> Product:
        """Tables `cells`, `source_rates`, `source_scores` and `measurements`."""
        if study.imported is not None:
            return self._tables(study, "source_rates", {}, self.imported_path(study))
        return self._tables(
            study,
            "source_rates",
            {
                "negatives": {
                    source: None if negatives is None else list(negatives)
                    for source in study.panel.ids
                    for negatives in [self.known_negatives(source, study.seeds)]
                },
                "cohorts": {source: study.cohort(source) for source in study.panel.ids},
                "categories": dict(study.panel.categories),
            },
            self.base_path,
            *self._latest_cells(study),
            *(self.base_cells(persona).path for persona in study.panel.ids),
            *(product.path for product in self.scores_there(study)),
        )

    def geometry(self, study: Study) -> Product:
        """Tables `geometry` and `pairwise_cosines`."""
        if study.imported is not None:
            return self._tables(study, "geometry", {}, self.imported_path(study))
        return self._tables(
            study,
            "geometry",
            {"panel": list(study.panel.ids), "anchor": study.panel.anchor, "frozen_panel": list(frozen_panel(study))},
            *(self.layer_centroids(persona).path for persona in study.panel.ids),
        )

    def power(self, study: Study) -> Product:
        """Table `power`: from the study file alone."""
        return self._tables(
            study,
            "power",
            {
                "categories": dict(study.panel.categories),
                "cohorts": {persona: study.cohort(persona) for persona in study.panel.ids},
                "layers": layer_count(study),
            },
        )

    def regressions(self, study: Study) -> Product:
        """Tables `regressions` and `probe`."""
        if study.imported is not None:
            return self._tables(study, "regressions", {}, *self._rates_and_geometry(study))
        return self._tables(
            study,
            "regressions",
            {"prompts": {persona.id: persona.prompt for persona in study.panel}},
            self.base_path,
            *self._rates_and_geometry(study),
            *(self.layer_centroids(persona).path for persona in study.panel.ids),
        )

    def off_diagonal(self, study: Study) -> Product:
        """Table `off_diagonal`."""
        return self._tables(study, "off_diagonal", {}, *self._rates_and_geometry(study))

    def attenuation(self, study: Study) -> Product:
        """Table `attenuation`: of the study and its ancestors."""
        lineage = (*reversed(study.ancestors), study)
        return self._tables(
            study,
            "attenuation",
            {"lineage": [each.name for each in lineage]},
            *(path for each in lineage if analysed(each) for path in self._rates_and_geometry(each)),
        )

    def inherited_drift(self, study: Study) -> Product:
        """Tables `inherited_drift` and `drift_tests`; a study without a parent has nothing to compare with."""
        parent = () if study.parent is None else (self.table_path(study.parent, "source_rates"),)
        return self._tables(study, "inherited_drift", {}, self.table_path(study, "source_rates"), *parent)

    def remeasurement_drift(self, study: Study) -> Product:
        """Tables `remeasurement_drift`, `remeasurement_tests` and `measurement_history`: of every measurement there is."""
        return self._tables(study, "remeasurement_drift", {}, *(cells.path for cells in self.measured_cells(study)))

    def last_two(self, study: Study) -> dict[tuple[str, int], tuple[int, int]]:
        """Numbers of the last two measurements by source and seed, for those measured at least twice."""
        numbers = {
            (source, seed): self.lake.measurement_numbers(self.profile, study.name, seed, source)
            for seed in study.seeds
            for source in study.panel.ids
        }
        return {row: (found[-2], found[-1]) for row, found in numbers.items() if len(found) > 1}

    def retest(self, study: Study) -> Product:
        """Table `retest`: of the last two measurements and of their scores, where there are any."""
        pairs = [(*row, number) for row, pair in self.last_two(study).items() for number in pair]
        scores = [self.marker_scores(study, *each) for each in pairs]
        return self._tables(
            study,
            "retest",
            {},
            *(self.eval_cells(study, *each).path for each in pairs),
            *(product.path for product in scores if self.store.manifest(product.path) is not None),
        )

    def gates(self, study: Study) -> Product:
        """Tables `gates` and `outcome`."""
        return self._tables(
            study,
            "gates",
            {"excluded": [persona.id for persona in study.panel if persona.exclude_from_within_category]},
            *self._rates_and_geometry(study),
            *(self.table_path(study, name) for name in ("regressions", "inherited_drift", "remeasurement_drift")),
        )

    def figures(self, study: Study) -> Product:
        """Every picture of the study."""
        return product_of(
            self.lake.figures(self.profile, study.name),
            "figures",
            {"study": study.name, "study_digest": study.digest},
            *(path for each in (study, *study.ancestors) for path in self.table_paths(each)),
        )

    def clean_result(self, study: Study) -> Product:
        """The write-up of the study."""
        parameters: dict[str, object] = {"study": study.name, "study_digest": study.digest}
        place, figures = self.lake.clean_result(self.profile, study.name), self.lake.figures(self.profile, study.name)
        if study.imported is not None:
            inputs = (self.imported_path(study), *self.table_paths(study), figures)
            return product_of(place, "clean_result", parameters, *inputs)
        return product_of(
            place,
            "clean_result",
            parameters,
            self.base_path,
            *self.table_paths(study),
            figures,
            *self._latest_cells(study),
        )

    def overview(self, study: Study) -> Product:
        """The one page that says where the study stands and what came out."""
        written = self.clean_result(study)
        return product_of(
            self.lake.overview(self.profile, study.name), "overview", dict(written.parameters), *written.inputs, written.path
        )

    def publication(self, study: Study, destination: str) -> Product:
        """The record of what of the study was published where."""
        return product_of(
            self.lake.publication(self.profile, study.name),
            "publication",
            {"study": study.name, "study_digest": study.digest, "destination": destination},
            *(self.adapter(persona, seed).path for seed in study.seeds for persona in study.panel.ids),
            *self.measured_paths(study),
            *(self.base_cells(persona).path for persona in study.panel.ids),
            *self.table_paths(study),
            self.lake.figures(self.profile, study.name),
            self.lake.clean_result(self.profile, study.name),
        )

    def _rates_and_geometry(self, study: Study) -> tuple[str, str]:
        return self.table_path(study, "source_rates"), self.table_path(study, "geometry")

    def _latest_cells(self, study: Study) -> tuple[str, ...]:
        return tuple(self.latest_eval_cells(study, source, seed).path for seed in study.seeds for source in study.panel.ids)

    def measured_paths(self, study: Study) -> tuple[str, ...]:
        """Paths of every measurement of a study, the earlier ones included; where there is none, of the first one to be made."""
        return tuple(
            self.lake.measurement(self.profile, study.name, seed, source, number)
            for seed in study.seeds
            for source in study.panel.ids
            for number in range(1, max(self.lake.latest_measurement(self.profile, study.name, seed, source), 1) + 1)
        )

    def table_paths(self, study: Study) -> tuple[str, ...]:
        """Paths of all tables of a study."""
        return tuple(self.table_path(study, name) for name in table_names(study))

    def table_path(self, study: Study, asset: str) -> str:
        """Path of the tables that one asset of a study writes."""
        return self.lake.tables(self.profile, study.name, asset)

    def _tables(self, study: Study, asset: str, parameters: dict[str, object], *inputs: str) -> Product:
        return product_of(
            self.table_path(study, asset),
            asset,
            {"study": study.name, "study_digest": study.digest, "analysis": study.analysis.model_dump(mode="json"), **parameters},
            *inputs,
        )

TABLE_PRODUCTS: dict[str, Callable[[Products, Study], Product]] = {
    "power": Products.power,
    "source_rates": Products.source_rates,
    "geometry": Products.geometry,
    "regressions": Products.regressions,
    "off_diagonal": Products.off_diagonal,
    "inherited_drift": Products.inherited_drift,
    "remeasurement_drift": Products.remeasurement_drift,
    "retest": Products.retest,
    "gates": Products.gates,
    "attenuation": Products.attenuation,
}
"""The table assets of a study, in the order in which the story goes, with their products."""

SHOWN_PRODUCTS: dict[str, Callable[[Products, Study], Product]] = {
    "figures": Products.figures,
    "clean_result": Products.clean_result,
    "overview": Products.overview,
}
"""What a person looks at, made from the tables, in the order in which it is made."""


def table_names(study: Study) -> tuple[str, ...]:
    """Table assets that a study has: all of them, or those that its imported data support."""
    return tuple(TABLE_PRODUCTS) if study.imported is None else study.imported.tables


def analysed(study: Study) -> bool:
    """Whether a study has the correlations, gates and write-up: an import can hold too little for them."""
    return "regressions" in table_names(study)


def layer_count(study: Study) -> int:
    """Layers of a study's scan: those of the base model, or those that were imported."""
    return study.profile.base_model.layers if study.imported is None else len(study.imported.layers)


def frozen_panel(study: Study) -> tuple[str, ...]:
    """The reference panel of frozen centring: that of the first study measured here, which never changes."""
    measured = [each for each in (study, *study.ancestors) if each.imported is None]
    return measured[-1].panel.ids
