"""The way to an api: a kept connection, timeouts, TLS, and one rule for trying again.

Whatever goes through here may be sent twice: reads, events (their identity is known), and calls
with an Idempotency-Key. So it is tried again when the connection is lost, and when the api says
"later": 429 and 503, what a proxy before it says of an api that is away (502, 504), and 409 for a
call that still runs. `Retry-After` is kept to. 202 and 207 are answers: who sent the list looks at
its items.
"""

import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import urlsplit, urlunsplit

from veltrix.client.errors import ApiAway, ApiMistake, error_of

if TYPE_CHECKING:
    import httpx

TIMEOUT_S, CONNECT_TIMEOUT_S = 60.0, 10.0
BACKOFF_S, BACKOFF_S_MAX = 0.1, 5.0
ATTEMPTS_MAX = 6
RETRY_AFTER_S_MAX = 60.0
_LATER = frozenset({429, 502, 503, 504})


class ApiAnswer(NamedTuple):
    """What the api said to one request. The names of `headers` are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Again(NamedTuple):
    """The next attempt: its number (the first was 1), of how many (None: no end), when and why."""

    attempt: int
    attempts_max: int | None
    pause_s: float
    why: str


def pause(again: Again) -> None:
    """Wait until the next attempt is due."""
    Event().wait(again.pause_s)


class Transport:
    """Calls one api, inside `with`. For one thread.

    Over https its certificate and name are checked by the CAs in `ca_file`, or the system's.
    `wait` pauses before each further attempt and may raise to give up; `attempts_max` None: only
    it ends them. Raises ApiMistake for an address, file or key that cannot be used.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        ca_file: Path | None = None,
        timeout_s: float = TIMEOUT_S,
        attempts_max: int | None = ATTEMPTS_MAX,
        wait: Callable[[Again], None] = pause,
        backoff_s_max: float = BACKOFF_S_MAX,
    ) -> None:
        # Takes as long as the rest of a command's start, which may turn out not to need it.
        import httpx

        base, is_tls = _base_of(url)
        if key is not None and not (key.isascii() and key.isprintable()):
            raise ApiMistake("the API key has characters that no key has; is it the right file?")
        self._attempts_max, self._wait = attempts_max, wait
        self._backoff_s_max = backoff_s_max
        self._client = httpx.Client(
            base_url=base,
            headers={"authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, CONNECT_TIMEOUT_S)),
            limits=httpx.Limits(max_connections=1),
            # Without TLS nothing is verified; a context that is never used costs 50 ms.
            verify=_context(ca_file) if is_tls else False,
            trust_env=False,  # a proxy for the web has no business with keys
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the connection go."""
        self._client.close()

    def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> ApiAnswer:
        """As `send`. Raises ApiRefused, with the problem, for what the api does not do."""
        answer = self.send(method, path, params=params, body=body, headers=headers)
        if answer.status >= 400:
            raise error_of(answer.status, answer.body, f"{method} {path}")
        return answer

    def send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> ApiAnswer:
        """The first answer that is not "later", whatever it is.

        Raises ApiAway after the last attempt, ApiMistake for a certificate that is not believed.
        """
        import httpx

        backoff_s, attempt = BACKOFF_S, 1
        while True:
            try:
                response = self._client.request(
                    method, path, params=params, content=body, headers=headers
                )
            except httpx.InvalidURL as error:
                raise ApiMistake(f"{path!r} cannot be asked for: {error}") from None
            except httpx.TransportError as error:
                _check_certificate(error)
                pause_s, why = backoff_s, f"no connection ({type(error).__name__}: {error})"
            else:
                if not _is_later(response):
                    return _answer_of(response)
                pause_s = max(backoff_s, retry_after_s(response.headers))
                why = _why(response)
            attempt += 1
            if self._attempts_max is not None and attempt > self._attempts_max:
                raise ApiAway(
                    f"the api at {self._client.base_url} was asked {attempt - 1} times: {why}; is"
                    " it the right address, and is the api running?"
                )
            self._wait(Again(attempt, self._attempts_max, pause_s, why))
            backoff_s = min(backoff_s * 2, self._backoff_s_max)


def _base_of(url: str) -> tuple[str, bool]:
    """The address without what stands before an @, and whether it is asked over TLS."""
    mistake = ApiMistake(f"{url!r} is no address of an api; write https://host:8080")
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError for what is no port
    except ValueError:
        raise mistake from None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise mistake
    host = parts.netloc.rpartition("@")[2]
    base = urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))
    return base, parts.scheme == "https"


def _context(ca_file: Path | None) -> ssl.SSLContext:
    from veltrix.tls import client_context

    try:
        return client_context(ca_file)
    except OSError as error:
        why = error.strerror or error
        raise ApiMistake(f"no CA can be read of {str(ca_file)!r}: {why}") from None


def _check_certificate(error: BaseException) -> None:
    """Raises ApiMistake if that is why there is no connection: trying again changes nothing."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise ApiMistake(
                f"the api's certificate is not believed: {cause.verify_message}; --ca-file names"
                " the CA that it is of, --url the name that it is for"
            ) from None
        cause = cause.__cause__ or cause.__context__


def _is_later(response: "httpx.Response") -> bool:
    is_running = response.status_code == 409 and "retry-after" in response.headers
    return response.status_code in _LATER or is_running


def retry_after_s(headers: Mapping[str, str]) -> float:
    """The pause that an answer asks for; 0 if it asks for none in seconds."""
    told = headers.get("retry-after", "")
    return min(float(told), RETRY_AFTER_S_MAX) if told.isdecimal() and told.isascii() else 0.0


def _why(response: "httpx.Response") -> str:
    error = error_of(response.status_code, response.content, "")
    detail = getattr(error, "detail", response.reason_phrase)
    return f"{response.status_code} {detail}"


def _answer_of(response: "httpx.Response") -> ApiAnswer:
    return ApiAnswer(response.status_code, response.headers, response.content)
