//! Data read before the owner asked for them, bounded in memory.
//!
//! Data arrive in chunks. Short chunks of a stream are joined, and each counts for more than its bytes, so
//! that the bound applies to memory whatever the peer sends. Nothing is stored after the end or an error.

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

impl Piece for Ahead {
    fn len(&self) -> usize {
        if let Self::Data(data) = self { data.len() } else { 0 }
    }

    /// There is no room behind what comes last.
    fn overhead(&self) -> usize {
        match self {
            Self::Data(_) => config::READ_AHEAD_OVERHEAD,
            Self::End | Self::Failed(_) => config::READ_AHEAD,
        }
    }
}

/// A part of what was read ahead.
pub(super) trait Piece {
    /// Its bytes.
    fn len(&self) -> usize;

    /// What it counts for besides its bytes.
    fn overhead(&self) -> usize;
}

/// What was read ahead of one transport.
#[derive(Debug)]
pub(super) struct ReadAhead<P> {
    /// Locked for a few instructions. In a box, as few transports ever have any.
    #[allow(clippy::box_collection, reason = "a third of an empty queue's size")]
    pieces: Mutex<Option<Box<VecDeque<P>>>>,
    bytes: AtomicUsize,
    /// What the pieces count for besides their bytes.
    overhead: AtomicUsize,
}

impl<P: Piece> ReadAhead<P> {
    /// With nothing.
    pub(super) fn new() -> Self {
        let (bytes, overhead) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { pieces: Mutex::new(None), bytes, overhead }
    }

    /// Takes all of it, oldest first. Owner only.
    pub(super) fn take(&self, state: &State) -> VecDeque<P> {
        let mut pieces = self.pieces.lock();
        self.set(0, 0);
        state.taken_ahead();
        pieces.take().map_or_else(VecDeque::new, |pieces| *pieces)
    }

    /// Puts back what could not be delivered. Owner only.
    pub(super) fn put_back(&self, mut left: VecDeque<P>, state: &State) {
        let mut pieces = self.pieces.lock();
        if let Some(pieces) = &mut *pieces {
            left.append(pieces);
        }
        self.set(left.iter().map(P::len).sum(), left.iter().map(P::overhead).sum());
        *pieces = Some(Box::new(left));
        state.set_ahead();
    }

    /// Adds a piece.
    pub(super) fn push(&self, _: &ReadClaim<'_>, piece: P, state: &State) {
        let mut pieces = self.pieces.lock();
        state.set_ahead();
        self.set(self.bytes() + piece.len(), self.overhead() + piece.overhead());
        pieces.get_or_insert_default().push_back(piece);
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

    /// What the pieces count for besides their bytes. Any thread.
    pub(super) fn overhead(&self) -> usize {
        self.overhead.load(Relaxed)
    }
}

impl ReadAhead<Ahead> {
    /// Adds bytes, to the last piece if that is short.
    pub(super) fn push_data(&self, claim: &ReadClaim<'_>, data: &[u8], state: &State) {
        if let Some(pieces) = &mut *self.pieces.lock()
            && let Some(Ahead::Data(last)) = pieces.back_mut()
            && join(last, data)
        {
            return self.set(self.bytes() + data.len(), self.overhead());
        }
        self.push(claim, Ahead::Data(data.to_vec()), state);
    }

    /// How many bytes may still be read ahead. Any thread.
    pub(super) fn room(&self) -> usize {
        config::READ_AHEAD.saturating_sub(self.bytes() + self.overhead())
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
