//! A listing as a store shows it that lags behind its own puts and pages early.

use anyhow::{Context, Result};

/// What is shown instead of an answer.
pub(super) struct Shown {
    pub(super) answer: Vec<u8>,
    pub(super) hidden: u64,
    pub(super) cut: bool,
}

/// Leaves out the `newest` paths, and folders that hold nothing but them; of what is left it shows
/// `page` keys.
pub(super) fn shown(
    answer: &[u8],
    bucket: &str,
    older: &[String],
    newest: &[String],
    page: usize,
) -> Result<Shown> {
    let text = String::from_utf8(answer.to_vec()).context("a listing is text")?;
    let (head, body) = text.split_once("\r\n\r\n").context("an answer has a body")?;
    let body = match head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        true => unchunked(body)?,
        false => body.to_owned(),
    };
    let (mut kept, mut hidden, mut cut) = (String::new(), 0, false);
    let (mut rest, mut keys, mut last) = (body.as_str(), 0, String::new());
    while let Some((name, element, before, after)) = next_element(rest) {
        kept.push_str(before);
        rest = after;
        let path = format!("{bucket}/{}", inside(element, name).unwrap_or_default());
        let below = |all: &[String]| all.iter().any(|created| created.starts_with(&path));
        let lags = match name {
            "Key" => newest.contains(&path),
            _ => below(newest) && !below(older),
        };
        if lags {
            hidden += 1;
        } else if name == "Key" && keys == page {
            cut = true;
        } else {
            kept.push_str(element);
            if name == "Key" {
                keys += 1;
                last = inside(element, name).unwrap_or_default().to_owned();
            }
        }
    }
    kept.push_str(rest);
    if cut {
        let token = format!(
            "<IsTruncated>true</IsTruncated><NextContinuationToken>{last}</NextContinuationToken>"
        );
        kept = kept.replacen("<IsTruncated>false</IsTruncated>", &token, 1);
    }
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n{kept}",
        kept.len()
    );
    Ok(Shown { answer: answer.into_bytes(), hidden, cut })
}

/// The next object or folder: the name of what tells its path, the element, what is before and
/// after it.
fn next_element(text: &str) -> Option<(&'static str, &str, &str, &str)> {
    let object = text.find("<Contents>").map(|at| (at, "Key", "</Contents>"));
    let folder = text.find("<CommonPrefixes>").map(|at| (at, "Prefix", "</CommonPrefixes>"));
    let (begin, name, closing) = [object, folder].into_iter().flatten().min()?;
    let end = begin + text[begin..].find(closing)? + closing.len();
    Some((name, &text[begin..end], &text[..begin], &text[end..]))
}

fn inside<'a>(element: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = element.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(value, _)| value)
}

/// RFC 9112 §7.1, without extensions.
fn unchunked(mut body: &str) -> Result<String> {
    let mut whole = String::new();
    loop {
        let (size, rest) = body.split_once("\r\n").context("a chunk has a size")?;
        let size = usize::from_str_radix(size.trim(), 16)?;
        if size == 0 {
            return Ok(whole);
        }
        whole.push_str(rest.get(..size).context("a chunk is whole")?);
        body = rest[size..].trim_start_matches("\r\n");
    }
}
