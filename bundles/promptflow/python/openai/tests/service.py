"""A service that speaks OpenAI's API on loopback. It answers as a test says, and keeps what it was asked."""

import base64
import contextlib
import http.server
import json
import os
import pathlib
import struct
import sys
import threading
import unittest
import unittest.mock

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "src"))

MESSAGES = [{"role": "user", "content": "hé"}]
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
CHAT = {
    "id": "c1",
    "object": "chat.completion",
    "created": 1,
    "model": "m-1",
    "choices": [{
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": "höllo"},
        "content_filter_results": {"hate": {"filtered": False}},
    }],
    "usage": USAGE,
}  # fmt: skip
ERROR = {"error": {"message": "bad", "type": "t", "param": "p", "code": "c"}}


def chunk(**delta):
    choices = [{"index": 0, "delta": delta, "finish_reason": None}]
    return {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m-1", "choices": choices}


def events(*values):
    return "".join(f"data: {json.dumps(value, ensure_ascii=False)}\n\n" for value in values).encode()


class Asked:
    def __init__(self, handler, body):
        self.method, self.path = handler.command, handler.path
        self.headers = {name.lower(): value for name, value in handler.headers.items()}
        self.body = json.loads(body) if body else None


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], OSError):  # of a client that went away
            super().handle_error(request, client_address)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._answer(b"")

    def do_POST(self):
        self._answer(self.rfile.read(int(self.headers["content-length"])))

    def _answer(self, body):
        asked = Asked(self, body)
        self.server.asked.append(asked)
        with contextlib.suppress(OSError):  # a client that went away
            faults = self.server.faults
            (faults.pop(0) if faults else _usual)(self, asked)

    def whole(self, status, value, headers=()):
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"content-type": "application/json", "content-length": str(len(body)), **dict(headers)}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body)

    def stream(self, *pieces, is_whole=True):
        """Pieces one after the other. What is not whole ends where the pieces do."""
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for piece in pieces:
            self._piece(piece)
        if is_whole:
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.close_connection = True

    def stream_without_end(self, left):
        """Goes on until the client has closed the connection, and says so."""
        try:
            self.stream(is_whole=False)
            while True:
                self._piece(events(chunk(content="x")) * 100)
        except OSError:
            left.set()

    def _piece(self, piece):
        self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))

    def drop(self):
        self.close_connection = True


def _usual(handler, asked):
    path = asked.path.partition("?")[0]
    if path.endswith("/chat/completions") and asked.body.get("stream"):
        text = events(chunk(role="assistant", content=""), chunk(content="hé"), chunk(content="llo")) + b"data: [DONE]\n\n"
        # Not as the events are: in the middle of lines and characters.
        return handler.stream(*(text[start : start + 37] for start in range(0, len(text), 37)))
    if path.endswith("/chat/completions"):
        return handler.whole(200, CHAT, {"x-request-id": "req_1"})
    if path.endswith("/completions"):
        choice = {"index": 0, "finish_reason": "length", "text": "abc", "logprobs": None}
        return handler.whole(200, {"id": "t", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]})
    if path.endswith("/embeddings"):
        vector = [0.5, -1.25]
        if asked.body.get("encoding_format") == "base64":
            vector = base64.b64encode(struct.pack("<2f", *vector)).decode()
        data = [{"object": "embedding", "index": 0, "embedding": vector}]
        return handler.whole(200, {"object": "list", "model": "e", "data": data, "usage": {"prompt_tokens": 1, "total_tokens": 1}})
    if path.endswith("/models"):
        return handler.whole(200, {"object": "list", "data": [{"id": "m", "object": "model", "created": 1, "owned_by": "me"}]})
    handler.whole(404, ERROR)


def status(code, value=ERROR, **headers):
    """An answer in place of the usual one. Names of headers have _ for -."""
    return lambda handler, asked: handler.whole(code, value, {name.replace("_", "-"): text for name, text in headers.items()})


class ServiceTest(unittest.TestCase):
    """Each test has a service, an environment without OpenAI's variables, and no time to wait."""

    def setUp(self):
        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.asked, self.server.faults = [], []
        # Looks often whether it should stop.
        thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        self.addCleanup(self.server.server_close)
        self.addCleanup(thread.join)
        self.addCleanup(self.server.shutdown)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        kept = {name: value for name, value in os.environ.items() if "OPENAI" not in name}
        self.slept = []
        for patch in (
            unittest.mock.patch.dict(os.environ, kept, clear=True),
            unittest.mock.patch("time.sleep", self.slept.append),
            unittest.mock.patch("random.random", lambda: 0.0),
        ):
            patch.start()
            self.addCleanup(patch.stop)

    @property
    def asked(self):
        return self.server.asked

    def fail_with(self, *faults):
        self.server.faults.extend(faults)
