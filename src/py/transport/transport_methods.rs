//! The methods that a program calls on transports of every kind: plain C methods, added to the
//! classes of `python/loop_pool/_loop/transports.py` and its like as `hot` adds the loop's.

use std::sync::Arc;

use pyo3::PyClass;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::pyclass::boolean_struct::True;
use pyo3::types::PyBytes;

use super::layout::{cast, core_of, loop_of};
use super::transport_core::{self, NativeTransport, schedule};
use crate::event_loop::Job;
use crate::py::cpython::alloc;
use crate::py::cpython::cfunc::{method_def, raise};
use crate::py::cpython::error::{both, os_error};
use crate::py::cpython::names::intern;
use crate::py::event_loop::affinity::is_here;
use crate::py::event_loop::core::LoopCore;
use crate::transport::{Port, Source};

/// `is_closing`, of transports whose native half is a `C`.
pub(crate) fn common<C: NativeTransport + PyClass<Frozen = True> + Sync>() -> Vec<ffi::PyMethodDef>
{
    vec![method_def(
        c"is_closing",
        is_closing::<C>,
        c"is_closing($self, /)\n--\n\nWhether the transport is closing or closed. Any thread.",
    )]
}

/// The methods of those that receive.
pub(crate) fn reading<C: NativeTransport + PyClass<Frozen = True> + Sync>() -> Vec<ffi::PyMethodDef>
{
    vec![
        method_def(
            c"is_reading",
            is_reading::<C>,
            c"is_reading($self, /)\n--\n\nWhether it is receiving. Any thread.",
        ),
        method_def(
            c"pause_reading",
            pause_reading::<C>,
            c"pause_reading($self, /)\n--\n\nDeliver nothing until resume_reading() is called.",
        ),
        method_def(
            c"resume_reading",
            resume_reading::<C>,
            c"resume_reading($self, /)\n--\n\nUndo pause_reading(); what was read ahead of the \
              pause is delivered first.",
        ),
    ]
}

/// `get_write_buffer_size`, of those that are written to.
pub(crate) fn writing<C: NativeTransport + PyClass<Frozen = True> + Sync>() -> ffi::PyMethodDef {
    method_def(
        c"get_write_buffer_size",
        get_write_buffer_size::<C>,
        c"get_write_buffer_size($self, /)\n--\n\nReturn the bytes queued. Any thread.",
    )
}

