from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from persona_assets.errors import LakeError
from persona_assets.replacing import temporary_sibling
from persona_assets.store import MANIFEST, Manifest, Product, Store

ROOT = Product(path="p/root", producer="make_root", version="1", parameters={"seed": 1})
CHILD = Product(path="p/child/persona=x", producer="make_child", version="1", parameters={"rate": 0.5}, inputs=("p/root",))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "lake")


def write(
    store: Store, product: Product = ROOT, files: dict[str, str] | None = None, *, run_id: str = "run-1", replacing: bool = True
) -> Manifest:
    with store.staging(product) as staging:
        for name, text in (files or {"a.txt": "alpha", "deep/b.txt": "beta"}).items():
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            (staging / name).write_text(text, encoding="utf-8")
        return store.publish(product, staging, run_id=run_id, facts={"loss": 0.25}, replace=replacing)


def hidden(store: Store) -> list[str]:
    return sorted(path.name for path in store.root.rglob(".*"))


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def leave_behind(store: Store, kind: str, pid: int, name: str, host: str | None = None) -> Path:
    """Make what a process would leave that died while it wrote, or between the two renames of a replacement."""
    directory = store.root / "p" / f".{kind}-{host or socket.gethostname()}-{pid}-0123abcd-{name}"
    directory.mkdir(parents=True)
    (directory / "a.txt").write_text("half", encoding="utf-8")
    return directory


class TestFingerprint:
    def test_is_stable(self, store: Store) -> None:
        expected = "4c52c1d0"
        found = store.fingerprint(ROOT)
        assert found == store.fingerprint(replace(ROOT, parameters=dict(ROOT.parameters)))
        assert found is not None
        assert len(found) == 64
        assert found[:8] == expected

    @pytest.mark.parametrize(
        "change",
        [{"path": "p/other"}, {"producer": "other"}, {"version": "2"}, {"parameters": {"seed": 2}}, {"parameters": {}}],
        ids=lambda change: next(iter(change)),
    )
    def test_covers_every_field(self, store: Store, change: dict[str, object]) -> None:
        assert store.fingerprint(replace(ROOT, **change)) != store.fingerprint(ROOT)

    def test_does_not_depend_on_the_order_of_parameters(self, store: Store) -> None:
        one, other = ({"a": 1, "b": 2}, {"b": 2, "a": 1})
        assert store.fingerprint(replace(ROOT, parameters=one)) == store.fingerprint(replace(ROOT, parameters=other))

    def test_follows_the_content_of_inputs_and_nothing_else_of_them(self, store: Store) -> None:
        write(store)
        before = store.fingerprint(CHILD)
        write(store, replace(ROOT, parameters={"seed": 99}), run_id="another")  # made otherwise, same bytes
        assert store.fingerprint(CHILD) == before
        write(store, files={"a.txt": "changed", "deep/b.txt": "beta"})
        assert store.fingerprint(CHILD) != before

    def test_is_none_while_an_input_is_missing(self, store: Store) -> None:
        assert store.fingerprint(CHILD) is None
        assert store.missing_inputs(CHILD) == ["p/root"]
        assert store.state(CHILD) == "missing"

    def test_refuses_parameters_json_has_no_form_for(self, store: Store) -> None:
        with pytest.raises(TypeError):
            store.fingerprint(replace(ROOT, parameters={"ids": {"a", "b"}}))


