"""From what was read to one study: its personas, cells and geometry, and what they can and cannot support."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from pydantic import ValidationError

from persona_assets.ancestor.centroids import Centroids
from persona_assets.ancestor.condition import Cell
from persona_assets.ancestor.gathering import Centring, Gathered, Options, rows_of_study
from persona_assets.ancestor.reading import AncestorError
from persona_assets.geometry.cosines import anchor_cosines
from persona_assets.hashing import sha256_json
from persona_assets.imported import IMPORTED_TABLES, ImportedPersona, NotSupported
from persona_assets.panel import Category, Persona
from persona_assets.questions import QuestionSet

MINIMUM_PERSONAS = 4
_SAME_RATE = 5e-5  # rates may be written with four decimals
_SAME_COSINE = 0.01  # centroids may have been averaged in half precision


@dataclass(frozen=True)
class Assembly:
    """One study, as its files give it.

    Attributes:
        personas: the sources: this project's order first, then the files'.
        prompt_tokens: by persona, empty where not every one is recorded.
        cells: row of cells by source and training seed.
        texts: completions by source and seed, eval persona and question.
        negatives: trained negatives by source; sources whose negatives are unknown are absent.
        cosines: of a whole-study file, by layer and persona; empty where the panel is not covered.
        centring: of those.
        centroids: of exactly the sources; None where one is missing.
        recorded: conditions of measurement that the files give.
        tables: assets that the data support.
        not_supported: what they do not.
        primary_layer: as recorded, None where no file says.
        layers: layers with cosines centred on the panel.
    """

    personas: tuple[ImportedPersona, ...]
    prompt_tokens: Mapping[str, int]
    cells: Mapping[tuple[str, int], Mapping[str, Cell]]
    texts: Mapping[tuple[str, int], Mapping[str, Mapping[str, list[str]]]]
    negatives: Mapping[str, tuple[str, ...]]
    cosines: Mapping[int, Mapping[str, float]]
    centring: Centring
    centroids: Centroids | None
    recorded: Mapping[str, object]
    tables: tuple[str, ...]
    not_supported: tuple[NotSupported, ...]
    primary_layer: int | None
    layers: tuple[int, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Training seeds, ascending."""
        return tuple(sorted({seed for _, seed in self.cells}))

    @property
    def completions(self) -> tuple[int, ...]:
        """Numbers of completions that cells have, ascending."""
        return tuple(sorted({cell.n for row in self.cells.values() for cell in row.values()}))


def assemble(gathered: Gathered, options: Options, questions: QuestionSet, *, prompts_here: bool = False) -> Assembly:
    """Make one study of what was read.

    Args:
        gathered: what was read.
        options: as it was read with.
        questions: those of this project, to recognise the same ones.
        prompts_here: the user states that personas whose training data are absent had this project's prompts.

    Raises:
        AncestorError: there is no source rate, files contradict each other, or something must be stated.
    """
    cells = _cells(gathered, options)
    sources = _ordered(gathered, options, {source for source, _ in cells})
    prompts = _prompts(gathered, options, sources, prompts_here)
    categories = _categories(gathered, options, sources)
    personas = tuple(_persona(source, categories[source], prompts.get(source)) for source in sources)
    study = gathered.study
    covered = study is not None and set(sources) <= set(study.cosines[next(iter(study.cosines))])
    cosines = study.cosines if study is not None and covered else {}
    centroids = _centroids(gathered, sources)
    if options.centring == "panel" and centroids is not None:
        _compare_geometry(sources, options.panel.anchor, cosines, centroids)
    panel_layers = set(centroids.layers if centroids else ()) | set(cosines if options.centring == "panel" else ())
    tokens = dict(study.prompt_tokens) if study is not None and set(sources) <= set(study.prompt_tokens) else {}
    texts = {key: condition.texts for key, condition in gathered.conditions.items() if condition.texts}
    negatives = dict(_negatives(gathered, options, prompts))
    told = _Support(gathered, options, sources, cells, sorted(panel_layers), centroids is not None, bool(tokens), negatives)
    return Assembly(
        personas=personas,
        prompt_tokens=tokens,
        cells=cells,
        texts=texts,
        negatives=negatives,
        cosines=cosines,
        centring=options.centring,
        centroids=centroids,
        recorded=_recorded(gathered, cells, questions),
        tables=told.tables(),
        not_supported=tuple(NotSupported(what=what, why=why) for what, why in told.missing(prompts)),
        primary_layer=None if study is None else study.primary_layer,
        layers=tuple(sorted(panel_layers)),
    )


