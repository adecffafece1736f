//! How callbacks and timers get into a loop's queues, from its own thread and from any other.

use super::callback::Callback;
use super::core::LoopCore;
use super::handle_types;
use crate::event_loop::{Local, Post};

/// The calling thread does not own the loop.
#[derive(Debug)]
pub(super) struct NotOwner;

impl LoopCore {
    /// Makes a callback ready: at once on the loop's thread, through the inbox from any other.
    #[inline(always)]
    pub(super) fn schedule(&self, callback: Callback) {
        // SAFETY: pushing runs no Python.
        let refused = unsafe {
            self.event_loop.give_owner(callback, |local, callback| local.ready.push(callback))
        };
        if let Err(callback) = refused {
            self.event_loop.post(Post::Call(callback));
        }
    }

    /// Makes a timer pending, as `schedule`.
    pub(super) fn schedule_at(&self, when: f64, timer: Callback) {
        // SAFETY: inserting and writing the key run no Python.
        let refused = unsafe {
            self.event_loop.give_owner(timer, |local, timer| Self::put_timer(local, when, timer))
        };
        if let Err(timer) = refused {
            self.event_loop.post(Post::Timer(when, timer));
        }
    }

    /// Puts a timer into the heap and notes its key in the handle.
    pub(super) fn put_timer(local: &mut Local<Callback>, when: f64, timer: Callback) {
        let handle = timer.handle();
        let key = local.timers.insert(when, timer);
        // SAFETY: the heap keeps the handle alive, and timers are handles of our timer type.
        unsafe { handle_types::set_timer_key(handle, key) };
    }

    /// Takes a timer out of the heap, if it is there, to be dropped by the caller.
    pub(super) fn take_timer(local: &mut Local<Callback>, timer: &Callback) -> Option<Callback> {
        handle_types::take_timer_key(timer).and_then(|key| local.timers.remove(key))
    }

    /// As [`take_timer`](Self::take_timer), on the loop's own thread.
    ///
    /// # Errors
    /// [`NotOwner`] if this thread is not the owner.
    pub(super) fn forget_timer(&self, timer: &Callback) -> Result<Option<Callback>, NotOwner> {
        // SAFETY: taking out runs no Python.
        unsafe { self.event_loop.if_owner(|local| Self::take_timer(local, timer)) }.ok_or(NotOwner)
    }
}
