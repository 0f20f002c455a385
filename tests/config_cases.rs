//! Configurations as people write them, right and wrong: what they mean, and the words that they are answered with.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rollout::config::flags::{Flags, from_flags};
use rollout::config::settings::{
    Address, Alias, Check, Handover, Listen, Mode, Pace, Program, Service, Settings, Watch,
};
use rollout::config::{ConfigError, Problem, load, parse, problem, sample, schema};
use rollout::machine::limits::{Backoff, GiveUp, Linger, OnFailure};
use rollout::units::{ServiceName, Signal};

const CPUS: u32 = 4;

fn read(text: &str) -> Result<Settings, Vec<Problem>> {
    parse(text, "rollout.yaml", Path::new("/srv/app"), CPUS)
}

/// The only service of a good text.
fn service(text: &str) -> Service {
    let settings = read(text).unwrap_or_else(|problems| panic!("{text}\n{}", problem::list(&problems)));
    settings.services.into_values().next().expect("a service")
}

/// The only service of a good text, given its keys in flow style.
fn web(keys: &str) -> Service {
    service(&format!("services: {{web: {{{keys}}}}}"))
}

/// The problems of a bad text as they are printed.
fn printed(text: &str) -> String {
    match read(text) {
        Ok(settings) => panic!("accepted:\n{text}\n{settings:?}"),
        Err(problems) => problem::list(&problems),
    }
}

/// "path: message" of each problem of a bad text.
fn told(text: &str) -> Vec<String> {
    match read(text) {
        Ok(settings) => panic!("accepted:\n{text}\n{settings:?}"),
        Err(problems) => problems.iter().map(|one| format!("{}: {}", one.path, one.message)).collect(),
    }
}

const LINES: &str = "\
services:
  web:
    binary: ./web
    workers: two
    listen: [8080]
    rollout: {max_surj: 2, min_ready: 30}
    restart:
      backoff: 30s..1s
";

#[test]
fn all_problems_are_shown_at_once_with_their_places() {
    let expected = "\
rollout.yaml:4:14: services.web.workers: expected a whole number or auto, found \"two\"
   |
 4 |     workers: two
   |              ^^^

rollout.yaml:6:15: services.web.rollout.max_surj: unknown key; did you mean \"max_surge\"? (valid here: max_surge, \
max_unavailable, min_ready, hold, max_draining, on_failure)
   |
 6 |     rollout: {max_surj: 2, min_ready: 30}
   |               ^^^^^^^^

rollout.yaml:6:39: services.web.rollout.min_ready: \"30\" has no unit: write 30s or 30ms
   |
 6 |     rollout: {max_surj: 2, min_ready: 30}
   |                                       ^^

rollout.yaml:8:16: services.web.restart.backoff: \"30s..1s\" begins with the longer time: write 1s..30s
   |
 8 |       backoff: 30s..1s
   |                ^^^^^^^";
    assert_eq!(printed(LINES), expected);
}

#[test]
fn an_empty_file_is_told_how_to_begin() {
    let expected = "rollout.yaml: no service: write `services:` and below it a name with `binary:` or `command:` \
                    (`rollout init` writes an example)";
    for empty in ["", "\n\n", "# nothing but words\n", "---\n", "~"] {
        assert_eq!(printed(empty), expected, "{empty:?}");
    }
}

#[test]
fn broken_yaml_is_shown_where_it_breaks() {
    let expected = "\
rollout.yaml:2:2: not valid YAML: tabs disallowed within this context (block indentation)
   |
 2 |  web: {}
   |  ^";
    assert_eq!(printed("services:\n\tweb: {}\n"), expected);
    let shown = printed("services:\n  web:\n    listen:\n      - [::]:8080\n");
    assert!(shown.contains("put quotes around an address that begins with a bracket"), "{shown}");
}

#[test]
fn a_misspelt_key_is_not_also_called_missing() {
    assert_eq!(told("servces: {web: {command: [x]}}").len(), 1);
    assert_eq!(told("services: {web: {binry: x, listen: [80]}}").len(), 1);
    assert_eq!(told("services: {web: {binary: x, lisen: [80]}}").len(), 1);
    assert_eq!(told("services: {web: {binary: x, listen: [{adress: 80}]}}").len(), 1);
    assert_eq!(told("services: {web: {binary: x, listen: [80800]}}").len(), 1);
    assert_eq!(told("services: {web: {binary: [x], listen: [80], command: ['{release}']}}").len(), 1);
}

