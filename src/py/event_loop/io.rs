//! What the kernel and other threads have for a loop.
//!
//! In: the events of a poll, completions, and posts. Out: the callbacks and transports that they make
//! ready, in their order. Must never: run or drop a callback under a lock.

use pyo3::prelude::*;

use super::callback::Callback;
use super::core::{LoopCore, OwnerClaim};
use super::hooks::hooks;
use super::kept;
use super::scheduling::apply_posts;
use crate::event_loop::{Completion, Shared};
use crate::id::IoToken;
use crate::py::cpython::attach::lock_attached;
use crate::reactor::{Direction, IoTable, Ready};
use crate::sync::MutexGuard;
use crate::transport::{Entry, Schedule};

/// What a poll has made ready.
pub(crate) enum PollEvent {
    /// A callback of `add_reader` or `add_writer`, which is reported again until it has run.
    Level(Callback),
    /// A transport, which is not.
    Edge(Callback),
}

/// The callbacks and transports that wait for what the kernel reported. A callback that was
/// cancelled without being removed is removed here, as asyncio does, or its level would be reported
/// for ever.
pub(crate) fn collect(
    py: Python<'_>,
    core: &LoopCore,
    found: &[Ready],
    mut ready: impl FnMut(PollEvent),
) {
    let is_source = |event: &&Ready| event.token.is_source();
    let transports = found.iter().filter(is_source).count();
    if transports > 0 {
        let mut sources = lock_attached(py, &core.event_loop.shared().sources);
        for event in found.iter().filter(is_source) {
            if let Some((entry, Schedule::Needed)) = sources.ready(*event)
                && let Some(callback) = entry_of(py, entry)
            {
                ready(PollEvent::Edge(callback));
            }
        }
    }
    if transports < found.len() {
        collect_levels(py, core, found, ready);
    }
}

/// The queue entry of a transport, unless nobody keeps it any more.
fn entry_of(py: Python<'_>, entry: &Entry) -> Option<Callback> {
    // SAFETY: the table holds the reference, and our caller the table.
    unsafe { kept::object(py, entry.cookie) }.map(Callback::from_native)
}

fn collect_levels(
    py: Python<'_>,
    core: &LoopCore,
    found: &[Ready],
    mut ready: impl FnMut(PollEvent),
) {
    let mut cancelled = Vec::new();
    let io = lock_attached(py, &core.event_loop.io);
    for event in found.iter().filter(|event| !event.token.is_source()) {
        io.collect(*event, |direction, callback| {
            if callback.is_cancelled(py) {
                cancelled.push((event.token, direction));
            } else {
                ready(PollEvent::Level(callback.clone_ref(py)));
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
pub(crate) fn collect_completions(
    py: Python<'_>,
    core: &LoopCore,
    mut ready: impl FnMut(Callback),
) {
    let shared = core.event_loop.shared();
    if !shared.has_completions() {
        return;
    }
    for completion in shared.drain_completions() {
        if let Completion::Offered(owner, token) = &completion {
            if let Some(callback) = offered(py, owner, *token) {
                ready(callback);
            }
            continue;
        }
        let sources = lock_attached(py, &shared.sources);
        match completion {
            Completion::Offered(..) => {}
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

/// What begins on this loop what has come for a transport of another one.
#[cold]
fn offered(py: Python<'_>, owner: &Shared, token: IoToken) -> Option<Callback> {
    let transport = {
        let sources = lock_attached(py, &owner.sources);
        // SAFETY: the table holds the reference, and we the table.
        sources.get(token).and_then(|entry| unsafe { kept::object(py, entry.cookie) })
    };
    let begins = (hooks().begins)(transport?.as_py().bind(py));
    begins.map(Callback::from_native)
}

/// Does what other threads asked for, in their order.
pub(crate) fn drain_posts(py: Python<'_>, core: &LoopCore, claim: &OwnerClaim<'_>) {
    if core.event_loop.has_posts() {
        apply_posts(core, claim, drop);
        collect_completions(py, core, |callback| {
            // SAFETY: runs no Python.
            unsafe { claim.local(|local| local.ready.push(callback)) };
        });
    }
}
