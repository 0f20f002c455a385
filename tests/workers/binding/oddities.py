#!/usr/bin/env python3
"""A server that binds its port itself, and does odd things with sockets when it is asked to: GET /NAME answers "ok" or what
was not as it should be."""

import errno
import fcntl
import os
import socket
import statistics
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

VERSION = "v1"
PORT = int(os.environ["PORT"])


def bound(*options, port=PORT, blocking=True, family=socket.AF_INET, host="127.0.0.1"):
    made = socket.socket(family)
    made.setblocking(blocking)
    for option in options:
        made.setsockopt(*option)
    made.bind((host, port))
    return made


def expect(found, wanted):
    if found != wanted:
        raise AssertionError(f"{found!r}, not {wanted!r}")


def again():
    """Binding a second and a third time while the first is open, as servers with a socket for each thread do."""
    share = (socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sockets = [bound(), bound(share), bound(share)]
    for made in sockets:
        made.listen(1)
        expect(made.getsockname()[1], PORT)
        made.close()


def fork():
    read, write = os.pipe()
    if os.fork() == 0:
        try:
            bound().listen(1)
            os.write(write, b"ok")
        finally:
            os._exit(0)
    os.wait()
    expect(os.read(read, 10), b"ok")
    os.close(read)
    os.close(write)


def grandchild():
    script = f"import socket; s = socket.socket(); s.bind(('127.0.0.1', {PORT})); s.listen(1); print('ok')"
    said = subprocess.run(["/bin/sh", "-c", '"$0" -c "$1"; :', sys.executable, script], capture_output=True, check=True)
    expect(said.stdout, b"ok\n")


def shutdown():
    for how in (socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR):
        with bound() as made:
            made.listen(1)
            made.shutdown(how)
    pair = socket.socketpair()
    pair[0].shutdown(socket.SHUT_RDWR)
    expect(pair[1].recv(1), b"")


def options():
    """What a program sets before it binds is so afterwards, and close-on-exec and O_NONBLOCK are as they were."""
    wanted = [
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 77),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 7),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    ]
    with bound(*wanted, blocking=False) as made:
        for level, name, value in wanted:
            expect(made.getsockopt(level, name), value)
        expect(fcntl.fcntl(made, fcntl.F_GETFL) & os.O_NONBLOCK, os.O_NONBLOCK)
        expect(fcntl.fcntl(made, fcntl.F_GETFD) & fcntl.FD_CLOEXEC, fcntl.FD_CLOEXEC)
    made = socket.socket()
    made.set_inheritable(True)
    made.bind(("127.0.0.1", PORT))
    expect(fcntl.fcntl(made, fcntl.F_GETFD) & fcntl.FD_CLOEXEC, 0)
    expect(fcntl.fcntl(made, fcntl.F_GETFL) & os.O_NONBLOCK, 0)
    expect(made.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE), 7200)
    made.close()


def others():
    """What is none of the service's sockets is left alone."""
    with bound(port=0) as made:
        made.listen(7)
        port = made.getsockname()[1]
        assert port != PORT
        with socket.create_connection(("127.0.0.1", port)) as client, made.accept()[0] as served:
            served.sendall(b"x")
            expect(client.recv(1), b"x")
        try:
            bound(port=port)
        except OSError as error:
            expect(error.errno, errno.EADDRINUSE)
        else:
            raise AssertionError("bound twice")
        made.shutdown(socket.SHUT_RDWR)
        try:
            socket.create_connection(("127.0.0.1", port))
        except OSError as error:
            expect(error.errno, errno.ECONNREFUSED)
        else:
            raise AssertionError("not shut down")
    with socket.socket(type=socket.SOCK_DGRAM) as packets:
        packets.bind(("127.0.0.1", PORT))
        expect(packets.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE), socket.SOCK_DGRAM)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"own-{os.getpid()}.sock")
        made.listen()
        os.remove(f"own-{os.getpid()}.sock")
    try:
        socket.socket().bind(("192.0.2.1", 1))
    except OSError:
        pass
    else:
        raise AssertionError("bound to an address of nobody")


def families():
    """The port is the listener's in each family."""
    for family, host in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::"), (socket.AF_INET6, "::1")):
        with bound(family=family, host=host) as made:
            made.listen(1)
            expect(made.getsockname()[1], PORT)


def cost():
    """The median time of one bind() in microseconds: of the service's port, and of another."""

    def microseconds(port):
        def once():
            with socket.socket() as made:
                begin = time.perf_counter()
                made.bind(("127.0.0.1", port))
                return (time.perf_counter() - begin) * 1e6

        return statistics.median(once() for _ in range(200))

    return f"{microseconds(PORT):.0f} {microseconds(0):.0f}"


ODDITIES = [again, fork, grandchild, shutdown, options, others, families, cost]


class Answers(BaseHTTPRequestHandler):
    def do_GET(self):
        named = {oddity.__name__: oddity for oddity in ODDITIES}.get(self.path[1:])
        try:
            line = (named() or "ok") if named else f"{VERSION} {os.environ['ROLLOUT_SLOT']} {os.getpid()} -"
        except Exception as error:
            line = f"{type(error).__name__}: {error}"
        self.send_response(200)
        self.send_header("Content-Length", str(len(line)))
        self.end_headers()
        self.wfile.write(line.encode())

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", PORT), Answers).serve_forever()
