"""Every setting, with unit, default and bounds. `docs/settings.md` is generated from this file.

`veltrix.settings.load` reads them from the environment, once; here they are only said and checked.
"""

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

PREFIX = "VELTRIX_"
MIB = 1024 * 1024


def _setting(
    default: Any,
    description: str,
    *,
    unit: str = "",
    full: str = "",
    metric: str = "",
    default_says: str = "",
    **bounds: Any,
) -> Any:
    """A field with what `docs/settings.md` says of it: unit, what happens when full, its metric.

    `default_says` replaces a default that differs between machines.
    """
    return Field(
        default,
        description=description,
        json_schema_extra={
            "unit": unit,
            "full": full,
            "metric": metric,
            "default_says": default_says,
        },
        **bounds,
    )


class Settings(BaseModel):
    """The effective settings of one process."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    # Where things are
    database_url: SecretStr | None = _setting(
        None,
        "PostgreSQL, as postgresql+psycopg://user:password@host/database?sslmode=verify-full; on"
        " this machine without sslmode",
    )
    database_owner_url: SecretStr | None = _setting(
        None,
        "The same database as the role that owns its tables, for `veltrix db` alone; without it"
        " VELTRIX_DATABASE_URL is used. Where both name one role, no process warns of its powers",
    )
    broker_url: SecretStr | None = _setting(
        None,
        "RabbitMQ over AMQP, as amqps://user:password@host/vhost; on this machine amqp://",
    )
    management_url: SecretStr | None = _setting(
        None,
        "RabbitMQ's management API, as https://user:password@host:15671, on this machine http://;"
        " without it policies are not applied or checked",
    )
    broker_ca_file: Path | None = _setting(
        None,
        "PEM file with the CAs that RabbitMQ's certificates are checked by, over amqps and over"
        " https of the management API; without it those of the system",
    )
    plain_hosts: str = _setting(
        "",
        "Hosts other than this one that may be spoken to without TLS, separated by commas, each by"
        " the name or address that its URL has: who is on the network between reads everything",
    )
    workflows: str = _setting(
        "workflows", "Modules or packages with workflows, separated by commas"
    )
    release: str | None = _setting(
        None, "Code version of all workflows; without it a digest of each workflow's code"
    )
    prove: bool = _setting(
        False,
        "Workers serve the workflows of `veltrix prove` too, for proving a deployment; their steps"
        " end worker processes on purpose: not in production",
    )
    prove_effects: Path | None = _setting(
        None, "Folder in which steps of `veltrix prove` note that they began; it sets this itself"
    )
    doctor_accepted: str = _setting(
        "",
        "Findings of `veltrix doctor` that this deployment lives with, as `ID=reason; ID=reason`;"
        " each is said at every start, and a finding of loss that is not among them ends it",
    )
    admin_key_file: Path | None = _setting(
        None, "File with the first API key, which gets every scope; made into a key at start"
    )

    # What listens
    api_host: str = _setting(
        "127.0.0.1", "Address the API listens on; others than loopback need keys"
    )
    api_port: int = _setting(8080, "Port of the API; 0 takes a free one", ge=0, le=65535)
    api_tls_cert: Path | None = _setting(
        None,
        "PEM file with the API's certificate and its chain: then it speaks https only. Read again"
        " when it changes",
    )
    api_tls_key: Path | None = _setting(None, "PEM file with the key of that certificate")
    api_connections_max: int = _setting(
        4_096,
        "Connections to one api at a time",
        full="who has connected and asked nothing for longest is closed",
        metric="veltrix_connections_closed_total",
        ge=16,
        le=1_000_000,
    )
    api_key_requests_max: int = _setting(
        1_024,
        "Requests of one key that one api answers at a time; who waits for an outcome is not"
        " counted",
        unit="requests",
        full="429 with Retry-After",
        metric="veltrix_calls_limited_total",
        ge=1,
        le=1_000_000,
    )
    metrics_addresses: str = _setting(
        "",
        "Addresses or networks, separated by commas, that read /metrics of an api without a key"
        " where others need one, as 10.0.0.7,10.1.0.0/16",
    )
    webhook_origins: str = _setting(
        "",
        "Senders of webhooks that may deliver events when they ask by OPTIONS, as"
        " eventgrid.azure.net; * for all",
    )
    require_keys: bool = _setting(
        False, "Ask for API keys on loopback too: set it behind a proxy on the same machine"
    )
    health_host: str = _setting(
        "127.0.0.1", "Address of /livez, /readyz and /metrics of relay and worker"
    )
    relay_port: int = _setting(
        8081, "Port of the relay's /livez, /readyz, /metrics", ge=0, le=65535
    )
    worker_port: int = _setting(
        8082, "Port of the worker's /livez, /readyz, /metrics", ge=0, le=65535
    )
    doctor_port: int = _setting(
        8083, "Port of /livez, /readyz, /metrics of `veltrix doctor --watch`", ge=0, le=65535
    )
    flower_host: str = _setting("127.0.0.1", "Address Flower listens on")
    flower_port: int = _setting(5555, "Port of Flower", ge=0, le=65535)
    flower_tls_cert: Path | None = _setting(
        None, "PEM file with Flower's certificate and its chain; as VELTRIX_API_TLS_CERT"
    )
    flower_tls_key: Path | None = _setting(None, "PEM file with the key of that certificate")
    flower_basic_auth: SecretStr | None = _setting(
        None, "User and password for Flower, as user:password; needed on others than loopback"
    )
    flower_url: str | None = _setting(
        None, "Where browsers reach Flower, for the console's links; on loopback its own address"
    )
    console_url: str | None = _setting(
        None,
        "Where browsers reach the console, as https://host/console: for Flower's links, and with"
        " https its cookies are sent by https only; on loopback the api's own address",
    )
    environment: str = _setting(
        "",
        "What this deployment is called, as staging: on every page of the console, and in its"
        " title; 24 characters at most. Red where it begins with prod",
        max_length=24,
        pattern=r"^[^\x00-\x1f\x7f-\x9f]*$",
    )
    console_session_s: float = _setting(
        43_200.0,
        "How long a sign-in to the console lasts",
        unit="seconds",
        full="the operator signs in again",
        ge=60,
        le=604_800,
    )

    # Accept
    event_bytes_max: int = _setting(
        MIB,
        "Largest event accepted",
        unit="bytes",
        full="413 for the event; in a batch for the batch, nothing taken",
        metric="veltrix_events_refused_total",
        ge=65_536,
        le=16 * MIB,
    )
    batch_events_max: int = _setting(
        1_000,
        "Most events in one batch",
        unit="events",
        full="413, nothing taken",
        metric="veltrix_events_refused_total",
        ge=1,
        le=10_000,
    )
    batch_bytes_max: int = _setting(
        16 * MIB,
        "Largest batch",
        unit="bytes",
        full="413, nothing taken",
        metric="veltrix_events_refused_total",
        ge=65_536,
        le=256 * MIB,
    )
    accept_waiting_events_max: int = _setting(
        20_000,
        "Events waiting for the commit, in each of an api's two writers",
        unit="events",
        full="503 with Retry-After, nothing taken",
        metric="veltrix_accept_waiting_events",
        ge=1,
        le=1_000_000,
    )
    accept_waiting_bytes_max: int = _setting(
        128 * MIB,
        "Payload waiting for the commit in one api, half of it for large events",
        unit="bytes",
        full="503 with Retry-After, nothing taken",
        metric="veltrix_accept_waiting_bytes",
        ge=MIB,
        le=4096 * MIB,
    )
    accept_list_events_max: int = _setting(
        2_000,
        "Most events in one commit",
        unit="events",
        full="the rest goes into the next commit",
        metric="veltrix_accept_list_events",
        ge=1,
        le=10_000,
    )
    accept_list_bytes_max: int = _setting(
        16 * MIB,
        "Most payload in one commit",
        unit="bytes",
        full="the rest goes into the next commit",
        metric="veltrix_accept_list_events",
        ge=MIB,
        le=256 * MIB,
    )
    refuse_unrouted: bool = _setting(False, "Refuse events that no workflow subscribes to (422)")
    subscriptions_cache_s: float = _setting(
        1.0, "How old an api's view of the subscriptions may be", unit="seconds", ge=0.05, le=60
    )
    clock_offset_s_max: float = _setting(
        2.0,
        "How far an api's clock may be from the database's. Events are dated by the database's in"
        " any case",
        unit="seconds",
        full="503 with Retry-After, and not ready",
        ge=0.1,
        le=86_400,
    )
    wait_s_max: float = _setting(
        60.0,
        "Longest `wait_s` of a request for an outcome",
        unit="seconds",
        full="the request is refused with 400",
        ge=1,
        le=600,
    )
    wait_requests_max: int = _setting(
        1_000,
        "Requests waiting for outcomes in one api",
        unit="requests",
        full="429 with Retry-After",
        metric="veltrix_waiting_requests",
        ge=1,
        le=100_000,
    )

    # Due, relay, broker
    hold_s: float = _setting(
        8.0, "How far ahead accept, hand-over and claim set due_at", unit="seconds", ge=1, le=600
    )
    hold_s_max: float = _setting(
        300.0,
        "What the hold doubles to while a run comes due unclaimed",
        unit="seconds",
        ge=1,
        le=3600,
    )
    relay_scan_s: float = _setting(
        0.1,
        "Pause between due scans that find nothing; 0.5 once nothing was to be expected for a hold",
        unit="seconds",
        ge=0.01,
        le=10,
    )
    queue_bound_s: float = _setting(
        1.0,
        "Work handed to the broker ahead of the workers, per queue",
        unit="seconds of work",
        full="due runs wait in PostgreSQL",
        metric="veltrix_relay_lag_seconds",
        ge=0.1,
        le=60,
    )
    hints_max: int = _setting(
        20_000,
        "Runs accepted but not yet handed over by an api's own relay thread",
        unit="runs",
        full="the hint is dropped and the run comes due",
        metric="veltrix_hints_dropped_total",
        ge=0,
        le=1_000_000,
    )
    unconfirmed_messages_max: int = _setting(
        1_000,
        "Messages published and not yet confirmed",
        unit="messages",
        full="publishing waits for confirms",
        metric="veltrix_unconfirmed_messages",
        ge=1,
        le=65_535,
    )
    confirm_timeout_s: float = _setting(
        15.0,
        "Longest wait for a confirm before the connection is given up",
        unit="seconds",
        full="the connection is closed; what it carried comes due",
        metric="veltrix_publish_failures_total",
        ge=1,
        le=120,
    )
    # A worker that stands still (stopped, or behind a cut line) is given messages until RabbitMQ
    # has missed two of these; until then it may keep its queues from going on.
    broker_heartbeat_s: int = _setting(5, "AMQP heartbeat", unit="seconds", ge=5, le=600)
    broker_backoff_s_max: float = _setting(
        2.0, "Longest pause between attempts to reach RabbitMQ", unit="seconds", ge=0.1, le=300
    )
    queue_type: Literal["quorum", "classic"] = _setting(
        "quorum",
        "Type of the workflow queues: quorum for a cluster of RabbitMQ nodes, classic for one node,"
        " which then has half the work. A relay changes queues that are there",
    )
    queue_messages_max: int = _setting(
        100_000,
        "Length bound of a workflow queue (policy)",
        unit="messages",
        full="publishes are refused (nack); due runs wait in PostgreSQL",
        metric="veltrix_publish_nacks_total",
        ge=1_000,
        le=100_000_000,
    )
    queue_bytes_max: int = _setting(
        1024 * MIB,
        "Size bound of a workflow queue (policy)",
        unit="bytes",
        full="publishes are refused (nack); due runs wait in PostgreSQL",
        metric="veltrix_publish_nacks_total",
        ge=MIB,
        le=1024 * 1024 * MIB,
    )
    delivery_limit: int = _setting(
        100,
        "Deliveries of one message before RabbitMQ dead-letters it (policy)",
        unit="deliveries",
        full="the message becomes a dead letter; its runs come due",
        metric="veltrix_dead_letters_total",
        ge=10,
        le=1_000_000,
    )
    sweep_unrouted_s: float = _setting(
        1.0,
        "Pause between looks for events a stale cache left unrouted",
        unit="seconds",
        ge=0.05,
        le=60,
    )

    # Lists
    list_runs_max: int = _setting(
        250,
        "Most runs in one list of a worker child, and in one message",
        unit="runs",
        full="the rest goes into the next list",
        metric="veltrix_list_runs",
        ge=1,
        le=5_000,
    )
    list_bytes_max: int = _setting(
        4 * MIB,
        "Most payload in one list",
        unit="bytes",
        full="the rest goes into the next list",
        metric="veltrix_list_runs",
        ge=65_536,
        le=256 * MIB,
    )
    list_work_s: float = _setting(
        0.05,
        "Most estimated work in one list",
        unit="seconds",
        full="the rest goes into the next list",
        metric="veltrix_list_seconds",
        ge=0.001,
        le=60,
    )
    handed_bytes_max: int = _setting(
        8_192,
        "Largest event that travels in the message of its run, so that the worker need not read"
        " it; 0: none does",
        unit="bytes",
        full="the worker claims the run and reads its event from the database",
        ge=0,
        le=65_536,
    )
    list_runs_unmeasured: int = _setting(
        8, "Runs in one list of a workflow nobody has measured yet", unit="runs", ge=1, le=5_000
    )

    # Worker and engine
    worker_children: int = _setting(
        max(1, os.cpu_count() or 1),
        "Prefork children of one worker",
        unit="processes",
        full="lists wait in the worker, then in the queue",
        metric="veltrix_relay_lag_seconds",
        default_says="one per CPU",
        ge=1,
        le=256,
    )
    child_memory_max: int = _setting(
        0,
        "Memory of a worker child above which it is replaced between two lists; 0: never",
        unit="bytes",
        full="the child ends, and another takes its place",
        metric="veltrix_children_recycled_total",
        ge=0,
        le=1024 * 1024 * MIB,
    )
    child_runs_max: int = _setting(
        0,
        "Runs after which a worker child is replaced, between two lists; 0: never",
        unit="runs",
        full="the child ends, and another takes its place",
        metric="veltrix_children_recycled_total",
        ge=0,
        le=1_000_000_000,
    )
    worker_queues: str = _setting(
        "", "Queues a worker serves, separated by commas; empty: those of its workflows"
    )
    worker_name: str = _setting("", "Node name of a worker, as name@host; empty: veltrix@<host>")
    grace_s: float = _setting(
        30.0,
        "Time a worker has to finish or hand back after SIGTERM",
        unit="seconds",
        full="at 5 s before the end the rest is handed back",
        ge=6,
        le=3600,
    )
    step_timeout_s: float = _setting(
        60.0,
        "Limit of a step that names none",
        unit="seconds",
        full="the attempt fails as timeout",
        metric="veltrix_failed_attempts_total",
        gt=0,
        le=86_400,
    )
    step_overrun_s: float = _setting(
        2.0,
        "How far a step may overrun its limit before its child is ended",
        unit="seconds",
        full="the attempt fails as timeout, the rest of the list is handed back",
        metric="veltrix_children_killed_total",
        ge=0.1,
        le=60,
    )
    hand_back_after_s: float = _setting(
        0.25,
        "How long a step may run before the runs of its list that have not begun are handed back,"
        " and how long all children may be busy before messages that wait for one are given back",
        unit="seconds",
        full="the runs go to whoever is free",
        metric="veltrix_messages_given_back_total",
        ge=0.01,
        le=60,
    )
    journal_write_s: float = _setting(
        0.05,
        "Longest time between two writes of the journal while steps finish",
        unit="seconds",
        gt=0,
        le=5,
    )
    output_bytes_max: int = _setting(
        MIB,
        "Largest step output or outcome, as JSON",
        unit="bytes",
        full="the run fails as unstorable",
        metric="veltrix_runs_settled_total",
        ge=1_024,
        le=64 * MIB,
    )
    arguments_bytes_max: int = _setting(
        1_024,
        "Arguments of each step that are kept beside it, as JSON; 0 keeps none",
        unit="bytes",
        full="only their beginning is kept",
        ge=0,
        le=64 * 1_024,
    )
    error_chars_max: int = _setting(
        8_000,
        "Longest error message or traceback kept",
        unit="characters",
        full="its middle is left out",
        ge=200,
        le=100_000,
    )
    poison_crashes_max: int = _setting(
        3,
        "Deaths of a worker child with one run alone in its hand",
        unit="crashes",
        full="the run fails as poison",
        ge=1,
        le=100,
    )
    deploy_grace_s: float = _setting(
        600.0,
        "How long a run whose workflow or journal no worker knows is kept waiting",
        unit="seconds",
        full="the run fails as unknown_workflow or journal_mismatch",
        ge=0,
        le=86_400,
    )
    deploy_backoff_s: float = _setting(
        10.0, "Pause before such a run is tried again", unit="seconds", ge=0.1, le=600
    )

    # Database
    statement_timeout_s: float = _setting(
        30.0,
        "Limit of a statement",
        unit="seconds",
        full="it is ended and tried again",
        ge=1,
        le=600,
    )
    read_connections_max: int = _setting(
        5,
        "Connections of an api for reads",
        unit="connections",
        full="the request waits, then 503",
        metric="veltrix_database_connections",
        ge=2,
        le=100,
    )

    # Books
    fold_s: float = _setting(
        1.0, "Pause between folds of the counters", unit="seconds", ge=0.05, le=60
    )
    accounts_max: int = _setting(
        100_000,
        "Sources and types (pairs) that have books of their own",
        unit="accounts",
        full="events of further ones are taken and booked in one account, the overflow account",
        metric="veltrix_events_overflowed_total",
        ge=1,
        le=10_000_000,
    )
    unrouted_groups_max: int = _setting(
        1_000,
        "Failure groups of unrouted events, one for each source and type",
        unit="groups",
        full="the unrouted events of further ones are in one group",
        metric="veltrix_accounts",
        ge=0,
        le=100_000,
    )
    recount_s: float = _setting(
        10.0, "Pause between recounts of closed minutes", unit="seconds", ge=0.1, le=3600
    )

    # Doctor
    doctor_interval_s: float = _setting(
        10.0, "Pause between the looks of `veltrix doctor --watch`", unit="seconds", ge=1, le=3600
    )
    doctor_apis: str = _setting(
        "",
        "Addresses of the apis that get canary events, separated by commas, each by itself and not"
        " through a load balancer; without any, the api of this machine",
    )
    doctor_key_file: Path | None = _setting(
        None,
        "File with the API key of the canary events, made into a key that sends nothing else; 32"
        " random characters or more. Without it they are sent without a key",
    )
    doctor_canary_s: float = _setting(
        15.0,
        "How long a canary event may take to come out at the other end",
        unit="seconds",
        full="it is a finding: late",
        metric="veltrix_canaries_total",
        ge=1,
        le=3600,
    )
    doctor_webhook: SecretStr | None = _setting(
        None, "Where a CloudEvent is posted when a finding appears, and when it is gone"
    )

    # Replays
    replay_rate: float = _setting(
        100.0,
        "Rate of a replay that names none",
        unit="runs per second",
        full="the rest waits for its turn",
        gt=0,
        le=100_000,
    )
    replay_stop_share: float = _setting(
        0.2,
        "Share of failed-again at which a replay that names none stops by itself",
        full="the replay is stopped, and says why",
        ge=0,
        le=1,
    )

    # Logs
    log_format: Literal["auto", "json", "console"] = _setting(
        "auto", "auto: readable in a terminal, JSON otherwise"
    )
    log_level: Literal["debug", "info", "warning", "error"] = _setting("info", "Least level logged")

    @field_validator("worker_queues", "workflows", "plain_hosts")
    @classmethod
    def _strip(cls, value: str) -> str:
        return ",".join(part.strip() for part in value.split(",") if part.strip())
