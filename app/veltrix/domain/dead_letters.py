"""A message that reached nobody's code: foreign, malformed, rejected or unroutable."""

import msgspec


class DeadLetter(msgspec.Struct, kw_only=True):
    """What is kept of such a message. `headers` is JSON text; `run_ids` are the runs it names.

    `message_key` says which message it is, None that nobody can tell. `is_copy_possible`: the
    broker may have delivered this very message before, so an equal key is the same message; False:
    an equal key is another message of the same content.
    """

    queue: str
    reason: str
    detail: str | None = None
    content_type: str | None = None
    headers: str = "{}"
    body: bytes = b""
    run_ids: list[str] = []
    message_key: str | None = None
    is_copy_possible: bool = True
