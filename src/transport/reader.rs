//! What a stream reader has received, when it pauses and resumes its transport, and what a read takes of it: as
//! `asyncio.StreamReader` decides it.
//!
//! In: bytes that came, and what a read wants. Out of each transition: what is left to the caller, who knows Python
//! objects: to drop a chunk, to pause or resume the transport, to wake who waits, to raise. Must never: drop a
//! chunk, or be touched by two threads at once: the caller has a lock, and drops nothing under it.

use super::framing::{Frame, Separators, look_for_line};
use super::read_buffer::ReadBuffer;
use super::write_queue::Buffer;

#[cfg(all(test, not(loom)))]
mod tests;

/// What a read wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// What is there, up to so many bytes: `read(n)`.
    AtMost(usize),
    /// All that comes: `read()`.
    All,
    /// So many bytes: `readexactly`. Fewer than none are refused as it begins.
    Exactly(isize),
    /// A line: `readline`.
    Line,
    /// A line, for `async for`.
    Next,
    /// What ends by a separator: `readuntil`.
    Until,
    /// No byte: to know that something has come.
    Arrival,
}

/// What a read does as it begins.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstStep {
    /// It ends: fewer bytes than none are wanted.
    NegativeSize,
    /// It learns its separators ([`ReadProgress::ends_by`]), and goes on as with [`Self::Check`].
    Separators,
    /// It raises the exception that the stream has ended with, if there is one, and looks.
    Check,
    /// It looks.
    Look,
}

/// What becomes of the bytes that a read has taken.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// They are returned.
    Bytes,
    /// They are a line; if there is none, the iteration stops.
    Line,
    /// They are a part of what is wanted ([`ReadProgress::collect`]).
    Collect,
    /// Nothing is returned.
    Nothing,
    /// They are too few: an `IncompleteReadError`, with how many were expected, where that is known.
    Incomplete(Option<isize>),
}

impl Wanted {
    /// The method of a reader that wants it.
    #[must_use]
    pub const fn method(self) -> &'static str {
        match self {
            Self::AtMost(_) | Self::All => "read",
            Self::Exactly(_) => "readexactly",
            Self::Line => "readline",
            Self::Next => "__anext__",
            Self::Until => "readuntil",
            Self::Arrival => "_wait_for_data",
        }
    }

    /// What the read does before its first look.
    pub const fn first_step(self) -> FirstStep {
        match self {
            Self::Exactly(count) if count < 0 => FirstStep::NegativeSize,
            Self::Until => FirstStep::Separators,
            Self::Arrival => FirstStep::Look,
            _ => FirstStep::Check,
        }
    }

    /// What becomes of the bytes it took. `ended`: the end came before all that is wanted.
    #[inline]
    pub const fn answer(self, ended: bool) -> Answer {
        match self {
            Self::Next => Answer::Line,
            Self::Exactly(count) if ended => Answer::Incomplete(Some(count)),
            Self::Until if ended => Answer::Incomplete(None),
            Self::All => Answer::Collect,
            Self::Arrival => Answer::Nothing,
            _ => Answer::Bytes,
        }
    }

    /// Whether bytes leave the buffer when it is there: after that asyncio's reader resumes its transport.
    const fn takes_bytes(self) -> bool {
        !matches!(self, Self::AtMost(0) | Self::Exactly(0) | Self::Arrival)
    }
}

/// How far a read has come.
#[derive(Debug, Default)]
pub struct ReadProgress {
    separators: Option<Box<Separators>>,
    /// Bytes at the beginning of the buffer that have no separator in them.
    searched: usize,
    /// Of [`Wanted::All`]: what has been taken so far.
    #[allow(
        clippy::box_collection,
        reason = "few reads have any, and each connection waits in one"
    )]
    collected: Option<Box<Vec<u8>>>,
    /// Bytes that were there at the last look, and not enough.
    seen: usize,
    /// It has waited.
    woken: bool,
}

impl ReadProgress {
    /// Notes what ends [`Wanted::Until`].
    pub fn ends_by(&mut self, separators: Separators) {
        self.separators = Some(Box::new(separators));
    }

    /// Notes that it has waited, and goes on.
    pub fn wake(&mut self) {
        self.woken = true;
    }

    /// Adds what one look has taken for [`Wanted::All`]. Nothing more came: returns all of it. `None`: look again.
    #[must_use]
    pub fn collect(&mut self, block: &[u8]) -> Option<Vec<u8>> {
        if block.is_empty() {
            return Some(self.collected.take().map_or_else(Vec::new, |collected| *collected));
        }
        self.collected.get_or_insert_default().extend_from_slice(block);
        None
    }
}

