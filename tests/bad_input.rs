//! Bad input gets a clear error and changes nothing.
//!
//! The exit codes of the command line, and where each is proved on real processes:
//!
//! | code | proved by |
//! |---|---|
//! | 0 | `what_is_live_already_is_no_failure` here; every good rollout in `deploy_real.rs` |
//! | 1 | `a_bad_request_names_its_fault_and_changes_nothing` here, and every start that is refused here |
//! | 2 | `a_command_line_that_makes_no_sense_is_usage` here, `cli/usage.trycmd` |
//! | 3, 4 | `bad_releases.rs` |
//! | 5 | `a_file_that_is_not_what_was_promised_is_refused` here |
//! | 6 | `without_an_agent_every_command_says_so` here |
//! | 7 | `whoever_stops_waiting_is_told_that_the_rollout_goes_on` here |
//!
//! Each kind of mistake in a configuration file has its words in `config_cases.rs`.

#[expect(dead_code, reason = "no test uses the whole rig")]
mod support;

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::{env, io};

use support::{CliResult, GENEROUS, Rig, control, example};
use tempfile::TempDir;

/// A service that is ready at once.
const WEB: &str = "\
services:
  web:
    binary: ./v1
    watch: false
    workers: 2
    listen: [127.0.0.1:0]
    rollout: {min_ready: 0s}
";

/// An agent that serves `v1`, with `v2` beside it.
fn serving(config: &str) -> Rig {
    let home = home();
    let mut rig = Rig::start_in(home, config);
    rig.wait_until_serving();
    rig
}

fn home() -> TempDir {
    let home = TempDir::new().expect("a temporary directory");
    for version in ["v1", "v2"] {
        example::release(&example::built("worker"), &home.path().join(version), &[("VERSION", version)]);
    }
    home
}

/// `rollout` with these arguments, to its end; an agent that starts although it should not is stopped.
fn rollout(home: &Path, arguments: &[&str]) -> CliResult {
    run(Command::new("timeout")
        .args(["-k", "9", "30", env!("CARGO_BIN_EXE_rollout")])
        .args(arguments)
        .current_dir(home))
}

fn run(command: &mut Command) -> CliResult {
    let output = command.env_remove("ROLLOUT_SOCKET").stdin(Stdio::null()).output().expect("run rollout");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    CliResult { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// `rollout run` on this configuration must fail with exit 1 and all of these words, and leave nothing behind.
fn refuses_to_start(home: &Path, config: &str, words: &[&str]) {
    fs::write(home.join("rollout.yaml"), config).expect("write the configuration");
    let said = rollout(home, &["run", "--socket", "a.sock", "--state-dir", "state"]);
    assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""), "{config}: {said:?}");
    for word in words {
        assert!(said.stderr.contains(word), "{config}: no {word:?} in {}", said.stderr);
    }
    assert!(!said.stderr.contains("panicked") && !said.stderr.contains("RUST_BACKTRACE"), "{}", said.stderr);
    assert!(!home.join("a.sock").exists(), "{config}: the control socket is left");
}

#[test]
fn a_configuration_with_many_mistakes_lists_them_all_and_starts_nothing() {
    let home = home();
    let config = WEB.replace("workers: 2", "wrokers: 2\n    workers: many").replace("0s", "soon") + "extra: 1\n";
    refuses_to_start(
        home.path(),
        &config,
        &[
            "rollout.yaml:5:5: services.web.wrokers: unknown key; did you mean \"workers\"?",
            "rollout.yaml:6:14: services.web.workers: expected a whole number or auto, found \"many\"",
            "\"soon\" is not a duration: write it like 250ms",
            "rollout.yaml:9:1: extra: unknown key",
            " 5 |     wrokers: 2\n   |     ^^^^^^^\n",
            "rollout: the configuration has problems: the agent did not start\n",
        ],
    );
    assert!(!home.path().join("state").exists(), "nothing was made");
    refuses_to_start(home.path(), "services: [", &["rollout.yaml:1:"]);
    refuses_to_start(home.path(), "", &["rollout.yaml: "]);
}

