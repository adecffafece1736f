//! What a loop leaves to the other threads of its pool: jobs, which need no Python.
//!
//! In: a loop that has more to do than it gets to soon. Out: jobs on its worker's deque, if a thread sleeps
//! that could take them. Must never: offer what only the loop's own thread may do.

use std::sync::Arc;

use pyo3::prelude::*;

use super::core::{LoopCore, OwnerClaim};
use crate::event_loop::Job;
use crate::pool::LoopWorker;
use crate::py::cpython::attach::lock_attached;
use crate::reactor::Ready;
use crate::transport::Source;

/// Whether a thread of the pool sleeps that could be woken to help.
#[cold]
pub(super) fn has_helper(claim: &OwnerClaim<'_>) -> bool {
    // SAFETY: runs no Python.
    unsafe {
        claim.local(|local| local.extension.loop_worker.as_deref().is_some_and(has_sleeping_helper))
    }
}

fn has_sleeping_helper(loop_worker: &LoopWorker) -> bool {
    loop_worker.pool_shared().steals() && loop_worker.pool_shared().has_sleeper()
}

/// Offers the other threads of the pool what the loop will get to last of what a poll has found, if
/// one of them sleeps: what `is_offered` says of it.
pub(super) fn offer_found(
    py: Python<'_>,
    core: &LoopCore,
    loop_worker: &LoopWorker,
    found: &[Ready],
    is_offered: impl Fn(&dyn Source) -> bool,
) {
    if !has_sleeping_helper(loop_worker) {
        return;
    }
    let shared = core.event_loop.shared();
    let mut jobs = Vec::with_capacity(found.len());
    {
        let sources = lock_attached(py, &shared.sources);
        // Thieves take the oldest job first, so the last event comes first.
        for event in found.iter().rev() {
            if let Some(entry) = sources.get(event.token)
                && is_offered(&*entry.source)
            {
                let source = Arc::clone(&entry.source);
                jobs.push(Job { owner: Arc::clone(shared), token: event.token, source });
            }
        }
    }
    if !jobs.is_empty() {
        loop_worker.offer(jobs.into_iter());
    }
}

/// Offers a job to the other threads of the pool, on the loop's thread. Says whether it could: the
/// loop's worker is away while it polls, when a finalizer may run.
pub(crate) fn offer_one(core: &LoopCore, job: Job) -> bool {
    // SAFETY: runs no Python.
    let offered = unsafe {
        core.event_loop.local.if_owner(|local| match &local.extension.loop_worker {
            Some(loop_worker) => {
                loop_worker.offer(std::iter::once(job));
                true
            }
            None => false,
        })
    };
    offered.unwrap_or(false)
}
