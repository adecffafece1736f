//! The objects behind a reactor's events: the transports of one loop.

use std::fmt;
use std::os::fd::RawFd;
use std::sync::Arc;

use super::{Bits, Schedule, State};
use crate::config;
use crate::error::LoopError;
use crate::id::IoToken;
use crate::reactor::{Handle, Ready, Slots};
use crate::sys::address::SocketAddress;
use crate::sys::owned_socket::OwnedSocket;

/// A connection, and who is at its other end.
pub type Connection = (OwnedSocket, SocketAddress);

/// What a job needs of the thread that runs it and of the loop that it belongs to.
pub struct JobContext<'a> {
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

/// As of a loop that has been closed: for what is about to be given up, and for tests.
pub(super) struct NoReactor;

impl Registrar for NoReactor {
    fn with_handle(
        &self,
        _: &mut dyn FnMut(&Handle) -> std::io::Result<()>,
    ) -> Result<(), LoopError> {
        Err(LoopError::Closed)
    }
}

/// What a job did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Report {
    /// Whether there was anything to do.
    pub worked: bool,
    /// Whether the owner has to be told: an entry for it was scheduled.
    pub tell_owner: bool,
    /// Whether there is more to do at once.
    pub again: bool,
    /// Whether something has come that any loop may begin.
    pub offers: bool,
    /// Bytes read.
    pub bytes_in: u64,
    /// Bytes written.
    pub bytes_out: u64,
}

/// Something registered with a reactor, with work that needs no Python.
pub trait Source: Send + Sync + fmt::Debug {
    /// Notes what the kernel reported; says whether the owner needs an entry for it.
    fn ready(&self, ready: Ready) -> Schedule;

    /// The state word.
    fn state(&self) -> &State;

    /// The state as it is now.
    fn bits(&self) -> Bits {
        self.state().bits()
    }

    /// Does what can be done without the owner. Any thread, detached.
    fn run(&self, job_context: &mut JobContext<'_>) -> Report;

    /// Whether what comes for it takes so long that another thread is worth waking for it.
    fn is_costly(&self) -> bool {
        false
    }

    /// Bytes read and not yet delivered.
    fn read_ahead(&self) -> usize {
        0
    }

    /// Does nothing more, in a forked child: the descriptor is the parent's too.
    fn after_fork(&self) {
        self.state().after_fork();
    }

    /// Takes a connection that was placed here; says whether the owner needs an entry for it.
    ///
    /// # Errors
    /// What is no listener gives it back, to be closed.
    fn arrived(&self, connection: Connection) -> Result<Schedule, Connection> {
        Err(connection)
    }
}

/// Answers some requests itself, where a connection was accepted for a loop that does not get to it.
pub trait Responder: Send + Sync + fmt::Debug {
    /// What a client is to be sent that has sent these bytes and nothing else, before its connection is closed. `None`: it
    /// is not answered here. Any thread; it does not wait.
    fn response(&self, bytes: &[u8]) -> Option<Vec<u8>>;
}

/// Where accepted connections go that need not stay on their listener's loop.
pub trait AcceptSink: Send + Sync + fmt::Debug {
    /// Hands a connection to some loop; returns what nobody takes, to be closed when the caller holds
    /// nothing any more. Any thread.
    #[must_use]
    fn place(&self, connection: Connection) -> Vec<Connection>;
}

/// One registration.
#[derive(Debug)]
pub struct Entry {
    /// The transport.
    pub source: Arc<dyn Source>,
    /// What the owner needs to find its own half, opaque here: a reference of the owner's.
    pub cookie: usize,
    /// Where it is in the list of those that may have work.
    listed: Option<u32>,
}

/// The transports of one loop, and which of them may have work that does not need the owner.
///
/// One is in that list from the first word that it has work until a look finds it at rest. What is
/// not in the list has none: only the kernel's word makes work for a transport at rest, and what the
/// owner leaves undone, and both are noted under the table's lock, after which nothing is at rest.
/// So a look costs what was noted since the last one, however many transports wait for their peers.
#[derive(Debug)]
pub struct SourceTable {
    slots: Slots<Entry>,
    work: Vec<IoToken>,
}

impl Default for SourceTable {
    fn default() -> Self {
        Self { slots: Slots::new(IoToken::of_source), work: Vec::new() }
    }
}

impl SourceTable {
    /// Adds a transport and returns its token. `None` if the descriptor has one, or is negative.
    pub fn insert(&mut self, fd: RawFd, source: Arc<dyn Source>, cookie: usize) -> Option<IoToken> {
        self.slots.insert(fd, Entry { source, cookie, listed: None })
    }

