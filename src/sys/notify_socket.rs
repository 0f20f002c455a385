//! The socket on which a worker says READY=1.
