//! What a run covers. A plain run takes the versions that CI takes; `PITR_SOAK=1` (set by
//! `cargo soak`) takes everything. Chosen by configuration, so that no test is ever marked to be
//! skipped.

/// Every PostgreSQL major version that pitr supports.
pub const ALL_POSTGRES: [u32; 5] = [14, 15, 16, 17, 18];

/// The versions of a plain run: the oldest with Debian packages at hand, and the newest.
pub const CI_POSTGRES: [u32; 2] = [15, 18];

/// Whether this is the long run.
pub fn soak() -> bool {
    std::env::var_os("PITR_SOAK").is_some_and(|value| !value.is_empty() && value != "0")
}

/// The PostgreSQL versions to test: `PITR_TEST_PG=14,17` if set, else by [`soak`].
pub fn postgres_versions() -> Vec<u32> {
    if let Ok(list) = std::env::var("PITR_TEST_PG") {
        return list.split(',').filter_map(|item| item.trim().parse().ok()).collect();
    }
    if soak() { ALL_POSTGRES.to_vec() } else { CI_POSTGRES.to_vec() }
}

/// The version for a test that needs only one.
pub fn newest_postgres() -> u32 {
    postgres_versions().into_iter().max().unwrap_or(18)
}

/// `small` in a plain run, `large` in the long one: counts of kills, rows, seconds.
pub fn scale<T>(small: T, large: T) -> T {
    if soak() { large } else { small }
}
