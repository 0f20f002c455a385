//! Adopting fds by number, once.
