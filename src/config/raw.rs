//! What can be written: every key with its kind, and the door to the JSON Schema crate.
//!
//! The `map!` blocks are the only list of keys: the struct, its reader and its schema all come from them. Nothing here
//! knows a default or a rule; those are in `check/`.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::config::settings::{Handover, Mode};
use crate::machine::limits::{Backoff, GiveUp, Linger, OnFailure};
use crate::units::Signal;

use super::human::Endpoint;
use super::problem::{At, Problems};
use super::read::{
    Alias, Count, Field, Known, List, Named, Permissions, Read, Size, Statuses, Switch, Switchable, Text, Time,
    Workers, Yes, known_entries,
};
use super::tree::{Node, Shape, clipped};

/// How a key is written: as its field, unless that would be a word of Rust.
macro_rules! key {
    ($key:ident) => {
        stringify!($key)
    };
    ($key:ident $written:literal) => {
        $written
    };
}

/// Declares a map with fixed keys. `or SCALAR: SCHEMA` adds a short form: a function from its text to the map.
macro_rules! map {
    ($(#[doc = $about:literal])* $name:ident $(or $short:path: $form:tt)? {
        $($(#[doc = $doc:literal])* $key:ident $(= $written:literal)?: $type:ty,)*
    }) => {
        $(#[doc = $about])*
        #[derive(Debug, Default)]
        pub(super) struct $name {
            $($(#[doc = $doc])* pub(super) $key: Field<$type>,)*
        }

        impl Read for $name {
            fn read(node: &Node, at: &At, problems: &mut Problems<'_>) -> Option<Self> {
                $(if let Shape::Scalar(text) = &node.shape {
                    return $short(text, at).map_err(|advice| problems.add(at, advice)).ok();
                })?
                let mut map = Self::default();
                for entry in known_entries(node, at, &[$(key!($key $($written)?)),*], problems)? {
                    match entry {
                        $(Known::Key(key!($key $($written)?), value, at) => map.$key = Field::read(value, at, problems),)*
                        $(Known::Meant(key!($key $($written)?)) => map.$key.miss(),)*
                        Known::Key(..) | Known::Meant(_) => {}
                    }
                }
                Some(map)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                let keys = [$((key!($key $($written)?), concat!($($doc),*), generator.subschema_for::<$type>())),*];
                let map = object(keys);
                $(let map = json_schema!({ "anyOf": [$form, map] });)?
                map
            }
        }
    };
}

map! {
    /// A whole file.
    Root {
        /// The services, by name.
        services: Named<Service>,
        /// Where releases and state are kept.
        state_dir: Text,
        /// The control socket.
        socket: Text,
    }
}

map! {
    /// One service.
    Service {
        /// The file whose content is the release; a new content is rolled out.
        binary: Text,
        /// Program and arguments; {release} is the stored copy of `binary`. Default: ["{release}"].
        command: List<Text>,
        /// Whether a new content of `binary` starts a rollout by itself. Default: true.
        watch: Switchable<Watch>,
        /// Working directory of the workers. Default: the directory of this file.
        cwd: Text,
        /// Added to the environment.
        env: Named<Text>,
        /// How many workers; auto is one per CPU that this agent may use. Default: auto.
        workers: Workers,
        /// The sockets, in the order in which workers get them (fd 3 first).
        listen: List<Listener>,
        /// How a worker gets its sockets: passed as systemd does (listen_fds), for its own bind() of the same port (intercept), or
        /// both (auto). Default: listen_fds.
        handover: Handover,
        /// When a worker is ready. Default: accept.
        readiness: Readiness,
        /// How a ready worker is watched. Default: as readiness for http and exec, off for the rest.
        liveness: Switchable<Liveness>,
        /// How workers are replaced.
        rollout: Rollout,
        /// How an old worker is retired.
        drain: Drain,
        /// What happens to a worker that dies.
        restart: Restart,
        /// Rotation of the kept worker output.
        logs: Logs,
        /// How many releases to keep. Default: 5.
        keep: Count,
    }
}

map! {
    /// How `binary` is watched.
    Watch {
        /// How long the file must stay the same before it counts. Default: 1s.
        settle: Time,
    }
}

map! {
    /// One socket: an address, or a map.
    Listener or short_listener: {"type": ["string", "integer"]} {
        /// 8080, 127.0.0.1:8080, [::]:8080, unix:/path or unix:@name.
        address: Endpoint,
        /// What LISTEN_FDNAMES calls it. Default: the port or the file name.
        name: Text,
        /// A lane per worker (steered, default for TCP) or one socket for all (shared, the only one for Unix sockets).
        mode: Mode,
        /// Length of the accept queue. Default: 4096.
        backlog: Count,
        /// What the program itself binds (3000, unix:/path) where it means this listener. Only where handover is not
        /// listen_fds. Default: the address itself.
        r#as = "as": Alias,
        /// [::] does not listen on IPv4. Default: false.
        only_v6: Switch,
        /// Permission bits of a Unix socket. Default: 0660.
        socket_mode: Permissions,
        /// user or user:group of a Unix socket.
        owner: Text,
    }
}

map! {
    /// When a worker is ready: exactly one of accept, http, notify, exec, alive_for; or the bare word accept or notify.
    Readiness or short_readiness: {"enum": ["accept", "notify"]} {
        /// The program accepts the agent's connection.
        accept: Yes,
        /// GET of this path is answered with an expected status.
        http: Text,
        /// The program says READY=1 on its NOTIFY_SOCKET.
        notify: Yes,
        /// This command exits 0.
        exec: List<Text>,
        /// The process is alive this long after its start. Proves nothing.
        alive_for: Time,
        /// To be ready; then the worker has failed. Default: 30s.
        timeout: Time,
        /// Between two looks. Default: 100ms.
        interval: Time,
        /// For one look. Default: 2s.
        probe_timeout: Time,
        /// Good looks in a row. Default: 1.
        successes: Count,
        /// The Host header of http. Default: localhost.
        host: Text,
        /// Good statuses of http. Default: [200-399].
        expect: List<Statuses>,
    }
}

map! {
    /// How a ready worker is watched.
    Liveness {
        /// Between two looks. Default: 10s.
        interval: Time,
        /// For one look. Default: 2s.
        timeout: Time,
        /// Bad looks in a row until the worker is replaced. Default: 3.
        failures: Count,
        /// How long connections may wait for a worker before it is looked at. Default: 5s.
        hung_after: Time,
    }
}

map! {
    /// How workers are replaced.
    Rollout {
        /// How many workers may run above the number. Default: 1.
        max_surge: Count,
        /// How many workers may be missing. Default: 0.
        max_unavailable: Count,
        /// How long a worker must stay ready before clients reach it. Default: 1s.
        min_ready: Time,
        /// How long a replacement serves beside its predecessor. Default: 0s.
        hold: Time,
        /// How many old workers may drain at once. Default: all.
        max_draining: Count,
        /// What a failed rollout does. Default: rollback.
        on_failure: OnFailure,
    }
}

map! {
    /// How an old worker is retired.
    Drain {
        /// From the stop signal to SIGKILL. Default: 30s.
        timeout: Time,
        /// Asks a worker to stop. Default: SIGTERM.
        signal: Signal,
        /// How long an old worker goes on serving its connections before the signal. Default: auto.
        linger: Linger,
        /// How long connections that wait for an old worker may take to be accepted. Default: 1s.
        settle: Time,
        /// How many generations may drain at once. Default: 4.
        max_generations: Count,
    }
}

map! {
    /// What happens to a worker that dies.
    Restart {
        /// The first and the longest delay. Default: 100ms..30s.
        backoff: Backoff,
        /// When to stop trying. Default: 10 in 60s.
        give_up: GiveUp,
    }
}

map! {
    /// Rotation of the kept worker output.
    Logs {
        /// Size at which a file is rotated. Default: 10MiB.
        max_size: Size,
        /// How many files are kept. Default: 5.
        files: Count,
    }
}

fn short_listener(text: &str, at: &At) -> Result<Listener, String> {
    let address = Field::Given(super::human::endpoint(text)?, at.clone());
    Ok(Listener { address, ..Listener::default() })
}

fn short_readiness(text: &str, at: &At) -> Result<Readiness, String> {
    let yes = Field::Given(Yes, at.clone());
    match text {
        "accept" => Ok(Readiness { accept: yes, ..Readiness::default() }),
        "notify" => Ok(Readiness { notify: yes, ..Readiness::default() }),
        _ => Err(format!("expected accept, notify or a map like {{http: /healthz}}, found {:?}", clipped(text))),
    }
}

/// The JSON Schema of a file.
pub(super) fn schema() -> Schema {
    SchemaGenerator::default().into_root_schema_for::<Root>()
}

fn object<const N: usize>(keys: [(&str, &str, Schema); N]) -> Schema {
    let described = keys.map(|(key, doc, mut schema)| {
        schema.insert("description".to_owned(), doc.trim().into());
        (key.to_owned(), schema.to_value())
    });
    let properties = serde_json::Map::from_iter(described);
    json_schema!({ "type": "object", "additionalProperties": false, "properties": properties })
}

macro_rules! schemas {
    ($($type:ty, $name:literal, $schema:tt;)*) => {
        $(impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        })*
    };
}

schemas! {
    Text, "Text", {"type": ["string", "number", "boolean"]};
    Count, "Count", {"type": "integer", "minimum": 0, "maximum": u32::MAX};
    Switch, "Switch", {"type": "boolean"};
    Yes, "Yes", {"const": true};
    Time, "Time", {"type": "string", "examples": ["250ms", "1.5s", "2m", "1h30m"]};
    Size, "Size", {"type": ["string", "integer"], "examples": ["10MiB"]};
    Statuses, "Statuses", {"type": ["string", "integer"], "examples": ["200-399", 204]};
    Permissions, "Permissions", {"type": ["string", "integer"], "examples": ["0660"]};
    Backoff, "Backoff", {"type": "string", "examples": ["100ms..30s"]};
    GiveUp, "GiveUp", {"type": "string", "examples": ["10 in 60s"]};
    Endpoint, "Endpoint", {"type": ["string", "integer"], "examples": [8080, "127.0.0.1:8080", "unix:/run/web.sock"]};
    Signal, "Signal", {"type": ["string", "integer"], "examples": ["SIGTERM"]};
    Workers, "Workers", {"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1}]};
    Linger, "Linger", {"type": "string", "examples": ["auto", "10s"]};
    Mode, "Mode", {"enum": ["steered", "shared"]};
    OnFailure, "OnFailure", {"enum": ["rollback", "pause"]};
    Handover, "Handover", {"enum": ["listen_fds", "intercept", "auto"]};
    Alias, "Alias", {"type": ["string", "integer"], "examples": [3000, "unix:/run/app.sock"]};
}

/// Gives a kind of value that is made of another one its schema.
macro_rules! schemas_of {
    ($($type:ident, $inner:ident => $schema:tt;)*) => {
        $(impl<T: JsonSchema> JsonSchema for $type<T> {
            fn schema_name() -> Cow<'static, str> {
                format!("{}{}", stringify!($type), T::schema_name()).into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                let $inner = generator.subschema_for::<T>();
                json_schema!($schema)
            }
        })*
    };
}

schemas_of! {
    List, item => {"type": "array", "items": item};
    Named, value => {"type": "object", "additionalProperties": value};
    Switchable, map => {"anyOf": [{"enum": [true, false, "on", "off"]}, map]};
}
