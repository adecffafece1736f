//! The contexts of callbacks that are scheduled in a row, with no change of a variable in between: one
//! copy for all of them, where asyncio makes one for each.
//!
//! In: `call_soon` without a context, on the loop's thread. Out: the copy for its handle, and what the
//! callback runs in. Must never: let a callback see what another has set, or show the copy to anybody.
//
// asyncio promises that each callback runs in a copy of the context that was current when it was
// scheduled. So the copy that handles share is never entered: it stays what it was. A callback runs in
// a second copy of it. That serves the next callback as well if it still refers to the same map, so
// that nothing was set, and nobody else refers to it, as a `Token` does. Else the next one gets another.
//
// Of a context without variables no copy is made at all: one object for the whole process stands for it,
// in any handle, and what the callbacks run in stays with the loop.
//
// Who asks a handle for its context gets one of the handle's own (`handle::own_context`), and a handle
// that somebody else has when it runs has one from then on: it shows what its callback has set.

use std::ptr::NonNull;

use pyo3::ffi;
use pyo3::prelude::*;

use super::core::{LoopCore, OwnerState};
use super::shared_context::SharedContext;
use crate::py::asyncio::handle::stands_for_empty;
use crate::py::asyncio::state::state;
use crate::py::cpython::context::{copy_context, copy_of, new_context};
use crate::py::cpython::object::{Ref, decref, is_unique, is_unique_shared};

/// A context for a new handle.
pub(crate) struct HandleContext {
    pub(crate) context: Ref,
    /// Other handles have it, too.
    pub(crate) is_shared: bool,
}

/// A copy of the current context for a callback that is scheduled without one.
///
/// # Errors
/// `MemoryError`.
#[inline(always)]
pub(crate) fn copy_for_handle(py: Python<'_>, core: &LoopCore) -> PyResult<HandleContext> {
    let Some(facts) = &state().context else {
        return Ok(HandleContext { context: copy_context(py)?, is_shared: false });
    };
    if let Some(context) = facts.empty_if_current(py) {
        return Ok(HandleContext { context, is_shared: true });
    }
    let map = facts.current_map(py);
    let shared = |local: &mut OwnerState| {
        local.extension.shared_context.of(map).map(|copy| copy.clone_ref(py))
    };
    // SAFETY: counting runs no Python.
    match unsafe { core.event_loop.local.if_owner(shared) } {
        Some(Some(context)) => Ok(HandleContext { context, is_shared: true }),
        Some(None) => copy_for_handles(py, core, map),
        None => Ok(HandleContext { context: copy_context(py)?, is_shared: false }),
    }
}

/// As [`copy_for_handle`], if there is nothing shared yet.
fn copy_for_handles(
    py: Python<'_>,
    core: &LoopCore,
    map: *mut ffi::PyObject,
) -> PyResult<HandleContext> {
    let context = copy_context(py)?;
    let note = |local: &mut OwnerState| {
        let shared = &mut local.extension.shared_context;
        if !shared.is_map(map) {
            // SAFETY: the current context holds it.
            let map = unsafe { Ref::from_borrowed(map) };
            let new = SharedContext { map: Some(map), alone: 1, ..SharedContext::default() };
            return (Some(std::mem::replace(shared, new)), false);
        }
        shared.alone += 1;
        let is_shared = shared.alone > SharedContext::ALONE;
        if is_shared {
            shared.copy = Some(context.clone_ref(py));
        }
        (None, is_shared)
    };
    // SAFETY: runs no Python; what was there is dropped outside.
    let noted = unsafe { core.event_loop.local.if_owner(note) };
    let is_shared = noted.is_some_and(|(old, is_shared)| {
        drop(old);
        is_shared
    });
    Ok(HandleContext { context, is_shared })
}

/// A context to run a callback in, whose handle shares `copy`.
///
/// # Errors
/// `MemoryError`.
#[inline(always)]
pub(crate) fn to_run_in(py: Python<'_>, core: &LoopCore, copy: &Ref) -> PyResult<Ref> {
    let is_empty = stands_for_empty(copy.as_ptr());
    // SAFETY: runs no Python.
    let kept = unsafe {
        core.event_loop
            .local
            .if_owner(|local| kept_for(local, copy, is_empty).and_then(Option::take))
    };
    match kept.flatten() {
        Some(context) => Ok(context),
        None if is_empty => new_context(py),
        None => copy_of(py, copy),
    }
}

/// Where is kept what the callbacks run in that share `copy`.
#[inline(always)]
fn kept_for<'a>(
    local: &'a mut OwnerState,
    copy: &Ref,
    is_empty: bool,
) -> Option<&'a mut Option<Ref>> {
    let shared = &mut local.extension.shared_context;
    if is_empty {
        Some(&mut local.extension.empty_context)
    } else if shared.is_copy(copy) {
        Some(&mut shared.to_run_in)
    } else {
        None
    }
}

/// Takes back what a callback has run in, which `copy` was shared by, and drops what is not kept.
#[inline(always)]
pub(crate) fn has_run_in(core: &LoopCore, copy: Ref, context: Ref) {
    let context = context.into_ptr();
    // SAFETY: runs no Python. The contexts are alive, nobody is in them, and the thread is attached. If
    // nobody else has the one, nobody can change it. The reference is given away once.
    let is_kept = unsafe {
        core.event_loop.local.if_owner(|local| {
            let is_empty = stands_for_empty(copy.as_ptr());
            let Some(kept) = kept_for(local, &copy, is_empty) else { return false };
            let keeps = kept.is_none()
                && is_unique(context)
                && state().context.as_ref().is_some_and(|facts| {
                    let map = facts.map_of(context);
                    if is_empty {
                        facts.is_empty_map(map)
                    } else {
                        std::ptr::eq(map, facts.map_of(copy.as_ptr()))
                    }
                });
            if keeps {
                let context = NonNull::new(context).map(|context| Ref::from_owned(context));
                std::mem::forget(std::mem::replace(kept, context)); // `None`
            }
            keeps
        })
    };
    if is_kept != Some(true) {
        // SAFETY: the reference is still ours.
        unsafe { decref(context) };
    }
    copy.drop_inline();
}

/// Lets go of what is shared, unless a callback waits that shares it, so that no value of a variable
/// outlives its time. Where Python may run.
#[inline(always)]
pub(crate) fn let_go_of_unused(core: &LoopCore) {
    let_go_if(core, |shared| {
        // Once another thread has given a reference back, the count belongs to no thread.
        // SAFETY: it is alive; the thread is attached.
        let is_last = |copy: &Ref| unsafe {
            is_unique(copy.as_ptr()) || is_unique_shared(copy.as_ptr(), || false)
        };
        shared.copy.as_ref().is_none_or(is_last)
    });
}

/// Lets go of all of it, as another thread may run the loop next. Where Python may run.
pub(crate) fn let_go(core: &LoopCore) {
    let_go_if(core, |_| true);
    // SAFETY: runs no Python; it is dropped outside.
    drop(unsafe { core.event_loop.local.if_owner(|local| local.extension.empty_context.take()) });
}

#[inline(always)]
fn let_go_if(core: &LoopCore, may: impl FnOnce(&SharedContext) -> bool) {
    let take = |local: &mut OwnerState| {
        let shared = &mut local.extension.shared_context;
        (shared.map.is_some() && may(shared)).then(|| std::mem::take(shared))
    };
    // SAFETY: runs no Python; what is taken is dropped outside.
    drop(unsafe { core.event_loop.local.if_owner(take) });
}
