//! A sealed, immutable piece of the log, and the tails of the one that is still open.
