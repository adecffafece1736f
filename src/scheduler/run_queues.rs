//! One run queue per thread: work is pushed to a queue by any thread, and run by the queue's own thread,
//! its home, or by a thread that takes it before it has started.
//!
//! In: work. Out: each piece once, oldest first; and whom to wake, through the caller's [`Homes`]. A
//! sleeping home is woken for a push. If the home is awake, one idle thread is kept watching instead of
//! sleeping. The protocol is in `README.md` beside this file, under *Run queues*.
//!
//! Must never: decide where work is placed, or when it is taken.

use crossbeam_utils::CachePadded;

use super::deque::Injector;
use super::search::Search;
use super::{SearchKind, SearchPermit, Sleepers, WorkerIndex};
use crate::sync::announce::{Announced, announce};
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

/// What the homes' threads do, and how to wake them: the caller's part.
pub trait Homes: Sleepers {
    /// [`Idle::is_awake`](super::Idle::is_awake) of the thread of this index.
    fn is_awake(&self, worker_index: WorkerIndex) -> bool;

    /// [`Idle::posted`](super::Idle::posted) of the thread of this index, which is woken through the
    /// kernel if that says so.
    fn post(&self, worker_index: WorkerIndex, announced: &Announced);
}

#[derive(Debug)]
struct Queue<J> {
    jobs: Injector<J>,
    /// Counts what was pushed, and what was taken out: their difference is the queue's length, as soon
    /// as nobody is at it. Both wrap.
    pushed: AtomicUsize,
    taken: AtomicUsize,
    /// Nobody comes for what is pushed any more.
    is_closed: AtomicBool,
}

impl<J> Queue<J> {
    fn new() -> Self {
        Self {
            jobs: Injector::new(),
            pushed: AtomicUsize::new(0),
            taken: AtomicUsize::new(0),
            is_closed: AtomicBool::new(false),
        }
    }

    fn push(&self, job: J) {
        self.pushed.fetch_add(1, Relaxed);
        self.jobs.push(job);
    }

    fn pop(&self) -> Option<J> {
        let job = self.jobs.steal_one()?;
        self.taken.fetch_add(1, Relaxed);
        Some(job)
    }
}

/// The run queues of a pool's threads.
#[derive(Debug)]
pub struct RunQueues<J> {
    queues: Box<[CachePadded<Queue<J>>]>,
    /// By whom the watch is kept.
    search: Search,
    kind: SearchKind,
}

/// The watch is kept by whoever has this: nobody else is woken for what lies on the queues. It is given
/// back before the thread runs anything that may take long.
#[derive(Debug)]
#[must_use = "nobody else is woken until it is given back"]
pub struct Watch(SearchPermit);

impl Watch {
    /// Of a thread that was woken for it.
    pub fn from_summons(permit: SearchPermit) -> Self {
        Self(permit)
    }
}

impl<J: Send> RunQueues<J> {
    /// For so many threads. `kind`: by which a thread's search permit says that it is for these.
    #[must_use]
    pub fn new(threads: usize, kind: SearchKind) -> Self {
        let queues = std::iter::repeat_with(|| CachePadded::new(Queue::new())).take(threads);
        Self { queues: queues.collect(), search: Search::new(threads), kind }
    }

    /// Places work on a queue, and sees to it that it is not slept through. Any thread. Returns what
    /// nobody will do, if the queue's thread has left it for good.
    #[must_use = "what nobody will do is lost"]
    pub fn push(&self, home: WorkerIndex, job: J, homes: &impl Homes) -> Vec<J> {
        let queue = &self.queues[home.0];
        let pushed = announce(|| queue.push(job));
        homes.post(home, &pushed);
        if pushed.look(|| queue.is_closed.load(Relaxed)) {
            return self.take_all(home);
        }
        // One that is being woken looks at its queue first of all.
        if homes.is_awake(home) {
            self.watch_for(&pushed, homes);
        }
        Vec::new()
    }

    /// As [`push`](Self::push), on the own queue, by its thread: which is awake.
    pub fn push_own(&self, own: WorkerIndex, job: J, homes: &impl Homes) {
        self.watch_for(&announce(|| self.queues[own.0].push(job)), homes);
    }

    /// As [`push_own`](Self::push_own), what the thread most likely comes to at once: nobody is woken for
    /// it. Somebody else is to call [`see_to_it`](Self::see_to_it) if it lies for longer.
    pub fn push_alone(&self, own: WorkerIndex, job: J) {
        self.queues[own.0].push(job);
    }

    /// Takes the oldest from a queue: its home, or who takes it away. Any thread.
    #[must_use = "work that is dropped is lost"]
    pub fn pop(&self, worker_index: WorkerIndex) -> Option<J> {
        self.queues[worker_index.0].pop()
    }

    /// Moves so many, the oldest, from one queue to the caller's own, and those of others: each where
    /// `place` says. Returns how many there were. Before [`stand_down`](Self::stand_down), by which
    /// somebody sees to those that were placed on the caller's own.
    pub fn take_over(
        &self,
        from: WorkerIndex,
        own: WorkerIndex,
        count: usize,
        homes: &impl Homes,
        mut place: impl FnMut() -> WorkerIndex,
    ) -> usize {
        let taken = std::iter::from_fn(|| self.pop(from)).take(count);
        let moved = taken.map(|job| {
            let worker_index = place();
            if worker_index == own {
                self.queues[own.0].push(job);
            } else {
                // One that has left gives it back.
                self.push(worker_index, job, homes)
                    .into_iter()
                    .for_each(|job| self.queues[own.0].push(job));
            }
        });
        moved.count()
    }

