//! Why a file could not be executed, in words that tell what to do. execve(2) says "no such file" about a script whose
//! interpreter is missing, and "exec format error" about five different mistakes.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::sys::errno;

/// As much of a file as is looked at: the kernel itself wants `#!` lines within 256 bytes, and linkers put an ELF file's
/// program headers and interpreter into its first page.
const HEAD: u64 = 4096;

/// The cause of this error of execve(2) with this file.
pub(super) fn cause(file: &str, error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(errno::ENOENT | errno::ENOTDIR) => missing(file),
        Some(errno::EACCES) => forbidden(file),
        Some(errno::ENOEXEC | errno::EIO | errno::EINVAL) => malformed(file, error),
        Some(errno::ELIBBAD) => format!("its interpreter {}is not a program of this machine", interpreter_of(file)),
        Some(errno::E2BIG) => "its arguments and environment are too long for the kernel".to_owned(),
        Some(errno::ETXTBSY) => "the file is open for writing: finish writing it first".to_owned(),
        Some(_) | None => error.to_string(),
    }
}

fn missing(file: &str) -> String {
    if Path::new(file).exists() {
        return format!("its interpreter {}is missing", interpreter_of(file));
    }
    if let Ok(target) = fs::read_link(file) {
        return format!("it is a link to {}, which does not exist", target.display());
    }
    if file.contains('/') { "no such file".to_owned() } else { "no such program in PATH".to_owned() }
}

fn forbidden(file: &str) -> String {
    let Ok(metadata) = fs::metadata(file) else {
        return "permission denied: this user may not enter its directory".to_owned();
    };
    if metadata.is_dir() {
        return "it is a directory".to_owned();
    }
    if !metadata.is_file() {
        return "it is not a regular file".to_owned();
    }
    if metadata.permissions().mode() & 0o111 == 0 {
        return "it is not executable (chmod +x)".to_owned();
    }
    match head(file).as_deref().and_then(interpreter) {
        Some(interpreter) if !is_executable(&interpreter) => format!("its interpreter {interpreter} is not executable"),
        Some(_) | None => "permission denied: its mode, or a mount with noexec, forbids it to this user".to_owned(),
    }
}

