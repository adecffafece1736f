//! Polls the kernel, detached from the interpreter, and makes the events ready. In a pool the thread does
//! work for other loops meanwhile ([`LoopWorker::wait`](crate::pool::LoopWorker::wait)).

use std::mem::take;
use std::time::Duration;

use pyo3::prelude::*;

use super::core::{LoopCore, OwnerClaim};
use super::io::{self, PollEvent, drain_posts};
use super::offers::offer_found;
use crate::config;
use crate::event_loop::Turned;
use crate::pool::LoopWorker;
use crate::reactor::{PollEnd, Ready};
use crate::transport::Scratch;

/// What the thread takes along when it detaches, since nobody reaches the loop's own parts meanwhile. The
/// loop has it again when this is dropped, also by a panic of a job.
struct Taken<'a> {
    claim: &'a OwnerClaim<'a>,
    /// In a pool, with memory for the jobs of others.
    loop_worker: Option<(Box<LoopWorker>, Scratch)>,
    found: Vec<Ready>,
}

impl<'a> Taken<'a> {
    fn new(claim: &'a OwnerClaim<'a>) -> Self {
        // SAFETY: runs no Python.
        let (loop_worker, found) = unsafe {
            claim.local(|local| {
                let loop_worker = local.extension.loop_worker.take();
                let loop_worker =
                    loop_worker.map(|loop_worker| (loop_worker, take(&mut local.scratch)));
                (loop_worker, take(&mut local.found))
            })
        };
        Self { claim, loop_worker, found }
    }
}

impl Drop for Taken<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        self.found.clear();
        let loop_worker = self.loop_worker.take();
        // SAFETY: runs no Python: events are plain numbers.
        unsafe {
            self.claim.local(|local| {
                std::mem::swap(&mut local.found, &mut self.found);
                if let Some((loop_worker, scratch)) = loop_worker {
                    local.scratch = scratch;
                    local.extension.loop_worker = Some(loop_worker);
                }
            });
        }
    }
}

/// Asks the kernel, detached, sleeping at most for `limit`; makes what it found ready. Returns the
/// clock afterwards, by which timers are due.
pub(crate) fn poll(
    py: Python<'_>,
    core: &LoopCore,
    claim: &OwnerClaim<'_>,
    began_ns: u64,
    limit: Duration,
) -> PyResult<u64> {
    let event_loop = &core.event_loop;
    // SAFETY: runs no Python.
    let last_ns = unsafe { claim.local(|local| local.last_poll_ns()) };
    let polled = {
        let mut taken = Taken::new(claim);
        let Taken { loop_worker, found, .. } = &mut taken;
        let until_ns =
            if loop_worker.is_some() { help_until(claim, began_ns, limit) } else { began_ns };
        let polled = py.detach(|| match loop_worker {
            Some((loop_worker, scratch)) => {
                loop_worker.wait(event_loop, scratch, (began_ns, until_ns), limit, found)
            }
            None if limit.is_zero() => event_loop.look(found).map(without_help),
            None => event_loop.wait(|| Some(limit), found).map(without_help),
        });
        if let Ok((turned, _)) = polled {
            account(core, began_ns, last_ns, turned, limit);
            io::collect(py, core, found, |found| {
                // SAFETY: runs no Python.
                unsafe {
                    claim.local(|local| match found {
                        PollEvent::Level(callback) => local.ready.push_event(callback),
                        PollEvent::Edge(callback) => local.ready.push(callback),
                    });
                }
            });
            if let Some((loop_worker, _)) = loop_worker {
                if !found.is_empty() || event_loop.has_posts() {
                    event_loop.metrics().worked_ns.set(turned.now_ns);
                }
                if found.len() > config::BEHIND {
                    offer_found(py, core, loop_worker, &found[config::BEHIND / 2..], |_| true);
                } else if found.len() > 1 && event_loop.shared().load.opening.get() > 0 {
                    offer_found(py, core, loop_worker, &found[1..], |source| source.is_costly());
                }
            }
            let in_vain = limit.is_zero() && found.is_empty();
            // SAFETY: runs no Python.
            unsafe { claim.local(|local| local.polled(turned, in_vain)) };
            drain_posts(py, core, claim);
        }
        polled
    };
    let (turned, now_ns) = polled?;
    if turned.end == PollEnd::Interrupted {
        py.check_signals()?;
    }
    Ok(now_ns)
}

/// When the loop is to go on, whoever else has work for its thread.
fn help_until(claim: &OwnerClaim<'_>, began_ns: u64, limit: Duration) -> u64 {
    match u64::try_from(limit.as_nanos()) {
        // SAFETY: runs no Python.
        Ok(0) => unsafe { claim.local(|local| local.due_ns()) },
        limit => began_ns.saturating_add(limit.unwrap_or(u64::MAX)),
    }
}

/// Nothing was done behind the poll.
fn without_help(turned: Turned) -> (Turned, u64) {
    (turned, turned.now_ns)
}

/// Idle time is time in a wait that was allowed to sleep; all else since the first poll is busy.
fn account(core: &LoopCore, began_ns: u64, last_ns: u64, turned: Turned, limit: Duration) {
    let metrics = core.event_loop.metrics();
    metrics.polls.add(1);
    metrics.polled_ns.set(turned.now_ns);
    let spent = turned.now_ns.saturating_sub(began_ns);
    let ran = if last_ns == 0 { 0 } else { began_ns.saturating_sub(last_ns) };
    let (busy, idle) = if limit.is_zero() { (ran + spent, 0) } else { (ran, spent) };
    metrics.busy_ns.add(busy);
    metrics.idle_ns.add(idle);
    metrics.busy.note(busy, idle);
}
