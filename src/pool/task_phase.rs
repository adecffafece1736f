//! The phase of a `PoolTask`, who asked for its end, and who watches for it: of two threads, which was first.
//!
//! In: the coroutine, as it begins and ends; requests to cancel it, and watchers, from any thread. Out of each
//! transition: what is left to the caller, to be done outside of the lock. Must never: know what a coroutine is; run
//! or drop one, or anything else that it was given: what it gives up it returns.

use crate::sync::atomic::{
    AtomicBool, AtomicU8,
    Ordering::{Acquire, Relaxed, Release},
};

#[cfg(all(test, not(loom)))]
mod tests;

/// How a task ended, if it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TaskPhase {
    /// It has not.
    Pending,
    /// It has a result.
    Returned,
    /// By an exception.
    Raised,
    /// By a cancellation.
    Cancelled,
}

/// What of a task is looked at without its lock.
#[derive(Debug)]
pub struct TaskWord {
    /// A [`TaskPhase`]. Written once, by [`TaskState::end`].
    phase: AtomicU8,
    /// It ended by an exception that nobody has fetched.
    unfetched: AtomicBool,
    /// Somebody has awaited it.
    awaited: AtomicBool,
}

impl Default for TaskWord {
    fn default() -> Self {
        Self {
            phase: AtomicU8::new(TaskPhase::Pending as u8),
            unfetched: AtomicBool::new(false),
            awaited: AtomicBool::new(false),
        }
    }
}

impl TaskWord {
    /// How the task ended. What was written before its end is then seen.
    #[inline(always)]
    #[must_use]
    pub fn phase(&self) -> TaskPhase {
        match self.phase.load(Acquire) {
            0 => TaskPhase::Pending,
            1 => TaskPhase::Returned,
            2 => TaskPhase::Raised,
            _ => TaskPhase::Cancelled,
        }
    }

    /// Whether it has ended.
    #[inline(always)]
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.phase() != TaskPhase::Pending
    }

    /// Whether somebody has awaited it.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        self.awaited.load(Relaxed)
    }

    /// Notes that somebody awaits it.
    pub fn set_awaited(&self) {
        self.awaited.store(true, Relaxed);
    }

    /// Notes that the exception was fetched by which it has ended.
    pub fn fetched(&self) {
        self.unfetched.store(false, Relaxed);
    }

    /// Whether it ended by an exception that nobody has fetched. True once.
    #[must_use]
    pub fn take_unfetched(&self) -> bool {
        self.unfetched.swap(false, Relaxed)
    }

    /// Publishes the end. Under the lock of the state, which has the outcome.
    fn publish(&self, phase: TaskPhase) {
        // Whoever sees the phase may fetch the exception at once: so this comes first.
        self.unfetched.store(phase == TaskPhase::Raised, Relaxed);
        self.phase.store(phase as u8, Release);
    }
}

/// The rest of what decides about a task. Its owner has it under a lock, and passes the task's own [`TaskWord`] along.
///
/// `R`: a reference, to the coroutine, the running task, the message of a cancellation, or the outcome. `W`: who
/// wants to know of the end.
#[derive(Debug)]
pub struct TaskState<R, W> {
    /// The coroutine, until it begins.
    coro: Option<R>,
    /// What runs it, while it runs.
    task: Option<R>,
    /// The messages of the cancellations that were asked for and have not reached it. The first one first.
    cancels: Vec<R>,
    /// What it ended with.
    outcome: Option<R>,
    watchers: Vec<W>,
}

impl<R, W> Default for TaskState<R, W> {
    fn default() -> Self {
        Self { coro: None, task: None, cancels: Vec::new(), outcome: None, watchers: Vec::new() }
    }
}

/// From where a cancellation is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelFrom {
    /// No loop has the task yet.
    NoLoop,
    /// The thread of the loop that has it.
    OwnThread,
    /// Another one.
    OtherThread,
}

/// What a request to cancel comes to. All but the first is heard by the coroutine.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub enum CancelOutcome<R> {
    /// The end was first. The message comes back.
    TooLate(R),
    /// The coroutine has not begun, and nobody begins it now: the caller closes it, and ends the task.
    Unbegun {
        /// The coroutine.
        coro: R,
        /// The message.
        message: R,
    },
    /// The caller cancels what runs it, on whose thread it is.
    Direct {
        /// What runs it.
        task: R,
        /// The message.
        message: R,
    },
    /// The message is left, to be found as the coroutine begins.
    Left,
    /// The message is left. It has begun: its loop is to be called, to [`TaskState::take_cancels`].
    CallLoop,
}

/// What a coroutine's begin comes to.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub enum BeginOutcome<R> {
    /// It begins: the caller runs it, and [`TaskState::started`].
    Begins(R),
    /// It was cancelled before: the caller closes it, and ends the task.
    Cancelled {
        /// The coroutine.
        coro: R,
        /// The message that was last.
        message: R,
        /// The others, to be dropped.
        others: Vec<R>,
    },
    /// It has begun before, and the loop was called as it was cancelled: [`TaskState::take_cancels`].
    HasBegun,
}

