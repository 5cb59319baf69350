//! With a test of its own, cargo builds `pitrd` before the tests of package `tests` look for it.

#[test]
fn pitrd_is_built() {
    assert!(std::path::Path::new(env!("CARGO_BIN_EXE_pitrd")).is_file());
}
