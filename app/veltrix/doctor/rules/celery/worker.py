"""Workers of a Celery application: limits, connections, delays, and how they are started."""

import re
from collections.abc import Iterator

from veltrix.doctor.celery_evidence import of_command, of_setting, of_task
from veltrix.doctor.facts.celery_app import CeleryApp, CeleryTask, transport_options
from veltrix.doctor.facts.code import number_of
from veltrix.doctor.rule import Evidence, Rules, Severity
from veltrix.doctor.rules.celery.acknowledging import TASKS_PAGE, is_late

rules = Rules("workers")
CONSUMER_TIMEOUT_S = 1800
VISIBILITY_S = 3600
PREFETCH_MAX = 65535
_WORKERS = "https://docs.celeryq.dev/en/stable/userguide/workers.html"
_REVOKES = re.compile(r"control$|result$|AsyncResult\(", re.IGNORECASE)
_LIMITS = "task_time_limit = 600\ntask_soft_time_limit = 540"


def limit_of(app: CeleryApp, task: CeleryTask) -> float | None:
    """How long it may run; None: for ever."""
    for name in ("time_limit", "soft_time_limit"):
        limit = app.option(task, name)
        if limit is not None:
            return float(limit)
    return None


def pools(app: CeleryApp) -> Iterator[tuple[str, Evidence]]:
    """Pools that are no prefork, and where each is chosen."""
    prefork = {"prefork", "processes", ""}
    chosen = str(app.value("worker_pool"))
    if chosen not in prefork:
        yield chosen.partition(":")[0], of_setting(app, "worker_pool", 'worker_pool = "prefork"')
    for command in app.commands:
        pool = command.option("-P", "--pool") or ""
        if pool not in prefork:
            found = f"--pool={pool}"
            yield pool, of_command(command, found, "celery worker --pool=prefork")


@rules.rule(
    "W15",
    Severity.DUPLICATE,
    CeleryApp,
    title="a message may be held longer than RabbitMQ waits",
    why="After 30 minutes without an ack RabbitMQ takes the consumer away and delivers it again.",
    safe="task_time_limit = 600\nworker_prefetch_multiplier = 1",
    source="https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout",
)
def beyond_consumer_timeout(app: CeleryApp) -> Iterator[Evidence]:
    if not app.is_on_amqp or not is_late(app):
        return
    depth = max(int(app.value("worker_prefetch_multiplier") or 0), 1)
    cure = f"{_LIMITS}\nworker_prefetch_multiplier = 1"
    limit = app.value("task_time_limit") or app.value("task_soft_time_limit")
    if limit is not None and limit * depth >= CONSUMER_TIMEOUT_S:
        told = f"{limit:g} s for each of {depth} messages of a child"
        yield of_setting(app, "task_time_limit", cure, told)
        return
    for task in app.tasks:
        own = limit_of(app, task)
        if own is not None and own != limit and own * depth >= CONSUMER_TIMEOUT_S:
            yield of_task(app, task, f"{own:g} s for each of {depth} messages of a child", cure)


@rules.rule(
    "W16",
    Severity.STALL,
    CeleryApp,
    title="a worker ends when a channel is closed",
    why="An error on the channel, such as a late ack, ends the worker instead of a reconnect.",
    safe="broker_channel_error_retry = True",
    source="https://github.com/celery/celery/issues/6760",
)
def ends_with_channel(app: CeleryApp) -> Iterator[Evidence]:
    key = "broker_channel_error_retry"
    if app.is_on_amqp and key in app.config and not app.value(key):
        yield of_setting(app, key, f"{key} = True")


@rules.rule(
    "W19",
    Severity.STALL,
    CeleryApp,
    title="time limits that the pool does not keep",
    why="The pools threads and solo ignore time limits: what hangs, hangs for ever.",
    safe='worker_pool = "prefork"',
    source="docs/internals/loss-modes.md, W19: celery/concurrency/thread.py, solo.py",
)
def limits_not_kept(app: CeleryApp) -> Iterator[Evidence]:
    for pool, evidence in pools(app):
        has_limits = any(limit_of(app, one) is not None for one in app.tasks)
        if pool in {"threads", "solo"} and (has_limits or app.value("task_time_limit")):
            yield evidence


@rules.rule(
    "W20",
    Severity.STALL,
    CeleryApp,
    title="tasks may run for ever",
    why="One socket that hangs holds a child, and what it has prefetched, until somebody looks.",
    safe=_LIMITS,
    source=TASKS_PAGE,
)
def without_time_limit(app: CeleryApp) -> Iterator[Evidence]:
    bad = [one for one in app.tasks if limit_of(app, one) is None]
    is_bare = app.value("task_time_limit") is None and app.value("task_soft_time_limit") is None
    if is_bare and (bad or not app.tasks):
        yield of_setting(app, "task_time_limit", _LIMITS)


