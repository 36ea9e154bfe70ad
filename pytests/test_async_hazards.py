"""What handlers do to tasks, futures, generators, contexts and the event loop: each is as it would be in a task of its
own from the first step on, and whatever goes wrong is an error of that call alone."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import HOLDING, PATIENCE, Server, Start, eventually, gauge

SHARED = """
import asyncio
from plugincore.baseplugin import BasePlugin


class Shared(BasePlugin):
    # One does the work, all wait for it.
    work = None

    async def request_handler(self, **data):
        if self.work is None:
            self.work = asyncio.ensure_future(asyncio.sleep(0.01, "shared"))
        return await self.work


class SharedBeforeItsTask(BasePlugin):
    # The same, for calls that have asked for their task before they wait.
    work = None

    async def request_handler(self, **data):
        if self.work is None:
            self.work = asyncio.ensure_future(asyncio.sleep(0.01, "shared"))
        asyncio.current_task()
        return await self.work


class OneLeaves(BasePlugin):
    # A call that is cancelled before its task has begun to wait cancels what it waits for: the others hear of it.
    work = None
    calls = 0

    async def request_handler(self, **data):
        if self.work is None:
            self.work = asyncio.get_running_loop().create_future()
        self.calls += 1
        if self.calls == 2:
            asyncio.current_task().cancel()
        try:
            return await self.work
        except asyncio.CancelledError:
            return "cancelled"


class Unawaited(BasePlugin):
    # `yield` where `yield from` was meant: asyncio says so.
    async def request_handler(self, **data):
        class Wrong:
            def __await__(self):
                yield asyncio.get_running_loop().create_future()
        await Wrong()
"""


def in_one_go(server: Server, path: str, count: int) -> list[str]:
    """The answers to calls that begin together."""
    with ThreadPoolExecutor(count + 1) as pool:
        held = pool.submit(server.get, "/hold")
        server.wait_for_log("holds the loop")
        calls = [pool.submit(server.get, path) for _ in range(count)]
        eventually(lambda: gauge(server, "pserve_requests_waiting", path.strip("/")) == count)
        server.get("/release")
        assert held.result(PATIENCE).text == "held"
        return sorted(call.result(PATIENCE).text for call in calls)


@pytest.mark.parametrize(
    ("plugin", "answer"),
    [("shared", "shared"), ("sharedbeforeitstask", "shared"), ("oneleaves", "cancelled")],
)
def test_calls_that_begin_together_may_wait_for_one_future(start: Start, plugin: str, answer: str) -> None:
    server = start({"shared.py": SHARED, "holding.py": HOLDING})
    assert in_one_go(server, f"/{plugin}", 5) == [answer] * 5


def test_a_future_that_is_yielded_and_not_awaited_is_told_of(start: Start) -> None:
    reply = start({"shared.py": SHARED}).get("/unawaited")
    assert reply.status == 500 and "yield was used instead of yield from" in reply.text, reply.text


LOOP = """
import asyncio
import gc
import sys
from contextvars import ContextVar
from plugincore.baseplugin import BasePlugin

SEEN = ContextVar("seen", default="nothing")
NOTES = []


