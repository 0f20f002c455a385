#!/usr/bin/env python3
"""asyncio.start_server, which binds its port itself."""

import asyncio
import os

VERSION = "v1"
LINE = f"{VERSION} {os.environ['ROLLOUT_SLOT']} {os.getpid()} -"


async def answer(reader, writer):
    try:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(LINE)}\r\nConnection: close\r\n\r\n"
        writer.write((head + LINE).encode())
        await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    writer.close()


async def main():
    server = await asyncio.start_server(answer, os.environ["HOST"], int(os.environ["PORT"]))
    async with server:
        await server.serve_forever()


asyncio.run(main())
