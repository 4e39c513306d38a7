"""Faults of a deployment with two of everything: each process, and members of the broker."""

from random import Random

from veltrix.dev.servers.cluster import Cluster
from veltrix.prove.deployment.site import Site
from veltrix.prove.faults.injections import Blow
from veltrix.prove.faults.striking import catch, one_of


def each_process_killed(site: Site, blow: Blow, _chance: Random) -> None:
    """SIGKILL to every process, one after the other, each replaced before the next."""
    catch(site, blow)
    blow.strike()
    for name in sorted(site.members):
        blow.victims.append(name)
        site.kill(name)
        site.start_ready(name)
    blow.heal()


def member_killed(site: Site, blow: Blow, chance: Random) -> None:
    """SIGKILL to a RabbitMQ member that does not lead the queue; it comes back and catches up."""
    cluster = _cluster(site)
    leader = cluster.leader_of("prove")
    _member_struck(site, blow, one_of(chance, [n for n in cluster.members if n != leader]))


def leader_killed(site: Site, blow: Blow, _chance: Random) -> None:
    """SIGKILL to the member that leads the queue; it comes back and follows another."""
    _member_struck(site, blow, _cluster(site).leader_of("prove"))


def _member_struck(site: Site, blow: Blow, name: str) -> None:
    cluster = _cluster(site)
    member = cluster.members[name]
    cluster.wait_queues_kept()
    catch(site, blow)
    blow.victims = [name]
    blow.strike()
    member.kill()
    member.start()
    cluster.wait_members("prove", online=len(cluster.members_of("prove")))
    blow.heal()


def _cluster(site: Site) -> Cluster:
    broker = site.platform.rabbitmq
    assert isinstance(broker, Cluster), "a scenario with this fault has a cluster"
    return broker
