//! The system calls of the shim: from a plain process to the worker.
