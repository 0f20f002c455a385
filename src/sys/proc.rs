//! What /proc says about a process (proc(5)). Facts about a pid are true at the moment of reading only.

use std::io;

use crate::units::Signal;

/// What a signal would do to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// It has a handler.
    Caught,
    /// It ignores it.
    Ignored,
    /// The kernel's default: for most signals, the end.
    Default,
}

/// What `signal` would do to process `pid`.
///
/// # Errors
/// There is no such process.
pub fn disposition(pid: i32, signal: Signal) -> io::Result<Disposition> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    parse_disposition(&status, signal).ok_or_else(|| unreadable(pid, "status"))
}

/// The user of this process, by number.
#[must_use]
pub fn own_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// The parent of process `pid`; 0 if it has none here.
///
/// # Errors
/// There is no such process.
pub fn parent(pid: i32) -> io::Result<i32> {
    kinship(pid).map(|kin| kin.parent)
}

/// The session of process `pid`; 0 if it is outside of our pid namespace.
///
/// # Errors
/// There is no such process.
pub fn session(pid: i32) -> io::Result<i32> {
    kinship(pid).map(|kin| kin.session)
}

/// Whether process `pid` is a child, or a child's child and so on, of `ancestor`.
#[must_use]
pub fn is_descendant(pid: i32, ancestor: i32) -> bool {
    let mut pid = pid;
    // Deeper than any honest tree; pids that are reused while we climb could otherwise lead us round in a circle.
    for _ in 0..64 {
        match parent(pid) {
            Ok(parent) if parent == ancestor => return true,
            Ok(parent) if parent > 1 => pid = parent,
            Ok(_) | Err(_) => return false,
        }
    }
    false
}

/// Whether process `pid` is a worker's: its main process, one of the session that it leads, or a descendant.
#[must_use]
pub fn belongs_to(pid: i32, worker: i32) -> bool {
    pid > 0 && (pid == worker || session(pid).is_ok_and(|session| session == worker) || is_descendant(pid, worker))
}

/// Fields 4 and 6 of /proc/PID/stat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kinship {
    parent: i32,
    session: i32,
}

fn kinship(pid: i32) -> io::Result<Kinship> {
    // Bytes, not text: a process may give itself any name.
    let stat = std::fs::read(format!("/proc/{pid}/stat"))?;
    parse_stat(&stat).ok_or_else(|| unreadable(pid, "stat"))
}

fn unreadable(pid: i32, file: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/{file} is not in the form that proc(5) describes"))
}

fn parse_stat(stat: &[u8]) -> Option<Kinship> {
    // The name in field 2 may itself contain parentheses and spaces: the last ')' ends it.
    let end_of_name = stat.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(&stat[end_of_name + 1..]).ok()?;
    let mut fields = rest.split_ascii_whitespace().skip(1);
    let parent = fields.next()?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    Some(Kinship { parent, session })
}

