//! What the demo says: numbered steps with what each took; colours only on a terminal.

use std::io::{IsTerminal, Write};

use tests::wait::Deadline;

#[derive(Debug)]
pub(crate) struct Screen {
    colours: bool,
    step: u32,
    clock: Deadline,
}

impl Screen {
    pub(crate) fn new() -> Self {
        let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { colours, step: 0, clock: Deadline::seconds(u64::MAX) }
    }

    /// As it is.
    pub(crate) fn text(&self, text: &str) {
        let mut out = std::io::stdout().lock();
        // A reader that went away is no reason to leave servers behind.
        let _ = write!(out, "{text}").and_then(|()| out.flush());
    }

    pub(crate) fn line(&self, text: &str) {
        self.text(&format!("{text}\n"));
    }

    /// A new step begins.
    pub(crate) fn step(&mut self, what: &str) {
        self.step += 1;
        let number = self.paint("1", &format!("{:2}", self.step));
        self.line(&format!("\n{number}  {what}"));
    }

    /// What came of it.
    pub(crate) fn note(&self, text: &str) {
        for line in text.lines() {
            self.line(&format!("    {line}"));
        }
    }

    /// A command as one would type it.
    pub(crate) fn command(&self, text: &str) {
        self.line(&format!("    {}", self.paint("36", &format!("$ {text}"))));
    }

    pub(crate) fn good(&self, text: &str) {
        self.line(&format!("    {}", self.paint("1;32", text)));
    }

    pub(crate) fn failed(&self, error: &anyhow::Error) {
        self.line(&format!("\n{}", self.paint("1;31", &format!("the demo failed: {error:#}"))));
    }

    /// Seconds since the beginning.
    pub(crate) fn seconds(&self) -> f64 {
        self.clock.elapsed().as_secs_f64()
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colours { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}