/// Keys of `services.web` (with the rest good), and a piece of the only answer.
const WRONG: &[(&str, &str)] = &[
    // Types.
    ("binary: [x], listen: [80]", "web.binary: expected a text, found a list"),
    ("binary: x, listen: 80", "web.listen: expected a list, found \"80\": write [\"80\"]"),
    ("binary: x, listen: [80], rollout: fast", "web.rollout: expected a map of keys and values, found \"fast\""),
    ("binary: x, listen: [80], env: [A]", "web.env: expected a map of keys and values, found a list"),
    ("binary: x, listen: [80], env: {A: {B: c}}", "web.env.A: expected a text, found a map"),
    ("binary: x, listen: [80], keep:", "web.keep: has no value"),
    ("binary: x, listen: [80], keep: 1.5", "web.keep: expected a whole number, found \"1.5\""),
    ("binary: x, listen: [80], keep: +5", "web.keep: expected a whole number"),
    ("binary: x, listen: [80], keep: 99999999999", "web.keep: expected a whole number"),
    ("binary: x, listen: [80], watch: perhaps", "web.watch: expected true, false or a map"),
    ("binary: x, listen: [80], handover: magic", "web.handover: expected listen_fds or intercept or auto"),
    ("binary: x, listen: [{address: 80, as: 3000}]", "web.listen[0].as: says what the program itself binds"),
    (
        "binary: x, handover: auto, listen: [{address: 80, as: 0}]",
        "web.listen[0].as: expected the port that the program",
    ),
    (
        "binary: x, handover: auto, listen: [{address: 80, as: x}]",
        "web.listen[0].as: expected the port that the program",
    ),
    ("binary: x, handover: auto, listen: [{address: 80, as: 'unix:/x'}]", "as: a path cannot stand for a TCP port"),
    (
        "binary: x, handover: auto, readiness: notify, listen: [{address: 'unix:/y', as: 80}]",
        "as: a port cannot stand for a Unix socket",
    ),
    ("binary: x, listen: [80], [1]: 2", "a key must be a word, this is a list"),
    ("binary: x, binary: y, listen: [80]", "web.binary: given twice (first at line 1): remove one"),
    // What runs.
    ("listen: [80]", "nothing to run: write binary"),
    ("binary: '', listen: [80]", "web.binary: is empty"),
    ("command: [], listen: [80]", "web.command: names no program"),
    ("command: [''], listen: [80]", "web.command: names no program"),
    ("command: ['{release}'], listen: [80]", "there is no binary"),
    ("binary: x, command: [x], listen: [80]", "does not run the release"),
    ("command: [x], watch: true, listen: [80]", "web.watch: there is nothing to watch"),
    ("binary: x, watch: {settle: 0s}, listen: [80]", "web.watch.settle: must be more than 0"),
    ("binary: \"a\\0b\", listen: [80]", "web.binary: contains a NUL"),
    ("binary: x, listen: [80], env: {A=B: c}", "not the name of a variable"),
    ("binary: x, listen: [80], env: {1: a, 1: b}", "web.env.1: given twice (first at line 1): remove one"),
    ("binary: x, listen: [80], env: {LISTEN_PID: 1}", "web.env.LISTEN_PID: is set for each worker by rollout"),
    // Listeners.
    ("binary: x, listen: [80, {address: 0.0.0.0:80}]", "web.listen[1].address: this address is listened on twice"),
    ("binary: x, listen: [80, '[::]:80']", "web.listen[1]: [::] listens on IPv4 too"),
    (
        "binary: x, listen: [{address: 80, name: a}, {address: 81, name: a}]",
        "another listener of this service is called",
    ),
    ("binary: x, listen: [{address: 80, name: 'a:b'}]", "listen[0].name: not a name for a socket"),
    ("binary: x, listen: [80, {address: 'unix:a', mode: steered}]", "listen[1].mode: a Unix socket cannot be steered"),
    ("binary: x, listen: [{address: 80, only_v6: true}]", "only_v6: only an IPv6 address"),
    ("binary: x, listen: [{address: 80, socket_mode: 0600}]", "socket_mode: only a Unix socket"),
    ("binary: x, listen: [80, {address: 'unix:@a', owner: me}]", "owner: only a Unix socket"),
    ("binary: x, listen: [80, {address: 'unix:a', owner: 'a:b:c'}]", "owner: write user or user:group"),
    ("binary: x, listen: [80, {address: 'unix:a', socket_mode: 0999}]", "\"0999\" is not a file mode"),
    ("binary: x, listen: [{address: 80, backlog: 0}]", "backlog: must be between 1 and 65535"),
    ("binary: x, listen: [{name: a}]", "listen[0]: a listener needs an address"),
    ("binary: x, listen: [example.org:80]", "listen[0]: \"example.org:80\" is not an address: names are not looked up"),
    // Readiness and liveness.
    ("binary: x", "readiness accept connects to each worker, and there is no listener"),
    ("binary: x, listen: ['unix:a']", "neither a Unix socket nor a shared one leads to one certain worker"),
    (
        "binary: x, listen: [{address: 80, mode: shared}], readiness: {http: /}",
        "readiness http connects to each worker",
    ),
    ("binary: x, listen: [80], readiness: ready", "expected accept, notify or a map like {http: /healthz}"),
    ("binary: x, listen: [80], readiness: {accept: true, http: /}", "accept and http exclude each other"),
    ("binary: x, listen: [80], readiness: {accept: false}", "readiness.accept: expected true, found \"false\""),
    ("binary: x, listen: [80], readiness: {http: healthz}", "readiness.http: not a path of a URL"),
    ("binary: x, listen: [80], readiness: {http: /, host: 'a b'}", "readiness.host: not a Host header"),
    (
        "binary: x, listen: [80], readiness: {http: /, expect: [ok]}",
        "expect[0]: \"ok\" is not a range of HTTP statuses",
    ),
    ("binary: x, listen: [80], readiness: {http: /, expect: []}", "readiness.expect: no status is good"),
    ("binary: x, listen: [80], readiness: {host: a}", "readiness.host: only http has this"),
    ("binary: x, listen: [80], readiness: {timeout: 0s}", "readiness.timeout: must be more than 0"),
    ("binary: x, listen: [80], readiness: {successes: 0}", "readiness.successes: must be at least 1"),
    ("binary: x, listen: [80], readiness: {successes: 11, interval: 3s}", "no worker can be ready in time"),
    ("binary: x, readiness: {alive_for: 1m}", "alive_for: no worker can be ready in time: it needs 60s"),
    ("binary: x, readiness: {notify: true, interval: 1s}", "readiness.interval: has no effect here"),
    ("binary: x, readiness: {exec: []}", "readiness.exec: names no program"),
    ("binary: x, readiness: notify, liveness: on", "liveness: readiness notify and alive_for say nothing"),
    ("binary: x, listen: [80], liveness: {failures: 0}", "liveness.failures: must be at least 1"),
    ("binary: x, listen: [80], liveness: {hung_after: 0s}", "liveness.hung_after: must be more than 0"),
    // Numbers.
    ("binary: x, listen: [80], workers: 0", "web.workers: must be at least 1"),
    ("binary: x, listen: [80], workers: 5000", "web.workers: at most 4096"),
    ("binary: x, listen: [80], rollout: {max_surge: 0}", "rollout.max_surge: a rollout needs room"),
    (
        "binary: x, listen: [80], workers: 1, rollout: {max_unavailable: 1}",
        "with 1 worker this leaves a moment when nobody serves: use max_surge: 1 and max_unavailable: 0",
    ),
    ("binary: x, listen: [80], rollout: {max_unavailable: 4}", "with 4 workers (workers: auto) this leaves a moment"),
    ("binary: x, listen: [80], rollout: {max_draining: 0}", "rollout.max_draining: must be at least 1"),
    (
        "binary: x, listen: [80], rollout: {on_failure: panic}",
        "on_failure: expected rollback or pause, found \"panic\"",
    ),
    ("binary: x, listen: [80], rollout: {hold: soon}", "rollout.hold: \"soon\" is not a duration"),
    ("binary: x, listen: [80], drain: {timeout: 0s}", "drain.timeout: must be more than 0"),
    ("binary: x, listen: [80], drain: {signal: SIGNOPE}", "drain.signal: \"SIGNOPE\" is not a signal"),
    ("binary: x, listen: [80], drain: {signal: KILL}", "SIGKILL cannot ask a worker to finish its work"),
    ("binary: x, listen: [80], drain: {linger: long}", "drain.linger: \"long\" is not a duration"),
    ("binary: x, listen: [80], drain: {max_generations: 0}", "drain.max_generations: must be at least 1"),
    ("binary: x, listen: [80], restart: {backoff: 0s..1s}", "would be started without a pause"),
    ("binary: x, listen: [80], restart: {give_up: 10}", "restart.give_up: \"10\" is not a limit of failures"),
    ("binary: x, listen: [80], logs: {max_size: big}", "logs.max_size: \"big\" is not a size"),
    ("binary: x, listen: [80], logs: {max_size: 1}", "write at least 4KiB"),
    ("binary: x, listen: [80], logs: {files: 0}", "logs.files: must be at least 1"),
    ("binary: x, listen: [80], keep: 0", "web.keep: must be at least 1"),
];

