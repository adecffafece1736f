//! asyncio's handles as facts: their classes, where each keeps what, and what our native subclasses add.
//!
//! In: the classes, at import. Out: pointers to types, and offsets in bytes from the start of an object.
//! Must never: touch an instance.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyModule, PyType};

use crate::py::cpython::names::intern;
use crate::py::cpython::slots::{all_slots, slot_offset};

/// A native subclass of one of asyncio's handles.
pub(crate) struct NativeHandle<'py> {
    pub(crate) class: Bound<'py, PyAny>,
    /// Where an instance keeps what is ours, in bytes from its start.
    pub(crate) data: usize,
    /// Where it keeps the word for its weak references.
    pub(crate) weak: isize,
}

/// `asyncio.Handle`: what every handle has.
#[derive(Debug)]
pub(crate) struct HandleFacts {
    pub(crate) class: *mut ffi::PyTypeObject,
    pub(crate) callback: usize,
    pub(crate) args: usize,
    pub(crate) cancelled: usize,
    pub(crate) loop_: usize,
    pub(crate) source_traceback: usize,
    pub(crate) repr: usize,
    pub(crate) context: usize,
    /// The word that leads to the weak references of an instance of our subclasses; it may stand before
    /// the object.
    pub(crate) weak: isize,
}

/// Our subclass of `asyncio.Handle`.
#[derive(Debug)]
pub(crate) struct SoonFacts {
    pub(crate) class: *mut ffi::PyTypeObject,
    /// All slots that hold references.
    pub(crate) slots: [usize; 7],
    /// What is ours.
    pub(crate) data: usize,
}

/// Our subclass of `asyncio.TimerHandle`.
#[derive(Debug)]
pub(crate) struct TimerFacts {
    pub(crate) class: *mut ffi::PyTypeObject,
    pub(crate) when: usize,
    pub(crate) scheduled: usize,
    /// All slots that hold references, those of `asyncio.Handle` among them.
    pub(crate) slots: Box<[usize]>,
    /// What is ours.
    pub(crate) data: usize,
}

/// Our subclass of `asyncio.events._ThreadSafeHandle`.
#[derive(Debug)]
pub(crate) struct ThreadsafeFacts {
    pub(crate) class: *mut ffi::PyTypeObject,
    /// All slots that hold references.
    pub(crate) slots: Box<[usize]>,
    /// What is ours.
    pub(crate) data: usize,
}

/// All of them.
pub(super) fn learn(
    events: &Bound<'_, PyModule>,
    soon: NativeHandle<'_>,
    timer: NativeHandle<'_>,
    threadsafe: NativeHandle<'_>,
) -> PyResult<(HandleFacts, SoonFacts, TimerFacts, ThreadsafeFacts)> {
    let py = events.py();
    let plain_class = events.getattr(intern!(py, "Handle"))?.cast_into::<PyType>()?;
    let timer_class = events.getattr(intern!(py, "TimerHandle"))?.cast_into::<PyType>()?;
    let threadsafe_class =
        events.getattr(intern!(py, "_ThreadSafeHandle"))?.cast_into::<PyType>()?;
    Ok((
        HandleFacts {
            callback: slot_offset(&plain_class, "_callback")?,
            args: slot_offset(&plain_class, "_args")?,
            cancelled: slot_offset(&plain_class, "_cancelled")?,
            loop_: slot_offset(&plain_class, "_loop")?,
            source_traceback: slot_offset(&plain_class, "_source_traceback")?,
            repr: slot_offset(&plain_class, "_repr")?,
            context: slot_offset(&plain_class, "_context")?,
            weak: timer.weak,
            class: plain_class.clone().into_ptr().cast(),
        },
        SoonFacts {
            slots: all_slots(&plain_class)?.as_ref().try_into()?,
            data: soon.data,
            class: soon.class.into_ptr().cast(),
        },
        TimerFacts {
            when: slot_offset(&timer_class, "_when")?,
            scheduled: slot_offset(&timer_class, "_scheduled")?,
            slots: all_slots(&timer_class)?,
            data: timer.data,
            class: timer.class.into_ptr().cast(),
        },
        ThreadsafeFacts {
            slots: all_slots(&threadsafe_class)?,
            data: threadsafe.data,
            class: threadsafe.class.into_ptr().cast(),
        },
    ))
}
