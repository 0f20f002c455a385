//! Whether bytes are a program that this host can run. Pure: the caller reads.
//!
//! Only what tells a good build from a bad copy is looked at: an ELF file's header (elf(5)), the extents of its segments
//! and sections, and a script's first line (execve(2)). A linker writes the section table at the end, so a file that
//! was cut anywhere names more bytes than it has. What is appended to an ELF file (self-extracting archives)
//! is named by nothing, so a cut there cannot be seen here.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// What the kernel looks at of a file to find out how to run it (`BINPRM_BUF_SIZE`, since Linux 5.1).
const FIRST_LOOK: usize = 256;
/// Length of a 64-bit ELF header.
const HEADER: usize = 64;
/// Length of one entry of the table of segments.
const SEGMENT: usize = 56;
/// Length of one entry of the table of sections.
const SECTION: usize = 64;
/// The kernel runs no program whose table of segments is longer than 64 KiB (`load_elf_phdrs`).
const MOST_SEGMENTS: u16 = 1170;
/// Sections looked at in one read.
const SECTIONS_AT_ONCE: u64 = 1024;

/// How a good program is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    /// By the kernel, with this dynamic loader if it needs one.
    Elf {
        /// Absolute, as a rule.
        loader: Option<PathBuf>,
    },
    /// By this interpreter.
    Script {
        /// Absolute, as a rule.
        interpreter: PathBuf,
    },
}

/// Why bytes are no program of this host. Reads on after the name of the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// No known beginning.
    #[error("is neither an ELF program nor a script that begins with #!")]
    Unknown,
    /// It ends too early.
    #[error("is truncated: its header names {names} bytes, it has {has}; copy or build it again")]
    Truncated {
        /// Up to the end of the last part that the header knows of.
        names: u64,
        /// The length of the file.
        has: u64,
    },
    /// It is for another processor.
    #[error("is built for {built_for}, this host is {host}: build it for this host")]
    WrongMachine {
        /// In words.
        built_for: String,
        /// In words.
        host: &'static str,
    },
    /// It is ELF but not meant to be run.
    #[error("is {0}, not a program")]
    NotAProgram(&'static str),
    /// Its header makes no sense.
    #[error("is damaged: {0}; copy or build it again")]
    Damaged(&'static str),
    /// The first line of a script is of no use.
    #[error("{0}")]
    BadFirstLine(&'static str),
}

/// The host's processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    /// 64-bit x86.
    X86_64,
    /// 64-bit ARM.
    Aarch64,
}

impl Host {
    /// The one that this program was built for.
    #[must_use]
    pub fn this() -> Self {
        if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 }
    }

    fn machine(self) -> u16 {
        match self {
            Self::X86_64 => 62,
            Self::Aarch64 => 183,
        }
    }

    fn in_words(self) -> &'static str {
        match self {
            Self::X86_64 => "x86-64",
            Self::Aarch64 => "aarch64 (64-bit ARM)",
        }
    }
}

/// What is wrong, or what went wrong on the way to finding out.
#[derive(Debug)]
pub enum Trouble<E> {
    /// The bytes are no program.
    Fault(Fault),
    /// The caller's error.
    Read(E),
}

