"""Workers and Flower as compose files and manifests start them, and settings given to them."""

from collections.abc import Iterator

from veltrix.doctor.deployment_evidence import of_container, of_files, unread_elsewhere
from veltrix.doctor.facts.deployment.container import DeployedContainer, seconds_of
from veltrix.doctor.facts.deployment.files import DeployedContainers
from veltrix.doctor.rule import Evidence, Rules, Severity
from veltrix.settings.fields import PREFIX, Settings
from veltrix.settings.load import unknown_names

rules = Rules("deployed processes")

CELERY_GRACE_S_MIN = 10.0
_AUTH = ("basic-auth", "auth", "auth-provider")
_AUTH_VARIABLES = ("FLOWER_BASIC_AUTH", "FLOWER_AUTH", "FLOWER_AUTH_PROVIDER")


def _grace_s(one: DeployedContainer) -> float | None:
    """What it has before SIGKILL; None: the file does not say."""
    return one.default_grace_s if one.grace.value is None else seconds_of(one.grace)


def _cure(one: DeployedContainer, least_s: float) -> str:
    if one.kind == "compose":
        return f"stop_grace_period: {least_s + 10:g}s"
    return f"terminationGracePeriodSeconds: {least_s + 10:g}"


@rules.rule(
    "W34",
    Severity.STALL,
    DeployedContainers,
    title="a worker is killed before its grace time is over",
    why="Within VELTRIX_GRACE_S a worker finishes or hands back what it has; what it holds when it"
    " is killed waits for the end of its lease.",
    safe="stop_grace_period: 40s  # above VELTRIX_GRACE_S",
    source="docs/how-to/operating.md",
)
@of_files
def killed_too_soon(files: DeployedContainers) -> Iterator[Evidence]:
    unknown = []
    for one in files.containers:
        if not one.is_veltrix_worker:
            continue
        given = one.environment.get(f"{PREFIX}GRACE_S")
        least_s = seconds_of(given) if given else float(Settings.model_fields["grace_s"].default)
        grace_s = _grace_s(one)
        if least_s is None or grace_s is None or grace_s >= least_s:
            continue
        if given is None and one.elsewhere:
            unknown.append(one)
        else:
            yield of_container(
                one,
                f"{grace_s:g} s to stop, and {PREFIX}GRACE_S is {least_s:g}",
                _cure(one, least_s),
                one.grace.line if one.grace.value is not None else 0,
            )
    unread_elsewhere(unknown, f"{PREFIX}GRACE_S")


@rules.rule(
    "W34",
    Severity.LOSS,
    DeployedContainers,
    title="a Celery worker is killed almost at once",
    why="What it works at is lost with early acknowledgement, and done again with late.",
    safe="stop_grace_period: 60s  # above the longest task",
    source="https://docs.celeryq.dev/en/stable/userguide/workers.html#worker-shutdown",
)
@of_files
def celery_killed_at_once(files: DeployedContainers) -> Iterator[Evidence]:
    for one in files.containers:
        grace_s = _grace_s(one)
        if one.is_celery_worker and grace_s is not None and grace_s < CELERY_GRACE_S_MIN:
            found = f"{grace_s:g} s to stop"
            yield of_container(one, found, _cure(one, 50), one.grace.line)


@rules.rule(
    "P22",
    Severity.STALL,
    DeployedContainers,
    title="a variable that no setting has",
    why="A process of Veltrix refuses to start with a name it does not know, and what was meant"
    " is not in effect.",
    safe="VELTRIX_GRACE_S: 30",
    source="docs/settings.md",
)
@of_files
def unknown_variable(files: DeployedContainers) -> Iterator[Evidence]:
    for one in files.containers:
        given = [name for name in one.environment if name.startswith(PREFIX)]
        for name, cure in unknown_names(given).items():
            yield of_container(one, f"{name} is no setting", cure, one.environment[name].line)


@rules.rule(
    "W37",
    Severity.STALL,
    DeployedContainers,
    title="nobody starts again what has ended",
    why="A process ends with a fault, with a broker that is away for too long, and with its"
    " machine: without a restart policy it stays away, and its work waits.",
    safe="restart: unless-stopped",
    source="https://docs.docker.com/engine/containers/start-containers-automatically/",
)
@of_files
def stays_away(files: DeployedContainers) -> Iterator[Evidence]:
    for one in files.containers:
        is_needed = one.is_celery_worker or one.is_veltrix_process
        if is_needed and one.is_restarted is False and one.nodes != 0:
            yield of_container(one, "no restart policy", "restart: unless-stopped")


@rules.rule(
    "O08",
    Severity.STALL,
    DeployedContainers,
    title="a probe that kills busy workers",
    why="A busy worker answers `inspect ping` late and is killed at its work; one that consumes"
    " nothing answers at once and is left alone.",
    safe="no livenessProbe with `celery inspect ping`; a canary task for each queue",
    source="https://github.com/celery/celery/issues/5157",
)
@of_files
def pings_as_liveness(files: DeployedContainers) -> Iterator[Evidence]:
    if files.is_beside_app:
        return  # the command line is read as one of the application's
    for one in files.containers:
        if {"inspect", "ping"} <= set(one.liveness):
            cure = "take the livenessProbe out of it, and alert on a canary task that is late"
            yield of_container(one, "livenessProbe with inspect ping", cure, one.liveness_line)


@rules.rule(
    "O06",
    Severity.LOSS,
    DeployedContainers,
    title="Flower is open to others",
    why="Without authentication or read_only anybody who opens its page stops workers and revokes"
    " tasks.",
    safe='ports: ["127.0.0.1:5555:5555"]',
    source="https://flower.readthedocs.io/en/latest/config.html",
)
@of_files
def flower_is_open(files: DeployedContainers) -> Iterator[Evidence]:
    unknown = []
    for one in files.containers:
        is_read_elsewhere = files.is_beside_app and "celery" in one.words
        if not one.is_flower or not one.published or is_read_elsewhere:
            continue
        is_asked = one.has_option(*_AUTH) or any(
            name.startswith(_AUTH_VARIABLES) for name in one.environment
        )
        if is_asked or _is_read_only(one):
            continue
        if one.elsewhere:
            unknown.append(one)
        else:
            cure = "--basic_auth with a user and a password, or publish it on 127.0.0.1 alone"
            yield of_container(one, "a published port and no authentication", cure, one.words_line)
    unread_elsewhere(unknown, "whether a password is asked for")


def _is_read_only(one: DeployedContainer) -> bool:
    said = one.environment.get("FLOWER_READ_ONLY")
    if said is not None:
        return not said.is_false
    words = [word.lower().replace("_", "-") for word in one.words]
    return any(word in {"--read-only", "--read-only=true", "--read-only=1"} for word in words)
