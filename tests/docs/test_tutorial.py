"""The tutorial, done as its reader does it: every block, and what it is said to print."""

from tests.docs.conftest import Shop
from tests.docs.pages import TUTORIAL, Terminal, blocks_of, check_printed

# What these do has been done: the package is installed, and the platform runs.
DONE = ("cd veltrix", "mkdir", "export VELTRIX_WORKFLOWS")


def test_the_tutorial_is_what_happens(shop: Shop) -> None:
    printed, saved, compared = "", 0, 0
    with Terminal(shop.folder, shop.env) as terminal:
        for block in blocks_of(TUTORIAL):
            if block.file:
                (shop.folder / block.file).write_text(block.text)
                saved += block.file == "kiosk.py"
                if saved == 2:
                    start_again(shop)
            elif block.language == "sh" and not block.text.startswith(DONE):
                shop.wait_settled("sell")
                printed = terminal.run(block.text.replace("http://127.0.0.1:8080", shop.api_url))
            elif block.language == "text":
                check_printed(block.text, printed)
                compared += 1

    assert compared == 7
    assert shop.ask("select state, generation from runs where workflow = 'sell' order by id") == [
        ("succeeded", 0),
        ("succeeded", 1),
    ]


def start_again(shop: Shop) -> None:
    """As `veltrix dev` does when a file changes."""
    shop.platform.terminate("worker-1")
    shop.platform.wait_ended("worker-1")
    shop.platform.start("worker-1", "worker")
    shop.platform.wait_ready("worker-1", deadline_s=60)
