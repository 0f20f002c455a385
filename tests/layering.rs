//! The structure of `src/` is a fact, not a wish: floors, doors, purity, sizes.
//!
//! - A file names only its own folder and floors below (the drawing is in `src/lib.rs`).
//! - A crate is named only where its line in `Cargo.toml` says: `# reason: door, door`.
//! - `unsafe` is in `sys/` alone, and `machine/` knows no clock and no outside world.

use std::fs;
use std::path::Path;

/// What each floor may name besides itself. A file of its own goes before its folder.
const FLOORS: &[(&str, &[&str])] = &[
    ("main.rs", &["cli"]),
    ("lib.rs", &[]),
    ("cli/run.rs", &["wire", "config", "units", "agent", "keeper"]),
    ("cli/host.rs", &["sys", "units"]),
    ("cli/", &["wire", "config", "units"]),
    ("agent/", &["keeper", "sys", "wire", "config", "release", "machine", "units"]),
    ("keeper/", &["sys", "units"]),
    ("sys/", &["units"]),
    ("wire/", &["units"]),
    ("config/", &["machine", "units"]),
    ("release/", &["units"]),
    ("machine/", &["units"]),
    ("units.rs", &[]),
];

/// The top-level modules; any other name after `crate::` is an item of the file's own.
const MODULES: &[&str] = &["cli", "agent", "keeper", "sys", "wire", "config", "release", "machine", "units"];

/// What the pure floors must not know.
const OUTSIDE_WORLD: &[&str] = &["env", "fs", "io", "net", "os", "process", "thread"];

/// A file that is longer, without its tests, has grown two subjects.
const LONGEST_FILE: usize = 600;

/// Args in, exit code out.
const LONGEST_MAIN: usize = 20;

/// A crate and the paths under `src/` that may name it.
struct Door {
    name: String,
    paths: Vec<String>,
}

#[test]
fn the_sources_keep_to_their_floors() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let doors = doors(&fs::read_to_string(root.join("Cargo.toml")).expect("read Cargo.toml"));
    let mut found = Vec::new();
    let mut files = 0;
    let mut folders = vec![root.join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("read a folder of src") {
            let path = entry.expect("read an entry of src").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(root.join("src")).expect("it is in src").display().to_string();
                found.extend(problems(&name, &fs::read_to_string(&path).expect("read a source"), &doors));
                files += 1;
            }
        }
    }
    assert!(files > 20, "only {files} files were looked at");
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

/// Everything that is wrong with one file.
fn problems(file: &str, text: &str, doors: &[Door]) -> Vec<String> {
    let code = code_of(text);
    let paths = paths_in(&code);
    let mut found = Vec::new();
    let Some((floor, below)) = FLOORS.iter().find(|(floor, _)| file.starts_with(floor)) else {
        return vec![format!("{file}: on no floor; FLOORS in tests/layering.rs must say what it may name")];
    };
    let own = file.split(['/', '.']).next().unwrap_or_default();
    for module in paths.iter().filter_map(|path| module_named(file, path)) {
        if module != own && !below.contains(&module) {
            found.push(format!("{file}: names crate::{module}, which is not below {floor}"));
        }
    }
    // A test may bring its own tools.
    let shipped = code_of(without_tests(file, text));
    let shipped = paths_in(&shipped);
    for Door { name, paths: doors } in doors {
        let named = shipped.iter().any(|path| path[0] == *name && path.len() > 1);
        if named && !doors.iter().any(|door| file.starts_with(door)) {
            found.push(format!("{file}: names {name}, whose doors are {}", doors.join(", ")));
        }
    }
    if paths.iter().any(|path| path[0] == "unsafe") && !file.starts_with("sys/") {
        found.push(format!("{file}: has unsafe code, which belongs in sys/"));
    }
    if file.starts_with("machine/") || file == "units.rs" {
        found.extend(impurities(file, &paths));
    }
    let length = without_tests(file, text).lines().count();
    if length > LONGEST_FILE || (file == "main.rs" && length > LONGEST_MAIN) {
        found.push(format!("{file}: {length} lines without its tests"));
    }
    found.sort();
    found.dedup();
    found
}

fn impurities(file: &str, paths: &[Vec<&str>]) -> Vec<String> {
    let impure = |path: &&Vec<&str>| match path[..] {
        ["std", module, ..] if OUTSIDE_WORLD.contains(&module) => true,
        ["tokio" | "tracing" | "nix" | "libc", _, ..] => true,
        _ => path.iter().any(|name| ["Instant", "SystemTime"].contains(name)),
    };
    paths.iter().filter(impure).map(|path| format!("{file}: must stay pure, but names {}", path.join("::"))).collect()
}

