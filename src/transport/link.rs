//! What every transport that is read and written has: its descriptor, its registration, its state
//! word, how much it has queued, its flow control, and its end.

use std::io;
use std::os::fd::RawFd;

use super::{Close, Descriptor, Ending, Flow, Registrar, Schedule, Source, State, WriteClaim};
use crate::id::IoToken;
use crate::reactor::{Edges, Handle};
use crate::sync::atomic::{
    AtomicBool, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};

/// A source as the native half of a transport sees it, whatever it is made of.
pub trait Port: Source {
    /// Its descriptor, registration and state.
    fn link(&self) -> &Link;

    /// Notes the token, and asks the reactor for the edges. Owner only, once, or again after
    /// somebody else used the registration.
    ///
    /// # Errors
    /// Those of the kernel, and of a closed loop.
    fn register(&self, token: IoToken, registrar: &dyn Registrar) -> io::Result<()>;

    /// The owner is to hear when no more than `bytes` are queued. What another thread writes from now
    /// on is told; what it wrote before, [`Link::queued`] shows. Owner only.
    fn tell_below(&self, bytes: usize);

    /// Drops what is queued and what was read ahead. Owner only, when no claim is held any more.
    fn forget(&self);

    /// Begins an orderly end. Owner only.
    fn close(&self) -> Close {
        self.link().close()
    }

    /// Notes that the protocol was told to pause writing, or to go on. Owner only.
    fn set_protocol_paused(&self, paused: bool) {
        self.tell_below(self.link().flow.set_paused(paused));
    }

    /// Sets the marks of flow control, as (low, high). Owner only.
    fn set_limits(&self, limits: (usize, usize)) {
        if let Some(bytes) = self.link().flow.set_limits(limits) {
            self.tell_below(bytes);
        }
    }
}

/// The descriptor is the owner's: it outlives every claim on the state.
#[derive(Debug)]
pub struct Link {
    descriptor: Descriptor,
    /// Set once, when it is registered.
    token: AtomicU64,
    state: State,
    ending: Ending,
    flow: Flow,
    /// Whether the reactor cannot watch the descriptor: nothing is ever read from it.
    unwatched: AtomicBool,
    /// Whether the reactor reports that there is room to write; it is asked to when first needed.
    write_armed: AtomicBool,
    /// Bytes queued. Changed under the lock of the queue, read by anybody.
    queued: AtomicUsize,
    /// The owner is to hear when no more than this is queued. Used under the lock of the queue.
    tell_below: AtomicUsize,
}

impl Link {
    /// `resumes_empty`: a paused protocol goes on when nothing is queued any more.
    pub(super) fn new(fd: RawFd, resumes_empty: bool) -> Self {
        Self {
            descriptor: Descriptor::new(fd),
            token: AtomicU64::new(0),
            state: State::new(),
            ending: Ending::new(),
            flow: Flow::new(resumes_empty),
            unwatched: AtomicBool::new(false),
            write_armed: AtomicBool::new(false),
            queued: AtomicUsize::new(0),
            tell_below: AtomicUsize::new(0),
        }
    }

    /// The descriptor.
    #[inline]
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// Its number, as a name.
    #[inline]
    pub fn fd(&self) -> RawFd {
        self.descriptor.number()
    }

