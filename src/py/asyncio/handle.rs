//! asyncio's handles, created without running Python.
//!
//! They are instances of native subclasses of asyncio's, whose slots are filled here: see `handle_types`.
//!
//! Slots are read and written as in CPython's free-threaded build: in the object's critical section, or
//! before the object is shared.

use std::mem::ManuallyDrop;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use pyo3::ffi;
use pyo3::prelude::*;

use super::state::{State, state};
use crate::py::cpython::alloc;
use crate::py::cpython::context::{copy_of, new_context};
use crate::py::cpython::names::intern;
use crate::py::cpython::object::{Ref, incref, is_unique, is_unique_shared};
use crate::py::cpython::slots::{in_critical_section, slot};

/// What a handle is to run.
pub(crate) struct Scheduled {
    pub(crate) callback: Ref,
    pub(crate) args: Ref,
    pub(crate) context: Ref,
}

/// Makes a handle of `kind` and fills its base slots.
///
/// # Safety
/// The thread is attached; `kind` is one of our subclasses; `loop_` is a live object.
#[inline(always)]
unsafe fn new_handle(
    py: Python<'_>,
    state: &State,
    kind: *mut ffi::PyTypeObject,
    loop_: *mut ffi::PyObject,
    scheduled: Scheduled,
) -> PyResult<Ref> {
    // SAFETY: the new object is ours alone until it is returned; the allocator zeroed its slots.
    unsafe {
        let object = ffi::PyType_GenericAlloc(kind, 0);
        let Some(handle) = NonNull::new(object) else { return Err(alloc::raised(py)) };
        let layout = &state.handle;
        *slot(object, layout.callback) = scheduled.callback.into_ptr();
        *slot(object, layout.args) = scheduled.args.into_ptr();
        *slot(object, layout.context) = scheduled.context.into_ptr();
        incref(loop_);
        *slot(object, layout.loop_) = loop_;
        // `None` and `False` are immortal and need not be counted.
        *slot(object, layout.cancelled) = ffi::Py_False();
        *slot(object, layout.source_traceback) = ffi::Py_None();
        *slot(object, layout.repr) = ffi::Py_None();
        Ok(Ref::from_owned(handle))
    }
}

/// A handle for `call_soon`. `shares_context`: see [`set_shares_context`].
///
/// # Safety
/// As for [`new_handle`].
#[inline(always)]
pub(crate) unsafe fn new_soon(
    py: Python<'_>,
    loop_: *mut ffi::PyObject,
    scheduled: Scheduled,
    shares_context: bool,
) -> PyResult<Ref> {
    let state = state();
    // SAFETY: handed on to our caller; the new object is still ours alone.
    unsafe {
        let handle = new_handle(py, state, state.soon.class, loop_, scheduled)?;
        set_shares_context(handle.as_ptr(), shares_context);
        Ok(handle)
    }
}

/// The word that says whether the context of a handle is also that of others. Accessed as the slots are.
///
/// # Safety
/// `handle` is a live instance of our type for `call_soon`.
#[inline(always)]
unsafe fn sharing(handle: *mut ffi::PyObject) -> *mut usize {
    // SAFETY: the type reserved the word.
    unsafe { handle.byte_add(state().soon.data).cast() }
}

/// Says whether the context of a handle is a copy that others have, too: nobody has entered it, nobody
/// may, and nobody but us may see it. What stands for a context without variables is so in any handle.
///
/// # Safety
/// `handle` is a live instance of our type for `call_soon`, and the caller's alone; `shares` says what is
/// so.
#[inline(always)]
pub(crate) unsafe fn set_shares_context(handle: *mut ffi::PyObject, shares: bool) {
    // SAFETY: handed on to our caller.
    unsafe { *sharing(handle) = usize::from(shares) }
}

/// Whether it is so: see [`set_shares_context`].
///
/// # Safety
/// `handle` is a live instance of our type for `call_soon`, and the caller's alone.
#[inline(always)]
pub(crate) unsafe fn shares_context(handle: *mut ffi::PyObject) -> bool {
    // SAFETY: handed on to our caller.
    unsafe { *sharing(handle) != 0 }
}

/// Whether a handle is of our type for `call_soon`.
///
/// # Safety
/// It is alive.
#[inline(always)]
unsafe fn is_soon(handle: *mut ffi::PyObject) -> bool {
    // SAFETY: by our caller's word.
    unsafe { ptr::eq(ffi::Py_TYPE(handle), state().soon.class) }
}

/// Lets a handle whose slots are empty share its context again, which it is given back by [`put_back`].
///
/// # Safety
/// `handle` is alive, an instance of `asyncio.Handle`, and the caller's alone.
#[cold]
pub(crate) unsafe fn share_again(handle: *mut ffi::PyObject) {
    // SAFETY: handed on to our caller; the type is checked.
    unsafe {
        if is_soon(handle) {
            set_shares_context(handle, true);
        }
    }
}

