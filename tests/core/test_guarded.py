"""Calls in a process of their own: results, errors, limits, and nothing left behind."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest
from guarded_calls import (
    environment_of,
    hang,
    leave_a_child,
    process_id,
    refuse,
    refuse_because,
    stumble,
    three_then_hang,
    vanish,
)

from persona_assets.errors import LakeError
from persona_assets.guarded import GuardedCallError, GuardedProcess, UnforeseenError
from persona_assets.replacing import process_alive


@pytest.fixture(scope="module")
def process() -> Iterator[GuardedProcess]:
    with GuardedProcess({"GUARDED": "yes"}) as process:
        yield process


def test_calls_share_one_process_with_its_own_environment(process: GuardedProcess) -> None:
    first = process.call(process_id, seconds=30)
    assert first == process.call(process_id, seconds=30) != os.getpid()
    assert process.call(environment_of, "GUARDED", seconds=30) == "yes"
    assert "GUARDED" not in os.environ


def test_errors_of_ours_come_through_and_others_are_named(process: GuardedProcess) -> None:
    with pytest.raises(LakeError, match="^no such product$"):
        process.call(refuse, seconds=30)
    with pytest.raises(LakeError, match="^no such share\n") as told:
        process.call(refuse_because, seconds=30)
    assert str(told.value) == "no such share"
    assert "in stumble" in told.value.__notes__[0]
    with pytest.raises(UnforeseenError) as caught:
        process.call(stumble, seconds=30)
    assert str(caught.value) == "ZeroDivisionError: division by zero"
    assert "in stumble" in caught.value.__notes__[0]
    assert process.call(environment_of, "GUARDED", seconds=30) == "yes"  # the process goes on


def test_values_arrive_before_the_end_and_the_limit_is_for_each(process: GuardedProcess) -> None:
    before = process.call(process_id, seconds=30)
    values = process.stream(three_then_hang, seconds=1)
    assert [next(values) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(GuardedCallError, match="no answer within 1 s"):
        next(values)
    assert not process_alive(before)
    assert process.call(process_id, seconds=30) != before


def test_a_hanging_call_is_killed_with_what_it_started(process: GuardedProcess) -> None:
    child = process.call(leave_a_child, seconds=30)
    assert process_alive(child)
    started = time.monotonic()
    with pytest.raises(GuardedCallError, match="no answer within 0 s"):
        process.call(hang, seconds=0.2)
    assert time.monotonic() - started < 5
    deadline = time.monotonic() + 5
    while process_alive(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not process_alive(child)


def test_a_process_that_dies_is_said_and_replaced(process: GuardedProcess) -> None:
    with pytest.raises(GuardedCallError, match="its process died"):
        process.call(vanish, seconds=30)
    assert process.call(environment_of, "GUARDED", seconds=30) == "yes"


def test_values_that_nobody_wants_end_the_call(process: GuardedProcess) -> None:
    values = process.stream(three_then_hang, seconds=30)
    assert next(values) == 0
    values.close()
    assert process.call(environment_of, "GUARDED", seconds=30) == "yes"


def test_the_process_ends_with_its_object() -> None:
    process = GuardedProcess({})
    pid = process.call(process_id, seconds=30)
    del process
    assert not process_alive(pid)
