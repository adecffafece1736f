//! asyncio's handles, made without running Python.
//!
//! A `call_soon` handle is a real `asyncio.Handle` whose slots are filled here. The handles of
//! `call_later` and `call_soon_threadsafe` are native subclasses of asyncio's own classes: they add
//! the timer's key and a lock, and a `cancel` that runs no Python.
//!
//! Slots are read and written as CPython does it on the free-threaded build: under the object's
//! critical section, or before the object is shared.

use std::ffi::{c_int, c_void};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyType;

use super::callback::Callback;
use super::core::{LoopCore, NotOwner};
use super::hot::{method_def, raise};
use super::object::{Ref, incref, is_unique};
use super::run;
use super::state::{State, state};
use crate::id::TimerKey;
use crate::sync::thread_token;

/// The slot at `offset` of a handle.
///
/// # Safety
/// `handle` is a live handle, and `offset` comes from its layout.
#[inline(always)]
unsafe fn slot(handle: *mut ffi::PyObject, offset: usize) -> *mut *mut ffi::PyObject {
    // SAFETY: within the object, by the caller's word.
    unsafe { handle.byte_add(offset).cast() }
}

/// Runs `f` in the critical section of `object`.
///
/// # Safety
/// `object` is alive, the thread attached, and `f` runs no Python.
#[inline(always)]
unsafe fn in_critical_section<R>(object: *mut ffi::PyObject, f: impl FnOnce() -> R) -> R {
    #[cfg(Py_GIL_DISABLED)]
    {
        let mut section = std::mem::MaybeUninit::<ffi::PyCriticalSection>::uninit();
        // SAFETY: the section is a local of this frame and ended in it; `f` does not unwind.
        unsafe {
            ffi::PyCriticalSection_Begin(section.as_mut_ptr(), object);
            let result = f();
            ffi::PyCriticalSection_End(section.as_mut_ptr());
            result
        }
    }
    #[cfg(not(Py_GIL_DISABLED))]
    {
        let _ = object;
        f()
    }
}

/// What a handle is to run.
pub(super) struct Scheduled {
    pub(super) callback: Ref,
    pub(super) args: Ref,
    pub(super) context: Ref,
}

/// Makes a handle of `kind` and fills its base slots.
///
/// # Safety
/// The thread is attached; `kind` is `asyncio.Handle` or one of our two subclasses; `loop_` is a
/// live object.
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
        let Some(handle) = NonNull::new(object) else { return Err(PyErr::fetch(py)) };
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

/// A handle for `call_soon`: a real `asyncio.Handle`.
///
/// # Safety
/// As for [`new_handle`].
#[inline(always)]
pub(super) unsafe fn new_plain(
    py: Python<'_>,
    loop_: *mut ffi::PyObject,
    scheduled: Scheduled,
) -> PyResult<Ref> {
    let state = state();
    // SAFETY: handed on to our caller.
    unsafe { new_handle(py, state, state.handle_type, loop_, scheduled) }
}

/// A handle for `call_soon_threadsafe`.
///
/// # Safety
/// As for [`new_handle`].
pub(super) unsafe fn new_threadsafe(
    py: Python<'_>,
    loop_: *mut ffi::PyObject,
    scheduled: Scheduled,
) -> PyResult<Ref> {
    let state = state();
    // SAFETY: handed on to our caller. The zeroed extra data is an unlocked lock.
    unsafe { new_handle(py, state, state.threadsafe_type, loop_, scheduled) }
}