/// Gives a handle a context of its own, if it shares one.
///
/// # Errors
/// `MemoryError`.
///
/// # Safety
/// `handle` is alive and an instance of `asyncio.Handle`; the thread is attached.
pub(crate) unsafe fn own_context(py: Python<'_>, handle: *mut ffi::PyObject) -> PyResult<()> {
    // SAFETY: copying a context that nobody changes runs no Python.
    let shared = unsafe {
        in_critical_section(handle, || {
            let context = slot(handle, state().handle.context);
            let Some(shared) = NonNull::new(*context) else { return Ok::<_, PyErr>(None) };
            let is_empty = stands_for_empty(shared.as_ptr());
            let has_others = is_empty || (is_soon(handle) && shares_context(handle));
            if !has_others {
                return Ok(None);
            }
            let shared = ManuallyDrop::new(Ref::from_owned(shared));
            let own = if is_empty { new_context(py) } else { copy_of(py, &shared) }?;
            *context = own.into_ptr();
            if is_soon(handle) {
                set_shares_context(handle, false);
            }
            Ok(Some(ManuallyDrop::into_inner(shared)))
        })?
    };
    drop(shared);
    Ok(())
}

/// Whether that stands for a context without variables.
#[inline(always)]
pub(crate) fn stands_for_empty(context: *mut ffi::PyObject) -> bool {
    state().context.as_ref().is_some_and(|facts| facts.is_empty(context))
}

/// Replaces the context of a handle; null: there is none. Returns what was there.
///
/// # Safety
/// `handle` is alive and an instance of `asyncio.Handle`; `context` is a strong reference which the
/// caller gives away, or null; the thread is attached.
pub(crate) unsafe fn replace_context(
    handle: *mut ffi::PyObject,
    context: *mut ffi::PyObject,
) -> Option<Ref> {
    // SAFETY: swapping a slot runs no Python; the reference taken out is ours.
    unsafe {
        let old = in_critical_section(handle, || {
            if is_soon(handle) {
                set_shares_context(handle, false);
            }
            ptr::replace(slot(handle, state().handle.context), context)
        });
        NonNull::new(old).map(|old| Ref::from_owned(old))
    }
}

/// The context of a handle.
///
/// # Errors
/// `MemoryError`.
///
/// # Safety
/// As for [`own_context`].
pub(crate) unsafe fn context(py: Python<'_>, handle: *mut ffi::PyObject) -> PyResult<Option<Ref>> {
    // SAFETY: handed on to our caller; what is counted is in the slot.
    unsafe {
        own_context(py, handle)?;
        Ok(in_critical_section(handle, || {
            let context = *slot(handle, state().handle.context);
            if context.is_null() { None } else { Some(Ref::from_borrowed(context)) }
        }))
    }
}

/// A handle for `call_soon_threadsafe`, in no queue.
///
/// # Safety
/// As for [`new_handle`].
pub(crate) unsafe fn new_threadsafe(
    py: Python<'_>,
    loop_: *mut ffi::PyObject,
    scheduled: Scheduled,
) -> PyResult<Ref> {
    let state = state();
    // SAFETY: handed on to our caller. The zeroed extra data is an unlocked lock and an unused link.
    unsafe { new_handle(py, state, state.threadsafe.class, loop_, scheduled) }
}

/// A handle for `call_at`, due at `when`, which is not yet in the heap.
///
/// # Safety
/// As for [`new_handle`].
pub(crate) unsafe fn new_timer(
    py: Python<'_>,
    loop_: *mut ffi::PyObject,
    when: Ref,
    scheduled: Scheduled,
) -> PyResult<Ref> {
    let state = state();
    // SAFETY: handed on to our caller; the new object is still ours alone.
    unsafe {
        let handle = new_handle(py, state, state.timer.class, loop_, scheduled)?;
        *slot(handle.as_ptr(), state.timer.when) = when.into_ptr();
        *slot(handle.as_ptr(), state.timer.scheduled) = ffi::Py_True();
        Ok(handle)
    }
}

/// Whether the handle was cancelled. Of a handle with the slots of `asyncio.Handle`.
///
/// # Safety
/// `handle` is alive and an instance of `asyncio.Handle`.
#[inline(always)]
pub(crate) unsafe fn is_cancelled(handle: *mut ffi::PyObject) -> bool {
    // SAFETY: the slot holds a bool, which is immortal, so an unlocked read is enough.
    unsafe {
        let cancelled = slot(handle, state().handle.cancelled).cast::<AtomicUsize>();
        (*cancelled).load(Relaxed) == ffi::Py_True() as usize
    }
}

/// Where the context of a handle is.
///
/// # Safety
/// As for [`is_cancelled`].
#[inline(always)]
pub(crate) unsafe fn context_address(handle: *mut ffi::PyObject) -> usize {
    // SAFETY: within the object; a word is read whole.
    unsafe { (*slot(handle, state().handle.context).cast::<AtomicUsize>()).load(Relaxed) }
}

/// Takes what a handle is to run out of it, if nobody else can reach the handle: its one reference
/// is ours and there is no weak one. This spares the counting; [`put_back`] undoes it.
///
/// # Safety
/// `handle` is alive and an instance of `asyncio.Handle`; the thread is attached.
#[inline(always)]
pub(crate) unsafe fn take_scheduled(handle: *mut ffi::PyObject) -> Option<Scheduled> {
    // SAFETY: handed on to our caller; nobody else has the handle.
    unsafe { if is_unique(handle) { take_slots(handle) } else { None } }
}