#[test]
fn what_the_host_refuses_is_named_with_a_way_out() {
    let home = home();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    refuses_to_start(home.path(), &WEB.replace("127.0.0.1:0", &address), &[&address, "in use"]);
    refuses_to_start(home.path(), &WEB.replace("127.0.0.1:0", "192.0.2.1:80"), &["192.0.2.1:80"]);
    refuses_to_start(home.path(), &WEB.replace("./v1", "./v3"), &["v3 does not exist: build it first"]);
    refuses_to_start(home.path(), &WEB.replace("./v1", "."), &["is a directory, not a file"]);

    let run_with = |flags: &[&str]| rollout(home.path(), &[&["run", "--state-dir", "state"], flags].concat());
    fs::write(home.path().join("rollout.yaml"), WEB).expect("write the configuration");
    fs::write(home.path().join("file"), "x").expect("write a file");
    fs::write(home.path().join("latin1.yaml"), b"# caf\xe9").expect("write a file");
    let long = "s".repeat(120);
    for (flags, word) in [
        (&["-c", "nowhere.yaml", "--socket", "a.sock"][..], "read configuration nowhere.yaml: No such file"),
        (&["-c", ".", "--socket", "a.sock"], "read configuration .: Is a directory"),
        (&["-c", "latin1.yaml", "--socket", "a.sock"], "latin1.yaml: not UTF-8 text"),
        (&["-c", "v1", "--socket", "a.sock"], "v1: larger than 1024 KiB, which no configuration is"),
        (&["--socket", "file"], "a file that is not a socket is in the way: remove it"),
        (&["--socket", "file/a.sock"], "name another path with --socket"),
        (&["--socket", &long], "name a shorter one with --socket"),
        (&["--socket", "a.sock", "--state-dir", "file"], "file"),
        (&["--socket", "a.sock", "--state-dir", "file/below"], "file/below"),
    ] {
        let flags: Vec<&str> = flags.to_vec();
        // The last --state-dir would be a usage error after the first.
        let said = if flags.contains(&"--state-dir") {
            rollout(home.path(), &[&["run"], flags.as_slice()].concat())
        } else {
            run_with(&flags)
        };
        assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""), "{flags:?}: {said:?}");
        assert!(said.stderr.starts_with("rollout: "), "{flags:?}: {}", said.stderr);
        assert!(said.stderr.contains(word), "{flags:?}: no {word:?} in {}", said.stderr);
    }
    assert_eq!(fs::read(home.path().join("file")).expect("it is there"), b"x");
}

/// What only an ordinary user is refused. Root becomes one; an ordinary user is one already.
#[test]
fn an_ordinary_user_is_told_what_is_not_allowed() {
    let home = home();
    fs::set_permissions(home.path(), Permissions::from_mode(0o755)).expect("open the directory");
    let program = home.path().join("rollout");
    fs::copy(env!("CARGO_BIN_EXE_rollout"), &program).expect("copy rollout to where everybody may run it");
    fs::write(home.path().join("rollout.yaml"), WEB).expect("write the configuration");
    fs::write(home.path().join("secret.yaml"), WEB).expect("write the configuration");
    fs::set_permissions(home.path().join("secret.yaml"), Permissions::from_mode(0o0)).expect("close the file");
    let theirs = home.path().join("theirs");
    fs::create_dir(&theirs).expect("a directory");
    fs::set_permissions(&theirs, Permissions::from_mode(0o777)).expect("open the directory");
    let closed = home.path().join("closed");
    fs::create_dir(&closed).expect("a directory");
    fs::set_permissions(&closed, Permissions::from_mode(0o555)).expect("close the directory");
    let as_somebody = |arguments: &[&str]| {
        let is_root = rollout::sys::proc::own_uid() == 0;
        let mut command = Command::new("timeout");
        command.args(["-k", "9", "30"]);
        if is_root {
            command.args(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]);
        }
        run(command.arg(&program).args(arguments).current_dir(home.path()))
    };
    for (arguments, words) in [
        (&["run", "-c", "secret.yaml"][..], &["read configuration secret.yaml: Permission denied"][..]),
        (&["run", "--socket", "theirs/a", "--state-dir", "closed/state"], &["closed/state", "Permission denied"]),
        (&["run", "--socket", "closed/a", "--state-dir", "theirs/s"], &["closed/a", "Permission denied", "--socket"]),
    ] {
        let said = as_somebody(arguments);
        assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""), "{arguments:?}: {said:?}");
        for word in words {
            assert!(said.stderr.contains(word), "{arguments:?}: no {word:?} in {}", said.stderr);
        }
    }
    let said = as_somebody(&["check", "-c", "secret.yaml"]);
    assert_eq!(said.code, Some(1), "{said:?}");
}

