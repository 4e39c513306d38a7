"""Alerts on what processes count by themselves: on the watch and its canaries, on the platform.

A process has all metrics of `veltrix.telemetry`, those that it does not set as 0. So a gauge is
the largest of all processes, and nothing is asked of each.
"""

from collections.abc import Mapping

import msgspec

_RUNBOOKS = "docs/how-to/runbooks.md"
_DAYS_14_S = 14 * 24 * 3600
LOOKS_S_MAX = 120  # without a look of the watch, which looks every 10 s


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """One alert. `lasts`: how long `expr` must hold, "": not at all. `level`: for whom it is.

    `effect` is what happens to events, in the words of doctor. `runbook` is a heading of ours.
    """

    name: str
    expr: str
    level: str
    summary: str
    description: str
    cure: str
    runbook: str
    lasts: str = ""
    effect: str = ""

    @property
    def labels(self) -> Mapping[str, str]:
        """What is routed by."""
        return {"severity": self.level} | ({"effect": self.effect} if self.effect else {})

    @property
    def annotations(self) -> Mapping[str, str]:
        """What people read."""
        return {
            "summary": self.summary,
            "description": self.description,
            "cure": self.cure,
            "runbook": self.runbook,
        }


def _canaries(ending: str) -> str:
    """How many ended so; the first of all, which `increase` does not see, is one of them."""
    counted = f'veltrix_canaries_total{{ending="{ending}"}}'
    return f"sum by (queue) (({counted} unless {counted} offset 10m) or increase({counted}[10m]))"


def of_the_watch(gauge: str) -> str:
    """The largest of the watches that look; one that stands by may have an old value."""
    looked = f"time() - veltrix_doctor_looked_at_seconds < {LOOKS_S_MAX}"
    return f"max({gauge} and on (job, instance) ({looked}))"


WATCH = [
    Alert(
        name="VeltrixWatchSilent",
        expr=f"time() - max(veltrix_doctor_looked_at_seconds) > {LOOKS_S_MAX}"
        " or absent(veltrix_doctor_looked_at_seconds)",
        lasts="2m",
        level="critical",
        effect="blind",
        summary="doctor's watch does not look",
        description="While it is silent nobody looks for what loses or stalls work.",
        cure="Start it, and read its log: `veltrix doctor --watch`.",
        runbook="docs/how-to/doctor.md#go-on-looking-in-production",
    ),
    Alert(
        name="VeltrixNotChecked",
        expr=f"{of_the_watch('veltrix_doctor_not_checked')} > 0",
        lasts="15m",
        level="warning",
        effect="blind",
        summary="doctor cannot check {{ $value }} rules",
        description="What cannot be checked is not fine: a server that does not answer, or a right"
        " that is missing.",
        cure="`veltrix doctor --live` says what is not checked and why.",
        runbook="docs/how-to/doctor.md#read-the-answer",
    ),
    Alert(
        name="VeltrixCanaryLost",
        expr=f"{_canaries('lost')} > 0",
        level="critical",
        effect="loss",
        summary="a canary of queue {{ $labels.queue }} is lost",
        description="An event was accepted and never came out at the other end.",
        cure="`veltrix balance`, then `veltrix doctor --live`.",
        runbook=f"{_RUNBOOKS}#the-books-do-not-balance",
    ),
    Alert(
        name="VeltrixCanaryLate",
        expr=f"{_canaries('late')} > 0",
        lasts="5m",
        level="warning",
        effect="stall",
        summary="canaries of queue {{ $labels.queue }} are late",
        description="Events of this queue take longer than they may.",
        cure="`veltrix workflows list` and veltrix_relay_lag_seconds: who serves the queue?",
        runbook=f"{_RUNBOOKS}#runs-stay-queued",
    ),
    Alert(
        name="VeltrixCanaryRefused",
        expr=f"{_canaries('refused')} > 0",
        lasts="5m",
        level="warning",
        effect="stall",
        summary="canaries for queue {{ $labels.queue }} are refused",
        description="An api does not take events, or not this one.",
        cure="`veltrix doctor --live`, and the log of the api.",
        runbook=f"{_RUNBOOKS}#events-are-refused",
    ),
    Alert(
        name="VeltrixNoCanaryOut",
        expr=f"{_canaries('out')} == 0",
        lasts="5m",
        level="critical",
        effect="stall",
        summary="no canary of queue {{ $labels.queue }} comes out",
        description="Whatever goes this way waits.",
        cure="`veltrix workflows list`, `veltrix doctor --live`.",
        runbook=f"{_RUNBOOKS}#runs-stay-queued",
    ),
]

