//! One request to a worker, on a connection of its own.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::GENEROUS;

/// The body of a good answer.
pub(crate) fn get(address: SocketAddr, path: &str) -> String {
    let answer = answer(address, path);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{path}: no head in {answer:?}"));
    assert!(head.starts_with("HTTP/1.1 200"), "{path}: {answer:?}");
    body.to_owned()
}

/// The whole answer, as it came.
pub(crate) fn answer(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("connect");
    stream.set_read_timeout(Some(GENEROUS)).expect("set a timeout");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("write");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("read");
    answer
}
