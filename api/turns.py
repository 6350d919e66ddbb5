"""Waiting for a query's turn without a thread, and running it in one of few."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from engine.catalog.callers import Caller
from engine.errors import Cancelled
from engine.query.turns import Turns

Result = TypeVar("Result")


class QueryThreads:
    """Threads of their own for queries, so that what waits for them never keeps anything else waiting."""

    def __init__(self, at_once: int) -> None:
        """``at_once``: how many queries may have their turn; there are as many threads."""
        self._pool = ThreadPoolExecutor(at_once, thread_name_prefix="query")

    async def run(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)


@asynccontextmanager
async def turn_of(turns: Turns, caller: Caller, gone: asyncio.Future[None] | None = None) -> AsyncIterator[None]:
    """Hold a turn while the block runs; raises QueueFull when too many wait or the wait is too long.

    ``gone`` is completed when nobody wants the turn any more, which then raises Cancelled.
    """
    turn = turns.enter(caller)
    try:
        if not turn.granted.done():
            granted = asyncio.wrap_future(turn.granted)
            awaited = [granted] if gone is None else [granted, gone]
            await asyncio.wait(awaited, timeout=turns.patience_seconds, return_when=asyncio.FIRST_COMPLETED)
            if gone is not None and gone.done():
                raise Cancelled("cannot start the query: it was cancelled")
            if not granted.done():
                raise turns.impatient(turn)
        yield
    finally:
        turns.leave(turn)
