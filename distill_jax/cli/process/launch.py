"""Several hosts: how their processes find each other, and how all of them end when one ends.

Each host runs the same command. Its process starts a worker, which computes, and waits for it. This is necessary
because jax's coordination service aborts the remaining workers from C++, without explanation, when a host is lost.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple, NoReturn

import jax
from tyro.conf import arg

from distill_jax.types import RequestError

WORKER = "DISTILL_JAX_WORKER_OF"
"""environment variable with the process id of a worker's parent"""
TOGETHER = 10
"""seconds for which finished hosts wait for each other"""
START_TIMEOUT = 300
"""seconds within which all hosts must start"""
LOST = (
    "error: another host has ended or does not answer, so this host has ended too: saved progress is kept; "
    "start every host again with --resume"
)
COLLECTIVE = ("Gloo", "NCCL", "coordination service")
"""words in the error of a collective operation whose other hosts are gone"""


@dataclass(frozen=True)
class OnHosts:
    """The options of runners that several hosts can run as one. ``requested_hosts`` reads them before parsing."""

    hosts: int | Literal["auto"] = 1
    """number of processes that run this command as one, on all their devices; auto: from SLURM, Open MPI, Kubernetes, a
    TPU pod or torchrun"""
    host: int | None = None
    """number of this process, from 0"""
    coordinator: Annotated[str | None, arg(metavar="HOST:PORT")] = None
    """address of host 0 with a free port"""
    host_timeout: int = 30
    """seconds without an answer after which a host is lost and all hosts end"""


class Launch(NamedTuple):
    """The arguments of ``jax.distributed.initialize`` for this host. If one is None, jax finds it out."""

    coordinator: str | None = None
    hosts: int | None = None
    host: int | None = None
    local_devices: list[int] | None = None
    timeout: int = 30


def option(argv: Sequence[str], name: str) -> str | None:
    """Return the last value of the option ``name`` on an unparsed command line, or None."""
    found = None
    for place, word in enumerate(argv):
        given, equals, value = word.partition("=")
        if given.replace("_", "-") == name:
            found = value if equals else "".join(argv[place + 1 : place + 2])
    return found


def requested_hosts(argv: Sequence[str], variables: Mapping[str, str] = os.environ) -> Launch | None:
    """Return the launch that the command line requests, or None for one host. Raise RequestError if it is invalid.

    ``--hosts auto`` reads the variables of torchrun and similar launchers. jax itself reads the variables of SLURM,
    Open MPI, Kubernetes and Cloud TPU.
    """
    texts = {name: option(argv, f"--{name}") for name in ("hosts", "host", "host-timeout", "coordinator")}
    hosts, coordinator = texts["hosts"] or "1", texts["coordinator"]
    timeout = _number("host-timeout", texts["host-timeout"] or str(Launch().timeout), 1)
    if hosts == "auto":
        if coordinator or texts["host"]:
            raise RequestError(
                "--hosts auto finds --coordinator and --host itself: leave them out, or give a number of hosts"
            )
        return _from_variables(variables)._replace(timeout=timeout)
    count = _number("hosts", hosts, 1)
    if count == 1 and not coordinator and not texts["host"]:
        return None
    if count == 1 or not coordinator or not texts["host"]:
        raise RequestError("several hosts need --coordinator HOST:PORT --hosts N --host I, or --hosts auto")
    if not coordinator.rpartition(":")[0] or not coordinator.rpartition(":")[2].isdecimal():
        raise RequestError(f"coordinator is {coordinator!r}: give HOST:PORT of the host with --host 0")
    host = _number("host", texts["host"], 0)
    if host >= count:
        raise RequestError(f"host is {host}: number the {count} hosts from 0 to {count - 1}")
    return Launch(coordinator, count, host, None, timeout)


