//! What a successor agent finds: it goes on with what was begun, whatever that was.

#[expect(dead_code, reason = "no test uses the whole rig")]
mod support;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rollout::wire::api::{History, Outcome, Report};
use support::{Rig, control, facts, tree};
use tempfile::TempDir;

/// Goes at once when it is asked to.
const POLITE: &str = "exec sleep 1000";
/// Goes when the file `go` is there, and writes down each time that it was asked to.
const SLOW: &str = "trap 'echo TERM >> asked' TERM; while [ ! -e go ]; do sleep 0.05; done";

/// Puts a script in its place as a whole; `#` tells releases apart.
fn script(path: &Path, version: &str, body: &str) -> PathBuf {
    let unfinished = path.with_extension("unfinished");
    fs::write(&unfinished, format!("#!/bin/sh\n# {version}\n{body}\n")).expect("write");
    fs::set_permissions(&unfinished, Permissions::from_mode(0o755)).expect("chmod");
    fs::rename(&unfinished, path).expect("rename");
    path.to_owned()
}

fn service(name: &str, more: &str) -> String {
    format!(
        "  {name}:\n    binary: ./{name}\n    workers: 2\n    readiness: {{alive_for: 50ms}}\n    rollout: {{min_ready: 0s}}\n    \
         watch: {{settle: 300ms}}\n    drain: {{timeout: 60s}}\n{more}"
    )
}

fn config(services: &[&str]) -> String {
    services.iter().fold("services:\n".to_owned(), |text, name| text + &service(name, ""))
}

/// Services by name, each with its script.
fn start(scripts: &[(&str, &str)]) -> Rig {
    let home = TempDir::new().expect("a temporary directory");
    scripts.iter().for_each(|(name, body)| drop(script(&home.path().join(name), "v1", body)));
    let names: Vec<&str> = scripts.iter().map(|(name, _)| *name).collect();
    let mut rig = Rig::start_in(home, &config(&names));
    rig.wait_until_serving();
    rig
}

fn states(rig: &Rig) -> Vec<(String, String)> {
    let services = rig.try_status().map(|status| status.services).unwrap_or_default();
    services.into_iter().map(|service| (service.name, service.state)).collect()
}

fn wait_for_states(rig: &mut Rig, wanted: &[(&str, &str)]) {
    let wanted: Vec<(String, String)> =
        wanted.iter().map(|(name, state)| ((*name).to_owned(), (*state).to_owned())).collect();
    rig.wait_until(&format!("the services are {wanted:?}"), |rig| states(rig) == wanted);
}

fn asked(rig: &Rig) -> usize {
    fs::read_to_string(rig.home().join("asked")).map_or(0, |text| text.lines().count())
}

fn history(rig: &Rig, service: &str) -> Vec<(String, Outcome)> {
    let answer = control::get(&rig.socket(), &format!("/v1/services/{service}/history")).expect("ask");
    let history: History = serde_json::from_str(&answer.body).expect("a history");
    history.entries.into_iter().map(|entry| (entry.trigger, entry.outcome)).collect()
}

fn report(stdout: &str) -> Report {
    let last = stdout.lines().last().expect("a report");
    let step: rollout::wire::api::Step = serde_json::from_str(last).expect("a step");
    let rollout::wire::api::Progress::Ended(report) = step.progress else { panic!("{last}") };
    report
}

#[test]
fn a_service_that_cannot_start_keeps_no_other_from_being_looked_after() {
    let mut rig = start(&[("web", POLITE)]);
    let workers = rig.pids("web", "ready");
    rig.write_config(&config(&["api", "web"]));
    rig.signal("HUP");
    rig.wait_until("api was tried", |rig| rig.log().contains("nothing changed"));
    rig.wait_until("web was rolled", |rig| {
        let now = rig.pids("web", "ready");
        now.len() == 2 && now.iter().all(|pid| !workers.contains(pid))
    });
    let workers = rig.pids("web", "ready");
    rig.kill_agent();
    assert_eq!(rig.pids("web", "ready"), workers);
    script(&rig.home().join("api"), "v1", POLITE);
    wait_for_states(&mut rig, &[("api", "serving"), ("web", "serving")]);
    assert!(rig.stop().success());
}

