//! What the fuzz targets share: a cap on memory, seeds, and small things to build inputs with.
//!
//! A target is a file of `fuzz_targets/`: seeds made by the code that writes such bytes, the most
//! memory that reading one input may take, and what must hold of every input. It is run by
//! `fuzz/run` (docs/TESTING.md, "Fuzzing").

pub mod bson;
pub mod disk;
pub mod input;
pub mod log;
pub mod memory;
pub mod seeds;
mod stack;

pub use input::Input;
pub use libfuzzer_sys;

/// Called once, before the first input.
pub fn begin(target: &str, cap: usize, seeds: fn() -> Vec<seeds::Seed>) {
    seeds::write_if_asked(target, seeds);
    stack::let_overflows_be_reported();
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        memory::end_input();
        tell(info);
    }));
    memory::set_cap(cap);
}

/// A fuzz target: its name, the most bytes that one input may make it hold, its seeds, and what is tried
/// with an input.
#[macro_export]
macro_rules! target {
    ($name:literal, most: $cap:expr, seeds: $seeds:expr, input: $input:expr) => {
        $crate::libfuzzer_sys::fuzz_target!(
            init: $crate::begin($name, $cap, $seeds),
            |data: &[u8]| {
                $crate::memory::begin_input();
                $input(data);
                $crate::memory::end_input();
            }
        );
    };
}
