"""What faults share: waiting for a busy system, and seeing what they caught."""

from collections.abc import Callable, Container, Sequence
from random import Random
from threading import Event

from veltrix.dev.children import wait_for
from veltrix.prove.deployment.site import Site
from veltrix.prove.faults.injections import Blow, names_of

_BUSY_S = 20.0
_IN_FLIGHT_S = 0.2  # for statements that PostgreSQL had already begun
_TRIES = 5
_never = Event()
AFFECTED_MAX = 20_000


def catch(
    site: Site,
    blow: Blow,
    holder: Callable[[str], bool] = lambda _worker: True,
    *,
    is_long: bool = False,
    without: Container[str] = (),
) -> None:
    """Wait until some runs are in the hands of a `holder`; note them and the other open ones.

    `is_long`: until one of them was there at the look before as well, so that it is likely to be
    there a moment later. Who has a run of a workflow in `without` does not count. A system that
    stays idle is noted too.
    """
    caught: list[tuple[str, str, str, str]] = []
    in_hand: list[str] = []

    def is_busy() -> bool:
        nonlocal caught, in_hand
        before = set(in_hand)
        blow.seq = site.witness_seq()
        caught = site.open_runs()
        held = [(id_, worker, name) for id_, state, worker, name in caught if state == "running"]
        unfit = {worker for _, worker, name in held if name in without}
        in_hand = [id_ for id_, worker, _ in held if worker not in unfit and holder(worker)]
        return bool(before.intersection(in_hand) if is_long else in_hand)

    wait_for(is_busy, deadline_s=_BUSY_S)
    blow.open = len(caught)
    blow.in_hand = len(in_hand)
    blow.affected = in_hand


def catch_rest(site: Site, blow: Blow) -> None:
    """What is open now, at the end of the fault, has to be taken up again: it and nothing else."""
    blow.seq = site.witness_seq()
    open_ = site.open_runs()
    blow.affected = [id_ for id_, state, _, _ in open_ if state != "waiting"][:AFFECTED_MAX]


def catch_in_hand(
    site: Site,
    blow: Blow,
    holder: Callable[[str], bool],
    *,
    is_long: bool = False,
    without: Container[str] = (),
) -> None:
    """As `catch`, but only what the holder has is waited for afterwards."""
    catch(site, blow, holder, is_long=is_long, without=without)
    blow.is_of_one = True


def strike_holder(
    site: Site,
    blow: Blow,
    holder: Callable[[str], bool],
    strike: Callable[[], Sequence[int]],
    *,
    undo: Callable[[], None] | None = None,
    without: Container[str] = (),
) -> None:
    """Catch a holder at work and strike; again if everything in its hands was settled before.

    `strike` ends processes and returns their ids; or it stops them, and `undo` wakes them again.
    """
    for number in range(_TRIES):
        catch_in_hand(site, blow, holder, is_long=number > 0, without=without)
        if not blow.affected:  # nobody came to hold anything
            return
        blow.strike()
        pids = strike()
        blow.heal()
        if undo is None:
            _wait_gone(site, pids)
        else:
            _never.wait(_IN_FLIGHT_S)
        done = site.first_moves(blow.seq, blow.affected)
        by_others = site.first_moves(blow.seq, blow.affected, names_of(pids))
        left = [id_ for id_ in blow.affected if id_ not in done or id_ in by_others]
        blow.affected, blow.in_hand = left, len(left)
        if left:
            return
        if undo is not None:
            undo()


def _wait_gone(site: Site, pids: Sequence[int]) -> None:
    """What the sessions of ended processes had under way is committed, or never will be."""
    keys = {"names": names_of(pids)}
    sql = "select count(*) from pg_stat_activity where application_name ~ %(names)s"
    if pids:
        wait_for(lambda: site.rows(sql, keys)[0][0] == 0, deadline_s=5.0)


def one_of(chance: Random, names: Sequence[str]) -> str:
    """One of these, by chance."""
    return chance.choice(sorted(names))


def of_kind(site: Site, kind: str) -> list[str]:
    """The processes of a kind that run."""
    return [n for n, m in site.members.items() if m.kind == kind and m.is_running]
