//! What every transport that is read and written has: its descriptor, its registration, its state
//! word, and how much it has queued.

use std::io;
use std::os::fd::RawFd;

use super::{Descriptor, Registrar, Source, State};
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
}

/// The descriptor is the owner's: it outlives every claim on the state.
#[derive(Debug)]
pub struct Link {
    descriptor: Descriptor,
    /// Set once, when it is registered.
    token: AtomicU64,
    state: State,
    /// Whether the reactor reports that there is room to write; it is asked to when first needed.
    write_armed: AtomicBool,
    /// Bytes queued. Changed under the lock of the queue, read by anybody.
    queued: AtomicUsize,
    /// The owner is to hear when no more than this is queued. Used under the lock of the queue.
    tell_below: AtomicUsize,
}

impl Link {
    pub(super) fn new(fd: RawFd) -> Self {
        Self {
            descriptor: Descriptor::new(fd),
            token: AtomicU64::new(0),
            state: State::new(),
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

    /// The token under which it is registered; `None` before.
    pub fn token(&self) -> Option<IoToken> {
        match usize::try_from(self.token.load(Acquire)) {
            Ok(0) | Err(_) => None,
            Ok(bits) => IoToken::from_bits(bits),
        }
    }

    /// Notes the token, and asks the reactor for `edges`, and for room to write if that was asked
    /// before.
    pub(super) fn register(
        &self,
        token: IoToken,
        edges: Edges,
        registrar: &dyn Registrar,
    ) -> io::Result<()> {
        self.token.store(token.to_bits() as u64, Release);
        if edges != Edges::Read {
            self.write_armed.store(true, Relaxed);
        }
        let edges = match edges {
            Edges::Read if self.write_armed.load(Relaxed) => Edges::Both,
            edges => edges,
        };
        self.with_handle(registrar, &mut |handle| handle.register(token, edges))
    }

    /// Asks the reactor to report room, if it does not yet. The holder of the claim to write.
    pub(super) fn arm_write(&self, registrar: &dyn Registrar) -> io::Result<()> {
        if self.write_armed.swap(true, Relaxed) { Ok(()) } else { self.rearm(registrar) }
    }

    /// Asks the reactor for all edges, also if it reports them. What is ready at this moment is
    /// reported again. The holder of the claim to write.
    pub(super) fn rearm(&self, registrar: &dyn Registrar) -> io::Result<()> {
        self.write_armed.store(true, Relaxed);
        // Before there is a token, `register` will ask.
        let Some(token) = self.token() else { return Ok(()) };
        let armed =
            self.with_handle(registrar, &mut |handle| handle.reregister(token, Edges::Both));
        if armed.is_err() {
            // Whoever tries again is not to believe that room will be reported.
            self.write_armed.store(false, Relaxed);
        }
        armed
    }

    /// See [`Source::after_fork`].
    pub(super) fn after_fork(&self) {
        self.state.after_fork();
        self.set_queued(0);
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
