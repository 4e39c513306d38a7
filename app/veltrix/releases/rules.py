"""Deploys: whose code routes events and names the queues, decided by who serves and since when.

A release is what a worker was started with: a set of workflows, each in one version. The release
that was deployed last, among those that live workers have, says how its workflows are started and
which queue is theirs. One whose workers have all gone says nothing any more: so a roll-back takes
by itself, and a worker of old code that merely starts again takes nothing back.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from hashlib import blake2b

import msgspec


class Release(msgspec.Struct, frozen=True):
    """A release that live workers have, or that was registered by hand a while ago.

    `versions` are the code versions of its workflows, by name.
    """

    id: str
    deployed_at: datetime
    versions: Mapping[str, str]


class Routed(msgspec.Struct, frozen=True):
    """The version by which a workflow's events are routed, and since when.

    `is_of_old_code`: it was written by a worker that does not say which release it has.
    """

    workflow: str
    code_version: str
    routed_at: datetime
    is_of_old_code: bool = False
    queue: str = ""


class Server(msgspec.Struct, frozen=True):
    """A worker: the queues it serves and its versions of workflows; None: it does not say which."""

    queues: frozenset[str]
    versions: Mapping[str, str] | None


class Switch(msgspec.Struct, frozen=True):
    """This version of the workflow is to route from now on, as its release says."""

    workflow: str
    code_version: str
    release_id: str
    is_back: bool  # to a release that was deployed before


def release_id(workflows: Iterable[tuple[str, str, Sequence[str], str]]) -> str:
    """A digest of (workflow, code version, event types, queue) of all workflows of a worker."""
    digest = blake2b(digest_size=12)
    for workflow, code_version, types, queue in sorted(workflows):
        digest.update(msgspec.json.encode([workflow, code_version, list(types), queue]) + b"\n")
    return digest.hexdigest()


def switches(
    live: Collection[Release],
    routed: Iterable[Routed],
    *,
    may_go_back: bool,
    has_old_workers: bool = False,
) -> list[Switch]:
    """What has to change so that the release deployed last among `live` routes its workflows.

    A workflow that no live release has keeps what it has. `may_go_back`: it is certain that
    versions which nobody serves are gone, and not only unheard of; else nothing goes back.
    `has_old_workers`: some do not say which release they have, so what they wrote stays.
    """
    last: dict[str, Release] = {}
    for release in sorted(live, key=lambda one: (one.deployed_at, one.id)):
        last.update(dict.fromkeys(release.versions, release))
    found: list[Switch] = []
    for row in routed:
        if row.workflow not in last:
            continue
        release = last[row.workflow]
        if release.versions[row.workflow] == row.code_version:
            continue
        is_served = any(one.versions.get(row.workflow) == row.code_version for one in live)
        is_back = not is_served and release.deployed_at <= row.routed_at
        if is_back and (not may_go_back or (has_old_workers and row.is_of_old_code)):
            continue
        version = release.versions[row.workflow]
        found.append(Switch(row.workflow, version, release.id, is_back))
    return found


def moves(
    queues: Iterable[str],
    routed: Collection[Routed],
    former: Mapping[str, Collection[str]],
    servers: Collection[Server],
) -> dict[str, dict[str, str]]:
    """By queue with open runs: the workflows whose runs do not belong there, and where they do.

    A run belongs into its workflow's queue of now. While workers of another version than that which
    routes serve the queue, as in a deploy that is under way, what is there is left to them: they
    began it. `former` are the workflows that had a queue in some version; in a queue that no
    workflow has now, anybody's runs may be.
    """
    taken = {row.queue for row in routed}
    found: dict[str, dict[str, str]] = {}
    for queue in queues:
        had = former.get(queue, ())
        there = [one for one in servers if queue in one.queues]
        wanted = {
            row.workflow: row.queue
            for row in routed
            if row.queue != queue
            and (queue not in taken or row.workflow in had)
            and not any(_is_older(one, row) for one in there)
        }
        if wanted:
            found[queue] = wanted
    return found


def _is_older(server: Server, row: Routed) -> bool:
    if server.versions is None:
        return True
    return server.versions.get(row.workflow, row.code_version) != row.code_version
