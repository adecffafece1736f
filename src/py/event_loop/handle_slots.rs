//! What our handles store in addition to asyncio's slots: a timer's key; a lock, held while the callback
//! runs, as asyncio guarantees since 3.14; and a link for the inbox of the loop.

use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use pyo3::ffi;
use pyo3::prelude::*;

use super::callback::Callback;
use super::core::LoopCore;
use crate::event_loop::{Carrier, Link, Post};
use crate::id::TimerKey;
use crate::py::asyncio::state::state;
use crate::py::cpython::object::{Ref, share_new};
use crate::py::cpython::slots::slot;
use crate::sync::thread_token;

/// The word that holds the [`TimerKey`] of a pending timer, or zero.
///
/// # Safety
/// `handle` is a live instance of our timer type.
#[inline(always)]
pub(crate) unsafe fn timer_word<'a>(handle: *mut ffi::PyObject) -> &'a AtomicU64 {
    // SAFETY: the type reserved the word; only the loop's owner writes it.
    unsafe { &*handle.byte_add(state().timer.data).cast::<AtomicU64>() }
}

/// Notes under which key the timer is pending.
///
/// # Safety
/// `handle` is a live instance of our timer type.
pub(crate) unsafe fn set_timer_key(handle: *mut ffi::PyObject, key: TimerKey) {
    // SAFETY: handed on to our caller.
    unsafe { timer_word(handle).store(key.to_bits(), Relaxed) };
}

/// Notes that the timer is no longer pending, and returns the key it had.
pub(crate) fn take_timer_key(timer: &Callback) -> Option<TimerKey> {
    let handle = timer.handle();
    // SAFETY: only our timer handles are put into a loop's heap; a bool needs no counting.
    unsafe {
        *slot(handle, state().timer.scheduled) = ffi::Py_False();
        TimerKey::from_bits(timer_word(handle).swap(0, Relaxed))
    }
}

/// What a handle of `call_soon_threadsafe` keeps beside asyncio's slots.
#[repr(C)]
pub(crate) struct Posted {
    lock: HandleLock,
    /// Written by [`post`], once.
    link: Link<Post<Callback>>,
}

/// What is ours in a handle.
///
/// # Safety
/// `handle` is a live instance of our thread-safe type.
#[inline(always)]
pub(crate) unsafe fn posted(handle: *mut ffi::PyObject) -> NonNull<Posted> {
    // SAFETY: the type reserved the place.
    unsafe { NonNull::new_unchecked(handle.byte_add(state().threadsafe.data).cast()) }
}

/// How the loop gets at a handle that was posted: a strong reference, which the inbox holds.
pub(crate) static CARRIER: Carrier<Post<Callback>> =
    Carrier { take: take_post, look: look_at_post };

/// # Safety
/// `link` is that of a live handle whose reference the caller takes over; the thread is attached.
pub(crate) unsafe fn take_post(link: NonNull<Link<Post<Callback>>>) -> Post<Callback> {
    let offset = state().threadsafe.data + std::mem::offset_of!(Posted, link);
    // SAFETY: by our caller's word.
    Post::Call(Callback::from_handle(unsafe { Ref::from_owned(link.byte_sub(offset).cast()) }))
}

/// # Safety
/// As for [`take_post`], but that the reference stays where it is.
pub(crate) unsafe fn look_at_post(
    link: NonNull<Link<Post<Callback>>>,
    f: &mut dyn FnMut(&Post<Callback>),
) {
    // SAFETY: by our caller's word; what is made of the reference is not dropped.
    f(&ManuallyDrop::new(unsafe { take_post(link) }));
}

/// Posts a new handle to its loop, from another thread than the loop's.
///
/// The loop's thread destroys what it has run, so that what was made for this handle is given to all
/// threads.
///
/// # Safety
/// `handle` is of our thread-safe type, and was made by this thread just now for the loop of `core`.
pub(crate) unsafe fn post(core: &LoopCore, handle: &Ref) {
    let (object, layout) = (handle.as_ptr(), &state().handle);
    // SAFETY: nobody else knows the handle. The second reference is the inbox's, of which `CARRIER`
    // knows. The handle stays where it is, and is posted this once.
    unsafe {
        for offset in [layout.args, layout.context] {
            share_new(*slot(object, offset), 0);
        }
        share_new(object, 1);
        let link = (&raw mut (*posted(object).as_ptr()).link);
        link.write(Link::new(&CARRIER));
        core.event_loop.post_link(NonNull::new_unchecked(link));
    }
}

/// A re-entrant lock on a `PyMutex`, which detaches while it waits.
#[repr(C)]
pub(crate) struct HandleLock {
    mutex: ffi::PyMutex,
    /// The thread that holds it, or 0; only that thread can find its own token here.
    holder: AtomicUsize,
}

/// Releases a [`HandleLock`], unless an outer frame of this thread holds it.
pub(crate) struct HandleGuard<'a> {
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
pub(crate) unsafe fn lock_threadsafe<'a>(
    _py: Python<'_>,
    handle: *mut ffi::PyObject,
) -> HandleGuard<'a> {
    // SAFETY: the type reserved the lock, zeroed, which means unlocked.
    let lock = unsafe { &(*posted(handle).as_ptr()).lock };
    if lock.holder.load(Relaxed) == thread_token() {
        return HandleGuard { lock: None };
    }
    // SAFETY: the mutex does not move; waiting for it detaches.
    unsafe { ffi::PyMutex_Lock((&raw const lock.mutex).cast_mut()) };
    lock.holder.store(thread_token(), Relaxed);
    HandleGuard { lock: Some(lock) }
}

/// The loop of a handle, if it is one of ours.
///
/// # Safety
/// `handle` is alive and an instance of `asyncio.Handle`; the thread is attached.
pub(crate) unsafe fn loop_of(
    py: Python<'_>,
    handle: *mut ffi::PyObject,
) -> Option<Bound<'_, LoopCore>> {
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
