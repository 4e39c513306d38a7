"""What values of attributes say: media types and times."""

import codecs
import re
from datetime import date
from functools import lru_cache

_TIME = re.compile(
    r"([0-9]{4})-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])[Tt ](?:[01][0-9]|2[0-3]):[0-5][0-9]"
    r":(?:[0-5][0-9]|60)(?:\.[0-9]+)?(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
).fullmatch  # RFC 3339, section 5.6


@lru_cache(maxsize=1_024)
def media_type(content_type: str) -> str:
    """`type/subtype` in small letters, without parameters."""
    return content_type.partition(";")[0].strip().lower()


_MEDIA_TYPE = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
_PARAMETERS = re.compile(
    r';[ \t]*+([^\s;="]++)[ \t]*+=[ \t]*+(?:"((?:[^"\\]|\\.)*+)"|([^\s;"]*+))', re.DOTALL
).findall
# Codecs of Python that are no charsets; their time grows with the square of the text.
_OF_HOST_NAMES = frozenset({"idna", "punycode"})
_NO_URI = re.compile(r'[\s"<>\\^`{|}]').search


@lru_cache(maxsize=1_024)
def is_json(content_type: str) -> bool:
    """Whether content of this type is JSON: `application/json`, `text/json` or `*/*+json`."""
    named = media_type(content_type)
    return named in ("application/json", "text/json") or named.endswith("+json")


@lru_cache(maxsize=1_024)
def charset_of(content_type: str) -> str:
    """The charset that text of this type says it is in; utf-8 if it says none."""
    for name, quoted, plain in _PARAMETERS(content_type):
        if name.lower() == "charset":
            return (quoted or plain).lower() or "utf-8"
    return "utf-8"


def codec_of(charset: str) -> str:
    """By what Python reads and writes text in this charset. Raises LookupError if it is none."""
    try:
        name = codecs.lookup(charset).name
    except ValueError:
        name = None
    if name is None or name in _OF_HOST_NAMES:
        raise LookupError(charset)
    return name


def content_of(text: str, content_type: str) -> bytes:
    """The text as content of this type; as UTF-8 if its charset is unknown or lacks a letter."""
    try:
        return text.encode(codec_of(charset_of(content_type)))
    except (LookupError, UnicodeError):
        return text.encode()


@lru_cache(maxsize=1_024)
def is_media_type(text: str) -> bool:
    """Whether this begins as a media type of RFC 2046; its parameters may be anything."""
    return _MEDIA_TYPE(text.partition(";")[0].strip(" \t")) is not None


def is_uri(text: str) -> bool:
    """Whether this can be a URI-reference of RFC 3986: nothing is in it that is in none.

    Letters beyond ASCII pass, as in an IRI: many a sender has them.
    """
    return bool(text) and _NO_URI(text) is None


def is_integer(number: bytes) -> bool:
    """Whether a JSON number is an Integer of CloudEvents: whole, of 32 bits, with a sign."""
    digits = number.lstrip(b"-")
    return digits.isdigit() and len(digits) <= 10 and -(2**31) <= int(number) < 2**31


def is_time(text: str) -> bool:
    """Whether this is an RFC 3339 timestamp on a day that exists."""
    found = _TIME(text)
    if found is None:
        return False
    year, month, day = int(found[1]), int(found[2]), int(found[3])
    if day <= 28:
        return True
    try:
        date(year or 4, month, day)  # year 0, which Python does not know, was a leap year as 4 was
    except ValueError:
        return False
    return True
