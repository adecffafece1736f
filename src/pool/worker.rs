//! What a loop's thread does, detached, while it has no work of its own, and how it sleeps.
//!
//! In: how long there is nothing to do; jobs on its own deque and on others; search permits. Out: completed
//! jobs, and the kernel's events for the loop. A thread runs jobs only in [`LoopWorker::help`], bounded by
//! a [`Budget`] and marked in its [`LoopProgress`](crate::event_loop::LoopProgress), so that it does not
//! count as stuck.
//!
//! Must never: run Python, or wait while a job is available.

use std::sync::Arc;
use std::time::Duration;

use super::PoolShared;
use super::adaptive_spin::AdaptiveSpin;
use super::spawns::SpawnPlacer;
use super::unstarted::Unstarted;
use crate::config;
use crate::error::LoopError;
use crate::event_loop::{Completion, EventLoop, Job, Shared, Turned};
use crate::id::LoopId;
use crate::reactor::Ready;
use crate::scheduler::{LookOutcome, SearchPermit, Watch, Worker};
use crate::sys::clock;
use crate::transport::Scratch;

/// When a thread that does jobs turns to its own loop again.
#[derive(Debug)]
pub struct Budget<W, N = fn() -> u64> {
    until_ns: u64,
    is_wanted: W,
    now_ns: N,
}

impl<W: Fn() -> bool> Budget<W> {
    /// From `now_ns` on for [`config::JOBS_FOR`], and no longer than until `until_ns`, when a timer
    /// is due, or until the loop is wanted: something was posted to it.
    pub fn new(now_ns: u64, until_ns: u64, is_wanted: W) -> Self {
        let limit = u64::try_from(config::JOBS_FOR.as_nanos()).unwrap_or(u64::MAX);
        let until_ns = until_ns.min(now_ns.saturating_add(limit));
        Self { until_ns, is_wanted, now_ns: clock::monotonic_ns }
    }
}

impl<W: Fn() -> bool, N: Fn() -> u64> Budget<W, N> {
    pub(super) fn is_spent(&self) -> bool {
        (self.is_wanted)() || (self.now_ns)() >= self.until_ns
    }
}

/// Whose jobs a thread does in a turn, and why.
#[derive(Debug)]
pub enum Call {
    /// Those on its own deque: what it has offered and nobody took, or taken along and not done. One at
    /// least, whatever the budget: nobody else may come for it.
    Own,
    /// Anybody's, of its own accord.
    Anybody,
    /// Anybody's, as it was woken to search.
    Summoned(SearchPermit),
}

/// What a thread is woken for, or has undertaken, while it waits: others rely on it, so it is given up when
/// this is dropped, also by a panic.
struct Permits<'a> {
    loop_worker: &'a mut LoopWorker,
    permit: Option<SearchPermit>,
    watch: Option<Watch>,
}

impl Drop for Permits<'_> {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            self.loop_worker.worker.decline(permit, &*self.loop_worker.pool_shared);
        }
        if self.watch.is_some() {
            self.loop_worker.stand_down(self.watch.take());
        }
    }
}

/// One loop's share in its pool; its thread's.
#[derive(Debug)]
pub struct LoopWorker {
    worker: Worker<Job>,
    pub(super) placer: SpawnPlacer,
    spin: AdaptiveSpin,
    pub(super) pool_shared: Arc<PoolShared>,
}

impl PoolShared {
    /// Takes a loop's place; `None` if it is taken, or there is none of that number.
    pub fn join(self: &Arc<Self>, id: LoopId, shared: &Arc<Shared>) -> Option<LoopWorker> {
        let worker_index = id.0 as usize;
        let worker = self.workers.lock().get_mut(worker_index)?.take()?;
        shared.set_id(id);
        self.loops[worker_index].set(Arc::clone(shared)).ok()?;
        Some(LoopWorker::new(worker, self))
    }
}

impl LoopWorker {
    pub(super) fn new(worker: Worker<Job>, pool_shared: &Arc<PoolShared>) -> Self {
        let placer = SpawnPlacer::new(worker.index(), pool_shared.loops.len());
        Self { worker, placer, spin: AdaptiveSpin::default(), pool_shared: Arc::clone(pool_shared) }
    }

    /// The pool.
    #[must_use]
    pub fn pool_shared(&self) -> &Arc<PoolShared> {
        &self.pool_shared
    }

    /// Offers jobs to idle threads, and wakes one if none searches already.
    pub fn offer(&self, jobs: impl Iterator<Item = Job>) {
        jobs.for_each(|job| self.worker.push(job));
        self.pool_shared.scheduler_shared.wake_one(&*self.pool_shared);
    }

    /// Does jobs, one after another, as long as the budget lasts, and [`config::JOBS_PER_TURN`] at
    /// most. What was taken along and not done lies on the own deque. A search permit is answered in any
    /// case: who has no time for it gives it up. Returns how many jobs were done.
    pub fn help(
        &mut self,
        own: &Arc<Shared>,
        scratch: &mut Scratch,
        call: Call,
        budget: &Budget<impl Fn() -> bool, impl Fn() -> u64>,
    ) -> usize {
        let Self { worker, pool_shared, .. } = self;
        let is_own = matches!(call, Call::Own);
        let mut next = match call {
            Call::Own => worker.pop(),
            Call::Summoned(permit) if budget.is_spent() => {
                worker.decline(permit, &**pool_shared);
                None
            }
            Call::Summoned(permit) => worker.answer(permit, &**pool_shared),
            Call::Anybody if budget.is_spent() => None,
            Call::Anybody => worker.find(&**pool_shared),
        };
        let mut done = 0;
        let mut busy = None;
        while let Some(job) = next.take() {
            busy.get_or_insert_with(|| own.progress.busy()).help(job.owner.id());
            let stolen = !Arc::ptr_eq(own, &job.owner);
            let report = job.run(scratch.get(), stolen);
            if report.worked {
                own.metrics.jobs.add(1);
                own.metrics.stolen_by.add(u64::from(stolen));
            }
            if report.offers && stolen {
                own.complete(Completion::Offered(Arc::clone(&job.owner), job.token));
            }
            if report.again {
                worker.push(job);
            }
            done += 1;
            if done == config::JOBS_PER_TURN || budget.is_spent() {
                break;
            }
            next = if is_own { worker.pop() } else { worker.find(&**pool_shared) };
        }
        done
    }

