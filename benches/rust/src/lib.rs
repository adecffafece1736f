//! Workloads on the layers of `loop_pool` below Python, each as a closure that does one operation.
//!
//! In: sizes. Out: closures that may be called any number of times and leave their structures as they
//! found them, so that each call costs the same. Two programs run them: `benches/wall.rs` measures
//! time, `src/bin/counts.rs` is run under callgrind, which counts instructions.
//!
//! All of it is deterministic: "random" numbers come from [`Random`]. Layers are used by their public
//! interface alone, one layer for each module.
//!
//! Must never: measure anything, or depend on the time.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

pub mod event_loop;
pub mod http;
pub mod reactor;
pub mod registry;
pub mod scheduler;
pub mod timers;
pub mod tls;
pub mod transport;

/// Numbers without a pattern, the same in each run.
#[derive(Debug)]
pub struct Random(u64);

impl Default for Random {
    fn default() -> Self {
        Self(0x9E37_79B9_7F4A_7C15)
    }
}

impl Random {
    /// The next number, between 0 and 1. Marsaglia's xorshift.
    pub fn fraction(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        f64::from((self.0 >> 32) as u32) / f64::from(u32::MAX)
    }
}

/// The descriptor of something that does not block from now on.
///
/// # Panics
/// When the kernel refuses.
fn non_blocking(of: &impl AsRawFd) -> RawFd {
    let fd = of.as_raw_fd();
    // SAFETY: no memory is involved, and the descriptor is open.
    let status = unsafe { libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK) };
    assert_eq!(status, 0, "fcntl: {}", io::Error::last_os_error());
    fd
}
