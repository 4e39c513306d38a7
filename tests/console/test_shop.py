"""A shop's pages: without a barrier on each screen, and the pictures of the docs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from playwright.sync_api import Browser

from tests.api.conftest import serving
from tests.console.conftest import OPERATOR, PHONE, WIDE, Shown, of_group, tab_of
from tests.console.shop import DECLINED, Shop, hear_of_workers, open_shop
from tests.console.test_pages import ROOT, barriers
from tests.support.services import Services
from veltrix.access import keys
from veltrix.operations.replays.plan import plan
from veltrix.settings.fields import Settings
from veltrix.store.transactions import make_engine, transaction

# Name of the picture, page, light or dark, screen.
PICTURES = (
    ("overview", "/", "light", WIDE),
    ("overview-phone", "/", "dark", PHONE),
    ("runs", "/runs", "light", WIDE),
    ("run", "/runs/{failed}", "light", WIDE),
    ("run-phone", "/runs/{failed}", "light", PHONE),
    ("sleeping", "/runs/{sleeping}", "dark", WIDE),
    ("edit", "/runs/{failed}/edit", "dark", WIDE),
    ("failures", "/failures", "dark", WIDE),
    ("failure", f"/failures/{DECLINED}", "light", WIDE),
    ("replay", "/replays/{replay}", "light", WIDE),
    ("workflow", "/workflows/place_order", "light", WIDE),
    ("workflow-dark", "/workflows/place_order", "dark", PHONE),
)


@contextmanager
def opened(services: Services) -> Iterator[tuple[Shown, Shop]]:
    """The console of a shop that is called production, whose api has a broker."""
    name, url = services.make_database()
    engine = make_engine(url, application="tests", connections_max=5)
    shop = open_shop(engine)
    with transaction(engine) as tx:
        keys.create(tx, "anna", ["admin"], "tests", OPERATOR)
    given = {"database_url": url, "broker_url": "amqp://127.0.0.1:1/", "require_keys": True}
    with serving(Settings.model_validate(given | {"environment": "production"})) as api:
        api.app.state.services = replace(api.services, is_broker_up=lambda: True)
        shown = Shown(api, engine)
        shown.replay = plan(engine, of_group(DECLINED), 1_048_576).id
        yield shown, shop
    engine.dispose()
    services.drop_database(name)


def test_no_page_of_a_shop_has_a_barrier(
    browser: Browser, services: Services, pytestconfig: pytest.Config
) -> None:
    found: dict[str, list[str]] = {}

    with opened(services) as (shown, shop):
        for name, path, scheme, size in PICTURES:
            with tab_of(browser, shown, size=size, scheme=scheme) as tab:
                hear_of_workers(shown.engine)
                tab.sign_in()
                of = {"failed": shop.failed, "sleeping": shop.sleeping, "replay": shown.replay}
                tab.go(path.format(**of))
                found[name] = barriers(tab)
                if pytestconfig.getoption("--pictures"):
                    picture = ROOT / f"docs/console/{name}.png"
                    tab.page.screenshot(path=picture, full_page=name != "runs")

    assert {name: those for name, those in found.items() if those} == {}
