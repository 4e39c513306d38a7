"""What a key is bound to, and how much it may send.

Whoever is bound in anything may do only what its patterns name. Bound to sources or types, it sends
events that fit all that is given, and starts no workflow by name; bound to workflows, it starts
these and acts on their runs, and sends events only if it has sources or types as well.
"""

from math import ceil

import msgspec

from veltrix.access.patterns import fits_any, mistake_in, told

RATE_MIN, RATE_MAX = 0.001, 1_000_000.0
BURST_MAX = 1_000_000
BODY_BYTES_MAX = 1024 * 1024 * 1024

Patterns = tuple[str, ...]


class KeyLimits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The limits of a key; None: none of this kind.

    `rate`: calls a second, of which each further event or input of a list is one more; `burst`: so
    many at once, without it those of a second.
    """

    sources: Patterns | None = None
    types: Patterns | None = None
    workflows: Patterns | None = None
    rate: float | None = None
    burst: int | None = None
    body_bytes_max: int | None = None

    @property
    def is_bound(self) -> bool:
        """Whether it may do only what its patterns name."""
        return self.sources is not None or self.types is not None or self.workflows is not None

    @property
    def calls_max(self) -> int:
        """How many calls, events and inputs may come at once, of a key with a rate."""
        return self.burst or ceil(self.rate or 0)

    def stray_event(self, source: str, type_: str) -> str | None:
        """Why an event of this source and type may not be sent, in words; None: it may."""
        if self.sources is self.types is None:
            if self.workflows is None:
                return None
            return f"is bound to the workflows {told(self.workflows)}, and sends no events"
        if self.sources is not None and not fits_any(self.sources, source):
            return f"is bound to the sources {told(self.sources)}, and {source!r} is none of them"
        if self.types is not None and not fits_any(self.types, type_):
            return f"is bound to the types {told(self.types)}, and {type_!r} is none of them"
        return None

    def stray_workflow(self, workflow: str | None) -> str | None:
        """Why nothing may be done with this workflow, in words; None: it may.

        `workflow` None: what was asked for is of no workflow, or of any.
        """
        if not self.is_bound:
            return None
        if self.workflows is None:
            return "is bound to sources or types, and to no workflow: it starts and changes no run"
        if workflow is None:
            return f"is bound to the workflows {told(self.workflows)}: name one of them"
        if not fits_any(self.workflows, workflow):
            return f"is bound to the workflows {told(self.workflows)}, and this is of another"
        return None


def mistake_of(limits: KeyLimits) -> str | None:
    """What is wrong with these limits, in words; None: nothing is."""
    for name in ("sources", "types", "workflows"):
        patterns = getattr(limits, name)
        if patterns is not None and (mistake := mistake_in(patterns)):
            return f"the patterns of {name} cannot be used: {mistake}"
    if limits.rate is not None and not RATE_MIN <= limits.rate <= RATE_MAX:
        return f"a rate is {RATE_MIN} to {RATE_MAX:,.0f} calls a second"
    if limits.burst is not None and limits.rate is None:
        return "a burst goes with a rate"
    if limits.burst is not None and not 1 <= limits.burst <= BURST_MAX:
        return f"a burst is 1 to {BURST_MAX:,} calls"
    if limits.body_bytes_max is not None and not 1 <= limits.body_bytes_max <= BODY_BYTES_MAX:
        return f"a body has 1 to {BODY_BYTES_MAX:,} bytes"
    return None
