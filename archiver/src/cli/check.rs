//! `pitrd check`: whether this server can be protected into this archive.

use super::Address;
use super::args::{CheckArgs, Global};
use super::error::{CliError, Code, Exit};
use crate::check::{check, check_mongodb};
use crate::source::postgres::SlotName;

pub(super) async fn run(global: &Global, args: &CheckArgs) -> Result<Exit, CliError> {
    let address = args.archive.address()?;
    let report = match args.source.address().await? {
        Address::Postgres(source) => {
            let slot: SlotName =
                args.slot.parse().map_err(|error: crate::source::postgres::Error| {
                    CliError::caused(Code::Usage, &error, "correct --slot")
                })?;
            Box::pin(check(&source, address, &slot)).await
        }
        Address::Mongodb(mut source) => {
            source.mode = args.mode.source_mode;
            Box::pin(check_mongodb(&source, address)).await
        }
    };
    let mut out = std::io::stdout().lock();
    let written =
        if global.json { report.write_json(&mut out) } else { report.write_text(&mut out) };
    written.map_err(|error| CliError::caused(Code::Failed, &error, "is standard output open?"))?;
    Ok(report.exit)
}