@rules.rule(
    "W21",
    Severity.SLOW,
    CeleryApp,
    title="short tasks wait behind long ones",
    why="A child holds several messages: while it works on the first, nobody else may take them.",
    safe="worker_prefetch_multiplier = 1",
    source="https://docs.celeryq.dev/en/stable/userguide/optimizing.html#prefetch-limits",
)
def prefetches_much(app: CeleryApp) -> Iterator[Evidence]:
    multiplier = app.value("worker_prefetch_multiplier")
    if multiplier and 1 < multiplier <= PREFETCH_MAX:
        yield of_setting(app, "worker_prefetch_multiplier", "worker_prefetch_multiplier = 1")


@rules.rule(
    "W22",
    Severity.STALL,
    CeleryApp,
    title="a worker takes all messages there are",
    why="Prefetch 0, or over 65535, is no limit: one worker fills its memory and starves others.",
    safe="worker_prefetch_multiplier = 1",
    source="https://www.rabbitmq.com/docs/consumer-prefetch",
)
def prefetches_all(app: CeleryApp) -> Iterator[Evidence]:
    multiplier = app.value("worker_prefetch_multiplier")
    if multiplier is not None and (multiplier == 0 or multiplier > PREFETCH_MAX):
        yield of_setting(app, "worker_prefetch_multiplier", "worker_prefetch_multiplier = 1")


@rules.rule(
    "W24",
    Severity.SLOW,
    CeleryApp,
    title="a worker keeps every delayed task in memory",
    why="Tasks with a countdown are fetched at once and wait in the worker, without a bound.",
    safe="worker_eta_task_limit = 1000",
    source="https://github.com/celery/celery/pull/9853",
)
def delayed_in_memory(app: CeleryApp) -> Iterator[Evidence]:
    kombu = app.version("kombu")
    is_global = app.is_on_redis or (kombu is not None and kombu < (5, 7))
    if is_global and app.code.delays and app.value("worker_eta_task_limit") is None:
        yield of_setting(app, "worker_eta_task_limit", "worker_eta_task_limit = 1000")


@rules.rule(
    "W25",
    Severity.STALL,
    CeleryApp,
    title="delays on quorum queues need a topic exchange",
    why="With a direct exchange delayed tasks are held in the worker, and take its prefetch.",
    safe='task_default_exchange_type = "topic"',
    source="https://docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/rabbitmq.html",
)
def delays_on_direct(app: CeleryApp) -> Iterator[Evidence]:
    if not app.is_on_amqp or not app.code.delays:
        return
    queues = app.declared_queues
    direct = [one.name for one in queues if one.exchange_type == "direct"]
    if direct and any(one.is_quorum for one in queues):
        told = f"{', '.join(direct[:5])} on a direct exchange, and tasks with delays"
        cure = 'task_default_exchange_type = "topic"'
        yield of_setting(app, "task_default_exchange_type", cure, told)


@rules.rule(
    "W31",
    Severity.SLOW,
    CeleryApp,
    title="rate limits block other tasks",
    why="Limited tasks wait in the worker and take its prefetch; the limit is for each worker.",
    safe='task_routes = {"shop.mail": {"queue": "mail"}}  # a queue and a worker of its own',
    source=TASKS_PAGE,
)
def rate_limits(app: CeleryApp) -> Iterator[Evidence]:
    cure = "a queue and a worker of its own for this task, without rate_limit"
    limit = app.value("task_default_rate_limit")
    if app.value("worker_disable_rate_limits"):
        return
    if limit:
        yield of_setting(app, "task_default_rate_limit", cure)
    for task in app.tasks:
        own = app.option(task, "rate_limit", "task_default_rate_limit")
        if own and own != limit:
            yield of_task(app, task, f"rate_limit = {own!r}", cure)


@rules.rule(
    "W32",
    Severity.SLOW,
    CeleryApp,
    title="autoscaling has no effect on quorum queues",
    why="With quorum queues the prefetch does not change, so new children get no work.",
    safe="celery -A shop worker --concurrency=8",
    source="https://docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/rabbitmq.html",
)
def autoscale(app: CeleryApp) -> Iterator[Evidence]:
    if not app.is_on_amqp or not any(one.is_quorum for one in app.declared_queues):
        return
    for command in app.workers():
        if command.has("--autoscale"):
            yield of_command(command, "--autoscale", "--concurrency=8")


