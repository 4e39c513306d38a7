"""What a load balancer, Prometheus and a developer look at."""

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from itertools import count
from typing import Any

from sqlalchemy import Engine, text
from sqlalchemy.event import listen

from tests.api.conftest import Api, ApiOf
from tests.api.test_events import event
from tests.support.wait import until
from veltrix.api.looks import LOOK_S, Looks
from veltrix.store.transactions import transaction


def test_ready_means_events_can_be_accepted_whether_or_not_the_broker_is_there(api: Api) -> None:
    until(lambda: api.get("/readyz").status == 200, what="the writer's connection")
    answer = api.get("/readyz")

    assert answer.status == 200
    assert answer.body["checks"]["broker"].startswith("away")


def test_an_old_schema_is_not_ready(api: Api, engine: Engine) -> None:
    with transaction(engine) as tx:
        tx.execute(text("delete from alembic_version"))
    answer = api.get("/readyz")

    assert answer.status == 503
    assert "db upgrade" in answer.body["checks"]["schema"]


def test_metrics_count_what_was_accepted_and_refused(api: Api) -> None:
    def value(name: str) -> float:
        lines = api.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    names = ("veltrix_events_accepted_total", "veltrix_events_refused_total{")
    before = [value(name) for name in names]
    api.post_event(event("1"))
    api.post_event(event(""))

    assert [value(name) for name in names] == [before[0] + 1, before[1] + 1]


def test_the_document_shows_what_fastapi_cannot_see(api: Api) -> None:
    document = api.get("/openapi.json").body

    assert document["openapi"].startswith("3.1")
    post = document["paths"]["/v1/events"]["post"]
    assert set(post["responses"]) >= {"202", "207", "400", "409", "413", "503"}
    assert "application/cloudevents-batch+json" in post["requestBody"]["content"]
    for path in ("/v1/runs", "/v1/runs/{run_id}", "/v1/balance", "/v1/workflows", "/readyz"):
        assert path in document["paths"], path
    text_ = json.dumps(document)
    referred = {part.split('"')[0] for part in text_.split("#/components/schemas/")[1:]}
    assert referred <= set(document["components"]["schemas"])


def test_the_address_alone_leads_to_the_console(api: Api) -> None:
    for method in ("GET", "HEAD"):
        answer = api.request(method, "/")

        assert (answer.status, answer.headers["location"]) == (307, "/console/")
    assert api.get("/nowhere").status == 404


def test_the_document_is_made_once_however_many_ask_for_it(api: Api) -> None:
    made, make = count(), api.app.openapi

    def counting() -> dict[str, Any]:
        next(made)
        return make()

    api.app.openapi = counting  # type: ignore[method-assign]

    with ThreadPoolExecutor(8) as asking:
        answers = list(asking.map(lambda _: api.get("/openapi.json"), range(24)))

    assert next(made) == 1
    assert {answer.text for answer in answers} == {answers[0].text}
    assert answers[0].status == 200


def test_the_documentation_needs_no_other_host(api: Api) -> None:
    page = api.get("/docs")
    needed = re.findall(r'(?:src|href)="([^"]+)"', page.text)

    assert page.status == 200
    assert len(needed) == 3  # a script, its style and an icon
    for path in needed:
        connection = HTTPConnection("127.0.0.1", api.port, timeout=30)
        connection.request("GET", path)
        assert connection.getresponse().status == 200, path
        connection.close()


def test_however_many_ask_whether_it_is_ready_two_looks_a_second_answer_all(api: Api) -> None:
    until(lambda: api.get("/readyz").status == 200, what="the writer's connection")
    looks: list[float] = []
    looked: Looks = api.app.state.looks
    listen(looked.engine, "checkout", lambda *_: looks.append(time.monotonic()))
    began = time.monotonic()
    answers: list[int] = []

    def ask(_number: int) -> None:
        while time.monotonic() - began < 3 * LOOK_S:
            answers.append(api.get("/readyz").status)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))

    assert set(answers) == {200}
    assert len(answers) > 50
    assert 2 <= len(looks) <= 5


def test_it_is_ready_though_all_connections_for_reads_are_in_use(api_of: ApiOf) -> None:
    api = api_of(read_connections_max=2)
    until(lambda: api.get("/readyz").status == 200, what="the writer's connection")
    with api.services.engine.connect(), api.services.engine.connect():
        before = time.monotonic()
        until(lambda: time.monotonic() - before > LOOK_S, what="the last look to be old")
        assert api.get("/readyz").status == 200
