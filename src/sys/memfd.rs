//! Sealed memory files (memfd_create(2)): what is in one cannot change any more, whoever holds it.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

const SEALS: SealFlag =
    SealFlag::F_SEAL_SEAL.union(SealFlag::F_SEAL_SHRINK).union(SealFlag::F_SEAL_GROW).union(SealFlag::F_SEAL_WRITE);

/// A sealed memfd that holds these bytes, close-on-exec. The name is seen in `/proc/PID/fd`.
///
/// # Errors
/// No fd or no memory is free.
pub fn sealed(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?);
    file.write_all(bytes)?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(SEALS))?;
    Ok(file.into())
}

/// What is in a sealed memfd, from its beginning.
///
/// # Errors
/// It is not sealed, or longer than `limit` (`InvalidData`).
pub fn read(memfd: impl AsFd, limit: usize) -> io::Result<Vec<u8>> {
    let file = File::from(memfd.as_fd().try_clone_to_owned()?);
    let seals = fcntl(&file, FcntlArg::F_GET_SEALS).unwrap_or(0);
    if !SealFlag::from_bits_retain(seals).contains(SEALS) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the fd is not a sealed memory file"));
    }
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    if length > limit {
        let text = format!("a memory file of {length} bytes is longer than the limit of {limit}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_is_read_back_any_number_of_times_and_cannot_be_changed() {
        let memfd = sealed("test", b"some bytes").expect("memfd");
        assert_eq!(read(&memfd, 10).expect("read"), b"some bytes");
        assert_eq!(read(&memfd, 10).expect("read again"), b"some bytes");
        let mut file = File::from(memfd);
        assert_eq!(file.write(b"x").expect_err("sealed").kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn too_long_or_not_sealed_is_refused() {
        let memfd = sealed("test", b"some bytes").expect("memfd");
        assert_eq!(read(&memfd, 9).expect_err("too long").kind(), io::ErrorKind::InvalidData);
        let plain = File::open("/dev/null").expect("open");
        assert_eq!(read(&plain, 9).expect_err("not sealed").kind(), io::ErrorKind::InvalidData);
    }
}