fn is_executable(file: &str) -> bool {
    fs::metadata(file).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

fn malformed(file: &str, error: &io::Error) -> String {
    let Some(head) = head(file) else { return error.to_string() };
    if head.is_empty() {
        return "the file is empty".to_owned();
    }
    if !head.starts_with(ELF) {
        return "it is neither a program for Linux nor a script that begins with #!".to_owned();
    }
    match (machine(&head), own_machine()) {
        (Some(theirs), Some(ours)) if theirs != ours => {
            format!("it is a program for {}, and this machine is {}", name_of(theirs), name_of(ours))
        }
        (Some(_) | None, _) => "it is a damaged program: is the file complete?".to_owned(),
    }
}

fn head(file: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(file).ok()?.take(HEAD).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Its name with a space behind it, or nothing.
fn interpreter_of(file: &str) -> String {
    head(file).as_deref().and_then(interpreter).map(|name| format!("{name} ")).unwrap_or_default()
}

/// What a script's first line or an ELF file's `PT_INTERP` (elf(5)) names.
fn interpreter(head: &[u8]) -> Option<String> {
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = line.split(|byte| *byte == b'\n').next()?;
        // A file from another system ends its lines with \r, which then belongs to the name: show it.
        let word = String::from_utf8_lossy(line).trim_start_matches([' ', '\t']).to_owned();
        return word.split([' ', '\t']).next().map(|name| name.escape_debug().to_string());
    }
    if !head.starts_with(ELF) {
        return None;
    }
    let table = usize::try_from(u64::from_le_bytes(bytes_at(head, 32)?)).ok()?;
    let entry_size = usize::from(u16::from_le_bytes(bytes_at(head, 54)?));
    let entries = usize::from(u16::from_le_bytes(bytes_at(head, 56)?));
    for place in 0..entries {
        let entry = head.get(table.checked_add(place * entry_size)?..)?;
        if u32::from_le_bytes(bytes_at(entry, 0)?) == PT_INTERP {
            let from = usize::try_from(u64::from_le_bytes(bytes_at(entry, 8)?)).ok()?;
            let name = head.get(from..)?.split(|byte| *byte == 0).next()?;
            return Some(String::from_utf8_lossy(name).into_owned());
        }
    }
    None
}

const ELF: &[u8] = b"\x7fELF";
const PT_INTERP: u32 = 3;

fn machine(head: &[u8]) -> Option<u16> {
    bytes_at(head, 18).map(u16::from_le_bytes)
}

/// That of the binary that runs this.
fn own_machine() -> Option<u16> {
    machine(&head("/proc/self/exe")?)
}

fn name_of(machine: u16) -> String {
    match machine {
        3 => "32-bit x86".to_owned(),
        40 => "32-bit ARM".to_owned(),
        62 => "x86-64".to_owned(),
        183 => "aarch64".to_owned(),
        243 => "RISC-V".to_owned(),
        other => format!("ELF machine type {other}"),
    }
}

fn bytes_at<const N: usize>(bytes: &[u8], place: usize) -> Option<[u8; N]> {
    bytes.get(place..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Writes the file, tries to execute it, and gives back what is said about that.
    fn said_about(bytes: &[u8], mode: u32) -> String {
        let directory = tempfile::tempdir().expect("temp dir");
        let file = directory.path().join("program");
        fs::write(&file, bytes).expect("write");
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("chmod");
        // Another test of this process may hold a copy of the fd that wrote the file for the moment of a fork.
        let error = loop {
            let error = Command::new(&file).spawn().expect_err("must not run");
            if error.raw_os_error() != Some(errno::ETXTBSY) {
                break error;
            }
        };
        cause(&file.to_string_lossy(), &error)
    }

    fn own_head() -> Vec<u8> {
        head("/proc/self/exe").expect("own binary")
    }

    #[test]
    fn each_mistake_has_its_own_words() {
        assert_eq!(said_about(b"", 0o755), "the file is empty");
        assert_eq!(said_about(b"x", 0o644), "it is not executable (chmod +x)");
        assert!(said_about(b"echo hello\n", 0o755).contains("begins with #!"));
        assert_eq!(said_about(b"#!/nowhere/python3 -u\n", 0o755), "its interpreter /nowhere/python3 is missing");
        assert_eq!(said_about(b"#!/bin/sh\r\n", 0o755), "its interpreter /bin/sh\\r is missing");
        assert_eq!(said_about(b"#!/etc/passwd\n", 0o755), "its interpreter /etc/passwd is not executable");
        assert_eq!(said_about(&own_head()[..100], 0o755), "it is a damaged program: is the file complete?");
    }

    #[test]
    fn a_program_for_another_machine_is_called_that() {
        let mut other = own_head();
        let foreign: u16 = if own_machine() == Some(62) { 183 } else { 62 };
        other[18..20].copy_from_slice(&foreign.to_le_bytes());
        let said = said_about(&other, 0o755);
        assert!(said.starts_with(&format!("it is a program for {}", name_of(foreign))), "{said}");
    }

    #[test]
    fn a_missing_loader_is_named() {
        let mut program = own_head();
        let loader = interpreter(&program).expect("a dynamic program");
        let place =
            program.windows(loader.len()).position(|part| part == loader.as_bytes()).expect("in the first page");
        program[place + 1] = b'#';
        let wrong = loader.replacen(&loader[1..2], "#", 1);
        assert_eq!(said_about(&program, 0o755), format!("its interpreter {wrong} is missing"));
    }

    #[test]
    fn what_is_not_there_is_told_apart() {
        let not_found = io::Error::from_raw_os_error(errno::ENOENT);
        assert_eq!(cause("/nowhere/web", &not_found), "no such file");
        assert_eq!(cause("web", &not_found), "no such program in PATH");
        let directory = tempfile::tempdir().expect("temp dir");
        let link = directory.path().join("current");
        std::os::unix::fs::symlink("/nowhere/release", &link).expect("link");
        assert_eq!(
            cause(&link.to_string_lossy(), &not_found),
            "it is a link to /nowhere/release, which does not exist"
        );
        let forbidden = io::Error::from_raw_os_error(errno::EACCES);
        assert_eq!(cause(&directory.path().to_string_lossy(), &forbidden), "it is a directory");
    }
}
