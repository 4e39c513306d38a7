"""The calls of the page for services, made in their order: each is answered, and by no error."""

import re

from tests.docs.conftest import Shop
from tests.docs.pages import DOCS, Terminal, blocks_of

PAGE = DOCS / "how-to" / "services.md"
ID = "([0-9a-f]{8}-[0-9a-f-]{27})"


def test_every_call_of_the_page_is_answered(shop: Shop) -> None:
    called = 0
    with Terminal(shop.folder, shop.env) as terminal:
        for block in blocks_of(PAGE):
            if block.language != "sh" or "pip install" in block.text:
                continue
            printed = terminal.run(block.text)
            called += 1
            # What the reader takes from the answers: our id of the event, and the run's.
            for name, pattern in {"EVENT": f'"event": ?"{ID}"', "RUN": f'"id": ?"{ID}"'}.items():
                if found := re.search(pattern, printed):
                    terminal.run(f"{name}={found[1]}\n")

    assert called == 6
