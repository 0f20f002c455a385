#!/usr/bin/env python3
"""A polite worker in Python, standard library only: what `examples/worker.rs` does, and why it does it, with asyncio.

`asyncio.start_server` is not used: its `close` can lose a connection that was accepted in the same moment, and it sets the
backlog of the inherited socket to 100. Reading the listening socket ourselves is not longer.
"""

import asyncio
import os
import signal
import socket
from urllib.parse import parse_qs, urlsplit

VERSION = "v1"

# How long an idle connection stays open after SIGTERM: longer than a round trip.
GRACE = float(os.environ.get("GRACE_MS", "1000")) / 1000
# How long to wait for the client's end of a connection after our last word.
LINGER = 2.0


def identity():
    version = os.environ.get("APP_VERSION", VERSION)
    return f"{version} {os.environ.get('ROLLOUT_SLOT', '-')} {os.getpid()} {os.environ.get('ROLLOUT_WORKER', '-')}"


class Worker:
    def __init__(self, lanes):
        self.loop = asyncio.get_running_loop()
        self.lanes = lanes
        self.connections = set()
        self.leaving = asyncio.Event()
        self.told_at = None

    async def run(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            self.loop.add_signal_handler(number, self.leave)
        for lane in self.lanes:
            # Shared with whoever else holds this socket; a blocking accept would stop everything.
            lane.setblocking(False)
            self.loop.add_reader(lane, self.accept, lane)
        notify("READY=1")
        await self.leaving.wait()
        while self.connections:
            await asyncio.wait(self.connections)

    def accept(self, lane):
        while True:
            try:
                connection, _ = lane.accept()
            except OSError:
                return  # nobody left in the queue, or no fd left for them
            task = self.loop.create_task(self.serve(connection))
            self.connections.add(task)
            task.add_done_callback(self.connections.discard)

    def leave(self):
        if self.leaving.is_set():
            return
        self.told_at = self.loop.time()
        for lane in self.lanes:
            # Only our share of it: the agent has its own and keeps the socket open.
            self.loop.remove_reader(lane)
            lane.close()
        self.leaving.set()

    async def serve(self, connection):
        connection.setblocking(False)
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader, writer = await asyncio.open_connection(sock=connection)
        try:
            keep = True
            while keep and (head := await self.next_request(reader)):
                keep = await Exchange(self, head, reader, writer).run()
            # Half of it: the client closes the other half. Closing both could answer its last bytes with a reset, and a
            # reset destroys the response on its way.
            writer.write_eof()
            await asyncio.wait_for(self.read_rest(reader), LINGER)
        except (OSError, EOFError, asyncio.LimitOverrunError, asyncio.TimeoutError):
            pass  # the client is gone, or has not gone in time
        finally:
            writer.close()

    async def next_request(self, reader):
        """The head of the next request; None when there is none and will be none."""
        idle_since = self.loop.time()
        request = self.loop.create_task(reader.readuntil(b"\r\n\r\n"))
        told = self.loop.create_task(self.leaving.wait())
        await asyncio.wait({request, told}, return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        if not request.done():
            # A response that began before SIGTERM did not say `Connection: close`: its client has the grace, too.
            open_until = max(idle_since, self.told_at) + GRACE
            await asyncio.wait({request}, timeout=open_until - self.loop.time())
        if not request.done():
            request.cancel()
            return None
        try:
            return request.result()
        except asyncio.IncompleteReadError:
            return None

    async def read_rest(self, reader):
        while await reader.read(4096):
            pass


class Exchange:
    """One request and its response."""

    def __init__(self, worker, head, reader, writer):
        lines = head.decode("latin-1").split("\r\n")
        self.worker, self.reader, self.writer = worker, reader, writer
        self.target = urlsplit(lines[0].split(" ")[1])
        self.fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        self.keep = self.fields.get("connection", "").lower() != "close"

    async def run(self):
        """Answers it. Whether the connection may carry another."""
        query = parse_qs(self.target.query)
        number = lambda name, otherwise: int(query.get(name, [otherwise])[0])
        body = await self.length_of_body()
        match self.target.path:
            case "/" | "/version":
                await self.send(200, f"{identity()}\n")
            case "/healthz":
                await self.send(200, "ok\n")
            case "/slow":
                await asyncio.sleep(number("ms", 2000) / 1000)
                await self.send(200, f"{identity()}\n")
            case "/upload":
                await self.send(200, f"{body} {identity()}\n")
            case "/stream":
                await self.stream(number("ms", 3000), number("every", 50))
            case path:
                await self.send(404, f"nothing at {path}\n")
        return self.keep

    async def length_of_body(self):
        length = left = int(self.fields.get("content-length", 0))
        while left:
            piece = await self.reader.read(min(left, 65536))
            if not piece:
                raise EOFError("the client left in the middle of its request")
            left -= len(piece)
        return length

    async def send(self, status, body):
        body = body.encode()
        self.head(status, f"content-length: {len(body)}")
        self.writer.write(body)
        await self.writer.drain()

    async def stream(self, ms, every):
        self.head(200, "transfer-encoding: chunked")
        for line in range(1, ms // every + 1):
            if line > 1:
                await asyncio.sleep(every / 1000)
            chunk = f"{line} {identity()}\n".encode()
            self.writer.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            await self.writer.drain()
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()

    def head(self, status, field):
        # The last moment at which the client can be told that the connection ends with this response.
        self.keep = self.keep and not self.worker.leaving.is_set()
        close = "" if self.keep else "connection: close\r\n"
        reason = {200: "OK", 404: "Not Found"}[status]
        self.writer.write(f"HTTP/1.1 {status} {reason}\r\n{field}\r\n{close}\r\n".encode())


def inherited():
    """The sockets of LISTEN_FDS, if LISTEN_PID says that they are ours."""
    count = int(os.environ.get("LISTEN_FDS", 0)) if os.environ.get("LISTEN_PID") == str(os.getpid()) else 0
    return [socket.socket(fileno=fd) for fd in range(3, 3 + count)]


def notify(state):
    """Tells the supervisor (systemd's protocol); does nothing without one."""
    path = os.environ.get("NOTIFY_SOCKET")
    if path:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.sendto(state.encode(), "\0" + path[1:] if path.startswith("@") else path)


async def main():
    lanes = inherited()
    if not lanes:
        lanes = [socket.create_server(("127.0.0.1", int(os.environ.get("PORT", 8080))), backlog=4096)]
        print("listening on {}:{}".format(*lanes[0].getsockname()), flush=True)
    await Worker(lanes).run()


asyncio.run(main())
