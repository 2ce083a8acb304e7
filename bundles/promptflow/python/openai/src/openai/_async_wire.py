"""Requests and answers by asyncio's streams, so that several are under way at once: HTTP/1.1 as RFC 9112 has it."""

import asyncio
import contextlib
import http.client
import io
import re

from ._wire import Response

_PIECE = 64 << 10
# Of an answer's head, and of a line that says how long a chunk is.
_MAX_HEAD = 256 << 10
_BODILESS = (204, 304)
# Answers that say that another one follows (100 to 199).
_MAX_INTERIM = 10
_HEX = re.compile(rb"[0-9A-Fa-f]{1,16}")


async def send(request):
    """Sends the request, and waits for the head of the answer."""
    timeout = request.timeout
    tls = {"ssl": _context(), "server_hostname": request.host} if request.is_https else {}
    opening = asyncio.open_connection(request.host, request.port, limit=_MAX_HEAD, **tls)
    reader, writer = await _within(timeout.connect, opening)
    try:
        writer.write(_head(request) + (request.content or b""))
        await _within(timeout.write, writer.drain())
        for _ in range(_MAX_INTERIM + 1):
            status, reason, headers = await _answer_head(reader, timeout.read)
            if status >= 200:
                return Response(request, status, reason, headers, _Body(reader, writer, timeout.read, status, headers))
        raise http.client.HTTPException(f"more than {_MAX_INTERIM} times another answer was to follow")
    except BaseException:
        await _close(writer)
        raise


def _context():
    import ssl

    return ssl.create_default_context()


def _within(seconds, awaitable):
    return asyncio.wait_for(awaitable, seconds)


def _head(request):
    host = f"[{request.host}]" if ":" in request.host else request.host
    authority = host if request.port == (443 if request.is_https else 80) else f"{host}:{request.port}"
    headers = {"host": authority, "accept-encoding": "identity", **request.headers, "connection": "close"}
    if request.content is not None:
        headers["content-length"] = str(len(request.content))
    lines = [f"{request.method} {request.target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def _answer_head(reader, seconds):
    try:
        head = await _within(seconds, reader.readuntil(b"\r\n\r\n"))
    except asyncio.IncompleteReadError as error:
        raise http.client.RemoteDisconnected(f"the connection ended after {len(error.partial)} bytes of the answer's head") from None
    except asyncio.LimitOverrunError:
        raise http.client.LineTooLong("the answer's head") from None
    line, _, fields = head.partition(b"\r\n")
    version, status, *reason = line.decode("latin-1").split(" ", 2)
    if not version.startswith("HTTP/1.") or not status.isdigit():
        raise http.client.BadStatusLine(line.decode("latin-1"))
    return int(status), "".join(reason), http.client.parse_headers(io.BytesIO(fields))


class _Body:
    def __init__(self, reader, writer, seconds, status, headers):
        self._reader, self._writer, self._seconds = reader, writer, seconds
        self._is_chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        length = headers.get("content-length")
        if length is not None and not length.isdecimal():
            raise http.client.HTTPException(f"the answer has the length {length[:20]!r}")
        self._left = 0 if status in _BODILESS else None if length is None else int(length)

    async def pieces(self):
        if self._is_chunked and self._left != 0:
            # What follows the last chunk says nothing to us.
            while size := await self._chunk_size():
                async for piece in self._exactly(size):
                    yield piece
                await self._line()
        elif self._left is not None:
            async for piece in self._exactly(self._left):
                yield piece
        else:
            while piece := await self._read(_PIECE):
                yield piece

    async def _exactly(self, left):
        while left:
            piece = await self._read(min(left, _PIECE))
            if not piece:
                raise http.client.IncompleteRead(b"", left)
            left -= len(piece)
            yield piece

    async def _chunk_size(self):
        line = await self._line()
        size = line.partition(b";")[0].strip()
        if not _HEX.fullmatch(size):
            raise http.client.HTTPException(f"a chunk has the length {size[:20]!r}")
        return int(size, 16)

    async def _line(self):
        try:
            return (await _within(self._seconds, self._reader.readuntil(b"\r\n")))[:-2]
        except asyncio.IncompleteReadError as error:
            raise http.client.IncompleteRead(error.partial) from None
        except asyncio.LimitOverrunError:
            raise http.client.LineTooLong("a chunk") from None

    async def _read(self, size):
        return await _within(self._seconds, self._reader.read(size))

    async def close(self):
        await _close(self._writer)


async def _close(writer):
    # Without the farewell that TLS has, for which the other side might let us wait.
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
