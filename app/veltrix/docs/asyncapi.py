"""docs/asyncapi.json: the AsyncAPI 3.1 document of our queues and exchanges, of the topology."""

import json
from typing import Any

from veltrix.broker.names import DEAD, INBOUND, RUNS, UNROUTABLE
from veltrix.broker.topology import wanted

# Stands for every workflow queue: its channel has the queue's name as a parameter.
_ANY = "workflow-queue"

_ABOUT = {
    RUNS: "Runs on their way to workers, by queue. Only the relay publishes here.",
    INBOUND: "For foreign producers. What no binding routes is kept, in veltrix.unroutable.",
    DEAD: "Messages RabbitMQ took out of a workflow queue; the relay makes them rows.",
    UNROUTABLE: "Messages to veltrix.inbound that nothing routes; the relay makes them rows.",
}


def document() -> dict[str, Any]:
    """The document, as JSON values."""
    topology = wanted([_ANY])
    channels = {x.name: _exchange_channel(x.name, x.type) for x in topology.exchanges}
    for queue in topology.queues:
        channels[f"{queue.name}.queue"] = _queue_channel(queue.name, queue.type)
    policies = {p.name: dict(p.definition) for p in topology.policies}
    return {
        "asyncapi": "3.1.0",
        "info": {
            "title": "Veltrix on RabbitMQ",
            "version": "1",
            "description": "Queues, exchanges and the one message on them. Limits are policies,"
            f" with these defaults: {json.dumps(policies, sort_keys=True)}",
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": {
            "handOverRuns": _operation(
                "send", RUNS, "The relay publishes, mandatory and confirmed."
            ),
            "workOnRuns": _operation(
                "receive", f"{_ANY}.queue", "Workers consume, and acknowledge after the outcome."
            ),
        },
        "components": {"messages": {"runs": _runs_message()}},
    }


def render() -> str:
    """The file's content."""
    return json.dumps(document(), indent=2) + "\n"


def _exchange_channel(name: str, type_: str) -> dict[str, Any]:
    channel = {
        "address": "{queue}" if name == RUNS else None,
        "description": _ABOUT[name],
        "messages": {"runs": {"$ref": "#/components/messages/runs"}} if name == RUNS else {},
        "bindings": {
            "amqp": {
                "is": "routingKey",
                "exchange": {"name": name, "type": type_, "durable": True, "autoDelete": False},
                "bindingVersion": "0.3.0",
            }
        },
    }
    if name == RUNS:
        channel["parameters"] = {"queue": {"description": "The queue of the workflow"}}
    return channel


def _queue_channel(name: str, type_: str) -> dict[str, Any]:
    is_any = name == _ANY
    channel = {
        "address": "{queue}" if is_any else name,
        "description": "A durable queue of the type that VELTRIX_QUEUE_TYPE says."
        if is_any
        else f"{_ABOUT[name]} A {type_} queue.",
        "messages": {"runs": {"$ref": "#/components/messages/runs"}} if is_any else {},
        "bindings": {
            "amqp": {
                "is": "queue",
                "queue": {
                    "name": "{queue}" if is_any else name,
                    "durable": True,
                    "exclusive": False,
                    "autoDelete": False,
                },
                "bindingVersion": "0.3.0",
            }
        },
    }
    if is_any:
        channel["parameters"] = {"queue": {"description": "One per queue named by a workflow"}}
    return channel


def _operation(action: str, channel: str, summary: str) -> dict[str, Any]:
    reference = channel.replace("~", "~0").replace("/", "~1")
    return {"action": action, "channel": {"$ref": f"#/channels/{reference}"}, "summary": summary}


def _handed() -> dict[str, Any]:
    return {
        "type": "object",
        "description": "Signed; believed by workers of the same ledger",
        "properties": {
            "token": {"type": "string", "format": "uuid"},
            "until_ms": {
                "type": "integer",
                "description": "Unix time until which a run may be begun without a claim",
            },
            "workflow": {"type": "string"},
            "queue": {"type": "string"},
            "events": {"type": "array", "description": "For each run its id and its event"},
            "signature": {"type": "string"},
        },
    }


def _runs_message() -> dict[str, Any]:
    run_ids = {"type": "array", "items": {"type": "string", "format": "uuid"}, "minItems": 1}
    return {
        "name": "runs",
        "title": "Runs of one workflow",
        "summary": "A Celery message, protocol 2, that names runs. Of those an api hands over as"
        " claimed it carries the events.",
        "contentType": "application/json",
        "headers": {
            "type": "object",
            "required": ["task", "id", "veltrix_bytes", "veltrix_alone"],
            "properties": {
                "task": {"type": "string", "description": "The workflow"},
                "id": {"type": "string", "format": "uuid", "description": "The first run"},
                "argsrepr": {"type": "string", "description": "Run ids, cut at 1,000 characters"},
                "origin": {"type": "string", "description": "The relay that published it"},
                "veltrix_token": {
                    "type": "string",
                    "format": "uuid",
                    "description": "On the rows of runs that are handed over as claimed",
                },
                "veltrix_bytes": {"type": "integer", "description": "Payload of all runs"},
                "veltrix_alone": {
                    "type": "boolean",
                    "description": "The run ended a worker before and shares no list",
                },
            },
        },
        "payload": {
            "type": "array",
            "description": "Arguments, keyword arguments, embedded signatures",
            "prefixItems": [
                {"type": "array", "prefixItems": [run_ids], "minItems": 1, "maxItems": 1},
                {"type": "object", "maxProperties": 0},
                {"type": "object", "properties": {"veltrix": _handed()}},
            ],
            "minItems": 3,
            "maxItems": 3,
        },
        "bindings": {"amqp": {"contentEncoding": "utf-8", "bindingVersion": "0.3.0"}},
    }