    /// Asks the kernel what the loop has to do, and appends it to `found`. Before that, what lies on
    /// the own deque is done; and unless `limit` is zero, the thread looks for jobs of others, sleeps for
    /// `limit` at most if there are none, and searches once more if it is woken for that. A coroutine that
    /// it takes is begun by the caller. `began_ns`: the clock when the turn began, which is as good as now;
    /// `until_ns`: the loop is to go on then. Returns how the poll ended, and the clock after all
    /// this. Detached.
    ///
    /// # Errors
    /// Those of the kernel, and of a closed loop.
    pub fn wait<C, E>(
        &mut self,
        event_loop: &EventLoop<C, E>,
        scratch: &mut Scratch,
        (began_ns, until_ns): (u64, u64),
        limit: Duration,
        found: &mut Vec<Ready>,
    ) -> Result<(Turned, u64), LoopError> {
        let shared = event_loop.shared();
        let steals = self.pool_shared.steals();
        let is_wanted = || event_loop.has_posts();
        if steals {
            self.help(shared, scratch, Call::Own, &Budget::new(began_ns, until_ns, is_wanted));
        }
        if limit.is_zero() || !self.worker.is_empty() {
            return event_loop.look(found).map(|turned| (turned, turned.now_ns));
        }
        let looked = self.look_before_sleep(shared, is_wanted);
        let mut limit = limit;
        let mut permits = Permits { loop_worker: self, permit: None, watch: None };
        let Permits { loop_worker, permit, watch } = &mut permits;
        let (waited, busy, work, outlook) = loop {
            let (mut work, mut outlook) = (false, LookOutcome::Clear);
            let last_look = || {
                work = steals && loop_worker.pool_shared.scheduler_shared.has_work();
                outlook = loop_worker.look_out(watch);
                match outlook {
                    LookOutcome::Clear if !work => Some(limit),
                    LookOutcome::Waiting if !work => Some(limit.min(config::BEGIN_SOON)),
                    _ => None,
                }
            };
            let waited = event_loop.wait(last_look, found);
            *permit = loop_worker.hear(shared, watch);
            let now_ns = waited.as_ref().map_or(u64::MAX, |turned| turned.now_ns);
            let busy = !found.is_empty() || is_wanted() || now_ns >= until_ns;
            let is_done = work
                || permit.is_some()
                || matches!(outlook, LookOutcome::Own | LookOutcome::Due(_));
            if busy || is_done || watch.is_none() || loop_worker.has_unstarted() {
                break (waited, busy, work, outlook);
            }
            // Nothing but the watch: go on with it.
            limit = Duration::from_nanos(until_ns - now_ns);
        };
        if let LookOutcome::Due(worker_index) = outlook
            && !busy
        {
            loop_worker.take_over(shared, worker_index);
        }
        loop_worker.stand_down(watch.take());
        if let Ok(turned) = &waited
            && !looked
            && is_wanted()
        {
            loop_worker.spin.slept(Duration::from_nanos(turned.now_ns.saturating_sub(began_ns)));
        }
        loop_worker.pool_shared.awake();
        let now_ns = waited.as_ref().map_or(u64::MAX, |turned| turned.now_ns);
        shared.load.slept_ns.set(now_ns);
        let budget = Budget::new(now_ns, if busy { 0 } else { until_ns }, is_wanted);
        let done = match permit.take().map(Call::Summoned).or(work.then_some(Call::Anybody)) {
            Some(call) => loop_worker.help(shared, scratch, call, &budget),
            None => 0,
        };
        waited.map(|turned| (turned, if done > 0 { clock::monotonic_ns() } else { now_ns }))
    }

    /// Looks whether something comes, before a sleep, if that is to be expected.
    fn look_before_sleep(&mut self, own: &Shared, has_come: impl Fn() -> bool) -> bool {
        let Some(limit) = self.spin.look() else { return false };
        let _looking = own.load.look();
        let began_ns = clock::monotonic_ns();
        let found = loop {
            if has_come() || self.has_unstarted() {
                break true;
            }
            if u128::from(clock::monotonic_ns().saturating_sub(began_ns)) > limit.as_nanos() {
                break false;
            }
            (0..16).for_each(|_| std::hint::spin_loop());
        };
        self.spin.looked(found);
        found
    }

    /// Does all that is left, before the thread ends: nobody else may know of it. Returns the
    /// coroutines that have not begun.
    pub fn leave(mut self, own: &Arc<Shared>) -> Vec<Unstarted> {
        let mut scratch = Scratch::default();
        while !self.worker.is_empty() {
            self.help(own, &mut scratch, Call::Own, &Budget::new(0, 0, || false));
        }
        self.close_unstarted()
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