impl<E> From<Fault> for Trouble<E> {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Judges a file of `has` bytes. `read(offset, length)` gives exactly those bytes and is never asked for any beyond the end.
///
/// # Errors
/// The first fault found, or what `read` answered.
pub fn examine<E>(
    has: u64,
    host: Host,
    mut read: impl FnMut(u64, usize) -> Result<Vec<u8>, E>,
) -> Result<Format, Trouble<E>> {
    let first_look = usize::try_from(has).unwrap_or(FIRST_LOOK).min(FIRST_LOOK);
    let head = read(0, first_look).map_err(Trouble::Read)?;
    if head.starts_with(b"#!") {
        return Ok(script(&head)?);
    }
    // A file that ends inside the magic number is a truncated ELF file rather than an unknown one.
    if head.starts_with(b"\x7fELF") || (!head.is_empty() && b"\x7fELF".starts_with(&head)) {
        return elf(&head, has, host, &mut read);
    }
    Err(Fault::Unknown.into())
}

fn script(head: &[u8]) -> Result<Format, Fault> {
    let line = head[2..].split(|byte| *byte == b'\n').next().unwrap_or_default();
    let words = line.trim_ascii_start();
    let end = words.iter().position(|byte| matches!(byte, b' ' | b'\t' | 0));
    let interpreter = &words[..end.unwrap_or(words.len())];
    if interpreter.is_empty() {
        return Err(Fault::BadFirstLine("is a script whose first line names no interpreter after #!"));
    }
    if line.ends_with(b"\r") {
        return Err(Fault::BadFirstLine("is a script with Windows line ends: convert it with `sed -i 's/\\r$//'`"));
    }
    if head.len() == FIRST_LOOK && end.is_none() && line.len() == FIRST_LOOK - 2 {
        return Err(Fault::BadFirstLine("is a script whose #! line is longer than the 255 bytes the kernel reads"));
    }
    Ok(Format::Script { interpreter: PathBuf::from(OsStr::from_bytes(interpreter)) })
}

/// What the header says about one of its tables.
struct Table {
    at: u64,
    count: u64,
    entry: usize,
}

impl Table {
    fn end(&self) -> Result<u64, Fault> {
        let length = self.count.checked_mul(self.entry as u64).ok_or(BEYOND)?;
        self.at.checked_add(length).ok_or(BEYOND)
    }
}

const BEYOND: Fault = Fault::Damaged("a part of it would end beyond any file");

fn elf<E>(
    head: &[u8],
    has: u64,
    host: Host,
    read: &mut impl FnMut(u64, usize) -> Result<Vec<u8>, E>,
) -> Result<Format, Trouble<E>> {
    let Some(header) = head.get(..HEADER) else {
        return Err(Fault::Truncated { names: HEADER as u64, has }.into());
    };
    check_machine(header, host)?;
    match u16_at(header, 16) {
        2 | 3 => {}
        1 => return Err(Fault::NotAProgram("an object file that was not linked").into()),
        4 => return Err(Fault::NotAProgram("a core dump").into()),
        _ => return Err(Fault::Damaged("its header has an unknown type").into()),
    }
    let segments = Table { at: u64_at(header, 32), count: u64::from(u16_at(header, 56)), entry: SEGMENT };
    if usize::from(u16_at(header, 54)) != SEGMENT || !(1..=MOST_SEGMENTS).contains(&u16_at(header, 56)) {
        return Err(Fault::Damaged("its header describes no table of segments").into());
    }
    fits(segments.end()?, has)?;
    let length = usize::from(u16_at(header, 56)) * SEGMENT;
    let table = read(segments.at, length).map_err(Trouble::Read)?;
    let loader = check_segments(&table, has, u64_at(header, 24))?;
    check_sections(header, has, read)?;
    let loader = match loader {
        Some((at, length)) => Some(read_loader(&read(at, length).map_err(Trouble::Read)?)?),
        None => None,
    };
    Ok(Format::Elf { loader })
}

fn check_machine(header: &[u8], host: Host) -> Result<(), Fault> {
    let (class, order) = (header[4], header[5]);
    if !matches!(class, 1 | 2) || !matches!(order, 1 | 2) {
        return Err(Fault::Damaged("its header has an unknown word length or byte order"));
    }
    let bytes = [header[18], header[19]];
    let machine = if order == 1 { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) };
    // Both hosts are 64-bit and little-endian.
    if machine == host.machine() && class == 2 && order == 1 {
        return Ok(());
    }
    let name = match (machine, class) {
        (3, _) => "32-bit x86".to_owned(),
        (62, 2) => "x86-64".to_owned(),
        (62, _) => "x32 (x86-64 with 32-bit pointers)".to_owned(),
        (40, _) => "32-bit ARM".to_owned(),
        (183, 2) => "aarch64 (64-bit ARM)".to_owned(),
        (183, _) => "aarch64 with 32-bit pointers".to_owned(),
        (243, _) => "RISC-V".to_owned(),
        (258, _) => "LoongArch".to_owned(),
        (8, _) => "MIPS".to_owned(),
        (20 | 21, _) => "PowerPC".to_owned(),
        (22, _) => "s390".to_owned(),
        (2 | 18 | 43, _) => "SPARC".to_owned(),
        (247, _) => "the kernel's BPF machine".to_owned(),
        (other, _) => format!("a processor with the ELF machine number {other}"),
    };
    let built_for = if order == 2 { format!("{name}, big-endian") } else { name };
    Err(Fault::WrongMachine { built_for, host: host.in_words() })
}

