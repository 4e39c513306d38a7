"""`veltrix prove`: does this lose events? It tries."""

import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from veltrix.commands.mistakes import CommandRefused
from veltrix.commands.options import ApiKeyFile, AsJson, Yes, key_of, spoken_to

if TYPE_CHECKING:
    from veltrix.prove.report.report import Proof
    from veltrix.prove.scenario import Plan

_EVENTS = {"smoke": 2_000, "cluster": 20_000, "everything": 200_000}
_EVENTS_OF_A_FAMILY = 10_000
_LOG_CHARS = 160
_EVENTS_PER_S_MIN = 20  # so that something flows as long as was asked for


_Scenario = Annotated[
    str,
    typer.Option(
        help="What to break: smoke, workers, broker, database, network, deploy, author,"
        " standby, clock, cluster or everything."
    ),
]
_Events = Annotated[
    int | None,
    typer.Option(
        help="How many to send.  [default: 2,000; cluster 20,000; everything 200,000;"
        " the others 10,000]",
        min=1,
        max=100_000_000,
    ),
]
_Rate = Annotated[
    float | None,
    typer.Option(
        help="Events per second.  [default: so that they last as long as the faults]", min=0.1
    ),
]
_Seconds = Annotated[
    float | None,
    typer.Option(help="Go on for at least so long; faults are repeated until then.", min=1),
]
_Seed = Annotated[
    int | None, typer.Option(help="Of events and faults.  [default: by chance]", min=0)
]
_Faults = Annotated[
    list[str] | None, typer.Option(help="Only this fault; may be given several times.")
]
_Target = Annotated[
    str | None, typer.Option(help="The API of a running Veltrix to drive instead; no faults.")
]
_Workflows = Annotated[
    list[str] | None,
    typer.Option(help="On a target without the workflows of prove: start this one instead."),
]
_Folder = Annotated[
    Path | None,
    typer.Option(help="Keep record, data and logs here.  [default: only if it did not hold]"),
]
_Page = Annotated[Path, typer.Option(help="Where the page with the picture is written.")]
_QueueType = Annotated[
    str | None,
    typer.Option(
        help="What VELTRIX_QUEUE_TYPE is: classic or quorum.  [default: classic; in a cluster"
        " quorum]"
    ),
]
_Clean = Annotated[
    bool, typer.Option("--clean", help="Remove what earlier proofs left in the database.")
]


