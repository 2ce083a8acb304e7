"""Sockets where the only way out is HTTP.

Clients write HTTP/1.1 to what they take for a socket, and read answers from it: `http.client`, urllib, requests, httpx and
asyncio's streams go their usual way. A socket has nothing of the host's between an answer and the next request, so an instance
with idle connections can be stored.
"""

import errno
import io
import ipaddress
import itertools
import select
import selectors
import socket
import time

from . import exchanges

# The first bytes of a connection that speaks TLS; the name that is expected and a line break follow.
MARK = b"\0flowcell-tls "
# Numbers that no descriptor of WASI's has.
_FIRST_NUMBER = 1 << 20
_numbers = itertools.count(_FIRST_NUMBER)
_open = {}

# Names get addresses that nobody has (RFC 1112, 4), under which they are found again: the host looks the names up.
_FIRST_ADDRESS = int(ipaddress.ip_address("240.0.0.1"))
_MAX_NAMES = 10_000
_addresses, _names = {}, {}

_LONG = 3600.0


def _address_of(host):
    try:
        return str(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        pass
    if host not in _addresses:
        if len(_addresses) >= _MAX_NAMES:
            raise socket.gaierror(socket.EAI_MEMORY, f"more than {_MAX_NAMES} names were looked up")
        address = str(ipaddress.ip_address(_FIRST_ADDRESS + len(_addresses)))
        _addresses[host], _names[address] = address, host
    return _addresses[host]


def _getaddrinfo(host, port, family=0, type=0, proto=0, flags=0):
    if isinstance(host, bytes):
        host = host.decode()
    if not host:
        raise socket.gaierror(socket.EAI_NONAME, "there are no servers here")
    port = {"http": 80, "https": 443}.get(port, port)
    address = _address_of(host)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    place = (address, int(port or 0), 0, 0) if family == socket.AF_INET6 else (address, int(port or 0))
    return [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", place)]


class Socket:
    """In the place of `socket.socket`."""

    def __init__(self, family=-1, type=-1, proto=-1, fileno=None):
        if fileno is not None:
            raise OSError(errno.EOPNOTSUPP, "there are no descriptors of sockets here")
        self.family = socket.AF_INET if family in (-1, None) else family
        self.type = socket.SOCK_STREAM if type in (-1, None) else type
        self.proto = 0 if proto in (-1, None) else proto
        self._timeout, self._number, self._files = socket.getdefaulttimeout(), next(_numbers), 0
        self._peer = self._exchange = None
        self._out, self._in = bytearray(), bytearray()
        self._tls = self._at_end = self._is_closed = False
        _open[self._number] = self

    def _hand_over(self, other):
        """Gives all that it is to another one."""
        for name in ("_peer", "_exchange", "_out", "_in", "_tls", "_timeout"):
            setattr(other, name, getattr(self, name))
        self._exchange = None
        self._is_closed = True
        _open.pop(self._number, None)

    # Connecting.

    def connect(self, address):
        if self.type != socket.SOCK_STREAM:
            raise OSError(errno.EPROTONOSUPPORT, "only HTTP is spoken here")
        host, port = address[:2]
        self._peer = (_names.get(host, host), port)

    def connect_ex(self, address):
        self.connect(address)
        return 0

    def _refuse(self, *args, **kwargs):
        raise OSError(errno.EOPNOTSUPP, "there are no servers here: a session's way out is HTTP")

    bind = listen = accept = sendto = recvfrom = recvfrom_into = sendmsg = recvmsg = detach = _refuse

    # Sending.

    def send(self, data, flags=0):
        self._check()
        data = bytes(data)
        self._out += data
        while self._out:
            if self._out.startswith(MARK[: len(self._out)]):
                end = self._out.find(b"\n")
                if end < 0:
                    break
                name = self._out[len(MARK) : end].decode()
                self._peer, self._tls = (name or self._peer[0], self._peer[1]), True
                del self._out[: end + 1]
                continue
            if self._exchange is not None and not self._exchange.is_sent:
                self._out[:] = self._exchange.feed(bytes(self._out))
                continue
            end = self._out.find(b"\r\n\r\n")
            if end < 0:
                if len(self._out) > exchanges.MAX_HEAD:
                    raise OSError(errno.EMSGSIZE, "this is no request of HTTP")
                break
            head = bytes(self._out[:end])
            del self._out[: end + 4]
            # What was not read of the last answer nobody will read.
            self._drop_exchange()
            self._in.clear()
            self._exchange, self._at_end = self._begin(head), False
        return len(data)

    def _begin(self, head):
        host, port = self._peer
        host = f"[{host}]" if ":" in host else host
        authority = host if port == (443 if self._tls else 80) else f"{host}:{port}"
        try:
            return exchanges.Exchange(head, authority, self._tls)
        except (ValueError, IndexError) as error:
            raise OSError(errno.EPROTONOSUPPORT, f"only HTTP/1.1 is spoken here: {error}") from None

    def sendall(self, data, flags=0):
        view = memoryview(data).cast("B")
        self.send(view)

    def sendfile(self, file, offset=0, count=None):
        file.seek(offset)
        data = file.read() if count is None else file.read(count)
        self.sendall(data)
        return len(data)

    # Receiving.

    def _more(self):
        """Takes in what is there; whether something can be read now."""
        while not self._in and self._exchange is not None and not self._at_end:
            data = self._exchange.read()
            if data == b"":
                return False
            self._in += data or b""
            if self._exchange.is_over:
                self._at_end = self._exchange.closes
                self._drop_exchange()
        return bool(self._in) or self._at_end or self._is_closed

    def _wait(self):
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        while not self._more():
            if self._timeout == 0:
                raise BlockingIOError(errno.EAGAIN, "there is nothing to read yet")
            if self._exchange is None:
                # Nobody was asked anything: a server would close the connection some day.
                self._at_end = True
                return
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError("timed out")
            exchanges.wait([self._exchange.pollable()], left)

    def recv(self, bufsize, flags=0):
        self._check()
        self._wait()
        data = bytes(self._in[:bufsize])
        if not flags & getattr(socket, "MSG_PEEK", 2):
            del self._in[:bufsize]
        return data

    def recv_into(self, buffer, nbytes=0, flags=0):
        view = memoryview(buffer).cast("B")
        data = self.recv(nbytes or len(view), flags)
        view[: len(data)] = data
        return len(data)

    def makefile(self, mode="r", buffering=None, *, encoding=None, errors=None, newline=None):
        self._files += 1
        raw = _File(self, mode)
        if buffering == 0:
            return raw
        size = io.DEFAULT_BUFFER_SIZE if buffering in (None, -1) else buffering
        if "r" in mode and "w" in mode:
            file = io.BufferedRWPair(raw, raw, size)
        else:
            file = io.BufferedReader(raw, size) if "w" not in mode else io.BufferedWriter(raw, size)
        return file if "b" in mode else io.TextIOWrapper(file, encoding, errors, newline)

    # All else.

    def _check(self):
        if self._is_closed:
            raise OSError(errno.EBADF, "the socket is closed")
        if self._peer is None:
            raise OSError(errno.ENOTCONN, "the socket is not connected")

    def fileno(self):
        return -1 if self._is_closed else self._number

    def close(self):
        self._is_closed = True
        if self._files <= 0:
            self._really_close()

    def _really_close(self):
        _open.pop(self._number, None)
        self._drop_exchange()

    def _drop_exchange(self):
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.close()

    def _file_closed(self):
        self._files -= 1
        if self._is_closed and self._files <= 0:
            self._really_close()

    def shutdown(self, how):
        if how != socket.SHUT_WR:
            self._at_end = True

    def settimeout(self, value):
        self._timeout = None if value is None else float(value)

    def gettimeout(self):
        return self._timeout

    timeout = property(gettimeout)

    def setblocking(self, flag):
        self._timeout = None if flag else 0.0

    def getblocking(self):
        return self._timeout != 0

    def getpeername(self):
        if self._peer is None:
            raise OSError(errno.ENOTCONN, "the socket is not connected")
        return (_addresses.get(self._peer[0], self._peer[0]), self._peer[1])

    def getsockname(self):
        return ("240.0.0.0", 0)

    def getsockopt(self, level, name, buflen=None):
        return self.type if name == socket.SO_TYPE else 0

    def setsockopt(self, *args):
        pass

    def get_inheritable(self):
        return False

    def set_inheritable(self, inheritable):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.close()

    def __del__(self):
        self._really_close()


class _File(io.RawIOBase):
    def __init__(self, sock, mode):
        self._sock, self._mode = sock, mode

    def readable(self):
        return "r" in self._mode or "w" not in self._mode

    def writable(self):
        return "w" in self._mode

    def readinto(self, buffer):
        # It outlives the socket's own end.
        is_closed, self._sock._is_closed = self._sock._is_closed, False
        try:
            return self._sock.recv_into(buffer)
        finally:
            self._sock._is_closed = is_closed

    def write(self, data):
        return self._sock.send(data)

    def close(self):
        if not self.closed:
            super().close()
            self._sock._file_closed()

    def fileno(self):
        return self._sock.fileno()


class Selector(selectors._BaseSelectorImpl):
    """Waits for sockets of this module, and for time."""

    def select(self, timeout=None):
        keys = list(self._fd_to_key.values())
        ready = _ready(keys)
        if not ready and (timeout is None or timeout > 0):
            sockets = [_open.get(key.fd) for key in keys if key.events & selectors.EVENT_READ]
            waiting = [sock._exchange.pollable() for sock in sockets if sock is not None and sock._exchange is not None]
            # With nothing to wait for, only the host can end it.
            exchanges.wait(waiting, _LONG if timeout is None and not waiting else timeout)
            ready = _ready(keys)
        return ready


def _ready(keys):
    ready = []
    for key in keys:
        sock, events = _open.get(key.fd), 0
        if sock is None:
            continue
        if key.events & selectors.EVENT_READ and _is_readable(sock):
            events |= selectors.EVENT_READ
        events |= key.events & selectors.EVENT_WRITE
        if events:
            ready.append((key, events))
    return ready


def _is_readable(sock):
    try:
        return sock._more()
    except OSError as error:
        # Whoever reads gets it.
        sock._exchange = _Failed(error)
        return True


class _Failed:
    """An exchange that came to nothing."""

    is_over, is_sent = False, True

    def __init__(self, error):
        self.error = error

    def read(self):
        raise self.error

    def close(self):
        pass


_original_select = select.select


def _select(rlist, wlist, xlist, timeout=None):
    def found(things):
        return [(thing, _open.get(thing if isinstance(thing, int) else thing.fileno())) for thing in things]

    readers, writers = found(rlist), found(wlist)
    if not any(sock for _, sock in readers + writers):
        return _original_select(rlist, wlist, xlist, timeout)
    writable = [thing for thing, sock in writers if sock]
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        readable = [thing for thing, sock in readers if sock and _is_readable(sock)]
        left = None if deadline is None else deadline - time.monotonic()
        waiting = [sock._exchange.pollable() for _, sock in readers if sock and sock._exchange is not None]
        if readable or writable or not waiting or (left is not None and left <= 0):
            return readable, writable, []
        exchanges.wait(waiting, left)


def install():
    socket.socket = socket.SocketType = Socket
    socket.getaddrinfo = _getaddrinfo
    socket.gethostbyname = lambda host: _address_of(host)
    socket.has_ipv6 = True
    select.select = _select
    # What is found in its place is `select`.
    for name in ("poll", "epoll", "kqueue", "devpoll"):
        if hasattr(select, name):
            delattr(select, name)
    selectors.DefaultSelector = Selector
