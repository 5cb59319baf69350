//! Our programs as the other tests run them.

use anyhow::Result;
use tests::programs::{self, Metrics};

#[test]
fn both_programs_are_built_and_start() -> Result<()> {
    for name in ["pitrd", "pitr"] {
        programs::run(name, &["--help"], &[])?.ok()?;
    }
    Ok(())
}

#[test]
fn metrics_are_read_by_name_and_label() {
    let metrics = Metrics::new(
        "# HELP a x\na{state=\"up\"} 2\na{state=\"down\"} 3\nab 7\nb 1.5e3\n".to_owned(),
    );
    assert_eq!(metrics.sum("a"), Some(5.0));
    assert_eq!(metrics.labelled("a", "state=\"down\""), Some(3.0));
    assert_eq!(metrics.sum("b"), Some(1500.0));
    assert_eq!(metrics.sum("c"), None);
}
