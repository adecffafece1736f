//! The native subclasses of asyncio's handles: they add a timer's key, or a lock, beside asyncio's
//! slots (PEP 697), and a `cancel` that runs no Python.

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyType;

use super::arguments::{method_def, raise};
use super::callback::Callback;
use super::handle::{is_cancelled, keep_repr, loop_of, mark_cancelled, slot};
use super::object::Ref;
use super::run;
use super::scheduling::NotOwner;
use super::state::state;
use crate::id::TimerKey;
use crate::sync::thread_token;

// ---------------------------------------------------------------------------------------------
// TimerHandle: the timer's key beside asyncio's slots
// ---------------------------------------------------------------------------------------------

/// The word that holds the [`TimerKey`] of a pending timer, or zero.
///
/// # Safety
/// `handle` is a live instance of our timer type.
#[inline(always)]
unsafe fn timer_word<'a>(handle: *mut ffi::PyObject) -> &'a AtomicU64 {
    // SAFETY: the type reserved the word; only the loop's owner writes it.
    unsafe { &*ffi::PyObject_GetTypeData(handle, state().timer_type).cast::<AtomicU64>() }
}

/// Notes under which key the timer is pending.
///
/// # Safety
/// `handle` is a live instance of our timer type.
pub(super) unsafe fn set_timer_key(handle: *mut ffi::PyObject, key: TimerKey) {
    // SAFETY: handed on to our caller.
    unsafe { timer_word(handle).store(key.to_bits(), Relaxed) };
}

/// Notes that the timer is no longer pending, and returns the key it had.
pub(super) fn take_timer_key(timer: &Callback) -> Option<TimerKey> {
    let handle = timer.handle();
    // SAFETY: only our timer handles are put into a loop's heap; a bool needs no counting.
    unsafe {
        *slot(handle, state().timer.scheduled) = ffi::Py_False();
        TimerKey::from_bits(timer_word(handle).swap(0, Relaxed))
    }
}

unsafe extern "C" fn timer_cancel(
    handle: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    raise(|py| {
        // SAFETY: the method descriptor has checked that `handle` is of our timer type.
        unsafe {
            if is_cancelled(handle) {
                return Ok(py.None().into_ptr());
            }
            if let Some(core) = loop_of(py, handle) {
                let core = core.get();
                keep_repr(&Bound::from_borrowed_ptr(py, handle), core)?;
                let Some(taken) = mark_cancelled(handle) else {
                    return Ok(py.None().into_ptr());
                };
                let timer = Callback::from_handle(Ref::from_borrowed(handle));
                match core.forget_timer(&timer) {
                    Ok(pending) => drop(pending),
                    Err(NotOwner) => run::forget_timer_of_idle_loop(core, timer),
                }
                drop(taken);
            } else {
                drop(mark_cancelled(handle));
            }
            Ok(py.None().into_ptr())
        }
    })
}

/// Makes the native subclass of `asyncio.TimerHandle`.
pub(super) fn timer_type<'py>(base: &Bound<'py, PyType>) -> PyResult<Bound<'py, PyAny>> {
    let methods = leak_methods([method_def(
        c"cancel",
        timer_cancel,
        c"cancel($self, /)\n--\n\nCancel the call and free its place in the loop at once.",
    )]);
    native_subclass(
        base,
        c"loop_pool._core.TimerHandle",
        c"An asyncio.TimerHandle whose cancellation frees its place in the loop at once.",
        size_of::<AtomicU64>(),
        methods,
    )
}

// ---------------------------------------------------------------------------------------------
// ThreadSafeHandle: a lock which is held while the callback runs, as asyncio promises since 3.14
// ---------------------------------------------------------------------------------------------

/// A re-entrant lock on a `PyMutex`, which detaches while it waits.
#[repr(C)]
struct HandleLock {
    mutex: ffi::PyMutex,
    /// The thread that holds it, or 0; only that thread can find its own token here.
    holder: AtomicUsize,
}

/// Releases a [`HandleLock`], unless an outer frame of this thread holds it.
pub(super) struct HandleGuard<'a> {
    lock: Option<&'a HandleLock>,
}

impl Drop for HandleGuard<'_> {
    fn drop(&mut self) {
        if let Some(lock) = self.lock {
            lock.holder.store(0, Relaxed);
            // SAFETY: this thread locked it.
            unsafe { ffi::PyMutex_Unlock((&raw const lock.mutex).cast_mut()) };
        }
    }
}

