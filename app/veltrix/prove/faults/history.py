"""Faults of history: a part of the ledger leaves while everything goes on."""

from random import Random
from threading import Event

import psycopg
from sqlalchemy import Engine

from veltrix.dev.children import wait_for
from veltrix.operations.books.books import fold_once, recount_once
from veltrix.prove.deployment.site import Site
from veltrix.prove.faults.injections import Blow
from veltrix.prove.faults.striking import catch
from veltrix.store.transactions import make_engine, transaction

SEALED_S = 75.0  # until there is something that may leave
AHEAD_S = 4.0  # of the cut: what is accepted meanwhile has smaller ids
_TRIES = 20
_POLICIES = """
insert into retention_policies (workflow, outcome, content_s, lines_s, changed_by)
values ('', 'succeeded', 1, 86400, 'prove'), ('', 'cancelled', 1, 86400, 'prove')
on conflict do nothing
"""
# As if a day had begun just now: what was there until then is a part of its own.
_CUT = f"""
do $$
declare
    ms bigint := (extract(epoch from clock_timestamp()) * 1000)::bigint + {AHEAD_S * 1000:.0f};
    cut uuid := rpad(lpad(to_hex(ms), 12, '0'), 32, '0')::uuid;
    whole text;
    found record;
begin
    set local lock_timeout = '300ms';
    lock table events, journal, failed_attempts, runs in access exclusive mode;
    foreach whole in array array['events', 'journal', 'failed_attempts', 'runs_ended'] loop
        select * into strict found from parts_of(whole::regclass) p
        where p.high is not null and p.low <= cut and p.high > cut;
        execute format('alter table %I detach partition %s', whole, found.part);
        execute format('alter table %I attach partition %s for values from (%s) to (%L)', whole,
            found.part, case when found.low = '00000000-0000-0000-0000-000000000000' then 'minvalue'
                else quote_literal(found.low) end, cut);
        execute format('create table %I (like %I including all)', whole || '_' || ms,
            whole || '_default');
        execute format('alter table %I attach partition %I for values from (%L) to (%L)', whole,
            whole || '_' || ms, cut, found.high);
    end loop;
end $$
"""  # noqa: S608 - a number of ours
_SEALED = """
select exists (
    select minute from counters
    where minute < floor(extract(epoch from now()) / 60)::int
    group by minute having bool_and(is_sealed)
)
"""
_DROPS = "select count(*) from retention_drops where state = 'freed'"


def days_dropped(site: Site, blow: Blow, _chance: Random) -> None:
    """A day ends, and what may leave of it is archived and dropped, under load."""
    site.change(_POLICIES)
    engine = make_engine(site.platform.database_url, application="veltrix prove history")
    try:
        wait_for(lambda: _has_sealed(engine), deadline_s=SEALED_S)
        _cut(site)
        Event().wait(AHEAD_S + 1.5)  # until the policies are over, too
        _has_sealed(engine)
    finally:
        engine.dispose()
    catch(site, blow)
    blow.strike()
    before = site.one(_DROPS)
    done = site.platform.call(
        "retention", "drop", "--all", "--archive", str(site.history), "--yes", within_s=90.0
    )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        site.misdeeds.append(f"`veltrix retention drop` ended with {done.returncode}: {said}")
    blow.detail = f"{site.one(_DROPS) - before} parts"
    blow.heal()


def _has_sealed(engine: Engine) -> bool:
    """A minute is over and all of it settled, and its books are closed, sooner than they would be.

    Those of a minute that is not over may be closed, too: they are opened again by what comes.
    """
    while fold_once(engine):
        pass
    recount_once(engine, closed_minutes=0, is_forced=True)
    with transaction(engine) as tx:
        return bool(tx.exec_driver_sql(_SEALED).scalar_one())


def _cut(site: Site) -> None:
    """However many hold their locks now."""

    def is_cut() -> bool:
        try:
            site.change(_CUT)
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            return False
        return True

    wait_for(is_cut, deadline_s=20.0)
