"""Faults of a PostgreSQL that answers: read-only, failed over, refusing to write or to commit."""

from random import Random
from threading import Event
from typing import LiteralString

import psycopg

from veltrix.dev.children import wait_for
from veltrix.dev.servers.postgres import Postgres
from veltrix.prove.deployment.site import Site
from veltrix.prove.faults.database import terminate
from veltrix.prove.faults.injections import Blow
from veltrix.prove.faults.striking import catch

_READ_ONLY_S = 4.0
_BROKEN_S = 6.0
_REFUSED_S = 3.0
_CUT_S = 4.0
_STREAMING = "select count(*) from pg_stat_replication where state = 'streaming'"
_SYNCHRONOUS = "select count(*) from pg_stat_replication where sync_state in ('sync', 'quorum')"
# Each by itself: in one transaction they would hold one table while they wait for another.
_BROKEN: tuple[LiteralString, ...] = (
    """
create or replace function prove_broken() returns trigger language plpgsql as $$
begin
    raise exception 'could not read block 7 of a file' using errcode = 'io_error';
end $$
""",
    """
create trigger prove_broken before insert on journal
    for each statement execute function prove_broken()
""",
    """
create trigger prove_broken before update on runs
    for each row when (new.steps is not null) execute function prove_broken()
""",
)
_UNBROKEN: tuple[LiteralString, ...] = (
    "drop trigger if exists prove_broken on journal",
    "drop trigger if exists prove_broken on runs",
)
_FULL: tuple[LiteralString, ...] = (
    """
create or replace function prove_full() returns trigger language plpgsql as $$
begin
    raise exception 'could not extend a file: no space left' using errcode = 'disk_full';
end $$
""",
    """
create constraint trigger prove_full after insert on journal deferrable initially deferred
    for each row execute function prove_full()
""",
    # A run that ends is put into another table, for which that is an insertion.
    """
create constraint trigger prove_full after insert or update on runs deferrable initially deferred
    for each row when (new.steps is not null) execute function prove_full()
""",
)
_UNFULL: tuple[LiteralString, ...] = (
    "drop trigger if exists prove_full on journal",
    "drop trigger if exists prove_full on runs",
)
_HALF = """
select count(pg_terminate_backend(pid)) from pg_stat_activity
where application_name like 'veltrix%' and application_name <> 'veltrix prove' and pid % 2 = 0
"""
_never = Event()


def server_read_only(site: Site, blow: Blow, _chance: Random) -> None:
    """Every session begins read-only for some seconds; those that did so stay connected."""
    catch(site, blow)
    blow.detail = f"{_READ_ONLY_S:g} s"
    blow.strike()
    site.set_for_all("default_transaction_read_only", "on")
    try:
        terminate(site)
        _never.wait(_READ_ONLY_S)
    finally:
        site.set_for_all("default_transaction_read_only", None)
    blow.heal()


def switched_over(site: Site, blow: Blow, _chance: Random) -> None:
    """The stand-by takes over, and for some seconds the name still leads to the old primary.

    Which is a stand-by now, and keeps the connections that were made to it meanwhile.
    """
    old, new = _with_standby(site)
    catch(site, blow)
    blow.detail = f"{_READ_ONLY_S:g} s at the old name"
    blow.strike()
    old.stop()  # what it had is sent to its stand-by
    new.promote()
    site.lead_to(new, is_name_late=True)
    old.follow(new)
    old.start()
    _never.wait(_READ_ONLY_S)
    site.lead_to(new)
    blow.heal()


def failed_over(site: Site, blow: Blow, _chance: Random) -> None:
    """The primary dies, and its stand-by, which had every commit, takes its place and name."""
    old, new = _with_standby(site)
    old.execute("alter system set synchronous_standby_names = '*'")
    old.execute("select pg_reload_conf()")
    if not wait_for(lambda: old.execute(_SYNCHRONOUS)[0][0] > 0, deadline_s=20):
        blow.not_tried = "the stand-by did not become synchronous"
        old.execute("alter system reset synchronous_standby_names")
        old.execute("select pg_reload_conf()")
        return
    catch(site, blow)
    blow.strike()
    blow.is_forgetful = True
    old.kill()
    new.promote()
    site.lead_to(new)
    blow.heal()


def _with_standby(site: Site) -> tuple[Postgres, Postgres]:
    """The primary, and a stand-by that has all it has."""
    old = site.platform.postgres
    new = site.start_standby()
    assert wait_for(lambda: old.execute(_STREAMING)[0][0] > 0, deadline_s=30), "no stand-by streams"
    return old, new


def journal_broken(site: Site, blow: Blow, _chance: Random) -> None:
    """Every write into the journal fails with an I/O error, for some seconds."""
    _refusing(site, blow, _BROKEN, _UNBROKEN, _BROKEN_S)


def commits_refused(site: Site, blow: Blow, _chance: Random) -> None:
    """Every commit of what was journalled is refused, for some seconds: the disk is full."""
    _refusing(site, blow, _FULL, _UNFULL, _REFUSED_S)


def _refusing(
    site: Site,
    blow: Blow,
    begin: tuple[LiteralString, ...],
    end: tuple[LiteralString, ...],
    seconds: float,
) -> None:
    catch(site, blow)
    blow.detail = f"{seconds:g} s"
    blow.strike()
    try:
        _change(site, begin)
        _never.wait(seconds)
    finally:
        _change(site, end)
    blow.heal()


def _change(site: Site, statements: tuple[LiteralString, ...]) -> None:
    """A statement loses a deadlock now and then: it locks all parts of a table."""
    for statement in statements:

        def is_done(statement: LiteralString = statement) -> bool:
            try:
                site.change(statement)
            except psycopg.errors.DeadlockDetected:
                return False
            return True

        wait_for(is_done, deadline_s=10.0)


def backends_terminated(site: Site, blow: Blow, _chance: Random) -> None:
    """Half of our sessions are ended by the server, again and again."""
    catch(site, blow)
    blow.strike()
    ended = 0
    for _ in range(10):
        ended += site.one(_HALF)
        _never.wait(0.25)
    blow.detail = f"{ended} sessions"
    blow.heal()


def connections_cut(site: Site, blow: Blow, chance: Random) -> None:
    """A pooler cuts the connections of half of the processes in the middle of an answer."""
    catch(site, blow, lambda worker: worker.startswith("worker-2@"))
    blow.victims = ["api-2", "relay-2", "worker-2"]
    bytes_ = int(10 ** chance.uniform(3.0, 4.5))
    blow.detail = f"after {bytes_:,} bytes each"
    blow.strike()
    site.lines["database"].cut_after(bytes_)
    try:
        _never.wait(_CUT_S)
    finally:
        site.lines["database"].cut_after(0)
    blow.heal()


def options_dropped(site: Site, blow: Blow, _chance: Random) -> None:
    """A pooler drops what half of the processes ask of their sessions, where that matters."""
    catch(site, blow, lambda worker: worker.startswith("worker-2@"))
    blow.victims = ["api-2", "relay-2", "worker-2"]
    blow.strike()
    line = site.lines["database"]
    site.set_for_all("synchronous_commit", "off")
    line.drop_options(is_dropping=True)
    line.break_all()
    try:
        _never.wait(_CUT_S)
    finally:
        site.set_for_all("synchronous_commit", None)
        line.drop_options(is_dropping=False)
        line.break_all()
    blow.heal()
