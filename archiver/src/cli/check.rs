//! `pitrd check`: whether this server can be protected into this archive.

use super::args::{CheckArgs, Global};
use super::error::{CliError, Code, Exit};
use crate::check::check;
use crate::source::postgres::SlotName;

pub(super) async fn run(global: &Global, args: &CheckArgs) -> Result<Exit, CliError> {
    let (source, address) = (args.source.options()?, args.archive.address()?);
    let slot: SlotName = args.slot.parse().map_err(|error: crate::source::postgres::Error| {
        CliError::caused(Code::Usage, &error, "correct --slot")
    })?;
    let report = Box::pin(check(&source, address, &slot)).await;
    let mut out = std::io::stdout().lock();
    let written =
        if global.json { report.write_json(&mut out) } else { report.write_text(&mut out) };
    written.map_err(|error| CliError::caused(Code::Failed, &error, "is standard output open?"))?;
    Ok(report.exit)
}
