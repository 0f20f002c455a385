//! `rollout run --listen 8080 --workers 4 -- ./server --x`: flags become the same tree that a file becomes, and pass
//! the same rules.

use std::path::Path;

use super::check::Surroundings;
use super::load;
use super::problem::{At, Place, Problem, Problems};
use super::settings::Settings;
use super::tree::{Node, Shape, clipped};

/// What was typed. Nothing is checked yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--name`; the program's file name if not given.
    pub name: Option<String>,
    /// `--listen`, any number of times.
    pub listen: Vec<String>,
    /// `--workers`.
    pub workers: Option<String>,
    /// `--readiness`: `accept`, `notify`, `http:/path`, `exec:command` or `alive_for:5s`.
    pub readiness: Option<String>,
    /// `--handover`: `listen_fds`, `intercept` or `auto`.
    pub handover: Option<String>,
    /// `--env KEY=VALUE`, any number of times; the last one of a key counts.
    pub env: Vec<String>,
    /// `--cwd`; the current directory if not given.
    pub cwd: Option<String>,
    /// What follows `--`.
    pub command: Vec<String>,
}

/// Checks flags. Relative paths begin at `dir`, the absolute current directory; `cpus` is what `--workers auto` means.
pub fn from_flags(flags: &Flags, dir: &Path, cpus: u32) -> Result<Settings, Vec<Problem>> {
    let mut problems = Problems::new("", "");
    let tree = tree(flags, &mut problems);
    let settings = load::settings(&tree, &Surroundings { dir, cpus }, &mut problems);
    problems.unless_any(settings)
}

const COMMAND: &str = "-- COMMAND";

fn tree(flags: &Flags, problems: &mut Problems<'_>) -> Node {
    let mut service = Map(Vec::new());
    program(&flags.command, &mut service);
    if let Some(workers) = &flags.workers {
        service.put("workers", text(workers, "--workers"));
    }
    if let Some(cwd) = &flags.cwd {
        service.put("cwd", text(cwd, "--cwd"));
    }
    if let Some(readiness) = &flags.readiness {
        service.put("readiness", self::readiness(readiness));
    }
    if let Some(handover) = &flags.handover {
        service.put("handover", text(handover, "--handover"));
    }
    if !flags.listen.is_empty() {
        let addresses = flags.listen.iter().map(|address| text(address, "--listen")).collect();
        service.put("listen", node(Shape::List(addresses), "--listen"));
    }
    if !flags.env.is_empty() {
        service.put("env", env(&flags.env, problems));
    }
    let mut services = Map(Vec::new());
    services.0.push((text(&name(flags), "--name"), node(Shape::Map(service.0), COMMAND)));
    let mut root = Map(Vec::new());
    root.put("services", node(Shape::Map(services.0), COMMAND));
    node(Shape::Map(root.0), COMMAND)
}

/// A program with a path is a file that can be deployed anew; a bare word is looked up in `PATH` and run in place.
fn program(command: &[String], service: &mut Map) {
    let mut words = command.to_vec();
    if let Some(program) = words.first_mut()
        && program.contains('/')
    {
        service.put("binary", text(program, COMMAND));
        "{release}".clone_into(program);
    }
    let words = words.iter().map(|word| text(word, COMMAND)).collect();
    service.put("command", node(Shape::List(words), COMMAND));
}

fn name(flags: &Flags) -> String {
    if let Some(name) = &flags.name {
        return name.clone();
    }
    let program = flags.command.first().and_then(|program| Path::new(program).file_stem());
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '-' };
    let name: String =
        program.map(|stem| stem.to_string_lossy().chars().map(plain).take(64).collect()).unwrap_or_default();
    let name = name.trim_start_matches(['-', '_']);
    if name.is_empty() { "service".to_owned() } else { name.to_owned() }
}

/// `http:/path` is `{http: /path}`; a word stays a word.
fn readiness(flag: &str) -> Node {
    const FLAG: &str = "--readiness";
    let Some((kind, value)) = flag.split_once(':') else {
        return text(flag, FLAG);
    };
    let mut map = Map(Vec::new());
    let value = match kind {
        // As a shell would split it; quotes belong into a file.
        "exec" => node(Shape::List(value.split_whitespace().map(|word| text(word, FLAG)).collect()), FLAG),
        _ => text(value, FLAG),
    };
    map.0.push((text(kind, FLAG), value));
    node(Shape::Map(map.0), FLAG)
}

fn env(flags: &[String], problems: &mut Problems<'_>) -> Node {
    const FLAG: &str = "--env";
    let mut map = Map(Vec::new());
    for flag in flags {
        let Some((key, value)) = flag.split_once('=') else {
            let at = At { place: Place::Flag(FLAG), path: String::new() };
            problems.add(&at, format!("{:?} has no value: write KEY=VALUE", clipped(flag)));
            continue;
        };
        map.0.retain(|(earlier, _)| !matches!(&earlier.shape, Shape::Scalar(text) if text == key));
        map.0.push((text(key, FLAG), text(value, FLAG)));
    }
    node(Shape::Map(map.0), FLAG)
}

/// The entries of a map under construction.
struct Map(Vec<(Node, Node)>);

impl Map {
    fn put(&mut self, key: &'static str, value: Node) {
        self.0.push((Node { place: value.place, shape: Shape::Scalar(key.to_owned()) }, value));
    }
}

fn text(text: &str, flag: &'static str) -> Node {
    node(Shape::Scalar(text.to_owned()), flag)
}

fn node(shape: Shape, flag: &'static str) -> Node {
    Node { place: Place::Flag(flag), shape }
}
