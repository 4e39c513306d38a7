"""What authors have done when a child begins, and closed when it ends."""

from collections.abc import Callable

from veltrix import telemetry
from veltrix.authoring.definitions import is_async
from veltrix.authoring.flow import type_and_message
from veltrix.authoring.resources import StartHook, close_resources, start_hooks
from veltrix.pipeline.execute.step_calls import Alarm, AsyncSteps

_CLOSE_S = 2.0  # for each resource of the event loop


def run_start_hooks(
    alarm: Alarm, async_steps: AsyncSteps, limit_s: float, monotonic: Callable[[], float]
) -> None:
    """Call each `@on_worker_start`, within `limit_s`. What one raises is a line of the log."""
    for hook in start_hooks:
        try:
            if is_async(hook):
                async_steps.call(hook, limit_s)
            else:
                _call(hook, alarm, limit_s, monotonic)
        except BaseException as error:  # noqa: BLE001 - steps that need it fail by themselves
            name, (type_, message) = getattr(hook, "__name__", "?"), type_and_message(error)
            telemetry.logger("worker").error(
                "start_hook.failed", hook=name, error=f"{type_}: {message}", exc_info=error
            )


def _call(hook: StartHook, alarm: Alarm, limit_s: float, monotonic: Callable[[], float]) -> None:
    alarm.arm(limit_s, monotonic())
    try:
        hook()
    finally:
        alarm.disarm()


def close_all() -> None:
    """Close the resources of this process. Raises nothing."""

    def tell(error: BaseException) -> None:
        type_, message = type_and_message(error)
        telemetry.logger("worker").warning("resource.not_closed", error=f"{type_}: {message}")

    close_resources(_CLOSE_S, tell)