/// The top-level module that a path leads to, through `crate::` or through enough of `super::`.
fn module_named<'a>(file: &str, path: &[&'a str]) -> Option<&'a str> {
    let depth = file.split('/').filter(|part| !["mod.rs", "main.rs", "lib.rs"].contains(part)).count();
    let ups = path.iter().take_while(|name| **name == "super").count();
    let module = match path[0] {
        "crate" | "rollout" => path.get(1),
        _ if ups > 0 && ups >= depth => path.get(ups),
        _ => None,
    };
    module.copied().filter(|module| MODULES.contains(module))
}

/// The dependencies whose comment names doors.
fn doors(manifest: &str) -> Vec<Door> {
    let section = manifest.split("\n[").find(|section| section.starts_with("dependencies]")).expect("dependencies");
    let lines = section.lines().skip(1).filter_map(|line| {
        let (name, rest) = line.split_once(" = ")?;
        let (_, comment) = rest.rsplit_once(" # ")?;
        let (_, paths) = comment.rsplit_once(": ")?;
        let paths = paths.split(", ").map(str::to_owned).collect();
        Some(Door { name: name.replace('-', "_"), paths })
    });
    lines.collect()
}

fn without_tests<'a>(file: &str, text: &'a str) -> &'a str {
    match text.find("\n#[cfg(test)]\n") {
        _ if file.ends_with("/tests.rs") => "",
        Some(end) => &text[..=end],
        None => text,
    }
}

/// The text without what is in comments, strings and character literals.
fn code_of(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n')
        } else if rest.starts_with("/*") {
            rest.find("*/").map(|end| end + 2)
        } else if let Some(hashes) = raw_string(rest) {
            let closing = format!("\"{}", "#".repeat(hashes));
            let start = hashes + 2;
            rest[start..].find(&closing).map(|end| start + end + closing.len())
        } else if first == '"' {
            end_of_string(rest)
        } else if rest.starts_with("'\"'") || rest.starts_with("'\\") {
            rest[2..].find('\'').map(|end| end + 3)
        } else {
            code.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        code.push(' ');
        rest = &rest[skipped.unwrap_or(rest.len())..];
    }
    code
}

/// The number of hashes if a raw string begins here.
fn raw_string(text: &str) -> Option<usize> {
    let rest = text.strip_prefix('r')?;
    let hashes = rest.len() - rest.trim_start_matches('#').len();
    rest[hashes..].starts_with('"').then_some(hashes)
}

fn end_of_string(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (index, letter) in text.char_indices().skip(1) {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(index + 1),
            _ => {}
        }
    }
    None
}

/// Every path, with groups taken apart: `a::{b, c::d}` is `a::b` and `a::c::d`. A single name is a path, too.
fn paths_in(code: &str) -> Vec<Vec<&str>> {
    let tokens = tokens(code);
    let mut paths = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if is_name(tokens[at]) {
            at = read_path(&tokens, at, &[], &mut paths);
        } else {
            at += 1;
        }
    }
    paths
}

/// Reads the path that begins at `at`; where it ends.
fn read_path<'a>(tokens: &[&'a str], mut at: usize, prefix: &[&'a str], paths: &mut Vec<Vec<&'a str>>) -> usize {
    let mut path = prefix.to_vec();
    loop {
        path.push(tokens[at]);
        at += 1;
        match (tokens.get(at), tokens.get(at + 1)) {
            (Some(&"::"), Some(name)) if is_name(name) => at += 1,
            (Some(&"::"), Some(&"{")) => {
                at += 2;
                while at < tokens.len() && tokens[at] != "}" {
                    at = if is_name(tokens[at]) { read_path(tokens, at, &path, paths) } else { at + 1 };
                }
                return at + 1;
            }
            _ => {
                paths.push(path);
                return at;
            }
        }
    }
}

