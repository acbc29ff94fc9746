"""A Ray to work on: a local one that belongs to this process, or a cluster."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from wsi_mitosis.errors import InputError
from wsi_mitosis.io.interrupts import holding_interrupts
from wsi_mitosis.io.processors import granted_cpus
from wsi_mitosis.io.surroundings import (
    LOOPBACK,
    STAGE,
    WITHOUT_RAY,
    check_loopback,
    object_store,
    session_folder,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX, BREAKPOINT = "RAY_", "PYTHONBREAKPOINT"
"""The start of Ray's environment variables, and another one that Ray sets (ray/_private/worker.py)."""
NO_STATISTICS = "RAY_USAGE_STATS_ENABLED"
NO_CLUSTER = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""0 keeps a local Ray on loopback, on Linux too; otherwise Ray replaces 127.0.0.1 by the address that other
machines reach (ray/_private/services.py, `resolve_ip_for_localhost`)."""
TOKEN, TOKEN_MODE, TOKEN_MODES = "RAY_AUTH_TOKEN", "RAY_AUTH_MODE", ("token", "disabled")
"""How Ray's processes prove to one another that they belong together
(ray/_private/authentication/authentication_token_setup.py)."""
UNUSED_PROCESSES = ("start_monitor", "start_api_server", "start_log_monitor")
"""Methods of Ray's `Node` (ray/_private/node.py), each of which starts a process that a local Ray has no use
for: its autoscaler, the dashboard's server, and what copies the output of workers. `ray.init` took 8.4 s with
them and 3.5 s without, on two cores."""
MARK = "RAY_WSI_MITOSIS_SESSION"
"""Marks the processes of a session, which inherit it. By its prefix it is given back like those of Ray."""
WATCHDOG_SECONDS = 40.0
"""For the watchdog to end, which takes a fraction of a second unless a process cannot be killed."""
WAIT_SECONDS = 0.25
CONNECT_SECONDS = 10.0
START_SECONDS = 300.0
"""For the first worker process of a local Ray. Starting from a slow network file system takes minutes."""
MESSAGE_CHARACTERS = 300


@contextmanager
def ray_runtime(address: str | None) -> Iterator[Any]:
    """Connect to the cluster at `address`, or start a local Ray that ends with the block.

    Ray reports no usage statistics and has no dashboard, and a local Ray listens on loopback only. Its
    session is a private folder that is removed at the end. Ray's environment variables are given back.

    Yields:
        The module `ray`.

    Raises:
        InputError: if the cluster cannot be reached, or a local Ray does not start.
    """
    with _environment(), _local_ray() if address is None else _cluster(address) as ray:
        yield ray


@contextmanager
def _environment() -> Iterator[None]:
    """Within the block Ray's environment variables can be changed, by Ray itself as well."""
    before = _ray_variables()
    os.environ[NO_STATISTICS] = "0"
    try:
        yield
    finally:
        for name in _ray_variables().keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
        _forget_authentication()


def _forget_authentication() -> None:
    """Let Ray read its variables again, because a cluster would refuse the token of an earlier local Ray.

    Ray's own tests do it in this order (ray/_private/authentication_test_utils.py).
    """
    raylet: Any = sys.modules.get("ray._raylet")
    with suppress(AttributeError):  # also of another version of Ray, or of one that cannot be imported
        raylet.Config.initialize("")
        raylet.AuthenticationTokenLoader.instance().reset_cache()


def _ray_variables() -> dict[str, str]:
    return {
        name: value for name, value in os.environ.items() if name.startswith(PREFIX) or name == BREAKPOINT
    }


def try_ray() -> str:
    """Start a local Ray, run something on it, and return what it granted."""
    with ray_runtime(None) as ray:
        ray.get(ray.remote(num_cpus=1)(lambda: 1).remote())
        granted = ray.cluster_resources()
        return f"starts; {granted.get('CPU', 0):g} CPUs, {granted.get('GPU', 0):g} GPUs"


@contextmanager
def _cluster(address: str) -> Iterator[Any]:
    import ray

    try:
        _check_listening(address)
        _init(ray, address=address)
    except Exception as error:
        _shut_down(ray)
        raise InputError(
            f"no Ray cluster answers: {brief(error)}",
            subject=f"--address {address}",
            stage="connecting",
            remedy="Run `ray status` on the cluster's head to find its address",
        ) from error
    try:
        yield ray
    finally:
        _shut_down(ray)


@contextmanager
def _local_ray() -> Iterator[Any]:
    """Start a Ray that belongs to this process, and wait until its first worker has started."""
    check_loopback()
    with session_folder() as session, _watched(session):
        _prepare_environment()
        try:
            import ray
        except Exception as error:
            raise _not_started(error) from error
        try:
            _start(ray, session)
            yield ray
        finally:
            _shut_down(ray)