@rules.rule(
    "W36",
    Severity.LOSS,
    CeleryApp,
    title="an idle worker with delayed tasks skips the soft shutdown",
    why="It ends at once, and what it held for later is lost or late.",
    safe="worker_enable_soft_shutdown_on_idle = True",
    source=f"{_WORKERS}#soft-shutdown",
)
def idle_shutdown(app: CeleryApp) -> Iterator[Evidence]:
    key = "worker_enable_soft_shutdown_on_idle"
    is_soft = key in app.config and app.value("worker_soft_shutdown_timeout")
    if is_soft and app.code.delays and not app.value(key):
        yield of_setting(app, key, f"{key} = True")


@rules.rule(
    "W37",
    Severity.STALL,
    CeleryApp,
    title="a worker gives up on its broker",
    why="When the broker is away for long, the worker ends, and nobody may start it again.",
    safe="broker_connection_max_retries = None",
    source="https://docs.celeryq.dev/en/stable/userguide/configuration.html"
    "#broker-connection-max-retries",
)
def gives_up(app: CeleryApp) -> Iterator[Evidence]:
    if app.value("broker_connection_max_retries") or not app.value("broker_connection_retry"):
        key = "broker_connection_max_retries"
        if not app.value("broker_connection_retry"):
            key = "broker_connection_retry"
        yield of_setting(app, key, "broker_connection_max_retries = None")


@rules.rule(
    "W39",
    Severity.DUPLICATE,
    CeleryApp,
    title="missed heartbeats have messages delivered again",
    why="A worker that is busy in its own loop sends none; without any, a dead one is not noticed.",
    safe='worker_pool = "prefork"\nbroker_heartbeat = 60',
    source="https://github.com/celery/celery/issues/3430",
)
def heartbeats(app: CeleryApp) -> Iterator[Evidence]:
    if not app.is_on_amqp:
        return
    if not app.value("broker_heartbeat"):
        yield of_setting(app, "broker_heartbeat", "broker_heartbeat = 60")
    for pool, evidence in pools(app):
        if pool in {"solo", "gevent", "eventlet"}:
            yield evidence


@rules.rule(
    "W40",
    Severity.DUPLICATE,
    CeleryApp,
    title="a restart runs what was revoked",
    why="Which tasks are revoked is in the memory of the worker, unless it has a file.",
    safe="celery -A shop worker --statedb=/var/lib/celery/%n.state",
    source=f"{_WORKERS}#persistent-revokes",
)
def revokes_forgotten(app: CeleryApp) -> Iterator[Evidence]:
    revokes = [one for one in app.code.named("revoke") if _REVOKES.search(one.on)]
    if not revokes or app.value("worker_state_db"):
        return
    commands = app.workers()
    for command in commands:
        if not command.has("--statedb", "-S"):
            cure = "--statedb=/var/lib/celery/%n.state, on a disk that stays"
            yield of_command(command, "tasks are revoked, and there is no --statedb", cure)


@rules.rule(
    "W42",
    Severity.DUPLICATE,
    CeleryApp,
    title="Redis delivers again what takes longer than its visibility timeout",
    why="What is not acked in time, because it runs or waits for its countdown, runs again.",
    safe='task_time_limit = 1800\nbroker_transport_options = {"visibility_timeout": 3600}',
    source="https://docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/redis.html",
)
def visibility_timeout(app: CeleryApp) -> Iterator[Evidence]:
    if not app.is_on_redis:
        return
    visible = float(transport_options(app).get("visibility_timeout") or VISIBILITY_S)
    longer = f'broker_transport_options = {{"visibility_timeout": {2 * visible:.0f}}}'
    for place in app.code.delays:
        countdown = number_of(place.keyword("countdown"))
        if countdown is not None and countdown >= visible:
            told = f"countdown {countdown:g} s, and visibility_timeout {visible:g} s"
            yield of_setting(app, "broker_transport_options", longer, told)
    if is_late(app):
        limits = [limit_of(app, one) for one in app.tasks] or [app.value("task_time_limit")]
        longest = None if None in limits else max(one for one in limits if one is not None)
        if longest is None or longest >= visible:
            told = "no time limit" if longest is None else f"a time limit of {longest:g} s"
            cure = f"task_time_limit = {visible / 2:.0f}\n{longer}"
            told = f"{told}, acks_late, and visibility_timeout {visible:g} s"
            yield of_setting(app, "broker_transport_options", cure, told)