def prove(
    scenario: _Scenario = "smoke",
    events: _Events = None,
    rate: _Rate = None,
    seconds: _Seconds = None,
    seed: _Seed = None,
    fault: _Faults = None,
    target: _Target = None,
    workflow: _Workflows = None,
    key_file: ApiKeyFile = None,
    folder: _Folder = None,
    page: _Page = Path("veltrix-prove.html"),
    queue_type: _QueueType = None,
    clean: _Clean = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Drive a workload, break things, and check that nothing is lost.

    On a PostgreSQL and a RabbitMQ of its own, with two of every process, unless --target is given.
    Everything comes from the seed. The verdict is held, broken, or inconclusive when something
    could not be tried or checked. Exit code 0 only for held. --json: one line with verdict lost
    invented duplicate_effects unaccounted open accepted settled faults seconds seed properties.

    Example: veltrix prove --scenario workers --events 20000 --seed 7
    """
    if clean:
        _clean(as_json=as_json, is_sure=yes)
        return
    plan = _plan(scenario, events, rate, seconds, seed, fault, target, workflow, queue_type)
    if target is None:
        proof = _embedded(plan, folder, page)
    else:
        proof = _on_target(plan, spoken_to(target), key_of(key_file), workflow, folder, page)
    if as_json:
        typer.echo(proof.line())
    if not proof.is_held:
        raise typer.Exit(1)


def _plan(
    scenario: str,
    events: int | None,
    rate: float | None,
    seconds: float | None,
    seed: int | None,
    only: list[str] | None,
    target: str | None,
    workflows: list[str] | None,
    queue_type: str | None,
) -> "Plan":
    from veltrix.bootstrap import real_sources
    from veltrix.prove.clean import PREFIX
    from veltrix.prove.faults.catalog import FAMILIES, FAULTS, KINDS_OF
    from veltrix.prove.scenario import Plan

    if scenario not in FAMILIES:
        raise CommandRefused(f"no scenario {scenario!r}; there are {', '.join(FAMILIES)}")
    if queue_type not in {None, "classic", "quorum"}:
        raise CommandRefused(f"no queue type {queue_type!r}; there are classic and quorum")
    if unknown := [name for name in only or () if name not in FAULTS]:
        raise CommandRefused(
            f"no fault {', '.join(map(repr, unknown))}; there are {', '.join(sorted(FAULTS))}"
        )
    sources = real_sources()
    if seed is None:
        seed = sources.random_bits(31)
    if events is None and rate is not None and seconds is not None:
        events = max(1, round(rate * seconds))
    if events is None:
        events = _EVENTS.get(scenario, _EVENTS_OF_A_FAMILY)
        if seconds is not None:
            events = max(events, math.ceil(seconds * _EVENTS_PER_S_MIN))
    options = {"--scenario": scenario, "--events": events, "--seed": seed, "--rate": rate}
    options |= {"--seconds": seconds, "--target": target, "--queue-type": queue_type}
    words = [w for name, value in options.items() if value is not None for w in (name, str(value))]
    words += [word for name in only or () for word in ("--fault", name)]
    words += [word for name in workflows or () for word in ("--workflow", name)]
    return Plan(
        scenario=scenario,
        faults=() if target else tuple(only or FAMILIES[scenario]),
        events=events,
        rate=rate,
        seconds=seconds,
        seed=seed,
        source=f"{PREFIX}{seed}-{sources.unix_ms():x}",
        queue_type=queue_type,
        families=frozenset() if target else KINDS_OF.get(scenario, frozenset()),
        command=shlex.join(["veltrix", "prove", *words]),
    )


def _embedded(plan: "Plan", folder: Path | None, page: Path) -> "Proof":
    from veltrix.dev.session import ended_by_signals, own_folder
    from veltrix.prove.report.display import Display
    from veltrix.prove.scenario import prove as run

    is_kept = True  # unless it held: what ends in an error is to be looked at, too
    display = Display(plan.events)
    with own_folder(folder, "veltrix-prove-", lambda: is_kept) as own, ended_by_signals(), display:
        display.say(f"seed {plan.seed}; starting two of everything in {own}")
        proof = run(plan, own, show=display.show, say=display.say)
        is_kept = not proof.is_held
        display.close()
        _tell(proof, page, own if is_kept or folder else None)
    return proof


def _on_target(
    plan: "Plan",
    target: str,
    key: str | None,
    workflows: list[str] | None,
    folder: Path | None,
    page: Path,
) -> "Proof":
    from veltrix.dev.session import ended_by_signals, own_folder
    from veltrix.prove.report.display import Display
    from veltrix.prove.target.run import prove_target

    display = Display(plan.events)
    with own_folder(folder, "veltrix-prove-") as own, ended_by_signals(), display:
        proof = prove_target(
            plan,
            target,
            key=key,
            workflows=workflows,
            folder=own,
            show=display.show,
            say=display.say,
        )
        display.close()
        _tell(proof, page, own if folder else None)
    return proof


def _tell(proof: "Proof", page: Path, kept: Path | None) -> None:
    """The tables on standard error, the page, and where things are."""
    from rich.console import Console

    from veltrix.prove.report.report import print_proof
    from veltrix.prove.report.timeline import page_of

    console = Console(stderr=True)
    if not console.is_terminal:  # a log has no width, and tables are not to be cut
        console.width = _LOG_CHARS
    print_proof(proof, console)
    page.write_text(page_of(proof), encoding="utf-8")
    where = f"picture: {page.absolute()}" + (f"\nrecord and logs: {kept}" if kept else "")
    console.print(where, markup=False, highlight=False, soft_wrap=True)


def _clean(*, as_json: bool, is_sure: bool) -> None:
    from veltrix.commands.terminal import connected, print_json
    from veltrix.prove.clean import PREFIX, clean

    if not is_sure:
        typer.confirm(f"Remove every event, run and outcome below {PREFIX}?", abort=True)
    with connected(as_owner=True) as (_, engine):  # the platform's role removes no run
        removed = clean(engine)
    if as_json:
        print_json(removed)
    else:
        typer.echo(str(removed))
