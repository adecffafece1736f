//! The half of a reactor that any thread may use: registers descriptors and wakes the driver.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token, Waker};

use crate::id::IoToken;
use crate::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use crate::sys::level_trigger::{self, Watch};

/// Registers descriptors with, and wakes, the [`Driver`](super::Driver) it was made with.
#[derive(Debug)]
pub struct Handle {
    registry: Registry,
    waker: Waker,
    /// See [`watched`](Self::watched).
    watched: Arc<AtomicUsize>,
}

impl Handle {
    pub(super) fn new(registry: Registry, waker: Waker) -> Self {
        Self { registry, waker, watched: Arc::default() }
    }

    /// How many descriptors are watched; one that the kernel forgot by itself still counts. Any thread.
    #[must_use]
    pub fn watched(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.watched)
    }

    /// Ends the driver's present wait, or else its next one. Wakes coalesce.
    pub fn wake(&self) {
        let woken = self.waker.wake();
        debug_assert!(woken.is_ok(), "the kernel refuses nothing while the waker is open");
    }

    /// The selector's own descriptor, which another selector can watch.
    #[must_use]
    pub fn selector(&self) -> RawFd {
        self.registry.as_raw_fd()
    }

    /// Changes what is watched on a descriptor from `old` to `new`, level-triggered; events bear `token`.
    ///
    /// # Errors
    /// Those of the kernel: see [`level_trigger::set`].
    pub fn watch(&self, fd: RawFd, token: IoToken, old: Watch, new: Watch) -> io::Result<()> {
        level_trigger::set(self.registry.as_raw_fd(), fd, old, new, token.to_bits())?;
        match (old.is_none(), new.is_none()) {
            (true, false) => self.watched.fetch_add(1, Relaxed),
            (false, true) => self.watched.fetch_sub(1, Relaxed),
            _ => return Ok(()),
        };
        Ok(())
    }

    /// Begins to report the edges of a descriptor, as events that bear `token`: of its readiness to be
    /// read, or of both. A descriptor that becomes ready is reported once.
    ///
    /// # Errors
    /// Those of the kernel: `EPERM` for a regular file, `EBADF`.
    pub fn register(&self, fd: RawFd, token: IoToken, edges: Edges) -> io::Result<()> {
        let interest = edges.interest();
        let registered =
            self.registry.register(&mut SourceFd(&fd), Token(token.to_bits()), interest);
        match registered {
            // What was registered for it lost it without a word: the program took it away.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.reregister(fd, token, edges)
            }
            Ok(()) => {
                self.watched.fetch_add(1, Relaxed);
                Ok(())
            }
            failed => failed,
        }
    }

    /// Changes which edges are reported. What is ready at this moment is reported again.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn reregister(&self, fd: RawFd, token: IoToken, edges: Edges) -> io::Result<()> {
        let interest = edges.interest();
        self.registry.reregister(&mut SourceFd(&fd), Token(token.to_bits()), interest)
    }

    /// Reports nothing more of a descriptor.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn deregister(&self, fd: RawFd) -> io::Result<()> {
        self.registry.deregister(&mut SourceFd(&fd))?;
        self.watched.fetch_sub(1, Relaxed);
        Ok(())
    }
}

/// Which edges are reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edges {
    /// It became readable, ended or failed.
    Read,
    /// It became writable or failed.
    Write,
    /// Either.
    Both,
}

impl Edges {
    fn interest(self) -> Interest {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let read = Interest::READABLE | Interest::PRIORITY;
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        let read = Interest::READABLE;
        match self {
            Self::Read => read,
            Self::Write => Interest::WRITABLE,
            Self::Both => read | Interest::WRITABLE,
        }
    }
}
