#!/usr/bin/env node
// As anybody would write it: it binds its port itself, knows nothing of rollout and does not catch SIGTERM.
const http = require("http");

const VERSION = "v1";
const line = `${VERSION} ${process.env.ROLLOUT_SLOT} ${process.pid} -`;

http.createServer((request, response) => response.end(line)).listen(process.env.PORT, process.env.HOST);
