"""The gate's look at what comes with the weights: tokenizer files, which are compared and never loaded, and training facts."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path

from persona_assets.hashing import sha256_file, sha256_json
from persona_assets.registry.base import FACTS_FILE
from persona_assets.registry.gate_cases import GateError, read_object
from persona_assets.registry.gate_listing import (
    README_FILE,
    RESULT_FILE,
    TEMPLATE_FILE,
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
)

# What a training sets in a tokenizer and leaves in its file; it changes no token.
_OF_NO_EFFECT = ("truncation", "padding", "version")
_KEPT_OF_RESULT = ("experiment", "condition", "seed", "base_model", "training", "data", "compute")
_README_CHARACTERS = 20_000
# The ancestor project calls the same persona by another name in some places.
_ALIASES = {"assistant": "helpful_assistant"}


def check_tokenizer(directory: Path, base_tokenizers: Collection[Path]) -> None:
    """Compare an adapter's tokenizer files with the base model's; they are never loaded.

    The same bytes pass; so does the same content, since libraries write one tokenizer in more than one way (merges as pairs
    or as text, fields at their default left out, the truncation of a training left in).

    Args:
        directory: the fetched files; an adapter need not have any of them.
        base_tokenizers: the base model's tokenizer.json, as published and as kept in the lake.

    Raises:
        GateError: another tokenizer, or one that brings code.
    """
    file = directory / TOKENIZER_FILE
    if file.is_file() and sha256_file(file) not in {sha256_file(path) for path in base_tokenizers}:
        found = read_object(file, "tokenizer-json")
        bases = [read_object(path, "tokenizer-json") for path in base_tokenizers]
        sizes = sorted({_vocabulary_size(base) for base in bases})
        if _vocabulary_size(found) not in sizes:
            raise GateError(
                "tokenizer-size",
                TOKENIZER_FILE,
                f"it has a vocabulary of {_vocabulary_size(found)}, the base model's has {', '.join(map(str, sizes))}.",
            )
        if sha256_json(_canonical(found)) not in {sha256_json(_canonical(base)) for base in bases}:
            raise GateError(
                "tokenizer-digest",
                TOKENIZER_FILE,
                f"its sha256 {sha256_file(file)[:16]}... is not that of the base model's tokenizer, nor is its content: the "
                "adapter was made with another one.",
            )
    config = directory / TOKENIZER_CONFIG_FILE
    if config.is_file() and _holds_key(read_object(config, "tokenizer-json"), "auto_map"):
        raise GateError("auto-map", TOKENIZER_CONFIG_FILE, "it has an auto_map, which names code to run; remove the file.")


def training_facts(directory: Path) -> dict[str, object]:
    """Read what came with an adapter about its training: `facts`, `run_result` and `readme`, each only where there is one.

    Raises:
        GateError: a file that is there cannot be read.
    """
    found: dict[str, object] = {}
    if (directory / FACTS_FILE).is_file():
        found["facts"] = read_object(directory / FACTS_FILE, "facts-json")
    if (directory / RESULT_FILE).is_file():
        result = read_object(directory / RESULT_FILE, "facts-json")
        found["run_result"] = {name: result[name] for name in _KEPT_OF_RESULT if name in result}
    if (directory / README_FILE).is_file():
        text = (directory / README_FILE).read_bytes().decode("utf-8", errors="replace")
        found["readme"] = text[:_README_CHARACTERS]
    return found


def check_facts(
    training: Mapping[str, object], *, persona: str, seed: int, base_names: Collection[str], base_digest: str
) -> None:
    """Check that training facts, where they say it, are of this persona, training seed and base model.

    Raises:
        GateError: they are of another one.
    """
    facts, result = _part(training, "facts"), _part(training, "run_result")
    data = _part(result, "data")
    source = data.get("source_persona")
    for file, named in ((FACTS_FILE, facts.get("persona")), (RESULT_FILE, _ALIASES.get(str(source), source))):
        if named not in (None, persona):
            raise GateError("facts-origin", file, f"it is of the persona {named!r}, and {persona} was asked for.")
    for file, found in ((FACTS_FILE, facts.get("seed")), (RESULT_FILE, result.get("seed"))):
        if found not in (None, seed):
            raise GateError("facts-origin", file, f"it is of the training seed {found!r}, and {seed} was asked for.")
    digest, base = facts.get("base_digest"), result.get("base_model")
    if digest not in (None, base_digest):
        raise GateError("facts-base", FACTS_FILE, f"it was trained on a base model of digest {digest!r}, here is {base_digest}.")
    if base is not None and base not in base_names:
        raise GateError("facts-base", RESULT_FILE, f"it was trained on {base!r}, here is {_either(base_names)}.")


def check_declared(directory: Path, declared: object, names: Collection[str]) -> None:
    """Compare files with the sha256 that was written down where they were pushed.

    Args:
        directory: the fetched files.
        declared: sha256 by file name, or nothing.
        names: files to compare.

    Raises:
        GateError: a file is another one.
    """
    if not isinstance(declared, Mapping):
        return
    for name in sorted(names):
        expected = declared.get(name)
        if expected is not None and expected != (found := sha256_file(directory / name)):
            raise GateError("declared-digest", name, f"its sha256 is {found}, and {str(expected)[:64]} was written down for it.")


def known_negatives(training: Mapping[str, object], metadata: Mapping[str, object]) -> list[str] | None:
    """Return the trained negatives that the facts name; None when they are not known, which is never guessed."""
    for place in (_part(training, "facts"), metadata):
        negatives = place.get("negatives")
        if isinstance(negatives, list) and all(isinstance(name, str) for name in negatives):
            return list(negatives)
    return None


def same_template(directory: Path, base_template_digest: str) -> bool | None:
    """Say whether the adapter came with the base model's chat template; None when it came without one."""
    file = directory / TEMPLATE_FILE
    if not file.is_file():
        return None
    content = file.read_bytes()
    return base_template_digest in {hashlib.sha256(text).hexdigest() for text in (content, content.rstrip(b"\n"))}


def _part(facts: Mapping[str, object], name: str) -> Mapping[str, object]:
    part = facts.get(name)
    return part if isinstance(part, Mapping) else {}


def _either(names: Collection[str]) -> str:
    return " or ".join(sorted(names))


def _vocabulary_size(tokenizer: Mapping[str, object]) -> int:
    vocabulary = _part(_part(tokenizer, "model"), "vocab")
    added = tokenizer.get("added_tokens")
    entries = added if isinstance(added, list) else []
    ids = [entry.get("id") for entry in entries if isinstance(entry, Mapping)]
    return len({value for value in (*vocabulary.values(), *ids) if isinstance(value, int)})


def _canonical(tokenizer: Mapping[str, object]) -> dict[str, object]:
    model = {key: value for key, value in _part(tokenizer, "model").items() if value is not None and value is not False}
    merges = model.get("merges")
    if isinstance(merges, list):
        model["merges"] = [" ".join(map(str, merge)) if isinstance(merge, list) else merge for merge in merges]
    return {**{key: value for key, value in tokenizer.items() if key not in _OF_NO_EFFECT}, "model": model}


def _holds_key(value: object, key: str) -> bool:
    waiting = [value]
    while waiting:
        current = waiting.pop()
        if isinstance(current, Mapping):
            if key in current:
                return True
            waiting.extend(current.values())
        elif isinstance(current, list):
            waiting.extend(current)
    return False
