//! `_add_reader`, `_add_writer` and their removal: asyncio's rules over the reactor's table.

use std::os::fd::RawFd;
use std::sync::Arc;

use pyo3::exceptions::{PyAttributeError, PyOSError, PyOverflowError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyTuple};

use super::alloc;
use super::callback::Callback;
use super::core::LoopCore;
use super::handle::{self, Scheduled};
use super::kept;
use super::names::intern;
use super::object::Ref;
use super::stale;
use super::state::state;
use crate::config;
use crate::error::LoopError;
use crate::event_loop::{Completion, Job};
use crate::id::IoToken;
use crate::pool::Hand;
use crate::reactor::{Direction, IoTable, Ready};
use crate::sync::{Mutex, MutexGuard};
use crate::sys::level_trigger::Watch;
use crate::transport::{Entry, Schedule};

/// Locks a mutex without ever waiting for it attached: the holder may need the collector to finish,
/// and the collector needs us to detach.
pub(super) fn lock_attached<'a, T>(_py: Python<'_>, mutex: &'a Mutex<T>) -> MutexGuard<'a, T> {
    loop {
        if let Some(guard) = mutex.try_lock() {
            return guard;
        }
        // Wait until it is free, and give it back before attaching: a thread that attaches while
        // the interpreter ends never returns.
        // SAFETY: the thread is attached (`py`), and is again before anything else runs.
        unsafe {
            let saved = ffi::PyEval_SaveThread();
            drop(mutex.lock());
            ffi::PyEval_RestoreThread(saved);
        }
    }
}

/// The kernel's error as Python raises it: the subclass of `OSError` for its number, and its text.
pub(super) fn os_error(py: Python<'_>, error: &std::io::Error) -> PyErr {
    let Some(number) = error.raw_os_error() else {
        return alloc::error::<PyOSError>(py, error.to_string());
    };
    let text = py
        .import(intern!(py, "os"))
        .and_then(|os| os.call_method1(intern!(py, "strerror"), (alloc::int(py, number)?,)));
    match text {
        Ok(text) => alloc::os_error(py, number, &text),
        Err(error) => error,
    }
}

impl From<LoopError> for PyErr {
    fn from(error: LoopError) -> Self {
        // SAFETY: an exception is made by an attached thread.
        let py = unsafe { Python::assume_attached() };
        match error {
            LoopError::Closed | LoopError::Running => alloc::runtime_error(py, error.to_string()),
            LoopError::Io(_, error) => os_error(py, &error),
        }
    }
}

