//! The state word of a transport: who may read, who may write, and what the owner has not yet processed.
//!
//! In: edges, claims, and the owner's decisions. Out: named transitions; those that leave work for the
//! owner return [`Schedule::Needed`].
//!
//! Must never: lose an edge.

// Rules:
// 1. `READING` and `WRITING` are claims: each stands for one `ReadClaim` or `WriteClaim`, whose
//    holder alone reads or writes the descriptor. What needs the claim takes the value, and the value
//    gives the claim back when it is dropped, also by a panic.
// 2. A claim clears the readiness that it acts on *before* the system call. An edge that the
//    kernel reports during the call sets it again, and giving the claim back sees it: no edge is
//    lost between "would block" and the end of the claim.
// 3. The owner alone sets and clears `UNSTARTED`, `PAUSED`, `READ_CLOSED` and `DEAD`.
// 4. `QUEUED` says that the write queue is not empty; it changes under the queue's lock. While it is
//    clear, only the owner may write, since only the owner can make the queue non-empty.
// 5. `SCHEDULED` stands for one entry in the owner's ready queue or inbox. Whoever sets it makes
//    the entry; the owner clears it when it takes the entry out, before it looks at the rest. So
//    what is set before is seen by that turn, and what is set later makes a new entry.

use std::fmt;
use std::mem::ManuallyDrop;

use crate::reactor::Ready;
use crate::sync::atomic::{
    AtomicU32,
    Ordering::{AcqRel, Acquire},
};

/// The kernel said that it can be read, and it has not been read to the end since.
const READABLE: u32 = 1 << 0;
/// The kernel said that nothing will follow what is there, that it failed, or that a read may stop
/// in the middle: a short read is not the last.
const READ_END: u32 = 1 << 1;
const READING: u32 = 1 << 2;
/// Read ahead, and not yet delivered: data, the end, or an error. Changes under the lock of these.
const AHEAD: u32 = 1 << 3;
const PAUSED: u32 = 1 << 4;
/// The protocol does not know its transport yet.
const UNSTARTED: u32 = 1 << 5;
/// Nothing is to be read any more.
const READ_CLOSED: u32 = 1 << 6;
/// Not known to be full.
const WRITABLE: u32 = 1 << 7;
const WRITING: u32 = 1 << 8;
const QUEUED: u32 = 1 << 9;
/// There is something that the owner does not know yet: above all, another thread has written.
const NEWS: u32 = 1 << 10;
const SCHEDULED: u32 = 1 << 11;
/// No system call on the descriptor any more.
const DEAD: u32 = 1 << 12;

const NO_READ: u32 = READING | PAUSED | UNSTARTED | READ_CLOSED | DEAD;

/// A view of the word.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Bits(u32);

impl fmt::Debug for Bits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 13] = [
            "readable",
            "read_end",
            "reading",
            "ahead",
            "paused",
            "unstarted",
            "read_closed",
            "writable",
            "writing",
            "queued",
            "news",
            "scheduled",
            "dead",
        ];
        let set = NAMES.iter().enumerate().filter(|(bit, _)| self.0 & (1 << bit) != 0);
        f.debug_list().entries(set.map(|(_, name)| name)).finish()
    }
}

impl Bits {
    const fn any(self, mask: u32) -> bool {
        self.0 & mask != 0
    }

    /// Whether a thread could read now.
    #[must_use]
    pub const fn may_read(self) -> bool {
        self.any(READABLE) && !self.any(NO_READ)
    }

    /// Whether a thread could write now.
    #[must_use]
    pub const fn may_write(self) -> bool {
        self.0 & (QUEUED | WRITABLE | WRITING | DEAD) == QUEUED | WRITABLE
    }

    /// Whether nothing is to be read or written before the kernel or the owner says so.
    pub(super) const fn is_at_rest(self) -> bool {
        self.any(DEAD) || !self.any(READABLE | READING | QUEUED | WRITING)
    }

