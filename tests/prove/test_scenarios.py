"""Scenarios, small: what `veltrix prove` says of the real thing while it is being broken."""

from pathlib import Path
from typing import Any

import pytest

from tests.prove.conftest import Prove
from veltrix.prove.faults.catalog import FAMILIES, KINDS_OF
from veltrix.prove.load.record import Asked, Told, Unanswered, read_record
from veltrix.prove.report.report import Proof, Verdict
from veltrix.prove.scenario import RECORD_FILE

WITH_NODES_OF_THEIR_OWN = ("workers", "broker", "deploy", "cluster", "author", "standby", "clock")


def check_held(proof: Proof, *faults: str) -> None:
    """Everything was tried and held; the failure says what did not."""
    against = {one.name: one.samples for one in proof.properties if not one.is_held}
    untried = {one.name: one.not_tried for one in proof.faults if one.not_tried}

    assert proof.verdict is Verdict.HELD, (against, untried, proof.notes)
    assert {one.name for one in proof.faults} == set(faults)
    assert proof.accepted > 0
    assert proof.settled > 0
    assert (proof.lost, proof.invented, proof.duplicate_effects) == (0, 0, 0)
    assert (proof.unaccounted, proof.open) == (0, 0)


def test_smoke(proved: Prove, tmp_path: Path) -> None:
    proof = proved(*FAMILIES["smoke"], events=800)

    check_held(proof, *FAMILIES["smoke"])
    assert proof.duplicates > 0, "the same events are sent again on purpose"
    assert proof.refused > 0, "other content, and events that are none"
    lines = list(read_record(tmp_path / "proof" / RECORD_FILE))
    asked = [line for line in lines if isinstance(line, Asked)]
    assert {line.mode for line in asked} == {"structured", "binary", "batch"}
    ended = [line.request for line in lines if isinstance(line, Told | Unanswered)]
    assert sorted(ended) == sorted(line.request for line in asked)


def test_workers_broker_and_deploy(proved: Prove) -> None:
    names = ("worker_frozen", "parent_killed", "queue_deleted", "worker_terminated")

    # Enough for the last fault to meet work, on a slow machine too.
    check_held(proved(*names, events=1_600), *names)


def test_database(proved: Prove) -> None:
    names = ("postgres_restarted", "postgres_killed", "sessions_terminated")

    check_held(proved(*names, events=600, postgres=None, database="veltrix"), *names)


def test_network(proved: Prove) -> None:
    names = ("database_cut_off", "lines_broken")

    check_held(proved(*names, events=600), *names)


@pytest.mark.slow  # three RabbitMQ nodes take half a minute to become a cluster
def test_cluster(proved: Prove) -> None:
    proof = proved("leader_killed", events=600, rabbitmq=None, vhost="/")

    check_held(proof, "leader_killed")


def test_what_authors_write(proved: Prove) -> None:
    proof = proved("child_killed", events=500, families=KINDS_OF["author"])

    check_held(proof, "child_killed")


def test_a_server_that_answers_and_refuses(proved: Prove) -> None:
    names = ("server_read_only", "journal_broken")

    check_held(proved(*names, events=600), *names)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("family", WITH_NODES_OF_THEIR_OWN)
def test_whole_families_on_nodes_of_their_own(proved: Prove, family: str) -> None:
    own: dict[str, Any] = {
        "postgres": None,
        "database": "veltrix",
        "rabbitmq": None,
        "vhost": "/",
        "slack": 1.5,
    }
    own["families"] = KINDS_OF.get(family, frozenset())

    check_held(proved(*FAMILIES[family], events=4_000, env={}, **own), *FAMILIES[family])


@pytest.mark.slow
def test_a_fault_that_struck_an_idle_system_was_not_tried(proved: Prove) -> None:
    proof = proved("relay_killed", events=1, seed=4)

    assert proof.verdict is Verdict.INCONCLUSIVE
    (fault,) = proof.faults
    assert fault.not_tried == "it struck an idle system"
