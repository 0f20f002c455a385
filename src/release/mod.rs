//! Floor 2: the release store, digests, the watcher and the journal.
