//! Killing a whole process tree.
