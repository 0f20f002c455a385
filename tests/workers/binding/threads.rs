//! A server that binds its port itself, with the standard library alone. Linked statically, so that nothing but the kernel
//! is between it and its `bind`.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};

const VERSION: &str = "v1";

fn main() {
    let variable = |name| std::env::var(name).expect(name);
    let port: u16 = variable("PORT").parse().expect("a port");
    let host = variable("HOST");
    let line = format!("{VERSION} {} {} -", variable("ROLLOUT_SLOT"), std::process::id());
    let listener = TcpListener::bind((host.as_str(), port)).expect("bind");
    for connection in listener.incoming().flatten() {
        let line = line.clone();
        std::thread::spawn(move || answer(connection, &line));
    }
}

fn answer(connection: TcpStream, line: &str) -> Option<()> {
    let mut lines = BufReader::new(&connection).lines();
    while !lines.next()?.ok()?.is_empty() {}
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", line.len());
    (&connection).write_all((head + line).as_bytes()).ok()
}
