"""One clock and one queue for everything that happens: processes, their event loops, their threads and their locks.

Nothing here knows what is simulated. Every simulated process has an event loop of its own, whose callbacks stand in the one
queue, so a process can be paused (its callbacks are held back) or killed (they are dropped). Blocking code runs in real threads,
of which only one ever moves: it hands the baton back whenever it waits, and is handed it again when its moment comes.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any, TypeVar

T = TypeVar("T")
START_NS = 1_750_000_000 * 10**9  # what the clocks on the walls show when a simulation begins


class Killed(BaseException):
    """Raised in a thread of a process that was killed: it ends where it stands."""


class Stuck(Exception):
    """More happens than a seed can explain: something goes round and round."""


class Process:
    """A simulated process. `skew`: how many seconds its wall clock is ahead."""

    def __init__(self, kernel: Kernel, name: str) -> None:
        self.kernel, self.name = kernel, name
        self.dead = False
        self.paused = False
        self.skew = 0.0
        self.loop = ProcessLoop(self)
        self.workers: set[Worker] = set()
        self.held: list[Any] = []
        self.on_death: list[Callable[[], None]] = []

    def pause(self, seconds: float) -> None:
        """Stop it for a while; its monotonic clock goes on, as after SIGSTOP."""
        if not self.dead and not self.paused:
            self.paused = True
            self.kernel.note("pause", self.name, f"{seconds:.1f} s")
            self.kernel.after(seconds, None, self.resume)

    def resume(self) -> None:
        if self.paused:
            self.paused = False
            held, self.held = self.held, []
            if not self.dead:
                self.kernel.note("resume", self.name)
            for what in held:
                self.kernel.after(0.0, self, what)

    def kill(self) -> None:
        """End it at once; called from outside of its threads."""
        if self.dead:
            return
        self.kernel.note("kill", self.name)
        self.dead = True
        self.kernel.deaths += 1
        self.held.clear()
        for worker in sorted(self.workers, key=lambda w: w.number):
            self.kernel.end(worker)
        for told in self.on_death:
            told()


class Kernel:
    """The queue and the clock (seconds)."""

    def __init__(self, seed: int, threads: Threads) -> None:
        self.random = Random(seed)
        self.now = 0.0
        self.current: Process | None = None  # whose code runs
        self.worker: Worker | None = None  # the thread that has the baton; None: the queue itself
        self.trace: list[str] | None = None
        self.trouble: list[str] = []  # errors that nobody waited for
        self.events = 0
        self.deaths = 0  # of processes
        self.closing = False
        self._threads = threads
        self._queue: list[tuple[float, int, Process | None, Any]] = []
        self._count = itertools.count()
        self._workers = 0

    def note(self, *words: object) -> None:
        """Add a line to the trace, if one is kept."""
        if self.trace is not None:
            self.trace.append(f"{self.now:9.4f}  " + "  ".join(str(w) for w in words))

    def wall_ns(self) -> int:
        """What the present process's clock on the wall shows."""
        return START_NS + int((self.now + (self.current.skew if self.current else 0.0)) * 10**9)

    def at(self, when: float, process: Process | None, what: Callable[[], Any] | asyncio.Handle) -> None:
        """Do something at a time, in a process or outside of all."""
        if process is None or not process.dead:  # what a dead one left behind may be cleared away at any moment
            heapq.heappush(self._queue, (max(when, self.now), next(self._count), process, what))

    def after(self, seconds: float, process: Process | None, what: Callable[[], Any] | asyncio.Handle) -> None:
        """Do something so many seconds from now."""
        self.at(self.now + seconds, process, what)

    def run(self, until: Callable[[], bool], limit: float) -> bool:
        """Let things happen until something is true; False if the clock reaches the limit before."""
        while not until():
            if not self._queue or self._queue[0][0] > limit:
                self.now = max(self.now, limit)
                return False
            self.now, _, process, what = heapq.heappop(self._queue)
            self.events += 1
            if self.events > 400_000:
                raise Stuck(f"{self.events} events by {self.now:.1f} s")
            self._do(process, what)
        return True

    def _do(self, process: Process | None, what: Any) -> None:
        if process is None:
            what()
            return
        if process.dead:
            return
        if process.paused:
            process.held.append(what)
            return
        self.current = process
        try:
            if isinstance(what, asyncio.Handle):
                if not what.cancelled():
                    asyncio._set_running_loop(process.loop)
                    try:
                        what._run()
                    finally:
                        asyncio._set_running_loop(None)
            else:
                what()
        finally:
            self.current = None

    # Threads

    def start(
        self, process: Process, call: Callable[[], Any], done: Callable[[Any, BaseException | None], None]
    ) -> None:
        """Run blocking code of a process in a thread; `done` is told its result or error in the process's event loop."""
        self._workers += 1
        worker = Worker(self, process, self._workers)
        process.workers.add(worker)

        def job() -> None:
            result, error = None, None
            try:
                result = call()
            except BaseException as e:  # noqa: BLE001 - a thread's error belongs to whoever waits for it
                error = e
            process.workers.discard(worker)
            self.after(0.0, process, lambda: done(result, error))

        worker.thread = self._threads.take(job)
        self.after(0.0, process, lambda: self.resume(worker))

    def resume(self, worker: Worker) -> None:
        """Hand the baton to a thread until it waits or ends."""
        before, self.worker = self.worker, worker
        running, self.current = self.current, worker.process
        self._threads.switch(worker.thread)
        self.worker, self.current = before, running

    def end(self, worker: Worker) -> None:
        """Make a thread of a killed process end."""
        worker.killed = True
        self.resume(worker)

    def waiting(self) -> Worker:
        """The thread that calls and is about to wait."""
        worker = self.worker
        if worker is None:
            raise RuntimeError("an event loop would have been blocked by a call of the store")
        if worker.killed or worker.process.dead:
            raise Killed
        return worker

    def sleep(self, seconds: float) -> None:
        """Let the thread that calls wait."""
        worker = self.waiting()
        self.after(seconds, worker.process, lambda: self.resume(worker))
        self.block()

    def block(self) -> None:
        """Give the baton back until somebody resumes this thread."""
        worker = self.worker
        assert worker is not None
        if worker.killed:
            raise Killed
        self._threads.back(worker.thread)
        if worker.killed:
            raise Killed


