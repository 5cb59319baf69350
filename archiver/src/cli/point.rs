//! `pitrd point NAME`: a named restore point, which `pitr restore --at-name NAME` finds.

use super::Address;
use super::args::{Global, PointArgs};
use super::error::{CliError, Code, mongodb_error, source_error};
use crate::source::mongodb::point;
use crate::source::postgres::sql::SqlSession;

/// MAXFNAMELEN of src/include/access/xlog_internal.h: longer names are refused by the server.
const NAME_BYTES_MAX: usize = 63;

pub(super) async fn run(global: &Global, args: &PointArgs) -> Result<(), CliError> {
    if args.name.is_empty() || args.name.len() > NAME_BYTES_MAX {
        let what = format!("a restore point's name of {} bytes", args.name.len());
        return Err(CliError::new(Code::Usage, what, "give a name of 1 to 63 bytes"));
    }
    let (unit, at) = match args.source.address().await? {
        Address::Postgres(options) => {
            let mut sql =
                SqlSession::connect(&options).await.map_err(|error| source_error(&error))?;
            let made = sql.create_restore_point(&args.name).await;
            sql.close().await;
            ("lsn", made.map_err(|error| source_error(&error))?.to_string())
        }
        Address::Mongodb(options) => {
            let made = point::create(&options, &args.name).await;
            ("ts", made.map_err(|error| mongodb_error(&error))?.to_string())
        }
    };
    if global.json {
        println!("{}", serde_json::json!({ "name": args.name, unit: at }));
    } else {
        println!("restore point {:?} at {at}", args.name);
        println!("restore to it: pitr restore --at-name {:?} --archive … --into …", args.name);
    }
    Ok(())
}
