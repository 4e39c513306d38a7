"""The witness: triggers in the proved database that write down every move of every run.

PostgreSQL runs them in the transaction of the move, while its rows are locked: whatever the code
believes it did, and whoever it was, there is a line in `prove_moves`, with the name that the
connection gave itself (a worker child's has its process id).
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

import psycopg

from veltrix.prove.load.authors_harm import REFUSED_KEY
from veltrix.store.prove_effects import TABLE

# Two clocks of one machine: the database's and the monotonic one (see `evidence.Clock`).
CLOCKS_S = 0.005
# A worker child's connection: its process id, and its node as far as a name of PostgreSQL holds it.
WORKER = re.compile(r"veltrix worker (\d+)(?: (\S+))?")
# A `move` is a change of state, token or outcome; an `entry` a journalled step. Renewed leases and
# hand-overs are no moves.
_WITNESS = """
create table prove_moves (
    seq bigserial primary key,
    run_id uuid not null,
    generation integer not null,
    what text not null,
    old_state text,
    new_state text,
    worker_id text,
    application text not null default current_setting('application_name'),
    xid text not null default pg_current_xact_id()::text,
    synchronous text not null default current_setting('synchronous_commit'),
    was_leased boolean not null default false,
    has_same_token boolean not null default false,
    at timestamptz not null default clock_timestamp()
);
create function prove_move() returns trigger language plpgsql as $$
begin
    insert into prove_moves (run_id, generation, what, old_state, new_state, worker_id, was_leased,
        has_same_token)
    select n.id, n.generation, 'move', o.state, n.state, n.worker_id, o.lease_token is not null,
        coalesce(o.lease_token = n.lease_token, false)
    from was o join is_now n on n.id = o.id
    where o.state <> n.state or o.lease_token is distinct from n.lease_token
        or o.generation <> n.generation or o.settled_at is distinct from n.settled_at;
    insert into prove_moves (run_id, generation, what, old_state)
    select n.id, n.generation, 'entry', e ->> 0
    from was o join is_now n on n.id = o.id
    cross join lateral json_array_elements(n.steps::json) as e
    where o.steps is null and n.steps is not null;
    return null;
end $$;
create function prove_entry() returns trigger language plpgsql as $$
begin
    insert into prove_moves (run_id, generation, what, old_state)
    select run_id, generation, 'entry', position from is_now;
    return null;
end $$;
create trigger prove_move after update on runs referencing old table as was new table as is_now
    for each statement execute function prove_move();
create trigger prove_entry after insert on journal referencing new table as is_now
    for each statement execute function prove_entry();
"""
# What authors' steps write to find out that a commit can be refused.
_REFUSAL = f"""
create function prove_refuse() returns trigger language plpgsql as $$
begin
    if new.key = '{REFUSED_KEY}' then
        raise exception 'this is committed by nobody';
    end if;
    return null;
end $$;
create constraint trigger prove_refuse after insert on prove_effects
    deferrable initially deferred for each row execute function prove_refuse();
"""
_MOVES = """
copy (
    select seq, run_id::text, generation, what, coalesce(old_state, ''), coalesce(new_state, ''),
        coalesce(worker_id, ''), application, xid, extract(epoch from at)::float8, synchronous,
        was_leased, has_same_token
    from prove_moves order by seq
) to stdout
"""
# The first time each of these runs was taken up, or came to an outcome, after this line.
FIRST_MOVES = """
select m.run_id::text, extract(epoch from min(m.at))::float8
from prove_moves m
where m.seq > %(after)s and m.run_id = any(%(ids)s::uuid[]) and m.what = 'move'
    and m.new_state <> 'queued' and m.application !~ %(but)s
group by m.run_id
"""

# Of the latest lines, those that may not be lost (see `properties_time.is_lasting`).
LATEST = """
select seq, run_id::text, xid from (
    select seq, run_id, xid, what, new_state from prove_moves order by seq desc limit 100
) latest
where what = 'entry' or new_state in ('succeeded', 'failed', 'cancelled')
"""


class Move(NamedTuple):
    """A run changed, or (`what` entry) its step at the position `old_state` was journalled."""

    seq: int
    run_id: str
    generation: int
    what: str
    old_state: str
    new_state: str
    worker_id: str
    application: str
    xid: str  # the transaction; in one statement an outcome comes before the entries beside it
    at: float
    synchronous: str = "on"  # what its commit waits for
    was_leased: bool = False  # it carried a token before
    has_same_token: bool = False  # which it still carries

    @property
    def writer(self) -> int:
        """The process id of the worker child that wrote it; 0: another process did."""
        found = WORKER.match(self.application)
        return int(found[1]) if found else 0


def install(connection: psycopg.Connection) -> None:
    """The witness watches from now on. The connection is in autocommit."""
    connection.execute(TABLE)
    connection.execute(_WITNESS)
    connection.execute(_REFUSAL)


def read_moves(connection: psycopg.Connection) -> Iterator[Move]:
    """Every line, in order."""
    with connection.cursor() as cursor, cursor.copy(_MOVES) as copy:
        copy.set_types(["int8", "text", "int4", *["text"] * 6, "float8", "text", "bool", "bool"])
        for row in copy.rows():
            yield Move(*row)
