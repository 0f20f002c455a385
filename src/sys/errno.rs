//! The numbers of errors (errno(3)) that the rest of the program tells apart where [`std::io::ErrorKind`] does not.

pub use libc::{E2BIG, EACCES, EINVAL, EIO, ELIBBAD, ENOENT, ENOEXEC, ENOTDIR, ETXTBSY};
