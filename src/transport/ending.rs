//! The end of a transport as one state machine, and whether it may still be written to: one word.
//!
//! ```text
//!            close() with nothing queued, abort()
//!        +-------------------------------------------------+
//!        |                                                 v
//!    +------+  close() with   +---------+  drained()   +--------+  finish()  +------+
//!    | Open | --------------> | Closing | -----------> | Losing | ---------> | Lost |
//!    +------+  data queued    +---------+  abort()     +--------+            +------+
//! ```
//!
//! - *Open*: the connection stands. One with a filter comes from here to *Closing* by way of *Shutting*
//!   (`shut`): it was said that no more is sent, what comes is dropped, and the peer is waited for.
//! - *Closing*: nothing is delivered any more, and what is queued is still written. A write end
//!   (`close_writes`) drops what is written from now on, and still hears when its reader is gone.
//! - *Losing*: `connection_lost` is on its way. The queue is empty, or was dropped.
//! - *Lost*: `connection_lost` was called, and the descriptor is given up.
//!
//! Every transition answers what its caller does next. The step to *Losing* is made once, and whoever
//! makes it calls `connection_lost`, or schedules the call: so it is called once.
//!
//! Changed by the owner; by a forked child, in its only thread; read by any thread. Must never: touch the
//! descriptor, the queue or the state word, which is [`Link`](super::Link)'s business.

use crate::sync::atomic::{
    AtomicU32,
    Ordering::{AcqRel, Acquire},
};

// A stage has the bits of those before it, so that "not before" is one bit.
const CLOSING: u32 = 1 << 0;
const LOSING: u32 = 1 << 1;
const LOST: u32 = 1 << 2;
/// What is written is dropped: of a write end that is closing, or in a forked child.
const DROPS_WRITES: u32 = 1 << 3;
/// The write side was shut, or will be when nothing is queued.
const WRITE_EOF: u32 = 1 << 4;
/// Somebody waits for the queue to be empty (`sendfile`), and nobody may write meanwhile.
const EMPTY_WAITER: u32 = 1 << 5;

/// The turn keeps reading: what is written meanwhile is sent together when it has.
const CORKED: u32 = 1 << 6;
/// It was said through the filter that no more is sent, and the peer is to say so, too.
const SHUTTING: u32 = 1 << 7;

const REFUSES_WRITES: u32 = LOSING | DROPS_WRITES | WRITE_EOF | EMPTY_WAITER | SHUTTING;

/// What follows a call of `close`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Close {
    /// Nothing: it was closing already.
    Ignore,
    /// Nothing now: [`Ending::drained`] goes on when the queue is empty.
    WaitForQueue,
    /// Schedule `connection_lost`.
    LoseSoon,
}

/// What follows when the queue is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Drained {
    /// Nothing: it is not closing, or `connection_lost` is on its way already.
    Ignore,
    /// Call `connection_lost`.
    LoseNow,
}

/// What follows an error, or a call of `abort`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Abort {
    /// Nothing: `connection_lost` is on its way, or was called.
    Ignore,
    /// Drop the queue, let nobody use the descriptor, and schedule `connection_lost`.
    LoseSoon,
}

/// What follows a call of `write_eof`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum ShutWrite {
    /// Nothing: it is closing, or was shut before.
    Ignore,
    /// Shut the write side when nothing is queued.
    Shut,
}

/// What becomes of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum WriteGate {
    /// It may be sent.
    Open,
    /// It is to be queued, if there is not too much: the turn goes on.
    Corked,
    /// It is refused.
    Refused(Refusal),
}

/// Why a write is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The program has called `write_eof`.
    AfterEof,
    /// `sendfile` is under way.
    DuringSendfile,
    /// The connection is gone: data are dropped, which is no error.
    Dropped,
}

/// The word.
#[derive(Debug)]
pub struct Ending(AtomicU32);

impl Ending {
    /// Of a connection that stands.
    pub(super) fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    #[inline(always)]
    fn word(&self) -> u32 {
        self.0.load(Acquire)
    }

    /// Sets bits, unless one of those that forbid it is set; says whether it did.
    fn set_unless(&self, forbidding: u32, set: u32) -> bool {
        let change = |old| (old & forbidding == 0).then_some(old | set);
        self.0.fetch_update(AcqRel, Acquire, change).is_ok()
    }

    // -- transitions: the owner ------------------------------------------------------------------

