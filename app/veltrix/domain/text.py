"""Texts as they are kept."""

import re

_UNSTORABLE = re.compile(r"[\x00\ud800-\udfff]")


def storable_text(text: str, chars_max: int) -> str:
    """`text` without what PostgreSQL cannot store (NUL, lone surrogates), cut if long."""
    text = _UNSTORABLE.sub("\ufffd", text)
    if len(text) <= chars_max:
        return text
    half = (chars_max - 30) // 2
    return f"{text[:half]}\n... {len(text) - 2 * half:,} characters ...\n{text[-half:]}"
