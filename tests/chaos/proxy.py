"""A TCP proxy that fails on demand: it cuts connections, delays them, or lets them hang half-open."""

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

__all__ = ["Proxy"]

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER for none at all: the close sends a reset instead of an orderly end."""


class _Link:
    """One client's connection and the one to the target."""

    def __init__(self, client: asyncio.StreamWriter, *, is_stalled: bool) -> None:
        self.writers = [client]
        self.is_stalled = is_stalled
        self.is_over = asyncio.Event()

    def reset(self) -> None:
        for writer in self.writers:
            if not writer.transport.is_closing():
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                writer.transport.abort()
        self.is_over.set()


class Proxy:
    """Forwards from a port of the loopback address to another, on a thread of its own; a context manager.

    Attributes:
        port: Where it listens, all its life.
        target_port: Where it forwards to.
    """

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self.target_port = target_port
        self._delay_s = 0.0
        self._is_stalled = False
        self._links: set[_Link] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy")
        self._thread.start()
        self.heal()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def connections(self) -> int:
        """How many clients are connected, stalled ones included."""
        return len(self._links)

    def cut(self) -> None:
        """Reset every connection, and refuse new ones."""
        self._run(self._cut())

    def stall(self) -> None:
        """Let nothing through any more: what is connected hangs for good, and so does what connects from now on."""
        self._run(self._stall())

    def delay(self, seconds: float) -> None:
        """Hold back every piece that comes, in both directions."""
        self._delay_s = seconds

    def heal(self) -> None:
        """Let new connections through, at once; those that were stalled hear nothing of it."""
        self._run(self._heal())

    def _run(self, what: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result(10)

    async def _cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for link in self._links:
            link.reset()
        while self._links:
            await asyncio.sleep(0.001)

    async def _stall(self) -> None:
        self._is_stalled = True
        for link in self._links:
            link.is_stalled = True

    async def _heal(self) -> None:
        self._is_stalled = False
        self._delay_s = 0.0
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(writer, is_stalled=self._is_stalled)
        self._links.add(link)
        try:
            if not link.is_stalled:
                await self._join(link, reader)
            if link.is_stalled:
                await link.is_over.wait()
        finally:
            for end in link.writers:
                end.close()
            self._links.discard(link)

    async def _join(self, link: _Link, reader: asyncio.StreamReader) -> None:
        """Forward in both directions until one side ends."""
        with suppress(OSError):  # the target refuses: the client sees its connection end
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
            link.writers.append(far_writer)
            ways = [self._forward(link, reader, far_writer), self._forward(link, far_reader, link.writers[0])]
            tasks = [asyncio.create_task(it) for it in (*ways, link.is_over.wait())]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _forward(self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(1 << 16):
            await asyncio.sleep(self._delay_s)
            if not link.is_stalled:
                writer.write(piece)
                await writer.drain()
