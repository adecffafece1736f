//! How data reach asyncio's own streams without a Python frame: what `data_received` of a
//! `StreamReaderProtocol` and `feed_data` of its `StreamReader` do is done natively.
//!
//! In: a protocol, and the data that came for it. Out: whether they were taken, and who is to be woken. Whenever
//! anything is not as the two classes make it (a subclass, a method replaced, no room, an attribute of another type, a
//! tool that watches Python code), nothing is changed and the caller calls `data_received`. Must never: run Python in a
//! reader's critical section; use outside of it what was seen in it. All that decides is looked at where it is used.

use std::ptr::{self, NonNull};

use crate::py::cpython::names::intern;
use crate::py::cpython::object::{Ref, decref};
use pyo3::ffi;
use pyo3::prelude::*;

use super::stream_layout::{Plain, Streams, is_watched, streams};

/// A reader to which data may be given.
#[derive(Debug)]
pub(crate) struct Feed {
    streams: &'static Streams,
    reader: Ref,
    /// The buffer that it had, to be locked along with it: data go there only if it still has it.
    buffer: Ref,
}

/// Data that a reader has taken.
#[derive(Debug)]
#[must_use = "who waits is to be woken"]
pub(crate) struct Fed {
    /// Who waited for them, to be woken by [`wake`]; the reader has it no more.
    pub(crate) waiter: Option<Ref>,
}

impl Feed {
    /// The reader behind a protocol, if data can be given to it natively.
    #[inline]
    pub(crate) fn of(protocol: &Ref) -> Option<Self> {
        let streams = streams()?;
        // SAFETY: the objects are alive, and we are attached. Counting runs no Python.
        unsafe {
            if is_watched() {
                return None;
            }
            let weak = streams.protocol.look_at(protocol.as_ptr(), |protocol| {
                if !protocol.get(streams.data_received).is_null() {
                    return None;
                }
                let weak = protocol.get(streams.stream_reader_wr);
                let is_weak = !weak.is_null() && ffi::PyWeakref_CheckRefExact(weak) != 0;
                is_weak.then(|| Ref::from_borrowed(weak))
            })?;
            let mut reader = ptr::null_mut();
            ffi::compat::PyWeakref_GetRef(weak.as_ptr(), &raw mut reader);
            let reader = Ref::from_owned(NonNull::new(reader)?);
            let buffer = streams.reader.look_at(reader.as_ptr(), |reader| {
                let buffer = reader.get(streams.buffer);
                let is_known = !buffer.is_null() && ffi::PyByteArray_CheckExact(buffer) != 0;
                is_known.then(|| Ref::from_borrowed(buffer))
            })?;
            Some(Self { streams, reader, buffer })
        }
    }

    /// Adds data to the buffer, and takes who waits for them. `None`: they were not taken, and nothing has
    /// changed. Runs no Python, and drops nothing.
    #[inline]
    pub(crate) fn take(&self, data: &[u8]) -> Option<Fed> {
        let Self { streams, reader, buffer } = self;
        // SAFETY: we hold both, and are attached; no Python runs.
        unsafe {
            streams.reader.look_at_with(reader.as_ptr(), buffer.as_ptr(), |reader| {
                let room = streams.room_of(reader, buffer.as_ptr())?;
                append(buffer.as_ptr(), data, room).then(|| {
                    let is_awaited = !ptr::eq(reader.get(streams.waiter), ffi::Py_None());
                    Fed { waiter: if is_awaited { reader.take(streams.waiter) } else { None } }
                })
            })
        }
    }
}

/// Wakes who waited for data, unless that was cancelled: in the transport's context. A new reference, or null with
/// an exception set.
pub(crate) fn wake(py: Python<'_>, waiter: &Ref) -> *mut ffi::PyObject {
    // SAFETY: the waiter is alive, and we are attached.
    unsafe {
        let cancelled = intern!(py, "cancelled").as_ptr();
        let answer = ffi::PyObject_CallMethodNoArgs(waiter.as_ptr(), cancelled);
        if answer.is_null() || ptr::eq(answer, ffi::Py_True()) {
            return answer;
        }
        decref(answer);
        let set_result = intern!(py, "set_result").as_ptr();
        ffi::PyObject_CallMethodOneArg(waiter.as_ptr(), set_result, ffi::Py_None())
    }
}

/// Adds data to a buffer, unless it then holds more than `room` bytes; whether they were added.
///
/// # Safety
/// `buffer` is a live bytearray, in its critical section, and the thread attached.
#[inline(always)]
unsafe fn append(buffer: *mut ffi::PyObject, data: &[u8], room: usize) -> bool {
    // SAFETY: by the caller's word nobody else changes it. Making it larger runs no Python: at most it sets an
    // exception.
    unsafe {
        let before = ffi::PyByteArray_Size(buffer).unsigned_abs();
        let after = before.saturating_add(data.len());
        if after > room {
            return false;
        }
        if ffi::PyByteArray_Resize(buffer, after.cast_signed()) != 0 {
            // Somebody holds a view of it: `feed_data` says so.
            ffi::PyErr_Clear();
            return false;
        }
        let end = ffi::PyByteArray_AsString(buffer).cast::<u8>().add(before);
        ptr::copy_nonoverlapping(data.as_ptr(), end, data.len());
        true
    }
}

impl Streams {
    /// Bytes that the buffer of a reader may hold before that wants to pause its transport. `None` if the reader has
    /// another buffer, has had its end, or would be fed or woken otherwise than by the methods of its class.
    #[inline(always)]
    fn room_of(&self, reader: &Plain<'_>, buffer: *mut ffi::PyObject) -> Option<usize> {
        let waiter = reader.get(self.waiter);
        let (transport, paused) = (reader.get(self.transport), reader.get(self.paused));
        let limit = reader.get(self.limit);
        // SAFETY: the section keeps what stands in an attribute alive; reading a type or an int runs no Python.
        unsafe {
            let is_known = !waiter.is_null()
                && (ptr::eq(waiter, ffi::Py_None()) || ptr::eq(ffi::Py_TYPE(waiter), self.future))
                && reader.get(self.wakeup_waiter).is_null()
                && reader.get(self.feed_data).is_null()
                && ptr::eq(reader.get(self.eof), ffi::Py_False())
                && ptr::eq(reader.get(self.buffer), buffer)
                && !transport.is_null()
                && !limit.is_null()
                && ffi::PyLong_CheckExact(limit) != 0;
            if !is_known {
                return None;
            }
            if ptr::eq(paused, ffi::Py_True()) || ptr::eq(transport, ffi::Py_None()) {
                return Some(usize::MAX >> 1);
            }
            if !ptr::eq(paused, ffi::Py_False()) {
                return None;
            }
            let limit = ffi::PyLong_AsSsize_t(limit);
            if limit == -1 {
                // Too large, perhaps.
                ffi::PyErr_Clear();
            }
            usize::try_from(limit).ok().map(|limit| limit.saturating_mul(2).min(usize::MAX >> 1))
        }
    }
}