/// Checks each segment's extent; gives place and length of the loader's name.
fn check_segments(table: &[u8], has: u64, entry: u64) -> Result<Option<(u64, usize)>, Fault> {
    const LOAD: u32 = 1;
    const INTERP: u32 = 3;
    let mut loads = false;
    let mut loader = None;
    for segment in table.chunks_exact(SEGMENT) {
        let (at, length) = (u64_at(segment, 8), u64_at(segment, 32));
        let end = at.checked_add(length).ok_or(BEYOND)?;
        match u32_at(segment, 0) {
            LOAD => loads = true,
            // As the kernel: a name of 2 to 4096 bytes (load_elf_binary).
            INTERP => match usize::try_from(length) {
                Ok(length @ 2..=4096) => loader = Some((at, length)),
                _ => return Err(Fault::Damaged("the name of its loader has an impossible length")),
            },
            _ => {}
        }
        if length > 0 {
            fits(end, has)?;
        }
    }
    if !loads {
        return Err(Fault::NotAProgram("an ELF file without anything to load"));
    }
    if entry == 0 && loader.is_none() {
        return Err(Fault::NotAProgram("a shared library"));
    }
    Ok(loader)
}

fn check_sections<E>(
    header: &[u8],
    has: u64,
    read: &mut impl FnMut(u64, usize) -> Result<Vec<u8>, E>,
) -> Result<(), Trouble<E>> {
    const NOTHING_IN_FILE: [u32; 2] = [0, 8];
    let mut table = Table { at: u64_at(header, 40), count: u64::from(u16_at(header, 60)), entry: SECTION };
    // Sections are not needed to run: a stripped table is fine, and a strange one is not ours to judge.
    if table.at == 0 || usize::from(u16_at(header, 58)) != SECTION {
        return Ok(());
    }
    if table.count == 0 {
        // More sections than the header can count: the first entry knows (elf(5), e_shnum).
        fits(Table { count: 1, ..table }.end()?, has)?;
        table.count = u64_at(&read(table.at, SECTION).map_err(Trouble::Read)?, 32);
    }
    fits(table.end()?, has)?;
    let mut next = 0;
    while next < table.count {
        let some = SECTIONS_AT_ONCE.min(table.count - next);
        let length = usize::try_from(some).unwrap_or(0) * SECTION;
        let sections = read(table.at + next * SECTION as u64, length).map_err(Trouble::Read)?;
        for section in sections.chunks_exact(SECTION) {
            if !NOTHING_IN_FILE.contains(&u32_at(section, 4)) {
                fits(u64_at(section, 24).checked_add(u64_at(section, 32)).ok_or(BEYOND)?, has)?;
            }
        }
        next += some;
    }
    Ok(())
}

fn read_loader(bytes: &[u8]) -> Result<PathBuf, Fault> {
    match bytes.split_last() {
        Some((0, name)) => Ok(PathBuf::from(OsStr::from_bytes(name))),
        _ => Err(Fault::Damaged("the name of its loader does not end")),
    }
}

fn fits(end: u64, has: u64) -> Result<(), Fault> {
    if end <= has { Ok(()) } else { Err(Fault::Truncated { names: end, has }) }
}

