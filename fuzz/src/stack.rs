//! A stack that overflows is a finding like another one: its signal is handled on a stack of its own.

/// libFuzzer takes the flag over from the handler that it finds (FuzzerUtilPosix.cpp, `SetSigaction`).
pub(crate) fn let_overflows_be_reported() {
    const BYTES: usize = 256 << 10;
    let room = Box::leak(vec![0_u8; BYTES].into_boxed_slice());
    let stack = libc::stack_t { ss_sp: room.as_mut_ptr().cast(), ss_flags: 0, ss_size: BYTES };
    // SAFETY: `room` lives as long as the program, and `action` is a valid disposition: the default one.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = libc::SIG_DFL;
        action.sa_flags = libc::SA_ONSTACK;
        assert_eq!(libc::sigaltstack(&raw const stack, std::ptr::null_mut()), 0);
        assert_eq!(libc::sigaction(libc::SIGSEGV, &raw const action, std::ptr::null_mut()), 0);
    }
}
