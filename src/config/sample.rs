//! The file that `rollout init` writes.

/// A commented configuration for one service.
#[must_use]
pub fn sample(name: &str, binary: &str, listen: &str) -> String {
    // A JSON string is a YAML string, whatever is in it.
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    SAMPLE
        .replace("SERVICE_NAME", &quoted(name))
        .replace("BINARY_PATH", &quoted(binary))
        .replace("LISTEN_ADDRESS", &quoted(listen))
}

const SAMPLE: &str = r#"# Configuration of rollout. `rollout check` says what is wrong with it, `rollout schema` has every key.
# Paths are relative to this file. A commented line shows the default.

services:
  SERVICE_NAME:
    # The file whose content is the release. A new content is rolled out by itself; so is what
    # `rollout deploy PATH` is given.
    binary: BINARY_PATH
    # command: ["{release}"]       # {release} is the stored copy of the binary; add arguments behind it
    # watch: true                  # false: only deploy, restart and SIGHUP look at the binary

    # One worker per CPU that this agent may use, or a number.
    # workers: auto

    # Bound once, open for as long as the service exists, handed to each worker as fd 3, 4, … (LISTEN_FDS).
    listen:
      - LISTEN_ADDRESS

    # A worker is ready when it accepts a connection. Better: {http: /healthz}, or notify (READY=1 on NOTIFY_SOCKET).
    # readiness: accept

    # rollout:
    #   max_surge: 1               # workers above the number while a rollout runs
    #   max_unavailable: 0         # workers below it
    #   min_ready: 1s              # how long a new worker must stay ready before clients reach it
    #   hold: 0s                   # how long it serves beside its predecessor
    #   on_failure: rollback       # or pause

    # drain:
    #   timeout: 30s               # from the stop signal to SIGKILL
    #   signal: SIGTERM

    # restart:
    #   backoff: 100ms..30s        # delays between the starts of a worker that keeps dying
    #   give_up: 10 in 60s

    # env:
    #   RUST_LOG: info

    # logs:
    #   max_size: 10MiB
    #   files: 5

    # keep: 5                      # releases
"#;