class Ways(BasePlugin):
    async def request_handler(self, **data):
        return await getattr(self, data["subpath"])()

    async def runs_the_loop(self):
        asyncio.get_running_loop().run_until_complete(asyncio.sleep(0))

    async def runs_another(self):
        asyncio.run(asyncio.sleep(0))

    async def closes_the_loop(self):
        asyncio.get_running_loop().close()

    async def stops_the_loop(self):
        asyncio.get_running_loop().stop()
        await asyncio.sleep(0.01)
        return "went on"

    async def starts_another_task_eagerly(self):
        # A task in the middle of a step inside of the first step of this call asks for all of them.
        async def inner():
            own = asyncio.current_task()
            return own in asyncio.all_tasks() and own is asyncio.current_task()
        if sys.version_info >= (3, 12):
            inside = await asyncio.Task(inner(), loop=asyncio.get_running_loop(), eager_start=True)
        else:
            inside = await inner()
        own = asyncio.current_task()
        turns = len(asyncio.all_tasks())
        await asyncio.sleep(0)
        return {"inside": inside, "same": own is asyncio.current_task(), "listed": own in asyncio.all_tasks()}

    async def left_over(self):
        # Tasks of the calls before that have not ended: none should go round for ever.
        await asyncio.sleep(0.01)
        return len([task for task in asyncio.all_tasks() if task is not asyncio.current_task()])

    async def number(self):
        class Yields:
            def __await__(self):
                yield 7
        await Yields()

    async def future_of_another_loop(self):
        other = asyncio.new_event_loop()
        try:
            await other.create_future()
        finally:
            other.close()

    async def generator_is_dropped(self):
        # Left in the middle: asyncio closes it in a task, where `finally` may wait.
        async def numbers():
            try:
                yield 1
                yield 2
            finally:
                await asyncio.sleep(0)
                NOTES.append("dropped")
        async for _ in numbers():
            break
        gc.collect()
        for _ in range(5):
            await asyncio.sleep(0)
        return NOTES.pop()

    async def generator_is_closed(self):
        async def numbers():
            try:
                yield SEEN.get()
            finally:
                await asyncio.sleep(0)
                NOTES.append(SEEN.get())
        SEEN.set("mine")
        one = numbers()
        first = await one.__anext__()
        await one.aclose()
        return [first, NOTES.pop()]

    async def token(self):
        # A token is good in the context that it was made in, and nowhere else.
        token = SEEN.set("for a while")
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        SEEN.reset(token)
        return SEEN.get()

    async def nested_time_outs(self):
        async def limited(seconds, inner):
            await asyncio.wait_for(inner, seconds)
        try:
            await limited(0.01, limited(5, asyncio.sleep(60)))
        except asyncio.TimeoutError:
            task = asyncio.current_task()
            return "timed out" if sys.version_info < (3, 11) or task.cancelling() == 0 else "still cancelling"

    async def time_out_of_the_first_step(self):
        if sys.version_info < (3, 11):
            return "timed out, then went on"
        try:
            async with asyncio.timeout(0):
                await asyncio.get_running_loop().create_future()
        except TimeoutError:
            await asyncio.sleep(0)
            return "timed out, then went on" if asyncio.current_task().cancelling() == 0 else "still cancelling"

    async def group_fails(self):
        if sys.version_info < (3, 11):
            return ["cancelled", "1 error"]
        async def fails():
            raise KeyError("inside")
        async def waits():
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                NOTES.append("cancelled")
                raise
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(waits())
                await asyncio.sleep(0)
                group.create_task(fails())
        except BaseExceptionGroup as problem:
            return [NOTES.pop(), f"{len(problem.exceptions)} error"]

    async def coroutine(self):
        return self.token()

    async def uncancels(self):
        task = asyncio.current_task()
        task.cancel()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if sys.version_info >= (3, 11):
                task.uncancel()
        await asyncio.sleep(0.001)
        return "went on"


class Plain(BasePlugin):
    def request_handler(self, **data):
        return getattr(self, data["subpath"])()

    def runs_the_loop(self):
        asyncio.get_running_loop().run_until_complete(asyncio.sleep(0))

    def runs_another(self):
        asyncio.run(asyncio.sleep(0))

    def closes_the_loop(self):
        asyncio.get_running_loop().close()

    def returns_a_coroutine(self):
        SEEN.set("of the thread")
        return self.later()

    def returns_a_task(self):
        SEEN.set("of the thread")
        return asyncio.create_task(self.later())

    def returns_a_future(self):
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_result, "result")
        return future

    def fails_later(self):
        async def later():
            await asyncio.sleep(0)
            raise KeyError("later")
        return later()

    async def later(self):
        await asyncio.sleep(0)
        return SEEN.get()

    def seen(self):
        return SEEN.get()
"""


@pytest.fixture
def ways(start: Start) -> Server:
    return start({"ways.py": LOOP})


@pytest.mark.parametrize("plugin", ["ways", "plain"])
def test_running_or_closing_the_loop_is_an_error_of_that_call(ways: Server, plugin: str) -> None:
    for path in ("runs_the_loop", "runs_another", "closes_the_loop"):
        reply = ways.get(f"/{plugin}/{path}")
        assert (reply.status, reply.json()["type"]) == (500, "RuntimeError"), reply.text
        assert ways.get("/ways/token").text == "nothing"
    assert "loaded again" not in ways.log


def test_a_loop_that_a_handler_stops_goes_on_with_it(ways: Server) -> None:
    assert ways.get("/ways/stops_the_loop").text == "went on"
    assert ways.get("/ways/token").text == "nothing"


def test_what_cannot_be_awaited_raises_where_it_is_awaited(ways: Server) -> None:
    for path in ("number", "future_of_another_loop"):
        reply = ways.get(f"/ways/{path}")
        assert (reply.status, reply.json()["type"]) == (500, "RuntimeError"), (path, reply.text)
    assert ways.get("/ways/left_over").json() == {"result": "0"}


def test_generators_are_closed_in_the_context_of_their_call(ways: Server) -> None:
    assert ways.get("/ways/generator_is_dropped").text == "dropped"
    assert ways.get("/ways/generator_is_closed").json() == ["mine", "mine"]


def test_a_token_of_the_first_step_is_good_in_the_later_ones(ways: Server) -> None:
    assert ways.get("/ways/token").text == "nothing"


def test_cancellations_end_where_they_are_caught(ways: Server) -> None:
    for _ in range(3):
        assert ways.get("/ways/nested_time_outs").text == "timed out"
        assert ways.get("/ways/time_out_of_the_first_step").text == "timed out, then went on"
        assert ways.get("/ways/group_fails").json() == ["cancelled", "1 error"]
        assert ways.get("/ways/uncancels").text == "went on"
    assert ways.get("/ways/left_over").json() == {"result": "0"}
    assert "never retrieved" not in ways.log


def test_a_task_inside_of_a_first_step_leaves_the_call_its_own(ways: Server) -> None:
    found = ways.get("/ways/starts_another_task_eagerly")
    assert found.json() == {"inside": True, "same": True, "listed": True}, found.text
    assert ways.get("/ways/left_over").json() == {"result": "0"}


def test_a_coroutine_inside_of_an_answer_is_a_value_like_others(ways: Server) -> None:
    assert "coroutine object" in ways.get("/ways/coroutine").json()["result"]


def test_what_a_plain_handler_returns_to_be_awaited_has_its_context(ways: Server) -> None:
    assert ways.get("/plain/returns_a_coroutine").text == "of the thread"
    assert ways.get("/plain/returns_a_task").text == "of the thread"
    assert ways.get("/plain/returns_a_future").text == "result"
    assert ways.get("/plain/fails_later").json()["type"] == "KeyError"
    assert ways.get("/plain/seen").text == "nothing"


CLEANUP = """
import asyncio
from plugincore.baseplugin import BasePlugin


