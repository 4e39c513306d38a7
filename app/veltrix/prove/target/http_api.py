"""The HTTP API of a deployment that is not ours: called as a producer or an operator calls it."""

from types import TracebackType
from typing import Any, NamedTuple, Self

import httpx
import msgspec

from veltrix.dev.children import CannotStart
from veltrix.domain.events import BATCH_TYPE

ACCOUNTS_MAX = 1_000  # as many as GET /v1/balance lists
_TIMEOUT = httpx.Timeout(30.0, connect=10.0)
_CURES = {
    401: "give a key that it knows with --key-file, VELTRIX_API_KEY or VELTRIX_API_KEY_FILE",
    403: "the key needs the scopes events:write and runs:read",
}


class Known(msgspec.Struct):
    """A workflow that the target can start, and what its input must look like."""

    name: str
    input_schema: Any = None


class Account(msgspec.Struct):
    """The books of one source and type."""

    source: str | None
    events: dict[str, int]
    runs: dict[str, int]
    unaccounted: int
    is_overflow: bool = False


class TargetBalance(msgspec.Struct):
    """The books of the target, by account: all of them, or the 1,000 that matter most."""

    by: list[Account]
    unaccounted: int

    @property
    def is_whole(self) -> bool:
        """No account was left out, and none is of sources that have none of their own."""
        return len(self.by) < ACCOUNTS_MAX and not any(account.is_overflow for account in self.by)

    def of(self, source: str) -> list[Account]:
        """The accounts of this source."""
        return [account for account in self.by if account.source == source]


class _Workflows(msgspec.Struct):
    workflows: list[Known]


class _Problem(msgspec.Struct):
    detail: str = ""


class TargetAnswer(NamedTuple):
    """A status that a Veltrix may give here, and what came with it."""

    status: int
    body: bytes


class Api:
    """Calls the api at `url`, inside `with`. Raises CannotStart, with the cure, where it cannot."""

    def __init__(self, url: str, key: str | None) -> None:
        self.url = url.rstrip("/")
        self.headers = {"authorization": f"Bearer {key}"} if key else {}
        if not self.url.startswith(("http://", "https://")):
            raise CannotStart(f"{url!r} is no address of an api; write https://host:8080")
        try:
            self._client = httpx.Client(headers=self.headers, timeout=_TIMEOUT)
        except ValueError:
            raise CannotStart("the API key has characters that no key has") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    def workflows(self) -> dict[str, Known]:
        """Every workflow the target can start, by name. Needs the scope runs:read."""
        body = self.ask("GET", "/v1/workflows").body
        try:
            return {one.name: one for one in msgspec.json.decode(body, type=_Workflows).workflows}
        except msgspec.MsgspecError:
            raise self._stranger("no list of workflows") from None

    def check_may_write(self) -> None:
        """The key has the scope events:write; a batch of no events was accepted."""
        self.ask("POST", "/v1/events", content=b"[]", headers={"content-type": BATCH_TYPE})

    def balance(self) -> TargetBalance:
        """The books as of now."""
        body = self.ask("GET", "/v1/balance", params={"by": ACCOUNTS_MAX}).body
        try:
            return msgspec.json.decode(body, type=TargetBalance)
        except msgspec.MsgspecError:
            raise self._stranger("no books") from None

    def ask(
        self, method: str, path: str, *, also: tuple[int, ...] = (), **what: Any
    ) -> TargetAnswer:
        """The answer, if its status is 200, 202 or in `also`."""
        try:
            told = self._client.request(method, f"{self.url}{path}", **what)
        except httpx.InvalidURL as error:
            raise CannotStart(f"{self.url!r} is no address of an api: {error}") from None
        except httpx.HTTPError as error:
            raise CannotStart(_away(self.url, error)) from None
        if told.status_code in {200, 202, *also}:
            return TargetAnswer(told.status_code, told.content)
        try:
            detail = msgspec.json.decode(told.content, type=_Problem).detail
        except msgspec.MsgspecError:
            detail = ""
        if not detail:
            raise self._stranger(f"{told.status_code} to {method} {path}")
        cure = _CURES.get(told.status_code)
        said = f"{self.url} answers {told.status_code}: {detail}"
        raise CannotStart(f"{said}; {cure}" if cure else said)

    def _stranger(self, what: str) -> CannotStart:
        return CannotStart(
            f"{self.url} does not answer as the api of a Veltrix does ({what}); is it the address"
            " of one, without a path?"
        )


def _away(url: str, error: httpx.HTTPError) -> str:
    why = str(error) or type(error).__name__
    if "SSL" in why or "certificate" in why.lower():
        return (
            f"{url} cannot be reached over TLS ({why}); check the address, or name the certificate"
            " of its authority with SSL_CERT_FILE"
        )
    if isinstance(error, httpx.TimeoutException):
        return f"{url} does not answer in time ({type(error).__name__}); is it the right address?"
    return f"{url} cannot be reached ({why}); is it the right address, and is the api running?"
