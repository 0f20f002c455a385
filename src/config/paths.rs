//! Where the control socket and the state are when nobody says: one rule for the agent and for those who look for it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// A variable of the environment, if it is set and not empty.
pub type Variable<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The environment of this process.
#[must_use]
pub fn environment(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// Where an agent puts its control socket: `--socket` (or `ROLLOUT_SOCKET`), else `socket:` of its file, else the first
/// of [`usual_sockets`].
#[must_use]
pub fn socket(asked: Option<&Path>, configured: Option<&Path>, variable: Variable<'_>) -> PathBuf {
    let usual = || usual_sockets(variable).swap_remove(0);
    asked.or(configured).map_or_else(usual, Path::to_owned)
}

/// Where a control socket may be, the likeliest first; never empty. An agent takes the first; whoever looks for one also
/// looks at the rest: a system service is not in root's own runtime directory.
#[must_use]
pub fn usual_sockets(variable: Variable<'_>) -> Vec<PathBuf> {
    let own = ["RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"].into_iter().filter_map(|name| first_directory(variable, name));
    let directories = own.chain([PathBuf::from("/run/rollout")]);
    directories.map(|directory| directory.join("rollout.sock")).collect()
}

/// Where an agent keeps its state: `--state-dir`, else `state_dir:` of its file, else `$STATE_DIRECTORY`, else
/// `/var/lib/rollout` for root and `$XDG_STATE_HOME/rollout` or `~/.local/state/rollout` for anybody else. `None`: an
/// ordinary user without a home.
#[must_use]
pub fn state_dir(asked: Option<&Path>, configured: Option<&Path>, uid: u32, variable: Variable<'_>) -> Option<PathBuf> {
    let named = asked.or(configured).map(Path::to_owned).or_else(|| first_directory(variable, "STATE_DIRECTORY"));
    let system = || (uid == 0).then(|| PathBuf::from("/var/lib/rollout"));
    let users = || {
        let state_home = first_directory(variable, "XDG_STATE_HOME");
        let home = || first_directory(variable, "HOME").map(|home| home.join(".local/state"));
        state_home.or_else(home).map(|directory| directory.join("rollout"))
    };
    named.or_else(system).or_else(users)
}

/// A directory that a variable names: absolute (the XDG rules ignore others), and the first where the service manager
/// names several, separated by colons (systemd.exec(5)).
fn first_directory(variable: Variable<'_>, name: &str) -> Option<PathBuf> {
    let value = variable(name).filter(|value| !value.is_empty())?;
    std::env::split_paths(&value).next().filter(|path| path.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `A=1 B=2` as an environment.
    fn with(pairs: &'static str) -> impl Fn(&str) -> Option<OsString> {
        move |name| {
            let mut pairs = pairs.split(' ').filter_map(|pair| pair.split_once('='));
            pairs.find(|(key, _)| *key == name).map(|(_, value)| value.into())
        }
    }

    #[test]
    fn the_socket_is_where_somebody_said_or_where_the_service_manager_or_the_user_has_room() {
        let full = with("RUNTIME_DIRECTORY=/run/a:/run/b XDG_RUNTIME_DIR=/run/user/7");
        let (asked, configured) = (Path::new("/asked"), Path::new("/configured"));
        assert_eq!(socket(Some(asked), Some(configured), &full), asked);
        assert_eq!(socket(None, Some(configured), &full), configured);
        assert_eq!(socket(None, None, &full), Path::new("/run/a/rollout.sock"));
        assert_eq!(socket(None, None, &with("XDG_RUNTIME_DIR=/run/user/7")), Path::new("/run/user/7/rollout.sock"));
        for nothing in ["", "XDG_RUNTIME_DIR=", "XDG_RUNTIME_DIR=relative/dir"] {
            assert_eq!(socket(None, None, &with(nothing)), Path::new("/run/rollout/rollout.sock"));
        }
    }

    #[test]
    fn whoever_looks_for_an_agent_looks_at_the_system_wide_socket_last() {
        let found = usual_sockets(&with("XDG_RUNTIME_DIR=/run/user/0"));
        assert_eq!(found, [Path::new("/run/user/0/rollout.sock"), Path::new("/run/rollout/rollout.sock")]);
    }

    #[test]
    fn the_state_of_root_and_of_others_is_where_each_may_write() {
        let of = |uid, variables| state_dir(None, None, uid, &with(variables));
        let full = "HOME=/home/a XDG_STATE_HOME=/state";
        assert_eq!(of(0, full), Some("/var/lib/rollout".into()));
        assert_eq!(of(1000, full), Some("/state/rollout".into()));
        assert_eq!(of(1000, "HOME=/home/a"), Some("/home/a/.local/state/rollout".into()));
        assert_eq!(of(1000, ""), None);
        assert_eq!(of(1000, "STATE_DIRECTORY=/var/lib/x HOME=/home/a"), Some("/var/lib/x".into()));
        assert_eq!(of(0, "STATE_DIRECTORY=/var/lib/x"), Some("/var/lib/x".into()));
        let asked = state_dir(Some(Path::new("/asked")), Some(Path::new("/configured")), 0, &with(full));
        assert_eq!(asked, Some("/asked".into()));
    }
}