/// Locks a handle of `call_soon_threadsafe`, waiting detached for a callback that runs elsewhere.
///
/// # Safety
/// `handle` is a live instance of our thread-safe type, held alive past the guard.
pub(super) unsafe fn lock_threadsafe<'a>(
    _py: Python<'_>,
    handle: *mut ffi::PyObject,
) -> HandleGuard<'a> {
    // SAFETY: the type reserved the lock, zeroed, which means unlocked.
    let lock = unsafe {
        &*ffi::PyObject_GetTypeData(handle, state().threadsafe_type).cast::<HandleLock>()
    };
    if lock.holder.load(Relaxed) == thread_token() {
        return HandleGuard { lock: None };
    }
    // SAFETY: the mutex does not move; waiting for it detaches.
    unsafe { ffi::PyMutex_Lock((&raw const lock.mutex).cast_mut()) };
    lock.holder.store(thread_token(), Relaxed);
    HandleGuard { lock: Some(lock) }
}

unsafe extern "C" fn threadsafe_cancel(
    handle: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    raise(|py| {
        // SAFETY: the method descriptor has checked the type; the caller holds the handle.
        let taken = unsafe {
            let _guard = lock_threadsafe(py, handle);
            if !is_cancelled(handle)
                && let Some(core) = loop_of(py, handle)
            {
                keep_repr(&Bound::from_borrowed_ptr(py, handle), core.get())?;
            }
            mark_cancelled(handle)
        };
        drop(taken);
        Ok(py.None().into_ptr())
    })
}

unsafe extern "C" fn threadsafe_cancelled(
    handle: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    raise(|py| {
        // SAFETY: the method descriptor has checked the type; the caller holds the handle.
        let cancelled = unsafe {
            let _guard = lock_threadsafe(py, handle);
            is_cancelled(handle)
        };
        Ok(cancelled.into_pyobject(py)?.to_owned().into_any().into_ptr())
    })
}

unsafe extern "C" fn threadsafe_run(
    handle: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    raise(|py| {
        // SAFETY: the method descriptor has checked the type; the caller holds the handle past the
        // guard; `asyncio.Handle` lives as long as the process.
        unsafe {
            let _guard = lock_threadsafe(py, handle);
            if !is_cancelled(handle) {
                let base = state().handle_type.cast::<ffi::PyObject>();
                Bound::from_borrowed_ptr(py, base)
                    .call_method1(intern!(py, "_run"), (Bound::from_borrowed_ptr(py, handle),))?;
            }
        }
        Ok(py.None().into_ptr())
    })
}

/// Makes the native subclass of `asyncio.events._ThreadSafeHandle`.
pub(super) fn threadsafe_type<'py>(base: &Bound<'py, PyType>) -> PyResult<Bound<'py, PyAny>> {
    let methods = leak_methods([
        method_def(
            c"cancel",
            threadsafe_cancel,
            c"cancel($self, /)\n--\n\nCancel the call; wait for it if it runs in another thread.",
        ),
        method_def(
            c"cancelled",
            threadsafe_cancelled,
            c"cancelled($self, /)\n--\n\nWhether it was cancelled; wait for a run elsewhere.",
        ),
        method_def(
            c"_run",
            threadsafe_run,
            c"_run($self, /)\n--\n\nRun the callback, holding cancellation from elsewhere off.",
        ),
    ]);
    native_subclass(
        base,
        c"loop_pool._core._ThreadSafeHandle",
        c"The handle of call_soon_threadsafe: cancelling it waits for a callback that runs.",
        size_of::<HandleLock>(),
        methods,
    )
}

/// The interpreter keeps pointers to method definitions for ever.
fn leak_methods<const N: usize>(methods: [ffi::PyMethodDef; N]) -> *mut c_void {
    let mut methods = Vec::from(methods);
    methods.push(ffi::PyMethodDef::zeroed());
    Box::leak(methods.into_boxed_slice()).as_mut_ptr().cast()
}

/// A native heap type over a Python class, with `extra` zeroed bytes beside its slots (PEP 697).
/// Allocation, traversal and deallocation are the base's.
fn native_subclass<'py>(
    base: &Bound<'py, PyType>,
    name: &'static std::ffi::CStr,
    doc: &'static std::ffi::CStr,
    extra: usize,
    methods: *mut c_void,
) -> PyResult<Bound<'py, PyAny>> {
    let py = base.py();
    let mut slots = [
        ffi::PyType_Slot { slot: ffi::Py_tp_methods, pfunc: methods },
        ffi::PyType_Slot { slot: ffi::Py_tp_doc, pfunc: doc.as_ptr().cast_mut().cast() },
        ffi::PyType_Slot { slot: 0, pfunc: ptr::null_mut() },
    ];
    let mut spec = ffi::PyType_Spec {
        name: name.as_ptr(),
        basicsize: -c_int::try_from(extra)?,
        itemsize: 0,
        flags: u32::try_from(ffi::Py_TPFLAGS_DEFAULT)?,
        slots: slots.as_mut_ptr(),
    };
    // SAFETY: the spec is copied; names and methods are static.
    unsafe {
        let made = ffi::PyType_FromMetaclass(
            ptr::null_mut(),
            ptr::null_mut(),
            &raw mut spec,
            base.as_ptr(),
        );
        Bound::from_owned_ptr_or_err(py, made)
    }
}