#[test]
fn a_second_agent_on_the_same_socket_is_refused_and_the_first_goes_on() {
    let rig = serving(WEB);
    let before = rig.status();
    let socket = rig.socket().display().to_string();
    let other_state = rig.home().join("other").display().to_string();
    let own_state = rig.home().join("state").display().to_string();
    for state in [&own_state, &other_state] {
        let said = rollout(rig.home(), &["run", "--socket", &socket, "--state-dir", state]);
        assert_eq!(said.code, Some(1), "{said:?}");
        let way_out = format!("an agent already answers at {socket}: stop it with 'rollout stop --socket {socket}'");
        assert!(said.stderr.contains(&way_out), "{said:?}");
    }
    // Another socket, but the same state: two agents would write over each other.
    let said = rollout(rig.home(), &["run", "--socket", "other.sock", "--state-dir", &own_state]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr.contains(&own_state) && said.stderr.contains("--state-dir"), "{said:?}");
    assert_eq!(rig.status(), before);
    assert!(rig.stop().success());
}

const COMMANDS: [&[&str]; 11] = [
    &["status"],
    &["status", "--json"],
    &["status", "--watch"],
    &["deploy", "v1"],
    &["restart"],
    &["rollback"],
    &["history"],
    &["logs", "-f"],
    &["scale", "2"],
    &["pause"],
    &["stop"],
];

#[test]
fn without_an_agent_every_command_says_so() {
    let home = home();
    // Left behind by an agent that was killed.
    drop(UnixListener::bind(home.path().join("dead.sock")).expect("bind"));
    for socket in ["nowhere.sock", "dead.sock"] {
        for command in COMMANDS {
            let said = rollout(home.path(), &[command, &["--socket", socket]].concat());
            assert_eq!((said.code, said.stdout.as_str()), (Some(6), ""), "{command:?}: {said:?}");
            let way_out = format!("rollout: no agent answers at {socket}: start one with 'rollout run', or name its");
            assert!(said.stderr.starts_with(&way_out), "{command:?}: {}", said.stderr);
        }
    }
}

#[test]
fn a_command_line_that_makes_no_sense_is_usage() {
    let home = home();
    for words in [
        &["depoly"][..],
        &["deploy"],
        &["deploy", "v1", "v2"],
        &["deploy", "v1", "--sha256", "12"],
        &["deploy", "v1", "--timeout", "-1"],
        &["scale", "0"],
        &["scale", "-1"],
        &["scale", "99999999999"],
        &["scale", "many"],
        &["logs", "-n", "lots"],
        &["logs", "-n", "10001"],
        &["logs", "--slot", "0"],
        &["status", "-s", "../x", "extra"],
        &["run", "--workers", "2"],
        &["run", "-c", "rollout.yaml", "--", "v1"],
        &["completions", "klingon"],
        &["man", "nothing"],
        &[],
    ] {
        let said = rollout(home.path(), words);
        assert_eq!((said.code, said.stdout.as_str()), (Some(2), ""), "{words:?}: {said:?}");
        assert!(said.stderr.contains("--help") || said.stderr.contains("Usage"), "{words:?}: {}", said.stderr);
    }
    for (words, word) in [
        (&["run", "--workers", "0", "--listen", "0", "--", "./v1"][..], "--workers: "),
        (&["run", "--listen", "nowhere", "--", "./v1"], "--listen: "),
        (&["run", "--readiness", "magic", "--listen", "0", "--", "./v1"], "--readiness: "),
        (&["run", "--env", "NO_EQUALS_SIGN", "--listen", "0", "--", "./v1"], "--env: "),
    ] {
        let said = rollout(home.path(), &[words, &[]].concat());
        assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""), "{words:?}: {said:?}");
        assert!(said.stderr.starts_with(&format!("rollout: {word}")), "{words:?}: {}", said.stderr);
    }
}