    /// Whether the owner has something to do for the transport.
    const fn wants_owner(self) -> bool {
        if self.any(DEAD) {
            return false;
        }
        let deliver = self.any(AHEAD) && !self.any(PAUSED | UNSTARTED | READ_CLOSED);
        self.may_read() || self.may_write() || deliver || self.any(NEWS)
    }

    /// Whether the kernel said that a short read is not the last.
    #[must_use]
    pub const fn read_end(self) -> bool {
        self.any(READ_END)
    }

    /// Whether something read ahead waits.
    #[must_use]
    pub const fn is_ahead(self) -> bool {
        self.any(AHEAD)
    }

    /// Whether reading is paused by the program.
    #[must_use]
    pub const fn is_paused(self) -> bool {
        self.any(PAUSED)
    }

    /// Whether the protocol does not know its transport yet.
    #[must_use]
    pub const fn is_unstarted(self) -> bool {
        self.any(UNSTARTED)
    }

    /// Whether the loop could bring the transport nothing, and has nothing to do for it: reading is
    /// paused, and nothing is to be written.
    #[must_use]
    pub const fn expects_nothing(self) -> bool {
        self.any(PAUSED) && !self.any(QUEUED | UNSTARTED)
    }

    /// Whether nothing is to be read or delivered any more.
    #[must_use]
    pub const fn is_read_closed(self) -> bool {
        self.any(READ_CLOSED | DEAD)
    }

    /// Whether data wait to be written.
    #[must_use]
    pub const fn is_queued(self) -> bool {
        self.any(QUEUED)
    }

    /// Whether another thread has written what the owner does not know yet.
    #[must_use]
    pub const fn has_news(self) -> bool {
        self.any(NEWS)
    }

    /// Whether the transport has been retired.
    #[must_use]
    pub const fn is_dead(self) -> bool {
        self.any(DEAD)
    }

    /// Whether a thread holds a claim.
    #[must_use]
    pub const fn is_claimed(self) -> bool {
        self.any(READING | WRITING)
    }
}

/// The bit, if it is to be set.
const fn when(set: bool, bit: u32) -> u32 {
    if set { bit } else { 0 }
}

/// The word, with `SCHEDULED` if the owner has something to do.
const fn scheduled(word: u32) -> u32 {
    if Bits(word).wants_owner() { word | SCHEDULED } else { word }
}

/// Whether the caller has to make an entry for the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Schedule {
    /// `SCHEDULED` was set by this call: make one entry.
    Needed,
    /// There is one already, or nothing to do.
    Unneeded,
}

/// The beginning of an owner's turn.
#[derive(Debug)]
#[must_use]
pub struct Turn<'a> {
    /// What was set when it began.
    pub bits: Bits,
    /// The claim to read, if it was to be had.
    pub claim: Option<ReadClaim<'a>>,
}

/// The right to read. One that is merely dropped, as by a panic, counts as not read to the end; whoever
/// goes on then looks whether the owner is to be scheduled.
#[derive(Debug)]
#[must_use = "nobody else reads while it lives"]
pub struct ReadClaim<'a>(&'a State);

impl ReadClaim<'_> {
    /// Gives it back. `more`: it was not read to the end.
    #[inline]
    pub fn release(self, more: bool) -> Schedule {
        let set = when(more, READABLE);
        ManuallyDrop::new(self).0.change_and_schedule(|old| (old | set) & !READING)
    }

    /// As [`release`](Self::release) by the owner within its turn, which delivers first and schedules
    /// itself afterwards.
    #[inline]
    pub fn release_in_turn(self, more: bool) {
        let set = when(more, READABLE);
        ManuallyDrop::new(self).0.change(|old| (old | set) & !READING);
    }

    /// Whether it is one on this word.
    #[inline]
    pub(super) fn is_on(&self, state: &State) -> bool {
        std::ptr::eq(self.0, state)
    }
}

impl Drop for ReadClaim<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.change(|old| (old | READABLE) & !READING);
    }
}

