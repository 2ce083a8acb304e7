import asyncio

from promptflow.core import tool


async def _later(value):
    await asyncio.sleep(0)
    return value


@tool
async def asynchronous(x: dict) -> dict:
    keys = await asyncio.gather(*(_later(key) for key in x))
    return {key: x[key] for key in keys}