#[test]
fn a_bad_request_names_its_fault_and_changes_nothing() {
    let rig = serving(WEB);
    let before = rig.status();
    let home = rig.home();
    assert!(Command::new("mkfifo").arg(home.join("fifo")).status().expect("mkfifo").success());
    let is_there = "does not exist: this agent runs web";
    for (words, code, word) in [
        (&["deploy", "nowhere"][..], 1, "nowhere does not exist: build it first"),
        (&["deploy", "."], 1, "is a directory, not a file: give the path of the program itself"),
        (&["deploy", "fifo"], 1, "fifo is a named pipe, not a file"),
        (&["deploy", "rollout.yaml"], 1, "rollout.yaml is not executable: run `chmod +x` on it"),
        (&["deploy", "v2", "-s", "api"], 1, is_there),
        (&["deploy", "v2", "-s", "a/b"], 2, "\"a/b\" is not a service name"),
        (&["restart", "-s", "api"], 1, is_there),
        (&["status", "-s", "api"], 1, is_there),
        (&["history", "-s", "api"], 1, is_there),
        (&["logs", "-s", "api"], 1, is_there),
        (&["pause", "-s", "api"], 1, is_there),
        (&["scale", "3", "-s", "api"], 1, is_there),
        (&["rollback"], 1, "has had no other live release: name one of 'rollout history' or deploy a file"),
        (&["rollback", "abcdef"], 1, "no kept release begins with \"abcdef\""),
        (&["rollback", "nothing hexadecimal"], 1, "nothing hexadecimal"),
        (&["pause"], 1, "no rollout is under way: there is nothing to pause"),
        (&["resume"], 1, "no rollout is under way: there is nothing to resume"),
        (&["abort"], 1, "no rollout is under way: there is nothing to abort"),
        (&["scale", "4294967295"], 1, "4294967295 workers are too many: at most 4096"),
        (&["scale", "4096"], 1, "serves at most 768 workers at once"),
    ] {
        let said = rig.cli(words);
        assert_eq!((said.code, said.stdout.as_str()), (Some(code), ""), "{words:?}: {said:?}");
        assert!(said.stderr.starts_with("rollout: ") && said.stderr.lines().count() == 1, "{words:?}: {}", said.stderr);
        assert!(said.stderr.contains(word), "{words:?}: no {word:?} in {}", said.stderr);
        assert_eq!(rig.status(), before, "{words:?}");
    }
    assert!(rig.stop().success());
}

#[test]
fn a_file_that_is_not_what_was_promised_is_refused() {
    let rig = serving(WEB);
    let before = rig.status();
    let promised = "0".repeat(64);
    let said = rig.cli(&["deploy", "v2", "--sha256", &promised]);
    assert_eq!((said.code, said.stdout.as_str()), (Some(5), ""), "{said:?}");
    assert!(said.stderr.contains(&promised[..12]), "{said:?}");
    assert_eq!(rig.status(), before);
    let sum = Command::new("sha256sum").arg(rig.home().join("v2")).output().expect("sha256sum");
    let sum = String::from_utf8(sum.stdout).expect("text");
    let said = rig.cli(&["deploy", "v2", "--sha256", sum.split(' ').next().expect("a sum")]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(rig.stop().success());
}

#[test]
fn what_is_live_already_is_no_failure() {
    let rig = serving(WEB);
    let before = rig.status();
    let said = rig.cli(&["deploy", "v1"]);
    assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""), "{said:?}");
    assert!(said.stdout.contains("is live already: nothing to do"), "{said:?}");
    assert_eq!(rig.status(), before);
    assert_eq!(rig.cli(&["deploy", "v1", "--force"]).code, Some(0));
    assert_ne!(rig.pids("web", "ready"), before.services[0].workers.iter().filter_map(|it| it.pid).collect::<Vec<_>>());
    assert!(rig.stop().success());
}

