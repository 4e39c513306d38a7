"""Faults of RabbitMQ, and messages that nobody but a stranger would send."""

import errno
import json
import os
import pickle
import subprocess
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from random import Random
from threading import Event
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from uuid import UUID

import pika
import pika.exceptions

from veltrix.broker.connect import pika_parameters
from veltrix.broker.names import RUNS
from veltrix.dev.children import wait_for
from veltrix.dev.servers.ports import LOOPBACK
from veltrix.dev.servers.rabbitmq import RabbitMQ
from veltrix.prove.deployment.site import Site
from veltrix.prove.faults.injections import Blow
from veltrix.prove.faults.striking import catch, one_of

ALARM_S = 3.0
FILLER = "filler"
_ANSWER_S = 10.0
_ROWS_S = 20.0
_never = Event()


def broker_restarted(site: Site, blow: Blow, _chance: Random) -> None:
    """The node is stopped, and started again with what it had."""
    catch(site, blow)
    blow.strike()
    site.node.stop()
    site.node.start()
    blow.heal()


def broker_killed(site: Site, blow: Blow, _chance: Random) -> None:
    """SIGKILL, and started again with what is on its disk."""
    catch(site, blow)
    blow.strike()
    site.node.wait_queues_kept()
    site.node.kill()
    site.node.start()
    blow.heal()


def broker_wiped(site: Site, blow: Blow, _chance: Random) -> None:
    """Killed, and its data is gone: queues, messages, policies."""
    catch(site, blow)
    blow.strike()
    site.node.wipe()
    site.node.start()
    blow.heal()


def queues_purged(site: Site, blow: Blow, _chance: Random) -> None:
    """Every message that no consumer has is gone, from every queue."""
    catch(site, blow)
    blow.strike()
    purged = 0
    for queue in site.queues():
        with suppress(HTTPError):  # 400: a queue that only its own connection may purge
            site.manage("DELETE", f"queues/{{vhost}}/{quote(queue, safe='')}/contents")
            purged += 1
    if not purged:
        blow.not_tried = "RabbitMQ purged no queue"
    blow.heal()


def queue_deleted(site: Site, blow: Blow, chance: Random) -> None:
    """A queue is gone, with its messages, bindings and consumers."""
    catch(site, blow)
    blow.detail = one_of(chance, ["prove", "prove-slow"])
    blow.strike()
    site.manage("DELETE", f"queues/{{vhost}}/{blow.detail}")
    blow.heal()


def connections_closed(site: Site, blow: Blow, _chance: Random) -> None:
    """RabbitMQ closes every connection to our virtual host."""
    names: list[str] = []

    def are_listed() -> bool:  # a node that has just started lists them after some seconds
        nonlocal names
        found = site.manage("GET", "vhosts/{vhost}/connections")
        names = [connection["name"] for connection in found if "name" in connection]
        return len(names) >= len(site.members)

    wait_for(are_listed, deadline_s=20)
    catch(site, blow)
    blow.strike()
    for name in names:
        with suppress(OSError):  # it may have ended meanwhile
            site.manage("DELETE", f"connections/{quote(name, safe='')}")
    blow.detail = f"{len(names)} connections"
    if not names:
        blow.not_tried = "RabbitMQ listed no connection"
    blow.heal()


def memory_alarm(site: Site, blow: Blow, _chance: Random) -> None:
    """RabbitMQ believes that its memory is used up, and reads from no publisher, for a while."""
    _alarmed(site, blow, "set_vm_memory_high_watermark", "0.000001", "0.4", "mem_alarm")


def disk_full(site: Site, blow: Blow, _chance: Random) -> None:
    """RabbitMQ's file system is full until it is given room again, and started again.

    Where we may not make a small file system, it is told that there is no room.
    """
    filler = site.node.folder / FILLER
    if not os.path.ismount(filler.parent):
        _alarmed(site, blow, "set_disk_free_limit", "90000GB", "50MB", "disk_free_alarm")
        blow.detail += ", the file system is not"
        return
    catch(site, blow)
    blow.strike()
    try:
        _fill(filler)
        _never.wait(ALARM_S)
    finally:
        filler.unlink()
    # 3.10 does not get over it by itself when its log could not be written (measured: publishes are
    # refused and consumers get internal errors from then on), so its operator starts it again.
    site.node.stop()
    site.node.start()
    blow.heal()


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(1024 * 1024)):
                pass
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