class Worker:
    """A thread at work for a process."""

    def __init__(self, kernel: Kernel, process: Process, number: int) -> None:
        self.kernel, self.process, self.number = kernel, process, number
        self.killed = False
        self.thread: _Thread


class _Thread:
    def __init__(self) -> None:
        self.go = threading.Lock()
        self.go.acquire()
        self.job: Callable[[], None] | None = None


class Threads:
    """Real threads that take turns; they are used again by one simulation after the other."""

    def __init__(self) -> None:
        self._hub = threading.Lock()
        self._hub.acquire()
        self._idle: list[_Thread] = []

    def take(self, job: Callable[[], None]) -> _Thread:
        if self._idle:
            thread = self._idle.pop()
        else:
            thread = _Thread()
            threading.Thread(target=self._work, args=(thread,), daemon=True).start()
        thread.job = job
        return thread

    def switch(self, thread: _Thread) -> None:
        thread.go.release()
        self._hub.acquire()

    def back(self, thread: _Thread) -> None:
        self._hub.release()
        thread.go.acquire()

    def _work(self, thread: _Thread) -> None:
        while True:
            thread.go.acquire()
            job, thread.job = thread.job, None
            if job is None:
                return
            job()
            self._idle.append(thread)
            self._hub.release()

    def close(self) -> None:
        """End the idle threads."""
        while self._idle:
            self._idle.pop().go.release()


class ProcessLoop(asyncio.AbstractEventLoop):
    """The event loop of one simulated process."""

    def __init__(self, process: Process) -> None:
        self._process, self._kernel = process, process.kernel

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def time(self) -> float:
        return self._kernel.now

    def call_soon(self, callback: Any, *args: Any, context: contextvars.Context | None = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._kernel.after(0.0, self._process, handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        return self.call_at(self._kernel.now + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._kernel.at(when, self._process, handle)
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Coroutine[Any, Any, T], *, name: Any = None, context: Any = None) -> asyncio.Task[T]:  # type: ignore[override]
        return asyncio.Task(coro, loop=self, name=name, context=context)

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        future: asyncio.Future[T] = self.create_future()

        def done(result: Any, error: BaseException | None) -> None:
            if future.cancelled():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)

        self._kernel.start(self._process, lambda: func(*args), done)
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not self._process.dead and error is not None and not self._kernel.closing:
            self._kernel.trouble.append(f"{context.get('message')}: {error!r}")


class Locks:
    """What stands in the place of `threading` in code whose threads take turns: locks that hand the baton on."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def RLock(self) -> SimLock:  # noqa: N802 - the name of what it replaces
        return SimLock(self._kernel)

    def Condition(self) -> SimCondition:  # noqa: N802
        return SimCondition(self._kernel)


class SimLock:
    """A lock that its holder may take again."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._holder: object | None = None
        self._depth = 0
        self._waiting: deque[Worker] = deque()

    def acquire(self) -> None:
        me = self._kernel.worker
        who: object = me if me is not None else self._kernel
        while self._holder is not None and self._holder is not who:
            if me is None:
                raise RuntimeError("an event loop would have been blocked by a lock")
            self._waiting.append(me)
            self._kernel.block()
        self._holder = who
        self._depth += 1

    def release(self) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._holder = None
            if self._waiting:
                self._wake(self._waiting.popleft())

    def _wake(self, worker: Worker) -> None:
        self._kernel.after(0.0, worker.process, lambda: self._kernel.resume(worker))

    def __enter__(self) -> SimLock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class SimCondition(SimLock):
    """A condition variable."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel)
        self._hoping: list[Worker] = []

    def wait_for(self, predicate: Callable[[], bool]) -> bool:
        while not predicate():
            me = self._kernel.worker
            if me is None:
                raise RuntimeError("an event loop would have been blocked by a condition")
            self._hoping.append(me)
            self.release()
            try:
                self._kernel.block()
            finally:
                self.acquire()
        return True

    def notify_all(self) -> None:
        hoping, self._hoping = self._hoping, []
        for worker in hoping:
            self._wake(worker)