#[test]
fn whoever_stops_waiting_is_told_that_the_rollout_goes_on() {
    let mut rig = serving(&WEB.replace("min_ready: 0s", "hold: 300s").replace("workers: 2", "workers: 1"));
    let old = rig.service("web").release;
    let said = rig.cli(&["deploy", "v2", "--timeout", "3s"]);
    assert_eq!((said.code, said.stdout.as_str()), (Some(7), ""), "{said:?}");
    assert!(said.stderr.contains("not over in time: rollout r2 goes on: follow it with"), "{said:?}");
    let under_way = rig.service("web").rollout.expect("it goes on");
    // Whoever asks for the same again joins in, and is told what has begun.
    let said = rig.cli(&["deploy", "v2", "--no-wait"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.stderr.contains("rollout r2 began") && said.stdout.contains("rollout r2 is under way"), "{said:?}");
    let following = rig.start_cli(&["deploy", "v2", "--json"]);
    rig.wait_until("the second command follows", |_| following.so_far().stdout.contains("\"stored\""));
    following.signal("INT");
    let said = following.wait();
    assert_eq!(said.code, Some(7), "{said:?}");
    for line in said.stdout.lines() {
        let _step: rollout::wire::api::Step = serde_json::from_str(line).expect("every line is a step");
    }
    assert_eq!(rig.service("web").rollout.map(|rollout| rollout.id), Some(under_way.id), "{said:?}");
    // A pause and what comes after it, on the way.
    for (words, code, word) in [
        (&["pause"][..], 0, "web: the rollout is paused: go on with 'rollout resume'"),
        (&["pause"], 0, "web: the rollout is paused already"),
        (&["resume"], 0, "web: the rollout goes on"),
        (&["abort"], 0, "web: the rollout goes back to the old release"),
    ] {
        let said = rig.cli(words);
        assert_eq!((said.code, said.stderr.as_str()), (Some(code), ""), "{words:?}: {said:?}");
        assert!(said.stdout.starts_with(word), "{words:?}: {said:?}");
    }
    rig.wait_for_status("it is back", |status| status.services[0].rollout.is_none());
    assert_eq!(rig.service("web").release, old);
    assert!(rig.stop().success());
}

#[test]
fn no_words_on_the_control_socket_hurt_the_agent() {
    let rig = serving(WEB);
    let before = rig.status();
    let deploy = "/v1/services/web/deploy";
    let oversized = format!("{{\"path\": \"/{}\"}}", "x".repeat(1 << 20));
    for (path, body, status, word) in [
        (deploy, "", 400, "missing field `path`"),
        (deploy, "{", 400, "expected {\\\"path\\\""),
        (deploy, "[]", 400, "is not understood"),
        (deploy, "{\"path\": 1}", 400, "expected a string"),
        (deploy, "{\"path\": \"/x\", \"paht\": 1}", 400, "unknown field `paht`"),
        (deploy, "{\"path\": \"x\"}", 400, "is not absolute"),
        (deploy, "{\"path\": \"/x\", \"sha256\": \"12\"}", 400, "64"),
        (deploy, "{\"path\": \"/nowhere/x\"}", 422, "does not exist"),
        (deploy, &oversized, 413, "larger than 65536 bytes"),
        ("/v1/services/web/scale", "{\"workers\": 0}", 400, "a service has at least 1"),
        ("/v1/services/web/scale", "{\"workers\": -1}", 400, "is not understood"),
        ("/v1/services/web/scale", "{\"workers\": 1e99}", 400, "is not understood"),
        ("/v1/services/web/scale", "{}", 400, "missing field `workers`"),
        ("/v1/services/api/restart", "{}", 422, "this agent runs web"),
        ("/v1/services/%2e%2e%2fstop/restart", "{}", 422, "this agent runs web"),
        ("/v1/services/web/status", "{}", 404, "is not a path of this API"),
        ("/", "{}", 404, "is not a path of this API"),
        ("/v1/status", "{}", 405, "use GET"),
    ] {
        let answer = control::post(&rig.socket(), path, body).expect("an answer");
        assert_eq!(answer.status, status, "{path} {}: {answer:?}", &body[..body.len().min(80)]);
        let refusal: serde_json::Value = serde_json::from_str(&answer.body).expect("a refusal in JSON");
        assert!(answer.body.contains(word), "{path}: no {word:?} in {}", answer.body);
        assert!(refusal["exit"].as_u64().is_some_and(|exit| exit > 0), "{path}: {refusal}");
    }
    for (path, status) in [
        ("/v1/stop", 405),
        (deploy, 405),
        ("/v1/status?watch=perhaps", 400),
        ("/v1/services/web/logs?lines=99999", 400),
    ] {
        let answer = control::get(&rig.socket(), path).expect("an answer");
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        assert!(answer.body.contains("\"error\""), "{path}: {answer:?}");
    }
    assert_eq!(rig.status(), before);
    let endless_head = format!("GET / HTTP/1.1\r\nx: {}", "x".repeat(1 << 20));
    for garbage in
        [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], b"\r\n\r\n\r\n", b"GET", endless_head.as_bytes()]
    {
        let said = converse(&rig.socket(), garbage).expect("the agent lets us speak and closes");
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 4"), "{said}");
    }
    assert_eq!(rig.status(), before);
    let (keeper, agent) = (rig.keeper_pid(), rig.agent_pid());
    assert!(agent.is_some() && !rig.log().contains("the agent is gone"), "keeper {keeper}:\n{}", rig.log());
    assert!(rig.stop().success());
}