#[test]
fn each_wrong_value_gets_one_answer_that_says_what_to_do() {
    for (keys, piece) in WRONG {
        let told = told(&format!("services: {{web: {{{keys}}}}}"));
        assert!(told.len() == 1 && told[0].contains(piece), "{keys}\nexpected: {piece}\ntold: {told:#?}");
    }
}

#[test]
fn wrong_texts_as_a_whole() {
    for (text, piece) in [
        ("- a\n", "expected a map of keys and values, found a list"),
        ("hello", "expected a map of keys and values, found \"hello\""),
        ("services: []", "services: expected a map of keys and values, found a list"),
        ("services: {}", "services: no service: write `services:`"),
        ("services: {a/b: {command: [x], readiness: notify}}", "\"a/b\" is not a service name"),
        ("a: 1\n---\nb: 2\n", "a second document begins here"),
        ("services: *nope", "not valid YAML"),
        ("services: \"", "not valid YAML"),
        ("\u{0}\u{1}\u{2}ELF", "not valid YAML"),
        (
            "services: {a: {command: [x], listen: [80]}, b: {command: [x], listen: [80]}}",
            "services.b.listen[0]: this address",
        ),
    ] {
        let told = told(text);
        assert!(told.len() == 1 && told[0].contains(piece), "{text:?}\nexpected: {piece}\ntold: {told:#?}");
    }
}

