//! Job queues: one deque per thread, which its owner fills and empties and others steal from; and one
//! injector for threads without a deque.
//!
//! In: jobs. Out: each job once, oldest first. Built on crossbeam-deque. That does not run under loom,
//! where a model with the same interface replaces it. The model's `is_empty` is a relaxed load, which
//! guarantees less than crossbeam's, so no proof depends on crossbeam's fences.

#[cfg(not(loom))]
mod imp {
    use crossbeam_deque::{self as crossbeam, Steal};

    /// One thread's jobs. `Send`, not `Sync`.
    pub(in super::super) use crossbeam::Worker as Deque;

    /// Anybody's access to another thread's jobs.
    #[derive(Debug)]
    pub(in super::super) struct Stealer<J>(crossbeam::Stealer<J>);

    /// Jobs of no thread.
    #[derive(Debug)]
    pub(in super::super) struct Injector<J>(crossbeam::Injector<J>);

    impl<J> Stealer<J> {
        pub(in super::super) fn of(deque: &Deque<J>) -> Self {
            Self(deque.stealer())
        }

        pub(in super::super) fn is_empty(&self) -> bool {
            self.0.is_empty()
        }

        pub(in super::super) fn steal_one(&self) -> Option<J> {
            settle(|| self.0.steal())
        }

        /// Moves half of the jobs, rounded up and at most `limit`, to `thief`, and returns the
        /// oldest of them.
        pub(in super::super) fn steal_half(&self, thief: &Deque<J>, limit: usize) -> Option<J> {
            settle(|| self.0.steal_batch_with_limit_and_pop(thief, limit))
        }
    }

    impl<J> Injector<J> {
        pub(in super::super) fn new() -> Self {
            Self(crossbeam::Injector::new())
        }

        pub(in super::super) fn push(&self, job: J) {
            self.0.push(job);
        }

        pub(in super::super) fn is_empty(&self) -> bool {
            self.0.is_empty()
        }

        pub(in super::super) fn steal_one(&self) -> Option<J> {
            settle(|| self.0.steal())
        }

        /// Moves about half of the jobs, at most `limit`, to `thief`, and returns the oldest.
        pub(in super::super) fn steal_half(&self, thief: &Deque<J>, limit: usize) -> Option<J> {
            settle(|| self.0.steal_batch_with_limit_and_pop(thief, limit))
        }
    }

    /// Tries until nobody was quicker: each failure is another thread's success.
    fn settle<J>(mut steal: impl FnMut() -> Steal<J>) -> Option<J> {
        loop {
            match steal() {
                Steal::Success(job) => return Some(job),
                Steal::Empty => return None,
                Steal::Retry => std::hint::spin_loop(),
            }
        }
    }
}

#[cfg(loom)]
mod imp {
    use std::cell::Cell;
    use std::collections::VecDeque;
    use std::marker::PhantomData;
    use std::sync::Arc;

    use crate::sync::Mutex;
    use crate::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    #[derive(Debug)]
    pub(in super::super) struct Injector<J> {
        jobs: Mutex<VecDeque<J>>,
        /// Written under the lock, read without it.
        len: AtomicUsize,
    }

    #[derive(Debug)]
    pub(in super::super) struct Deque<J> {
        queue: Arc<Injector<J>>,
        not_sync: PhantomData<Cell<()>>,
    }

    #[derive(Debug)]
    pub(in super::super) struct Stealer<J>(Arc<Injector<J>>);

    impl<J> Injector<J> {
        pub(in super::super) fn new() -> Self {
            Self { jobs: Mutex::new(VecDeque::new()), len: AtomicUsize::new(0) }
        }

        pub(in super::super) fn is_empty(&self) -> bool {
            self.len.load(Relaxed) == 0
        }

        fn add(&self, new: impl IntoIterator<Item = J>) {
            let mut jobs = self.jobs.lock();
            jobs.extend(new);
            self.len.store(jobs.len(), Relaxed);
        }

        pub(in super::super) fn push(&self, job: J) {
            self.add([job]);
        }

        fn take(&self, count: impl FnOnce(usize) -> usize) -> VecDeque<J> {
            if self.is_empty() {
                return VecDeque::new();
            }
            let mut jobs = self.jobs.lock();
            let count = count(jobs.len()).min(jobs.len());
            let taken = jobs.drain(..count).collect();
            self.len.store(jobs.len(), Relaxed);
            taken
        }

        pub(in super::super) fn steal_one(&self) -> Option<J> {
            self.take(|_| 1).pop_front()
        }

        /// For a moment the jobs lie in neither queue, as crossbeam's do.
        pub(in super::super) fn steal_half(&self, thief: &Deque<J>, limit: usize) -> Option<J> {
            let mut taken = self.take(|len| len.div_ceil(2).min(limit));
            let oldest = taken.pop_front();
            if !taken.is_empty() {
                thief.queue.add(taken);
            }
            oldest
        }
    }

    impl<J> Deque<J> {
        pub(in super::super) fn new_fifo() -> Self {
            Self { queue: Arc::new(Injector::new()), not_sync: PhantomData }
        }

        pub(in super::super) fn push(&self, job: J) {
            self.queue.push(job);
        }

        pub(in super::super) fn pop(&self) -> Option<J> {
            self.queue.steal_one()
        }

        pub(in super::super) fn is_empty(&self) -> bool {
            self.queue.is_empty()
        }
    }

    impl<J> Stealer<J> {
        pub(in super::super) fn of(deque: &Deque<J>) -> Self {
            Self(Arc::clone(&deque.queue))
        }
    }

    impl<J> std::ops::Deref for Stealer<J> {
        type Target = Injector<J>;

        fn deref(&self) -> &Injector<J> {
            &self.0
        }
    }
}

pub(super) use imp::{Deque, Injector, Stealer};