class TestPublish:
    def test_then_read_back(self, store: Store) -> None:
        written = write(store)
        read = store.verified(ROOT.path)
        assert read == written
        assert store.open(ROOT.path) == store.root / "p" / "root"
        assert (store.open(ROOT.path) / "deep" / "b.txt").read_text(encoding="utf-8") == "beta"
        assert set(read.files) == {"a.txt", "deep/b.txt"}
        assert (read.producer, read.version, read.run_id, read.facts) == ("make_root", "1", "run-1", {"loss": 0.25})
        assert read.fingerprint == store.fingerprint(ROOT)
        assert read.libraries["numpy"]
        assert hidden(store) == []

    def test_records_the_content_of_its_inputs(self, store: Store) -> None:
        root = write(store)
        child = write(store, CHILD)
        assert child.inputs == {"p/root": root.data_version}

    def test_data_version_is_that_of_the_content(self, store: Store) -> None:
        first = write(store)
        second = write(store, replace(ROOT, parameters={"seed": 2}), run_id="run-2")
        assert second.data_version == first.data_version
        assert second.fingerprint != first.fingerprint
        third = write(store, files={"a.txt": "alpha", "deep/b.txt": "BETA"})
        assert third.data_version != first.data_version
        renamed = write(store, files={"a.txt": "alpha", "deep/c.txt": "beta"})
        assert renamed.data_version != first.data_version

    def test_current_until_an_input_or_parameter_changes(self, store: Store) -> None:
        write(store)
        child = write(store, CHILD)
        assert store.current(CHILD) == child
        assert store.state(replace(CHILD, version="2")) == "stale"
        assert store.current(replace(CHILD, version="2")) is None
        write(store, files={"a.txt": "new"})
        assert store.state(CHILD) == "stale"

    def test_refuses_nothing(self, store: Store) -> None:
        with pytest.raises(LakeError, match="make_root wrote no file"), store.staging(ROOT) as staging:
            store.publish(ROOT, staging, run_id="run")
        assert store.manifest(ROOT.path) is None
        assert hidden(store) == []

    def test_refuses_when_an_input_disappeared(self, store: Store) -> None:
        with store.staging(CHILD) as staging:
            (staging / "a.txt").write_text("x", encoding="utf-8")
            with pytest.raises(LakeError, match=re.escape("p/child/persona=x: an input disappeared while it was made: p/root")):
                store.publish(CHILD, staging, run_id="run")
        assert store.manifest(CHILD.path) is None

    def test_a_failing_check_keeps_the_old_product(self, store: Store) -> None:
        old = write(store)

        def check(directory: Path) -> None:
            raise ValueError(f"{len(list(directory.iterdir()))} files")

        with store.staging(ROOT) as staging:
            (staging / "a.txt").write_text("bad", encoding="utf-8")
            with pytest.raises(ValueError, match="2 files"):
                store.publish(ROOT, staging, run_id="run", check=check)
        assert store.verified(ROOT.path) == old
        assert hidden(store) == []

    def test_refuses_files_that_change_between_writing_and_reading_back(self, store: Store) -> None:
        def meddle(directory: Path) -> None:
            (directory / "a.txt").write_text("other", encoding="utf-8")

        with store.staging(ROOT) as staging:
            (staging / "a.txt").write_text("one", encoding="utf-8")
            with pytest.raises(LakeError, match="changed between writing and reading back"):
                store.publish(ROOT, staging, run_id="run", check=meddle)
        assert store.manifest(ROOT.path) is None

    def test_refuses_facts_that_are_no_numbers(self, store: Store) -> None:
        with store.staging(ROOT) as staging:
            (staging / "a.txt").write_text("one", encoding="utf-8")
            with pytest.raises(ValueError, match="not JSON compliant"):
                store.publish(ROOT, staging, run_id="run", facts={"loss": float("nan")})
        assert store.manifest(ROOT.path) is None

    def test_files_are_readable_by_others(self, store: Store) -> None:
        with store.staging(ROOT) as staging:
            (staging / "a.txt").write_text("one", encoding="utf-8")
            (staging / "a.txt").chmod(0o600)
            store.publish(ROOT, staging, run_id="run")
        assert store.directory(ROOT.path).joinpath("a.txt").stat().st_mode & 0o777 == 0o644

    def test_never_overwrites_when_told_so(self, store: Store) -> None:
        old = write(store, replacing=False)
        with pytest.raises(LakeError, match=re.escape("p/root exists and is never overwritten")):
            write(store, replace(ROOT, parameters={"seed": 2}), {"a.txt": "other"}, replacing=False)
        assert store.verified(ROOT.path) == old

    def test_restores_a_damaged_one_that_is_never_overwritten(self, store: Store) -> None:
        old = write(store, replacing=False)
        (store.directory(ROOT.path) / "a.txt").write_text("rotten", encoding="utf-8")
        new = write(store, run_id="run-2", replacing=False)
        assert (new.data_version, new.run_id) == (old.data_version, "run-2")
        store.verified(ROOT.path)


class TestAtomicity:
    def test_a_reader_sees_the_old_product_or_the_new_one(self, store: Store) -> None:
        """While it is replaced again and again, a product is never there in part, or of two versions at once."""
        names = [f"{number}.txt" for number in range(8)]
        write(store, files=dict.fromkeys(names, "0"))
        directory, stop, seen = store.directory(ROOT.path), threading.Event(), set()
        faults: list[object] = []

        def read() -> None:
            while not stop.is_set():
                try:
                    descriptor = os.open(directory, os.O_RDONLY)  # one product, even if it is renamed meanwhile
                except FileNotFoundError:
                    continue  # between the two renames there is none
                try:
                    texts = []
                    for name in [*names, MANIFEST]:
                        file = os.open(name, os.O_RDONLY, dir_fd=descriptor)
                        texts.append(os.read(file, 1 << 16).decode())
                        os.close(file)
                except FileNotFoundError:
                    # An old one may lose its files once it is no longer at the product's place.
                    if directory.exists() and directory.stat().st_ino == os.fstat(descriptor).st_ino:
                        faults.append("a file is missing")
                    continue
                finally:
                    os.close(descriptor)
                manifest = json.loads(texts.pop())
                if set(manifest["files"]) != set(names) or len(set(texts)) != 1:
                    faults.append(texts)
                seen.add(texts[0])

        reader = threading.Thread(target=read)
        reader.start()
        for version in range(1, 40):
            write(store, files=dict.fromkeys(names, str(version)))
        stop.set()
        reader.join()
        assert not faults
        assert len(seen) > 3

    def test_nothing_is_at_the_place_before_it_is_whole(self, store: Store) -> None:
        with store.staging(ROOT) as staging:
            (staging / "a.txt").write_text("half", encoding="utf-8")
            assert not store.directory(ROOT.path).exists()
            assert store.manifest(ROOT.path) is None
            assert store.state(ROOT) == "missing"
        assert hidden(store) == []