    /// Calls `f` with the reactor, unless the number is a stranger's by now.
    fn with_handle(
        &self,
        registrar: &dyn Registrar,
        f: &mut dyn FnMut(&Handle) -> io::Result<()>,
    ) -> io::Result<()> {
        if !self.descriptor.is_held() {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        registrar.with_handle(f).map_err(io::Error::from)
    }

    /// The state word.
    #[inline]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// How far its end is.
    #[inline(always)]
    pub fn ending(&self) -> &Ending {
        &self.ending
    }

    /// Its flow control.
    #[inline(always)]
    pub fn flow(&self) -> &Flow {
        &self.flow
    }

    /// The token under which it is registered; `None` before.
    pub fn token(&self) -> Option<IoToken> {
        IoToken::from_word(self.token.load(Acquire))
    }

    /// Notes the token, and asks the reactor for `edges`, and for room to write if that was asked
    /// before.
    pub(super) fn register(
        &self,
        token: IoToken,
        edges: Edges,
        registrar: &dyn Registrar,
    ) -> io::Result<()> {
        self.token.store(token.to_word(), Release);
        if edges != Edges::Read {
            self.write_armed.store(true, Relaxed);
        }
        let edges = match edges {
            Edges::Read if self.write_armed.load(Relaxed) => Edges::Both,
            edges => edges,
        };
        self.with_handle(registrar, &mut |handle| handle.register(self.fd(), token, edges))
    }

    /// Asks the reactor to report room, if it does not yet.
    pub(super) fn arm_write(
        &self,
        claim: &WriteClaim<'_>,
        registrar: &dyn Registrar,
    ) -> io::Result<()> {
        if self.write_armed.load(Relaxed) { Ok(()) } else { self.rearm(claim, registrar) }
    }

    /// Asks the reactor for all edges, also if it reports them. What is ready at this moment is
    /// reported again.
    pub(super) fn rearm(
        &self,
        claim: &WriteClaim<'_>,
        registrar: &dyn Registrar,
    ) -> io::Result<()> {
        debug_assert!(claim.is_on(&self.state));
        self.write_armed.store(true, Relaxed);
        // Before there is a token, `register` will ask.
        let Some(token) = self.token() else { return Ok(()) };
        let armed = self
            .with_handle(registrar, &mut |handle| handle.reregister(self.fd(), token, Edges::Both));
        if armed.is_err() {
            // Whoever tries again is not to believe that room will be reported.
            self.write_armed.store(false, Relaxed);
        }
        armed
    }

    /// Notes whether the reactor watches the descriptor. Owner only, when it is registered.
    pub fn set_watched(&self, watched: bool) {
        self.unwatched.store(!watched, Release);
    }

    /// Whether the reactor could not watch the descriptor.
    pub fn is_unwatched(&self) -> bool {
        self.unwatched.load(Acquire)
    }

    /// Whether the program lets it read, as asyncio's `is_reading`. Any thread.
    pub fn is_reading(&self) -> bool {
        !self.ending.is_closing() && !self.state.bits().is_paused()
    }

    /// Whether it reads what comes. Any thread.
    pub fn is_polling(&self) -> bool {
        let bits = self.state.bits();
        let is_closed = bits.is_read_closed() || self.is_unwatched();
        !(bits.is_paused() || bits.is_unstarted() || is_closed)
    }

    /// Begins an orderly end: nothing is read any more. Owner only.
    pub(super) fn close(&self) -> Close {
        self.state.close_read();
        self.ending.close(self.state.bits().is_queued())
    }

    /// As [`close`](Self::close), of a write end, which still hears when its reader is gone, and to which
    /// nothing is written any more.
    pub(super) fn close_writes(&self) -> Close {
        self.ending.close_writes(self.state.bits().is_queued())
    }

    /// See [`Source::after_fork`].
    pub(super) fn after_fork(&self) {
        self.state.after_fork();
        self.ending.after_fork();
        self.set_queued(0);
    }

    /// Whether the protocol is to pause writing. Owner only.
    #[inline(always)]
    pub fn pauses(&self) -> bool {
        self.flow.pauses(self.queued())
    }

    /// Whether a paused protocol is to go on. Owner only.
    #[inline(always)]
    pub fn resumes(&self) -> bool {
        self.flow.resumes(self.queued())
    }

    /// Lets a turn go on with what was written, if somebody waits for what has come true: outside of
    /// a turn, or by another thread before it knew that it was to tell. Owner only.
    pub fn look_below(&self) -> Schedule {
        let ends = self.queued() == 0 && self.ending.is_closing();
        if ends || self.resumes() { self.state.note_news() } else { Schedule::Unneeded }
    }

    /// Bytes queued. Any thread.
    #[inline]
    pub fn queued(&self) -> usize {
        self.queued.load(Relaxed)
    }

    /// Notes how much is queued. Under the queue's lock.
    #[inline]
    pub(super) fn set_queued(&self, bytes: usize) {
        self.queued.store(bytes, Relaxed);
    }

    /// See [`Port::tell_below`]. Under the queue's lock.
    pub(super) fn set_tell_below(&self, bytes: usize) {
        self.tell_below.store(bytes, Relaxed);
    }

    /// Whether so little is queued that the owner is to hear of it. Under the queue's lock.
    pub(super) fn is_below(&self) -> bool {
        self.queued() <= self.tell_below.load(Relaxed)
    }
}

#[cfg(all(test, not(loom)))]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::cell::Cell;
    use std::os::fd::{AsRawFd, OwnedFd};
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::*;
    use crate::error::LoopError;
    use crate::reactor::{Driver, Ready};
    use crate::transport::{Drained, Refusal, WriteGate};