    /// Takes all from a queue.
    pub fn take_all(&self, worker_index: WorkerIndex) -> Vec<J> {
        std::iter::from_fn(|| self.pop(worker_index)).collect()
    }

    /// As [`take_all`](Self::take_all), of a home that leaves: what is pushed from then on is given back
    /// to whoever does it.
    pub fn close(&self, worker_index: WorkerIndex) -> Vec<J> {
        // Either who pushes sees that the queue is closed, or we see what was pushed.
        let closed = announce(|| self.queues[worker_index.0].is_closed.store(true, Relaxed));
        closed.look(|| self.take_all(worker_index))
    }

    /// Whether the home has left for good.
    pub fn is_closed(&self, worker_index: WorkerIndex) -> bool {
        self.queues[worker_index.0].is_closed.load(Relaxed)
    }

    /// Whether nothing lies on a queue.
    #[inline]
    pub fn is_empty(&self, worker_index: WorkerIndex) -> bool {
        self.queues[worker_index.0].jobs.is_empty()
    }

    /// About how many lie on a queue, for whoever weighs queues against each other.
    #[inline]
    pub fn len(&self, worker_index: WorkerIndex) -> usize {
        let queue = &self.queues[worker_index.0];
        let length = queue.pushed.load(Relaxed).wrapping_sub(queue.taken.load(Relaxed));
        // Read apart from each other, they may be out of order.
        length.cast_signed().max(0).cast_unsigned()
    }

    /// Counts what was ever pushed on a queue. It wraps.
    pub fn pushed(&self, worker_index: WorkerIndex) -> usize {
        self.queues[worker_index.0].pushed.load(Relaxed)
    }

    /// All worker indices, beginning with the one behind this.
    pub fn all_after(&self, last: WorkerIndex) -> impl Iterator<Item = WorkerIndex> + use<J> {
        self.search.all_after(last)
    }

    // -- the watch -------------------------------------------------------------------------------

    /// Sees to it that somebody keeps the watch, or nobody sleeps: when work lies on the queue of a
    /// thread that is awake, and may be long in coming to it. Any thread.
    pub fn see_to_it(&self, homes: &impl Homes) {
        self.watch_for(&Announced::so_far(), homes);
    }

    fn watch_for(&self, pushed: &Announced, homes: &impl Homes) {
        let worker_indices = || (0..self.queues.len()).map(WorkerIndex);
        let lies = || {
            worker_indices()
                .any(|worker_index| !self.is_empty(worker_index) && homes.is_awake(worker_index))
        };
        self.search.wake_one(pushed, homes, lies);
    }

    /// Looks at all queues, on the last look before a sleep, and begins or ends the watch as needed.
    /// `look`: at the queues of the other threads that are awake.
    pub fn look_out(
        &self,
        own: WorkerIndex,
        watch: &mut Option<Watch>,
        mut look: impl FnMut() -> LookOutcome,
    ) -> LookOutcome {
        if !self.is_empty(own) {
            return LookOutcome::Own;
        }
        loop {
            match look() {
                LookOutcome::Waiting => {
                    if watch.is_none() {
                        *watch = self.search.begin(self.kind).map(Watch);
                    }
                    // Unless it is ours, another keeps the watch.
                    return if watch.is_some() { LookOutcome::Waiting } else { LookOutcome::Clear };
                }
                LookOutcome::Clear if watch.is_some() => {
                    if let Some(Watch(permit)) = watch.take() {
                        // Others have relied on it until now: look once more.
                        let _ = self.search.give_back(permit, own);
                    }
                }
                outlook => return outlook,
            }
        }
    }

    /// Ends the watch, if the thread keeps it, before it does anything else; and sees to it that
    /// another keeps it if there is need. After each wait, and after work was taken over.
    pub fn stand_down(&self, own: WorkerIndex, watch: Option<Watch>, homes: &impl Homes) {
        let had_watch = watch.is_some();
        let announced = match watch {
            Some(Watch(permit)) => self.search.give_back(permit, own),
            // That it is awake: who found that it sleeps or is being woken, and left the rest to it,
            // has pushed what is seen from here on.
            None => Announced::so_far(),
        };
        let mut others =
            (0..self.queues.len()).map(WorkerIndex).filter(|worker_index| *worker_index != own);
        // Of its own, the first is begun at once.
        let lies = self.len(own) > 1
            || had_watch
                && others.any(|worker_index| {
                    !self.is_empty(worker_index) && homes.is_awake(worker_index)
                });
        if lies {
            self.watch_for(&announced, homes);
        }
    }
}

/// What the last look before a sleep has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookOutcome {
    /// Nothing that is not on its way: sleep.
    Clear,
    /// Something that its home will begin soon, unless it is held up: sleep for a limited time, and
    /// look again.
    Waiting,
    /// Something to begin, on the own queue.
    Own,
    /// Something to take from this queue.
    Due(WorkerIndex),
}
