"""The task API: start a workflow by name with an input, and wait for what becomes of it.

A start is an event as well (source `/veltrix/starts/<workflow>`), accepted on the same path.
"""

import re
from collections.abc import Awaitable
from datetime import datetime
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Request
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from veltrix.access.scopes import Scope
from veltrix.api.outcomes import WaitS, check_wait, outcomes_of
from veltrix.api.parsing import read_beside
from veltrix.api.receipts import batch_answer
from veltrix.api.run_answers import answer_of, read_story
from veltrix.domain.attribute_values import is_time
from veltrix.domain.json_text import bad_json, has_more_elements
from veltrix.domain.states import OPEN
from veltrix.pipeline.accept.event_list import DirectStart, Submission
from veltrix.pipeline.accept.ledger_rows import unix_s
from veltrix.pipeline.accept.receipts import Receipt
from veltrix.store.transactions import open_autocommit
from veltrix.telemetry import logger
from veltrix.web.answers import json_answer
from veltrix.web.auth import Author, check_asked, require
from veltrix.web.bodies import BodyReader, Disconnected, too_large
from veltrix.web.bounds import check_bounds
from veltrix.web.catalog import StartableWorkflow
from veltrix.web.event_problems import Unanswered
from veltrix.web.idempotency import REPLAYED, answer_once, item_id, key_of, own_key, single_id
from veltrix.web.problems import Problem
from veltrix.web.services import Services, services_of
from veltrix.web.starting import problem_of_start, submission_of
from veltrix.web.suggestions import misfit
from veltrix.web.throttle import Throttle

router = APIRouter(tags=["workflows"])

DELAY_S_MAX = 10 * 366 * 86_400
_LEAP_SECOND = re.compile(r":60(?=[.Zz+-])")

_log = logger("api")


class StartBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a start: `input` for one run or `inputs` for many, and optionally when."""

    input: msgspec.Raw = msgspec.Raw()
    inputs: msgspec.Raw = msgspec.Raw()
    start_at: str | None = None
    delay_s: float | None = None


_decode_body = msgspec.json.Decoder(StartBody).decode
_decode_inputs = msgspec.json.Decoder(list[msgspec.Raw] | None).decode


@router.post("/v1/workflows/{name}/runs", summary="Start a workflow", status_code=202)
async def start_workflow(
    name: str,
    request: Request,
    author: Annotated[Author, Depends(require(Scope.EVENTS_WRITE))],
    wait_s: WaitS = 0,
) -> Response:
    """Start one run with `input`, or one with each of `inputs`, now, at `start_at` or in `delay_s`.

    With an `Idempotency-Key` the same request again gets the same answer and starts nothing.
    `wait_s` is for a start of one run, and needs the scope `runs:read` too: 200 with the run when
    it is settled in time, else 202 with its receipt. The run goes on whoever waits for it.
    """
    services = services_of(request)
    await check_bounds(request, author, workflow=name)
    if wait_s > 0:
        check_wait(request, wait_s)
        await check_asked(request, author, Scope.RUNS_READ)
    raw = await _read(request, services)

    def start() -> Awaitable[Response]:
        return _start(request, author, name, raw)

    if wait_s == 0:
        return await answer_once(request, author, raw, start)
    await _check_single(services, author, raw)
    throttle: Throttle = request.app.state.throttle
    with outcomes_of(request).place(author):
        answer = await answer_once(request, author, raw, start)
        with throttle.aside(author):
            return await _outcome_of(request, author, answer, wait_s)


async def _check_single(services: Services, author: Author, raw: bytes) -> None:
    """Raises a 400 Problem for a list of inputs: nobody waits for many runs."""
    most = services.settings.batch_events_max
    _, inputs = await read_beside(author.name, len(raw), lambda: _body_of(raw, most))
    if inputs is not None:
        raise Problem(
            "invalid-request",
            "wait_s waits for one run: leave it out where you send inputs, and ask for each with"
            " GET /v1/runs/{run_id}?wait_s=",
        )


async def _outcome_of(
    request: Request, author: Author, answer: Response, wait_s: float
) -> Response:
    """The run that `answer` says was started, if it is settled in time; else that answer.

    Whatever goes wrong with waiting and reading, the run is started, and that is said.
    """
    services = services_of(request)
    run_id = msgspec.json.decode(answer.body, type=Receipt).runs[0].id
    try:
        if await outcomes_of(request).wait(run_id, wait_s, request.receive):
            run = await run_in_threadpool(read_story, services.engine, run_id)
            if run.state not in OPEN:
                kept = ("location", REPLAYED)
                sent = {name: answer.headers[name] for name in kept if name in answer.headers}
                return answer_of(run, author, sent)
    except (Problem, SQLAlchemyError) as error:
        _log.warning("start.unread", run_id=run_id, error=str(error).partition("\n")[0])
    return answer


async def _start(request: Request, author: Author, name: str, raw: bytes) -> Response:
    services = services_of(request)
    workflow = (await services.catalog.workflows()).get(name)
    if workflow is None:
        raise Problem("not-found", f"no workflow is named {name!r}; GET /v1/workflows lists them")
    most = services.settings.batch_events_max
    body, inputs = await read_beside(author.name, len(raw), lambda: _body_of(raw, most))
    throttle: Throttle = request.app.state.throttle
    throttle.charge_list(author, len(inputs or ()))
    delay_s = await run_in_threadpool(_delay_s, services, body)
    given = key_of(request)
    key = services.new_key() if given is None else own_key(author, given)
    start = DirectStart(name, workflow.subscription.queue, delay_s)
    if inputs is None:
        return await _start_one(services, author, workflow, body.input, key, start)
    return await _start_many(services, author, workflow, inputs, key, start)


async def _start_one(
    services: Services,
    author: Author,
    workflow: StartableWorkflow,
    input_: msgspec.Raw,
    key: str,
    start: DirectStart,
) -> Response:
    made = await run_in_threadpool(
        submission_of, services, author.name, workflow, input_, single_id(key), start
    )
    if isinstance(made, Problem):
        raise made
    answer = (await services.acceptor.submit([made]))[0]
    if not isinstance(answer, Receipt):
        raise problem_of_start(answer)
    return json_answer(answer, 202, {"Location": f"/v1/runs/{answer.runs[0].id}"})


async def _start_many(
    services: Services,
    author: Author,
    workflow: StartableWorkflow,
    inputs: list[msgspec.Raw],
    key: str,
    start: DirectStart,
) -> Response:
    most = services.settings.batch_events_max
    if len(inputs) > most:
        raise too_large(
            f"inputs has {len(inputs):,} items, more than the {most:,} allowed: send several starts"
        )

    def make() -> list[Submission | Problem]:
        return [
            submission_of(services, author.name, workflow, input_, item_id(key, index), start)
            for index, input_ in enumerate(inputs)
        ]

    made = await run_in_threadpool(make)
    good = [one for one in made if isinstance(one, Submission)]
    accepted = iter(await services.acceptor.submit(good) if good else ())
    answers: list[Receipt | Unanswered] = []
    for one in made:
        answer = one if isinstance(one, Problem) else next(accepted)
        answers.append(answer if isinstance(answer, Receipt) else problem_of_start(answer))
    batch = batch_answer(answers)
    return json_answer(batch, batch.status, {"Retry-After": "1"} if batch.may_retry else None)


def _body_of(raw: bytes, inputs_max: int) -> tuple[StartBody, list[msgspec.Raw] | None]:
    """The body and its inputs, None if it has none."""
    try:
        body = _decode_body(raw or b"{}")
        if has_more_elements(bytes(body.inputs), inputs_max):
            raise too_large(
                f"inputs has more than the {inputs_max:,} items allowed: send several starts"
            )
        inputs = _inputs_of(body)
    except msgspec.ValidationError as error:
        raise Problem("invalid-body", misfit(error, StartBody)) from None
    except (ValueError, RecursionError) as error:
        raise Problem(
            "invalid-body",
            f"the body is {bad_json(raw, error)}; send a JSON object with input or inputs",
        ) from None
    if inputs is not None and body.input:
        raise Problem("invalid-request", "send input or inputs, not both")
    if body.start_at is not None and body.delay_s is not None:
        raise Problem("invalid-request", "send start_at or delay_s, not both")
    return body, inputs


def _inputs_of(body: StartBody) -> list[msgspec.Raw] | None:
    try:
        return _decode_inputs(body.inputs) if body.inputs else None
    except msgspec.ValidationError as error:
        raise msgspec.ValidationError(f"{error} - at `$.inputs`") from None


def _delay_s(services: Services, body: StartBody) -> float:
    """How long from now, by the database's clock, the runs are to wait."""
    delay_s = body.delay_s or 0.0
    if body.start_at is not None:
        if not is_time(body.start_at):
            raise Problem(
                "invalid-request",
                "start_at must be an RFC 3339 timestamp, such as 2026-01-31T12:00:00Z",
            )
        try:
            at = msgspec.convert(_LEAP_SECOND.sub(":59", body.start_at), datetime)
        except msgspec.ValidationError:
            raise Problem(
                "invalid-request", "start_at must be a moment in the years 1 to 9999"
            ) from None
        with open_autocommit(services.engine) as tx:
            delay_s = max(0.0, at.timestamp() - unix_s(tx))
    if not 0 <= delay_s <= DELAY_S_MAX:
        raise Problem(
            "invalid-request",
            f"start_at or delay_s must be 0 to {DELAY_S_MAX:,} seconds from now (ten years)",
        )
    return delay_s


async def _read(request: Request, services: Services) -> bytes:
    bodies: BodyReader = request.app.state.bodies
    most = services.settings.batch_bytes_max
    try:
        return await bodies.read(request.scope, request.receive, most)
    except Disconnected:
        raise Problem("disconnected", "the request ended early") from None
