//! What goes wrong: kills, stores that are away, full disks, writers that were thought dead.
