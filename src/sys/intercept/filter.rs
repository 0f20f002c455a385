//! The filter: classic BPF that stops `bind`, `listen` and such calls of `shutdown` as can harm a listening socket.
//!
//! Children inherit it. Everything else is allowed, which the kernel remembers per system call and so never asks again.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use libc::{BPF_ABS, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};
use libc::{SECCOMP_RET_ALLOW, SECCOMP_RET_USER_NOTIF, sock_filter, sock_fprog};
use nix::errno::Errno;

use crate::sys::fd;

/// Why a process cannot have its calls answered. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum NotInstalled {
    /// `SECCOMP_IOCTL_NOTIF_ADDFD` came with 5.9.
    #[error("Linux {0} cannot do it, 5.9 and later can: let the program take its sockets by LISTEN_FDS")]
    TooOld(String),
    /// There is one listener in a chain of filters.
    #[error(
        "a sandbox or container runtime around it answers system calls already, and there can be only one: run outside of \
         it, or let the program take its sockets by LISTEN_FDS"
    )]
    Busy,
    /// A profile that forbids seccomp(2), or a kernel without it.
    #[error(
        "the kernel, or a seccomp profile around it, does not let it filter its system calls: allow seccomp(2) there, or \
         let the program take its sockets by LISTEN_FDS"
    )]
    NotAllowed(#[source] io::Error),
    /// No such filter for this machine.
    #[error("it is not known how to do it on this kind of machine: let the program take its sockets by LISTEN_FDS")]
    ForeignMachine,
}

/// Installs the filter in this process, which must be about to become the program and have no other threads. Gives back the
/// fd on which its calls arrive, close-on-exec. From here on nobody may call `bind` or `listen` before somebody answers.
///
/// A process without `CAP_SYS_ADMIN` loses the way to more privileges by this (`no_new_privs`): setuid programs and file
/// capabilities have no effect below it.
///
/// # Errors
/// See [`NotInstalled`]. Nothing has changed, `no_new_privs` aside.
pub fn install() -> Result<OwnedFd, NotInstalled> {
    let machine = MACHINE.ok_or(NotInstalled::ForeignMachine)?;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    if version(&release).is_some_and(|version| version < (5, 9)) {
        return Err(NotInstalled::TooOld(release.trim().to_owned()));
    }
    let program = program(machine);
    match attach(&program) {
        Err(Errno::EACCES) => {
            nix::sys::prctl::set_no_new_privs().map_err(said)?;
            attach(&program).map_err(said)
        }
        attached => attached.map_err(said),
    }
}

fn said(error: Errno) -> NotInstalled {
    if error == Errno::EBUSY { NotInstalled::Busy } else { NotInstalled::NotAllowed(error.into()) }
}

/// `5.10.0-8-amd64` is `(5, 10)`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Without `WAIT_KILLABLE_RECV` (5.19) a signal, like those by which Go preempts its threads, starts a call anew that is
/// being answered: slower, and answered again all the same.
fn attach(program: &[sock_filter]) -> Result<OwnedFd, Errno> {
    match attach_with(program, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV) {
        Err(Errno::EINVAL) => attach_with(program, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER),
        attached => attached,
    }
}

fn attach_with(program: &[sock_filter], flags: libc::c_ulong) -> Result<OwnedFd, Errno> {
    let len = u16::try_from(program.len()).map_err(|_| Errno::EINVAL)?;
    // The kernel only reads it.
    let described = sock_fprog { len, filter: program.as_ptr().cast_mut() };
    // SAFETY: `described` and the program that it points to live until after the call.
    let number =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const described) };
    let number = i32::try_from(number).unwrap_or(-1);
    if number < 0 { Err(Errno::last()) } else { Ok(fd::adopt(number)) }
}

/// What the kernel calls this machine (linux/audit.h), and the bit that marks numbers of a foreign kind on it.
#[derive(Clone, Copy)]
struct Machine {
    arch: u32,
    /// x32 has the arch of x86-64 and this bit in its numbers.
    foreign_from: u32,
}

#[cfg(target_arch = "x86_64")]
const MACHINE: Option<Machine> = Some(Machine { arch: 0xc000_003e, foreign_from: 0x4000_0000 });
#[cfg(target_arch = "aarch64")]
const MACHINE: Option<Machine> = Some(Machine { arch: 0xc000_00b7, foreign_from: u32::MAX });
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const MACHINE: Option<Machine> = None;

