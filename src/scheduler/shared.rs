//! The state that the threads of a pool share to steal jobs and to wake each other.
//!
//! In: jobs, pushed by a thread on its own deque or injected by any thread; search permits. Out: jobs, to
//! the thread that found them; and whom to wake, through the caller's [`Sleepers`]. `README.md` beside this
//! file has the protocol and its argument.

use std::iter;
use std::sync::Arc;

use super::deque::{Deque, Injector, Stealer};
use super::search::Search;
use super::{SearchPermit, Sleepers, WorkerIndex};
use crate::config::{INJECTOR_INTERVAL, STEAL_LIMIT};
use crate::sync::announce::Announced;

/// What the threads of a pool share of their jobs. Nothing in it is written when a thread parks or
/// wakes of its own accord; a push or a pop writes that thread's deque alone.
#[derive(Debug)]
pub struct SchedulerShared<J> {
    stealers: Box<[Stealer<J>]>,
    injector: Injector<J>,
    search: Search,
}

impl<J: Send> SchedulerShared<J> {
    /// A scheduler of so many threads, and what each of them owns, in the order of their worker indices.
    #[must_use]
    pub fn new(threads: usize) -> (Arc<Self>, Vec<Worker<J>>) {
        let deques: Vec<_> = iter::repeat_with(Deque::new_fifo).take(threads).collect();
        let scheduler_shared = Arc::new(Self {
            stealers: deques.iter().map(Stealer::of).collect(),
            injector: Injector::new(),
            search: Search::new(threads),
        });
        let worker = |(worker_index, deque)| Worker {
            index: WorkerIndex(worker_index),
            deque,
            scheduler_shared: Arc::clone(&scheduler_shared),
            taken: 0,
            random: Random::new(worker_index),
        };
        let workers = deques.into_iter().enumerate().map(worker).collect();
        (scheduler_shared, workers)
    }

    /// Adds a job for whoever comes first; [`wake_one`](Self::wake_one) belongs after it. Any
    /// thread.
    pub fn inject(&self, job: J) {
        self.injector.push(job);
    }

    /// Whether a job lies in any deque or in the injector. Any thread; it writes nothing.
    #[must_use]
    pub fn has_work(&self) -> bool {
        !self.injector.is_empty() || self.stealers.iter().any(|stealer| !stealer.is_empty())
    }

    /// Takes back a job that was injected, if nobody has taken it. Any thread.
    #[must_use = "a job that is dropped is lost"]
    pub fn take_injected(&self) -> Option<J> {
        self.injector.steal_one()
    }

    /// Takes a job from the deque of the thread of this index. Any thread.
    #[must_use = "a job that is dropped is lost"]
    pub fn take_from(&self, worker_index: WorkerIndex) -> Option<J> {
        self.stealers[worker_index.0].steal_one()
    }

    /// Wakes one thread to search, if one sleeps and none has been woken for it already. To be
    /// called after a push or an injection, once for several that follow each other. Any thread.
    pub fn wake_one(&self, sleepers: &impl Sleepers) {
        self.search.wake_one(&Announced::so_far(), sleepers, || self.has_work());
    }
}

/// One thread's share in its scheduler: its own deque, and the way to all others'.
///
/// One thread at a time owns it:
///
/// ```compile_fail
/// fn share<T: Sync>(_: T) {}
/// share(loop_pool::scheduler::SchedulerShared::<u32>::new(1).1);
/// ```
///
/// Whoever gives it up takes out the jobs first, or calls [`SchedulerShared::wake_one`]: what is left can
/// still be stolen.
#[derive(Debug)]
pub struct Worker<J> {
    index: WorkerIndex,
    deque: Deque<J>,
    scheduler_shared: Arc<SchedulerShared<J>>,
    /// Counts what was taken, for the injector's sake.
    taken: u32,
    random: Random,
}

impl<J: Send> Worker<J> {
    /// Whose share it is.
    #[must_use]
    pub fn index(&self) -> WorkerIndex {
        self.index
    }

