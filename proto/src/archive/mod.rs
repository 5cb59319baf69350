//! The archive's layout and the objects in it.
