"""References to adapters: every form that is read, and every mistake with the reason that is given for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from persona_assets.registry.reference import (
    AdapterReference,
    BadReferenceError,
    local_path,
    parse_pattern,
    parse_reference,
)

SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "expected", "pinned"),
    [
        (
            "wandb:lab/huggingface/marker_librarian_asst_excluded_medium_seed42:v0",
            AdapterReference("wandb", "lab/huggingface/marker_librarian_asst_excluded_medium_seed42", "v0"),
            True,
        ),
        ("wandb:lab/p/librarian:latest", AdapterReference("wandb", "lab/p/librarian", "latest"), False),
        (f"hf:lab/markers@{SHA}:n12/librarian", AdapterReference("hf", "lab/markers", SHA, "n12/librarian"), True),
        (f"hf:lab/librarian@{SHA}", AdapterReference("hf", "lab/librarian", SHA), True),
        ("hf:lab/librarian@main", AdapterReference("hf", "lab/librarian", "main"), False),
        ("hf:lab/markers@refs/pr/3:x", AdapterReference("hf", "lab/markers", "refs/pr/3", "x"), False),
        (f"hf:lab/markers@{SHA[:12]}", AdapterReference("hf", "lab/markers", SHA[:12]), False),
        ("file:/data/adapters/librarian", AdapterReference("file", "/data/adapters/librarian"), False),
        ("file:~/adapters/my librarian", AdapterReference("file", "~/adapters/my librarian"), False),
        ("file:s3://bucket/n12/librarian", AdapterReference("file", "s3://bucket/n12/librarian"), False),
    ],
)
def test_a_reference_is_read_and_written(text: str, expected: AdapterReference, pinned: bool) -> None:
    assert parse_reference(text) == expected
    assert str(expected) == text
    assert expected.pinned is pinned


def test_more_than_one_way_to_write_the_same_place() -> None:
    assert parse_reference("file:///data/x/") == parse_reference("file:/data/x")
    assert parse_reference("file:file:///data/x") == parse_reference("file:/data/x")
    assert parse_reference("hf:lab/markers@main:n12/") == parse_reference("hf:lab/markers@main:n12")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" file:/x", "white space"),
        ("file:/x\n", "white space"),
        ("file:/x\x00y", "control character"),
        ("s3://bucket/x", "begins with wandb:, hf: or file:"),
        ("librarian", "begins with wandb:, hf: or file:"),
        ("wandb:lab/p/librarian", "the version is missing: add :v0"),
        ("wandb:lab/librarian:v0", "expected wandb:ENTITY/PROJECT/NAME:VERSION"),
        ("wandb:lab/p/../librarian:v0", "expected wandb:"),
        ("hf:lab/markers", "the revision is missing"),
        ("hf:markers@main", "expected hf:ORG/REPO@COMMIT:FOLDER"),
        ("hf:lab/markers@main:a/../../b", "not a plain path inside the repository"),
        ("hf:lab/markers@main:a//b", "not a plain path inside the repository"),
        ("file:adapters/librarian", "relative path"),
        ("file:/data/../etc", r"'\.\.' is not followed"),
        ("file:s3://bucket/../other", r"'\.\.' is not followed"),
        ("file:simplecache::s3://bucket/x", "chained URLs"),
    ],
)
def test_a_mistake_is_named(text: str, reason: str) -> None:
    with pytest.raises(BadReferenceError, match=reason):
        parse_reference(text)


def test_a_pattern_names_one_adapter_for_each_persona_and_seed() -> None:
    pattern = parse_pattern("wandb:lab/p/marker_{persona}_seed{seed}:v0")
    assert pattern.fields == {"persona", "seed"}
    assert str(pattern.reference("villain", 137)) == "wandb:lab/p/marker_villain_seed137:v0"
    assert parse_pattern("file:/x/librarian").fields == frozenset()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("file:/x/{source}", "{source} means nothing here"),
        ("file:/x/{}", "{} means nothing here"),
        ("file:/x/{persona!r}", "{persona} means nothing here"),
        ("file:/x/{persona:>9}", "{persona} means nothing here"),
        ("file:/x/{persona.__class__}", "means nothing here"),
        ("file:/x/{persona", "write {persona} or {seed}"),
        ("wandb:lab/p/{persona}", "the version is missing"),
    ],
)
def test_a_mistake_in_a_pattern_is_named(text: str, reason: str) -> None:
    with pytest.raises(BadReferenceError, match=reason):
        parse_pattern(text)


def test_the_newest_of_a_pinned_reference() -> None:
    assert str(parse_reference("wandb:lab/p/librarian:v0").newest) == "wandb:lab/p/librarian:latest"
    assert str(parse_reference(f"hf:lab/markers@{SHA}:x").newest) == "hf:lab/markers@main:x"
    assert parse_reference("file:/x").newest == parse_reference("file:/x")


def test_only_a_path_is_local() -> None:
    assert local_path(parse_reference("file:/data/x")) == Path("/data/x")
    assert local_path(parse_reference("file:~/x")) == Path.home() / "x"
    assert local_path(parse_reference("file:memory://x")) is None