def _number(name: str, text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise RequestError(f"{name} is {text!r}: it must be a whole number, at least {least}")
    return int(text)


def _from_variables(variables: Mapping[str, str]) -> Launch:
    """Return the launch by torchrun. The coordinator takes the port after MASTER_PORT, which torchrun uses."""
    names = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK")
    if not all(name in variables for name in names):
        return Launch()
    address, *numbers = (variables[name] for name in names)
    port, hosts, host = (_number(name, text, 0) for name, text in zip(names[1:], numbers, strict=True))
    shared = _number("LOCAL_WORLD_SIZE", variables.get("LOCAL_WORLD_SIZE", "1"), 1) > 1
    device = [_number("LOCAL_RANK", variables.get("LOCAL_RANK", ""), 0)] if shared else None
    return Launch(f"{address}:{port + 1}", hosts, host, device)


def join(launch: Launch) -> None:
    """Wait for the other hosts and connect to them. Raise RequestError if that is impossible."""
    jax.config.update("jax_enable_preemption_service", False)  # it would intercept SIGTERM
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    at = f" at {launch.coordinator}" if launch.coordinator else ""
    print(f"waiting up to {START_TIMEOUT} s for all hosts{at}", file=sys.stderr, flush=True)
    try:
        jax.distributed.initialize(
            launch.coordinator,
            launch.hosts,
            launch.host,
            launch.local_devices,
            initialization_timeout=START_TIMEOUT,
            heartbeat_timeout_seconds=launch.timeout,
            shutdown_timeout_seconds=2 * TOGETHER,
        )
    except ValueError as error:  # jax found no launcher
        raise RequestError(
            f"--hosts auto finds no launcher ({error}): start it with SLURM, Open MPI, Kubernetes or torchrun, or give "
            "--coordinator HOST:PORT --hosts N --host I"
        ) from error
    devices, local = jax.device_count(), jax.local_device_count()
    if devices != jax.process_count() * local:
        raise RequestError(
            f"this host has {local} of {devices} devices: give all hosts the same number (--devices on a CPU)"
        )
    if jax.process_index() > 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # only the first host prints


def work(launch: Launch, run: Callable[[Callable[[], None]], int]) -> NoReturn:
    """End this process with the exit code of ``run(join)``, which must call ``join`` before jax starts."""
    try:
        _leave(run(lambda: join(launch)))
    except Exception as error:
        lost = any(word in str(error) for word in COLLECTIVE)
        print(LOST if lost else traceback.format_exc(), file=sys.stderr, flush=True)
    os._exit(1)


def _leave(code: int) -> None:
    """End this process together with the other hosts, or alone after TOGETHER seconds."""
    sys.stdout.flush()
    sys.stderr.flush()
    if jax.distributed.is_initialized():
        timer = threading.Timer(TOGETHER, os._exit, [code])
        timer.daemon = True
        timer.start()
        jax.distributed.shutdown()
    os._exit(code)


# ---------------------------------------------------------------- the waiting parent


def is_worker() -> bool:
    """Return whether this process is a worker. A worker ends when its parent ends."""
    parent = os.environ.get(WORKER)
    if parent is None:
        return False

    def watch() -> None:
        while os.getppid() == int(parent):
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    return True


def supervise(module: str, argv: Sequence[str]) -> int:
    """Run ``module.main(argv)`` in a worker and return its exit code. Signals are forwarded to the worker."""
    code = f"import sys; from {module} import main; sys.exit(main(sys.argv[1:]))"
    variables = {**os.environ, WORKER: str(os.getpid())}
    # In a session of its own, the worker gets a Ctrl-C of the terminal only once, through this process.
    worker = subprocess.Popen([sys.executable, "-c", code, *argv], env=variables, start_new_session=True)
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda signum, _: worker.send_signal(signum))
    ended = worker.wait()
    if ended == -signal.SIGABRT:
        print(LOST, file=sys.stderr)
    elif ended < 0 and -ended not in (signal.SIGINT, signal.SIGTERM):
        print(f"error: {signal.Signals(-ended).name} ended the process of this host", file=sys.stderr)
    else:
        return ended if ended >= 0 else 128 - ended
    return 1