fn tokens(code: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = code.trim_start();
    while let Some(first) = rest.chars().next() {
        let name = rest.len() - rest.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_').len();
        let length = if name > 0 {
            name
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        tokens.push(&rest[..length]);
        rest = rest[length..].trim_start();
    }
    tokens
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

mod on_made_up_sources {
    use super::{Door, doors, paths_in, problems};

    fn found(file: &str, text: &str) -> Vec<String> {
        let door = |name: &str, path: &str| Door { name: name.to_owned(), paths: vec![path.to_owned()] };
        problems(file, text, &[door("sha2", "release/digest.rs"), door("nix", "sys/"), door("hyper", "agent/prober")])
    }

    #[test]
    fn a_name_from_a_floor_above_or_beside_is_found() {
        for (file, text) in [
            ("machine/slot.rs", "use crate::agent::clock;"),
            ("machine/slot.rs", "use crate::{units::Slot, config::{settings, raw}};"),
            ("wire/api.rs", "fn f() -> crate::release::Store { loop {} }"),
            ("cli/status.rs", "use crate::agent::Agent;"),
            ("keeper/mod.rs", "use super::agent::Agent;"),
            ("sys/net/tcp.rs", "use super::super::super::wire::api;"),
            ("units.rs", "impl From<crate::machine::view::View> for X {}"),
        ] {
            assert_eq!(found(file, text).len(), 1, "{file}: {text}: {:?}", found(file, text));
        }
    }

    #[test]
    fn names_from_below_and_from_the_own_folder_are_fine() {
        for (file, text) in [
            ("machine/slot.rs", "use crate::machine::event::Event; use crate::units::Slot; use super::event;"),
            ("agent/prober/http.rs", "use super::super::lanes::Lanes; use hyper::Request;"),
            ("cli/run.rs", "use crate::{agent, keeper};"),
            (
                "wire/api.rs",
                "//! See [`crate::agent`].\nconst A: &str = \"crate::agent::x // \\\" \"; /* crate::cli::x */",
            ),
            ("wire/api.rs", "const A: &str = r#\"crate::agent::x \" \"#; const B: char = '\"'; const C: char = '\\'';"),
        ] {
            assert_eq!(found(file, text), Vec::<String>::new(), "{file}: {text}");
        }
    }

    #[test]
    fn a_crate_away_from_its_door_is_found() {
        assert_eq!(found("release/digest.rs", "use sha2::Sha256;"), Vec::<String>::new());
        assert_eq!(found("release/store.rs", "fn f() { sha2::Sha256::new() }").len(), 1);
        assert_eq!(found("agent/lanes.rs", "use nix::sys::{socket, wait};").len(), 1);
        assert_eq!(found("agent/lanes.rs", "use crate::sys::nix::x;"), Vec::<String>::new());
        assert_eq!(found("agent/lanes.rs", "fn f() {}\n#[cfg(test)]\nmod tests { use nix::x; }"), Vec::<String>::new());
    }

    #[test]
    fn unsafe_code_outside_sys_is_found() {
        assert_eq!(found("sys/fd.rs", "unsafe { f() }"), Vec::<String>::new());
        assert_eq!(found("keeper/mod.rs", "unsafe { f() }").len(), 1);
        assert_eq!(found("keeper/mod.rs", "#![expect(unsafe_code)] // unsafe"), Vec::<String>::new());
    }

    #[test]
    fn a_clock_or_a_file_in_the_machine_is_found() {
        assert_eq!(found("machine/slot.rs", "use std::time::Duration;"), Vec::<String>::new());
        for text in ["use std::time::{Duration, Instant};", "std::fs::read(x)", "use std::{fmt, net::IpAddr};"] {
            assert_eq!(found("machine/slot.rs", text).len(), 1, "{text}");
        }
    }

    #[test]
    fn a_long_file_is_found_and_its_tests_do_not_count() {
        let line = "fn f() {}\n";
        assert_eq!(found("wire/api.rs", &line.repeat(601)).len(), 1);
        assert_eq!(found("main.rs", &line.repeat(21)).len(), 1);
        let with_tests = line.repeat(600) + "#[cfg(test)]\nmod tests {\n" + &line.repeat(600) + "}\n";
        assert_eq!(found("wire/api.rs", &with_tests), Vec::<String>::new());
        assert_eq!(found("agent/prober/tests.rs", &line.repeat(601)), Vec::<String>::new());
    }

    #[test]
    fn a_file_on_no_floor_is_found() {
        assert_eq!(found("misc.rs", "").len(), 1);
    }

    #[test]
    fn doors_are_read_from_the_manifest() {
        let manifest = "[package]\nname = \"x\" # a: b\n\n[dependencies]\n\
            a-b = { version = \"1\", features = [\"c\"] } # does this: agent/control, cli/client.rs\n\
            serde = \"1\" # data in files\n\n[dev-dependencies]\nc = \"1\" # d: e\n";
        let doors = doors(manifest);
        assert_eq!(doors.len(), 1);
        assert_eq!(
            (doors[0].name.as_str(), &doors[0].paths[..]),
            ("a_b", &["agent/control".to_owned(), "cli/client.rs".to_owned()][..])
        );
    }

    #[test]
    fn groups_are_taken_apart() {
        let paths = paths_in("use a::{b, c::{d, e}, f as g}; h");
        let joined: Vec<String> = paths.iter().map(|path| path.join("::")).collect();
        assert_eq!(joined, ["use", "a::b", "a::c::d", "a::c::e", "a::f", "a::as", "a::g", "h"]);
    }
}
