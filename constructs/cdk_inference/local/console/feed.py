"""Tells open pages what has changed: one look for all of them, and none while no page is open."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from typing import TYPE_CHECKING, Any

from cdk_inference.errors import InferenceError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

_LEAST_SECONDS = 0.4  # between two looks
_SHARE = 4  # a look that takes a second is followed by a pause of four
_KEEP_ALIVE_SECONDS = 15.0

logger = logging.getLogger(__name__)


class Feed:
    """Server-sent events for any number of pages.

    Parameters
    ----------
    look
        Returns what there is to see, by the names of sections. It runs in a thread.
    """

    def __init__(self, look: Callable[[], dict[str, Any]]) -> None:
        self._look = look
        self._sections: dict[str, str] = {}
        self._pages: set[asyncio.Event] = set()
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    @property
    def open_pages(self) -> int:
        """How many pages listen."""
        return len(self._pages)

    def hurry(self) -> None:
        """Look at once, since something was done that will show."""
        self._wake.set()

    async def events(self) -> AsyncIterator[str]:
        """Yield server-sent events: all sections, and then those that change."""
        news = asyncio.Event()
        self._pages.add(news)
        if self._task is None:
            self._task = asyncio.create_task(self._go_on())
        sent: dict[str, str] = {}
        try:
            yield "retry: 1000\n\n"
            while True:
                news.clear()
                for name, text in list(self._sections.items()):
                    if sent.get(name) != text:
                        sent[name] = text
                        yield f"event: {name}\ndata: {text}\n\n"
                try:
                    await asyncio.wait_for(news.wait(), _KEEP_ALIVE_SECONDS)
                except TimeoutError:
                    yield ": still here\n\n"  # tells a proxy, and us whether the page is
        finally:
            self._pages.discard(news)
            if not self._pages and self._task is not None:
                self._task.cancel()
                self._task = None
                self._sections = {}

    async def _go_on(self) -> None:
        while True:
            began = time.monotonic()
            self._wake.clear()
            try:
                found = await asyncio.to_thread(self._look)
            except Exception as error:  # the page says so, and the next look may succeed
                logger.warning("a look at the embedded AWS failed", exc_info=error)
                said = str(error) if isinstance(error, InferenceError) else f"{type(error).__name__}: {error}"
                found = {"trouble": {"message": said}}
            texts = {name: json.dumps(section) for name, section in found.items()}
            if any(self._sections.get(name) != text for name, text in texts.items()):
                self._sections |= texts
                for page in self._pages:
                    page.set()
            pause = max(_LEAST_SECONDS, _SHARE * (time.monotonic() - began))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause)
