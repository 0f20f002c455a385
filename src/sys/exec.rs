//! The system calls of the shim: from a plain process to the worker.
//!
//! Meant for a single-threaded process that is about to become another program: most of this cannot be taken back.

use std::convert::Infallible;
use std::ffi::{CString, NulError};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::ptr;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};

use super::fd;

/// Where programs are searched when there is no `PATH` (the default of execvp(3)).
const DEFAULT_PATH: &str = "/usr/local/bin:/bin:/usr/bin";

/// Signals are numbered from 1 to this (`_NSIG`), on x86-64 and aarch64.
const LAST_SIGNAL: libc::c_int = 64;

/// The kernel's size of a set of so many signals.
const MASK_BYTES: usize = 8;

/// Becomes the leader of a new session and so of a new process group, away from any terminal.
///
/// # Errors
/// This process leads a group already.
pub fn new_session() -> io::Result<()> {
    nix::unistd::setsid()?;
    Ok(())
}

/// Lets every signal do what it does by default, and lets all of them in: both ignoring and blocking survive an exec.
///
/// # Errors
/// Never on Linux.
pub fn reset_signals() -> io::Result<()> {
    // A struct sigaction of the kernel: SIG_DFL, no flags, no restorer, empty mask. The C library's own call would refuse
    // the two signals that it keeps for its threads, and those may be inherited as ignored too.
    let default = [0_u64; 4];
    let no_old = ptr::null_mut::<u64>();
    for number in 1..=LAST_SIGNAL {
        // Refused (EINVAL) for SIGKILL and SIGSTOP, which nobody can ignore.
        // SAFETY: the kernel reads 32 bytes from `default`, and the default disposition runs no code of ours.
        let _ = unsafe { libc::syscall(libc::SYS_rt_sigaction, number, default.as_ptr(), no_old, MASK_BYTES) };
    }
    Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?)
}

/// A duplicate, close-on-exec, whose number is above the standard streams and `passed` more.
///
/// # Errors
/// No fd is free.
pub fn out_of_the_way(fd: BorrowedFd<'_>, passed: usize) -> io::Result<OwnedFd> {
    fd::duplicate_from(fd, i32::try_from(passed).map_err(|_| Errno::EINVAL)? + 3)
}

/// Lays out the fds of the worker: 0 is `/dev/null`, 1 and 2 are `output`, `passed` follow from 3 on; everything else
/// is close-on-exec. Whatever else the caller still owns must be [`out_of_the_way`].
///
/// # Errors
/// No fd is free.
pub fn lay_out(output: OwnedFd, passed: Vec<OwnedFd>) -> io::Result<()> {
    // Sources may sit on target numbers, and dup2(n, n) would leave close-on-exec set: first move all of them up.
    let count = passed.len();
    let above = |fd: OwnedFd| out_of_the_way(fd.as_fd(), count);
    let output = above(output)?;
    let null = above(File::open("/dev/null")?.into())?;
    let passed = passed.into_iter().map(above).collect::<io::Result<Vec<_>>>()?;
    fd::close_on_exec_from(3)?;
    put_at(null.as_fd(), 0)?;
    put_at(output.as_fd(), 1)?;
    put_at(output.as_fd(), 2)?;
    for (fd, number) in passed.iter().zip(3..) {
        put_at(fd.as_fd(), number)?;
    }
    Ok(())
}