/// A handle for `call_at`, due at `when`, which is not yet in the heap.
///
/// # Safety
/// As for [`new_handle`].
pub(super) unsafe fn new_timer(
    py: Python<'_>,
    loop_: *mut ffi::PyObject,
    when: Ref,
    scheduled: Scheduled,
) -> PyResult<Ref> {
    let state = state();
    // SAFETY: handed on to our caller; the new object is still ours alone.
    unsafe {
        let handle = new_handle(py, state, state.timer_type, loop_, scheduled)?;
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
pub(super) unsafe fn is_cancelled(handle: *mut ffi::PyObject) -> bool {
    // SAFETY: the slot holds a bool, which is immortal, so an unlocked read is enough.
    unsafe {
        let cancelled = slot(handle, state().handle.cancelled).cast::<AtomicUsize>();
        (*cancelled).load(Relaxed) == ffi::Py_True() as usize
    }
}

/// Whether the object has had a weak reference.
///
/// # Safety
/// `handle` is a live handle, and `offset` comes from its layout.
#[inline(always)]
unsafe fn has_weak_references(handle: *mut ffi::PyObject, offset: isize) -> bool {
    // SAFETY: the type keeps the list there, by the caller's word.
    unsafe { !(*handle.byte_offset(offset).cast::<*mut ffi::PyObject>()).is_null() }
}

/// Takes what a handle is to run out of it, if nobody else can reach the handle: its one reference
/// is ours and there is no weak one. This spares the counting; [`put_back`] undoes it.
///
/// # Safety
/// `handle` is alive and an instance of `asyncio.Handle`; the thread is attached.
#[inline(always)]
pub(super) unsafe fn take_scheduled(handle: *mut ffi::PyObject) -> Option<Scheduled> {
    let layout = &state().handle;
    // SAFETY: nobody else has the handle, so its slots are ours; `None` is immortal.
    unsafe {
        if !is_unique(handle)
            || has_weak_references(handle, layout.weak_references)
            || *slot(handle, layout.cancelled) == ffi::Py_True()
        {
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

/// Fills the slots that [`take_scheduled`] emptied.
///
/// # Safety
/// As for `take_scheduled`.
pub(super) unsafe fn put_back(py: Python<'_>, handle: *mut ffi::PyObject, scheduled: &Scheduled) {
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
pub(super) unsafe fn scheduled(handle: *mut ffi::PyObject) -> Option<Scheduled> {
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
unsafe fn mark_cancelled(handle: *mut ffi::PyObject) -> Option<[Option<Ref>; 2]> {
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
fn keep_repr(handle: &Bound<'_, PyAny>, core: &LoopCore) -> PyResult<()> {
    if core.is_debug() {
        let repr = handle.repr()?;
        handle.setattr(intern!(handle.py(), "_repr"), repr)?;
    }
    Ok(())
}

/// The loop of a handle, if it is one of ours.
///
/// # Safety
/// `handle` is alive and an instance of `asyncio.Handle`; the thread is attached.
unsafe fn loop_of(py: Python<'_>, handle: *mut ffi::PyObject) -> Option<Bound<'_, LoopCore>> {
    let state = state();
    // SAFETY: the slot is set once, before the handle is shared; the type is checked.
    unsafe {
        let loop_ = *slot(handle, state.handle.loop_);
        if loop_.is_null() || ffi::PyObject_TypeCheck(loop_, state.loop_type) == 0 {
            return None;
        }
        let loop_ = Bound::from_borrowed_ptr(py, loop_);
        Some(loop_.cast_into_unchecked())
    }
}

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
    native_subclass(base, c"loop_pool.TimerHandle", size_of::<AtomicU64>(), methods)
}

// ---------------------------------------------------------------------------------------------
// ThreadSafeHandle: a lock which is held while the callback runs, as asyncio promises since 3.14
// ---------------------------------------------------------------------------------------------

/// A re-entrant lock on a `PyMutex`, which detaches while it waits.
#[repr(C)]
struct HandleLock {
    #[cfg(Py_GIL_DISABLED)]
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
            #[cfg(Py_GIL_DISABLED)]
            // SAFETY: this thread locked it.
            unsafe {
                ffi::PyMutex_Unlock((&raw const lock.mutex).cast_mut());
            }
        }
    }
}

/// Locks a handle of `call_soon_threadsafe`, waiting detached for a callback that runs elsewhere.
///
/// # Safety
/// `handle` is a live instance of our thread-safe type, held alive past the guard.
pub(super) unsafe fn lock_threadsafe<'a>(
    py: Python<'_>,
    handle: *mut ffi::PyObject,
) -> HandleGuard<'a> {
    // SAFETY: the type reserved the lock, zeroed, which means unlocked.
    let lock = unsafe {
        &*ffi::PyObject_GetTypeData(handle, state().threadsafe_type).cast::<HandleLock>()
    };
    if lock.holder.load(Relaxed) == thread_token() {
        return HandleGuard { lock: None };
    }
    #[cfg(Py_GIL_DISABLED)]
    {
        let _ = py;
        // SAFETY: the mutex does not move; waiting for it detaches.
        unsafe { ffi::PyMutex_Lock((&raw const lock.mutex).cast_mut()) };
        lock.holder.store(thread_token(), Relaxed);
    }
    #[cfg(not(Py_GIL_DISABLED))]
    while lock.holder.compare_exchange(0, thread_token(), Relaxed, Relaxed).is_err() {
        // With the GIL a wait can only be for a callback that gave it up: let others run.
        py.detach(std::thread::yield_now);
    }
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
    ]);
    native_subclass(base, c"loop_pool.ThreadSafeHandle", size_of::<HandleLock>(), methods)
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
    extra: usize,
    methods: *mut c_void,
) -> PyResult<Bound<'py, PyAny>> {
    let py = base.py();
    let mut slots = [
        ffi::PyType_Slot { slot: ffi::Py_tp_methods, pfunc: methods },
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