    /// The transport of a token, if it is still the one that was registered.
    #[inline]
    #[must_use]
    pub fn get(&self, token: IoToken) -> Option<&Entry> {
        self.slots.get(token)
    }

    /// The transport on a descriptor.
    #[must_use]
    pub fn at(&self, fd: RawFd) -> Option<&Entry> {
        self.slots.get(self.slots.find(fd)?)
    }

    /// Notes what the kernel reported, if its transport is still there: returns that, and whether the
    /// owner needs an entry for it.
    #[inline]
    pub fn ready(&mut self, ready: Ready) -> Option<(&Entry, Schedule)> {
        let entry = self.note_work(ready.token)?;
        Some((entry, entry.source.ready(ready)))
    }

    /// Notes that a transport may have work that does not need the owner.
    #[inline]
    pub fn note_work(&mut self, token: IoToken) -> Option<&Entry> {
        let entry = self.slots.get_mut(token)?;
        if entry.listed.is_none() {
            entry.listed = u32::try_from(self.work.len()).ok();
            self.work.push(token);
        }
        Some(entry)
    }

    /// Shows `sink` every transport with work that does not need the owner: with `only_writes`, those that
    /// have something to write.
    pub fn pending(&mut self, only_writes: bool, mut sink: impl FnMut(IoToken, &Arc<dyn Source>)) {
        let mut place = 0;
        while let Some(entry) = self.work.get(place).and_then(|token| self.slots.get_mut(*token)) {
            let bits = entry.source.bits();
            if bits.is_at_rest() {
                entry.listed = None;
                self.unlist(place);
                continue;
            }
            if bits.may_write() || (!only_writes && bits.may_read()) {
                sink(self.work[place], &entry.source);
            }
            place += 1;
        }
    }

    /// Takes the list's entry out, in whose place the last one comes.
    fn unlist(&mut self, place: usize) {
        self.work.swap_remove(place);
        if let Some(moved) = self.work.get(place).and_then(|token| self.slots.get_mut(*token)) {
            moved.listed = u32::try_from(place).ok();
        }
    }

    /// Gives a transport another cookie, and its old one back. `None` if it is not the one that is
    /// registered.
    pub fn replace(&mut self, token: IoToken, cookie: usize) -> Option<usize> {
        Some(std::mem::replace(&mut self.slots.get_mut(token)?.cookie, cookie))
    }

    /// Takes a transport out. `None` if it is not the one that is registered.
    pub fn remove(&mut self, token: IoToken) -> Option<Entry> {
        let entry = self.slots.remove(token)?;
        if let Some(place) = entry.listed {
            self.unlist(place as usize);
        }
        Some(entry)
    }

    /// Every transport.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.slots.iter().map(|(_, _, entry)| entry)
    }

    /// Takes every transport out.
    pub fn drain(&mut self) -> Vec<Entry> {
        self.work = Vec::new();
        self.slots.drain().collect()
    }
}

