"""What a replay would do, told before it does anything: counts, warnings, and how long it takes."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from veltrix.domain.states import Reason, ReplayMode
from veltrix.operations.replays.plan_rows import Failures, Foreseen
from veltrix.operations.replays.read import ERRORS_MAX, ErrorCount, Summary, Warned
from veltrix.operations.replays.rules import Options
from veltrix.releases.subscription_rows import Subscription
from veltrix.store.loads import Load

WARNINGS_MAX = 100
# A step that ended like this was begun: what it does to others may have been done.
_IN_FLIGHT = {Reason.ERROR, Reason.TIMEOUT, Reason.UNSTORABLE}


def summary_of(
    seen: Foreseen, options: Options, subscriptions: Sequence[Subscription], load: Load
) -> Summary:
    """The plan's own words for the set that was frozen."""
    by_workflow: Counter[str] = Counter()
    for one in seen.failures:
        by_workflow[one.workflow] += one.runs
    known = {row.workflow: row for row in subscriptions}
    return Summary(
        by_workflow=dict(by_workflow.most_common()),
        by_error=_by_error(seen.failures),
        by_age={
            "within_1_h": seen.ages.within_1_h,
            "within_1_d": seen.ages.within_1_d,
            "within_7_d": seen.ages.within_7_d,
            "older": seen.ages.older,
        },
        runs_journalled=seen.runs_recorded,
        steps_journalled=seen.entries_recorded,
        warnings=list(_warnings(seen, options, known))[:WARNINGS_MAX],
        predicted_s=predicted_s(by_workflow, options, known, load),
    )


def predicted_s(
    by_workflow: Mapping[str, int],
    options: Options,
    known: Mapping[str, Subscription],
    load: Load,
) -> float:
    """At the rate, or as long as present workers take for the work, if that is longer."""
    at_rate_s = sum(by_workflow.values()) / options.rate
    work_s: Counter[str] = Counter()
    for workflow, runs in by_workflow.items():
        queue = known[workflow].queue if workflow in known else ""
        work_s[queue] += runs * load.occupied_s.get(workflow, 0.0)  # type: ignore[assignment]
    busy_s = [work / max(1, load.children.get(queue, 1)) for queue, work in work_s.items()]
    return round(max([at_rate_s, *busy_s]), 1)


def _by_error(failures: Sequence[Failures]) -> list[ErrorCount]:
    found: dict[tuple[str | None, str, str | None, str | None], ErrorCount] = {}
    for one in failures:
        key = (one.fingerprint, one.workflow, one.failed_step, one.reason)
        if key in found:
            found[key].count += one.runs
        else:
            found[key] = ErrorCount(*key, one.runs, one.sample)
    return sorted(found.values(), key=lambda error: -error.count)[:ERRORS_MAX]


def _warnings(
    seen: Foreseen, options: Options, known: Mapping[str, Subscription]
) -> Iterator[Warned]:
    yield from _about_code(seen.failures, known)
    yield from _about_effects(seen, options, known)
    if seen.in_other_replays:
        yield Warned(
            "in_other_replays",
            "are in another replay that goes on; who moves a run first has it, the other skips it",
            seen.in_other_replays,
        )
    if seen.edited_before:
        yield Warned(
            "edited_before",
            "were edited before and ran as another run: replayed, their work is done again",
            seen.edited_before,
        )


def _about_code(
    failures: Sequence[Failures], known: Mapping[str, Subscription]
) -> Iterator[Warned]:
    changed: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    for one in failures:
        if one.workflow not in known:
            unknown[one.workflow] += one.runs
        elif one.code_version not in (None, known[one.workflow].code_version):
            changed[one.workflow] += one.runs
    for workflow, runs in changed.most_common():
        yield Warned("code_changed", "failed with other code than there is now", runs, workflow)
    for workflow, runs in unknown.most_common():
        yield Warned(
            "unknown_workflow",
            "have a workflow that no worker has registered: they would wait, and then fail",
            runs,
            workflow,
        )


def _about_effects(
    seen: Foreseen, options: Options, known: Mapping[str, Subscription]
) -> Iterator[Warned]:
    """Steps whose effect is not exactly once, and that would run again."""
    if options.mode is ReplayMode.BEGINNING:
        for done in seen.finished:
            if not _is_transactional(known, done.workflow, done.step):
                yield Warned(
                    "effect_repeats",
                    "have finished this step, and would run it again",
                    done.runs,
                    done.workflow,
                    done.step,
                )
    tried: Counter[tuple[str, str]] = Counter()
    crashed: Counter[tuple[str, str | None]] = Counter()
    for one in seen.failures:
        if one.failed_step is not None and one.reason in _IN_FLIGHT:
            tried[one.workflow, one.failed_step] += one.runs
        elif one.reason == Reason.POISON:
            crashed[one.workflow, one.failed_step] += one.runs
    for (workflow, step), runs in tried.most_common():
        if not _is_transactional(known, workflow, step):
            yield Warned(
                "effect_may_repeat",
                "have tried this step in vain; what it did to others before it failed may happen"
                " again",
                runs,
                workflow,
                step,
            )
    for (workflow, ended_in), runs in crashed.most_common():
        where = "some step" if ended_in is None else "this step"
        detail = f"ended their worker in {where}"
        yield Warned("effect_may_repeat", detail, runs, workflow, ended_in)


def _is_transactional(known: Mapping[str, Subscription], workflow: str, step: str) -> bool:
    row = known.get(workflow)
    return row is not None and step in row.options.get("transactional_steps", ())