    /// A reactor that counts what it is asked, and may refuse it.
    struct Reactor {
        driver: Driver,
        handle: Handle,
        asked: Cell<usize>,
        refuses: Cell<bool>,
    }

    impl Registrar for Reactor {
        fn with_handle(
            &self,
            f: &mut dyn FnMut(&Handle) -> io::Result<()>,
        ) -> Result<(), LoopError> {
            self.asked.set(self.asked.get() + 1);
            if self.refuses.get() {
                return Err(LoopError::Closed);
            }
            f(&self.handle).map_err(|error| LoopError::Io("epoll", error))
        }
    }

    impl Reactor {
        fn new() -> Self {
            let (driver, handle) = Driver::new().unwrap();
            Self { driver, handle, asked: Cell::new(0), refuses: Cell::new(false) }
        }

        /// Whether it reports the descriptor readable, and writable; no more than once.
        fn look(&mut self) -> (bool, bool) {
            let mut found: Vec<Ready> = Vec::new();
            let _ = self.driver.poll(Duration::ZERO, &mut found).unwrap();
            found.iter().fold((false, false), |(read, write), ready| {
                (read | ready.readable, write | ready.writable)
            })
        }
    }

    /// A link with something queued, so that there is a claim to write, and its two ends.
    fn link() -> (Link, IoToken, UnixStream, UnixStream) {
        let (near, far) = UnixStream::pair().unwrap();
        let link = Link::new(near.as_raw_fd(), false);
        let token = IoToken::of_source(0, 1);
        link.state().set_queued(true);
        (link, token, near, far)
    }

    #[test]
    fn room_is_reported_from_when_it_is_first_asked_for() {
        let (mut reactor, (link, token, _near, _far)) = (Reactor::new(), link());
        assert_eq!(link.token(), None);
        link.register(token, Edges::Read, &reactor).unwrap();
        assert_eq!((link.token(), reactor.look()), (Some(token), (false, false)));
        let claim = link.state().claim_write().unwrap();
        link.arm_write(&claim, &reactor).unwrap();
        assert_eq!(reactor.look(), (false, true), "there is room at this moment");
        link.arm_write(&claim, &reactor).unwrap();
        assert_eq!((reactor.asked.get(), reactor.look()), (2, (false, false)), "asked once");
        link.rearm(&claim, &reactor).unwrap();
        assert_eq!((reactor.asked.get(), reactor.look()), (3, (false, true)), "asked again");
    }

    #[test]
    fn room_that_is_asked_for_before_the_registration_is_asked_for_with_it() {
        let (mut reactor, (link, token, _near, _far)) = (Reactor::new(), link());
        let claim = link.state().claim_write().unwrap();
        link.arm_write(&claim, &reactor).unwrap();
        assert_eq!(reactor.asked.get(), 0, "there is nothing to ask about");
        link.register(token, Edges::Read, &reactor).unwrap();
        assert_eq!(reactor.look(), (false, true));
    }

    #[test]
    fn what_is_registered_for_room_does_not_ask_for_it_again() {
        for edges in [Edges::Write, Edges::Both] {
            let (mut reactor, (link, token, _near, far)) = (Reactor::new(), link());
            link.register(token, edges, &reactor).unwrap();
            io::Write::write_all(&mut &far, b"x").unwrap();
            assert_eq!(reactor.look(), (edges == Edges::Both, true));
            link.arm_write(&link.state().claim_write().unwrap(), &reactor).unwrap();
            assert_eq!(reactor.asked.get(), 1);
        }
    }