/// Says this and no more; what was answered until the agent closed.
fn converse(socket: &Path, words: &[u8]) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(GENEROUS))?;
    // It may close before it has read everything.
    let _ = stream.write_all(words);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if error.kind() != io::ErrorKind::ConnectionReset => return Err(error),
        Ok(_) | Err(_) => {}
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[test]
fn a_bad_configuration_at_a_reload_leaves_the_old_one_in_force() {
    let mut rig = serving(WEB);
    let before = rig.status();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let not_taken = "the new configuration was not taken";
    for (number, (config, word, refused)) in [
        (WEB.replace("workers: 2", "workers: none"), "services.web.workers: expected a whole number", not_taken),
        ("services: {".to_owned(), "rollout.yaml:1:", not_taken),
        (
            WEB.replace("listen: [127.0.0.1:0]", &format!("listen: [127.0.0.1:0, \"{address}\"]")),
            &address,
            "nothing changed",
        ),
        (WEB.replace("./v1", "./v3"), "v3 does not exist", "nothing changed"),
    ]
    .into_iter()
    .enumerate()
    {
        rig.write_config(&config);
        let restart = rig.cli(&["restart"]);
        assert_eq!((restart.code, restart.stdout.as_str()), (Some(1), ""), "{config}: {restart:?}");
        assert!(restart.stderr.contains(word), "{config}: no {word:?} in {}", restart.stderr);
        let said = |rig: &Rig| rig.log().matches(refused).count();
        let already = said(&rig);
        rig.signal("HUP");
        rig.wait_until("the log says that the configuration was refused", |rig| said(rig) > already);
        assert_eq!(rig.status(), before, "mistake {number}");
    }
    fs::remove_file(rig.home().join("rollout.yaml")).expect("remove the configuration");
    let restart = rig.cli(&["restart"]);
    assert_eq!(restart.code, Some(1), "{restart:?}");
    assert!(restart.stderr.contains("rollout.yaml: No such file or directory"), "{restart:?}");
    assert_eq!(rig.status(), before);
    // Nothing is stuck: the next good one is taken.
    rig.write_config(&WEB.replace("workers: 2", "workers: 3"));
    rig.signal("HUP");
    rig.wait_for_status("three workers serve", |status| {
        status.services[0].rollout.is_none()
            && status.services[0].workers.len() == 3
            && status.services[0].state == "serving"
    });
    assert!(rig.stop().success());
}