/// The right to write what is queued. One that is merely dropped, as by a panic, counts as one that has
/// not found the kernel full.
#[derive(Debug)]
#[must_use = "nobody else writes while it lives"]
pub struct WriteClaim<'a>(&'a State);

impl WriteClaim<'_> {
    /// Gives it back. `room`: the kernel would have taken more. `news`: the owner is to hear of it.
    pub fn release(self, room: bool, news: bool) -> Schedule {
        let set = when(room, WRITABLE) | when(news, NEWS);
        ManuallyDrop::new(self).0.change_and_schedule(|old| (old | set) & !WRITING)
    }

    /// As [`release`](Self::release) by the owner, which looks at the outcome itself.
    pub fn release_in_turn(self, room: bool) {
        let set = when(room, WRITABLE);
        ManuallyDrop::new(self).0.change(|old| (old | set) & !WRITING);
    }

    /// Whether it is one on this word.
    pub(super) fn is_on(&self, state: &State) -> bool {
        std::ptr::eq(self.0, state)
    }
}

impl Drop for WriteClaim<'_> {
    fn drop(&mut self) {
        self.0.change(|old| (old | WRITABLE) & !WRITING);
    }
}

/// The word itself.
#[derive(Debug)]
pub struct State(AtomicU32);

impl State {
    /// Of a transport whose protocol does not know it yet.
    pub(super) fn new() -> Self {
        Self(AtomicU32::new(UNSTARTED | WRITABLE))
    }

    /// The word as it is now.
    #[inline]
    pub fn bits(&self) -> Bits {
        Bits(self.0.load(Acquire))
    }

    /// Replaces the word by what `f` makes of it, or leaves it; returns the old word and the new.
    #[inline]
    fn change(&self, f: impl Fn(u32) -> u32) -> (u32, u32) {
        let mut old = self.0.load(Acquire);
        loop {
            let new = f(old);
            if new == old {
                return (old, old);
            }
            match self.0.compare_exchange_weak(old, new, AcqRel, Acquire) {
                Ok(_) => return (old, new),
                Err(actual) => old = actual,
            }
        }
    }

    /// As `change`, and schedules the owner if there is something to do for it.
    #[inline]
    fn change_and_schedule(&self, f: impl Fn(u32) -> u32) -> Schedule {
        let (old, new) = self.change(|old| scheduled(f(old)));
        if new & !old & SCHEDULED != 0 { Schedule::Needed } else { Schedule::Unneeded }
    }

    // -- anybody ---------------------------------------------------------------------------------

    /// Notes what the kernel reported.
    ///
    /// The word is written even if it does not change. So whoever claims afterwards has read what was
    /// written here, and its system call sees what was reported; had this only looked, and seen a
    /// readiness that is being claimed at that moment, neither might have seen the other.
    #[inline]
    pub fn ready(&self, ready: Ready) -> Schedule {
        let set = when(ready.readable, READABLE)
            | when(ready.writable, WRITABLE)
            | when(ready.ended, READ_END);
        let note = |old| scheduled(old | set);
        let (Ok(old) | Err(old)) = self.0.fetch_update(AcqRel, Acquire, |old| Some(note(old)));
        if note(old) & !old & SCHEDULED != 0 { Schedule::Needed } else { Schedule::Unneeded }
    }

