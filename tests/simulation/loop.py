"""An asyncio event loop on virtual time, and processes that can be killed in it.

The loop never waits: when nothing is ready it moves its clock to the next timer. One thread, no sockets, no executor,
timers in the order (time, the order in which they were set): a run depends on nothing but what the callbacks do.

A `Process` is one life of a simulated node. Whatever is scheduled from inside it (tasks, callbacks, timers) inherits
its context and runs only while it is alive: `kill` therefore stops it between two steps of whatever it was doing, and
no `finally`, no `except CancelledError` of it ever runs, as after a power cut. Its unfinished tasks are kept until
`VirtualLoop.dispose`, when nothing of the run can be touched any more.

Assumes that a node's code only ever runs from `Process.run`, `Process.spawn` or what those have scheduled.
"""

import asyncio
import contextlib
import contextvars
import heapq
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

PROCESS: contextvars.ContextVar["Process | None"] = contextvars.ContextVar("process", default=None)


class Deadlock(RuntimeError):
    """Nothing is ready and no timer is set: the run can never go on."""


class Livelock(RuntimeError):
    """The clock stands still while callbacks keep scheduling callbacks."""


class VirtualLoop(asyncio.BaseEventLoop):
    """See the module. Errors that nobody caught are collected in `errors`, and end the run at once."""

    TURNS_AT_ONE_TIME_MAX = 100_000

    def __init__(self, start: float = 1000.0) -> None:
        super().__init__()
        self._now = start
        self._order = 0
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._cancelled = 0
        self._turns = 0
        self.processes: list[Process] = []
        self.errors: list[BaseException] = []
        self.set_exception_handler(self._collect_error)

    def time(self) -> float:
        return self._now

    # --- scheduling -----------------------------------------------------------------------------------

    def call_at(
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        self._order += 1
        heapq.heappush(self._timers, (when, self._order, timer))
        return timer

    def call_later(
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        when = self._now + delay
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        self._order += 1
        heapq.heappush(self._timers, (when, self._order, timer))
        return timer

    def create_task(self, coro: Any, *, name: Any = None, context: contextvars.Context | None = None) -> Any:
        task = asyncio.Task(coro, loop=self, name=name or "task", context=context)
        process = PROCESS.get() if context is None else context.get(PROCESS)
        if process is not None:
            process.adopt(task)
        return task

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> Any:
        raise RuntimeError("a simulated node has no threads: call_soon_threadsafe")

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:
        raise RuntimeError(f"a simulated node has no threads: run_in_executor({func!r})")

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        self._cancelled += 1

    def _asyncgen_finalizer_hook(self, agen: Any) -> None:
        """A generator that nothing refers to any more belonged to a process that was killed: it is just gone."""
        self._asyncgens.discard(agen)  # type: ignore[attr-defined]

    def _process_events(self, event_list: Any) -> None:
        """There are none: no selector."""

    def _write_to_self(self) -> None:
        """Nothing sleeps, so nothing needs waking."""

    # --- running --------------------------------------------------------------------------------------

    def _run_once(self) -> None:
        ready: Any = self._ready  # type: ignore[attr-defined]
        timers = self._timers
        if not ready:
            self._advance()
        now = self._now
        while timers and timers[0][0] <= now:
            timer = heapq.heappop(timers)[2]
            if not timer._cancelled:
                ready.append(timer)
        self._turns += 1
        if self._turns > self.TURNS_AT_ONE_TIME_MAX:
            raise Livelock(f"at {now:.6f}: {self._turns} turns and the clock stands still")
        popleft, errors = ready.popleft, self.errors
        for _ in range(len(ready)):
            handle = popleft()
            if not handle._cancelled:
                process = handle._context.get(PROCESS)
                if process is None:
                    handle._run()
                elif process.alive:
                    handle._run()
                    process.stepped()
                if errors:
                    self.stop()
                    return

    def _advance(self) -> None:
        """Moves the clock to the next timer."""
        timers = self._timers
        if self._cancelled > 500 and self._cancelled * 2 > len(timers):
            timers[:] = [t for t in timers if not t[2].cancelled()]
            heapq.heapify(timers)
            self._cancelled = 0
        while timers and timers[0][2].cancelled():
            heapq.heappop(timers)
        if timers:
            if timers[0][0] > self._now:
                self._now = timers[0][0]
                self._turns = 0
        elif not self._stopping:  # type: ignore[attr-defined]
            raise Deadlock(f"at {self._now:.6f}: nothing is ready and no timer is set")

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Runs the simulation's own coroutine to its end; raises the first error nobody caught, of any process."""
        task = self.create_task(main)
        task.add_done_callback(lambda _: self.stop())
        self.run_forever()
        if task.done() and not task.cancelled() and task.exception() is not None:
            self.errors.append(task.exception())
        self.errors.extend(error for process in self.processes for error in process.unretrieved())
        if self.errors:
            raise self.errors[0]
        result: T = task.result()
        return result

    def _collect_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.errors.append(error if error is not None else RuntimeError(str(context.get("message"))))

    def dispose(self) -> None:
        """Ends every unfinished task quietly, and the loop: the run is over and judged."""
        self.set_exception_handler(lambda loop, context: None)
        for task in asyncio.all_tasks(self):
            bury(task)
        for process in self.processes:
            process.alive = False
            for task in process.tasks:
                bury(task)
            process.tasks.clear()
        self.processes.clear()
        self._timers.clear()
        self._ready.clear()  # type: ignore[attr-defined]
        self.close()


def bury(task: "asyncio.Task[Any]") -> None:
    """Closes what is left of a task that will never be stepped again, whatever its cleanup does."""
    if task.done():
        task._log_traceback = False  # type: ignore[attr-defined]
        return
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    coroutine = task.get_coro()
    if coroutine is not None:
        with contextlib.suppress(BaseException):
            coroutine.close()


class Process:
    """One life of a simulated node; see the module."""

    def __init__(self, loop: VirtualLoop, name: str) -> None:
        self.loop = loop
        self.name = name
        self.alive = True
        self.tasks: list[asyncio.Task[Any]] = []
        self.died: asyncio.Future[None] = loop.create_future()
        """Done when it is killed: what those outside see as a connection closed."""
        self.on_step: Callable[[], None] | None = None
        """Called after every step that the process makes."""
        self._prune_at = 64
        self.context = contextvars.Context()
        self.context.run(PROCESS.set, self)
        loop.processes.append(self)

    def run(self, function: Callable[..., T], *args: Any) -> T:
        """Calls into the process, now. It must be alive."""
        assert self.alive, f"{self.name} is dead"
        return self.context.copy().run(function, *args)

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Starts a task inside the process."""
        assert self.alive, f"{self.name} is dead"
        task: asyncio.Task[T] = self.loop.create_task(coroutine, context=self.context.copy())
        return task

    def adopt(self, task: "asyncio.Task[Any]") -> None:
        self.tasks.append(task)
        if len(self.tasks) >= self._prune_at:
            self._prune()
            self._prune_at = 64 + 2 * len(self.tasks)

    def _prune(self) -> None:
        self.tasks = [task for task in self.tasks if not task.done() or task._log_traceback]  # type: ignore[attr-defined]

    def stepped(self) -> None:
        """Lets whoever watches look at it after a step. What they raise ends the run."""
        if self.alive and self.on_step is not None:
            try:
                self.on_step()
            except Exception as error:  # noqa: BLE001
                self.loop.errors.append(error)

    def unretrieved(self) -> list[BaseException]:
        """Errors in which tasks ended and which nothing in the process ever looked at."""
        self._prune()
        done = (task for task in self.tasks if task.done() and not task.cancelled())
        return [error for task in done if (error := task.exception()) is not None]

    def kill(self) -> None:
        """From here on nothing of it runs."""
        if self.alive:
            self.alive = False
            if not self.died.done():
                self.died.set_result(None)


def run_simulation(main: Callable[[VirtualLoop], Coroutine[Any, Any, T]]) -> T:
    """Runs `main` on a loop of its own and disposes of it."""
    loop = VirtualLoop()
    try:
        return loop.run(main(loop))
    finally:
        loop.dispose()
