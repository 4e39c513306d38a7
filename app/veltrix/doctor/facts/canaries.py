"""What became of the canaries, as one look at them found it."""

import msgspec


class ApiTrouble(msgspec.Struct, frozen=True):
    """An api that took none of its canaries at this look, and what it or the network said."""

    api: str
    why: str


class LateCanary(msgspec.Struct, frozen=True):
    """A canary that is on its way for longer than it may be. Not `is_accepted`: no api took it."""

    queue: str
    api: str
    age_s: float
    is_accepted: bool


class LostCanary(msgspec.Struct, frozen=True):
    """A canary that was accepted, and came to nothing: `why` is in words."""

    queue: str
    api: str
    why: str


class CanaryWays(msgspec.Struct, frozen=True, kw_only=True):
    """One look. `lost` of the last minutes; `may_take_s` is how long a canary may take."""

    troubles: list[ApiTrouble]
    late: list[LateCanary]
    lost: list[LostCanary]
    may_take_s: float