#[test]
fn hostile_texts_are_refused_quickly() {
    let deep = format!("services: {}{}", "[".repeat(10_000), "]".repeat(10_000));
    let deep_blocks: String = (0..1000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..10 {
        let inner = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{inner}]\n"));
    }
    let many: String = (0..40_000).map(|key| format!("k{key}: 1\n")).collect();
    for (what, text) in [("deep", deep), ("deep blocks", deep_blocks), ("bomb", bomb), ("many", many)] {
        let told = told(&text);
        assert!(told.iter().all(|told| told.len() < 500), "{what}: {told:?}");
        assert!(told.len() <= 100, "{what}: {} problems", told.len());
        if what != "many" {
            assert!(
                told[0].contains("larger or more deeply nested") || told[0].contains("not valid YAML"),
                "{what}: {told:?}"
            );
        }
    }
}

#[test]
fn a_long_line_does_not_flood_the_terminal() {
    let shown = printed(&format!("services: {{web: {{binary: x, listen: [80], keep: {}x}}}}", "9".repeat(5000)));
    assert!(shown.lines().all(|line| line.len() < 200), "{shown}");
    let caret = shown.lines().last().expect("a caret");
    assert!(caret.contains('^'), "{shown}");
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("rollout.yaml");
    let error = load(&file, CPUS).expect_err("no file");
    assert!(matches!(&error, ConfigError::Unreadable { path, .. } if *path == file), "{error}");
    assert_eq!(error.to_string(), format!("read configuration {}", file.display()));

    assert!(matches!(load(dir.path(), CPUS), Err(ConfigError::Unreadable { .. })), "a directory");

    std::fs::write(&file, b"services:\n  \xff\xfe: 1\n").expect("written");
    let error = load(&file, CPUS).expect_err("not UTF-8").to_string();
    assert_eq!(error, format!("{}: not UTF-8 text (first bad byte in line 2): save the file as UTF-8", file.display()));

    std::fs::write(&file, vec![b' '; (1 << 20) + 1]).expect("written");
    let Err(ConfigError::Unreadable { source, .. }) = load(&file, CPUS) else { panic!("huge") };
    assert!(source.to_string().contains("larger than 1024 KiB"), "{source}");
}

#[test]
fn a_file_is_loaded_with_paths_relative_to_itself() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("rollout.yaml");
    std::fs::write(
        &file,
        "\u{feff}state_dir: ./state\r\nservices:\r\n  web:\r\n    binary: bin/web\r\n    listen: [0]\r\n",
    )
    .expect("written");
    let settings = load(&file, CPUS).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(settings.state_dir, Some(dir.path().join("state")));
    assert_eq!(settings.socket, None);
    let web = &settings.services[&"web".parse::<ServiceName>().expect("a name")];
    assert_eq!(web.cwd, dir.path());
    assert!(matches!(&web.program, Program::Binary { path, .. } if *path == dir.path().join("bin/web")));
}

