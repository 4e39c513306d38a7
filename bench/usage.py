"""What each process of a platform uses: CPU seconds, memory of its own, open files."""

import resource
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

import psutil

from veltrix.dev.platform import Platform
from veltrix.dev.servers.rabbitmq import RabbitMQ

_LOAD = "load generator"


class Held(NamedTuple):
    """What a process holds: bytes that are its alone, and open files, sockets and pipes.

    A page of shared memory that only one process has touched yet is nobody's: PostgreSQL's buffers
    have their size from the start.
    """

    uss: int
    files: int


def members(platform: Platform) -> Iterator[tuple[str, psutil.Process]]:
    """(kind, process) of everything there is now; a process that ends meanwhile is left out.

    Kinds: api, relay, worker parent, worker children, sidecar, PostgreSQL, RabbitMQ.
    """
    for member in platform.processes.values():
        if not member.is_running:
            continue
        own = psutil.Process(member.pid)
        yield ("worker parent" if member.kind == "worker" else member.kind), own
        for child in own.children(recursive=True):
            with suppress(psutil.Error):
                is_sidecar = "veltrix.worker.sidecar" in child.cmdline()
                yield ("sidecar" if is_sidecar else "worker children"), child
    assert isinstance(platform.rabbitmq, RabbitMQ)
    for kind, pid in (("PostgreSQL", platform.postgres.pid), ("RabbitMQ", platform.rabbitmq.pid)):
        if pid is not None:
            own = psutil.Process(pid)
            for process in (own, *own.children(recursive=True)):
                yield kind, process


def cpu_seconds(platform: Platform) -> dict[str, float]:
    """CPU seconds until now by kind of process, of those that live; of load processes that ended.

    Kinds: api, relay, worker parent, worker children, sidecar, PostgreSQL, RabbitMQ, load.
    """
    found: dict[str, float] = {}
    for kind, process in members(platform):
        with suppress(psutil.Error):
            times = process.cpu_times()
            found[kind] = found.get(kind, 0.0) + times.user + times.system
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return found | {_LOAD: ended.ru_utime + ended.ru_stime}


def cpu_between(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """CPU seconds used by kind."""
    return {kind: after[kind] - before.get(kind, 0.0) for kind in after}


def held(platform: Platform) -> dict[str, Held]:
    """By "kind pid": what each process holds now.

    PostgreSQL's processes count as one, without those that come, vacuum a table and go.
    """
    found: dict[str, Held] = {}
    for kind, process in members(platform):
        with suppress(psutil.Error):
            if "autovacuum worker" in " ".join(process.cmdline()):
                continue
            name = kind if kind == "PostgreSQL" else f"{kind} {process.pid}"
            now = Held(_own_bytes(process), process.num_fds())
            before = found.get(name, Held(0, 0))
            found[name] = Held(before.uss + now.uss, before.files + now.files)
    return found


def _own_bytes(process: psutil.Process) -> int:
    maps = process.memory_maps(grouped=False)
    return sum(one.private_clean + one.private_dirty for one in maps if "s" not in one.perms)
