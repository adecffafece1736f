//! What a reactor's events lead to: the transports of one loop, by descriptor.

use std::fmt;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;

use super::{Bits, Schedule};
use crate::config;
use crate::error::LoopError;
use crate::id::IoToken;
use crate::reactor::{Handle, Ready};
use crate::sys::address::SocketAddress;

/// What a job needs of the thread that runs it and of the loop that it belongs to.
pub struct Bench<'a> {
    /// Memory to read into; its content means nothing between jobs.
    pub scratch: &'a mut [u8],
    /// The loop's reactor, for a registration that has to change.
    pub registrar: &'a dyn Registrar,
}

/// Memory of a thread's to read into, of [`config::READ_SIZE`] bytes; made at the first use, as many
/// loops never need it.
#[derive(Debug, Default)]
pub struct Scratch(Vec<u8>);

impl Scratch {
    /// The memory. Its content means nothing between two reads.
    #[inline]
    pub fn get(&mut self) -> &mut [u8] {
        if self.0.is_empty() {
            self.0 = vec![0; config::READ_SIZE];
        }
        &mut self.0
    }
}

/// The registering half of a loop's reactor, if the loop is open.
pub trait Registrar {
    /// Calls `f` with it.
    ///
    /// # Errors
    /// [`LoopError::Closed`] if the loop has been closed, and that of `f`.
    fn with_handle(
        &self,
        f: &mut dyn FnMut(&Handle) -> std::io::Result<()>,
    ) -> Result<(), LoopError>;
}

/// What a job did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Report {
    /// Whether there was anything to do.
    pub worked: bool,
    /// Whether the owner has to be told: an entry for it was scheduled.
    pub tell_owner: bool,
    /// Whether there is more to do at once.
    pub again: bool,
    /// Bytes read.
    pub bytes_in: u64,
    /// Bytes written.
    pub bytes_out: u64,
}

/// Something registered with a reactor, with work that needs no Python.
pub trait Source: Send + Sync + fmt::Debug {
    /// Notes what the kernel reported; says whether the owner needs an entry for it.
    fn ready(&self, ready: Ready) -> Schedule;

    /// The state as it is now.
    fn bits(&self) -> Bits;

    /// Does what can be done without the owner. Any thread, detached.
    fn run(&self, bench: &mut Bench<'_>) -> Report;

    /// Bytes read and not yet delivered.
    fn read_ahead(&self) -> usize {
        0
    }

    /// Does nothing more, in a forked child: the descriptor is the parent's too.
    fn after_fork(&self);

    /// Takes a connection that was placed here; says whether the owner needs an entry for it. What
    /// is no listener closes it.
    fn arrived(&self, connection: (OwnedFd, SocketAddress)) -> Schedule {
        drop(connection);
        Schedule::Unneeded
    }
}

/// Where accepted connections go that need not stay on their listener's loop.
pub trait AcceptSink: Send + Sync + fmt::Debug {
    /// Hands a connection to some loop. Any thread, detached.
    fn place(&self, connection: OwnedFd, peer: SocketAddress);
}

/// One registration.
#[derive(Debug)]
pub struct Entry {
    /// The transport.
    pub source: Arc<dyn Source>,
    /// What the owner needs to find its own half, opaque here: a reference of the owner's.
    pub cookie: usize,
    generation: u32,
}

/// The transports of one loop, by descriptor.
#[derive(Debug, Default)]
pub struct SourceTable {
    /// Indexed by descriptor: the kernel hands out the lowest free one, so this stays dense.
    entries: Vec<Option<Entry>>,
    len: usize,
    generation: u32,
}

impl SourceTable {
    /// Transports registered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no transport is registered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a transport and returns its token. `None` if the descriptor has one, or is negative.
    pub fn insert(&mut self, fd: RawFd, source: Arc<dyn Source>, cookie: usize) -> Option<IoToken> {
        let index = usize::try_from(fd).ok()?;
        if index >= self.entries.len() {
            self.entries.resize_with(index + 1, || None);
        }
        if self.entries[index].is_some() {
            return None;
        }
        self.generation = self.generation.wrapping_add(1);
        let token = IoToken::of_source(fd, self.generation);
        self.entries[index] = Some(Entry { source, cookie, generation: token.generation() });
        self.len += 1;
        Some(token)
    }

    /// The transport of a token, if it is still the one that was registered.
    #[must_use]
    pub fn get(&self, token: IoToken) -> Option<&Entry> {
        let entry = self.at(token.fd())?;
        (entry.generation == token.generation()).then_some(entry)
    }

    /// The transport on a descriptor.
    #[must_use]
    pub fn at(&self, fd: RawFd) -> Option<&Entry> {
        self.entries.get(usize::try_from(fd).ok()?)?.as_ref()
    }

    /// Gives a transport another cookie, and its old one back. `None` if it is not the one that is
    /// registered.
    pub fn replace(&mut self, token: IoToken, cookie: usize) -> Option<usize> {
        self.get(token)?;
        let entry = self.entries[usize::try_from(token.fd()).ok()?].as_mut()?;
        Some(std::mem::replace(&mut entry.cookie, cookie))
    }

    /// Takes a transport out. `None` if it is not the one that is registered.
    pub fn remove(&mut self, token: IoToken) -> Option<Entry> {
        self.get(token)?;
        self.len -= 1;
        self.entries[usize::try_from(token.fd()).ok()?].take()
    }

    /// Every transport, with its token.
    pub fn iter(&self) -> impl Iterator<Item = (IoToken, &Entry)> {
        self.entries.iter().enumerate().filter_map(|(fd, entry)| {
            let entry = entry.as_ref()?;
            Some((IoToken::new(RawFd::try_from(fd).ok()?, entry.generation), entry))
        })
    }

    /// Takes every transport out.
    pub fn drain(&mut self) -> Vec<Entry> {
        self.len = 0;
        std::mem::take(&mut self.entries).into_iter().flatten().collect()
    }
}
