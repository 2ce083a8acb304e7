"""Sockets over a stand-in of `wasi:http` that answers at once."""

import asyncio
import contextlib
import socket
import unittest

import stand_in  # noqa: F401  (first: it makes the runner importable)
from stand_in import Err

from flowcell_runner import concurrency, exchanges

http = exchanges.http_types


class Thing:
    """Something of the host's, which is given back."""

    held = 0

    def __init__(self):
        Thing.held += 1

    def __enter__(self):
        return self

    def __exit__(self, *_):
        Thing.held -= 1


class Request:
    def __init__(self, headers):
        self.headers, self.sent = headers, b""

    def body(self):
        return Body(self)

    set_method = set_scheme = set_authority = lambda self, value: None

    def set_path_with_query(self, path):
        self.path = path


class Body(Thing):
    def __init__(self, request):
        super().__init__()
        self.request = request

    def write(self):
        return Writer(self.request)

    @staticmethod
    def finish(body, trailers):
        body.__exit__()


class Writer(Thing):
    def __init__(self, request):
        super().__init__()
        self.request = request

    def blocking_write_and_flush(self, data):
        self.request.sent += data


class Answer(Thing):
    """What the host has for one request: its future, head, body and stream."""

    def __init__(self, headers, pieces):
        super().__init__()
        self._headers, self._pieces = headers, list(pieces)

    def get(self):
        ok = type("Ok", (), {"value": Head(self._headers, self._pieces)})
        return type("Got", (), {"value": ok})


class Head(Thing):
    def __init__(self, headers, pieces):
        super().__init__()
        self._headers, self._pieces = headers, pieces

    def status(self):
        return 200

    @contextlib.contextmanager
    def headers(self):
        yield type("Fields", (), {"entries": staticmethod(lambda: self._headers)})

    def consume(self):
        return Incoming(self._pieces)


class Incoming(Thing):
    def __init__(self, pieces):
        super().__init__()
        self._pieces = pieces

    def stream(self):
        return Incoming(self._pieces)

    def read(self, size):
        if not self._pieces:
            raise Err(exchanges.streams.StreamError_Closed())
        return self._pieces.pop(0)


class SocketsTest(unittest.TestCase):
    def setUp(self):
        self.requests, self.answers = [], []
        Thing.held = 0
        for module, name, value in (
            (http, "OutgoingRequest", Request),
            (http, "OutgoingBody", Body),
            (http, "Fields", type("Fields", (), {"from_list": staticmethod(list)})),
            (exchanges.outgoing_handler, "handle", self.handle),
        ):
            self.addCleanup(setattr, module, name, getattr(module, name))
            setattr(module, name, value)

    def handle(self, request, options):
        self.requests.append(request)
        return Answer(*self.answers.pop(0))

    def answer(self, *pieces, **headers):
        self.answers.append(([(name.replace("_", "-"), value) for name, value in headers.items()], pieces))

    def read_to_the_end(self, request):
        async def read():
            reader, writer = await asyncio.open_connection("service.example", 80)
            writer.write(request)
            # Were the end not seen, this would wait for ever.
            text = await asyncio.wait_for(reader.read(), 60)
            writer.close()
            return text

        return concurrency.wait_for(read())

    def test_the_connection_ends_with_the_answer_where_either_side_said_so(self):
        for request, headers in (
            (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", {}),
            (b"GET / HTTP/1.1\r\nHost: x\r\nconnection: te, Close\r\n\r\n", {}),
            (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", {"connection": b"close"}),
        ):
            self.answer(b"ab", b"c", **headers)
            self.assertEqual(
                self.read_to_the_end(request),
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
            )
            self.answer(b"abc", content_length=b"3", **headers)
            self.assertEqual(
                self.read_to_the_end(request), b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nabc"
            )
            self.answer(content_length=b"0", **headers)
            self.assertTrue(self.read_to_the_end(request).endswith(b"\r\n\r\n"))
        self.assertEqual(Thing.held, 0)

    def test_an_answer_to_http_1_0_is_what_comes_until_the_end(self):
        self.answer(b"ab", b"c")
        self.assertEqual(self.read_to_the_end(b"GET / HTTP/1.0\r\n\r\n"), b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nabc")
        self.assertEqual(Thing.held, 0)

    def test_an_answer_that_is_shorter_than_it_said_ends(self):
        self.answer(b"ab", content_length=b"3")
        text = self.read_to_the_end(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertEqual(text, b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab")

    def test_otherwise_the_connection_stays(self):
        sock = socket.create_connection(("service.example", 80))
        sock.settimeout(0)
        for body in (b"a", b"b"):
            self.answer(body, content_length=b"1")
            sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nhi")
            text = sock.recv(1000) + sock.recv(1000)
            self.assertEqual(text, b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n" + body)
            with self.assertRaises(BlockingIOError):
                sock.recv(1000)
        sock.close()
        self.assertEqual([request.sent for request in self.requests], [b"hi", b"hi"])
        self.assertEqual(Thing.held, 0)

    def test_clients_of_openai_hold_nothing(self):
        import openai

        settings = {"api_key": "k", "base_url": "http://service.example/v1", "max_retries": 0}
        asked = {"model": "m", "messages": []}
        events = [b'data: {"id":"a","choices":[]}\n\n', b'data: {"id":"b","choices":[]}\n\n', b"data: [DONE]\n\n"]

        async def ask():
            client = openai.AsyncOpenAI(**settings)
            answers = await asyncio.gather(*(client.chat.completions.create(**asked) for _ in range(3)))
            async with await client.chat.completions.create(stream=True, **asked) as stream:
                return [answer.id for answer in answers], (await anext(stream)).id

        for _ in range(3):
            self.answer(b'{"id":', b'"x"}')
        self.answer(*events)
        self.assertEqual(concurrency.wait_for(ask()), (["x", "x", "x"], "a"))
        client = openai.OpenAI(**settings)
        self.answer(b'{"id":"y"}', content_length=b"10")
        self.answer(*events)
        self.assertEqual(client.chat.completions.create(**asked).id, "y")
        self.assertEqual([part.id for part in client.chat.completions.create(stream=True, **asked)], ["a", "b"])
        self.assertEqual(Thing.held, 0)

    def test_what_the_connection_is_told_stays_here(self):
        self.answer(b"", content_length=b"0")
        self.read_to_the_end(b"GET /a?b HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Own: 1\r\n\r\n")
        (request,) = self.requests
        self.assertEqual((request.path, request.headers), ("/a?b", [("x-own", b"1")]))


if __name__ == "__main__":
    unittest.main()
