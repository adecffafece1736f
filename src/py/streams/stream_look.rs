//! What a read of a stream wants, and whether it is there.

use super::reader_state::{Chunk, Received};
use crate::py::cpython::alloc;
use crate::py::cpython::object::Ref;
use crate::py::cpython::payload::Borrowed;
use crate::transport::{Frame, NoSeparator, Separators, look_for_line};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

/// What is wanted of the reader.
pub(crate) enum Kind {
    /// What is there, up to so many bytes.
    Some(usize),
    /// All that comes.
    All,
    Exactly(isize),
    Line,
    /// A line, for `async for`.
    Next,
    /// What ends by one of these.
    Until(Ref),
    /// Nothing: to know that something has come. For the method of that name.
    Wait(Ref),
}

/// How far it has come.
#[derive(Default)]
pub(crate) struct ReadProgress {
    /// Of [`Kind::Until`], once it has begun.
    pub(crate) separators: Option<Box<Separators>>,
    /// Bytes at the beginning of the buffer that have no separator in them.
    pub(crate) searched: usize,
    /// Of [`Kind::All`], what has been taken so far.
    pub(crate) collected: Vec<u8>,
    /// Bytes that were there at the last look, and not enough.
    pub(crate) seen: usize,
    /// It has waited.
    pub(crate) woken: bool,
}

/// What a look into the buffer gives.
pub(crate) enum LookOutcome {
    /// There is not enough.
    Short,
    Whole(Chunk),
    /// A new bytes object, or null with an exception.
    Part(*mut ffi::PyObject),
    /// The end came first: what there was, as `Part`.
    Ended(*mut ffi::PyObject),
    /// The limit was exceeded: `LimitOverrunError`, by how many bytes, and whether a separator was found.
    Overrun(usize, bool),
}

/// Takes out of the buffer what is wanted, if it is there. In the critical section of the reader.
///
/// # Safety
/// The thread is attached.
#[inline]
pub(crate) unsafe fn take(
    kind: &Kind,
    received: &mut Received,
    progress: &mut ReadProgress,
    spent: &mut Option<Chunk>,
) -> LookOutcome {
    let Received { buffer, limit, eof, .. } = received;
    let length = buffer.bytes().len();
    let count = match kind {
        Kind::Some(0) => 0,
        Kind::Some(_) | Kind::All if length == 0 && !*eof => return LookOutcome::Short,
        Kind::Some(count) => length.min(*count),
        Kind::All => length,
        Kind::Exactly(count) if length >= count.unsigned_abs() => count.unsigned_abs(),
        Kind::Exactly(_) if *eof => {
            // SAFETY: by our caller's word.
            return LookOutcome::Ended(unsafe { part(received, length, spent) });
        }
        Kind::Line | Kind::Next | Kind::Until(_) => {
            let searched = &mut progress.searched;
            let frame = match &progress.separators {
                Some(separators) => separators.look(buffer.bytes(), searched, *limit),
                None => look_for_line(buffer.bytes(), searched, *limit),
            };
            match frame {
                Frame::Ends { end, .. } => end,
                Frame::Open if *eof => {
                    // SAFETY: by our caller's word.
                    return LookOutcome::Ended(unsafe { part(received, length, spent) });
                }
                Frame::Open => return LookOutcome::Short,
                Frame::TooLong(start) => {
                    if !matches!(*kind, Kind::Until(_)) {
                        *spent = buffer.advance(start + 1);
                    }
                    return LookOutcome::Overrun(start, true);
                }
                Frame::Endless(searched) => {
                    if !matches!(*kind, Kind::Until(_)) {
                        *spent = buffer.advance(length);
                    }
                    return LookOutcome::Overrun(searched, false);
                }
            }
        }
        Kind::Wait(_) if progress.woken => 0,
        Kind::Exactly(_) | Kind::Wait(_) => return LookOutcome::Short,
    };
    if count > 0
        && let Some(whole) = buffer.take_whole(count)
    {
        return LookOutcome::Whole(whole);
    }
    // SAFETY: by our caller's word.
    LookOutcome::Part(unsafe { part(received, count, spent) })
}

/// A bytes object of the first `count` bytes, which are taken; null with an exception, and then none is.
///
/// # Safety
/// The thread is attached.
#[inline]
unsafe fn part(
    received: &mut Received,
    count: usize,
    spent: &mut Option<Chunk>,
) -> *mut ffi::PyObject {
    let bytes = &received.buffer.bytes()[..count];
    // SAFETY: the memory is valid for its length; making a bytes object runs no Python code.
    let object =
        unsafe { ffi::PyBytes_FromStringAndSize(bytes.as_ptr().cast(), count.cast_signed()) };
    if !object.is_null() {
        *spent = received.buffer.advance(count);
    }
    object
}

/// The separators that `readuntil` was given.
///
/// # Errors
/// `TypeError` for what is no bytes; `ValueError` without any, or with an empty one.
pub(crate) fn separators(given: &Bound<'_, PyAny>) -> PyResult<Separators> {
    let copy = |one: &Bound<'_, PyAny>| -> PyResult<Box<[u8]>> {
        Ok(Borrowed::new(one, false)?.bytes().into())
    };
    let all = match given.cast::<PyTuple>() {
        Ok(several) => several.iter().map(|one| copy(&one)).collect::<PyResult<_>>()?,
        Err(_) => vec![copy(given)?],
    };
    Separators::new(all).map_err(|none| {
        alloc::value_error(
            given.py(),
            match none {
                NoSeparator::Missing => "Separator should contain at least one element",
                NoSeparator::Empty => "Separator should be at least one-byte string",
            },
        )
    })
}
