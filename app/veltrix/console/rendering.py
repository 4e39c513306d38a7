"""Pages from templates: everything that is not ours is escaped, whatever it says."""

import hashlib
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import HTMLResponse

from veltrix.console.query import cookie_of
from veltrix.console.sessions import Visitor
from veltrix.console.tracebacks import trace_of
from veltrix.domain.json_scan import depth_of
from veltrix.domain.local_names import is_loopback
from veltrix.operations.runs.read_story import Attempt, Entry, call_text
from veltrix.web.services import services_of

if TYPE_CHECKING:
    from veltrix.settings.fields import Settings

BASE = "/console"
STATIC = Path(__file__).with_name("static")
THEME_COOKIE = "veltrix_theme"
SHOWN_CHARS_MAX = 64 * 1024
# What makes "gpj.exe" look like a picture's name.
_TURNING = {
    code: f"\\u{code:04x}"
    for code in (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
}
_SAID = {"done", "moved", "requested"}  # of an action, once: no filter, no part of a link
_THEMES = {"light", "dark"}
# The largest unit of which there is one, and below which it is said in it.
_UNITS = (
    ("s", 1, 60),
    ("min", 60, 3_600),
    ("h", 3_600, 2 * 86_400),
    ("d", 86_400, float("inf")),
)
# (address, name, key after `g`)
PLACES = (
    ("/", "Overview", "o"),
    ("/runs", "Runs", "r"),
    ("/failures", "Failures", "f"),
    ("/replays", "Replays", "p"),
    ("/events", "Events", "e"),
    ("/workflows", "Workflows", "w"),
    ("/audit", "Audit", "a"),
    ("/retention", "Retention", "t"),
    ("/flower", "Flower", "l"),
)


def rendered(
    request: Request,
    visitor: Visitor | None,
    template: str,
    *,
    status: int = 200,
    place: str | None = None,
    **context: Any,
) -> HTMLResponse:
    """A page. `place` is the entry of the navigation that it belongs to."""
    theme = cookie_of(request, THEME_COOKIE)
    settings = services_of(request).settings
    page = environment().get_template(template)
    body = page.render(
        visitor=visitor,
        theme=theme if theme in _THEMES else None,
        places=PLACES,
        place=place,
        query={k: v for k, v in request.query_params.items() if k not in _SAID},
        notice=notice_of(request.query_params),
        now=datetime.now(UTC),
        flower_url=flower_url(settings),
        environment=settings.environment.strip(),
        **context,
    )
    return HTMLResponse(body, status_code=status)


def notice_of(query: Mapping[str, str]) -> str | None:
    """What an action on many runs did, by the words in the address that it led to."""
    done, moved, requested = (query.get(name, "") for name in ("done", "moved", "requested"))
    if done not in {"cancelled", "archived", "restored"} or not _is_count(moved):
        return None
    words = f"{int(moved):,} run{' is' if moved == '1' else 's are'} {done}."
    if not _is_count(requested):
        return words
    ends = "1 more ends" if requested == "1" else f"{int(requested):,} more end"
    return f"{words} {ends} before the next step."


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 6


def fragment(template: str, **context: Any) -> str:
    """A part of a page that is the same for every visitor."""
    return environment().get_template(template).render(now=datetime.now(UTC), **context)


@cache
def environment() -> Environment:
    """The templates, compiled once; a name that was not given is an error, not an empty place."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "at": at,
        "hour": hour,
        "age": age,
        "ago": ago,
        "count": count,
        "took": took,
        "pretty": pretty,
        "arguments": arguments,
        "trace": trace_of,
        "shown": shown,
        "rate": rate,
        "plain": plain,
        "bare": bare,
    }
    made.globals |= {"base": BASE, "asset": asset, "address": address, "once": form_key}
    return made


def form_key() -> str:
    """The key of one form: sent twice, it acts once."""
    return secrets.token_urlsafe(16)


def _visible(value: object) -> object:
    """A text without characters that turn the order of others around: they are spelled."""
    return value.translate(_TURNING) if isinstance(value, str) else value


@cache
def asset(name: str) -> str:
    """The address of a file of ours, which changes with its content."""
    digest = hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]
    return f"{BASE}/static/{name}?v={digest}"


def address(path: str, query: Mapping[str, Any] | None = None, **changes: Any) -> str:
    """An address of the console with these fields; empty ones are left out."""
    fields = {**(query or {}), **changes}
    sent = urlencode({k: str(v) for k, v in fields.items() if v not in {None, ""}})
    return f"{BASE}{path}?{sent}" if sent else f"{BASE}{path}"


def at(time: datetime | None) -> Markup | str:
    """A time in UTC, to the millisecond."""
    if time is None:
        return "\N{EN DASH}"
    utc = time.astimezone(UTC)
    text = f"{utc:%Y-%m-%d %H:%M:%S}.{utc.microsecond // 1000:03d}"
    return Markup('<time datetime="{}">{}</time>').format(utc.isoformat(), text)


def hour(time: datetime, earlier_s: int = 0) -> Markup:
    """A time in UTC that is known to the hour; or so much earlier."""
    utc = time.astimezone(UTC) - timedelta(seconds=earlier_s)
    return Markup('<time datetime="{}">{}</time>').format(utc.isoformat(), f"{utc:%Y-%m-%d %H:00}")


def age(time: datetime | None, now: datetime) -> str:
    """How long ago, as people say it."""
    return "\N{EN DASH}" if time is None else took(max(0.0, (now - time).total_seconds()))


def ago(time: datetime | None, now: datetime) -> Markup | str:
    """How long ago or ahead, roughly; exactly on hover. The page keeps it current in a browser."""
    if time is None:
        return "\N{EN DASH}"
    utc = time.astimezone(UTC)
    exact = f"{utc:%Y-%m-%d %H:%M:%S}.{utc.microsecond // 1000:03d} UTC"
    words = _roughly((now - time).total_seconds())
    return Markup('<time class="ago" datetime="{}" title="{}">{}</time>').format(
        utc.isoformat(), exact, words
    )


def _roughly(seconds: float) -> str:
    """As the browser's script says it too (`console.js`)."""
    size = abs(seconds)
    if size < 1:
        return "now"
    for unit, of_s, below_s in _UNITS:
        if size < below_s:
            words = f"{int(size // of_s)} {unit}"
            return f"{words} ago" if seconds > 0 else f"in {words}"
    raise AssertionError(seconds)


def took(seconds: float | None) -> str:
    """A duration with its unit, to about three digits."""
    if seconds is None:
        return "\N{EN DASH}"
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms" if seconds >= 0.0005 else "0 ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def count(number: int | None) -> str:
    """A number in groups of three digits."""
    return "\N{EN DASH}" if number is None else f"{number:,}"


_RATE_MIN = 0.01


def rate(per_s: float | None) -> str:
    """A number per second or minute, to about three digits; of a few an hour it says so."""
    if per_s is None:
        return "\N{EN DASH}"
    if 0 < per_s < _RATE_MIN:
        return f"< {_RATE_MIN}"
    return f"{per_s:,.0f}" if per_s >= 100 else f"{per_s:.3g}"


def plain(number: float) -> str:
    """A number as a field of a form takes it: no more digits than it has."""
    return f"{number:.6g}" if abs(number) < 1_000_000 else f"{number:.0f}"


def bare(text: str) -> str:
    """A JSON text as a choice is named: a string without its quotes."""
    value = msgspec.json.decode(text)
    return value if isinstance(value, str) else text


def pretty(raw: msgspec.Raw | str | None, chars_max: int = SHOWN_CHARS_MAX) -> str:
    """JSON with line breaks, as text; as it is where it is longer, or would become 8 times that."""
    if raw is None:
        return ""
    text = raw if isinstance(raw, str) else bytes(raw).decode()
    if len(text) > chars_max or _indented_chars_max(text) > 8 * chars_max:
        return text
    return msgspec.json.format(text, indent=2)


def arguments(of: Entry | Attempt | None) -> str:
    """What a step was called with, as its call is written; empty if that was not kept."""
    return "" if of is None else call_text(of.arguments, of.arguments_cut)


def _indented_chars_max(text: str) -> int:
    """An upper bound of its length with line breaks: deep lists have long indents."""
    brackets = text.count("[") + text.count("{")
    lines = text.count(",") + 2 * brackets
    is_shallow = lines * 2 * brackets <= len(text)
    return len(text) + (0 if is_shallow else lines * 2 * depth_of(text.encode()))


def shown(text: str) -> Markup:
    """A text that may be very long, up to 64 Ki characters of it."""
    if len(text) <= SHOWN_CHARS_MAX:
        return escape(text)
    left = len(text) - SHOWN_CHARS_MAX
    note = Markup('<em class="muted">\n… and {} more characters</em>').format(f"{left:,}")
    return escape(text[:SHOWN_CHARS_MAX]) + note


def flower_url(settings: "Settings") -> str | None:
    """Where browsers find Flower; None: nobody said."""
    if settings.flower_url is not None:
        return settings.flower_url.rstrip("/")
    if is_loopback(settings.flower_host) and is_loopback(settings.api_host):
        scheme = "http" if settings.flower_tls_cert is None else "https"
        return f"{scheme}://{settings.flower_host}:{settings.flower_port}"
    return None