#[test]
fn every_key_of_a_full_file_arrives() {
    let web = service(
        r#"
services:
  web:
    binary: ./target/release/web
    command: ["{release}", "--color", 3]
    watch: {settle: 250ms}
    cwd: /tmp
    workers: 8
    handover: listen_fds
    listen:
      - {address: 127.0.0.1:8080, name: http, mode: shared, backlog: 128}
      - {address: "[::]:8081", only_v6: true}
      - {address: "unix:run/web.sock", socket_mode: 0600, owner: www:www}
      - "unix:@web"
    readiness: {http: "/healthz?x=1", host: example.org, expect: [200, 300-302], timeout: 1m, interval: 1s,
                probe_timeout: 5s, successes: 2}
    liveness: {interval: 1m, timeout: 1s, failures: 5, hung_after: 9s}
    rollout: {max_surge: 2, max_unavailable: 3, min_ready: 2s, hold: 1.5s, max_draining: 1, on_failure: pause}
    drain: {timeout: 2m, signal: quit, linger: 3s, settle: 0s, max_generations: 2}
    restart: {backoff: 1s..1m, give_up: 3 in 1h}
    env: {VERSION: 1.10, OFF: off, OCTAL: 0644, EMPTY: "", BIG: 1e999, YES: yes, FLAG: true}
    logs: {max_size: 1GB, files: 2}
    keep: 9
"#,
    );
    let seconds = Duration::from_secs;
    assert_eq!(
        web.program,
        Program::Binary {
            path: PathBuf::from("/srv/app/target/release/web"),
            command: ["{release}", "--color", "3"].map(str::to_owned).to_vec(),
            watch: Watch::On { settle: Duration::from_millis(250) },
        }
    );
    assert_eq!(web.cwd, PathBuf::from("/tmp"));
    let env: Vec<(&str, &str)> = web.env.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let kept = [
        ("BIG", "1e999"),
        ("EMPTY", ""),
        ("FLAG", "true"),
        ("OCTAL", "0644"),
        ("OFF", "off"),
        ("VERSION", "1.10"),
        ("YES", "yes"),
    ];
    assert_eq!(env, kept, "a value is the text that was written");
    let [http, v6, unix, named] = &web.listen[..] else { panic!("{:?}", web.listen) };
    let tcp = |at: &str, only_v6| Address::Tcp { at: at.parse().expect("an address"), only_v6 };
    let listen = |name: &str, address, mode, backlog| Listen { name: name.into(), address, mode, backlog, alias: None };
    assert_eq!(*http, listen("http", tcp("127.0.0.1:8080", false), Mode::Shared, 128));
    assert_eq!(*v6, listen("8081", tcp("[::]:8081", true), Mode::Steered, 4096));
    let socket = Address::Unix { path: "/srv/app/run/web.sock".into(), mode: 0o600, owner: Some("www:www".into()) };
    assert_eq!(*unix, listen("web.sock", socket, Mode::Shared, 4096));
    assert_eq!(named.address, Address::Abstract { name: "web".into() });
    let expect = vec![(200, 200), (300, 302)];
    assert_eq!(web.health.check, Check::Http { path: "/healthz?x=1".into(), host: "example.org".into(), expect });
    assert_eq!(web.health.readiness, Pace { interval: seconds(1), timeout: seconds(5), successes: 2, failures: 1 });
    let liveness = Pace { interval: seconds(60), timeout: seconds(1), successes: 1, failures: 5 };
    assert_eq!((web.health.liveness, web.health.hung_after), (Some(liveness), seconds(9)));
    let limits = &web.limits;
    assert_eq!((limits.workers, limits.max_surge, limits.max_unavailable, limits.max_draining), (8, 2, 3, 1));
    assert_eq!((limits.min_ready, limits.hold), (seconds(2), Duration::from_millis(1500)));
    assert_eq!((limits.on_failure, limits.ready_timeout), (OnFailure::Pause, seconds(60)));
    assert_eq!((limits.settle, limits.linger), (Duration::ZERO, Linger::For(seconds(3))));
    assert_eq!((limits.drain_timeout, limits.max_generations), (seconds(120), 2));
    assert_eq!(limits.backoff, Backoff { min: seconds(1), max: seconds(60) });
    assert_eq!(limits.give_up, GiveUp { failures: 3, within: seconds(3600) });
    assert_eq!((web.stop_signal, web.keep), (Signal(3), 9));
    assert_eq!((web.logs.max_size, web.logs.files), (1_000_000_000, 2));
}

