//! The half of a reactor that any thread may use.

use std::io;
use std::os::fd::AsRawFd;

use mio::{Registry, Waker};

use crate::id::IoToken;
use crate::sys::level_trigger::{self, Watch};

/// Registers descriptors with, and wakes, the [`Driver`](super::Driver) it was made with.
#[derive(Debug)]
pub struct Handle {
    registry: Registry,
    waker: Waker,
}

impl Handle {
    pub(super) fn new(registry: Registry, waker: Waker) -> Self {
        Self { registry, waker }
    }

    /// Ends the driver's present wait, or else its next one. Wakes coalesce.
    ///
    /// # Errors
    /// Those of the kernel; none is known to occur while the waker is open.
    pub fn wake(&self) -> io::Result<()> {
        self.waker.wake()
    }

    /// Changes what is watched on the descriptor of `token` from `old` to `new`, level-triggered.
    ///
    /// # Errors
    /// Those of the kernel: see [`level_trigger::set`].
    pub fn watch(&self, token: IoToken, old: Watch, new: Watch) -> io::Result<()> {
        level_trigger::set(self.registry.as_raw_fd(), token.fd(), old, new, token.to_bits())
    }
}