/// `dup2`: the number is not close-on-exec afterwards. Whoever had it before must have let go of it.
fn put_at(fd: BorrowedFd<'_>, number: i32) -> io::Result<()> {
    // SAFETY: every owned fd has been moved above the targets (`out_of_the_way`), so nobody owns what is replaced.
    let code = unsafe { libc::dup2(fd.as_raw_fd(), number) };
    if code < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A program with everything that execve(2) wants, built before anything irreversible.
#[derive(Debug)]
pub struct Program {
    name: String,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    path: String,
}

impl Program {
    /// The command (program and arguments, at least one) with this whole environment.
    ///
    /// # Errors
    /// One of the texts has a NUL in it.
    pub fn new(command: &[String], env: &[(String, String)]) -> Result<Self, NulError> {
        let arguments = command.iter().map(|word| CString::new(word.as_str())).collect::<Result<_, _>>()?;
        let pair = |(name, value): &(String, String)| CString::new(format!("{name}={value}"));
        let environment = env.iter().map(pair).collect::<Result<_, _>>()?;
        let path = env.iter().rev().find(|(name, _)| name == "PATH").map_or(DEFAULT_PATH, |(_, path)| path.as_str());
        Ok(Self { name: command.first().cloned().unwrap_or_default(), arguments, environment, path: path.to_owned() })
    }

    /// The files that are tried, in order: the name itself when it has a `/`, else that name in each directory of `PATH`.
    #[must_use]
    pub fn candidates(&self) -> Vec<String> {
        if self.name.contains('/') || self.name.is_empty() {
            return vec![self.name.clone()];
        }
        let in_directory = |directory: &str| {
            // An empty entry means the current directory (execvp(3)).
            let directory = if directory.is_empty() { "." } else { directory };
            Path::new(directory).join(&self.name).to_string_lossy().into_owned()
        };
        self.path.split(':').map(in_directory).collect()
    }

    /// Becomes the program. Comes back only with the file on which it failed and why.
    ///
    /// # Errors
    /// As execve(2); of a search in `PATH`, the first refusal that is not just "not here".
    pub fn execute(&self) -> Result<Infallible, (String, io::Error)> {
        let mut refusal = None;
        for candidate in self.candidates() {
            let error = self.execute_file(&candidate);
            match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR) if Path::new(&candidate).exists() => return Err((candidate, error)),
                Some(libc::ENOENT | libc::ENOTDIR) => {}
                // As execvp(3): go on searching, and say it if nothing better is found.
                Some(libc::EACCES) => refusal = refusal.or(Some((candidate, error))),
                Some(_) | None => return Err((candidate, error)),
            }
        }
        Err(refusal.unwrap_or_else(|| (self.name.clone(), Errno::ENOENT.into())))
    }

    fn execute_file(&self, file: &str) -> io::Error {
        let Ok(file) = CString::new(file) else { return Errno::EINVAL.into() };
        let pointers = |texts: &[CString]| -> Vec<*const libc::c_char> {
            texts.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect()
        };
        let (arguments, environment) = (pointers(&self.arguments), pointers(&self.environment));
        // SAFETY: both lists end with a null pointer; they and the texts live until the call comes back, if it does.
        unsafe { libc::execve(file.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
        io::Error::last_os_error()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(command: &str, path: Option<&str>) -> Program {
        let env: Vec<_> = path.map(|path| ("PATH".to_owned(), path.to_owned())).into_iter().collect();
        Program::new(&[command.to_owned()], &env).expect("no NUL")
    }

    #[test]
    fn a_name_without_a_slash_is_searched_in_the_path_of_its_environment() {
        assert_eq!(program("web", Some("/a::/b/")).candidates(), ["/a/web", "./web", "/b/web"]);
        assert_eq!(program("./web", Some("/a")).candidates(), ["./web"]);
        assert_eq!(program("web", None).candidates(), ["/usr/local/bin/web", "/bin/web", "/usr/bin/web"]);
    }

    #[test]
    fn what_cannot_run_is_named_with_its_error() {
        let (file, error) = program("no-such-program", Some("/nowhere:/tmp")).execute().expect_err("missing");
        assert_eq!((file.as_str(), error.raw_os_error()), ("no-such-program", Some(libc::ENOENT)));
        let (file, error) = program("passwd", Some("/nowhere:/etc:/tmp")).execute().expect_err("not executable");
        assert_eq!((file.as_str(), error.raw_os_error()), ("/etc/passwd", Some(libc::EACCES)));
    }

    #[test]
    fn a_nul_is_refused_before_anything_is_done() {
        assert!(Program::new(&["a\0b".to_owned()], &[]).is_err());
    }
}
