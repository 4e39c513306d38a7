"""Workflow code with every mistake that its rules know, each marked with the rule that sees it."""

BAD = """
import asyncio, random, time
from datetime import datetime
from uuid import uuid4

from veltrix import gather, now, sleep, step, workflow


@step
async def ship(sku):
    time.sleep(1)
    return random.random(), datetime.now(), {sku for sku in {1, 2}}


@step
async def notify(skus):
    task.delay(skus)  # bad: P16


@workflow(on="shop.order.placed", key=lambda event: str(uuid4()))
async def fulfil(event):
    begun = datetime.now()  # bad: D26
    luck = random.random()  # bad: D26
    name = uuid4()  # bad: D26
    fine = now()
    for sku in set(event.data):  # bad: D27
        await ship(sku)
    for sku in sorted(set(event.data)):
        await ship(sku)
    await notify({1, 2})  # bad: D27
    await gather(*[ship(sku) for sku in {3, 4}])  # bad: D27
    time.sleep(5)  # bad: D28
    await asyncio.sleep(5)  # bad: D28
    ship("forgotten")  # bad: D29
    sleep(3)  # bad: D29
    later = ship("kept")
    await later
    task.apply_async()  # bad: P16
"""
