"""One call of a handler, on the event loop or on a thread of the blocking pool.

`call` is the server's side of it: `finish` takes what the handler returned, `fail` what it raised, `refuse` says
that the plugin's own key check said no. Nothing that a handler raises leaves these functions, `SystemExit` and
`KeyboardInterrupt` included: asyncio would carry those out of the event loop.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import Any


def start(slot: Any, data: dict[str, Any], call: Any, loop: asyncio.AbstractEventLoop) -> asyncio.Task[None]:
    """Starts an async handler in a task of its own, with a context of its own."""
    return slot.owner.context.run(asyncio.Task, _run_async(slot, data, call), loop=loop)


def run_plain(slot: Any, data: dict[str, Any], call: Any) -> None:
    """Runs a plain handler on the calling thread, with a context of its own."""
    slot.owner.context.copy().run(_run_plain, slot, data, call)


def carry_on(slot: Any, awaitable: Any, call: Any, loop: asyncio.AbstractEventLoop) -> asyncio.Task[None]:
    """Awaits on the event loop what a plain handler returned."""
    return slot.owner.context.run(asyncio.Task, _finish_later(awaitable, call), loop=loop)


async def _run_async(slot: Any, data: dict[str, Any], call: Any) -> None:
    try:
        if slot.check is not None and not await _allows(slot.check, data):
            call.refuse()
            return
        result = await slot.handler(**data)
        if not call.finish(result):
            call.finish(await _materialise(result))
    except BaseException as error:
        await _fail(call, error)


def _run_plain(slot: Any, data: dict[str, Any], call: Any) -> None:
    try:
        if slot.check is not None:
            allowed = slot.check(data)
            if inspect.isawaitable(allowed):
                call.carry_on(_checked(allowed, slot, data))
                return
            if not allowed:
                call.refuse()
                return
        result = slot.handler(**data)
        if inspect.isawaitable(result):
            call.carry_on(result)
        elif not call.finish(result):
            call.carry_on(_materialise(result))
    except BaseException as error:
        if not call.fail(error):
            call.carry_on(_materialise(error))


async def _checked(allowed: Any, slot: Any, data: dict[str, Any]) -> Any:
    """A plain handler behind an async `_check_auth`."""
    if not await allowed:
        return REFUSED
    return await asyncio.get_running_loop().run_in_executor(None, lambda: slot.handler(**data))


REFUSED = object()


async def _finish_later(awaitable: Any, call: Any) -> None:
    try:
        result = await awaitable
        if result is REFUSED:
            call.refuse()
        elif not call.finish(result):
            call.finish(await _materialise(result))
    except BaseException as error:
        await _fail(call, error)


async def _fail(call: Any, error: BaseException) -> None:
    try:
        if not call.fail(error):
            call.finish(await _materialise(error))
    except BaseException as second:
        call.fail(second)


async def _allows(check: Any, data: dict[str, Any]) -> bool:
    answer = check(data)
    if inspect.isawaitable(answer):
        answer = await answer
    return bool(answer)


async def _materialise(response: Any) -> Any:
    """An aiohttp response whose body is a payload object, with the payload read into bytes."""
    from pserve_runtime.aiohttp_bridge import materialise

    if isinstance(response, tuple):
        response = response[1]
    return await materialise(response)