    /// Adds a job behind the others. [`SchedulerShared::wake_one`] belongs after it, or after the last of
    /// several.
    pub fn push(&self, job: J) {
        self.deque.push(job);
    }

    /// Takes the oldest of the own jobs; but each so many times one that was injected, if there is
    /// one: who never runs out of his own lets none of those starve.
    #[must_use = "a job that is dropped is lost"]
    pub fn pop(&mut self) -> Option<J> {
        self.taken = self.taken.wrapping_add(1);
        if self.taken.is_multiple_of(INJECTOR_INTERVAL)
            && let Some(injected) = self.scheduler_shared.injector.steal_one()
        {
            return Some(injected);
        }
        self.deque.pop()
    }

    /// Whether no job lies on the own deque.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.deque.is_empty()
    }

    /// Looks for a job on the thread's own account: on its deque, in the injector, on the others'
    /// deques. What it takes beyond the one job lies on its deque, and counts as pushed: another
    /// thread may be woken for it.
    #[must_use = "a job that is dropped is lost"]
    pub fn find(&mut self, sleepers: &impl Sleepers) -> Option<J> {
        let (job, moved) = self.search()?;
        if moved {
            self.scheduler_shared.wake_one(sleepers);
        }
        Some(job)
    }

    /// Searches on a search permit, gives the search back, and wakes the next if there is more. `None`
    /// means that there was nothing anywhere after the search was given back.
    #[must_use = "a job that is dropped is lost"]
    pub fn answer(&mut self, permit: SearchPermit, sleepers: &impl Sleepers) -> Option<J> {
        let found = self.search();
        let ended = self.give_back(permit);
        self.look_again(&ended, found, sleepers)
    }

    /// What stands behind the end of a search: others have relied on it for what they pushed.
    fn look_again(
        &mut self,
        ended: &Announced,
        mut found: Option<(J, bool)>,
        sleepers: &impl Sleepers,
    ) -> Option<J> {
        while ended.look(|| self.scheduler_shared.has_work()) {
            if found.is_some() {
                self.scheduler_shared.wake_one(sleepers);
                break;
            }
            found = self.search();
        }
        found.map(|(job, _)| job)
    }

    /// Gives a search permit up without searching, because the thread has its own work, and wakes
    /// another for what there is.
    pub fn decline(&self, permit: SearchPermit, sleepers: &impl Sleepers) {
        if self.give_back(permit).look(|| self.scheduler_shared.has_work()) {
            self.scheduler_shared.wake_one(sleepers);
        }
    }

    fn give_back(&self, permit: SearchPermit) -> Announced {
        self.scheduler_shared.search.give_back(permit, self.index)
    }

    /// A job, and whether others were moved to the own deque along with it.
    fn search(&mut self) -> Option<(J, bool)> {
        if let Some(job) = self.pop() {
            return Some((job, false));
        }
        let Self { index: worker_index, deque, scheduler_shared, .. } = self;
        // From here on the deque holds nothing but what is moved there.
        let start = WorkerIndex(self.random.below(scheduler_shared.stealers.len()));
        let job = scheduler_shared.injector.steal_half(deque, STEAL_LIMIT).or_else(|| {
            scheduler_shared
                .search
                .all_after(start)
                .filter(|victim| victim != worker_index)
                .find_map(|victim| {
                    let stealer = &scheduler_shared.stealers[victim.0];
                    // Stealing is not cheap, even in vain.
                    (!stealer.is_empty()).then(|| stealer.steal_half(deque, STEAL_LIMIT))?
                })
        })?;
        Some((job, !deque.is_empty()))
    }
}

/// Marsaglia's xorshift: good enough to spread thieves over victims.
#[derive(Debug)]
struct Random(u64);

impl Random {
    /// Each worker index has a sequence of its own.
    fn new(worker_index: usize) -> Self {
        Self((worker_index as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    /// A number below `limit`, which is not zero.
    #[allow(clippy::cast_possible_truncation, reason = "the remainder is below a usize")]
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