@contextmanager
def _watched(session: Path) -> Iterator[None]:
    """End every process of the session after the block, or after this process if it is killed.

    The last step of a normal end and what follows a kill are the same code, in a small process of its own
    (`workers.watchdog`), which ends with the session.
    """
    os.environ[MARK] = secrets.token_hex(16)
    script = Path(__file__).with_name("watchdog.py")
    command = [sys.executable, "-I", "-S", str(script), str(session), f"{MARK}={os.environ[MARK]}"]
    nothing = subprocess.DEVNULL
    watchdog = subprocess.Popen(  # noqa: S603 - our own script
        command,
        stdin=subprocess.PIPE,
        stdout=nothing,
        stderr=nothing,
        start_new_session=True,
        cwd="/",
        env={},
    )
    try:
        yield
    finally:
        if watchdog.stdin is not None:
            watchdog.stdin.close()
        try:
            watchdog.wait(WATCHDOG_SECONDS)
        except subprocess.TimeoutExpired:
            watchdog.kill()
            watchdog.wait()


def _start(ray: Any, session: Path) -> None:
    store = object_store(session)
    try:
        with _without_unused_processes(ray):
            _init(
                ray,
                address="local",  # otherwise Ray takes RAY_ADDRESS, or a cluster that runs on this machine
                num_cpus=granted_cpus(),
                include_dashboard=False,
                object_store_memory=store.size_bytes,
                _plasma_directory=str(store.folder),
                _temp_dir=str(session / "r"),  # Ray lets everybody write to it, but not to its parent
                _node_ip_address=LOOPBACK,
            )
        _wait_for_worker(ray)
    except Exception as error:
        raise _not_started(error) from error


def _wait_for_worker(ray: Any) -> None:
    """Wait for the first worker process; Ray itself would wait for it without end."""
    answer, end = ray.remote(num_cpus=1)(lambda: None).remote(), monotonic() + START_SECONDS
    with holding_interrupts() as interrupts:
        while not ray.wait([answer], timeout=WAIT_SECONDS)[0]:
            interrupts.check()
            if monotonic() > end:
                raise TimeoutError(f"no worker process has started for {START_SECONDS:g} s")
        ray.get(answer)


def _prepare_environment() -> None:
    """Set the variables that a local Ray and its processes read."""
    os.environ[NO_CLUSTER] = "0"
    # Ray's own token would be written to the home, which may be read-only
    if not os.environ.get(TOKEN):
        os.environ[TOKEN] = secrets.token_hex(32)
    if os.environ.get(TOKEN_MODE) not in TOKEN_MODES:
        os.environ.pop(TOKEN_MODE, None)


def _init(ray: Any, **options: Any) -> None:
    """Start Ray or connect to it, and obey a signal only afterwards."""
    with holding_interrupts() as interrupts, _without_handler_of(ray):
        on_termination = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(log_to_driver=False, logging_level="error", **options)
        except SystemExit as end:  # of Ray's handler, which `_without_handler_of` has not kept away
            raise KeyboardInterrupt from end
        finally:
            if on_termination is not None and threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, on_termination)
        interrupts.check()


@contextmanager
def _without_handler_of(ray: Any) -> Iterator[None]:
    """Keep Ray from installing its handler of SIGTERM, which exits at once (ray/_private/worker.py)."""
    utils = getattr(getattr(ray, "_private", None), "utils", None)
    install = getattr(utils, "set_sigterm_handler", None)
    if install is None:  # another version of Ray
        yield
        return
    utils.set_sigterm_handler = lambda _handler: None  # type: ignore[union-attr]
    try:
        yield
    finally:
        utils.set_sigterm_handler = install  # type: ignore[union-attr]


@contextmanager
def _without_unused_processes(ray: Any) -> Iterator[None]:
    """Keep Ray from starting `UNUSED_PROCESSES`. A method that a version of Ray lacks is left out."""
    node = getattr(getattr(getattr(ray, "_private", None), "node", None), "Node", None)
    with ExitStack() as stack:
        for name in UNUSED_PROCESSES:
            if (method := getattr(node, name, None)) is not None:
                stack.callback(setattr, node, name, method)
                setattr(node, name, lambda *_, **__: None)
        yield


def _shut_down(ray: Any) -> None:
    """End Ray, and obey a signal only afterwards: an exception during the end makes Ray abort the process."""
    with holding_interrupts():
        ray.shutdown()


def _not_started(error: Exception) -> InputError:
    return InputError(
        f"Ray does not start: {type(error).__name__}: {brief(error)}",
        stage=STAGE,
        remedy=f"Run `wsi-mitosis doctor` to find what it lacks; or {WITHOUT_RAY}",
    )


def brief(error: Exception) -> str:
    """Return an error on one line: its first line, and its last, which is the reason that a daemon gave."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return "no reason is given"
    reason = lines[0] if len(lines) == 1 else f"{lines[0].rstrip(':. ')} ({lines[-1]})"
    return reason[:MESSAGE_CHARACTERS]


def _check_listening(address: str) -> None:
    """Fail in seconds if nothing listens at the address: Ray itself tries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