#[test]
fn little_need_be_written() {
    let web = web("binary: web, listen: [8080]");
    let command = vec!["{release}".to_owned()];
    let watch = Watch::On { settle: Duration::from_secs(1) };
    assert_eq!(web.program, Program::Binary { path: "/srv/app/web".into(), command, watch });
    assert_eq!(web.limits.workers, CPUS);
    assert_eq!(web.limits.max_draining, CPUS, "as many as there are workers");
    assert_eq!(web.health.check, Check::Accept);
    assert_eq!(web.health.liveness, None);
    assert_eq!((web.stop_signal, web.keep), (Signal::TERM, 5));
    assert_eq!(web.cwd, PathBuf::from("/srv/app"));
}

#[test]
fn short_forms_and_long_forms_mean_the_same() {
    for (short, long) in [
        ("listen: [8080]", "listen: [{address: '0.0.0.0:8080', mode: steered}]"),
        ("listen: [80], readiness: accept", "listen: [80], readiness: {accept: true}"),
        ("readiness: notify", "readiness: {notify: true}"),
        ("listen: [80], liveness: off", "listen: [80], liveness: false"),
        ("listen: [80], liveness: on", "listen: [80], liveness: {interval: 10s, timeout: 2s, failures: 3}"),
        ("listen: [80], command: ['{release}']", "listen: [80]"),
        ("listen: [80], watch: true", "listen: [80], watch: {settle: 1s}"),
    ] {
        assert_eq!(web(&format!("binary: x, {short}")), web(&format!("binary: x, {long}")), "{short}");
    }
}

#[test]
fn liveness_is_on_where_it_means_something() {
    let is_on = |keys: &str| web(&format!("binary: x, listen: [80], {keys}")).health.liveness.is_some();
    assert!(is_on("readiness: {http: /}") && is_on("readiness: {exec: [true]}"));
    assert!(!is_on("readiness: {http: /}, liveness: off"));
    assert!(!is_on("readiness: accept") && !is_on("readiness: notify") && !is_on("readiness: {alive_for: 1s}"));
    assert!(is_on("liveness: {failures: 2}"));
    assert!(!is_on("liveness: {hung_after: 1s}"), "that is about queues");
}

#[test]
fn the_release_may_be_part_of_an_argument() {
    let web = web("binary: x, listen: [80], command: [sh, -c, 'exec {release} --color']");
    assert!(matches!(web.program, Program::Binary { command, .. } if command[2] == "exec {release} --color"));
}

#[test]
fn listeners_have_unique_names_without_being_given_any() {
    let web = web(
        "binary: x, listen: [0, 0, '127.0.0.1:80', '127.0.0.2:80', {address: 'unix:/a/80'}, {address: 9, name: 80-2}]",
    );
    let names: BTreeSet<&str> = web.listen.iter().map(|listen| listen.name.as_str()).collect();
    assert_eq!(names.len(), 6, "{names:?}");
}

#[test]
fn anchors_and_merges_save_repetition() {
    let settings = read(
        "services:\n  a: &a\n    command: [x]\n    listen: [80]\n    keep: 7\n    env: {A: &n 1.10, B: *n}\n  b:\n    <<: *a\n    listen: [81]\n",
    );
    let settings = settings.unwrap_or_else(|problems| panic!("{}", problem::list(&problems)));
    let ports: Vec<&str> = settings.services.values().map(|service| service.listen[0].name.as_str()).collect();
    assert_eq!(ports, ["80", "81"]);
    assert!(settings.services.values().all(|service| service.keep == 7 && service.env["B"] == "1.10"));
}

#[test]
fn the_sample_is_a_file_that_works_and_its_comments_are_the_defaults() {
    let text = sample::sample("web", "./target/release/my app", "0.0.0.0:8080");
    let plain = service(&text);
    assert!(matches!(&plain.program, Program::Binary { path, .. } if path.ends_with("target/release/my app")));

    let is_key = |line: &str| {
        line.trim_start()
            .split_once(':')
            .is_some_and(|(key, _)| key.bytes().all(|b| b.is_ascii_alphabetic() || b == b'_'))
    };
    let uncommented: Vec<String> = text
        .lines()
        .map(|line| match line.strip_prefix("    # ") {
            Some(rest) if is_key(rest) => format!("    {rest}"),
            _ => line.to_owned(),
        })
        .collect();
    let mut full = service(&uncommented.join("\n"));
    assert!(!full.env.is_empty(), "comments were not taken away: {uncommented:#?}");
    full.env.clear();
    assert_eq!(full, plain);
}