/// The callers have checked the length of what they pass; a gap reads as zero rather than as a panic.
fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..at + N).and_then(|slice| slice.try_into().ok()).unwrap_or([0; N])
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes_at(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes_at(bytes, at))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    fn judge_for(host: Host, bytes: &[u8]) -> Result<Format, Fault> {
        let read = |offset: u64, length: usize| {
            let at = usize::try_from(offset).expect("inside");
            Ok::<_, Infallible>(bytes[at..at + length].to_vec())
        };
        match examine(bytes.len() as u64, host, read) {
            Ok(format) => Ok(format),
            Err(Trouble::Fault(fault)) => Err(fault),
            Err(Trouble::Read(never)) => match never {},
        }
    }

    fn judge(bytes: &[u8]) -> Result<Format, Fault> {
        judge_for(Host::this(), bytes)
    }

    fn this_test() -> Vec<u8> {
        std::fs::read(std::env::current_exe().expect("this runs")).expect("and can be read")
    }

    #[test]
    fn a_real_program_is_good_and_its_loader_is_named() {
        let format = judge(&this_test());
        let Ok(Format::Elf { loader: Some(loader) }) = format else { panic!("{format:?}") };
        assert!(loader.starts_with("/lib64") || loader.starts_with("/lib"), "{loader:?}");
    }

    #[test]
    fn a_real_program_cut_anywhere_is_refused_as_truncated() {
        let whole = this_test();
        let lengths = [1, 3, 4, 63, 64, 65, 700, 4096, whole.len() / 4, whole.len() / 2, whole.len() - 1];
        for length in lengths {
            match judge(&whole[..length]) {
                Err(Fault::Truncated { names, has }) => assert!(names > has && has == length as u64),
                other => panic!("cut to {length}: {other:?}"),
            }
        }
    }

    #[test]
    fn foreign_processors_are_named_in_words() {
        let program = this_test();
        let other = if Host::this() == Host::X86_64 { Host::Aarch64 } else { Host::X86_64 };
        let fault = judge_for(other, &program).expect_err("this is not the other host");
        assert!(fault.to_string().contains("is built for"), "{fault}");
        let mut sparc = program;
        sparc[5] = 2;
        sparc[18..20].copy_from_slice(&[0, 43]);
        let fault = judge(&sparc).expect_err("foreign");
        assert!(fault.to_string().contains("SPARC, big-endian"), "{fault}");
    }

    #[test]
    fn other_elf_files_are_told_apart() {
        let with_type = |kind: u8| {
            let mut bytes = this_test();
            bytes[16] = kind;
            judge(&bytes).expect_err("not a program").to_string()
        };
        assert!(with_type(1).contains("object file"));
        assert!(with_type(4).contains("core dump"));
        assert!(with_type(9).contains("damaged"));
    }

    #[test]
    fn scripts_need_a_first_line_that_the_kernel_understands() {
        let script = |path: &str| Ok(Format::Script { interpreter: PathBuf::from(path) });
        assert_eq!(judge(b"#!/bin/sh\necho"), script("/bin/sh"));
        assert_eq!(judge(b"#! \t/usr/bin/env node\n"), script("/usr/bin/env"));
        assert_eq!(judge(b"#!/bin/sh"), script("/bin/sh"));
        for bad in [b"#!".as_slice(), b"#!\n/bin/sh", b"#!/bin/sh\r\n", &[b"#!".as_slice(), &[b'x'; 300]].concat()] {
            assert!(matches!(judge(bad), Err(Fault::BadFirstLine(_))), "{bad:?}");
        }
    }

    #[test]
    fn anything_else_is_unknown() {
        for bytes in [b"".as_slice(), b"echo hello\n", b"MZ\x90\0", b"\x7fELG"] {
            assert_eq!(judge(bytes), Err(Fault::Unknown), "{bytes:?}");
        }
    }

    /// Bytes with a header that gets past the first checks.
    fn plausible() -> impl Strategy<Value = Vec<u8>> {
        (prop::collection::vec(any::<u8>(), 64..2048), any::<[bool; 4]>()).prop_map(|(mut bytes, [a, b, c, d])| {
            bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
            bytes[16..20].copy_from_slice(&[2, 0, if Host::this() == Host::X86_64 { 62 } else { 183 }, 0]);
            bytes[54..56].copy_from_slice(&[56, 0]);
            bytes[58..60].copy_from_slice(&[64, 0]);
            if a {
                bytes[32..40].copy_from_slice(&64u64.to_le_bytes());
                bytes[56..58].copy_from_slice(&[1, 0]);
            }
            if b {
                bytes[40..48].copy_from_slice(&128u64.to_le_bytes());
                bytes[60..62].copy_from_slice(&[u8::from(c), 0]);
            }
            if d && bytes.len() > 140 {
                bytes[64..68].copy_from_slice(&1u32.to_le_bytes());
                bytes[72..80].copy_from_slice(&8u64.to_le_bytes());
                bytes[96..104].copy_from_slice(&8u64.to_le_bytes());
            }
            bytes
        })
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_read_beyond_the_end(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            let _verdict = judge(&bytes);
        }

        #[test]
        fn no_header_makes_it_panic_or_read_beyond_the_end(bytes in plausible()) {
            let _verdict = judge(&bytes);
        }

        #[test]
        fn a_damaged_real_program_never_makes_it_panic(at in 0usize..1024, value in any::<u8>()) {
            static WHOLE: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(this_test);
            let read = |offset: u64, length: usize| {
                let offset = usize::try_from(offset).expect("inside");
                let mut bytes = WHOLE[offset..offset + length].to_vec();
                if let Some(byte) = at.checked_sub(offset).and_then(|place| bytes.get_mut(place)) {
                    *byte = value;
                }
                Ok::<_, Infallible>(bytes)
            };
            let _verdict = examine(WHOLE.len() as u64, Host::this(), read);
        }
    }
}
