"""One call of a handler, as far as it cannot be made without Python: what is awaited before or after it.

`call` is the server's side of it: `finish` takes what the handler returned, `fail` what it raised, `refuse` says
that the plugin's own key check said no. Nothing that a handler raises leaves these functions, `SystemExit` and
`KeyboardInterrupt` included: asyncio would carry those out of the event loop.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable
from typing import Any


async def run_checked(slot: Any, data: dict[str, Any], call: Any) -> None:
    """An async handler behind the plugin's own `_check_auth`."""
    try:
        if not await _allows(slot.check, data):
            call.refuse()
            return
        result = slot.handler(**data)
        if inspect.isawaitable(result):
            result = await result
        if not call.finish(result):
            await _send(result, data, call)
    except BaseException as error:
        await _fail(call, data, error)


def run_checked_plain(slot: Any, data: dict[str, Any], call: Any) -> None:
    """A plain handler behind the plugin's own `_check_auth`, on the calling thread."""
    try:
        allowed = slot.check(data)
        if inspect.isawaitable(allowed):
            call.carry_on(_check_later(allowed, data, call))
            return
        if not allowed:
            call.refuse()
            return
        result = slot.handler(**data)
        if inspect.isawaitable(result):
            call.carry_on(finish_later(result, data, call))
        elif not call.finish(result):
            call.carry_on(send_later(result, data, call))
    except BaseException as error:
        if not call.fail(error):
            call.carry_on(send_later(error, data, call))


async def pass_on(awaitable: Awaitable[Any]) -> Any:
    """A future, or another object with `__await__`, as a coroutine."""
    return await awaitable


async def finish_later(awaitable: Any, data: dict[str, Any], call: Any) -> None:
    """What a plain handler has returned to be awaited."""
    try:
        result = await awaitable
        if not call.finish(result):
            await _send(result, data, call)
    except BaseException as error:
        await _fail(call, data, error)


async def send_later(response: Any, data: dict[str, Any], call: Any) -> None:
    """Lets an aiohttp response, or one that was raised, send itself."""
    try:
        await _send(response, data, call)
    except BaseException as error:
        call.fail(error)


async def _check_later(allowed: Any, data: dict[str, Any], call: Any) -> None:
    """A plain handler behind an async `_check_auth`: back to a thread when it says yes."""
    try:
        if await allowed:
            call.back_to_thread(data)
        else:
            call.refuse()
    except BaseException as error:
        await _fail(call, data, error)


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
