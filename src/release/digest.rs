//! SHA-256 over streams. The only file that names `sha2`, which uses the processor's SHA instructions where it has them.

use std::io::{self, Read, Write};
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::source::{Source, SourceError};
use crate::units::Digest;

/// Bytes per read: large enough that system calls do not count, small enough to stay in the processor's cache, and small
/// because the allocator keeps a buffer for every thread that ever hashed something.
const CHUNK: usize = 128 * 1024;

/// The digest of a program file, by the same rules by which the store takes one.
///
/// # Errors
/// As [`Source::open`], and `Changing` if somebody wrote to it meanwhile.
pub fn digest_of(path: &Path) -> Result<Digest, SourceError> {
    let source = Source::open(path)?;
    match copy(source.file(), &mut io::sink()) {
        Ok((digest, size)) => source.check_unchanged(size).map(|()| digest),
        Err(CopyError::Read(cause) | CopyError::Write(cause)) => Err(source.unreadable(cause)),
    }
}

/// Which side of a copy failed.
#[derive(Debug)]
pub(super) enum CopyError {
    /// The original could not be read.
    Read(io::Error),
    /// The copy could not be written.
    Write(io::Error),
}

/// Copies everything; says what it was and how much. What is hashed is what was written.
pub(super) fn copy(mut from: impl Read, to: &mut impl Write) -> Result<(Digest, u64), CopyError> {
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    let mut size = 0;
    loop {
        let read = match from.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => read,
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
            Err(cause) => return Err(CopyError::Read(cause)),
        };
        hasher.update(&chunk[..read]);
        to.write_all(&chunk[..read]).map_err(CopyError::Write)?;
        size += read as u64;
    }
    Ok((Digest(hasher.finalize().into()), size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_agree_with_the_standard() {
        let of = |bytes: &[u8]| copy(bytes, &mut io::sink()).expect("memory can be read").0.to_string();
        assert_eq!(of(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(of(b""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }

    #[test]
    fn what_is_longer_than_a_chunk_is_copied_whole() {
        let original: Vec<u8> = (0..3 * CHUNK + 7).map(|n| u8::try_from(n % 251).expect("small")).collect();
        let mut written = Vec::new();
        let (digest, size) = copy(original.as_slice(), &mut written).expect("memory can be read");
        assert_eq!(size, original.len() as u64);
        assert_eq!(written, original);
        assert_eq!(digest, copy(original.as_slice(), &mut io::sink()).expect("memory can be read").0);
    }
}