    /// Claims the right to read, if there may be something to read.
    #[inline]
    pub fn claim_read(&self) -> Option<ReadClaim<'_>> {
        let (old, new) =
            self.change(|old| if Bits(old).may_read() { (old | READING) & !READABLE } else { old });
        (old != new).then(|| ReadClaim(self))
    }

    /// Notes that there is something for the owner to look at.
    pub fn note_news(&self) -> Schedule {
        self.change_and_schedule(|old| old | NEWS)
    }

    /// Claims the right to write, if something is queued and the kernel may take it.
    pub fn claim_write(&self) -> Option<WriteClaim<'_>> {
        let (old, new) = self
            .change(|old| if Bits(old).may_write() { (old | WRITING) & !WRITABLE } else { old });
        (old != new).then(|| WriteClaim(self))
    }

    /// Says whether data wait. Under the queue's lock.
    pub(super) fn set_queued(&self, queued: bool) {
        self.change(|old| if queued { old | QUEUED } else { old & !QUEUED });
    }

    // -- the owner -------------------------------------------------------------------------------

    /// Begins a turn for the entry that was taken out; returns what was set. If there may be
    /// something to read, and nothing read ahead comes before it, the claim to read is taken too.
    #[inline]
    pub fn begin_turn(&self) -> Turn<'_> {
        let (old, new) = self.change(|old| {
            let new = old & !(SCHEDULED | NEWS);
            let read = Bits(new).may_read() && !Bits(new).is_ahead();
            if read { (new | READING) & !READABLE } else { new }
        });
        let reads = new & !old & READING != 0;
        Turn { bits: Bits(old), claim: reads.then(|| ReadClaim(self)) }
    }

    /// Ends a turn: schedules another one if there is more to do.
    #[inline]
    pub fn end_turn(&self) -> Schedule {
        self.change_and_schedule(|old| old)
    }

    /// Takes the claim to read within a turn, as [`begin_turn`](Self::begin_turn) does.
    pub fn claim_read_in_turn(&self) -> Option<ReadClaim<'_>> {
        self.claim_unless(NO_READ)
    }

    /// As [`claim_read_in_turn`](Self::claim_read_in_turn), for a read that had begun when the owner
    /// paused: the protocol did so while it was asked for its buffer.
    pub fn claim_begun_read(&self) -> Option<ReadClaim<'_>> {
        self.claim_unless(NO_READ & !PAUSED)
    }

    #[inline]
    fn claim_unless(&self, forbidding: u32) -> Option<ReadClaim<'_>> {
        let (old, new) = self.change(|old| {
            let bits = Bits(old);
            let read = bits.any(READABLE) && !bits.any(forbidding) && !bits.is_ahead();
            if read { (old | READING) & !READABLE } else { old }
        });
        (old != new).then(|| ReadClaim(self))
    }

    /// Lets reading begin.
    pub fn start(&self) -> Schedule {
        self.change_and_schedule(|old| old & !UNSTARTED)
    }

    /// Stops reading and deliveries until `resume`.
    pub fn pause(&self) {
        self.change(|old| old | PAUSED);
    }

    /// Undoes `pause`.
    pub fn resume(&self) -> Schedule {
        self.change_and_schedule(|old| old & !PAUSED)
    }

    /// Stops reading and deliveries for good.
    pub fn close_read(&self) {
        self.change(|old| old | READ_CLOSED);
    }

    /// Undoes `close_read`, within a turn: there is something to read, if only the end.
    pub fn reopen_read(&self) {
        self.change(|old| (old | READABLE) & !READ_CLOSED);
    }

    /// Notes that something read ahead waits. Under the lock of what was read ahead.
    pub(super) fn set_ahead(&self) {
        self.change(|old| old | AHEAD);
    }

    /// Notes that all that was read ahead has been taken. Under the same lock.
    pub(super) fn taken_ahead(&self) {
        self.change(|old| old & !AHEAD);
    }

    /// Forbids all further claims; returns whether one is still held. Wait until none is, by
    /// [`Bits::is_claimed`], before the descriptor is closed or the queue taken. The owner holds none
    /// itself when it calls this, so it gives its own back before it calls the program.
    pub fn retire(&self) -> bool {
        Bits(self.change(|old| old | DEAD | READ_CLOSED).0).is_claimed()
    }

    /// As [`retire`](Self::retire), in a forked child: whoever holds a claim is a thread of the parent's,
    /// and what is queued is the parent's to write.
    pub(super) fn after_fork(&self) {
        self.change(|old| (old | DEAD | READ_CLOSED) & !(READING | WRITING | QUEUED));
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
