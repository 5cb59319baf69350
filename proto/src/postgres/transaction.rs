//! (filled by the WAL reader)
