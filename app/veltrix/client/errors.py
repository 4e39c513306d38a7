"""Why an api could not be asked, in sentences with a cure.

ApiError
  ApiMistake     the address, the key or the file with CAs cannot be used
  ApiAway        no answer, or none but "later", as often as it was tried
  ApiRefused     the api says no: `status`, `slug` and `members` of its problem (RFC 9457)
  ApiStrange     something answers that is no api of Veltrix, or of another release
"""

from collections.abc import Mapping
from typing import Any

import msgspec

PROBLEM_PREFIX = "urn:veltrix:problem:"
_BODY_CHARS = 200
_STANDARD = frozenset({"type", "title", "status", "detail", "instance"})
_CURES = {
    401: "give a key with VELTRIX_API_KEY, VELTRIX_API_KEY_FILE or --key-file",
    403: "`veltrix keys create --scope` makes keys with other scopes",
}


class ApiError(Exception):
    """The api was not asked, or did not do it; the message is a sentence for people."""


class ApiMistake(ApiError):
    """What was given cannot be used to call an api."""


class ApiAway(ApiError):
    """The api did not answer, or has no room, as often as it was tried."""


class ApiStrange(ApiError):
    """The answer is none that an api of this release gives."""


class ApiRefused(ApiError):
    """The api does not do it. `slug` is stable; `members` are facts for programs."""

    def __init__(self, status: int, slug: str, detail: str, members: Mapping[str, Any]) -> None:
        cure = _CURES.get(status)
        super().__init__(
            f"the api answers {status}: {detail}" + (f"; {cure}" if cure is not None else "")
        )
        self.status, self.slug, self.detail = status, slug, detail
        self.members = dict(members)


def error_of(status: int, body: bytes, asked: str) -> ApiError:
    """What an answer of 400 and beyond means; `asked` is its method and path."""
    try:
        told = msgspec.json.decode(body)
    except (msgspec.MsgspecError, RecursionError):
        told = None
    if not isinstance(told, dict) or not isinstance(told.get("detail"), str):
        text = body[:_BODY_CHARS].decode(errors="replace").strip()
        said = f" ({text})" if text else ""
        return ApiStrange(
            f"{asked} is answered with {status}{said}, as no api of Veltrix does; is --url the"
            " address of one, without /v1?"
        )
    slug = str(told.get("type", "")).removeprefix(PROBLEM_PREFIX)
    members = {name: value for name, value in told.items() if name not in _STANDARD}
    return ApiRefused(status, slug, told["detail"], members)
