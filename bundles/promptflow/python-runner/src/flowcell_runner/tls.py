"""The module `ssl`, where the host does TLS.

This Python has no OpenSSL. What begins with a mark, and the name that is expected, is asked by https: the host checks
certificates against the system's authorities, whatever a context here is told; there is no way to switch that off. What goes
through these classes is plain text on its way to the host.
"""

import enum
import socket
import sys

from .sockets import MARK, Socket

OPENSSL_VERSION = "OpenSSL 3.0.0 (in its place: the host's TLS)"
OPENSSL_VERSION_INFO, OPENSSL_VERSION_NUMBER = (3, 0, 0, 0, 0), 0x30000000
HAS_SNI = HAS_ALPN = HAS_TLSv1_2 = HAS_TLSv1_3 = HAS_NEVER_CHECK_COMMON_NAME = True
HAS_NPN = HAS_ECDH = HAS_SSLv2 = HAS_SSLv3 = HAS_TLSv1 = HAS_TLSv1_1 = HAS_PSK = False
CHANNEL_BINDING_TYPES = []
SOL_SOCKET, SO_TYPE, AF_INET, SOCK_STREAM = socket.SOL_SOCKET, socket.SO_TYPE, socket.AF_INET, socket.SOCK_STREAM


class TLSVersion(enum.IntEnum):
    MINIMUM_SUPPORTED, SSLv3, TLSv1, TLSv1_1, TLSv1_2, TLSv1_3, MAXIMUM_SUPPORTED = -2, 768, 769, 770, 771, 772, -1


class VerifyMode(enum.IntEnum):
    CERT_NONE, CERT_OPTIONAL, CERT_REQUIRED = 0, 1, 2


class VerifyFlags(enum.IntFlag):
    VERIFY_DEFAULT, VERIFY_CRL_CHECK_LEAF, VERIFY_CRL_CHECK_CHAIN, VERIFY_X509_STRICT = 0, 4, 12, 32
    VERIFY_ALLOW_PROXY_CERTS, VERIFY_X509_TRUSTED_FIRST, VERIFY_X509_PARTIAL_CHAIN = 64, 32768, 524288


class Options(enum.IntFlag):
    OP_ALL, OP_NO_SSLv2, OP_NO_SSLv3, OP_NO_TLSv1, OP_NO_TLSv1_1 = 0x80000050, 0, 1 << 25, 1 << 26, 1 << 28
    OP_NO_TLSv1_2, OP_NO_TLSv1_3, OP_NO_COMPRESSION, OP_NO_TICKET = 1 << 27, 1 << 29, 1 << 17, 1 << 14
    OP_CIPHER_SERVER_PREFERENCE, OP_SINGLE_DH_USE, OP_SINGLE_ECDH_USE, OP_NO_RENEGOTIATION = 1 << 22, 0, 0, 1 << 30
    OP_ENABLE_MIDDLEBOX_COMPAT, OP_IGNORE_UNEXPECTED_EOF, OP_LEGACY_SERVER_CONNECT = 1 << 20, 1 << 7, 4


class _SSLMethod(enum.IntEnum):
    PROTOCOL_TLS, PROTOCOL_TLS_CLIENT, PROTOCOL_TLS_SERVER, PROTOCOL_TLSv1, PROTOCOL_TLSv1_1, PROTOCOL_TLSv1_2 = 2, 16, 17, 3, 4, 5


class Purpose(enum.Enum):
    SERVER_AUTH, CLIENT_AUTH = "1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"


for _kind in (VerifyMode, VerifyFlags, Options, _SSLMethod):
    globals().update(_kind.__members__)
PROTOCOL_SSLv23 = _SSLMethod.PROTOCOL_TLS


class SSLError(OSError):
    library = reason = None

    def __str__(self):
        return str(self.strerror or (self.args and self.args[-1]) or "")


class SSLZeroReturnError(SSLError): ...


class SSLWantReadError(SSLError): ...


class SSLWantWriteError(SSLError): ...


class SSLSyscallError(SSLError): ...


class SSLEOFError(SSLError): ...


class SSLCertVerificationError(SSLError, ValueError):
    verify_code, verify_message = 0, ""


CertificateError = SSLCertVerificationError


class MemoryBIO:
    def __init__(self):
        self._bytes, self._at_end = bytearray(), False

    @property
    def pending(self):
        return len(self._bytes)

    @property
    def eof(self):
        return self._at_end and not self._bytes

    def read(self, n=-1):
        n = len(self._bytes) if n < 0 else n
        taken = bytes(self._bytes[:n])
        del self._bytes[:n]
        return taken

    def write(self, buf):
        self._bytes += buf
        return memoryview(buf).nbytes

    def write_eof(self):
        self._at_end = True


class _Peer:
    """What is asked of a TLS connection, whichever way it is spoken."""

    session = None
    session_reused = False
    server_side = False

    def getpeercert(self, binary_form=False):
        return b"" if binary_form else {}

    def cipher(self):
        return ("host", "TLSv1.3", 256)

    def version(self):
        return "TLSv1.3"

    def selected_alpn_protocol(self):
        return "http/1.1"

    def selected_npn_protocol(self):
        return None

    def shared_ciphers(self):
        return None

    def compression(self):
        return None

    def get_channel_binding(self, cb_type="tls-unique"):
        return None

    def get_verified_chain(self):
        return []

    def get_unverified_chain(self):
        return []


