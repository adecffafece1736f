//! A native socket, and the only way to close one.
//!
//! `close(2)` may wait, as long as `SO_LINGER` says, if the peer does not accept the remaining data;
//! meanwhile the thread must hold nothing that others need. The layers below return a socket to their
//! caller where a lock or claim is held. Whether the thread is attached to the interpreter is known only to
//! `py`, which sets the function that closes ([`close_by`]) once. `shutdown(2)` of the write side does not
//! wait.

use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};

use crate::sync::OnceLock;

/// Closes a descriptor.
pub type Close = fn(OwnedFd);

static CLOSE: OnceLock<Close> = OnceLock::new();

/// Has every socket closed by `close` from now on; `false`: another was given before.
pub fn close_by(close: Close) -> bool {
    CLOSE.set(close).is_ok()
}

/// A socket, closed when this is dropped. To drop it may take long: under no lock, and under no claim.
#[derive(Debug)]
pub struct OwnedSocket(ManuallyDrop<OwnedFd>);

impl From<OwnedFd> for OwnedSocket {
    fn from(descriptor: OwnedFd) -> Self {
        Self(ManuallyDrop::new(descriptor))
    }
}

#[cfg(all(test, not(loom)))]
impl OwnedSocket {
    /// Another descriptor of it.
    pub(crate) fn try_clone(&self) -> std::io::Result<Self> {
        self.0.try_clone().map(Self::from)
    }
}

impl AsRawFd for OwnedSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl IntoRawFd for OwnedSocket {
    fn into_raw_fd(self) -> RawFd {
        ManuallyDrop::new(self).as_raw_fd()
    }
}

impl Drop for OwnedSocket {
    fn drop(&mut self) {
        // SAFETY: taken once, as this is dropped once.
        let descriptor = unsafe { ManuallyDrop::take(&mut self.0) };
        match CLOSE.get() {
            Some(close) => close(descriptor),
            None => drop(descriptor),
        }
    }
}

#[cfg(all(test, not(loom)))]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    #[test]
    fn it_is_closed_when_it_is_dropped_and_kept_open_when_it_is_given_away() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let socket = OwnedSocket::from(OwnedFd::from(near));
        let number = socket.as_raw_fd();
        assert_eq!(socket.into_raw_fd(), number);
        far.set_nonblocking(true).unwrap();
        assert!(far.read(&mut [0]).is_err(), "still open");
        // SAFETY: given away above.
        let again: OwnedFd = unsafe { std::os::fd::FromRawFd::from_raw_fd(number) };
        drop(OwnedSocket::from(again));
        assert_eq!(far.read(&mut [0]).unwrap(), 0);
    }
}