/// The separator is not within the limit: a `LimitOverrunError`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overrun {
    /// Bytes that have no separator in them.
    pub consumed: usize,
    /// It comes after them.
    pub found: bool,
}

/// What there is in the buffer for a read.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    /// Not enough.
    Wait,
    /// What it wants: so many bytes.
    Take(usize),
    /// Less than it wants, and no more will come: so many bytes, all that there are.
    End(usize),
    /// It has failed, and so many bytes are thrown away.
    Overrun(Overrun, usize),
}

/// Decides what of `bytes` is for a read. `eof`: no more will come.
#[inline]
fn decide(
    wanted: Wanted,
    bytes: &[u8],
    (limit, eof): (usize, bool),
    progress: &mut ReadProgress,
) -> Decision {
    let length = bytes.len();
    match wanted {
        Wanted::AtMost(0) => Decision::Take(0),
        Wanted::AtMost(_) | Wanted::All if length == 0 && !eof => Decision::Wait,
        Wanted::AtMost(count) => Decision::Take(length.min(count)),
        Wanted::All => Decision::Take(length),
        Wanted::Exactly(count) if length >= count.unsigned_abs() => {
            Decision::Take(count.unsigned_abs())
        }
        Wanted::Exactly(_) if eof => Decision::End(length),
        Wanted::Line | Wanted::Next | Wanted::Until => {
            let searched = &mut progress.searched;
            let frame = match &progress.separators {
                Some(separators) => separators.look(bytes, searched, limit),
                None => look_for_line(bytes, searched, limit),
            };
            // After an overrun `readline` begins anew; `readuntil` leaves all to the program.
            let thrown_away = |count| if wanted == Wanted::Until { 0 } else { count };
            match frame {
                Frame::Ends { end, .. } => Decision::Take(end),
                Frame::Open if eof => Decision::End(length),
                Frame::Open => Decision::Wait,
                Frame::TooLong(consumed) => {
                    Decision::Overrun(Overrun { consumed, found: true }, thrown_away(consumed + 1))
                }
                Frame::Endless(consumed) => {
                    Decision::Overrun(Overrun { consumed, found: false }, thrown_away(length))
                }
            }
        }
        Wanted::Arrival if progress.woken => Decision::Take(0),
        Wanted::Exactly(_) | Wanted::Arrival => Decision::Wait,
    }
}

/// What bytes that were fed have changed.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub enum FeedOutcome<B> {
    /// The end came before them: they are refused.
    AfterEof,
    /// There were none.
    Nothing,
    /// They are there: whoever waits is to be woken.
    Fed {
        /// To be dropped.
        spent: Option<B>,
        /// There is too much: the transport is to be paused, and then [`ReaderState::set_paused`].
        pauses: bool,
    },
}

/// What a look has found for a read.
#[derive(Debug, PartialEq, Eq)]
pub enum TakeOutcome<B, P> {
    /// Not enough: the read waits.
    Wait,
    /// What it wants, as it came.
    Whole(B),
    /// What it wants, made of a part of the buffer.
    Part(P),
    /// The end came first: what there was, made likewise.
    Ended(P),
    /// The limit came first.
    Overrun(Overrun),
    /// What it wants could not be made, and is still there.
    Failed,
}

/// What a look has found, and what it leaves to the caller.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub struct LookOutcome<B, P> {
    /// What there is for the read.
    pub found: TakeOutcome<B, P>,
    /// To be dropped.
    pub spent: Option<B>,
    /// There is room again: the transport is to be resumed.
    pub resumes: bool,
}

/// What is to be done before a read waits.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BeforeWait {
    /// Nothing.
    Ready,
    /// The transport is to be resumed: who waits for one that is paused would wait for ever.
    Resume,
    /// The end has come, after which nobody waits.
    Ended,
}

/// Whether a read waits.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitOutcome {
    /// It does, and is the one that waits.
    Begins,
    /// Something has come since its last look: it looks again.
    LookAgain,
    /// Another one waits: a `RuntimeError`.
    Awaited,
}

/// What a reader has received and not given out, and what it knows of its stream.
#[derive(Debug)]
pub struct ReaderState<B> {
    buffer: ReadBuffer<B>,
    /// Bytes; the transport is paused above twice as many, and resumed at as many.
    limit: usize,
    eof: bool,
    /// The transport was paused by the reader.
    paused: bool,
}