/// Where things are in `struct seccomp_data`. The machines above are little-endian: an argument begins with its lower half.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const SECOND_ARGUMENT: u32 = 16 + 8;

fn program(machine: Machine) -> Vec<sock_filter> {
    vec![
        // Programs of another kind on the same kernel (32 bits, x32) number their calls otherwise: not touched.
        load(ARCH),
        jump(BPF_JEQ, machine.arch, 0, 7),
        load(NUMBER),
        jump(BPF_JGE, machine.foreign_from, 5, 0),
        jump(BPF_JEQ, number(libc::SYS_bind), 5, 0),
        jump(BPF_JEQ, number(libc::SYS_listen), 4, 0),
        jump(BPF_JEQ, number(libc::SYS_shutdown), 0, 2),
        // A listening socket does not care for SHUT_WR, and servers end their connections with it: not one microsecond more.
        load(SECOND_ARGUMENT),
        jump(BPF_JEQ, libc::SHUT_WR.cast_unsigned(), 0, 1),
        give(SECCOMP_RET_ALLOW),
        give(SECCOMP_RET_USER_NOTIF),
    ]
}

fn number(call: libc::c_long) -> u32 {
    u32::try_from(call).unwrap_or(u32::MAX)
}

fn load(from: u32) -> sock_filter {
    sock_filter { code: code(BPF_LD | BPF_W | BPF_ABS), jt: 0, jf: 0, k: from }
}

fn jump(kind: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: code(BPF_JMP | kind | BPF_K), jt, jf, k }
}

fn give(k: u32) -> sock_filter {
    sock_filter { code: code(BPF_RET | BPF_K), jt: 0, jf: 0, k }
}

fn code(code: u32) -> u16 {
    u16::try_from(code).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Machine = Machine { arch: 7, foreign_from: 0x4000_0000 };

    /// What the kernel would do; the few instructions that are used here.
    fn verdict(arch: u32, number: u32, second: u32) -> u32 {
        let program = program(HERE);
        let (mut at, mut loaded) = (0, 0);
        loop {
            let sock_filter { code: op, jt, jf, k } = program[at];
            at += 1;
            let taken = match u32::from(op) {
                op if op == BPF_LD | BPF_W | BPF_ABS => {
                    loaded = match k {
                        NUMBER => number,
                        ARCH => arch,
                        SECOND_ARGUMENT => second,
                        other => panic!("loads from {other}"),
                    };
                    continue;
                }
                op if op == BPF_RET | BPF_K => return k,
                op if op == BPF_JMP | BPF_JEQ | BPF_K => loaded == k,
                op if op == BPF_JMP | BPF_JGE | BPF_K => loaded >= k,
                other => panic!("unknown instruction {other}"),
            };
            at += usize::from(if taken { jt } else { jf });
        }
    }

    #[test]
    fn the_three_calls_are_stopped_and_no_other() {
        let [bind, listen, shutdown] = [libc::SYS_bind, libc::SYS_listen, libc::SYS_shutdown].map(super::number);
        assert_eq!(verdict(7, bind, 0), SECCOMP_RET_USER_NOTIF);
        assert_eq!(verdict(7, listen, 1), SECCOMP_RET_USER_NOTIF);
        let how = |how: i32| verdict(7, shutdown, how.cast_unsigned());
        assert_eq!(how(libc::SHUT_RD), SECCOMP_RET_USER_NOTIF);
        assert_eq!(how(libc::SHUT_RDWR), SECCOMP_RET_USER_NOTIF);
        assert_eq!(how(libc::SHUT_WR), SECCOMP_RET_ALLOW);
        for call in (0..600).filter(|call| ![bind, listen, shutdown].contains(call)) {
            assert_eq!(verdict(7, call, 2), SECCOMP_RET_ALLOW, "{call}");
        }
    }

    #[test]
    fn programs_of_another_kind_are_not_touched() {
        let bind = super::number(libc::SYS_bind);
        assert_eq!(verdict(8, bind, 0), SECCOMP_RET_ALLOW);
        assert_eq!(verdict(7, bind | 0x4000_0000, 0), SECCOMP_RET_ALLOW);
    }

    #[test]
    fn versions_are_read() {
        assert_eq!(version("6.18.44-fc-v669\n"), Some((6, 18)));
        assert_eq!(version("5.10.0-8-amd64"), Some((5, 10)));
        assert_eq!(version("5.9"), Some((5, 9)));
        assert_eq!(version(""), None);
    }
}
