"""Settings that must be the same on all workers, as what becomes of a run depends on them.

Workers say theirs with each sign of life. Not among them: what only makes a worker faster or
larger (children, lists, memory, queues), what only relays or apis go by, and anything secret.
"""

from typing import Any

from veltrix.settings.fields import Settings

# By what it does to a run where two workers differ.
AGREED: dict[str, str] = {
    "hold_s": "runs of one are taken back while those of another are still waited for",
    "step_timeout_s": "a step is ended on one and has its time on another",
    "step_overrun_s": "a step takes its neighbours with it on one and not on another",
    "output_bytes_max": "a result fails its run on one and is kept on another",
    "deploy_grace_s": "a run whose code is missing fails on one and waits on another",
}


def agreed_of(settings: Settings) -> dict[str, Any]:
    """What a worker reports: numbers, by name, in one order."""
    return {name: getattr(settings, name) for name in AGREED}