#[test]
fn a_service_that_was_taken_out_goes_on_to_end_and_is_asked_only_once() {
    let mut rig = start(&[("api", SLOW), ("web", POLITE)]);
    let leaving = rig.pids("api", "ready");
    rig.write_config(&config(&["web"]));
    rig.signal("HUP");
    rig.wait_until("both workers were asked to go", |rig| asked(rig) == 2);
    for _ in 0..3 {
        rig.kill_agent();
        wait_for_states(&mut rig, &[("api", "stopping"), ("web", "serving")]);
        assert_eq!(rig.pids("api", "draining"), leaving);
    }
    fs::write(rig.home().join("go"), "").expect("write");
    wait_for_states(&mut rig, &[("web", "serving")]);
    assert_eq!(asked(&rig), 2, "a program may take a second SIGTERM for 'at once'");
    rig.kill_agent();
    wait_for_states(&mut rig, &[("web", "serving")]);
    assert!(rig.stop().success());
}

#[test]
fn a_stop_goes_on_after_the_agent_s_death() {
    let mut rig = start(&[("api", SLOW), ("web", POLITE)]);
    let stop = rig.start_cli(&["stop"]);
    rig.wait_until("both workers were asked to go", |rig| asked(rig) == 2);
    wait_for_states(&mut rig, &[("api", "stopping")]);
    let old = rig.agent_pid().expect("an agent");
    tree::signal("KILL", &[old]);
    rig.wait_until("another agent answers", |rig| {
        rig.agent_pid().is_some_and(|pid| pid != old) && rig.try_status().is_some()
    });
    rig.wait_until("only api is left", |rig| states(rig) == [("api".to_owned(), "stopping".to_owned())]);
    fs::write(rig.home().join("go"), "").expect("write");
    let keeper = rig.keeper_pid();
    drop(stop);
    let deadline = rollout::sys::clock::now().after(support::GENEROUS);
    // A zombie has no command line: the rig is its parent.
    while !facts::arguments(keeper).concat().is_empty() {
        assert!(!rollout::sys::clock::until(deadline).is_zero(), "the keeper does not end: {}", rig.log());
        support::pause();
    }
    assert!(rig.processes().is_empty(), "{}", rig.log());
}

#[test]
fn a_service_that_comes_back_while_it_drains_is_started_when_it_is_gone() {
    for killed in [false, true] {
        let mut rig = start(&[("api", SLOW), ("web", POLITE)]);
        rig.write_config(&config(&["web"]));
        rig.signal("HUP");
        wait_for_states(&mut rig, &[("api", "stopping"), ("web", "serving")]);
        rig.write_config(&config(&["api", "web"]));
        rig.signal("HUP");
        rig.wait_until("the agent knows", |rig| rig.log().contains("starts when those that are being stopped"));
        if killed {
            rig.kill_agent();
        }
        assert_eq!(rig.service("api").state, "stopping");
        script(&rig.home().join("api"), "v2", POLITE);
        fs::write(rig.home().join("go"), "").expect("write");
        wait_for_states(&mut rig, &[("api", "serving"), ("web", "serving")]);
        assert_eq!(asked(&rig), 2);
        assert!(rig.stop().success(), "killed: {killed}");
    }
}

#[test]
fn the_files_of_the_state_may_be_lost_or_damaged_while_the_keeper_lives() {
    let mut rig = start(&[("web", POLITE)]);
    let state = rig.home().join("state/web");
    let workers = rig.pids("web", "ready");
    let damages: [fn(&Path); 3] = [
        |file| fs::write(file, "{\"format\":1,").expect("tear"),
        |file| fs::write(file, "{\"format\":99,\"boot\":\"\"}").expect("write another format"),
        |file| fs::remove_file(file).expect("remove"),
    ];
    for damage in damages {
        damage(&state.join("state.json"));
        rig.kill_agent();
        assert_eq!(rig.pids("web", "ready"), workers, "{}", rig.log());
        // Something to write.
        assert_eq!(rig.cli(&["scale", "3"]).code, Some(0));
        assert_eq!(rig.cli(&["scale", "2"]).code, Some(0));
        rig.wait_until("the surplus worker is gone", |rig| rig.service("web").workers.len() == 2);
    }
    assert!(rig.stop().success());
}

