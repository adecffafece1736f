//! How much of what each loop has counted counts no more, when coroutines are placed.

use crate::sync::atomic::AtomicU64;

/// How much of what each loop has counted counts no more.
#[derive(Debug)]
pub(super) struct ForgottenCounts {
    pub(super) loops: Box<[ForgottenOfLoop]>,
    pub(super) at_ns: AtomicU64,
}

#[derive(Debug, Default)]
pub(super) struct ForgottenOfLoop {
    pub(super) ended: AtomicU64,
    pub(super) made: AtomicU64,
}

impl ForgottenCounts {
    pub(super) fn new(loops: usize) -> Self {
        let loops = std::iter::repeat_with(ForgottenOfLoop::default).take(loops).collect();
        Self { loops, at_ns: AtomicU64::new(0) }
    }
}
