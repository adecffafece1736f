//! The helper of last resort: the monitor does the socket work of a stuck loop, whether other threads are
//! free or not.
//!
//! In: which loops are stuck, per sample. Out: jobs, left to a thread that already helps, offered to idle
//! threads, or run here. It watches the epoll instance of a stuck loop with the monitor's own, and polls it
//! whenever the right to poll is free.
//!
//! Must never: wait for a loop.

// It polls a stuck loop when it begins to help, when the loop's epoll instance reports something, and again
// if a poll may have left events: it was full, or somebody else was polling. In between there is
// nothing to find: an event that arrives is reported, whatever lies there already, as the monitor's
// registration is edge-triggered and made before the first poll. If the loop cannot be watched, it is
// polled at every look.
//
// The helper takes over the pending work of a stuck loop. It leaves the jobs to a thread that already
// helps, if there is one; otherwise it offers all but a few to the idle threads and runs the rest.
// When the loop continues, the helper releases its epoll instance, and the loop polls for itself
// again. Jobs that the helper already has are finished, because no other thread knows of them.

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use super::{Budget, PoolShared};
use crate::config;
use crate::event_loop::{Completion, Job, Shared, Turned};
use crate::id::IoToken;
use crate::reactor::{Driver, Edges, Handle, PollEnd, Ready};
use crate::scheduler::WorkerIndex;
use crate::transport::Scratch;

/// What is done about one loop.
#[derive(Clone, Copy, Debug, Default)]
struct Helped {
    /// It is stuck, and what it left lying has been taken up.
    is_taken: bool,
    /// Its epoll, if that is watched.
    selector: Option<RawFd>,
    /// There may be events that no poll has found.
    is_due: bool,
}

#[derive(Debug)]
pub(super) struct Helper {
    pool_shared: Arc<PoolShared>,
    /// The monitor's own, by which it also sleeps.
    driver: Driver,
    helped: Box<[Helped]>,
    found: Vec<Ready>,
    jobs: VecDeque<Job>,
    scratch: Scratch,
}