#[test]
fn a_state_that_cannot_be_written_costs_no_worker() {
    let mut rig = start(&[("web", POLITE)]);
    let state = rig.home().join("state/web");
    // Stands for a full disk, for any user.
    fs::create_dir(state.join("state.json.new")).expect("in the way");
    let v2 = script(&rig.home().join("v2"), "v2", POLITE);
    assert_eq!(rig.deploy(&v2).code, Some(0));
    rig.wait_until("the old workers are gone", |rig| rig.service("web").workers.len() == 2);
    let workers = rig.pids("web", "ready");
    rig.kill_agent();
    assert_eq!(rig.pids("web", "ready"), workers, "{}", rig.log());
    assert_eq!(rig.service("web").state, "serving");
    fs::remove_dir(state.join("state.json.new")).expect("out of the way");
    assert!(rig.stop().success());
}

#[test]
fn a_release_that_comes_while_there_is_no_agent_is_found() {
    let mut rig = start(&[("web", POLITE)]);
    let v1 = rig.service("web").release;
    let agent = rig.agent_pid().expect("an agent");
    // The file settles after 300 ms, so this agent does not see it.
    script(&rig.home().join("web"), "v2", POLITE);
    tree::signal("KILL", &[agent]);
    rig.wait_for_status("another release is live", |status| {
        let service = &status.services[0];
        service.state == "serving" && service.release.is_some() && service.release != v1
    });
    assert_eq!(history(&rig, "web")[0], ("watch".to_owned(), Outcome::Done));
    let v2 = rig.service("web").release;
    // One that was deployed from elsewhere is not undone by another agent, nor by a touch.
    let v3 = script(&rig.home().join("elsewhere"), "v3", POLITE);
    assert_eq!(rig.deploy(&v3).code, Some(0));
    rig.kill_agent();
    let entries = history(&rig, "web").len();
    rig.signal("HUP");
    rig.wait_until("the reload is over", |rig| history(rig, "web").len() > entries);
    assert_eq!(history(&rig, "web")[0], ("sighup".to_owned(), Outcome::Done));
    assert!(rig.service("web").release != v2 && rig.service("web").release != v1);
    assert!(rig.stop().success());
}

#[test]
fn whoever_asks_for_a_number_of_workers_hears_what_became_of_it() {
    let mut rig = start(&[("web", SLOW)]);
    assert_eq!(rig.cli(&["scale", "5000"]).code, Some(1));
    // Nobody gets ready any more, so that the first request is still open when the second one comes.
    rig.write_config(&format!(
        "services:\n{}",
        service("web", "    env: {A: b}\n").replace("alive_for: 50ms", "alive_for: 20s")
    ));
    rig.signal("HUP");
    rig.wait_for_status("the rollout is under way", |status| status.services[0].rollout.is_some());
    let first = rig.start_cli(&["scale", "3", "--json"]);
    rig.wait_until("the first request is there", |rig| {
        rig.service("web").rollout.is_some_and(|rollout| rollout.slots == 3)
    });
    let second = rig.start_cli(&["scale", "4", "--json"]);
    let said = first.wait();
    assert_eq!((said.code, report(&said.stdout).outcome), (Some(5), Outcome::Superseded));
    fs::write(rig.home().join("go"), "").expect("write");
    rig.signal("TERM");
    let said = second.wait();
    assert_eq!((said.code, report(&said.stdout).outcome), (Some(5), Outcome::Stopped), "{said:?}");
}

#[test]
fn a_service_under_another_name_gets_the_port_when_the_old_one_is_gone() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let listen = format!("    listen: [{}]\n", free.local_addr().expect("an address"));
    drop(free);
    let home = TempDir::new().expect("a temporary directory");
    script(&home.path().join("old"), "v1", SLOW);
    script(&home.path().join("new"), "v1", POLITE);
    let mut rig = Rig::start_in(home, &format!("services:\n{}", service("old", &listen)));
    rig.wait_until_serving();
    rig.write_config(&format!("services:\n{}", service("new", &listen)));
    rig.signal("HUP");
    rig.wait_until("the agent knows", |rig| rig.log().contains("starts when those that are being stopped"));
    assert_eq!(states(&rig), [("old".to_owned(), "stopping".to_owned())]);
    fs::write(rig.home().join("go"), "").expect("write");
    wait_for_states(&mut rig, &[("new", "serving")]);
    assert!(rig.stop().success());
}
