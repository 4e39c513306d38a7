"""The database is all there is to restore: a copy beside an empty broker settles everything."""

from collections.abc import Iterator

import pytest

from tests.path.site import Open, site
from tests.support.services import Broker, Services
from tests.support.wait import until
from veltrix.dev.servers.postgres import Postgres

__all__ = ["site"]


@pytest.fixture
def empty_broker(services: Services) -> Iterator[Broker]:
    """A second virtual host in which nothing was ever declared."""
    made = services.make_broker()
    yield made
    services.drop_broker(made)


@pytest.mark.slow
def test_a_restored_database_beside_an_empty_broker_settles_everything(
    site: Open, services: Services, database: tuple[str, str], empty_broker: Broker
) -> None:
    postgres: Postgres = services.postgres
    before = site(HOLD_S=2, QUEUE_BOUND_S=0.5)
    before.post(range(600))
    before.post(range(600, 700), type_="effects.slow")
    until(lambda: before.states()["succeeded"] > 300, 20, "half of them to settle")
    for name in ("api-1", "relay-1", "worker-1"):
        before.platform.kill(name)
    until(lambda: before.states().keys() >= {"queued", "succeeded"}, what="some to be open")
    receipts = before.run_ids()
    before.engine.dispose()
    before.platform.close(grace_s=0)
    copy = f"{database[0]}_restored"
    postgres.create_database(copy, database[0])

    try:
        after = site(
            postgres=postgres,
            database=copy,
            rabbitmq=services.rabbitmq,
            vhost=empty_broker.vhost,
            HOLD_S=2,
            QUEUE_BOUND_S=0.5,
        )
        again = after.post(range(100))

        assert all(item["duplicate"] for item in again)
        assert all([run["id"] for run in item["runs"]] == receipts[item["id"]] for item in again)
        after.wait_settled(700, 30)
        after.check_books(700)
        assert after.run_ids() == receipts
        after.engine.dispose()
        after.platform.close(grace_s=0)
    finally:
        postgres.drop_database(copy)
