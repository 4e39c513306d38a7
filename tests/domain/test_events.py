"""What is kept of an event, and compared with later, is made the same way for ever."""

from veltrix.domain.events import content_digest


def test_digests_are_what_they_were_when_events_were_accepted() -> None:
    """Made another way, every event that is sent again would seem changed."""
    plain = content_digest("shop.order.placed", None, "application/json", None, b'{"n": 1}')
    full = content_digest("\u00e9", "s", "text/plain", "urn:x", b"")

    assert plain.hex() == "6b5ff74e0bef627435f074c243a34af0"
    assert full.hex() == "58c55a17291a6e0b7da6e3b3a72971ce"
