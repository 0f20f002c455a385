//! Programs that bind their port themselves, unmodified: several workers on one port, rollouts without a failed request.

#[expect(dead_code, reason = "no test uses all of it")]
mod deploy;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use deploy::load::mix::Mix;
use deploy::{CALM, Language, Scene, put_in_place, say, with_version};

const ROLLOUTS: usize = 3;

const THREE: &str = "workers: 3";
const ROOT: &str = "readiness: {http: /, timeout: 30s}";
const INTERCEPT: &str = "handover: intercept";

/// Where programs listen, and what they say to get there.
const FAMILIES: [(&str, &str); 4] =
    [("127.0.0.1:0", "0.0.0.0"), ("[::1]:0", "::1"), ("[::]:0", "::"), ("127.0.0.1:0", "::")];

/// These programs end their connections with each answer, or keep them and do not know how to leave them: new ones are what
/// they can be asked for.
fn new_connections() -> Mix {
    Mix { fresh: 100.0, ..Mix::default() }
}

fn script(source: &'static str) -> impl Fn(&Path, &str) {
    move |to, version| put_in_place(with_version(&format!("tests/workers/binding/{source}"), version), to)
}

/// The server in Rust, linked statically.
fn linked(to: &Path, version: &str) {
    let source = to.with_extension("rs");
    std::fs::write(&source, with_version("tests/workers/binding/threads.rs", version)).expect("write");
    let unfinished = to.with_extension("unfinished");
    let mut compiler = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    compiler.args(["--edition", "2024", "-C", "target-feature=+crt-static", "-o"]).arg(&unfinished).arg(&source);
    assert!(compiler.status().expect("run rustc").success());
    std::fs::rename(unfinished, to).expect("put it in place");
}

fn replaced_in_every_family(name: &'static str, release: &dyn Fn(&Path, &str), handover: &str) {
    for (listen, host) in FAMILIES {
        let (listen_line, env) = (format!("listen: ['{listen}']"), format!("env: {{HOST: '{host}'}}"));
        say(&format!("{name}: {listen}, binds {host}"));
        let lines = [THREE, &listen_line, &env, ROOT, CALM, handover];
        let mut scene = Scene::start_with(name, release, &lines, new_connections());
        let at = scene.rig.address("web", 0);
        if listen.starts_with("[::]") {
            assert!(at.is_ipv6());
            scene.put_load_on(SocketAddr::from((Ipv4Addr::LOCALHOST, at.port())), new_connections());
        }
        let live = scene.deploy_alternating(ROLLOUTS);
        scene.end(3, live);
    }
}

#[test]
fn node_http() {
    if Language::Node.is_here() {
        replaced_in_every_family("node", &script("server.js"), INTERCEPT);
    }
}

#[test]
fn python_http_server() {
    if Language::Python.is_here() {
        replaced_in_every_family("python threads", &script("threads.py"), INTERCEPT);
    }
}

#[test]
fn python_asyncio_with_both_ways_open() {
    if Language::Python.is_here() {
        replaced_in_every_family("python tasks", &script("tasks.py"), "handover: auto");
    }
}

#[test]
fn rust_linked_statically() {
    replaced_in_every_family("static rust", &linked, INTERCEPT);
}
