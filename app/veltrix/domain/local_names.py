"""Where a request comes from and leads to: loopback, proxies, networks."""

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

# What only proxies say, beside all names that begin with the prefix.
FORWARDED = frozenset(
    {
        "forwarded",
        "via",
        "x-real-ip",
        "x-client-ip",
        "x-cluster-client-ip",
        "x-original-forwarded-for",
        "x-original-host",
        "x-envoy-external-address",
        "cf-connecting-ip",
        "true-client-ip",
    }
)
FORWARDED_PREFIX = "x-forwarded"


_HOST = re.compile(r"(?:\[[0-9A-Za-z:.%]+\]|[^\[\]/@?#\\:\s]*)(?::[0-9]*)?").fullmatch


def is_loopback(host: str) -> bool:
    """Whether what is sent to this name or address stays on this machine."""
    name = host.lower().rstrip(".")
    if name == "localhost":  # names below it are asked of a server by some resolvers
        return True
    try:
        address = ip_address(name.strip("[]"))
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


@lru_cache(maxsize=64)
def is_host(host: str) -> bool:
    """Whether a Host header is a name or an address, perhaps with a port, and nothing else."""
    if _HOST(host) is None or not host.isascii():
        return False
    try:
        urlsplit(f"//{host}")  # which knows what may be in brackets
    except ValueError:
        return False
    return True


@lru_cache(maxsize=64)
def is_local(url: str) -> bool:
    """Whether the URL leads to this machine by a loopback name. A Host header: `//` before it."""
    try:
        return is_loopback(urlsplit(url).hostname or "")
    except ValueError:
        return False


def networks_of(text: str) -> list[IPv4Network | IPv6Network]:
    """The networks of a list with commas: `10.0.0.7,10.1.0.0/16,::1`. Raises ValueError."""
    return [ip_network(one.strip()) for one in text.split(",") if one.strip()]


def forwarding(names: Iterable[str]) -> str | None:
    """The name of a header that says that a proxy passed the request on, if one does."""
    given = map(str.lower, names)
    return next((n for n in given if n in FORWARDED or n.startswith(FORWARDED_PREFIX)), None)
