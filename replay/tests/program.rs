//! With a test of its own, cargo builds `pitr` before the tests of package `tests` look for it.

#[test]
fn pitr_is_built() {
    assert!(std::path::Path::new(env!("CARGO_BIN_EXE_pitr")).is_file());
}
