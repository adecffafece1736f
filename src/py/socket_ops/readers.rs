//! `_add_reader`, `_add_writer` and their removal: asyncio's rules on the reactor's table.

use std::os::fd::RawFd;

use pyo3::exceptions::PyOverflowError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyTuple};

use super::stale;
use crate::py::asyncio::handle::{self, Scheduled};
use crate::py::asyncio::state::state;
use crate::py::cpython::attach::lock_attached;
use crate::py::cpython::context::copy_context;
use crate::py::cpython::descriptor::descriptor;
use crate::py::cpython::error::os_error;
use crate::py::cpython::names::intern;
use crate::py::event_loop::callback::Callback;
use crate::py::event_loop::core::LoopCore;
use crate::reactor::Direction;

/// The callbacks registered for a descriptor, reader first. `None` if it is not registered.
pub(crate) fn registered(
    slf: &Bound<'_, LoopCore>,
    source: &Bound<'_, PyAny>,
) -> PyResult<Option<[Option<Py<PyAny>>; 2]>> {
    let py = slf.py();
    let fd = descriptor(source)?;
    let io = lock_attached(py, &slf.get().event_loop.io);
    Ok(io.get(fd).map(|sides| {
        sides.map(|side| side.and_then(|callback| Some(callback.objects().next()?.clone_ref(py))))
    }))
}

/// Watches a descriptor, replaces and cancels an earlier callback, and returns the handle.
///
/// # Errors
/// `ValueError` for what is no descriptor; `OSError` of the kernel, `PermissionError` for a file.
pub(crate) fn add<'py>(
    slf: &Bound<'py, LoopCore>,
    direction: Direction,
    source: &Bound<'py, PyAny>,
    callback: &Bound<'py, PyAny>,
    args: &Bound<'py, PyTuple>,
    context: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    slf.get().check_open()?;
    let fd = descriptor(source)?;
    let handle = make_handle(slf, callback, args, context)?;
    let kept = Callback::from_handle(handle.clone().into());
    let source =
        (!source.is_instance_of::<PyInt>()).then(|| Callback::from_handle(source.clone().into()));
    register(slf, direction, fd, kept, source)?;
    Ok(handle)
}

/// Puts a callback into the table; an earlier one is replaced and cancelled.
///
/// # Errors
/// `RuntimeError` if the loop is closed; `OSError` of the kernel.
pub(crate) fn register(
    slf: &Bound<'_, LoopCore>,
    direction: Direction,
    fd: RawFd,
    callback: Callback,
    source: Option<Callback>,
) -> PyResult<()> {
    let py = slf.py();
    let core = slf.get();
    core.check_open()?;
    let result = {
        let mut io = lock_attached(py, &core.event_loop.io);
        let arm = |token, old, new| core.watch(fd, token, old, new);
        let new = io.place(fd);
        if new.is_some() {
            io.set_at(new, direction, callback, source, arm)
        } else {
            drop(io);
            stale::displace(slf, fd)?;
            io = lock_attached(py, &core.event_loop.io);
            io.set(fd, direction, callback, source, arm)
        }
    };
    match result {
        Ok(displaced) => displaced.callback.as_ref().map_or(Ok(()), |old| cancel(core, py, old)),
        Err((error, ..)) => Err(os_error(py, &error)),
    }
}

/// Takes a native object out of the table, if it is what stands there. It is not told. `holds`: whether
/// the number is still that of its descriptor.
///
/// # Errors
/// `OSError` of the kernel, other than that it has forgotten the descriptor.
pub(crate) fn forget(
    slf: &Bound<'_, LoopCore>,
    direction: Direction,
    fd: RawFd,
    object: &Bound<'_, PyAny>,
    holds: bool,
) -> PyResult<()> {
    let py = slf.py();
    let core = slf.get();
    if core.event_loop.is_closed() {
        return Ok(());
    }
    let taken = {
        let mut io = lock_attached(py, &core.event_loop.io);
        let found = io.get(fd).and_then(|sides| sides[direction as usize]);
        if !found.is_some_and(|found| std::ptr::eq(found.handle(), object.as_ptr())) {
            return Ok(());
        }
        let quiet = !holds && stale::is_transports(py, core, fd);
        io.remove(fd, direction, |token, old, new| core.watch_unless(quiet, fd, token, old, new))
    };
    match taken {
        Some((_, Err(error))) => Err(os_error(py, &error)),
        _ => Ok(()),
    }
}

/// Cancels the callback of a descriptor and says whether there was one.
///
/// # Errors
/// `OSError` of the kernel, other than that it has forgotten the descriptor.
pub(crate) fn remove(
    slf: &Bound<'_, LoopCore>,
    direction: Direction,
    source: &Bound<'_, PyAny>,
) -> PyResult<bool> {
    let py = slf.py();
    let core = slf.get();
    if core.event_loop.is_closed() {
        return Ok(false);
    }
    let (fd, holds) = match descriptor(source) {
        Ok(fd) => (fd, true),
        Err(error) if error.is_instance_of::<PyOverflowError>(py) => return Ok(false),
        // A closed object does not know its descriptor any more: find what was registered for it.
        Err(error) => {
            let found = lock_attached(py, &core.event_loop.io)
                .find_source(|known| std::ptr::eq(known.handle(), source.as_ptr()));
            match found {
                Some(fd) => (fd, false),
                None => return Err(error),
            }
        }
    };
    let taken = {
        let mut io = lock_attached(py, &core.event_loop.io);
        let quiet = !holds && stale::is_transports(py, core, fd);
        io.remove(fd, direction, |token, old, new| core.watch_unless(quiet, fd, token, old, new))
    };
    let Some((displaced, told)) = taken else { return Ok(false) };
    if let Some(old) = &displaced.callback {
        cancel(core, py, old)?;
    }
    told.map_err(|error| os_error(py, &error))?;
    Ok(true)
}

pub(crate) fn make_handle<'py>(
    slf: &Bound<'py, LoopCore>,
    callback: &Bound<'py, PyAny>,
    args: &Bound<'py, PyTuple>,
    context: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = slf.py();
    if slf.get().flags.is_debug() {
        let handle_type = state().soon.class.cast::<ffi::PyObject>();
        // SAFETY: the class lives as long as the process.
        let class = unsafe { Bound::from_borrowed_ptr(py, handle_type) };
        return class.call1((callback, args, slf, context));
    }
    let scheduled = Scheduled {
        callback: callback.clone().into(),
        args: args.clone().into_any().into(),
        context: match context {
            Some(context) => context.clone().into(),
            None => copy_context(py)?,
        },
    };
    // SAFETY: the loop is alive and the references are real.
    let handle = unsafe { handle::new_soon(py, slf.as_ptr(), scheduled, false)? };
    Ok(handle.as_py().bind(py).clone())
}

pub(crate) fn cancel(core: &LoopCore, py: Python<'_>, callback: &Callback) -> PyResult<()> {
    if let Some(object) = callback.objects().next() {
        // SAFETY: a live object; once it is known to be a plain handle, its slots are those of one.
        unsafe {
            if std::ptr::eq(ffi::Py_TYPE(object.as_ptr()), state().soon.class)
                && !core.flags.is_debug()
            {
                drop(handle::mark_cancelled(object.as_ptr()));
                return Ok(());
            }
        }
        object.call_method0(py, intern!(py, "cancel"))?;
    }
    Ok(())
}
