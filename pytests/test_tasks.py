"""Async handlers and asyncio's tasks: a call's first step runs without one, and no plugin can tell."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

PLUGIN = '''
import asyncio
import contextvars
import weakref
from plugincore.baseplugin import BasePlugin

SEEN = contextvars.ContextVar("seen", default="nothing")
BY_TASK = weakref.WeakKeyDictionary()
CALLBACKS = []
KEPT = []


class Tasks(BasePlugin):
    async def request_handler(self, **data):
        return await getattr(self, data["subpath"])(data)

    async def identity(self, data):
        before = asyncio.current_task()
        await asyncio.sleep(0)
        middle = asyncio.current_task()
        await asyncio.sleep(0.001)
        task = asyncio.current_task()
        return {
            "is_task": isinstance(task, asyncio.Task),
            "is_same": before is middle is task,
            "is_listed": task in asyncio.all_tasks(),
            "is_done": task.done(),
        }

    async def name(self, data):
        KEPT.append(asyncio.current_task())
        return asyncio.current_task().get_name()

    async def names_are_done(self, data):
        await asyncio.sleep(0)
        return [task.done() and not task.cancelled() for task in KEPT]

    async def listed(self, data):
        tasks = asyncio.all_tasks()
        return asyncio.current_task() in tasks

    async def cancels_itself(self, data):
        asyncio.current_task().cancel()
        return "answered all the same"

    async def cancels_itself_and_waits(self, data):
        asyncio.current_task().cancel()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "cancelled where it waits"

    async def cancels_what_it_waits_for(self, data):
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(asyncio.current_task().cancel)
        try:
            await future
        except asyncio.CancelledError:
            return future.cancelled()

    async def state_of_task(self, data):
        task = asyncio.current_task()
        known = BY_TASK.get(task)
        BY_TASK[task] = "mine"
        return {"known": known}

    async def callback(self, data):
        asyncio.current_task().add_done_callback(lambda task: CALLBACKS.append(task.done()))
        return "set"

    async def callbacks(self, data):
        await asyncio.sleep(0)
        return CALLBACKS

    async def times_out(self, data):
        try:
            if hasattr(asyncio, "timeout"):
                async with asyncio.timeout(0.01):
                    await asyncio.sleep(60)
            else:
                await asyncio.wait_for(asyncio.sleep(60), 0.01)
        except asyncio.TimeoutError:
            return "timed out"

    async def group(self, data):
        async def one(n):
            await asyncio.sleep(0)
            return n * n
        if not hasattr(asyncio, "TaskGroup"):
            return await asyncio.gather(one(2), one(3))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(n)) for n in (2, 3)]
        return [task.result() for task in tasks]

    async def variable(self, data):
        before = SEEN.get()
        SEEN.set(data["value"])
        if "wait" in data:
            await asyncio.sleep(0.001)
        child = asyncio.create_task(self.child())
        return {"before": before, "after": SEEN.get(), "child": await child}

    async def child(self):
        return SEEN.get()

    async def late_task(self, data):
        SEEN.set("first")
        asyncio.current_task()
        SEEN.set("second")
        await asyncio.sleep(0)
        return SEEN.get()

    async def raises_after_its_task(self, data):
        asyncio.current_task()
        raise ValueError("in the first step")

    async def exits(self, data):
        asyncio.current_task()
        raise SystemExit(3)

    async def future(self, data):
        return self.given()

    def given(self):
        return {"given": True}

    async def shields(self, data):
        inner = asyncio.ensure_future(asyncio.sleep(0.01, "inner"))
        return await asyncio.shield(inner)

    async def coroutine_of_task(self, data):
        await asyncio.sleep(0)
        frame = asyncio.current_task().get_stack()
        return {"task": repr(asyncio.current_task()), "frames": len(frame)}


class Awaitable:
    def __await__(self):
        yield from asyncio.sleep(0).__await__()
        return {"awaited": True}


class Odd(BasePlugin):
    """Not a coroutine function, and its answer still has to be awaited."""

    async def _unused(self):
        return None

    def request_handler(self, **data):
        return Awaitable()


class OddAsync(BasePlugin):
    async def request_handler(self, **data):
        return 200, {"plain": True}


class Eager(BasePlugin):
    async def request_handler(self, **data):
        if hasattr(asyncio, "eager_task_factory"):
            loop = asyncio.get_running_loop()
            task = asyncio.Task(self.child(), loop=loop, eager_start=True)
        else:
            task = asyncio.create_task(self.child())
        own = asyncio.current_task()
        inner = await task
        return {"is_other": inner is not own, "is_back": asyncio.current_task() is own}

    async def child(self):
        return asyncio.current_task()
'''


def _answers(server, subpath: str) -> object:
    reply = server.get(f"/tasks/{subpath}")
    assert reply.status == 200, (subpath, reply.text)
    return reply.json() if "json" in reply.headers["Content-Type"] else reply.text


def test_a_call_has_one_task_of_its_own_from_the_moment_it_looks(start):
    server = start({"tasks.py": PLUGIN})
    assert _answers(server, "identity") == {"is_task": True, "is_same": True, "is_listed": True, "is_done": False}
    assert _answers(server, "listed") == {"result": "True"}
    names = {_answers(server, "name") for _ in range(5)}
    assert len(names) == 5
    assert _answers(server, "names_are_done") == [True] * 5


def test_cancelling_its_own_task_touches_no_other_call(start):
    server = start({"tasks.py": PLUGIN})
    for _ in range(3):
        assert _answers(server, "cancels_itself") == "answered all the same"
        assert _answers(server, "identity")["is_same"]
        assert _answers(server, "cancels_itself_and_waits") == "cancelled where it waits"
        assert _answers(server, "cancels_what_it_waits_for") == {"result": "True"}
    with ThreadPoolExecutor(16) as pool:
        paths = ["cancels_itself", "identity", "times_out", "cancels_itself_and_waits", "group"] * 20
        list(pool.map(lambda path: _answers(server, path), paths))


def test_what_is_kept_by_task_is_one_calls_own(start):
    server = start({"tasks.py": PLUGIN})
    assert [_answers(server, "state_of_task") for _ in range(3)] == [{"known": None}] * 3
    assert _answers(server, "callback") == "set"
    assert _answers(server, "callbacks") == [True]


def test_time_outs_groups_and_shields_work(start):
    server = start({"tasks.py": PLUGIN})
    assert _answers(server, "times_out") == "timed out"
    assert _answers(server, "group") == [4, 9]
    assert _answers(server, "shields") == "inner"


def test_context_variables_are_a_calls_own_before_and_after_it_waits(start):
    server = start({"tasks.py": PLUGIN})
    for suffix in ("", "&wait=1"):
        for value in ("one", "two"):
            found = _answers(server, f"variable?value={value}{suffix}")
            assert found == {"before": "nothing", "after": value, "child": value}
    assert _answers(server, "late_task") == "second"
    with ThreadPoolExecutor(16) as pool:
        values = [str(number) for number in range(100)]
        found = pool.map(lambda value: _answers(server, f"variable?value={value}&wait=1"), values)
        assert [one["child"] for one in found] == values


def test_what_is_raised_in_the_first_step_is_that_calls_answer(start):
    server = start({"tasks.py": PLUGIN})
    for path in ("raises_after_its_task", "exits"):
        assert server.get(f"/tasks/{path}").status == 500
    assert _answers(server, "identity")["is_same"]
    assert "was never retrieved" not in server.log


def test_answers_that_are_to_be_awaited_are(start):
    server = start({"tasks.py": PLUGIN})
    assert server.get("/odd").json() == {"awaited": True}
    assert server.get("/oddasync").json() == {"plain": True}
    assert _answers(server, "future") == {"given": True}
    assert server.get("/eager").json() == {"is_other": True, "is_back": True}


def test_a_task_shows_the_handler_and_where_it_waits(start):
    server = start({"tasks.py": PLUGIN})
    found = _answers(server, "coroutine_of_task")
    assert "request_handler" in found["task"], found
