//! PostgreSQL's configuration files, line by line (guc-file.l): read, and lines taken out.

/// What one line sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// In lower case.
    pub name: String,
    pub value: String,
}

/// Reads a line; `None` for comments, empty lines, and what no server would take.
pub fn parse(line: &str) -> Option<Setting> {
    let line = line.trim_start();
    let end = line
        .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '$')))
        .unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let rest = rest.trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest).trim_start();
    let value = match rest.strip_prefix('\'') {
        Some(quoted) => unquoted(quoted)?,
        None => rest.split(|c: char| c.is_whitespace() || c == '#').next()?.to_owned(),
    };
    Some(Setting { name: name.to_lowercase(), value })
}

/// The content of a quoted value, up to its closing quote (guc-file.l, `DeescapeQuotedString`).
fn unquoted(text: &str) -> Option<String> {
    let mut value = String::new();
    let mut letters = text.chars().peekable();
    loop {
        match letters.next()? {
            '\'' if letters.peek() == Some(&'\'') => {
                letters.next();
                value.push('\'');
            }
            '\'' => return Some(value),
            '\\' => match letters.next()? {
                'n' => value.push('\n'),
                't' => value.push('\t'),
                'r' => value.push('\r'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
}

/// A value as it stands behind `name = `.
pub fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''").replace('\n', "\\n"))
}

/// The text with the lines of which `taken_out` says why turned into comments.
pub fn without(text: &str, mut taken_out: impl FnMut(&Setting) -> Option<&'static str>) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        match parse(line).and_then(|setting| taken_out(&setting)) {
            Some(why) => out.push_str(&format!("# taken out by pitr restore ({why}): {line}\n")),
            None => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    out
}

/// The text without the run of lines between these two, if it is there.
pub fn without_block(text: &str, begin: &str, end: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for line in text.lines() {
        match (inside, line) {
            (false, line) if line == begin => inside = true,
            (true, line) if line == end => inside = false,
            (true, _) => {}
            (false, line) => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_the_server_reads_them() {
        for (line, name, value) in [
            ("port = 5432", "port", "5432"),
            ("  Port 5432 # here", "port", "5432"),
            ("port=5432#x", "port", "5432"),
            ("a.b = 'it''s \\'so\\' # no'", "a.b", "it's 'so' # no"),
            ("include_dir 'conf.d'", "include_dir", "conf.d"),
            ("archive_command = ''", "archive_command", ""),
        ] {
            let found = parse(line).expect(line);
            assert_eq!((found.name.as_str(), found.value.as_str()), (name, value), "{line}");
        }
        for line in ["", "# port = 1", "   ", "= 3", "x = 'open"] {
            assert_eq!(parse(line), None, "{line}");
        }
    }

    #[test]
    fn a_quoted_value_reads_back() {
        for value in ["", "plain", "it's", r"back\slash", "two\nlines", "%f \"%p\""] {
            let line = format!("x = {}", quoted(value));
            assert_eq!(parse(&line).expect("a line").value, value, "{line}");
        }
    }

    #[test]
    fn only_the_named_lines_are_taken_out() {
        let text = "port = 1\nrecovery_target_time = 'x'\n# a\n";
        let out = without(text, |s| s.name.starts_with("recovery_target").then_some("old"));
        assert_eq!(
            out,
            "port = 1\n# taken out by pitr restore (old): recovery_target_time = 'x'\n# a\n"
        );
        assert_eq!(without(&out, |_| None), out);
        assert_eq!(without_block("a\n<\nb\n>\nc\n", "<", ">"), "a\nc\n");
    }
}