impl Helper {
    /// With no loop to help, and its reactor known to the pool.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub(super) fn new(pool_shared: Arc<PoolShared>) -> io::Result<Self> {
        let (driver, handle) = Driver::new()?;
        pool_shared.set_monitor(Some(handle));
        let helped = pool_shared.loops.iter().map(|_| Helped::default()).collect();
        let (found, jobs, scratch) = (Vec::new(), VecDeque::new(), Scratch::default());
        Ok(Self { pool_shared, driver, helped, found, jobs, scratch })
    }

    /// Waits until a stuck loop's epoll has something to report, or the pool wakes the monitor.
    pub(super) fn wait(&mut self, limit: Duration) {
        self.found.clear();
        // Nothing can fail but by a signal, after which we look again.
        let _ = self.driver.poll(limit, &mut self.found);
        for ready in &self.found {
            if let Some(helped) = self.helped.get_mut(ready.token.slot() as usize) {
                helped.is_due = true;
            }
        }
    }

    /// Whether it has anything to do without waiting.
    pub(super) fn has_jobs(&self) -> bool {
        !self.jobs.is_empty()
    }

    /// Whether a stuck loop may have events that nothing reports any more.
    pub(super) fn is_due(&self) -> bool {
        self.helped.iter().any(|helped| helped.is_due)
    }

    /// Notes whether a loop is stuck at this look: begins to work for it, goes on, or lets it go.
    pub(super) fn follow(&mut self, worker_index: usize, shared: &Arc<Shared>, is_stuck: bool) {
        if !is_stuck {
            self.release(worker_index);
            return;
        }
        if self.helped[worker_index].is_taken {
            // What the callback writes while a turn reads on is queued, and nothing reports it.
            let jobs = &mut self.jobs;
            shared.pending(true, |job| jobs.push_back(job));
        } else {
            self.take(worker_index, shared);
        }
        if std::mem::take(&mut self.helped[worker_index].is_due) {
            self.poll(worker_index, shared);
        }
    }

    /// Makes jobs of what a stuck loop's reactor has to report.
    fn poll(&mut self, worker_index: usize, shared: &Arc<Shared>) {
        self.found.clear();
        let polled =
            shared.try_poller().map(|mut poller| poller.poll(Duration::ZERO, &mut self.found));
        let is_done = matches!(polled, Some(Ok(Turned { end: PollEnd::Done, .. })));
        // The waker's event may be one of them.
        let is_full = self.found.len() + 1 >= config::EVENTS_PER_POLL;
        let helped = &mut self.helped[worker_index];
        helped.is_due = !is_done || is_full || helped.selector.is_none();
        let jobs = &mut self.jobs;
        shared.note(&self.found, |job| jobs.push_back(job));
    }

    /// Takes up what the owner of a loop has not got to, and watches its reactor.
    fn take(&mut self, worker_index: usize, shared: &Arc<Shared>) {
        shared.metrics.handoffs.add(1);
        self.helped[worker_index] = Helped { is_taken: true, selector: None, is_due: true };
        let Ok(selector) = shared.with_handle(Handle::selector) else { return };
        let token = IoToken::of_source(u32::try_from(worker_index).unwrap_or(0), 0);
        let watched =
            self.pool_shared.with_monitor(|handle| handle.register(selector, token, Edges::Read));
        if matches!(watched, Some(Ok(()))) {
            self.helped[worker_index].selector = Some(selector);
        }
        let jobs = &mut self.jobs;
        shared.pending(false, |job| jobs.push_back(job));
        // Others' among them: it had taken them along.
        jobs.extend(std::iter::from_fn(|| {
            self.pool_shared.scheduler_shared.take_from(WorkerIndex(worker_index))
        }));
    }

    /// Offers what has come for a stuck loop to one that is not: one that sleeps, if there is one.
    fn offer(&self, job: &Job) {
        let others = || {
            let others =
                self.pool_shared.loops().filter(|(index, _)| !self.helped[*index].is_taken);
            others.map(|(_, shared)| shared).filter(|shared| !Arc::ptr_eq(shared, &job.owner))
        };
        let idle = others().find(|shared| shared.idle().is_parked());
        if let Some(shared) = idle.or_else(|| others().next()) {
            shared.complete(Completion::Offered(Arc::clone(&job.owner), job.token));
        }
    }

    fn release(&mut self, worker_index: usize) {
        let helped = std::mem::take(&mut self.helped[worker_index]);
        if let Some(selector) = helped.selector {
            // The loop may have been closed, and the number reused: then it is not ours.
            let _ = self.pool_shared.with_monitor(|handle| handle.deregister(selector));
        }
    }

    /// Leaves jobs to a thread that is at jobs already, and many to those that are idle. If there are
    /// none it does them, and takes back what was left to others: each once at most, and no longer than
    /// a budget lasts, so that the next look comes soon.
    pub(super) fn run_jobs(&mut self, now_ns: u64) {
        let is_helped = self.pool_shared.has_helper();
        if is_helped || (self.jobs.len() > config::BEHIND && self.pool_shared.has_sleeper()) {
            let kept = if is_helped { 0 } else { config::BEHIND / 2 };
            self.pool_shared.inject(self.jobs.drain(kept..));
        } else if self.jobs.is_empty() {
            let taken = std::iter::from_fn(|| self.pool_shared.scheduler_shared.take_injected());
            self.jobs.extend(taken.take(config::BEHIND));
        }
        let budget = Budget::new(now_ns, u64::MAX, || false);
        for _ in 0..self.jobs.len() {
            let Some(job) = self.jobs.pop_front() else { break };
            let report = job.run(self.scratch.get(), true);
            if report.offers {
                self.offer(&job);
            }
            if report.again {
                self.jobs.push_back(job);
            }
            if budget.is_spent() {
                break;
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
