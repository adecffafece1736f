//! Who may read, who may write, and what the owner has still to be told: one word per transport.
//!
//! Rules:
//! 1. `READING` and `WRITING` are claims. Whoever sets one by [`State::claim_read`] or
//!    [`State::claim_write`] alone reads or writes the descriptor until it gives the claim back, by
//!    the method of the same name.
//! 2. A claim clears the readiness that it acts on *before* the system call. An edge that the
//!    kernel reports during the call sets it again, and giving the claim back sees it: no edge is
//!    lost between "would block" and the end of the claim.
//! 3. The owner alone sets and clears `UNSTARTED`, `PAUSED`, `READ_CLOSED` and `DEAD`.
//! 4. `QUEUED` says that the write queue is not empty; it changes under the queue's lock. While it is
//!    clear, only the owner may write, since only the owner can make the queue non-empty.
//! 5. `SCHEDULED` stands for one entry in the owner's ready queue or inbox. Whoever sets it makes
//!    the entry; the owner clears it when it takes the entry out, before it looks at the rest. So
//!    what is set before is seen by that turn, and what is set later makes a new entry.

use std::fmt;

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
/// Read ahead, and not yet delivered: data, the end, or an error.
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
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Turn {
    /// What was set when it began.
    pub bits: Bits,
    /// Whether the claim to read was taken.
    pub reads: bool,
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
        let mut set = 0;
        if ready.readable {
            set |= READABLE;
        }
        if ready.writable {
            set |= WRITABLE;
        }
        if ready.ended {
            set |= READ_END;
        }
        let note = |old| scheduled(old | set);
        let (Ok(old) | Err(old)) = self.0.fetch_update(AcqRel, Acquire, |old| Some(note(old)));
        if note(old) & !old & SCHEDULED != 0 { Schedule::Needed } else { Schedule::Unneeded }
    }

    /// Claims the right to read, if there may be something to read.
    #[inline]
    pub fn claim_read(&self) -> bool {
        let (old, new) =
            self.change(|old| if Bits(old).may_read() { (old | READING) & !READABLE } else { old });
        old != new
    }

    /// Gives the claim to read back. `more`: it was not read to the end. `ahead`: something waits
    /// for the owner.
    #[inline]
    pub fn release_read(&self, more: bool, ahead: bool) -> Schedule {
        let set = if more { READABLE } else { 0 } | if ahead { AHEAD } else { 0 };
        self.change_and_schedule(|old| (old | set) & !READING)
    }

    /// As [`release_read`](Self::release_read), with something for the owner to look at.
    pub fn release_read_with_news(&self, more: bool) -> Schedule {
        let set = NEWS | if more { READABLE } else { 0 };
        self.change_and_schedule(|old| (old | set) & !READING)
    }

    /// Notes that there is something for the owner to look at.
    pub fn note_news(&self) -> Schedule {
        self.change_and_schedule(|old| old | NEWS)
    }

    /// As [`release_read`](Self::release_read) by the owner within its turn, which delivers first and
    /// schedules itself afterwards.
    #[inline]
    pub fn release_read_in_turn(&self, more: bool) {
        let set = if more { READABLE } else { 0 };
        self.change(|old| (old | set) & !READING);
    }

    /// Claims the right to write, if something is queued and the kernel may take it.
    pub fn claim_write(&self) -> bool {
        let (old, new) = self
            .change(|old| if Bits(old).may_write() { (old | WRITING) & !WRITABLE } else { old });
        old != new
    }

    /// Gives the claim to write back. `room`: the kernel would have taken more. `news`: the owner is
    /// to hear of it.
    pub fn release_write(&self, room: bool, news: bool) -> Schedule {
        let set = if room { WRITABLE } else { 0 } | if news { NEWS } else { 0 };
        self.change_and_schedule(|old| (old | set) & !WRITING)
    }

    /// As [`release_write`](Self::release_write) by the owner, which looks at the outcome itself.
    pub fn release_write_in_turn(&self, room: bool) {
        let set = if room { WRITABLE } else { 0 };
        self.change(|old| (old | set) & !WRITING);
    }

    /// Says whether data wait. Under the queue's lock.
    pub(super) fn set_queued(&self, queued: bool) {
        self.change(|old| if queued { old | QUEUED } else { old & !QUEUED });
    }

    // -- the owner -------------------------------------------------------------------------------

    /// Begins a turn for the entry that was taken out; returns what was set. If there may be
    /// something to read, and nothing read ahead comes before it, the claim to read is taken too.
    #[inline]
    pub fn begin_turn(&self) -> Turn {
        let (old, new) = self.change(|old| {
            let new = old & !(SCHEDULED | NEWS);
            let read = Bits(new).may_read() && !Bits(new).is_ahead();
            if read { (new | READING) & !READABLE } else { new }
        });
        Turn { bits: Bits(old), reads: new & !old & READING != 0 }
    }

    /// Ends a turn: schedules another one if there is more to do.
    #[inline]
    pub fn end_turn(&self) -> Schedule {
        self.change_and_schedule(|old| old)
    }

    /// Takes the claim to read within a turn, as [`begin_turn`](Self::begin_turn) does.
    pub fn claim_read_in_turn(&self) -> bool {
        let (old, new) = self.change(|old| {
            let read = Bits(old).may_read() && !Bits(old).is_ahead();
            if read { (old | READING) & !READABLE } else { old }
        });
        old != new
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

    /// Notes that something read ahead waits.
    pub(super) fn set_ahead(&self) {
        self.change(|old| old | AHEAD);
    }

    /// Notes that all that was read ahead has been taken.
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
mod tests {
    use super::*;
    use crate::id::IoToken;

    fn event(readable: bool, writable: bool) -> Ready {
        Ready { token: IoToken::new(0, 0), readable, writable, ended: false }
    }

    fn started() -> State {
        let state = State::new();
        assert_eq!(state.start(), Schedule::Unneeded);
        state
    }

    #[test]
    fn one_entry_stands_for_any_number_of_events() {
        let state = started();
        assert_eq!(state.ready(event(true, false)), Schedule::Needed);
        assert_eq!(state.ready(event(true, true)), Schedule::Unneeded);
        assert!(state.begin_turn().reads);
        state.release_read_in_turn(true);
        assert_eq!(state.end_turn(), Schedule::Needed, "it was not read to the end");
    }

    #[test]
    fn reading_that_was_closed_and_reopened_in_a_turn_goes_on_in_another() {
        let state = started();
        let _ = state.ready(event(true, false));
        assert!(state.begin_turn().reads);
        state.release_read_in_turn(false);
        state.close_read();
        assert!(state.bits().is_read_closed());
        state.reopen_read();
        assert_eq!(state.end_turn(), Schedule::Needed);
        assert!(state.begin_turn().reads);
    }

    #[test]
    fn an_edge_during_a_read_is_not_lost() {
        let state = started();
        let _ = state.ready(event(true, false));
        assert!(state.begin_turn().reads && !state.claim_read());
        assert_eq!(state.ready(event(true, false)), Schedule::Unneeded, "the reader will see it");
        assert_eq!(state.release_read(false, false), Schedule::Needed);
    }

    #[test]
    fn an_edge_during_a_write_is_not_lost() {
        let state = started();
        state.set_queued(true);
        assert!(state.claim_write() && !state.claim_write());
        assert_eq!(state.ready(event(false, true)), Schedule::Unneeded);
        assert_eq!(state.release_write(false, false), Schedule::Needed);
        assert!(state.claim_write());
        assert_eq!(state.release_write(false, false), Schedule::Unneeded, "scheduled, and blocked");
        assert!(!state.claim_write(), "full until the kernel says otherwise");
    }

    #[test]
    fn nothing_is_read_before_the_start_nor_while_paused_nor_after_the_end() {
        let state = State::new();
        assert_eq!(state.ready(event(true, false)), Schedule::Unneeded);
        assert!(!state.claim_read());
        assert_eq!(state.start(), Schedule::Needed);
        state.pause();
        assert!(!state.begin_turn().reads);
        assert!(!state.claim_read());
        assert_eq!(state.resume(), Schedule::Needed);
        state.close_read();
        assert!(!state.begin_turn().reads && !state.claim_read());
        assert_eq!(state.end_turn(), Schedule::Unneeded);
    }

    #[test]
    fn what_was_read_ahead_waits_for_the_end_of_a_pause() {
        let state = started();
        let _ = state.ready(event(true, false));
        assert!(state.begin_turn().reads);
        state.pause();
        assert_eq!(state.release_read(false, true), Schedule::Unneeded);
        assert_eq!(state.resume(), Schedule::Needed);
        let turn = state.begin_turn();
        assert!(turn.bits.is_ahead() && !turn.reads);
        state.taken_ahead();
        assert_eq!(state.end_turn(), Schedule::Unneeded);
    }

    #[test]
    fn a_retired_transport_is_claimed_no_more() {
        let state = started();
        let _ = state.ready(event(true, false));
        state.set_queued(true);
        assert!(state.claim_write());
        assert!(state.retire());
        assert!(!state.claim_read());
        assert_eq!(state.release_write(true, true), Schedule::Unneeded);
        assert!(!state.bits().is_claimed() && !state.claim_write());
    }

    #[test]
    fn a_forked_child_claims_nothing_and_waits_for_no_claim() {
        let state = started();
        let _ = state.ready(event(true, false));
        state.set_queued(true);
        assert!(state.claim_read() && state.claim_write());
        state.after_fork();
        assert!(!state.bits().is_claimed() && !state.bits().is_queued());
        assert_eq!(state.ready(event(true, true)), Schedule::Unneeded);
        assert!(!state.claim_read() && !state.claim_write() && !state.retire());
    }
}