    /// Begins an orderly end; `queued`: whether data wait to be written.
    pub(super) fn close(&self, queued: bool) -> Close {
        self.close_and_set(queued, 0)
    }

    /// As [`close`](Self::close), of a write end: what is written from now on is dropped.
    pub(super) fn close_writes(&self, queued: bool) -> Close {
        self.close_and_set(queued, DROPS_WRITES)
    }

    fn close_and_set(&self, queued: bool, more: u32) -> Close {
        let (stage, next) = if queued {
            (CLOSING, Close::WaitForQueue)
        } else {
            (CLOSING | LOSING, Close::LoseSoon)
        };
        if self.set_unless(CLOSING, stage | more) { next } else { Close::Ignore }
    }

    /// Begins the end of a connection with a filter. Says whether it did: not if it is closing.
    #[must_use]
    pub fn shut(&self) -> bool {
        self.set_unless(CLOSING | SHUTTING, SHUTTING)
    }

    /// Everything queued is written.
    pub fn drained(&self) -> Drained {
        if self.word() & CLOSING != 0 && self.set_unless(LOSING, LOSING) {
            Drained::LoseNow
        } else {
            Drained::Ignore
        }
    }

    /// Ends the connection without regard to what is queued: at once, or by an error.
    pub fn abort(&self) -> Abort {
        if self.set_unless(LOSING, CLOSING | LOSING) { Abort::LoseSoon } else { Abort::Ignore }
    }

    /// `connection_lost` is called now.
    pub fn finish(&self) {
        self.set_unless(0, CLOSING | LOSING | LOST);
    }

    /// The program writes nothing more.
    pub fn shut_write(&self) -> ShutWrite {
        if self.set_unless(CLOSING | WRITE_EOF, WRITE_EOF) {
            ShutWrite::Shut
        } else {
            ShutWrite::Ignore
        }
    }

    /// Says whether somebody waits for the queue to be empty.
    pub fn set_empty_waiter(&self, waits: bool) {
        if waits {
            self.set_unless(0, EMPTY_WAITER);
        } else {
            self.0.fetch_and(!EMPTY_WAITER, AcqRel);
        }
    }

    // -- a forked child --------------------------------------------------------------------------

    /// Drops what is written from now on: the connection is the parent's.
    pub(super) fn after_fork(&self) {
        self.set_unless(0, DROPS_WRITES);
    }

    // -- anybody ---------------------------------------------------------------------------------

    /// Whether it is *Shutting*, *Closing*, or further.
    #[inline]
    pub fn is_closing(&self) -> bool {
        self.word() & (CLOSING | SHUTTING) != 0
    }

    /// Whether what comes is dropped: from *Shutting* on, of a connection with a filter.
    #[inline]
    pub fn is_shut(&self) -> bool {
        self.word() & SHUTTING != 0
    }

    /// Whether it is *Losing*, or *Lost*.
    #[inline]
    pub fn is_losing(&self) -> bool {
        self.word() & LOSING != 0
    }

    /// Whether the write side was shut by the program, or will be.
    pub fn is_write_shut(&self) -> bool {
        self.word() & WRITE_EOF != 0
    }

    /// Whether somebody is to hear when the queue is empty: an end, or who waits for it.
    pub fn awaits_empty(&self) -> bool {
        self.word() & (CLOSING | EMPTY_WAITER) != 0
    }

    /// What becomes of a write now. One load.
    #[inline(always)]
    pub fn write_gate(&self) -> WriteGate {
        let word = self.word();
        if word & (REFUSES_WRITES | CORKED) == 0 { WriteGate::Open } else { gate_of(word) }
    }

    /// Whether what is written is sent together when the turn has read.
    #[inline]
    pub fn is_corked(&self) -> bool {
        self.word() & CORKED != 0
    }

    /// Says whether the turn keeps reading. Owner only.
    pub(super) fn set_corked(&self, corked: bool) {
        if corked {
            self.set_unless(0, CORKED);
        } else {
            self.0.fetch_and(!CORKED, AcqRel);
        }
    }
}

/// What a program is told first.
#[cold]
fn gate_of(word: u32) -> WriteGate {
    if word & WRITE_EOF != 0 {
        WriteGate::Refused(Refusal::AfterEof)
    } else if word & EMPTY_WAITER != 0 {
        WriteGate::Refused(Refusal::DuringSendfile)
    } else if word & REFUSES_WRITES != 0 {
        WriteGate::Refused(Refusal::Dropped)
    } else {
        WriteGate::Corked
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
