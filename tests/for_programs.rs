//! What other programs rely on: the names in `status --json`, what a worker is told in its environment, SIGUSR1 for
//! whoever rotates files, and where the agent puts its socket and its state when nobody says.

#[expect(dead_code, reason = "no test uses the whole rig")]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use support::{Rig, example};
use tempfile::TempDir;

const CONFIG: &str = "services:\n  web:\n    binary: ./web\n    workers: 2\n    listen: [127.0.0.1:0]\n    \
                      readiness: notify\n    rollout: {min_ready: 0s, hold: 30s}\n";

/// A home with the polite worker on the path `web`.
fn home() -> TempDir {
    let home = TempDir::new().expect("a temporary directory");
    example::release(&example::built("worker"), &home.path().join("web"), &[("VERSION", "v1")]);
    home
}

fn names(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap_or_else(|| panic!("no object: {value}")).keys().map(String::as_str).collect()
}

fn status(rig: &Rig) -> Value {
    let said = rig.cli(&["status", "--json"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said:?}"))
}

/// Read without the crate's own types: those would follow a name that was changed.
#[test]
fn status_as_json_keeps_its_names() {
    let mut rig = Rig::start_in(home(), CONFIG);
    rig.wait_until_serving();
    let at_rest = status(&rig);
    assert_eq!(names(&at_rest), ["services"].into());
    let service = &at_rest["services"][0];
    let of_a_service = ["name", "state", "generation", "release", "listen", "workers", "rollout"].into();
    assert_eq!(names(service), of_a_service, "{service}");
    assert_eq!(
        (&service["name"], &service["state"], &service["rollout"]),
        (&"web".into(), &"serving".into(), &Value::Null)
    );
    assert_eq!(service["generation"], 1);
    assert_eq!(service["release"].as_str().map(str::len), Some(64), "{service}");
    assert!(service["listen"][0].as_str().is_some_and(|address| address.starts_with("127.0.0.1:")), "{service}");
    let of_a_worker = BTreeSet::from(["slot", "pid", "state", "generation", "release", "since", "restarts"]);
    for (worker, slot) in service["workers"].as_array().expect("a list").iter().zip(1..) {
        assert_eq!(names(worker), of_a_worker, "{worker}");
        assert_eq!(
            (&worker["slot"], &worker["state"], &worker["restarts"]),
            (&slot.into(), &"ready".into(), &0.into())
        );
        assert!(worker["pid"].is_i64() && worker["since"].is_string(), "{worker}");
    }

    let next = example::release(&example::built("worker"), &rig.home().join("v2"), &[("VERSION", "v2")]);
    let _deploy = rig.start_cli(&["deploy", next.to_str().expect("a path in UTF-8")]);
    rig.wait_until("a rollout is under way", |rig| rig.service("web").rollout.is_some());
    let rolling = status(&rig);
    let rollout = &rolling["services"][0]["rollout"];
    assert_eq!(names(rollout), ["id", "phase", "from", "to", "done", "slots", "since"].into(), "{rollout}");
    assert_eq!((&rollout["phase"], &rollout["slots"]), (&"forward".into(), &2.into()));
    assert_eq!(rollout["from"], service["release"]);
}

#[test]
fn a_worker_is_told_its_sockets_its_port_and_its_slot() {
    let listen = "[{address: \"unix:./web.sock\", name: local}, {address: 127.0.0.1:0, name: http}]";
    let config = CONFIG.replace("[127.0.0.1:0]", listen) + "    env: {GREETING: hello}\n";
    let mut rig = Rig::start_in(home(), &config);
    rig.wait_until_serving();
    let service = rig.service("web");
    let (port, release) = (rig.address("web", 1).port().to_string(), service.release.expect("a release").to_string());
    for worker in service.workers {
        let pid = worker.pid.expect("a process").to_string();
        let environ = fs::read_to_string(format!("/proc/{pid}/environ")).expect("read its environment");
        let told: BTreeMap<&str, &str> = environ.split('\0').filter_map(|pair| pair.split_once('=')).collect();
        let slot = worker.slot.to_string();
        for (name, value) in [
            ("LISTEN_FDS", "2"),
            ("LISTEN_FDNAMES", "local:http"),
            ("LISTEN_PID", pid.as_str()),
            ("PORT", port.as_str()),
            ("ROLLOUT_SERVICE", "web"),
            ("ROLLOUT_SLOT", slot.as_str()),
            ("ROLLOUT_GENERATION", "1"),
            ("ROLLOUT_RELEASE", release.as_str()),
            ("GREETING", "hello"),
        ] {
            assert_eq!(told.get(name), Some(&value), "{name}: {told:#?}");
        }
    }
}

#[test]
fn sigusr1_opens_the_kept_output_anew() {
    let mut rig = Rig::start_in(home(), &CONFIG.replace("hold: 30s", "hold: 0s"));
    rig.wait_until_serving();
    let kept = rig.home().join("state/web/logs/current.log");
    let moved = rig.home().join("moved.log");
    let lines = |path: &Path| fs::read_to_string(path).unwrap_or_default().matches("listening on").count();
    rig.wait_until("both workers' lines are kept", |_| lines(&kept) == 2);
    fs::rename(&kept, &moved).expect("move the file away");
    rig.signal("USR1");
    rig.wait_until("the file is there again", |_| kept.exists());
    let said = rig.cli(&["scale", "3"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    rig.wait_until("the third worker's line is in the new file", |_| lines(&kept) == 1);
    assert_eq!(lines(&moved), 2);
    assert!(rig.stop().success());
}

#[test]
fn socket_and_state_are_where_the_environment_says() {
    let program = TempDir::new().expect("a temporary directory");
    // Takes `run -c FILE` and drops the flags behind it.
    let bare = program.path().join("bare");
    let text = format!("#!/bin/sh\nexec {} \"$1\" \"$2\" \"$3\"\n", env!("CARGO_BIN_EXE_rollout"));
    fs::write(&bare, text).expect("write");
    fs::set_permissions(&bare, Permissions::from_mode(0o755)).expect("chmod");
    for names in [["RUNTIME_DIRECTORY", "STATE_DIRECTORY"], ["XDG_RUNTIME_DIR", "STATE_DIRECTORY"]] {
        let home = home();
        let runtime = home.path().to_str().expect("a path in UTF-8").to_owned();
        let state = format!("{runtime}/kept");
        let env = [(names[0], runtime.as_str()), (names[1], state.as_str())];
        let mut rig = Rig::start_program(&bare, home, CONFIG, &env);
        rig.wait_until_serving();
        assert!(Path::new(&state).join("web/releases").is_dir(), "{names:?}");
        // A command without --socket looks there, too.
        let mut command = Command::new(env!("CARGO_BIN_EXE_rollout"));
        command.arg("status").env_remove("ROLLOUT_SOCKET").env("XDG_RUNTIME_DIR", &runtime);
        let said = command.output().expect("run status");
        assert!(said.status.success(), "{said:?}");
        assert!(String::from_utf8_lossy(&said.stdout).starts_with("web  serving"), "{said:?}");
        assert!(rig.stop().success());
    }
}