class TestDamage:
    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda d: (d / "a.txt").write_text("alphA"), "the file a.txt does not match the sha256 in its manifest"),
            (lambda d: (d / "a.txt").write_text("alpha and more"), "the file a.txt does not match the sha256"),
            (lambda d: (d / "deep" / "b.txt").unlink(), "the file deep/b.txt is missing"),
            (lambda d: (d / "c.txt").write_text("extra"), "the file c.txt is not in the manifest"),
        ],
        ids=["changed", "longer", "missing", "extra"],
    )
    def test_is_noticed_with_the_name_of_the_file(self, store: Store, damage: object, message: str) -> None:
        write(store)
        directory = store.directory(ROOT.path)
        damage(directory)  # type: ignore[operator]
        with pytest.raises(LakeError, match=re.escape(f"{directory}: {message}")) as raised:
            store.open(ROOT.path)
        assert "Materialize p/root again" in str(raised.value)
        assert message in str(store.fault(ROOT.path))
        assert store.state(ROOT) == "current"  # made from the same inputs ...
        assert store.current(ROOT) is None  # ... and yet in need of work

    def test_of_the_manifest_is_noticed(self, store: Store) -> None:
        write(store)
        file = store.directory(ROOT.path) / MANIFEST
        text = file.read_text(encoding="utf-8")
        file.write_text(text[: len(text) // 2], encoding="utf-8")
        with pytest.raises(LakeError, match=f"{re.escape(str(file))}: not a manifest"):
            store.manifest(ROOT.path)
        content = json.loads(text)
        file.write_text(json.dumps(content | {"data_version": "0" * 64}), encoding="utf-8")
        with pytest.raises(LakeError, match="data version is not that of its files"):
            store.verified(ROOT.path)

    def test_a_product_that_is_not_there(self, store: Store) -> None:
        with pytest.raises(LakeError, match=re.escape("p/root is not in the lake")):
            store.open(ROOT.path)
        assert store.fault(ROOT.path) is None


class TestSweep:
    def test_staging_of_a_dead_process_goes(self, store: Store) -> None:
        product = write(store)
        left = leave_behind(store, "staging", dead_pid(), "root")
        assert store.sweep() == [left]
        assert hidden(store) == []
        assert store.verified(ROOT.path) == product

    def test_a_replaced_product_comes_back_when_the_new_one_did_not_arrive(self, store: Store) -> None:
        old = write(store)
        directory = store.directory(ROOT.path)
        directory.rename(directory.parent / f".replaced-{socket.gethostname()}-{dead_pid()}-0123abcd-root")
        assert store.manifest(ROOT.path) is None
        store.sweep()
        assert store.verified(ROOT.path) == old
        assert hidden(store) == []

    def test_a_replaced_product_goes_when_the_new_one_arrived(self, store: Store) -> None:
        new = write(store)
        leave_behind(store, "replaced", dead_pid(), "root")
        store.sweep()
        assert store.verified(ROOT.path) == new
        assert hidden(store) == []

    def test_a_name_with_dashes_is_restored_under_its_own_name(self, store: Store) -> None:
        leave_behind(store, "replaced", dead_pid(), "persona=a-b-c")
        store.sweep()
        assert (store.root / "p" / "persona=a-b-c" / "a.txt").is_file()

    def test_what_a_living_process_writes_stays(self, store: Store) -> None:
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
            left = leave_behind(store, "staging", process.pid, "root")
            assert store.sweep() == []
            assert left.is_dir()
            process.kill()
        assert store.sweep() == [left]

    def test_a_temporary_file_of_a_dead_process_goes(self, store: Store) -> None:
        write(store)
        file = temporary_sibling(store.root / "p" / "warehouse.duckdb")
        left = file.with_name(file.name.replace(f"-{os.getpid()}-", f"-{dead_pid()}-"))
        left.touch()
        file.touch()
        assert store.sweep() == [left]
        assert file.exists()

    @pytest.mark.parametrize("host", ["elsewhere", f"{socket.gethostname()}-gpu", f"{socket.gethostname()}-4194303"])
    def test_what_another_host_writes_stays(self, store: Store, host: str) -> None:
        left = leave_behind(store, "staging", dead_pid(), "root", host)
        assert store.sweep() == []
        assert left.is_dir()

    def test_nothing_to_do_before_the_first_product(self, store: Store) -> None:
        assert store.sweep() == []
