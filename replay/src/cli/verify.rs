//! `pitr verify`: findings as lines or JSON, and exit 9 when there are any.

use std::sync::atomic::Ordering;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::args::VerifyArgs;
use super::error::{CliError, Code};
use super::{Context, Outcome, show};
use crate::catalog::CatalogError;
use crate::verify::{Options, Progress, Report, verify};
use proto::position::ByteCount;

/// How often a terminal and how often a log shows how far it is.
const DRAWN_EVERY: Duration = Duration::from_millis(200);
const PRINTED_EVERY: Duration = Duration::from_secs(15);

pub(super) async fn run(context: &Context, args: &VerifyArgs) -> Result<Outcome, CliError> {
    let catalog = context.catalog().await?;
    let progress = Progress::default();
    let work = verify(&catalog, args.options(), &progress);
    told(context, args, &catalog.address(), &progress, work).await
}

impl VerifyArgs {
    pub(super) const fn options(&self) -> Options {
        Options { read_data: self.read_data }
    }
}

/// Shows how far `work` is, and then what it found.
pub(super) async fn told(
    context: &Context,
    args: &VerifyArgs,
    address: &str,
    progress: &Progress,
    work: impl Future<Output = Result<Report, CatalogError>>,
) -> Result<Outcome, CliError> {
    let report = tokio::select! {
        report = work => report?,
        never = draw(progress, context.terminal) => match never {},
    };
    let output =
        if context.global.json { show::json(&report) } else { text(&report, args.read_data) };
    Ok(Outcome { output, error: findings(&report, address) })
}

/// Findings are an error of their own.
fn findings(report: &Report, address: &str) -> Option<CliError> {
    (!report.findings.is_empty()).then(|| {
        let what = format!("{} findings in {address}", report.findings.len());
        CliError::new(
            Code::Found,
            what,
            "take a new base (`pitrd base`), keep the archive as it is, look at the store",
        )
    })
}

/// A bar on a terminal, a line now and then elsewhere; on the standard error, for the standard
/// output is the report's.
async fn draw(progress: &Progress, terminal: bool) -> std::convert::Infallible {
    let bar = if terminal { ProgressBar::new(0) } else { ProgressBar::hidden() };
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} objects  {msg}  {eta} left");
    bar.set_style(style.expect("a template of ours"));
    loop {
        tokio::time::sleep(if terminal { DRAWN_EVERY } else { PRINTED_EVERY }).await;
        let (done, total) =
            (progress.done.load(Ordering::Relaxed), progress.total.load(Ordering::Relaxed));
        let bytes = ByteCount(progress.bytes.load(Ordering::Relaxed));
        bar.set_length(total);
        bar.set_position(done);
        bar.set_message(bytes.to_string());
        if !terminal {
            super::note(&format!("verify: {done} of {total} objects, {bytes} read"));
        }
    }
}

pub(super) fn text(report: &Report, read_data: bool) -> String {
    let mut out = String::new();
    for finding in &report.findings {
        let kind = format!("{:?}", finding.kind).to_uppercase();
        out.push_str(&format!(
            "{kind} {}\n  expected: {}\n  found:    {}\n",
            finding.key, finding.expected, finding.found
        ));
    }
    let depth = if read_data {
        format!("every byte read ({})", ByteCount(report.bytes_read))
    } else {
        "structure only; --read-data reads every byte".to_owned()
    };
    let verdict = match report.findings.len() {
        0 => "OK".to_owned(),
        1 => "1 FINDING".to_owned(),
        many => format!("{many} FINDINGS"),
    };
    out.push_str(&format!(
        "{verdict}: {} segments, {} tails, {} bases with {} objects, {} indexes: {depth}\n",
        report.segments, report.tails, report.bases, report.base_objects, report.indexes
    ));
    out
}
