"""One request and its answer by `wasi:http`, as the bytes of HTTP/1.1 (RFC 9112) that clients write and read."""

import errno
import socket

from componentize_py_types import Err
from wit_world.imports import http_types, monotonic_clock, outgoing_handler, poll, streams

_CHUNK = 64 << 10
# Of a head, which has to be whole before the request is made.
MAX_HEAD = 256 << 10
_METHODS = {
    name: getattr(http_types, "Method_" + name.capitalize())
    for name in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH")
}
# The connection's, which is the host's business, and what the host says itself.
_OF_CONNECTIONS = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade", b"te", b"host"))
_BODILESS = frozenset((204, 304))


class Exchange:
    """A request, from its head on. Bytes of its body are fed to it; it gives the answer's bytes."""

    def __init__(self, head, authority, is_https):
        lines = head.split(b"\r\n")
        method, target, version = lines[0].decode("latin-1").split(" ", 2)
        headers, length, self._is_chunked = [], 0, False
        # HTTP/1.0 ends an answer with the connection, and knows no chunks.
        self._is_old = version == "HTTP/1.0"
        # Whether the connection ends with the answer.
        self.closes = self._is_old
        for line in lines[1:]:
            name, _, value = line.partition(b":")
            name, value = name.strip().lower(), value.strip()
            if name == b"content-length":
                length = int(value)
            if name == b"transfer-encoding":
                self._is_chunked = value.lower().endswith(b"chunked")
            self._note_close(name, value)
            if name not in _OF_CONNECTIONS:
                headers.append((name.decode("latin-1"), value))
        self._left = None if self._is_chunked else length
        self._fed = bytearray()
        self._is_head = method == "HEAD"
        self._future = self._body = self._stream = self._pollable = None
        # How the answer's body is told from what follows: by its length, as chunks, or by the connection's end.
        self._expected, self._frames = None, False
        self._send(method, target, headers, authority, is_https)

    def _send(self, method, target, headers, authority, is_https):
        request = http_types.OutgoingRequest(http_types.Fields.from_list(headers))
        known = _METHODS.get(method)
        request.set_method(known() if known else http_types.Method_Other(method))
        request.set_scheme(http_types.Scheme_Https() if is_https else http_types.Scheme_Http())
        request.set_authority(authority)
        if "://" in target:  # as proxies are asked
            target = "/" + target.split("://", 1)[1].partition("/")[2]
        request.set_path_with_query(target)
        self._request_body = request.body()
        self._writer = self._request_body.write()
        try:
            self._future = outgoing_handler.handle(request, None)
        except Err as error:
            self.close()
            raise _os_error(error.value) from None
        if self._left == 0:
            self._finish()

    def _note_close(self, name, value):
        if name == b"connection" and b"close" in [word.strip() for word in value.lower().split(b",")]:
            self.closes = True

    def feed(self, data):
        """Takes what belongs to the body, and gives the rest back."""
        if self._writer is None:
            return data
        if self._left is not None:
            taken, rest = data[: self._left], data[self._left :]
            self._left -= len(taken)
            self._write(taken)
            if self._left == 0:
                self._finish()
            return rest
        self._fed += data
        while self._writer is not None and self._next_chunk():
            pass
        if self._writer is None:
            rest = bytes(self._fed)
            self._fed.clear()
            return rest
        return b""

    def _next_chunk(self):
        end = self._fed.find(b"\r\n")
        if end < 0:
            return False
        size = int(self._fed[:end].split(b";")[0] or b"0", 16)
        if size == 0:
            last = self._fed.find(b"\r\n\r\n", end)
            if last < 0:
                return False
            del self._fed[: last + 4]
            self._finish()
            return True
        if len(self._fed) < end + 2 + size + 2:
            return False
        self._write(bytes(self._fed[end + 2 : end + 2 + size]))
        del self._fed[: end + 2 + size + 2]
        return True

    def _write(self, data):
        try:
            for start in range(0, len(data), 4096):
                self._writer.blocking_write_and_flush(data[start : start + 4096])
        except Err:
            # Whoever is asked does not want more, or said no already: the answer tells.
            self._drop_writer()
            self._left, self._fed = None, bytearray()

    def _finish(self):
        self._drop_writer()
        try:
            http_types.OutgoingBody.finish(self._request_body, None)
        except Err:
            pass  # the answer tells
        self._request_body = None

    def _drop_writer(self):
        if self._writer is not None:
            self._writer.__exit__(None, None, None)
            self._writer = None

    def pollable(self):
        """What becomes ready when there is more to read."""
        if self._pollable is None:
            source = self._stream if self._stream is not None else self._future
            self._pollable = source.subscribe()
        return self._pollable

    def read(self):
        """More bytes of the answer, without waiting: none when there are none yet, and `None` at the end."""
        self._drop_pollable()
        if self._future is not None:
            answer = self._future.get()
            if answer is None:
                return b""
            self._future.__exit__(None, None, None)
            self._future = None
            return self._head(answer.value)
        if self._stream is None:
            return None
        try:
            data = self._stream.read(_CHUNK)
        except Err as error:
            failure = error.value
            closed = isinstance(failure, streams.StreamError_Closed)
            reason = None if closed else http_types.http_error_code(failure.value)
            self.close()
            if not closed:
                raise _os_error(reason) from None
            if self._frames:
                return b"0\r\n\r\n"
            # All that is left of an answer that is shorter than it said is the connection's end.
            self.closes = True
            return None
        if not data:
            return b""
        if self._frames:
            return b"%x\r\n%b\r\n" % (len(data), data)
        if self._expected is not None:
            self._expected -= len(data)
            if self._expected <= 0:
                self.close()
        return data

    def _head(self, answer):
        if isinstance(answer, Err):
            self.close()
            raise _os_error(answer.value)
        response = answer.value
        status = response.status()
        with response.headers() as fields:
            headers = [(name.lower().encode(), value) for name, value in fields.entries()]
        for item in headers:
            self._note_close(*item)
        lines = [b"HTTP/1.1 %d %b" % (status, _reason(status))]
        lines += [b"%b: %b" % item for item in headers if item[0] not in _OF_CONNECTIONS]
        has_body = not (self._is_head or status in _BODILESS)
        if has_body:
            lengths = [value for name, value in headers if name == b"content-length"]
            self._frames = not lengths and not self._is_old
            if self._frames:
                lines.append(b"transfer-encoding: chunked")
            elif lengths:
                self._expected = int(lengths[0])
            self._body = response.consume()
            self._stream = self._body.stream()
        if self.closes:
            lines.append(b"connection: close")
        response.__exit__(None, None, None)
        if self._expected == 0:
            self.close()
        return b"\r\n".join(lines) + b"\r\n\r\n"

    @property
    def is_sent(self):
        return self._writer is None

    @property
    def is_over(self):
        return self._future is None and self._stream is None

    def _drop_pollable(self):
        if self._pollable is not None:
            self._pollable.__exit__(None, None, None)
            self._pollable = None

    def close(self):
        """Gives back what it has of the host's, inner things first."""
        self._drop_pollable()
        self._drop_writer()
        for name in ("_request_body", "_stream", "_body", "_future"):
            thing = getattr(self, name, None)
            setattr(self, name, None)
            if thing is not None:
                thing.__exit__(None, None, None)