class Late(BasePlugin):
    async def request_handler(self, **data):
        try:
            await asyncio.sleep(60)
        finally:
            raise KeyError("in the clean-up")


class Stubborn(BasePlugin):
    # Takes no notice, and comes to an end later.
    async def request_handler(self, **data):
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.log.info("goes on")
        await asyncio.sleep(0.01)
        self.log.info("has ended")
        return "too late"
"""


def test_what_is_raised_after_a_call_was_given_up_is_logged(start: Start) -> None:
    server = start({"cleanup.py": CLEANUP}, ini="[limits]\nrequest_timeout=0.05\n")
    assert server.get("/late").status == 504
    server.wait_for_log("KeyError: 'in the clean-up'")
    assert server.get("/stubborn").status == 504
    server.wait_for_log("has ended")
    assert "too late" not in server.log


ANYIO = """
import anyio
from plugincore.baseplugin import BasePlugin


class Scopes(BasePlugin):
    async def request_handler(self, **data):
        return await getattr(self, data["subpath"])()

    async def moves_on(self):
        with anyio.move_on_after(0.01) as scope:
            await anyio.sleep(60)
        await anyio.sleep(0)
        return {"cancelled": scope.cancelled_caught}

    async def fails_in_time(self):
        try:
            with anyio.fail_after(0):
                await anyio.sleep(60)
        except TimeoutError:
            return {"time": "out"}

    async def is_cancelled_at_once(self):
        with anyio.CancelScope() as scope:
            scope.cancel()
            await anyio.sleep(60)
        return {"cancelled": scope.cancelled_caught}

    async def group(self):
        found = []
        async def one(number):
            await anyio.sleep(0)
            found.append(number)
        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(one, number)
        return sorted(found)

    async def group_cancels_its_host(self):
        async with anyio.create_task_group() as group:
            async def ends_all():
                group.cancel_scope.cancel()
            group.start_soon(ends_all)
            await anyio.sleep(60)
        return {"cancelled": group.cancel_scope.cancelled_caught}

    async def thread(self):
        return await anyio.to_thread.run_sync(lambda: anyio.from_thread.run(self.back))

    async def back(self):
        return "there and back"

    async def events(self):
        event, condition = anyio.Event(), anyio.Condition()
        async with anyio.create_task_group() as group:
            group.start_soon(event.wait)
            await anyio.sleep(0)
            event.set()
        async with condition:
            condition.notify_all()
        return anyio.get_current_task().name is not None
"""


def test_scopes_and_groups_of_anyio_work(start: Start) -> None:
    server = start({"scopes.py": ANYIO}, env={"VIRTUAL_ENV": sys.prefix})
    for _ in range(2):
        for path, answer in [
            ("moves_on", {"cancelled": True}),
            ("fails_in_time", {"time": "out"}),
            ("is_cancelled_at_once", {"cancelled": True}),
            ("group", [0, 1, 2]),
            ("group_cancels_its_host", {"cancelled": True}),
            ("events", {"result": "True"}),
        ]:
            reply = server.get(f"/scopes/{path}")
            assert reply.json() == answer, (path, reply.text)
        assert server.get("/scopes/thread").text == "there and back"