/// The keys that the schema has for the map that is found by walking `steps`.
fn keys_in_schema(schema: &serde_json::Value, steps: &[&str]) -> BTreeSet<String> {
    fn follow<'s>(root: &'s serde_json::Value, mut at: &'s serde_json::Value) -> &'s serde_json::Value {
        loop {
            if let Some(name) = at["$ref"].as_str() {
                at = root.pointer(name.trim_start_matches('#')).expect("a definition");
            } else if let Some(forms) = at["anyOf"].as_array() {
                at = forms
                    .iter()
                    .map(|form| follow(root, form))
                    .find(|form| form["properties"].is_object())
                    .expect("a map");
            } else {
                return at;
            }
        }
    }
    let mut at = follow(schema, schema);
    for step in steps {
        at = follow(
            schema,
            match *step {
                "*" => &at["additionalProperties"],
                "[]" => &at["items"],
                key => &at["properties"][key],
            },
        );
    }
    at["properties"].as_object().expect("a map").keys().cloned().collect()
}

#[test]
fn the_schema_has_the_keys_that_the_reader_takes() {
    let schema: serde_json::Value = serde_json::from_str(&schema::json()).expect("JSON");
    let web = |key: &str| format!("services: {{web: {{command: [x], readiness: notify, {key}}}}}");
    for (text, steps) in [
        ("zzzzzzzz: 1\nservices: {a: {command: [x], readiness: notify}}".to_owned(), &[][..]),
        (web("zzzzzzzz: 1"), &["services", "*"]),
        (web("watch: {zzzzzzzz: 1}"), &["services", "*", "watch"]),
        (web("listen: [{address: 80, zzzzzzzz: 1}]"), &["services", "*", "listen", "[]"]),
        (
            "services: {a: {command: [x], readiness: {notify: true, zzzzzzzz: 1}}}".to_owned(),
            &["services", "*", "readiness"],
        ),
        (web("liveness: {zzzzzzzz: 1}"), &["services", "*", "liveness"]),
        (web("rollout: {zzzzzzzz: 1}"), &["services", "*", "rollout"]),
        (web("drain: {zzzzzzzz: 1}"), &["services", "*", "drain"]),
        (web("restart: {zzzzzzzz: 1}"), &["services", "*", "restart"]),
        (web("logs: {zzzzzzzz: 1}"), &["services", "*", "logs"]),
    ] {
        let told = told(&text);
        let answer = told.iter().find(|told| told.contains("unknown key")).expect("an unknown key");
        let valid = answer.split_once("(valid here: ").and_then(|(_, rest)| rest.strip_suffix(')')).expect("the keys");
        let known: BTreeSet<String> = valid.split(", ").map(str::to_owned).collect();
        assert_eq!(known, keys_in_schema(&schema, steps), "{steps:?}");
    }
}

fn flags(listen: &[&str], command: &[&str]) -> Flags {
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    Flags { listen: owned(listen), command: owned(command), ..Flags::default() }
}

fn flagged(flags: &Flags) -> Result<(String, Service), String> {
    match from_flags(flags, Path::new("/home/me"), CPUS) {
        Ok(settings) => {
            let (name, service) = settings.services.into_iter().next().expect("a service");
            Ok((name.to_string(), service))
        }
        Err(problems) => Err(problem::list(&problems)),
    }
}

#[test]
fn what_a_program_binds_itself_can_be_another_port_or_path() {
    let (_, plain) =
        flagged(&Flags { handover: Some("intercept".to_owned()), ..flags(&["80"], &["x"]) }).expect("good");
    assert_eq!((plain.handover, plain.listen[0].alias.clone()), (Handover::Intercept, None));
    let unix = "{address: 'unix:/run/y', as: 'unix:y.sock'}";
    let web = web(&format!("binary: x, handover: auto, listen: [{{address: 80, as: 3000}}, {unix}]"));
    assert_eq!(web.handover, Handover::Auto);
    assert_eq!(web.listen[0].alias, Some(Alias::Port(3000)));
    assert!(matches!(&web.listen[1].alias, Some(Alias::Path(path)) if path.is_absolute() && path.ends_with("y.sock")));
    let wrong = flagged(&Flags { handover: Some("magic".to_owned()), ..flags(&["80"], &["x"]) });
    assert!(wrong.expect_err("no such way").contains("--handover"));
}