/// The callbacks registered for a descriptor, reader first. `None` if it is not registered.
pub(super) fn registered(
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

/// The descriptor of an integer or of an object with `fileno()`, by the rules of `selectors`.
pub(super) fn descriptor(object: &Bound<'_, PyAny>) -> PyResult<RawFd> {
    let py = object.py();
    let invalid = |_| alloc::value_error(py, format!("Invalid file object: {}", repr_of(object)));
    if object.is_instance_of::<PyInt>() {
        return number_of(object);
    }
    let number = object
        .call_method0(intern!(py, "fileno"))
        .and_then(|number| py.get_type::<PyInt>().call1((number,)))
        .map_err(|error| {
            if error.is_instance_of::<PyAttributeError>(py)
                || error.is_instance_of::<PyTypeError>(py)
                || error.is_instance_of::<PyValueError>(py)
            {
                invalid(error)
            } else {
                error
            }
        })?;
    number_of(&number)
}

/// The descriptor of that number.
#[inline]
fn number_of(number: &Bound<'_, PyAny>) -> PyResult<RawFd> {
    match number.extract() {
        Ok(fd @ 0..) => Ok(fd),
        _ => Err(no_descriptor(number)?),
    }
}

/// What is wrong with a number that no descriptor has.
#[cold]
fn no_descriptor(number: &Bound<'_, PyAny>) -> PyResult<PyErr> {
    let py = number.py();
    if number.lt(0)? {
        return Ok(alloc::value_error(py, format!("Invalid file descriptor: {number}")));
    }
    // As the kernel's interface has it: no descriptor has such a number.
    let text = format!("descriptor {number} is greater than the maximum");
    Ok(alloc::error::<PyOverflowError>(py, text))
}

fn repr_of(object: &Bound<'_, PyAny>) -> String {
    object.repr().map_or_else(|_| "<unrepresentable>".to_owned(), |repr| repr.to_string())
}

impl LoopCore {
    fn watch(&self, fd: RawFd, token: IoToken, old: Watch, new: Watch) -> std::io::Result<()> {
        self.event_loop
            .shared()
            .with_handle(|handle| handle.watch(fd, token, old, new))
            .unwrap_or_else(|_| Err(std::io::Error::from_raw_os_error(libc::EBADF)))
    }

    /// As [`watch`](Self::watch), but if `quiet` the kernel is not told that nothing is watched any
    /// more: the number is that of another registration.
    fn watch_unless(
        &self,
        quiet: bool,
        fd: RawFd,
        token: IoToken,
        old: Watch,
        new: Watch,
    ) -> std::io::Result<()> {
        if quiet && new.is_none() { Ok(()) } else { self.watch(fd, token, old, new) }
    }
}

/// Watches a descriptor, replaces and cancels an earlier callback, and returns the handle.
///
/// # Errors
/// `ValueError` for what is no descriptor; `OSError` of the kernel, `PermissionError` for a file.
pub(super) fn add<'py>(
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
pub(super) fn register(
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
pub(super) fn forget(
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
pub(super) fn remove(
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

fn make_handle<'py>(
    slf: &Bound<'py, LoopCore>,
    callback: &Bound<'py, PyAny>,
    args: &Bound<'py, PyTuple>,
    context: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = slf.py();
    if slf.get().is_debug() {
        let handle_type = state().handle_type.cast::<ffi::PyObject>();
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
    let handle = unsafe { handle::new_plain(py, slf.as_ptr(), scheduled)? };
    Ok(handle.as_py().bind(py).clone())
}

/// A copy of the current context.
#[inline(always)]
pub(super) fn copy_context(py: Python<'_>) -> PyResult<Ref> {
    // SAFETY: attached (`py`); the result is a new reference or null with an exception.
    unsafe { Ref::from_owned_or_err(py, ffi::PyContext_CopyCurrent()) }
}

fn cancel(core: &LoopCore, py: Python<'_>, callback: &Callback) -> PyResult<()> {
    if let Some(object) = callback.objects().next() {
        // SAFETY: a live object; once it is known to be a plain handle, its slots are those of one.
        unsafe {
            if std::ptr::eq(ffi::Py_TYPE(object.as_ptr()), state().handle_type) && !core.is_debug()
            {
                drop(handle::mark_cancelled(object.as_ptr()));
                return Ok(());
            }
        }
        object.call_method0(py, intern!(py, "cancel"))?;
    }
    Ok(())
}

/// What a poll has made ready.
pub(super) enum Found {
    /// A callback of `add_reader` or `add_writer`, which is reported again until it has run.
    Level(Callback),
    /// A transport, which is not.
    Edge(Callback),
}

/// The callbacks and transports that wait for what the kernel reported. A callback that was
/// cancelled without being removed is removed here, as asyncio does, or its level would be reported
/// for ever.
pub(super) fn collect(
    py: Python<'_>,
    core: &LoopCore,
    found: &[Ready],
    mut ready: impl FnMut(Found),
) {
    let is_source = |event: &&Ready| event.token.is_source();
    let transports = found.iter().filter(is_source).count();
    if transports > 0 {
        let mut sources = lock_attached(py, &core.event_loop.shared().sources);
        for event in found.iter().filter(is_source) {
            if let Some((entry, Schedule::Needed)) = sources.ready(*event)
                && let Some(callback) = entry_of(py, entry)
            {
                ready(Found::Edge(callback));
            }
        }
    }
    if transports < found.len() {
        collect_levels(py, core, found, ready);
    }
}

/// Offers the other threads of the pool what the loop will get to last of what a poll has found, if
/// one of them sleeps.
pub(super) fn offer(py: Python<'_>, core: &LoopCore, hand: &Hand, found: &[Ready]) {
    if !hand.team().steals() || !hand.team().has_sleeper() {
        return;
    }
    let shared = core.event_loop.shared();
    let mut jobs = Vec::with_capacity(found.len());
    {
        let sources = lock_attached(py, &shared.sources);
        // Thieves take the oldest job first, so the last event comes first.
        for event in found[config::BEHIND / 2..].iter().rev() {
            if let Some(entry) = sources.get(event.token) {
                let source = Arc::clone(&entry.source);
                jobs.push(Job { owner: Arc::clone(shared), token: event.token, source });
            }
        }
    }
    hand.offer(jobs.into_iter());
}

/// The queue entry of a transport, unless nobody keeps it any more.
fn entry_of(py: Python<'_>, entry: &Entry) -> Option<Callback> {
    // SAFETY: the table holds the reference, and our caller the table.
    unsafe { kept::object(py, entry.cookie) }.map(Callback::from_native)
}

fn collect_levels(py: Python<'_>, core: &LoopCore, found: &[Ready], mut ready: impl FnMut(Found)) {
    let mut cancelled = Vec::new();
    let io = lock_attached(py, &core.event_loop.io);
    for event in found.iter().filter(|event| !event.token.is_source()) {
        io.collect(*event, |direction, callback| {
            if callback.is_cancelled(py) {
                cancelled.push((event.token, direction));
            } else {
                ready(Found::Level(callback.clone_ref(py)));
            }
        });
    }
    if !cancelled.is_empty() {
        remove_cancelled(core, io, &cancelled);
    }
}

#[cold]
fn remove_cancelled(
    core: &LoopCore,
    mut io: MutexGuard<'_, IoTable<Callback>>,
    cancelled: &[(IoToken, Direction)],
) {
    let mut removed = Vec::new();
    for (token, direction) in cancelled {
        if let Some(fd) = io.descriptor(*token) {
            removed
                .push(io.remove(fd, *direction, |token, old, new| core.watch(fd, token, old, new)));
        }
    }
    drop(io);
    drop(removed);
}

/// What other threads have done for the loop's transports.
pub(super) fn collect_completions(
    py: Python<'_>,
    core: &LoopCore,
    mut ready: impl FnMut(Callback),
) {
    let shared = core.event_loop.shared();
    if !shared.has_completions() {
        return;
    }
    for completion in shared.drain_completions() {
        let sources = lock_attached(py, &shared.sources);
        match completion {
            Completion::Turn(token) => {
                if let Some(callback) = sources.get(token).and_then(|entry| entry_of(py, entry)) {
                    ready(callback);
                }
            }
            Completion::Accepted(token, connection) => {
                shared.metrics.arriving.sub_shared(1);
                let (unwanted, callback) = match sources.get(token) {
                    None => (Some(connection), None),
                    Some(entry) => match entry.source.arrived(connection) {
                        Ok(Schedule::Needed) => (None, entry_of(py, entry)),
                        Ok(Schedule::Unneeded) => (None, None),
                        Err(connection) => (Some(connection), None),
                    },
                };
                drop(sources);
                drop(unwanted); // it may take long
                if let Some(callback) = callback {
                    ready(callback);
                }
            }
        }
    }
}