/// Runs the body of a method with its transport's native half.
///
/// # Safety
/// `slf` is a live instance of a class that was given the methods for `C`, as the descriptor has
/// checked.
#[inline(always)]
pub(crate) unsafe fn enter<C: PyClass<Frozen = True> + Sync>(
    slf: *mut ffi::PyObject,
    body: impl FnOnce(Python<'_>, &C) -> PyResult<*mut ffi::PyObject>,
) -> *mut ffi::PyObject {
    // SAFETY: handed on to our caller.
    raise(|py| unsafe { body(py, cast(core_of(slf)?)) })
}

pub(crate) fn none() -> *mut ffi::PyObject {
    // SAFETY: immortal.
    unsafe { ffi::Py_None() }
}

pub(super) fn boolean(value: bool) -> *mut ffi::PyObject {
    // SAFETY: immortal.
    unsafe { if value { ffi::Py_True() } else { ffi::Py_False() } }
}

/// Hands on a call that the calling thread may not make itself, as it does not own the loop: it is
/// posted to the loop's thread, made here after all if nobody runs the loop, or refused in debug mode.
#[cold]
pub(crate) fn elsewhere(
    py: Python<'_>,
    slf: *mut ffi::PyObject,
    method: &str,
    arguments: &[&Bound<'_, PyAny>],
) -> PyResult<*mut ffi::PyObject> {
    // SAFETY: `slf` is alive during the call.
    let transport = unsafe { Bound::from_borrowed_ptr(py, slf) };
    let method = alloc::text(py, method)?.into_any();
    let all: Vec<_> = std::iter::once(&method).chain(arguments.iter().copied()).collect();
    transport.call_method1(intern!(py, "_elsewhere"), alloc::tuple_of(py, &all)?)?;
    Ok(none())
}

unsafe extern "C" fn is_closing<C: NativeTransport + PyClass<Frozen = True> + Sync>(
    slf: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the descriptor has checked the type.
    unsafe { enter(slf, |_, core: &C| Ok(boolean(core.link().ending().is_closing()))) }
}

unsafe extern "C" fn is_reading<C: NativeTransport + PyClass<Frozen = True> + Sync>(
    slf: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the descriptor has checked the type.
    unsafe { enter(slf, |_, core: &C| Ok(boolean(core.link().is_reading()))) }
}

unsafe extern "C" fn get_write_buffer_size<C: NativeTransport + PyClass<Frozen = True> + Sync>(
    slf: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the descriptor has checked the type; a size fits.
    unsafe { enter(slf, |_, core: &C| Ok(ffi::PyLong_FromSize_t(core.link().queued()))) }
}

unsafe extern "C" fn pause_reading<C: NativeTransport + PyClass<Frozen = True> + Sync>(
    slf: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the descriptor has checked the type.
    unsafe {
        enter(slf, |py, core: &C| {
            let loop_ = loop_of(py, slf);
            if !is_here(loop_.get()) {
                return elsewhere(py, slf, "pause_reading", &[]);
            }
            if core.link().is_reading() {
                core.link().state().pause();
                transport_core::keep_as_needed(core, loop_, &Bound::from_borrowed_ptr(py, slf))?;
                if loop_.get().flags.is_debug() {
                    Bound::from_borrowed_ptr(py, slf)
                        .call_method1(intern!(py, "_log"), (intern!(py, "%r pauses reading"),))?;
                }
            }
            Ok(none())
        })
    }
}

unsafe extern "C" fn resume_reading<C: NativeTransport + PyClass<Frozen = True> + Sync>(
    slf: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the descriptor has checked the type.
    unsafe {
        enter(slf, |py, core: &C| {
            let loop_ = loop_of(py, slf);
            if !is_here(loop_.get()) {
                return elsewhere(py, slf, "resume_reading", &[]);
            }
            let (link, state) = (core.link(), core.link().state());
            if !link.ending().is_closing() && state.bits().is_paused() {
                schedule(loop_, slf, link, state.resume());
                transport_core::keep_as_needed(core, loop_, &Bound::from_borrowed_ptr(py, slf))?;
                if link.is_unwatched() {
                    return Err(os_error(py, &std::io::Error::from_raw_os_error(libc::EPERM)));
                }
                if loop_.get().flags.is_debug() {
                    Bound::from_borrowed_ptr(py, slf)
                        .call_method1(intern!(py, "_log"), (intern!(py, "%r resumes reading"),))?;
                }
            }
            Ok(none())
        })
    }
}

/// Goes on after something was queued: tells the protocol to pause if it is too much.
pub(crate) fn pause_if_above(
    loop_: &Bound<'_, LoopCore>,
    transport: &Bound<'_, PyAny>,
    core: &impl NativeTransport,
) -> PyResult<()> {
    let py = transport.py();
    let kept = transport_core::keep_as_needed(core, loop_, transport);
    if core.link().pauses() {
        let paused = transport.call_method0(intern!(py, "_pause_protocol"));
        return both(py, kept, paused.map(drop));
    }
    kept
}

/// Offers an idle thread to write what was just queued: more callbacks wait than the loop gets to
/// soon. What nobody takes is written when they have run.
pub(crate) fn leave_to_helper<P: Port + 'static>(
    loop_: &Bound<'_, LoopCore>,
    slf: *mut ffi::PyObject,
    port: &Arc<P>,
) {
    let Some(token) = port.link().token() else { return };
    let source: Arc<dyn Source> = port.clone();
    let owner = Arc::clone(loop_.get().event_loop.shared());
    transport_core::note_work(loop_, token);
    if !crate::py::event_loop::offers::offer_one(loop_.get(), Job { owner, token, source }) {
        schedule(loop_, slf, port.link(), port.link().state().end_turn());
    }
}

/// The data as bytes that nobody can change.
pub(crate) fn copy_of<'py>(
    py: Python<'py>,
    data: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    py.get_type::<PyBytes>().call1((data,))
}