class SSLObject(_Peer):
    def __init__(self, context, incoming, outgoing, server_hostname):
        self.context, self.server_hostname = context, server_hostname
        self._incoming, self._outgoing, self._is_marked = incoming, outgoing, False

    def do_handshake(self):
        if not self._is_marked:
            self._is_marked = True
            self._outgoing.write(_mark(self.server_hostname))

    def read(self, len=1024, buffer=None):
        if not self._incoming.pending:
            if self._incoming.eof:
                return 0 if buffer is not None else b""
            raise SSLWantReadError(2, "there is nothing to read yet")
        data = self._incoming.read(len)
        if buffer is None:
            return data
        buffer[: data.__len__()] = data
        return data.__len__()

    def write(self, data):
        return self._outgoing.write(data)

    def pending(self):
        return self._incoming.pending

    def unwrap(self):
        return None

    shutdown = unwrap


class SSLSocket(_Peer, Socket):
    """Made of another socket, which it takes the place of."""

    # Some ask it what Python's own has beside the socket.
    _sslobj = property(lambda self: self)

    @classmethod
    def _over(cls, sock, context, server_hostname):
        self = cls(sock.family, sock.type, sock.proto)
        sock._hand_over(self)
        self.context, self.server_hostname = context, server_hostname
        if self._peer is not None:
            self.do_handshake()
        return self

    def connect(self, address):
        super().connect(address)
        self.do_handshake()

    def do_handshake(self, block=False):
        self.sendall(_mark(self.server_hostname))

    def read(self, len=1024, buffer=None):
        return self.recv(len) if buffer is None else self.recv_into(buffer, len)

    def write(self, data):
        return self.send(data)

    def pending(self):
        return 0

    def unwrap(self):
        return self


def _mark(name):
    return MARK + (name or "").encode("idna") + b"\n"


class SSLContext:
    sslsocket_class, sslobject_class = SSLSocket, SSLObject
    minimum_version, maximum_version = TLSVersion.TLSv1_2, TLSVersion.MAXIMUM_SUPPORTED
    keylog_filename = post_handshake_auth = sni_callback = None
    verify_flags = VerifyFlags.VERIFY_X509_TRUSTED_FIRST
    options = Options.OP_ALL | Options.OP_NO_SSLv3
    hostname_checks_common_name = False
    security_level = 2

    def __init__(self, protocol=None):
        self.protocol = _SSLMethod.PROTOCOL_TLS if protocol is None else protocol
        self.check_hostname = self.protocol == _SSLMethod.PROTOCOL_TLS_CLIENT
        self.verify_mode = VerifyMode.CERT_REQUIRED if self.check_hostname else VerifyMode.CERT_NONE

    def wrap_socket(
        self, sock, server_side=False, do_handshake_on_connect=True, suppress_ragged_eofs=True, server_hostname=None, session=None
    ):
        if server_side:
            raise SSLError("there are no servers here")
        return self.sslsocket_class._over(sock, self, server_hostname)

    def wrap_bio(self, incoming, outgoing, server_side=False, server_hostname=None, session=None):
        if server_side:
            raise SSLError("there are no servers here")
        return self.sslobject_class(self, incoming, outgoing, server_hostname)

    def load_cert_chain(self, certfile, keyfile=None, password=None):
        raise SSLError("the host's TLS shows no certificates of clients")

    def _is_the_hosts(self, *args, **kwargs):
        """Authorities, ciphers and protocols are the host's own."""

    load_verify_locations = load_default_certs = set_default_verify_paths = set_ciphers = _is_the_hosts
    set_alpn_protocols = set_npn_protocols = set_ecdh_curve = load_dh_params = _is_the_hosts

    def get_ca_certs(self, binary_form=False):
        return []

    def get_ciphers(self):
        return []

    def cert_store_stats(self):
        return {"x509": 0, "crl": 0, "x509_ca": 0}

    def session_stats(self):
        return {}


def create_default_context(purpose=Purpose.SERVER_AUTH, *, cafile=None, capath=None, cadata=None):
    return SSLContext(_SSLMethod.PROTOCOL_TLS_CLIENT)


def _create_unverified_context(*args, **kwargs):
    return SSLContext()


_create_default_https_context = create_default_context
_create_stdlib_context = _create_unverified_context


def get_default_verify_paths():
    import collections

    paths = collections.namedtuple("DefaultVerifyPaths", "cafile capath openssl_cafile_env openssl_cafile openssl_capath_env openssl_capath")
    return paths(None, None, "SSL_CERT_FILE", "", "SSL_CERT_DIR", "")


def RAND_bytes(n):
    import os

    return os.urandom(n)


def RAND_status():
    return True


def cert_time_to_seconds(cert_time):
    import calendar
    import time

    return calendar.timegm(time.strptime(cert_time, "%b %d %H:%M:%S %Y GMT"))


def install():
    """Before anything else asks for `ssl`: Python's own module has no library here."""
    sys.modules["ssl"] = sys.modules[__name__]


def get_server_certificate(*args, **kwargs):
    raise SSLError("certificates stay with the host")
