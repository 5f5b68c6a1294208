"""Several hosts: how their processes find each other, and how all end when one does.

Each host runs the same command. Its process starts a worker, which computes, and waits for it: when a host is lost,
jax's coordination service aborts the others from within C++, where no line of Python explains it or gives a result.
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
"""the variable that tells a worker the process that waits for it"""
TOGETHER = 10
"""seconds in which hosts that end by themselves wait for each other"""
START_TIMEOUT = 300
"""seconds in which all hosts must have started"""
LOST = (
    "error: another host has ended or does not answer, so this one has ended too: what was saved is kept; "
    "start every host again with --resume"
)
COLLECTIVE = ("Gloo", "NCCL", "coordination service")
"""words in the error of a collective operation that another host does not take part in any more"""


@dataclass(frozen=True)
class OnHosts:
    """The options of runners that several hosts can run as one; read by ``asked`` before they are parsed."""

    hosts: int | Literal["auto"] = 1
    """processes that run this command as one, on the devices of all; auto: as SLURM, Open MPI, Kubernetes, a TPU pod or
    torchrun say"""
    host: int | None = None
    """which of them this is, from 0"""
    coordinator: Annotated[str | None, arg(metavar="HOST:PORT")] = None
    """where host 0 can be reached by the others, on a free port"""
    host_timeout: int = 30
    """seconds after which a host that does not answer is given up, and all end"""


class Launch(NamedTuple):
    """This host's place among all, as ``jax.distributed.initialize`` takes it; None: what jax finds out by itself."""

    coordinator: str | None = None
    hosts: int | None = None
    host: int | None = None
    local_devices: list[int] | None = None
    timeout: int = 30


def option(argv: Sequence[str], name: str) -> str | None:
    """The last value of the option ``name`` on a command line that is not parsed yet."""
    found = None
    for place, word in enumerate(argv):
        given, equals, value = word.partition("=")
        if given.replace("_", "-") == name:
            found = value if equals else "".join(argv[place + 1 : place + 2])
    return found


def requested_hosts(argv: Sequence[str], variables: Mapping[str, str] = os.environ) -> Launch | None:
    """What the command line says about hosts; None where one works alone. Raises RequestError for what makes no sense.

    ``--hosts auto`` takes the variables of torchrun and its like; those of SLURM, Open MPI, Kubernetes and Cloud TPU
    are left to jax, which knows them.
    """
    texts = {name: option(argv, f"--{name}") for name in ("hosts", "host", "host-timeout", "coordinator")}
    hosts, coordinator = texts["hosts"] or "1", texts["coordinator"]
    timeout = _number("host-timeout", texts["host-timeout"] or str(Launch().timeout), 1)
    if hosts == "auto":
        if coordinator or texts["host"]:
            raise RequestError(
                "--hosts auto finds --coordinator and --host by itself: leave them out, or give a number"
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
    """torchrun itself listens on MASTER_PORT, so the coordinator takes the port after it."""
    names = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK")
    if not all(name in variables for name in names):
        return Launch()
    address, *numbers = (variables[name] for name in names)
    port, hosts, host = (_number(name, text, 0) for name, text in zip(names[1:], numbers, strict=True))
    shared = int(variables.get("LOCAL_WORLD_SIZE", "1")) > 1
    return Launch(f"{address}:{port + 1}", hosts, host, [int(variables["LOCAL_RANK"])] if shared else None)


def join(launch: Launch) -> None:
    """Wait for the other hosts and become one of them. Raises RequestError where that cannot be."""
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM away from us
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    at = f" at {launch.coordinator}" if launch.coordinator else ""
    print(f"waiting for all hosts{at}, {START_TIMEOUT} s at most", file=sys.stderr, flush=True)
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
            f"--hosts auto finds no launcher ({error}): start it by SLURM, Open MPI, Kubernetes or torchrun, or give "
            "--coordinator HOST:PORT --hosts N --host I"
        ) from error
    devices, local = jax.device_count(), jax.local_device_count()
    if devices != jax.process_count() * local:
        raise RequestError(f"this host has {local} of {devices} devices: give every host as many (--devices on a CPU)")
    if jax.process_index() > 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the first host says it


def work(launch: Launch, run: Callable[[Callable[[], None]], int]) -> NoReturn:
    """End this process with the exit code of ``run(join)``, where ``join`` has to be called before jax starts."""
    try:
        _leave(run(lambda: join(launch)))
    except Exception as error:
        lost = any(word in str(error) for word in COLLECTIVE)
        print(LOST if lost else traceback.format_exc(), file=sys.stderr, flush=True)
    os._exit(1)


def _leave(code: int) -> None:
    """End this process: with the others where they end as well, without them after TOGETHER seconds."""
    sys.stdout.flush()
    sys.stderr.flush()
    if jax.distributed.is_initialized():
        alone = threading.Timer(TOGETHER, os._exit, [code])
        alone.daemon = True
        alone.start()
        jax.distributed.shutdown()
    os._exit(code)


# ---------------------------------------------------------------- the process that waits


def is_worker() -> bool:
    """Whether this process is a worker; one that is ends with the process that waits for it."""
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
    """Run ``module.main(argv)`` in a worker; returns the exit code. Signals are passed on."""
    code = f"import sys; from {module} import main; sys.exit(main(sys.argv[1:]))"
    variables = {**os.environ, WORKER: str(os.getpid())}
    # A session of its own: of a Ctrl-C in the terminal it hears through this process, once.
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
