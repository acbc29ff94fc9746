"""Signals that end a run are held, and obeyed between two steps."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.runs import send_and_see_taken
from wsi_mitosis.cli.signals import termination_interrupts
from wsi_mitosis.io.interrupts import (
    ENDING_SIGNALS,
    allowing_interrupts,
    current_interrupts,
    holding_interrupts,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def as_in_the_foreground() -> Iterator[None]:
    """A shell lets the jobs that it puts in the background ignore SIGINT; then nothing would be tested."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", ENDING_SIGNALS, ids=lambda n: n.name)
def test_a_signal_interrupts_at_once_if_nothing_is_held(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), termination_interrupts():
        signal.raise_signal(number)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", ENDING_SIGNALS, ids=lambda n: n.name)
def test_a_held_signal_is_obeyed_where_the_program_checks(number: signal.Signals) -> None:
    steps = []
    with termination_interrupts(), holding_interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - the order is tested
            interrupts.check()
            signal.raise_signal(number)
            steps.append("after the signal")
            with holding_interrupts() as inner:
                assert inner is interrupts
            steps.append("after an inner block")
            interrupts.check()
            steps.append("never")
        interrupts.acknowledge()
    assert steps == ["after the signal", "after an inner block"]


def test_a_signal_that_nobody_checks_for_is_obeyed_at_the_end_of_the_outermost_block() -> None:
    steps = []
    with pytest.raises(KeyboardInterrupt), termination_interrupts():  # noqa: PT012 - the order is tested
        with holding_interrupts():
            signal.raise_signal(signal.SIGTERM)
            steps.append("after the signal")
        steps.append("never")
    assert steps == ["after the signal"]


def test_an_acknowledged_signal_is_not_obeyed_again() -> None:
    with termination_interrupts(), holding_interrupts() as interrupts:
        assert not interrupts.acknowledge()
        signal.raise_signal(signal.SIGTERM)
        assert interrupts.acknowledge()
        interrupts.check()


def test_what_may_be_given_up_is_interrupted_at_once_and_not_begun_after_a_signal() -> None:
    with termination_interrupts(), holding_interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt), allowing_interrupts():
            signal.raise_signal(signal.SIGTERM)
        interrupts.acknowledge()
        with pytest.raises(KeyboardInterrupt), allowing_interrupts():
            pytest.fail("it is begun")


def test_from_python_ctrl_c_is_held_and_raised_at_the_end_of_the_block() -> None:
    assert current_interrupts() is None
    steps = []
    with pytest.raises(KeyboardInterrupt), holding_interrupts():  # noqa: PT012 - the order is tested
        signal.raise_signal(signal.SIGINT)
        steps.append("after the signal")
    assert steps
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_from_python_a_second_ctrl_c_is_python_s_own() -> None:
    with pytest.raises(KeyboardInterrupt), holding_interrupts():  # noqa: PT012 - the second one raises
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the second one is held too")


def test_another_thread_holds_nothing() -> None:
    found = []

    def hold() -> None:
        with termination_interrupts(), holding_interrupts() as interrupts:
            found.append((interrupts.received, current_interrupts()))

    thread = threading.Thread(target=hold)
    thread.start()
    thread.join()
    assert found == [(False, None)]


BLOCKED = """
import os, sys
from wsi_mitosis.cli.signals import termination_interrupts
from wsi_mitosis.io.interrupts import holding_interrupts
with termination_interrupts(), holding_interrupts():
    print("begun", flush=True)
    import ctypes
    libc = ctypes.CDLL(None)
    for _ in range(9):
        libc.sleep(600)  # a signal ends one of them, and the handler runs
"""


def test_the_second_signal_ends_a_process_that_waits_in_a_library() -> None:
    with subprocess.Popen([sys.executable, "-c", BLOCKED], cwd=ROOT, stdout=-1, stderr=-1) as process:
        assert process.stdout is not None
        process.stdout.readline()
        send_and_see_taken(process)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == b"ended at once by a signal\n"
