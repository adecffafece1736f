//! Adds callbacks and timers to a loop's queues, from its own thread and from others.

use super::callback::Callback;
use super::core::{LoopCore, OwnerClaim, OwnerState};
use super::handle_slots;
use crate::event_loop::Post;
use crate::py::asyncio::handle;

/// The calling thread does not own the loop.
#[derive(Debug)]
pub(crate) struct NotOwner;

impl LoopCore {
    /// Makes a callback ready: at once on the loop's thread, through the inbox from any other.
    #[inline(always)]
    pub(crate) fn schedule(&self, callback: Callback) {
        // SAFETY: pushing runs no Python.
        let refused = unsafe {
            self.event_loop.local.give_owner(callback, |local, callback| local.ready.push(callback))
        };
        if let Err(callback) = refused {
            self.event_loop.post(Post::Call(callback));
        }
    }

    /// Makes a timer pending, as `schedule`.
    pub(crate) fn schedule_at(&self, when: f64, timer: Callback) {
        // SAFETY: inserting and writing the key run no Python.
        let refused = unsafe {
            self.event_loop
                .local
                .give_owner(timer, |local, timer| Self::put_timer(local, when, timer))
        };
        if let Err(timer) = refused {
            self.event_loop.post(Post::Timer(when, timer));
        }
    }

    /// Puts a timer into the heap and notes its key in the handle.
    pub(crate) fn put_timer(local: &mut OwnerState, when: f64, timer: Callback) {
        let handle = timer.handle();
        let key = local.timers.insert(when, timer);
        // SAFETY: the heap keeps the handle alive, and timers are handles of our timer type.
        unsafe { handle_slots::set_timer_key(handle, key) };
    }

    /// Takes a timer out of the heap, if it is there, to be dropped by the caller.
    pub(crate) fn take_timer(local: &mut OwnerState, timer: &Callback) -> Option<Callback> {
        handle_slots::take_timer_key(timer).and_then(|key| local.timers.remove(key))
    }

    /// As [`take_timer`](Self::take_timer), on the loop's own thread.
    ///
    /// # Errors
    /// [`NotOwner`] if this thread is not the owner.
    pub(crate) fn forget_timer(&self, timer: &Callback) -> Result<Option<Callback>, NotOwner> {
        // SAFETY: taking out runs no Python.
        unsafe { self.event_loop.local.if_owner(|local| Self::take_timer(local, timer)) }
            .ok_or(NotOwner)
    }
}

/// Puts what another thread wants done before the next callback at the head of the ready queue. Returns
/// how many callbacks that are. On the loop's thread, between two callbacks.
#[inline(always)]
pub(crate) fn put_urgent_first(core: &LoopCore, claim: &OwnerClaim<'_>) -> usize {
    if core.event_loop.has_urgent() { put_urgent_first_now(core, claim) } else { 0 }
}

#[cold]
fn put_urgent_first_now(core: &LoopCore, claim: &OwnerClaim<'_>) -> usize {
    let urgent: Vec<_> = core.event_loop.drain_urgent().collect();
    let count = urgent.len();
    // SAFETY: runs no Python.
    unsafe {
        claim.local(|local| {
            for callback in urgent.into_iter().rev() {
                local.ready.push_first(callback);
            }
        });
    }
    count
}

/// Forgets a timer that was cancelled by a thread other than the owner: at once if nobody runs the
/// loop, and else in its next turn.
pub(crate) fn forget_timer_of_idle_loop(core: &LoopCore, timer: Callback) {
    let event_loop = &core.event_loop;
    // Declared before the claim, hence dropped after it.
    let mut dropped = Vec::new();
    match event_loop.local.claim_briefly() {
        None => event_loop.leave(Post::CancelTimer(timer)),
        Some(claim) => {
            // The timer itself may still wait among the posts. Nothing is dropped while we claim.
            apply_posts(core, &claim, |callback| dropped.push(callback));
            // SAFETY: runs no Python.
            dropped.extend(unsafe { claim.local(|local| LoopCore::take_timer(local, &timer)) });
            dropped.push(timer);
        }
    }
    drop(dropped);
}

/// Shows `look` the queues of a loop that nobody runs, with what was posted to it. `None` if
/// somebody does. `look` must run no Python.
pub(crate) fn look_at_idle_loop<R>(
    core: &LoopCore,
    look: impl FnOnce(&mut OwnerState) -> R,
) -> Option<R> {
    let mut dropped = Vec::new();
    let seen = {
        let claim = core.event_loop.local.claim_briefly()?;
        apply_posts(core, &claim, |callback| dropped.push(callback));
        // SAFETY: by the caller's word.
        unsafe { claim.local(look) }
    };
    drop(dropped);
    Some(seen)
}

/// Applies the posts; `dispose` gets what is not needed any more.
pub(crate) fn apply_posts(
    core: &LoopCore,
    claim: &OwnerClaim<'_>,
    mut dispose: impl FnMut(Callback),
) {
    for post in core.event_loop.drain_posts() {
        match post {
            // SAFETY: runs no Python.
            Post::Call(callback) => unsafe { claim.local(|local| local.ready.push(callback)) },
            // SAFETY: a timer's callback is a handle, which it keeps alive.
            Post::Timer(_, timer) if unsafe { handle::is_cancelled(timer.handle()) } => {
                dispose(timer);
            }
            Post::Timer(when, timer) => {
                // SAFETY: inserting and writing the key run no Python.
                unsafe { claim.local(|local| LoopCore::put_timer(local, when, timer)) };
            }
            Post::CancelTimer(timer) => {
                // SAFETY: taking out runs no Python; it is dropped outside.
                let pending = unsafe { claim.local(|local| LoopCore::take_timer(local, &timer)) };
                if let Some(pending) = pending {
                    dispose(pending);
                }
                dispose(timer);
            }
        }
    }
}
