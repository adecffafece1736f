//! What was read of a stream before its owner asked for it, bounded in memory.
//!
//! It comes in pieces. Short ones are joined, and each counts for more than its bytes, so that the
//! bound is one of memory whatever the peer sends; behind the end, or a failure, there is no room.

use std::collections::VecDeque;
use std::io;

use super::{ReadClaim, State};
use crate::config;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// What was read before the owner asked for it.
#[derive(Debug)]
pub enum Ahead {
    /// Bytes; short pieces are joined, so that none costs much more than its bytes.
    Data(Vec<u8>),
    /// The end of the stream.
    End,
    /// The read failed, and with it the stream.
    Failed(io::Error),
}

impl Ahead {
    fn len(&self) -> usize {
        if let Self::Data(data) = self { data.len() } else { 0 }
    }

    /// What it counts for besides its bytes: there is no room behind what comes last.
    fn overhead(&self) -> usize {
        match self {
            Self::Data(_) => config::READ_AHEAD_OVERHEAD,
            Self::End | Self::Failed(_) => config::READ_AHEAD,
        }
    }
}

/// What was read ahead of one stream.
#[derive(Debug)]
pub(super) struct ReadAhead {
    /// Locked for a few instructions. In a box, as few streams ever have any.
    #[allow(clippy::box_collection, reason = "a third of an empty queue's size")]
    pieces: Mutex<Option<Box<VecDeque<Ahead>>>>,
    bytes: AtomicUsize,
    /// What the pieces count for besides their bytes.
    overhead: AtomicUsize,
}

impl ReadAhead {
    /// With nothing.
    pub(super) fn new() -> Self {
        let (bytes, overhead) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { pieces: Mutex::new(None), bytes, overhead }
    }

    /// See [`Stream::take_ahead`](super::Stream::take_ahead).
    pub(super) fn take(&self, state: &State) -> VecDeque<Ahead> {
        let mut pieces = self.pieces.lock();
        self.set(0, 0);
        state.taken_ahead();
        pieces.take().map_or_else(VecDeque::new, |pieces| *pieces)
    }

    /// See [`Stream::put_back_ahead`](super::Stream::put_back_ahead).
    pub(super) fn put_back(&self, mut left: VecDeque<Ahead>, state: &State) {
        let mut pieces = self.pieces.lock();
        if let Some(pieces) = &mut *pieces {
            left.append(pieces);
        }
        self.set(left.iter().map(Ahead::len).sum(), left.iter().map(Ahead::overhead).sum());
        *pieces = Some(Box::new(left));
        state.set_ahead();
    }

    /// Adds to it.
    pub(super) fn push(&self, _: &ReadClaim<'_>, one: Result<&[u8], Ahead>, state: &State) {
        let mut pieces = self.pieces.lock();
        state.set_ahead();
        let pieces = pieces.get_or_insert_default();
        let bytes = self.bytes() + one.as_ref().map_or(0, |data| data.len());
        let overhead = self.overhead.load(Relaxed);
        let piece = match one {
            Ok(data) => {
                if let Some(Ahead::Data(last)) = pieces.back_mut()
                    && join(last, data)
                {
                    return self.set(bytes, overhead);
                }
                Ahead::Data(data.to_vec())
            }
            Err(last) => last,
        };
        self.set(bytes, overhead + piece.overhead());
        pieces.push_back(piece);
    }

    /// Under the lock.
    fn set(&self, bytes: usize, overhead: usize) {
        self.bytes.store(bytes, Relaxed);
        self.overhead.store(overhead, Relaxed);
    }

    /// Bytes that wait. Any thread.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    /// How many bytes may still be read ahead. Any thread.
    pub(super) fn room(&self) -> usize {
        config::READ_AHEAD.saturating_sub(self.bytes() + self.overhead.load(Relaxed))
    }
}

/// Appends `data` to the last piece, unless that would become too long.
fn join(last: &mut Vec<u8>, data: &[u8]) -> bool {
    let joined = last.len() + data.len();
    let fits = joined <= config::READ_AHEAD_PIECE;
    if fits {
        if last.capacity() < joined {
            last.reserve_exact((2 * joined).min(config::READ_AHEAD_PIECE) - last.len());
        }
        last.extend_from_slice(data);
    }
    fits
}
