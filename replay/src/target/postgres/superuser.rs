//! Who may come in: a superuser's name, read from the copy's own catalog files.
//!
//! Enters: a data folder at any state. Leaves: names to try, likeliest first. The private socket
//! trusts whoever enters it, but a role must be named, and not every cluster has a `postgres`. The
//! pages may be torn before recovery: what is read here is a guess that the server then decides on.

use std::path::Path;

/// pg_authid (src/include/catalog/pg_authid.dat): its oid and that of the bootstrap superuser.
const AUTHID: u32 = 1260;
const BOOTSTRAP: u32 = 10;
/// relmapper.c: magic, count, then pairs of oid and file number.
const RELMAP_MAGIC: u32 = 0x0059_2717;
const PAGE: usize = 8192;

/// Superusers that may log in, the bootstrap superuser first, then usual names.
pub(super) fn candidates(folder: &Path) -> Vec<String> {
    let mut found = read(folder).unwrap_or_default();
    found.sort();
    let mut names: Vec<String> = found.into_iter().map(|(_, name)| name).collect();
    names.extend(std::env::var("PGUSER"));
    names.push("postgres".to_owned());
    let mut seen = std::collections::BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}

fn read(folder: &Path) -> Option<Vec<(u32, String)>> {
    let map = std::fs::read(folder.join("global/pg_filenode.map")).ok()?;
    let number = |at: usize| Some(u32::from_ne_bytes(map.get(at..at + 4)?.try_into().ok()?));
    if number(0)? != RELMAP_MAGIC {
        return None;
    }
    let count = usize::try_from(number(4)?).ok()?.min(64);
    let file = (0..count)
        .find_map(|at| (number(8 + at * 8)? == AUTHID).then(|| number(12 + at * 8))?)?;
    let pages = std::fs::read(folder.join("global").join(file.to_string())).ok()?;
    Some(pages.chunks_exact(PAGE).flat_map(roles_in).collect())
}

/// bufpage.h: line pointers from byte 24 to `pd_lower`; itemid.h: offset 15 bits, flags 2, length 15.
fn roles_in(page: &[u8]) -> Vec<(u32, String)> {
    let lower = usize::from(u16::from_ne_bytes([page[12], page[13]])).min(PAGE);
    let pointers = page.get(24..lower).unwrap_or_default();
    let tuples = pointers.chunks_exact(4).filter_map(|pointer| {
        let pointer = u32::from_ne_bytes(pointer.try_into().ok()?);
        let (offset, flags, length) = (pointer & 0x7FFF, pointer >> 15 & 3, pointer >> 17);
        let (offset, length) = (offset as usize, length as usize);
        (flags == 1).then(|| page.get(offset..offset + length))?
    });
    tuples.filter_map(role_of).collect()
}

/// htup_details.h: `t_hoff` is byte 22; then oid, name, super, inherit, createrole, createdb,
/// canlogin.
fn role_of(tuple: &[u8]) -> Option<(u32, String)> {
    let data = tuple.get(usize::from(*tuple.get(22)?)..)?;
    let oid = u32::from_ne_bytes(data.get(..4)?.try_into().ok()?);
    let name = data.get(4..68)?.split(|byte| *byte == 0).next()?;
    let flags = data.get(68..73)?;
    let may = flags[0] == 1 && flags[4] == 1;
    let name = std::str::from_utf8(name).ok().filter(|name| !name.is_empty())?;
    // The bootstrap superuser sorts first.
    let order = if oid == BOOTSTRAP { 0 } else { oid };
    may.then(|| (order, name.to_owned()))
}