PLATFORM = [
    Alert(
        name="VeltrixBooksDoNotBalance",
        expr="max(veltrix_unaccounted) > 0",
        level="critical",
        effect="loss",
        summary="{{ $value }} events and runs are unaccounted for",
        description="Something was lost or counted twice. This must not happen.",
        cure="`veltrix balance --json` names source, type and minute. Repair nothing by hand.",
        runbook=f"{_RUNBOOKS}#the-books-do-not-balance",
    ),
    Alert(
        name="VeltrixOldestOpenRun",
        expr="max(veltrix_oldest_open_seconds) > 3600",
        lasts="5m",
        level="warning",
        effect="stall",
        summary="a run is open for {{ $value | humanizeDuration }}",
        description="Take a larger bound where workflows of yours sleep for longer than an hour.",
        cure="`veltrix runs --state queued`, then `veltrix run ID`: what does it wait for?",
        runbook=f"{_RUNBOOKS}#runs-wait-for-a-long-time",
    ),
    Alert(
        name="VeltrixRunsLate",
        expr="max by (queue) (veltrix_relay_lag_seconds) > 60",
        lasts="5m",
        level="warning",
        effect="stall",
        summary="runs of queue {{ $labels.queue }} are {{ $value | humanizeDuration }} late",
        description="Its workers are too few, or RabbitMQ or every relay is away.",
        cure="More workers or children for the queue; a relay, where none runs.",
        runbook=f"{_RUNBOOKS}#runs-stay-queued",
    ),
    Alert(
        name="VeltrixQueueUnserved",
        expr="max by (queue) (veltrix_unserved_runs) > 0",
        lasts="5m",
        level="warning",
        effect="stall",
        summary="queue {{ $labels.queue }} has open runs and no worker",
        description="They wait until a worker that serves the queue comes.",
        cure="Start a worker with the workflows of that queue.",
        runbook=f"{_RUNBOOKS}#runs-stay-queued",
    ),
    Alert(
        name="VeltrixBrokerAway",
        expr="max(veltrix_broker_up) == 0",
        lasts="2m",
        level="critical",
        effect="stall",
        summary="no process has a connection to RabbitMQ",
        description="Events are accepted and wait.",
        cure="RabbitMQ's log: an alarm, a password, a certificate.",
        runbook=f"{_RUNBOOKS}#rabbitmq-is-away",
    ),
    Alert(
        name="VeltrixPublishRefused",
        expr="sum(rate(veltrix_publish_nacks_total[5m])) > 0",
        lasts="15m",
        level="warning",
        effect="stall",
        summary="queues refuse messages",
        description="A queue is full, or broken; its runs stay due.",
        cure="Is somebody consuming? `veltrix topology plan`; VELTRIX_QUEUE_MESSAGES_MAX.",
        runbook=f"{_RUNBOOKS}#rabbitmq-is-away",
    ),
    Alert(
        name="VeltrixPoliciesNotKept",
        expr="max(veltrix_policies_kept) == 0",
        lasts="15m",
        level="info",
        effect="blind",
        summary="no relay keeps RabbitMQ's policies",
        description="Fine where a definitions file has them.",
        cure="`policies` in /readyz of a relay says why; VELTRIX_MANAGEMENT_URL.",
        runbook=f"{_RUNBOOKS}#rabbitmq-is-away",
    ),
    Alert(
        name="VeltrixAcceptSlow",
        expr="histogram_quantile(0.99, sum by (le) (rate(veltrix_accept_seconds_bucket[5m]))) > 1",
        lasts="10m",
        level="warning",
        effect="slow",
        summary="accepting takes {{ $value | humanizeDuration }}",
        description="PostgreSQL's disk is slow, or apis are too few.",
        cure="`troubles` in /readyz, then PostgreSQL's own metrics; another api.",
        runbook=f"{_RUNBOOKS}#postgresql-is-away",
    ),
    Alert(
        name="VeltrixDatabaseErrors",
        expr="sum by (what) (rate(veltrix_database_errors_total[5m])) > 0",
        lasts="15m",
        level="warning",
        effect="stall",
        summary="PostgreSQL does not serve workers ({{ $labels.what }})",
        description="A few are a fail-over, many are not.",
        cure="`troubles` in the worker's /readyz has PostgreSQL's words.",
        runbook=f"{_RUNBOOKS}#postgresql-is-away",
    ),
    Alert(
        name="VeltrixEventsRefused",
        expr="sum by (reason) (rate(veltrix_events_refused_total[5m])) > 0",
        lasts="15m",
        level="info",
        summary="events are refused: {{ $labels.reason }}",
        description="Refused is not lost: the producer has been told.",
        cure="The answers say where the producer is wrong.",
        runbook=f"{_RUNBOOKS}#events-are-refused",
    ),
    Alert(
        name="VeltrixClockDiffers",
        expr="max(abs(veltrix_clock_offset_seconds)) > 2",
        lasts="5m",
        level="warning",
        effect="blind",
        summary="the clock of an api is {{ $value | humanizeDuration }} from the database's",
        description="Beyond VELTRIX_CLOCK_OFFSET_S_MAX it takes no events.",
        cure="Mend the time synchronisation of that machine.",
        runbook=f"{_RUNBOOKS}#events-are-refused",
    ),
    Alert(
        name="VeltrixManyRunsFail",
        expr='sum by (workflow) (rate(veltrix_runs_settled_total{state="failed"}[15m]))'
        " / sum by (workflow) (rate(veltrix_runs_settled_total[15m])) > 0.1",
        lasts="15m",
        level="warning",
        summary="{{ $value | humanizePercentage }} of {{ $labels.workflow }} fail",
        description="More than a tenth of its runs.",
        cure="`veltrix failures list --order count`: one line for each cause.",
        runbook=f"{_RUNBOOKS}#many-runs-fail",
    ),
    Alert(
        name="VeltrixRunsRescued",
        expr="sum(increase(veltrix_runs_rescued_total[10m])) > 0",
        lasts="30m",
        level="warning",
        effect="duplicate",
        summary="runs are taken back from workers again and again",
        description="Workers are killed, stand still, or do not reach PostgreSQL.",
        cure="The log of workers before their end, and their memory.",
        runbook=f"{_RUNBOOKS}#a-worker-restarts-again-and-again",
    ),
    Alert(
        name="VeltrixWorkerStuck",
        expr="max by (job, instance, name) (veltrix_worker_troubles) > 0",
        lasts="5m",
        level="warning",
        effect="stall",
        summary="a worker is stuck on {{ $labels.name }}",
        description="`troubles` in its /readyz say what and why.",
        cure="Mend what it names.",
        runbook=f"{_RUNBOOKS}#runs-stay-queued",
    ),
    Alert(
        name="VeltrixChildrenKilled",
        expr="sum by (reason) (increase(veltrix_children_killed_total[10m])) > 0",
        lasts="30m",
        level="warning",
        effect="slow",
        summary="children are ended again and again: {{ $labels.reason }}",
        description="A step overruns its limit and takes its neighbours with it.",
        cure="`veltrix runs --state failed`, reason `timeout`.",
        runbook=f"{_RUNBOOKS}#a-worker-restarts-again-and-again",
    ),
    Alert(
        name="VeltrixKeyExpires",
        expr=f"min(veltrix_key_expires_seconds > 0) < {_DAYS_14_S}",
        level="info",
        summary="a key expires in {{ $value | humanizeDuration }}",
        description="Its caller gets 401 from then on.",
        cure="Make the next key and move its caller over: `veltrix keys list`.",
        runbook="docs/how-to/operating.md#keys",
    ),
    Alert(
        name="VeltrixCallsWithoutKey",
        expr="sum by (reason) (rate(veltrix_auth_failures_total[5m])) > 1",
        lasts="10m",
        level="info",
        summary="calls without a key that may call: {{ $labels.reason }}",
        description="A client with an old key, or somebody who guesses.",
        cure="`auth.failed` in the log of apis.",
        runbook=f"{_RUNBOOKS}#a-key-leaked",
    ),
]
