"""Containers of Kubernetes manifests, and what values of Helm charts say of servers."""

from collections.abc import Iterator

from veltrix.doctor.facts.deployment.container import DeployedContainer, DeployedMount, words_of
from veltrix.doctor.facts.deployment.lined import Lined

GRACE_S = 30.0  # of Kubernetes, where the manifest says nothing
_TEMPLATED = {"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job"}
_FORGETS = {"emptyDir", "ephemeral"}
_READ_ONLY = {"configMap", "secret", "downwardAPI", "projected"}
_OUTSIDE = {"LoadBalancer", "NodePort"}
_Maps = dict[str | None, dict[str, Lined]]


def is_manifest(document: Lined) -> bool:
    """An object of Kubernetes."""
    return document.at("apiVersion").value is not None and document.at("kind").value is not None


def containers_of(documents: list[Lined], file: str) -> list[DeployedContainer]:
    """Every container of the manifests of a file."""
    objects = [
        one
        for document in documents
        for one in (document.at("items").rows if document.at("kind").text == "List" else [document])
    ]
    open_ = [one.at("spec", "selector") for one in objects if _is_open(one)]
    maps = {
        one.at("metadata", "name").text: one.at("data").keyed
        for one in objects
        if one.at("kind").text == "ConfigMap"
    }
    found: list[DeployedContainer] = []
    for one in objects:
        kind = one.at("kind").text or ""
        if kind == "RabbitmqCluster":
            found.append(_cluster(one, file))
        elif kind in _TEMPLATED:
            found += _of_pod(one, one.at("spec", "template"), kind, file, open_, maps)
        elif kind == "Pod":
            found += _of_pod(one, one, kind, file, open_, maps)
    return found


def inner_files(document: Lined) -> Iterator[tuple[str, str]]:
    """(name, text) of files within a manifest, each beginning at its line of the manifest."""
    kind = document.at("kind").text
    if kind in {"ConfigMap", "Secret"}:
        held = document.at("data" if kind == "ConfigMap" else "stringData").keyed
    elif kind == "RabbitmqCluster":
        held = {"rabbitmq.conf": document.at("spec", "rabbitmq", "additionalConfig")}
    else:
        held = {}
    for name, one in held.items():
        if isinstance(one.value, str):
            # A text of several lines begins below its name.
            yield name, "\n" * (one.line - ("\n" not in one.value)) + one.value


def _is_open(one: Lined) -> bool:
    return one.at("kind").text == "Service" and one.at("spec", "type").text in _OUTSIDE


def _of_pod(
    one: Lined, pod: Lined, kind: str, file: str, open_: list[Lined], maps: _Maps
) -> Iterator[DeployedContainer]:
    spec = pod.at("spec")
    labels = pod.at("metadata", "labels")
    kept = _kept(spec, one)
    for container in spec.at("containers").rows:
        words, line = words_of(container.at("command"), container.at("args"))
        environment, elsewhere = _environment(container, maps)
        probe = container.at("livenessProbe")
        liveness, _ = words_of(probe.at("exec", "command"))
        replicas = one.at("spec", "replicas")
        yield DeployedContainer(
            name=one.at("metadata", "name").text or container.at("name").text or kind,
            file=file,
            line=container.line,
            kind=kind,
            default_grace_s=GRACE_S,
            image=container.at("image"),
            words=words,
            words_line=line,
            environment=environment,
            elsewhere=elsewhere,
            mounts=[
                DeployedMount(
                    target=row.at("mountPath").partly or "",
                    is_kept=kept.get(row.at("name").partly or "", True),
                )
                for row in container.at("volumeMounts").rows
            ],
            grace=spec.at("terminationGracePeriodSeconds"),
            nodes=1 if replicas.value is None else replicas.number,
            has_steady_name=kind == "StatefulSet"
            or spec.at("hostname").value is not None
            or "RABBITMQ_NODENAME" in environment,
            published=["*"] if any(_selects(selector, labels) for selector in open_) else [],
            liveness=liveness,
            liveness_line=probe.line,
        )


def _environment(container: Lined, maps: _Maps) -> tuple[dict[str, Lined], list[str]]:
    """The variables, and the config maps and secrets that have more and are not here."""
    found: dict[str, Lined] = {}
    elsewhere = []
    for row in container.at("envFrom").rows:
        name, prefix = row.at("configMapRef", "name").text, row.at("prefix").text or ""
        if name in maps:
            found |= {f"{prefix}{key}": value for key, value in maps[name].items()}
        else:
            kind = "secret" if row.at("secretRef").keyed else "config map"
            elsewhere.append(f"{kind} {name or row.at('secretRef', 'name').partly or '?'}")
    for row in container.at("env").rows:
        found[row.at("name").text or ""] = Lined(row.at("value").value, row.line)
    return found, elsewhere


def _kept(spec: Lined, one: Lined) -> dict[str, bool]:
    """By the names of a pod's volumes, whether their contents outlive the pod."""
    found = {
        row.at("name").text or "": not row.keyed.keys() & (_FORGETS | _READ_ONLY)
        for row in spec.at("volumes").rows
    }
    claims = one.at("spec", "volumeClaimTemplates").rows
    return found | {row.at("metadata", "name").text or "": True for row in claims}


def _selects(selector: Lined, labels: Lined) -> bool:
    return bool(selector.keyed) and all(
        labels.at(name).value == value.value for name, value in selector.keyed.items()
    )


def _cluster(one: Lined, file: str) -> DeployedContainer:
    """Of RabbitMQ's own operator: one node unless it is asked for more, with a volume each."""
    spec = one.at("spec")
    replicas, storage = spec.at("replicas"), spec.at("persistence", "storage")
    is_kept = (storage.text or "10Gi").rstrip("GiMK") not in {"0", ""}
    image = spec.at("image")
    return DeployedContainer(
        name=one.at("metadata", "name").text or "rabbitmq",
        file=file,
        line=spec.line,
        kind="RabbitmqCluster",
        default_grace_s=GRACE_S,
        image=image if image.value is not None else Lined("rabbitmq", spec.line),
        mounts=[DeployedMount(target="/var/lib/rabbitmq", is_kept=is_kept)],
        nodes=1 if replicas.value is None else replicas.number,
    )


def servers_of_values(document: Lined, file: str) -> list[DeployedContainer]:
    """Of a chart's values: RabbitMQ and PostgreSQL, as far as their keys say what they mean."""
    found = []
    for name in ("rabbitmq", "postgresql"):
        one = document.at(name)
        if not one.keyed or one.at("enabled").is_false:
            continue
        persistence = one.at("primary", "persistence") if name == "postgresql" else one
        if name == "rabbitmq" or not persistence.keyed:
            persistence = one.at("persistence")
        tag = one.at("image", "tag")
        replicas = one.at("replicaCount")
        found.append(
            DeployedContainer(
                name=name,
                file=file,
                line=(persistence if persistence.keyed else one).line,
                kind="values",
                default_grace_s=GRACE_S,
                image=Lined(f"{name}:{tag.text}" if tag.text else name, tag.line),
                nodes=replicas.number if replicas.value is not None else None,
                is_storage_known=persistence.at("enabled").is_false,
            )
        )
    return found
