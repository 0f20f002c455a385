#!/usr/bin/env python3
"""The standard library's http.server, which binds its port itself, and does not catch SIGTERM."""

import os
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

VERSION = "v1"
LINE = f"{VERSION} {os.environ['ROLLOUT_SLOT']} {os.getpid()} -".encode()
HOST = os.environ["HOST"]


class Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6 if ":" in HOST else socket.AF_INET


class Answers(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(LINE)))
        self.end_headers()
        self.wfile.write(LINE)

    def log_message(self, *_):
        pass


Server((HOST, int(os.environ["PORT"])), Answers).serve_forever()