def _alarmed(site: Site, blow: Blow, command: str, low: str, usual: str, alarm: str) -> None:
    catch(site, blow)
    blow.strike()
    rabbitmqctl(site.node, command, low)
    wait_for(lambda: _has_alarm(site, alarm), deadline_s=20)
    blow.detail = alarm
    if not _has_alarm(site, alarm):
        blow.not_tried = "no alarm was seen"
    _never.wait(ALARM_S)
    rabbitmqctl(site.node, command, usual)
    wait_for(lambda: not _has_alarm(site, alarm), deadline_s=20)
    blow.heal()


def _has_alarm(site: Site, alarm: str) -> bool:
    with suppress(OSError):
        return bool(site.manage("GET", "nodes")[0].get(alarm))
    return False


def rabbitmqctl(node: RabbitMQ, *words: str) -> None:
    """Run a command of RabbitMQ's own tool on a private node. Raises OSError with what it said."""
    scripts = Path("/usr/lib/rabbitmq/bin")
    ports: dict[str, int] = json.loads((node.folder / "ports.json").read_text())
    environment = {
        "PATH": f"{scripts}{os.pathsep}{os.defpath}:/usr/bin:/bin",
        "LC_ALL": "C.UTF-8",
        "HOME": str(node.folder),
        "ERL_EPMD_ADDRESS": LOOPBACK,
        "ERL_EPMD_PORT": str(ports["epmd"]),
        "RABBITMQ_CONF_ENV_FILE": str(node.folder / "env.conf"),
    }
    told = subprocess.run(
        [str(scripts / "rabbitmqctl"), "-n", "veltrix@localhost", *words],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if told.returncode != 0:
        raise OSError(f"rabbitmqctl {' '.join(words)}: {told.stdout}{told.stderr}")


def malformed_messages(site: Site, blow: Blow, chance: Random) -> None:
    """The nine messages that make Celery lose them, or end (loss modes W09, W10, W11)."""
    catch(site, blow)
    blow.strike()
    try:
        _send_malformed(site, blow, chance)
    except pika.exceptions.AMQPError as error:
        raise OSError(f"RabbitMQ did not take them: {error!r}") from error
    # As rows they are safe; until then RabbitMQ alone has them, and the next fault may be its.
    wait_for(lambda: set(blow.letters) <= site.letters(), deadline_s=_ROWS_S)
    blow.heal()


def _send_malformed(site: Site, blow: Blow, chance: Random) -> None:
    parameters = pika_parameters(site.platform.broker_url, name="veltrix prove", heartbeat_s=60)
    parameters.blocked_connection_timeout = parameters.socket_timeout = _ANSWER_S
    with pika.BlockingConnection(parameters) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        for make in _MALFORMED:
            run_id = str(UUID(int=chance.getrandbits(128), version=4))
            body, headers, content_type = make(run_id)
            properties = pika.BasicProperties(
                headers=headers, content_type=content_type, content_encoding="utf-8"
            )
            channel.basic_publish(RUNS, "prove", body, properties, mandatory=True)
            blow.letters.append(sha256(body).hexdigest())


_Message = tuple[bytes, dict[str, Any] | None, str]


def _body(run_id: str) -> bytes:
    return json.dumps([[[run_id]], {}, {}]).encode()


def _headers(run_id: str, **others: Any) -> dict[str, Any]:
    return {"task": "prove_fast", "id": run_id, **others}


_JSON = "application/json"
_MALFORMED: tuple[Callable[[str], _Message], ...] = (
    lambda id_: (f"{{no json {id_}".encode(), _headers(id_), _JSON),
    lambda id_: (_body(id_), _headers(id_, compression="zstandard-9"), _JSON),
    lambda id_: (pickle.dumps([id_]), _headers(id_), "application/x-python-serialize"),
    lambda id_: (_body(id_), _headers(id_, eta="tomorrow", expires="never"), _JSON),
    lambda id_: (_body(id_), _headers(id_, task="nobody.knows.it"), _JSON),
    lambda id_: (_body(id_), None, _JSON),
    lambda id_: (_body(id_), {"task": "prove_fast"}, _JSON),
    lambda id_: (json.dumps([[id_], {}]).encode(), _headers(id_), _JSON),
    lambda id_: (_body(id_), {"task": {"a": "b"}, "id": id_}, _JSON),
)