#[cfg(all(test, not(loom)))]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    /// A transport of which it is counted how often somebody looked.
    #[derive(Debug)]
    struct Counted {
        state: State,
        looks: AtomicUsize,
    }

    impl Source for Counted {
        fn ready(&self, ready: Ready) -> Schedule {
            self.state.ready(ready)
        }

        fn state(&self) -> &State {
            self.looks.fetch_add(1, Relaxed);
            &self.state
        }

        fn run(&self, _: &mut JobContext<'_>) -> Report {
            Report::default()
        }
    }

    fn counted() -> Arc<Counted> {
        let one = Arc::new(Counted { state: State::new(), looks: AtomicUsize::new(0) });
        let _ = one.state.start();
        one
    }

    fn readable(token: IoToken) -> Ready {
        Ready { token, readable: true, writable: false, ended: false }
    }

    fn pending(table: &mut SourceTable) -> Vec<IoToken> {
        let mut found = Vec::new();
        table.pending(false, |token, _| found.push(token));
        found
    }

    #[test]
    fn news_of_a_descriptor_s_last_transport_do_not_reach_its_next() {
        let mut table = SourceTable::default();
        let [old, new] = [1, 2].map(|cookie| {
            let source = counted();
            let token = table.insert(7, source.clone(), cookie).unwrap();
            if cookie == 1 {
                assert!(table.insert(7, counted(), 3).is_none(), "one at a time");
                assert_eq!(table.remove(token).unwrap().cookie, 1);
            }
            (token, source)
        });
        assert!(table.ready(readable(old.0)).is_none());
        assert!(table.note_work(old.0).is_none() && table.get(old.0).is_none());
        assert!(table.replace(old.0, 4).is_none() && table.remove(old.0).is_none());
        assert!(!new.1.state.bits().may_read() && pending(&mut table).is_empty());
        assert_eq!(table.at(7).unwrap().cookie, 2);
        let (entry, schedule) = table.ready(readable(new.0)).unwrap();
        assert_eq!((entry.cookie, schedule), (2, Schedule::Needed));
        assert_eq!(table.replace(new.0, 4), Some(2));
        assert_eq!(table.drain().into_iter().map(|entry| entry.cookie).collect::<Vec<_>>(), [4]);
        assert!(table.iter().next().is_none() && table.at(7).is_none());
    }

    #[test]
    fn a_look_for_work_costs_what_was_noted_since_the_last_one() {
        let mut table = SourceTable::default();
        let sources: Vec<_> = (0..1000)
            .map(|fd| {
                let source = counted();
                (table.insert(fd, source.clone(), 0).unwrap(), source)
            })
            .collect();
        for (token, source) in sources.iter().step_by(100) {
            for _ in 0..3 {
                let _ = table.ready(readable(*token));
            }
            // Its owner reads all but one of them to the end.
            if token.slot() != 500 {
                let _ = source.state.claim_read().unwrap().release(false);
            }
        }
        let looks = || sources.iter().map(|(_, source)| source.looks.swap(0, Relaxed)).sum();
        assert_eq!((pending(&mut table), looks()), (vec![sources[500].0], 10));
        assert_eq!((pending(&mut table), looks()), (vec![sources[500].0], 1));
        // What was found at rest is noted again.
        let _ = table.ready(readable(sources[100].0));
        assert_eq!((pending(&mut table).len(), looks()), (2, 2));
    }

    #[test]
    fn what_will_have_work_without_a_word_from_the_kernel_stays_in_the_list() {
        let mut table = SourceTable::default();
        let source = counted();
        let token = table.insert(7, source.clone(), 0).unwrap();
        let _ = table.ready(readable(token));
        source.state.pause();
        assert!(pending(&mut table).is_empty());
        let _ = source.state.resume();
        assert_eq!(pending(&mut table), [token]);
        let claim = source.state.claim_read().unwrap();
        assert!(pending(&mut table).is_empty(), "somebody reads it");
        let _ = claim.release(true);
        assert_eq!(pending(&mut table), [token], "and has not read it to the end");
        source.state.set_queued(true);
        let _ = source.state.claim_read().unwrap().release(false);
        assert_eq!(pending(&mut table), [token], "it has something to write");
        let _ = source.state.retire();
        assert!(pending(&mut table).is_empty() && table.work.is_empty());
    }

    #[test]
    fn what_the_owner_leaves_undone_is_work() {
        let mut table = SourceTable::default();
        let source = counted();
        let token = table.insert(7, source.clone(), 0).unwrap();
        source.state.set_queued(true);
        assert!(table.note_work(token).is_some());
        assert_eq!(pending(&mut table), [token]);
    }

    #[test]
    fn a_transport_that_leaves_takes_itself_out_of_the_list_alone() {
        for leaves in 0..3 {
            let mut table = SourceTable::default();
            let mut tokens: Vec<_> =
                (0..3).map(|fd| table.insert(fd, counted(), 0).unwrap()).collect();
            for token in &tokens {
                let _ = table.ready(readable(*token));
            }
            let left = tokens.remove(leaves);
            assert!(table.remove(left).is_some());
            let next = table.insert(9, counted(), 0).unwrap();
            assert_eq!(next.slot(), left.slot(), "or this shows less");
            let mut found = pending(&mut table);
            found.sort_by_key(|token| token.slot());
            assert_eq!(found, tokens);
            for token in tokens {
                assert!(table.remove(token).is_some());
            }
            assert!(pending(&mut table).is_empty() && table.work.is_empty());
        }
    }
}