def wait(pollables, seconds):
    """Waits for any of them, or for some time; gives the places of those that are ready."""
    pollables = list(pollables)
    if seconds is None:
        return poll.poll(pollables) if pollables else []
    with monotonic_clock.subscribe_duration(max(0, int(seconds * 1e9))) as timer:
        return [place for place in poll.poll([*pollables, timer]) if place < len(pollables)]


def _reason(status):
    import http.client

    return http.client.responses.get(status, "").encode()


_ERRORS = (
    ("HttpRequestDenied", PermissionError, errno.EACCES, "the session may not make this request (its log says why)"),
    ("DestinationIpProhibited", PermissionError, errno.EACCES, "the host's address is in a private network"),
    ("ConnectionTimeout", TimeoutError, errno.ETIMEDOUT, "the connection was not made in time"),
    ("ConnectionReadTimeout", TimeoutError, errno.ETIMEDOUT, "the answer did not come in time"),
    ("ConnectionRefused", ConnectionRefusedError, errno.ECONNREFUSED, "no connection could be made"),
    ("ConnectionTerminated", ConnectionResetError, errno.ECONNRESET, "the connection broke"),
    ("DestinationNotFound", socket.gaierror, socket.EAI_NONAME, "the host's name is not known"),
)


def _os_error(code):
    for name, kind, number, text in _ERRORS:
        if type(code).__name__ == "ErrorCode_" + name:
            return kind(number, text)
    name = type(code).__name__.removeprefix("ErrorCode_") or "error"
    return OSError(errno.EIO, f"the request failed: {name} {getattr(code, 'value', '') or ''}".rstrip())