    #[test]
    fn a_reactor_that_refuses_is_asked_again() {
        let (mut reactor, (link, token, _near, _far)) = (Reactor::new(), link());
        link.register(token, Edges::Read, &reactor).unwrap();
        let claim = link.state().claim_write().unwrap();
        reactor.refuses.set(true);
        assert!(link.arm_write(&claim, &reactor).is_err());
        reactor.refuses.set(false);
        link.arm_write(&claim, &reactor).unwrap();
        assert_eq!((reactor.asked.get(), reactor.look()), (3, (false, true)));
    }

    #[test]
    fn the_number_of_a_closed_descriptor_is_not_registered() {
        let (reactor, (link, token, near, _far)) = (Reactor::new(), link());
        let copy = Cell::new(link.fd());
        // SAFETY: the copy outlives the link's use.
        unsafe { link.descriptor().is_closed_by(copy.as_ptr()) };
        copy.set(-1);
        drop(OwnedFd::from(near));
        let error = link.register(token, Edges::Read, &reactor).unwrap_err();
        assert_eq!((error.raw_os_error(), reactor.asked.get()), (Some(libc::EBADF), 0));
    }

    #[test]
    fn the_mark_is_reached_when_no_more_than_it_is_queued() {
        let (link, _token, _near, _far) = link();
        link.set_tell_below(10);
        for (queued, is_below) in [(11, false), (10, true), (0, true)] {
            link.set_queued(queued);
            assert_eq!((link.queued(), link.is_below()), (queued, is_below));
        }
    }

    #[test]
    fn a_forked_child_has_nothing_queued_and_claims_nothing() {
        let (link, _token, _near, _far) = link();
        link.set_queued(5);
        link.after_fork();
        assert_eq!((link.queued(), link.state().bits().is_queued()), (0, false));
        assert!(link.state().claim_write().is_none() && !link.state().retire());
        assert_eq!(
            link.ending().write_gate(),
            WriteGate::Refused(Refusal::Dropped),
            "it writes nothing"
        );
        assert!(!link.ending().is_closing(), "and does not know of it");
    }

    #[test]
    fn a_close_reads_no_more_and_waits_for_what_is_queued() {
        let (link, _token, _near, _far) = link();
        assert!(link.is_reading() && !link.is_polling(), "the protocol does not know it yet");
        let _ = link.state().start();
        assert!(link.is_polling());
        assert_eq!(link.close(), Close::WaitForQueue);
        assert!(link.state().bits().is_read_closed() && !link.is_reading() && !link.is_polling());
        assert_eq!(link.close(), Close::Ignore);
        link.state().set_queued(false);
        assert_eq!(link.ending().drained(), Drained::LoseNow);
    }

    #[test]
    fn a_write_end_that_closes_still_hears_of_its_reader() {
        let (link, _token, _near, _far) = link();
        assert_eq!(link.close_writes(), Close::WaitForQueue);
        assert!(!link.state().bits().is_read_closed() && !link.is_reading());
        link.state().set_queued(false);
        assert_eq!(link.close_writes(), Close::Ignore);
    }

    #[test]
    fn what_is_not_watched_reads_nothing_and_is_not_said_to_be_paused() {
        let link = Link::new(-1, false);
        let _ = link.state().start();
        link.set_watched(false);
        assert!(link.is_reading() && !link.is_polling() && link.is_unwatched());
        link.set_watched(true);
        assert!(link.is_polling());
    }

    #[test]
    fn what_the_owner_flushed_itself_it_looks_at_in_a_turn() {
        let link = Link::new(-1, false);
        let _ = link.state().start();
        assert_eq!(link.look_below(), Schedule::Unneeded, "nobody waits");
        assert_eq!(link.flow().set_paused(true), 16 * 1024);
        link.set_queued(16 * 1024 + 1);
        assert_eq!((link.pauses(), link.look_below()), (false, Schedule::Unneeded));
        link.set_queued(16 * 1024);
        assert_eq!((link.resumes(), link.look_below()), (true, Schedule::Needed));
        assert!(link.state().begin_turn().bits.has_news());
        assert_eq!(link.flow().set_paused(false), 0);
        link.state().set_queued(true);
        assert_eq!(link.close(), Close::WaitForQueue);
        assert_eq!(link.look_below(), Schedule::Unneeded, "something is queued");
        link.set_queued(0);
        assert_eq!(link.look_below(), Schedule::Needed, "the end goes on");
    }
}
