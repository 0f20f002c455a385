//! SIGTERM and SIGINT as something to await.

use std::io;
use std::os::unix::net::UnixStream as StdStream;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::pipe;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

/// Ends when the process is asked to stop. The signals are caught from the call on, not from the first await on.
pub(crate) fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let (near, far) = StdStream::pair()?;
    near.set_nonblocking(true)?;
    pipe::register(SIGTERM, far.try_clone()?)?;
    pipe::register(SIGINT, far)?;
    let mut near = UnixStream::from_std(near)?;
    Ok(async move {
        // An error would mean that the other end is gone, and it lives as long as the process.
        let _read = near.read_u8().await;
    })
}