def _cells(gathered: Gathered, options: Options) -> dict[tuple[str, int], Mapping[str, Cell]]:
    found: dict[tuple[str, int], Mapping[str, Cell]] = {key: c.cells for key, c in gathered.conditions.items()}
    study, seeds = gathered.study, sorted({seed for _, seed in gathered.conditions})
    if study is None:
        if not found:
            raise AncestorError("There is no source rate: neither a condition directory nor a whole-study file was taken.")
        return found
    if len(seeds) < 2:
        for (source, seed), row in found.items():
            rate, own = study.source_rates.get(source), row[source]
            if rate is not None and abs(rate - own.hits / own.n) > _SAME_RATE:
                raise AncestorError(
                    f"{source}: regression_results.json says {rate:g}, the condition directory "
                    f"{gathered.place(gathered.conditions[source, seed].directory)} {own}: import one without the other."
                )
    without_directory = [persona for persona in study.personas if persona not in {source for source, _ in found}]
    if without_directory:
        own_seed = options.seed if options.seed is not None else seeds[0] if len(seeds) == 1 else None
        if own_seed is None:
            raise AncestorError("regression_results.json does not record the training seed of its rates: state it with --seed.")
        rows = rows_of_study(study, options)
        found |= {(persona, own_seed): {persona: rows[persona]} for persona in without_directory}
    return found


def _ordered(gathered: Gathered, options: Options, sources: set[str]) -> tuple[str, ...]:
    listed = (*options.panel.ids, *(gathered.study.personas if gathered.study else ()), *sorted(sources))
    return tuple(dict.fromkeys(persona for persona in listed if persona in sources))


def _prompts(gathered: Gathered, options: Options, sources: tuple[str, ...], prompts_here: bool) -> dict[str, str]:
    found = {source: gathered.training[source].prompt for source in sources if source in gathered.training}
    for source, prompt in found.items():
        if source in options.panel.ids and options.panel[source].prompt != prompt:
            text = f"{source} was trained with the prompt {prompt!r}; personas.yaml has {options.panel[source].prompt!r}"
            gathered.tell("note", gathered.root, f"{text}: rates of the two are not compared as drift")
    if prompts_here:
        found = {s: options.panel[s].prompt for s in sources if s in options.panel.ids} | found
    return found


def _persona(source: str, category: Category, prompt: str | None) -> ImportedPersona:
    try:
        if prompt is not None:
            Persona(id=source, category=category, prompt=prompt)
        return ImportedPersona(id=source, category=category, prompt=prompt)
    except ValidationError as error:
        why = "; ".join(problem["msg"].removeprefix("Value error, ") for problem in error.errors())
        raise AncestorError(f"{source} cannot be a persona here, with the prompt {prompt!r}: {why}.") from error


def _categories(gathered: Gathered, options: Options, sources: tuple[str, ...]) -> dict[str, Category]:
    recorded: Mapping[str, Category] = gathered.study.categories if gathered.study else {}
    clash = [s for s in sources if s in recorded and options.categories.get(s, recorded[s]) != recorded[s]]
    if clash:
        raise AncestorError(f"--category {clash[0]}={options.categories[clash[0]]}: the files say {recorded[clash[0]]}.")
    found = {**options.panel.categories, **options.categories, **recorded}
    if missing := [source for source in sources if source not in found]:
        raise AncestorError(
            f"There is no category of {', '.join(missing)} in the files or in personas.yaml: state it, for example "
            f"--category {missing[0]}=occupational."
        )
    return {source: found[source] for source in sources}


def _centroids(gathered: Gathered, sources: tuple[str, ...]) -> Centroids | None:
    found = gathered.centroids
    if found is None or not set(sources) <= set(found.vectors):
        return None
    return Centroids(found.layers, {source: found.vectors[source] for source in sources})


def _compare_geometry(
    sources: tuple[str, ...], anchor: str, cosines: Mapping[int, Mapping[str, float]], centroids: Centroids
) -> None:
    shared = [layer for layer in centroids.layers if layer in cosines]
    if anchor not in sources or not shared:
        return
    stacked = np.stack([centroids.vectors[source] for source in sources])
    own = anchor_cosines(stacked, sources.index(anchor))
    for layer in shared:
        computed = own[centroids.layers.index(layer)]
        written = np.array([cosines[layer][source] for source in sources])
        worst = int(np.argmax(np.abs(computed - written)))
        if abs(computed[worst] - written[worst]) > _SAME_COSINE:
            raise AncestorError(
                f"{sources[worst]} at layer {layer}: regression_results.json says cosine {written[worst]:.4f}, the centroids "
                f"give {computed[worst]:.4f} when centred on these {len(sources)} personas: import one without the other."
            )


