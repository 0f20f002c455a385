//! Packets with fds (SCM_RIGHTS).