fn parse_disposition(status: &str, signal: Signal) -> Option<Disposition> {
    let bit = u32::try_from(signal.0).ok()?.checked_sub(1).filter(|&bit| bit < 64)?;
    let has = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field))?;
        let mask = u64::from_str_radix(line.trim(), 16).ok()?;
        Some(mask & (1 << bit) != 0)
    };
    let (caught, ignored) = (has("SigCgt:")?, has("SigIgn:")?);
    Some(if caught {
        Disposition::Caught
    } else if ignored {
        Disposition::Ignored
    } else {
        Disposition::Default
    })
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Command, Stdio};

    use proptest::prelude::*;

    use super::*;

    const STATUS: &str = "Name:\tx\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001000\nSigCgt:\t0000000180004002\n";

    #[test]
    fn masks_are_read_by_bit() {
        assert_eq!(parse_disposition(STATUS, Signal::TERM), Some(Disposition::Caught));
        assert_eq!(parse_disposition(STATUS, Signal(2)), Some(Disposition::Caught));
        assert_eq!(parse_disposition(STATUS, Signal(13)), Some(Disposition::Ignored));
        assert_eq!(parse_disposition(STATUS, Signal(1)), Some(Disposition::Default));
        assert_eq!(parse_disposition(STATUS, Signal(0)), None);
        assert_eq!(parse_disposition(STATUS, Signal(65)), None);
        assert_eq!(parse_disposition("SigCgt:\tff\n", Signal::TERM), None);
    }

    #[test]
    fn a_name_with_parentheses_and_spaces_confuses_nobody() {
        let stat = b"42 (a) R 1 (2) S 7 42 9 0 -1";
        assert_eq!(parse_stat(stat), Some(Kinship { parent: 7, session: 9 }));
        assert_eq!(parse_stat(b"42 (\xff) S 7 42 9"), Some(Kinship { parent: 7, session: 9 }));
        assert_eq!(parse_stat(b"42 (a) S 7 42"), None);
        assert_eq!(parse_stat(b""), None);
    }

    proptest! {
        #[test]
        fn parsing_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), number in any::<i32>()) {
            let _ = parse_stat(&bytes);
            let _ = parse_disposition(&String::from_utf8_lossy(&bytes), Signal(number));
        }
    }

    /// A shell that runs (a background command has no standard input of its own: scripts keep theirs as fd 3) `script`, which must print one line; the child and that line.
    fn shell(script: &str) -> (Child, String) {
        let mut child = Command::new("/bin/sh")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("spawn");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("read");
        (child, line.trim().to_owned())
    }

    fn end(mut child: Child) {
        child.kill().expect("kill");
        child.wait().expect("wait");
    }

    fn pid_of(child: &Child) -> i32 {
        i32::try_from(child.id()).expect("pid")
    }

    #[test]
    fn a_real_process_catches_what_it_traps() {
        let (child, _) = shell("trap : TERM; trap '' HUP; echo set; read wait");
        let pid = pid_of(&child);
        assert_eq!(disposition(pid, Signal::TERM).expect("ask"), Disposition::Caught);
        assert_eq!(disposition(pid, Signal(1)).expect("ask"), Disposition::Ignored);
        assert_eq!(disposition(pid, Signal(10)).expect("ask"), Disposition::Default);
        end(child);
        assert!(disposition(pid, Signal::TERM).is_err(), "a process that was reaped has no disposition");
    }

    #[test]
    fn a_grandchild_is_a_descendant_and_a_stranger_is_not() {
        let (child, grandchild) = shell("exec 3<&0; (read wait <&3; :) & echo $!; wait");
        let (pid, grandchild) = (pid_of(&child), grandchild.parse().expect("pid"));
        let me = i32::try_from(std::process::id()).expect("pid");
        assert_eq!(parent(grandchild).expect("ask"), pid);
        assert!(is_descendant(grandchild, pid) && is_descendant(grandchild, me));
        assert!(belongs_to(grandchild, pid) && belongs_to(pid, pid));
        assert!(!is_descendant(me, pid) && !is_descendant(pid, grandchild) && !belongs_to(me, pid));
        assert!(!belongs_to(0, 0), "pid 0 is the word for nobody");
        end(child);
    }

    #[test]
    fn an_orphan_of_the_worker_s_session_belongs_to_it() {
        // The leader ends; its child, no longer its descendant, waits for the end of our pipe.
        let orphanage = "exec 3<&0 setsid /bin/sh -c '(exec /bin/sh -c \"echo \\$\\$; read wait\" <&3) & exit'";
        let (mut leader, orphan) = shell(orphanage);
        let (pid, orphan) = (pid_of(&leader), orphan.parse().expect("pid"));
        let input = leader.stdin.take();
        leader.wait().expect("wait");
        assert_eq!(session(orphan).expect("ask"), pid);
        assert!(!is_descendant(orphan, pid));
        assert!(belongs_to(orphan, pid));
        drop(input);
    }
}