#[test]
fn flags_are_a_configuration_without_a_file() {
    let mut given = flags(&["8080", "unix:@x"], &["./server", "--x"]);
    given.workers = Some("2".to_owned());
    given.readiness = Some("http:/healthz".to_owned());
    given.env = ["A=1", "B=x=y", "A=2"].map(str::to_owned).to_vec();
    let (name, service) = flagged(&given).expect("good");
    assert_eq!(name, "server");
    let command = vec!["{release}".to_owned(), "--x".to_owned()];
    let watch = Watch::On { settle: Duration::from_secs(1) };
    assert_eq!(service.program, Program::Binary { path: "/home/me/server".into(), command, watch });
    assert_eq!((service.limits.workers, service.listen.len()), (2, 2));
    assert!(matches!(&service.health.check, Check::Http { path, .. } if path == "/healthz"));
    let env: Vec<(&str, &str)> = service.env.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_eq!(env, [("A", "2"), ("B", "x=y")]);
    assert_eq!(service.cwd, PathBuf::from("/home/me"));

    let (name, service) = flagged(&flags(&["80"], &["node", "server.js"])).expect("good");
    assert_eq!(name, "node");
    let command = vec!["node".to_owned(), "server.js".to_owned()];
    assert_eq!(service.program, Program::Command { command });
}

#[test]
fn wrong_flags_are_named_by_their_flag() {
    let mut given = flags(&["80800", "8080"], &["node"]);
    given.workers = Some("many".to_owned());
    given.env = vec!["NOVALUE".to_owned()];
    given.readiness = Some("htp:/".to_owned());
    given.name = Some("a b".to_owned());
    let told = flagged(&given).expect_err("bad");
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines.len(), 5, "{told}");
    for line in [
        "--env: \"NOVALUE\" has no value: write KEY=VALUE",
        "--workers: expected a whole number or auto, found \"many\"",
        "--listen: \"80800\" is not an address: a port is at most 65535",
    ] {
        assert!(lines.contains(&line), "{told}");
    }
    assert!(lines.iter().any(|line| line.starts_with("--readiness: unknown key; did you mean \"http\"?")), "{told}");
    assert!(lines.iter().any(|line| line.starts_with("--name: \"a b\" is not a service name")), "{told}");
    assert!(flagged(&flags(&["80"], &[])).is_err_and(|told| told.contains("-- COMMAND: names no program")));
}

#[test]
fn secrets_do_not_reach_snapshots() {
    let web = web("binary: x, listen: [80], env: {DB_PASSWORD: a, api_key: b, GITHUB_TOKEN: c, RUST_LOG: info}");
    let masked: Vec<String> = web.masked().env.into_values().collect();
    assert_eq!(masked, ["***", "***", "info", "***"]);
}

#[test]
fn a_service_survives_the_state_file() {
    let web = web("binary: x, listen: [80, 'unix:a', 'unix:@b'], readiness: {http: /}, env: {A: b}");
    let text = serde_json::to_string(&web).expect("written");
    assert_eq!(serde_json::from_str::<Service>(&text).expect("read"), web);
}

proptest::proptest! {
    /// Whatever is in a file, it is answered and can be printed.
    #[test]
    fn no_text_makes_it_panic(pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..40), noise in ".{0,20}") {
        let text = pieces.concat();
        for text in [text.clone(), format!("{text}{noise}"), format!("services:\n  web:\n    {text}")] {
            if let Err(problems) = read(&text) {
                assert!(!problem::list(&problems).is_empty());
            }
        }
    }
}

const PIECES: &[&str] = &[
    "services",
    "web",
    "binary",
    "listen",
    "readiness",
    "http",
    "rollout",
    "env",
    "workers",
    ": ",
    ":",
    "\n",
    "\n  ",
    "\n    ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    ", ",
    "\"",
    "'",
    "8080",
    "1.5",
    "true",
    "off",
    "~",
    "&a ",
    "*a",
    "<<: ",
    "|\n",
    ">",
    "# ",
    "!!str ",
    "!x ",
    "\t",
    "\r\n",
    "é",
    "\u{feff}",
    "\u{2028}",
    "---\n",
    "...\n",
    "? ",
    "%",
    "@",
    "{release}",
];
