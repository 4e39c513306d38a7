"""Services of a compose file."""

from pathlib import Path

from veltrix.doctor.facts.deployment.container import DeployedContainer, DeployedMount, words_of
from veltrix.doctor.facts.deployment.lined import Lined

GRACE_S = 10.0  # of Docker, where the file says nothing
_ENV_FILE_BYTES_MAX = 100_000
_PORT_MAX = 65_535
_LOOPBACK = ("127.", "localhost:", "[::1]:")


def is_compose(document: Lined) -> bool:
    """A mapping of services, each with an image, something to build, or a base."""
    services = document.at("services").keyed.values()
    return any(one.keyed.keys() & {"image", "build", "extends", "command"} for one in services)


def services_of(document: Lined, file: str, folder: Path) -> list[DeployedContainer]:
    """Every service. `folder` is where its relative paths begin."""
    return [
        _container(name, one, document, file, folder)
        for name, one in document.at("services").keyed.items()
        if one.keyed
    ]


def _container(
    name: str, one: Lined, document: Lined, file: str, folder: Path
) -> DeployedContainer:
    words, line = words_of(one.at("entrypoint"), one.at("command"))
    environment, elsewhere = _environment(one, folder)
    is_whole = _is_whole(one, file)
    return DeployedContainer(
        name=name,
        file=file,
        line=one.line,
        kind="compose",
        default_grace_s=GRACE_S if is_whole else None,
        image=one.at("image"),
        words=words,
        words_line=line,
        environment=environment,
        elsewhere=elsewhere if is_whole else [*elsewhere, "the rest of the service"],
        mounts=[*_mounts(one, document), *_configs(one, document)],
        grace=one.at("stop_grace_period"),
        nodes=_nodes(one),
        # Without one each container has its own, which changes with it.
        has_steady_name=bool(one.at("hostname").value or "RABBITMQ_NODENAME" in environment),
        is_restarted=_is_restarted(one) if is_whole else None,
        published=_published(one),
        is_storage_known=is_whole and not one.at("volumes_from").value,
    )


def _is_whole(one: Lined, file: str) -> bool:
    """No other file, and no other service, has more of it."""
    is_part = "override" in file.rpartition("/")[2] or one.at("extends").value is not None
    return not is_part and bool(one.keyed.keys() & {"image", "build"})


def _nodes(one: Lined) -> int | None:
    for asked in (one.at("deploy", "replicas"), one.at("scale")):
        if asked.value is not None:
            return asked.number
    return 1


def _is_restarted(one: Lined) -> bool | None:
    """Docker does it only where it is told to; a swarm, which `deploy` is for, always."""
    deploy = one.at("deploy").keyed.keys() - {"resources"}
    said = one.at("restart")
    if said.value is None:
        return None if deploy else False
    return None if said.text is None else said.text not in {"no", "false"}


def _environment(one: Lined, folder: Path) -> tuple[dict[str, Lined], list[str]]:
    """The variables, and the files that have more and are not here."""
    found: dict[str, Lined] = {}
    elsewhere = []
    files = one.at("env_file")
    for row in files.rows or [files]:
        told = row.at("path") if row.keyed else row
        read = None if told.text is None else _env_file(folder / told.text)
        if read is not None:
            found |= {name: Lined(value, files.line) for name, value in read}
        elif told.partly is not None:
            elsewhere.append(told.partly)
    given = one.at("environment")
    found |= given.keyed
    for row in given.rows:
        name, is_given, value = str(row.value).partition("=")
        found[name] = Lined(value if is_given else None, row.line)
    return found, elsewhere


def _env_file(path: Path) -> list[tuple[str, str]] | None:
    """None: it is often made at the deployment, and not there before."""
    try:
        if not path.is_file() or path.stat().st_size > _ENV_FILE_BYTES_MAX:
            return None
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError, ValueError):
        return None
    pairs = [line.partition("=") for line in lines if line.strip()[:1] not in {"", "#"}]
    return [
        (name.removeprefix("export ").strip(), value.strip().strip("\"'"))
        for name, is_given, value in pairs
        if is_given
    ]


def _mounts(one: Lined, document: Lined) -> list[DeployedMount]:
    found = []
    for row in one.at("volumes").rows:
        if row.keyed:
            source, target = row.at("source").partly or "", row.at("target").partly or ""
            kind = row.at("type").text
        else:
            pieces = (row.partly or "").split(":")
            source, target = ("", pieces[0]) if len(pieces) == 1 else (pieces[0], pieces[1])
            kind = None
        is_of_host = source[:1] in {".", "/", "~"}
        found.append(
            DeployedMount(
                target=target,
                is_kept=bool(source) and kind != "tmpfs" and not _is_memory(document, source),
                source=source if is_of_host else None,
            )
        )
    return found


def _is_memory(document: Lined, volume: str) -> bool:
    return document.at("volumes", volume, "driver_opts", "type").text == "tmpfs"


def _configs(one: Lined, document: Lined) -> list[DeployedMount]:
    found = []
    for row in one.at("configs").rows:
        name = row.at("source").text if row.keyed else row.text
        source = document.at("configs", name or "", "file").text
        if source is not None:
            target = row.at("target").text or f"/{name}"
            found.append(DeployedMount(target=target, is_kept=False, source=source))
    return found


def _published(one: Lined) -> list[str]:
    """To others than this machine."""
    if one.at("network_mode").text == "host":
        return ["*"]
    found = []
    for row in one.at("ports").rows:
        if row.keyed:
            address = f"{row.at('host_ip').partly or ''}:"
            port = row.at("target").partly or ""
            is_out = row.at("published").value is not None
        else:
            address = row.partly or ""
            port = address.rpartition(":")[2].partition("/")[0]
            is_out = True  # a port alone gets one of the host by chance
        if is_out and not address.startswith(_LOOPBACK):
            found += _ports(port)
    return found


def _ports(text: str) -> list[str]:
    """Of `5671-5672` both."""
    first, is_range, last = text.partition("-")
    low, high = Lined(first, 0).number, Lined(last, 0).number
    if not is_range or low is None or high is None:
        return [text]
    return [str(port) for port in range(low, min(high, _PORT_MAX) + 1)]