impl<B> Default for ReaderState<B> {
    fn default() -> Self {
        Self { buffer: ReadBuffer::default(), limit: 0, eof: false, paused: false }
    }
}

impl<B: Buffer> ReaderState<B> {
    /// What is there.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.buffer.bytes()
    }

    /// Throws away what is there. Returns what is to be dropped.
    #[must_use]
    pub fn clear(&mut self) -> Option<B> {
        self.buffer.advance(self.bytes().len())
    }

    /// Bytes beyond twice as many pause the transport; so many may come before a separator.
    #[must_use]
    pub const fn limit(&self) -> usize {
        self.limit
    }

    /// Sets the limit, in bytes.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Whether no more will come.
    #[must_use]
    pub const fn eof(&self) -> bool {
        self.eof
    }

    /// Notes the end, or takes it back.
    pub fn set_eof(&mut self, eof: bool) {
        self.eof = eof;
    }

    /// Whether the reader has paused its transport.
    #[must_use]
    pub const fn is_paused(&self) -> bool {
        self.paused
    }

    /// Notes that the transport was paused, or resumed.
    pub fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// Whether the end has come, and all before it was given out.
    #[must_use]
    pub fn at_eof(&self) -> bool {
        self.eof && self.bytes().is_empty()
    }

    /// Appends what came, which `keep` may keep as it came.
    #[inline(always)]
    pub fn feed(&mut self, data: &[u8], keep: impl FnOnce() -> Option<B>) -> FeedOutcome<B> {
        if self.eof {
            return FeedOutcome::AfterEof;
        }
        if data.is_empty() {
            return FeedOutcome::Nothing;
        }
        let spent = self.buffer.feed(data, keep);
        let is_too_much = self.bytes().len() > self.limit.saturating_mul(2);
        FeedOutcome::Fed { spent, pauses: is_too_much && !self.paused }
    }

    /// Takes what is wanted, if it is there, as one chunk that came or as `make` makes it. `make` may fail, and
    /// then nothing is taken.
    #[inline(always)]
    pub fn look<P>(
        &mut self,
        wanted: Wanted,
        progress: &mut ReadProgress,
        make: impl FnOnce(&[u8]) -> Option<P>,
    ) -> LookOutcome<B, P> {
        let decision = decide(wanted, self.buffer.bytes(), (self.limit, self.eof), progress);
        let mut spent = None;
        let (found, took) = match decision {
            Decision::Wait => (TakeOutcome::Wait, false),
            Decision::Overrun(overrun, thrown_away) => {
                if thrown_away > 0 {
                    spent = self.buffer.advance(thrown_away);
                }
                (TakeOutcome::Overrun(overrun), thrown_away > 0)
            }
            Decision::Take(count) | Decision::End(count) => {
                let ended = matches!(decision, Decision::End(_));
                let whole = if ended || count == 0 { None } else { self.buffer.take_whole(count) };
                let took = !ended && wanted.takes_bytes();
                if let Some(whole) = whole {
                    (TakeOutcome::Whole(whole), took)
                } else if let Some(part) = make(&self.buffer.bytes()[..count]) {
                    spent = self.buffer.advance(count);
                    (if ended { TakeOutcome::Ended(part) } else { TakeOutcome::Part(part) }, took)
                } else {
                    (TakeOutcome::Failed, false)
                }
            }
        };
        progress.seen = self.buffer.bytes().len();
        let resumes = took && self.paused && progress.seen <= self.limit;
        self.paused &= !resumes;
        LookOutcome { found, spent, resumes }
    }

    /// Looks whether a read may wait, and needs the transport for it. `is_awaited`: another one waits.
    #[inline]
    pub fn before_wait(&mut self, is_awaited: bool) -> BeforeWait {
        if self.eof {
            BeforeWait::Ended
        } else if self.paused && !is_awaited {
            self.paused = false;
            BeforeWait::Resume
        } else {
            BeforeWait::Ready
        }
    }

    /// Says whether a read waits that has looked. Under the lock under which bytes are fed and who waits is
    /// noted: so nothing comes between the answer and the wait.
    #[inline]
    pub fn begin_wait(&self, progress: &ReadProgress, is_awaited: bool) -> WaitOutcome {
        if is_awaited {
            WaitOutcome::Awaited
        } else if self.eof || self.bytes().len() != progress.seen {
            WaitOutcome::LookAgain
        } else {
            WaitOutcome::Begins
        }
    }
}