def _negatives(gathered: Gathered, options: Options, prompts: Mapping[str, str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    by_prompt = {persona.prompt: persona.id for persona in options.panel} | {prompt: source for source, prompt in prompts.items()}
    for source, data in gathered.training.items():
        named = [by_prompt.get(prompt) for prompt in data.negatives]
        if None not in named and source not in named:
            yield source, tuple(name for name in named if name is not None)


def _recorded(
    gathered: Gathered, cells: Mapping[tuple[str, int], Mapping[str, Cell]], questions: QuestionSet
) -> dict[str, object]:
    found: dict[str, object] = {}
    runs = [condition.run for condition in gathered.conditions.values()]
    temperatures = {run.temperature for run in runs if run is not None}
    if len(temperatures) > 1:
        raise AncestorError(f"The conditions were evaluated at temperatures {', '.join(map(str, sorted(temperatures)))}.")
    if temperatures and None not in runs and set(cells) == set(gathered.conditions):
        found["temperature"] = temperatures.pop()
    asked = {frozenset(cell.questions) if cell.questions else None for row in cells.values() for cell in row.values()}
    if len(asked) == 1 and (known := asked.pop()):
        own = [question for question in questions.evaluation if question in known]
        found["questions_digest"] = sha256_json(own if len(own) == len(known) else sorted(known))
    return found


@dataclass(frozen=True)
class _Support:
    """What the data support, and the reasons where they do not."""

    gathered: Gathered
    options: Options
    sources: tuple[str, ...]
    cells: Mapping[tuple[str, int], Mapping[str, Cell]]
    layers: list[int]
    centroids: bool
    tokens: bool
    negatives: Mapping[str, tuple[str, ...]]

    def tables(self) -> tuple[str, ...]:
        """Assets that can be computed."""
        left_out = set()
        if not self.layers:
            left_out.add("geometry")
        if self._no_analysis() is not None:
            left_out |= set(IMPORTED_TABLES) - {"source_rates", "geometry"}
        if left_out or self._no_pairs() is not None:
            left_out.add("off_diagonal")
        return tuple(name for name in IMPORTED_TABLES if name not in left_out)

    def missing(self, prompts: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        """What the data cannot give, and why."""
        gathered, sources = self.gathered, self.sources
        if not self.layers:
            yield "geometry", self._no_geometry()
        why = self._no_analysis()
        if why is not None:
            yield "regressions, power, gates, attenuation and write-up", why
        no_pairs = why or self._no_pairs()
        if no_pairs is not None:
            yield "off_diagonal", no_pairs
        yield "probe", "hidden states question by question are in none of the files"
        yield "truncation", "no file records why a completion ended, so truncated ones cannot be told"
        if not gathered.base:
            yield "base rates", "there is no base_baseline.json"
        elif unmeasured := [source for source in sources if source not in gathered.base]:
            yield "base rates", f"base_baseline.json has none of {_some(unmeasured)}"
        if any(cell.questions is None for row in self.cells.values() for cell in row.values()):
            yield "intervals by question", "some rates are known only as a sum over questions"
        if len({key for key, c in gathered.conditions.items() if c.texts}) < len(self.cells):
            yield "sample completions", "there is no raw_completions.json for every source"
        if unknown := [source for source in sources if source not in prompts]:
            yield "prompts and surface baselines", f"no training data give the prompt of {_some(unknown)}"
        if unknown := [source for source in sources if source not in self.negatives]:
            yield "kinds of cells", f"the trained negatives of {_some(unknown)} are not known"
        if unknown := sorted({source for source, seed in self.cells if (source, seed) not in gathered.adapters}):
            yield "adapter digests", f"there is no adapter directory of {_some(unknown)}"

    def _no_geometry(self) -> str:
        if self.gathered.study is None and self.gathered.centroids is None:
            return "there is neither a regression_results.json nor a file of centroids"
        if self.gathered.study is not None and self.options.centring == "none":
            return "the recorded cosines are not centred on the panel, and there are no centroids of every source"
        return "the recorded cosines or centroids do not cover every source"

    def _no_analysis(self) -> str | None:
        if not self.layers:
            return self._no_geometry()
        if self.options.panel.anchor not in self.sources:
            return f"the anchor {self.options.panel.anchor} is not among the sources"
        if not self.tokens:
            return "prompt lengths in tokens are recorded in regression_results.json alone, and it does not cover every source"
        if len(self.sources) < MINIMUM_PERSONAS:
            return f"{len(self.sources)} sources are fewer than {MINIMUM_PERSONAS}"
        seeds = {seed for _, seed in self.cells}
        if len(self.cells) != len(seeds) * len(self.sources):
            return "not every source has every training seed: choose one with --seed"
        return None

    def _no_pairs(self) -> str | None:
        if not self.centroids:
            return "there are no centroids of every source, so no cosines between them"
        if not any(persona != source for (source, _), row in self.cells.items() for persona in row if persona in self.sources):
            return "no adapter was evaluated under another source's persona"
        return None


def _some(personas: list[str]) -> str:
    return ", ".join(personas[:5]) + (f" and {len(personas) - 5} more" if len(personas) > 5 else "")
