//! The README.md of every archive: how to restore by hand. A test executes exactly its steps.

/// The text, as it stands in the archive.
pub const fn text() -> &'static str {
    include_str!("readme.md")
}

/// The shell steps, in order: what stands in fenced `sh` blocks.
pub fn steps() -> String {
    let mut steps = String::new();
    let mut inside = false;
    for line in text().lines() {
        match line {
            "```sh" => inside = true,
            "```" => inside = false,
            line if inside => {
                steps.push_str(line);
                steps.push('\n');
            }
            _ => {}
        }
    }
    steps
}
