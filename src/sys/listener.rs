//! Making and mending listening sockets.
