//! The half of a reactor that waits for events: polled by one thread at a time.

use std::io;
use std::time::Duration;

use mio::{Events, Poll, Token, Waker};

use super::Handle;
use crate::config;
use crate::id::IoToken;

/// What one event of the kernel says about a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// The registration that was made for it.
    pub token: IoToken,
    /// A read would not block: data, end of file, or an error to be fetched.
    pub readable: bool,
    /// A write would not block, or an error is to be fetched.
    pub writable: bool,
    /// A read that brings less than it could is not the last: the end follows what is there, or the
    /// descriptor has failed, or urgent data are under way, before which a read stops.
    pub ended: bool,
}

/// How a poll ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum PollEnd {
    /// Events arrived, the timeout passed, or the waker was used.
    Done,
    /// A signal arrived; its handlers should be given a chance to run.
    Interrupted,
}

/// Owns the selector. One thread at a time polls it.
#[derive(Debug)]
pub struct Driver {
    poll: Poll,
    events: Events,
}

impl Driver {
    /// A new selector with its waker, as the half that polls and the half that is shared.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn new() -> io::Result<(Self, Handle)> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), Token(IoToken::WAKER_BITS))?;
        let handle = Handle::new(poll.registry().try_clone()?, waker);
        let events = Events::with_capacity(config::EVENTS_PER_POLL);
        Ok((Self { poll, events }, handle))
    }

    /// Waits for events, at most for `timeout`, and appends the descriptors found ready to `found`
    /// (the waker's own event is left out). Call it detached: it may sleep.
    ///
    /// # Errors
    /// Those of the kernel, other than an interruption by a signal.
    pub fn poll(&mut self, timeout: Duration, found: &mut Vec<Ready>) -> io::Result<PollEnd> {
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                return Ok(PollEnd::Interrupted);
            }
            Err(error) => return Err(error),
        }
        found.extend(self.events.iter().filter_map(|event| {
            let token = IoToken::from_bits(event.token().0)?;
            let failed = event.is_error();
            Some(Ready {
                token,
                readable: event.is_readable() || event.is_read_closed() || failed,
                writable: event.is_writable() || event.is_write_closed() || failed,
                ended: event.is_read_closed() || event.is_priority() || failed,
            })
        }));
        Ok(PollEnd::Done)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sync::atomic::Ordering::Relaxed;
    use crate::sys::level_trigger::Watch;
    use std::io::{Read, Write};
    use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
    use std::os::unix::net::UnixStream;

    const READ: Watch = Watch { read: true, write: false };

    fn look(driver: &mut Driver) -> Vec<Ready> {
        let mut found = Vec::new();
        assert!(matches!(driver.poll(Duration::ZERO, &mut found), Ok(PollEnd::Done)));
        found
    }

    #[test]
    fn a_wake_ends_a_long_wait_and_is_no_event() {
        let (mut driver, handle) = Driver::new().unwrap();
        handle.wake();
        let mut found = Vec::new();
        let began = std::time::Instant::now();
        assert_eq!(driver.poll(Duration::from_secs(60), &mut found).unwrap(), PollEnd::Done);
        assert!(found.is_empty() && began.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_level_is_reported_until_it_is_gone() {
        let (mut driver, handle) = Driver::new().unwrap();
        let (mut near, mut far) = UnixStream::pair().unwrap();
        let token = IoToken::new(0, 1);
        handle.watch(near.as_raw_fd(), token, Watch::NONE, READ).unwrap();
        far.write_all(b"ab").unwrap();
        for _ in 0..2 {
            assert_eq!(
                look(&mut driver),
                [Ready { token, readable: true, writable: false, ended: false }]
            );
            near.read_exact(&mut [0]).unwrap();
        }
        assert!(look(&mut driver).is_empty());
    }

    #[test]
    fn what_is_watched_is_counted_until_it_is_no_more() {
        let (_driver, handle) = Driver::new().unwrap();
        let (near, _far) = UnixStream::pair().unwrap();
        let (fd, token, watched) = (near.as_raw_fd(), IoToken::new(0, 1), handle.watched());
        let both = Watch { read: true, write: true };
        for (old, new, count) in [(Watch::NONE, READ, 1), (READ, both, 1), (both, Watch::NONE, 0)] {
            handle.watch(fd, token, old, new).unwrap();
            assert_eq!(watched.load(Relaxed), count);
        }
    }

    #[test]
    fn a_closed_peer_makes_both_directions_ready() {
        let (mut driver, handle) = Driver::new().unwrap();
        let (near, far) = UnixStream::pair().unwrap();
        let token = IoToken::new(0, 1);
        handle.watch(near.as_raw_fd(), token, Watch::NONE, READ).unwrap();
        drop(far);
        assert_eq!(
            look(&mut driver),
            [Ready { token, readable: true, writable: true, ended: true }]
        );
    }

    #[test]
    fn a_descriptor_closed_and_reused_behind_our_back_is_registered_anew() {
        let (mut driver, handle) = Driver::new().unwrap();
        let (near, far) = UnixStream::pair().unwrap();
        handle.watch(near.as_raw_fd(), IoToken::new(0, 1), Watch::NONE, READ).unwrap();
        let fd = near.into_raw_fd();
        // The number goes to a duplicate of the far end, whose peer is gone: at once, so that no other
        // thread gets it in between.
        // SAFETY: both descriptors are ours; nothing else holds `fd`.
        let reused = unsafe { std::os::fd::OwnedFd::from_raw_fd(libc::dup2(far.as_raw_fd(), fd)) };
        let both = Watch { read: true, write: true };
        handle.watch(fd, IoToken::new(0, 2), READ, both).unwrap();
        assert_eq!(look(&mut driver)[0].token, IoToken::new(0, 2));
        drop(reused);
    }

    #[test]
    fn a_regular_file_is_refused_and_a_forgotten_descriptor_is_removed_quietly() {
        let (_driver, handle) = Driver::new().unwrap();
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let (fd, token) = (file.as_raw_fd(), IoToken::new(0, 1));
        let error = handle.watch(fd, token, Watch::NONE, READ).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        handle.watch(fd, token, READ, Watch::NONE).unwrap();
    }
}