/// Whether weak references to a handle exist, or did.
///
/// # Safety
/// `handle` is alive, an instance of one of our subclasses, and the caller's alone.
#[inline(always)]
pub(crate) unsafe fn has_weak(handle: *mut ffi::PyObject) -> bool {
    // SAFETY: the word belongs to the object.
    unsafe { !(*handle.byte_offset(state().handle.weak).cast::<*mut ()>()).is_null() }
}

/// As [`take_scheduled`], of a handle that another thread may have posted.
///
/// # Safety
/// As for `take_scheduled`.
#[inline(always)]
pub(crate) unsafe fn take_posted(handle: *mut ffi::PyObject) -> Option<Scheduled> {
    // SAFETY: handed on to our caller; nobody else has the handle.
    unsafe { if is_unique_shared(handle, || has_weak(handle)) { take_slots(handle) } else { None } }
}

/// # Safety
/// `handle` is alive, an instance of `asyncio.Handle` and the caller's alone.
#[inline(always)]
unsafe fn take_slots(handle: *mut ffi::PyObject) -> Option<Scheduled> {
    let layout = &state().handle;
    // SAFETY: nobody else has the handle, so its slots are ours; `None` is immortal.
    unsafe {
        if *slot(handle, layout.cancelled) == ffi::Py_True() {
            return None;
        }
        let [callback, args, context] = [layout.callback, layout.args, layout.context]
            .map(|offset| ptr::replace(slot(handle, offset), ffi::Py_None()));
        Some(Scheduled {
            callback: Ref::from_owned(NonNull::new(callback)?),
            args: Ref::from_owned(NonNull::new(args)?),
            context: Ref::from_owned(NonNull::new(context)?),
        })
    }
}

/// Fills the slots that [`take_scheduled`] emptied. The context is the handle's own.
///
/// # Safety
/// As for `take_scheduled`.
pub(crate) unsafe fn put_back(py: Python<'_>, handle: *mut ffi::PyObject, scheduled: &Scheduled) {
    let layout = &state().handle;
    for (offset, object) in [
        (layout.callback, &scheduled.callback),
        (layout.args, &scheduled.args),
        (layout.context, &scheduled.context),
    ] {
        // SAFETY: swapping a slot in the critical section runs no Python. What is replaced is
        // `None`, or what a callback put there itself.
        let old = unsafe {
            in_critical_section(handle, || {
                ptr::replace(slot(handle, offset), object.clone_ref(py).into_ptr())
            })
        };
        // SAFETY: the reference that the slot held.
        drop(NonNull::new(old).map(|old| unsafe { Ref::from_owned(old) }));
    }
}

/// Reads what a handle is to run; `None` if it was cancelled.
///
/// # Safety
/// `handle` is alive and an instance of `asyncio.Handle`; the thread is attached.
#[inline(always)]
pub(crate) unsafe fn scheduled(handle: *mut ffi::PyObject) -> Option<Scheduled> {
    let layout = &state().handle;
    // SAFETY: reading slots and counting references runs no Python; cancelling empties the slots
    // under the same critical section.
    unsafe {
        in_critical_section(handle, || {
            if *slot(handle, layout.cancelled) == ffi::Py_True() {
                return None;
            }
            let callback = *slot(handle, layout.callback);
            let args = *slot(handle, layout.args);
            let context = *slot(handle, layout.context);
            if callback.is_null() || args.is_null() || context.is_null() {
                return None;
            }
            Some(Scheduled {
                callback: Ref::from_borrowed(callback),
                args: Ref::from_borrowed(args),
                context: Ref::from_borrowed(context),
            })
        })
    }
}

/// Marks a handle cancelled and takes its callback and arguments out. `None`: it was cancelled
/// before. Drop what is returned when nothing is locked.
///
/// # Safety
/// `handle` is alive and an instance of `asyncio.Handle`; the thread is attached.
pub(crate) unsafe fn mark_cancelled(handle: *mut ffi::PyObject) -> Option<[Option<Ref>; 2]> {
    let layout = &state().handle;
    // SAFETY: swapping slots runs no Python; each reference taken out is ours.
    unsafe {
        in_critical_section(handle, || {
            if *slot(handle, layout.cancelled) == ffi::Py_True() {
                return None;
            }
            *slot(handle, layout.cancelled) = ffi::Py_True();
            Some([layout.callback, layout.args].map(|offset| {
                let taken = ptr::replace(slot(handle, offset), ffi::Py_None());
                NonNull::new(taken).map(|taken| Ref::from_owned(taken))
            }))
        })
    }
}

/// In debug mode asyncio keeps the handle's repr, for messages about it after it was cancelled.
pub(crate) fn keep_repr(handle: &Bound<'_, PyAny>, debug: bool) -> PyResult<()> {
    if debug {
        let repr = handle.repr()?;
        handle.setattr(intern!(handle.py(), "_repr"), repr)?;
    }
    Ok(())
}
