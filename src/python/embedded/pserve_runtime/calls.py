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


def run_plain(slot: Any, data: dict[str, Any], call: Any, loop: asyncio.AbstractEventLoop, is_checked: bool) -> None:
    """Runs a plain handler on the calling thread, with a context of its own."""
    slot.owner.context.copy().run(_run_plain, slot, data, call, is_checked)
    # What the handler did to a future, an event or a queue has put work on the loop's list, which a loop asleep in
    # `select` does not see.
    if getattr(loop, "_ready", True):
        loop.call_soon_threadsafe(_nothing)


def _nothing() -> None:
    pass


def carry_on(slot: Any, coro: Any, loop: asyncio.AbstractEventLoop) -> asyncio.Task[None]:
    """Runs on the event loop what a call that began on a thread has left to do there."""
    return slot.owner.context.run(asyncio.Task, coro, loop=loop)


async def _run_async(slot: Any, data: dict[str, Any], call: Any) -> None:
    try:
        if slot.check is not None and not await _allows(slot.check, data):
            call.refuse()
            return
        result = slot.handler(**data)
        if inspect.isawaitable(result):
            result = await result
        if not call.finish(result):
            await _send(result, data, call)
    except BaseException as error:
        await _fail(call, data, error)


def _run_plain(slot: Any, data: dict[str, Any], call: Any, is_checked: bool) -> None:
    try:
        if slot.check is not None and not is_checked:
            allowed = slot.check(data)
            if inspect.isawaitable(allowed):
                call.carry_on(_check_later(allowed, data, call))
                return
            if not allowed:
                call.refuse()
                return
        result = slot.handler(**data)
        if inspect.isawaitable(result):
            call.carry_on(_finish_later(result, data, call))
        elif not call.finish(result):
            call.carry_on(_send_later(result, data, call))
    except BaseException as error:
        if not call.fail(error):
            call.carry_on(_send_later(error, data, call))


async def _check_later(allowed: Any, data: dict[str, Any], call: Any) -> None:
    """A plain handler behind an async `_check_auth`: back to a thread when it says yes."""
    try:
        if await allowed:
            call.back_to_thread(data)
        else:
            call.refuse()
    except BaseException as error:
        await _fail(call, data, error)


async def _finish_later(awaitable: Any, data: dict[str, Any], call: Any) -> None:
    try:
        result = await awaitable
        if not call.finish(result):
            await _send(result, data, call)
    except BaseException as error:
        await _fail(call, data, error)


async def _send_later(response: Any, data: dict[str, Any], call: Any) -> None:
    try:
        await _send(response, data, call)
    except BaseException as error:
        call.fail(error)


async def _fail(call: Any, data: dict[str, Any], error: BaseException) -> None:
    try:
        if not call.fail(error):
            await _send(error, data, call)
    except BaseException as second:
        call.fail(second)


async def _allows(check: Any, data: dict[str, Any]) -> bool:
    answer = check(data)
    if inspect.isawaitable(answer):
        answer = await answer
    return bool(answer)


async def _send(response: Any, data: dict[str, Any], call: Any) -> None:
    """Lets an aiohttp response that is more than bytes send itself: a stream, a file, a payload, a WebSocket."""
    if isinstance(response, tuple):
        response = response[1]
    # One that was prepared already is not asked again: a FileResponse would look at its file once more.
    if not response.prepared:
        await response.prepare(data["request"])
    await response.write_eof()
    call.sent()
