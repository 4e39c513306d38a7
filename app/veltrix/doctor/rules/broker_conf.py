"""rabbitmq.conf: limits that come too late or too soon."""

import re
from collections.abc import Iterator

from veltrix.doctor.deployment_evidence import of_files
from veltrix.doctor.facts.deployment.conf import BrokerConfs, ConfFile
from veltrix.doctor.rule import Evidence, Rules, Severity
from veltrix.doctor.rules.rabbitmq_node import DISK_FREE_BYTES_MIN
from veltrix.doctor.rules.rabbitmq_queues import CONSUMER_TIMEOUT_MS_MIN

rules = Rules("configuration of RabbitMQ")

_UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "kb": 10**3, "mb": 10**6, "gb": 10**9}
_UNITS |= {"ki": 1024, "mi": 1024**2, "gi": 1024**3, "kib": 1024, "mib": 1024**2, "gib": 1024**3}


def _of_key(conf: ConfFile, key: str, cure: str) -> Evidence:
    said = conf.values[key]
    return Evidence(
        found=f"{key} = {said.text}",
        origin=f"{conf.file}:{said.line}",
        cure=cure,
        file=conf.file,
        line=said.line,
    )


def _bytes(text: str) -> int | None:
    found = re.fullmatch(r"(\d{1,18})\s*([A-Za-z]*)", text.strip())
    unit = _UNITS.get(found[2].lower()) if found else None
    return int(found[1]) * unit if found and unit else None


@rules.rule(
    "B11",
    Severity.STALL,
    BrokerConfs,
    title="RabbitMQ is told to notice a full disk too late",
    why="Near a full disk a log of the node no longer fits, and it ends instead of raising an"
    " alarm.",
    safe="disk_free_limit.absolute = 2GB",
    source="https://www.rabbitmq.com/docs/disk-alarms",
)
@of_files
def low_disk_limit(confs: BrokerConfs) -> Iterator[Evidence]:
    for conf in confs.files:
        said = conf.values.get("disk_free_limit.absolute")
        limit = _bytes(said.text or "") if said else None
        if limit is not None and limit < DISK_FREE_BYTES_MIN:
            yield _of_key(conf, "disk_free_limit.absolute", "disk_free_limit.absolute = 2GB")


@rules.rule(
    "W15",
    Severity.DUPLICATE,
    BrokerConfs,
    title="RabbitMQ is told to take messages back early",
    why="At the consumer timeout it ends the channel of a worker that is still at work, and all"
    " that it held is delivered again.",
    safe="consumer_timeout = 1800000",
    source="https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout",
)
@of_files
def short_consumer_timeout(confs: BrokerConfs) -> Iterator[Evidence]:
    for conf in confs.files:
        said = conf.values.get("consumer_timeout")
        if said is not None and said.number and said.number < CONSUMER_TIMEOUT_MS_MIN:
            yield _of_key(conf, "consumer_timeout", "consumer_timeout = 1800000")


@rules.rule(
    "P11",
    Severity.STALL,
    BrokerConfs,
    title="RabbitMQ is told to ask for no heartbeats",
    why="A connection that was cut without a word is then noticed after many minutes, or never:"
    " what is published into it is lost without confirms, and its consumers idle.",
    safe="heartbeat = 60",
    source="https://www.rabbitmq.com/docs/heartbeats",
)
@of_files
def no_heartbeats(confs: BrokerConfs) -> Iterator[Evidence]:
    for conf in confs.files:
        if "heartbeat" in conf.values and conf.values["heartbeat"].number == 0:
            yield _of_key(conf, "heartbeat", "heartbeat = 60")