/// What an end comes to.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub enum EndOutcome<R, W> {
    /// It has ended.
    Ended {
        /// To be dropped: what has run it, and what else there was before.
        task: Option<R>,
        /// To be dropped: messages of cancellations.
        cancels: Vec<R>,
        /// To be told.
        watchers: Vec<W>,
    },
    /// Another end was first. The outcome comes back.
    TooLate(R),
    /// It returned a result when it had been asked to stop: it is to end as cancelled, with this message. The result
    /// comes back.
    AskedToStop {
        /// A copy of the message.
        message: R,
        /// The result.
        outcome: R,
    },
}

impl<R, W> TaskState<R, W> {
    /// Sets the coroutine of a new task.
    pub fn set_coro(&mut self, coro: R) {
        self.coro = Some(coro);
    }

    /// The coroutine, until it begins.
    #[must_use]
    pub fn coro(&self) -> Option<&R> {
        self.coro.as_ref()
    }

    /// What runs it, while it runs.
    #[must_use]
    pub fn task(&self) -> Option<&R> {
        self.task.as_ref()
    }

    /// What it ended with.
    #[must_use]
    pub fn outcome(&self) -> Option<&R> {
        self.outcome.as_ref()
    }

    /// Who is to be told of its end.
    pub fn watchers(&self) -> impl Iterator<Item = &W> {
        self.watchers.iter()
    }

    /// All references but those of watchers.
    pub fn references(&self) -> impl Iterator<Item = &R> {
        [&self.coro, &self.task, &self.outcome].into_iter().flatten().chain(&self.cancels)
    }

    /// Takes the coroutine, if it has not begun: nobody begins it then.
    #[must_use]
    pub fn take_unbegun(&mut self) -> Option<R> {
        self.coro.take()
    }

    /// Asks the coroutine to stop.
    #[inline]
    pub fn cancel(
        &mut self,
        word: &TaskWord,
        message: R,
        from: CancelFrom,
        copy: impl FnOnce(&R) -> R,
    ) -> CancelOutcome<R> {
        if word.is_done() {
            return CancelOutcome::TooLate(message);
        }
        match from {
            // The other loop may be held up for long. On one's own nothing has ended when `cancel` returns, as
            // in asyncio.
            CancelFrom::OtherThread => {
                if let Some(coro) = self.coro.take() {
                    return CancelOutcome::Unbegun { coro, message };
                }
            }
            // What others have asked for before comes first.
            CancelFrom::OwnThread if self.cancels.is_empty() => {
                if let Some(task) = &self.task {
                    return CancelOutcome::Direct { task: copy(task), message };
                }
            }
            CancelFrom::OwnThread | CancelFrom::NoLoop => {}
        }
        self.cancels.push(message);
        if self.coro.is_none() && from != CancelFrom::NoLoop {
            CancelOutcome::CallLoop
        } else {
            CancelOutcome::Left
        }
    }

    /// Lets the coroutine begin, on its loop's thread.
    #[inline]
    pub fn begin(&mut self) -> BeginOutcome<R> {
        let Some(coro) = self.coro.take() else { return BeginOutcome::HasBegun };
        let mut others = std::mem::take(&mut self.cancels);
        match others.pop() {
            Some(message) => BeginOutcome::Cancelled { coro, message, others },
            None => BeginOutcome::Begins(coro),
        }
    }

    /// Notes what runs the coroutine.
    pub fn started(&mut self, task: R) {
        debug_assert!(self.task.is_none());
        self.task = Some(task);
    }

    /// Takes the cancellations that have not reached the coroutine, with what is to be cancelled, if it runs.
    #[must_use]
    pub fn take_cancels(&mut self, copy: impl FnOnce(&R) -> R) -> Option<(R, Vec<R>)> {
        let task = copy(self.task.as_ref()?);
        Some((task, std::mem::take(&mut self.cancels)))
    }

    /// Puts the message of a cancellation back that came too late for a step: the end finds it.
    pub fn put_back(&mut self, message: R) {
        self.cancels.push(message);
    }

    /// Ends the task, if nothing has ended it before.
    #[inline]
    pub fn end(
        &mut self,
        word: &TaskWord,
        phase: TaskPhase,
        outcome: R,
        copy: impl FnOnce(&R) -> R,
    ) -> EndOutcome<R, W> {
        if word.is_done() {
            return EndOutcome::TooLate(outcome);
        }
        if let (TaskPhase::Returned, Some(message)) = (phase, self.cancels.last()) {
            return EndOutcome::AskedToStop { message: copy(message), outcome };
        }
        self.outcome = Some(outcome);
        word.publish(phase);
        EndOutcome::Ended {
            task: self.task.take(),
            cancels: std::mem::take(&mut self.cancels),
            watchers: std::mem::take(&mut self.watchers),
        }
    }

    /// Notes who wants to know of the end.
    ///
    /// # Errors
    /// It has ended: the watcher, to be told now.
    #[inline]
    pub fn watch(&mut self, word: &TaskWord, watcher: W) -> Result<(), W> {
        if word.is_done() {
            return Err(watcher);
        }
        self.watchers.push(watcher);
        Ok(())
    }

    /// Takes back the watchers that `is_one` picks out, in the order in which they came.
    #[must_use]
    pub fn unwatch(&mut self, mut is_one: impl FnMut(&W) -> bool) -> Vec<W> {
        self.watchers.extract_if(.., |watcher| is_one(watcher)).collect()
    }
}
