#!/usr/bin/env node
// A polite worker in Node.js, without packages: what `examples/worker.rs` does, and why it does it, in Node's terms.
//
// The one thing to know: since Node 19 `server.close()` of an HTTP server also closes idle keep-alive connections at once,
// and so loses the requests that are on their way on them. `leave` below shows what to do instead.
'use strict';

const http = require('node:http');
const net = require('node:net');

const VERSION = "v1";

const version = process.env.APP_VERSION || VERSION;
const identity = [version, process.env.ROLLOUT_SLOT || '-', process.pid, process.env.ROLLOUT_WORKER || '-'].join(' ');

// How long an idle connection stays open after SIGTERM: longer than a round trip.
const graceMs = Number(process.env.GRACE_MS || 1000);
// How long to wait for the client's end of a connection after our last word.
const lingerMs = 2000;
// listen(2) sets the backlog anew, also that of an inherited socket: do not shrink it to Node's 511.
const backlog = 4096;

let toldAt = null; // when SIGTERM came
const connections = new Map(); // socket → { busy, idleSince }
const servers = [];

function answer(request, response) {
  const url = new URL(request.url, 'http://localhost');
  const number = (name, otherwise) => Number(url.searchParams.get(name) || otherwise);
  switch (url.pathname) {
    case '/':
    case '/version':
      return send(response, 200, `${identity}\n`);
    case '/healthz':
      return send(response, 200, 'ok\n');
    case '/slow':
      return void setTimeout(() => send(response, 200, `${identity}\n`), number('ms', 2000));
    case '/upload': {
      let length = 0;
      request.on('data', (piece) => { length += piece.length; });
      return void request.on('end', () => send(response, 200, `${length} ${identity}\n`));
    }
    case '/stream':
      return stream(response, number('ms', 3000), number('every', 50));
    default:
      return send(response, 404, `nothing at ${url.pathname}\n`);
  }
}

function send(response, status, body) {
  head(response, status, { 'content-length': Buffer.byteLength(body) });
  response.end(body);
}

function stream(response, ms, every) {
  head(response, 200, {});
  const lines = Math.floor(ms / every);
  let sent = 0;
  const line = () => {
    if (sent === lines) {
      clearInterval(timer);
      response.end();
    } else {
      sent += 1;
      response.write(`${sent} ${identity}\n`);
    }
  };
  const timer = setInterval(line, every);
  response.on('close', () => clearInterval(timer));
  line();
}

// The last moment at which the client can be told that the connection ends with this response.
function head(response, status, fields) {
  if (toldAt !== null) response.setHeader('connection', 'close');
  response.writeHead(status, fields);
}

function serve(listen) {
  const server = http.createServer((request, response) => {
    const connection = connections.get(request.socket);
    connection.busy = true;
    response.on('close', () => {
      connection.busy = false;
      connection.idleSince = Date.now();
      // This response began before SIGTERM and did not say `Connection: close`: its client has the grace, too.
      if (toldAt !== null) closeWhenLongIdle(request.socket, connection);
    });
    answer(request, response);
  });
  // No idle connection is closed behind the client's back while we serve.
  server.keepAliveTimeout = 0;
  server.headersTimeout = 0;
  server.requestTimeout = 0;
  server.on('connection', (socket) => {
    const connection = { busy: false, idleSince: Date.now() };
    connections.set(socket, connection);
    socket.on('close', () => connections.delete(socket));
    socket.on('error', () => socket.destroy()); // the client is gone
    // Accepted in the moment of SIGTERM.
    if (toldAt !== null) closeWhenLongIdle(socket, connection);
  });
  // By position: Node ignores `backlog` beside `fd`.
  server.listen(listen, backlog, () => {
    const address = server.address();
    if (address && address.port) console.log(`listening on ${address.address}:${address.port}`);
  });
  servers.push(server);
}

function leave() {
  if (toldAt !== null) return;
  toldAt = Date.now();
  let open = servers.length;
  for (const server of servers) {
    // The close of net.Server, not of http.Server: it stops accepting, leaves the connections alone, and calls back when
    // the last of them has ended.
    net.Server.prototype.close.call(server, () => {
      open -= 1;
      if (open === 0) process.exit(0);
    });
  }
  for (const [socket, connection] of connections) closeWhenLongIdle(socket, connection);
}

function closeWhenLongIdle(socket, connection) {
  const openUntil = Math.max(connection.idleSince, toldAt) + graceMs;
  setTimeout(() => {
    if (connection.busy || socket.destroyed || connection.idleSince + graceMs > Date.now()) return;
    // Half of it: the client closes the other half. Closing both could answer its last bytes with a reset.
    socket.end();
    setTimeout(() => socket.destroy(), lingerMs).unref();
  }, Math.max(0, openUntil - Date.now()) + 1);
}

process.on('SIGTERM', leave);
process.on('SIGINT', leave);

const inherited = process.env.LISTEN_PID === String(process.pid) ? Number(process.env.LISTEN_FDS) : 0;
for (let fd = 3; fd < 3 + inherited; fd += 1) serve({ fd });
if (inherited === 0) serve({ host: '127.0.0.1', port: Number(process.env.PORT || 8080) });
