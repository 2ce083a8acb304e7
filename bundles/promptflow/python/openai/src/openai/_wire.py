"""Requests and answers by `http.client`: a connection for each, closed when the answer has been read or given up."""

import http.client
import json
from urllib.parse import quote, urlsplit

# Of an answer that is read as a whole.
MAX_ANSWER = 16 << 20
_PIECE = 64 << 10
_PORTS = {"http": 80, "https": 443}
# What may stand in a path as it is (RFC 3986, 3.3), and what is escaped already.
_IN_PATH = "/:@!$&'()*+,;=~%"
_IN_QUERY = _IN_PATH + "?[]"


class AnswerTooLong(Exception):
    """An answer beyond what is read of one."""

    def __init__(self, what, limit):
        super().__init__(f"{what} has more than {limit >> 20} MiB, which is the limit")


class Request:
    """What is sent. The path is quoted where it has to be."""

    def __init__(self, method, url, headers, content, timeout):
        parts = urlsplit(url)
        if parts.scheme not in _PORTS or not parts.hostname:
            raise ValueError(f"{url!r} is no URL of a service: it begins with https:// or http:// and a host's name")
        self.method, self.url, self.headers, self.content, self.timeout = method, url, headers, content, timeout
        self.is_https = parts.scheme == "https"
        self.host, self.port = parts.hostname, parts.port or _PORTS[parts.scheme]
        query = f"?{quote(parts.query, safe=_IN_QUERY)}" if parts.query else ""
        self.target = quote(parts.path or "/", safe=_IN_PATH) + query
        for name, value in headers.items():
            line = f"{name}: {value}".encode("latin-1")
            if any(sign in line for sign in b"\r\n\0"):
                raise ValueError(f"a header is one line, and {name!r} is not")

    def __repr__(self):
        return f"<Request({self.method!r}, {self.url!r})>"


class Response:
    """An answer: its head at once, and its body as it is read. `headers` know names in any case."""

    def __init__(self, request, status, reason, headers, body):
        self.request, self.status_code, self.reason_phrase, self.headers = request, status, reason, headers
        self._body, self._content = body, None

    @property
    def content(self):
        if self._content is None:
            raise RuntimeError("the answer is a stream, which has to be read first")
        return self._content

    @property
    def text(self):
        return self.content.decode("utf-8", "replace")

    def json(self):
        return json.loads(self.content)

    @property
    def url(self):
        return self.request.url

    @property
    def is_success(self):
        return 200 <= self.status_code < 300

    def iter_bytes(self):
        """The body piece by piece, as it comes: an iterator, or an asynchronous one of an asynchronous client."""
        return self._body.pieces()

    def read(self):
        if self._content is None:
            taken = Taken()
            try:
                for piece in self.iter_bytes():
                    taken.add(piece)
            finally:
                self.close()
            self._content = taken.content()
        return self._content

    async def aread(self):
        if self._content is None:
            taken = Taken()
            try:
                async for piece in self.iter_bytes():
                    taken.add(piece)
            finally:
                await self.aclose()
            self._content = taken.content()
        return self._content

    def close(self):
        self._body.close()

    async def aclose(self):
        await self._body.close()

    def __repr__(self):
        return f"<Response [{self.status_code} {self.reason_phrase}]>"


class Taken:
    """Pieces of an answer up to the limit."""

    def __init__(self):
        self._pieces, self._left = [], MAX_ANSWER

    def add(self, piece):
        self._left -= len(piece)
        if self._left < 0:
            raise AnswerTooLong("the answer", MAX_ANSWER)
        self._pieces.append(piece)

    def content(self):
        return b"".join(self._pieces)


class _Body:
    def __init__(self, connection, answer):
        self._connection, self._answer = connection, answer

    def pieces(self):
        while piece := self._answer.read1(_PIECE):
            yield piece
        if self._answer.length:  # http.client says nothing of what is missing
            raise http.client.IncompleteRead(b"", self._answer.length)

    def close(self):
        self._answer.close()
        self._connection.close()


def send(request):
    """Sends the request, and waits for the head of the answer."""
    kind = http.client.HTTPSConnection if request.is_https else http.client.HTTPConnection
    connection = kind(request.host, request.port, timeout=request.timeout.connect)
    try:
        connection.connect()
        connection.sock.settimeout(request.timeout.read)
        connection.request(request.method, request.target, request.content, request.headers)
        answer = connection.getresponse()
    except BaseException:
        connection.close()
        raise
    return Response(request, answer.status, answer.reason, answer.headers, _Body(connection, answer))
