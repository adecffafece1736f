//! Models of a task that one thread cancels, watches or ends while another one begins or ends it, checked over every
//! interleaving. Run by `make test-loom`.

use super::task_phase::{
    BeginOutcome, CancelFrom, CancelOutcome, EndOutcome, TaskPhase, TaskState, TaskWord,
};
use crate::sync::{Arc, Mutex, thread};

const CORO: u32 = 1;
const TASK: u32 = 2;
const MESSAGE: u32 = 3;
const RESULT: u32 = 4;
const ERROR: u32 = 5;

/// A task, with what `PoolTaskCore` has of it.
struct Model {
    word: TaskWord,
    locked: Mutex<Locked>,
}

#[derive(Default)]
struct Locked {
    state: TaskState<u32, u32>,
    /// A loop has it.
    has_loop: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as it is called")]
fn copy(one: &u32) -> u32 {
    *one
}

impl Model {
    fn unbegun() -> Arc<Self> {
        let mut locked = Locked::default();
        locked.state.set_coro(CORO);
        Arc::new(Self { word: TaskWord::default(), locked: Mutex::new(locked) })
    }

    fn running() -> Arc<Self> {
        let model = Self::unbegun();
        model.enter();
        assert_eq!(model.begin(), BeginOutcome::Begins(CORO));
        model.locked.lock().state.started(TASK);
        model
    }

    fn enter(&self) {
        self.locked.lock().has_loop = true;
    }

    fn begin(&self) -> BeginOutcome<u32> {
        self.locked.lock().state.begin()
    }

    /// From another thread than the loop's.
    fn cancel(&self) -> CancelOutcome<u32> {
        let mut locked = self.locked.lock();
        let from = if locked.has_loop { CancelFrom::OtherThread } else { CancelFrom::NoLoop };
        locked.state.cancel(&self.word, MESSAGE, from, copy)
    }

    /// As `pool_task_end::end`: who is to be told, if this was the end.
    fn end(&self, phase: TaskPhase, outcome: u32) -> Option<Vec<u32>> {
        let ended = self.locked.lock().state.end(&self.word, phase, outcome, copy);
        match ended {
            EndOutcome::Ended { watchers, .. } => Some(watchers),
            EndOutcome::TooLate(back) => {
                assert_eq!(back, outcome);
                None
            }
            EndOutcome::AskedToStop { message, .. } => self.end(TaskPhase::Cancelled, message),
        }
    }

    fn outcome(&self) -> Option<u32> {
        self.locked.lock().state.outcome().copied()
    }
}

/// In a thread of its own.
fn meanwhile<T: 'static>(
    model: &Arc<Model>,
    f: impl FnOnce(&Model) -> T + 'static,
) -> loom::thread::JoinHandle<T> {
    let model = Arc::clone(model);
    thread::spawn(move || f(&model))
}

/// `cancel()` says False and there is a result, or True and it is cancelled: one of them was first.
#[test]
fn loom_a_cancellation_that_is_said_to_be_heard_is() {
    loom::model(|| {
        let model = Model::running();
        let cancelling = meanwhile(&model, Model::cancel);
        assert_eq!(model.end(TaskPhase::Returned, RESULT), Some(vec![]));
        match cancelling.join().unwrap() {
            CancelOutcome::TooLate(MESSAGE) => {
                assert_eq!(model.word.phase(), TaskPhase::Returned);
                assert_eq!(model.outcome(), Some(RESULT));
            }
            CancelOutcome::CallLoop => {
                assert_eq!(model.word.phase(), TaskPhase::Cancelled);
                assert_eq!(model.outcome(), Some(MESSAGE));
            }
            outcome => panic!("{outcome:?}"),
        }
    });
}

/// A coroutine is run, or closed by one thread, and a cancellation is not lost: as a loop takes it and begins it.
#[test]
fn loom_a_cancelled_coroutine_is_closed_once_or_hears_of_it() {
    loom::model(|| {
        let model = Model::unbegun();
        let cancelling = meanwhile(&model, |model| {
            let outcome = model.cancel();
            if let CancelOutcome::Unbegun { coro, message } = outcome {
                assert_eq!(coro, CORO);
                assert_eq!(model.end(TaskPhase::Cancelled, message), Some(vec![]));
            }
            outcome
        });
        model.enter();
        let begun = model.begin();
        match begun {
            BeginOutcome::Begins(_) => model.locked.lock().state.started(TASK),
            BeginOutcome::Cancelled { message, .. } => {
                assert_eq!(model.end(TaskPhase::Cancelled, message), Some(vec![]));
            }
            BeginOutcome::HasBegun => {}
        }
        let cancelled = cancelling.join().unwrap();
        let called = model.locked.lock().state.take_cancels(copy);
        match (begun, cancelled) {
            (BeginOutcome::Begins(CORO), CancelOutcome::CallLoop) => {
                assert_eq!(called, Some((TASK, vec![MESSAGE])));
            }
            (BeginOutcome::Cancelled { coro: CORO, .. }, CancelOutcome::Left)
            | (BeginOutcome::HasBegun, CancelOutcome::Unbegun { .. }) => {
                assert_eq!(model.word.phase(), TaskPhase::Cancelled);
            }
            both => panic!("{both:?}"),
        }
    });
}

/// Whoever wants to know of the end is told once: by who ends it, or at once.
#[test]
fn loom_a_watcher_is_told_once() {
    loom::model(|| {
        let model = Model::running();
        let watching = meanwhile(&model, |model| {
            let late = model.locked.lock().state.watch(&model.word, 7).err();
            if late.is_some() {
                assert_eq!(model.outcome(), Some(RESULT), "and it has ended");
            }
            late
        });
        let told = model.end(TaskPhase::Returned, RESULT);
        let mut all: Vec<_> = told.into_iter().flatten().collect();
        all.extend(watching.join().unwrap());
        assert_eq!(all, [7]);
    });
}

/// A loop that ends abandons a task which ends by itself at that moment, and is watched.
#[test]
fn loom_a_task_ends_once() {
    loom::model(|| {
        let model = Model::running();
        assert_eq!(model.locked.lock().state.watch(&model.word, 7), Ok(()));
        let abandoning = meanwhile(&model, |model| model.end(TaskPhase::Raised, ERROR));
        let ended = model.end(TaskPhase::Returned, RESULT);
        let abandoned = abandoning.join().unwrap();
        let (phase, outcome) = match (ended, abandoned) {
            (Some(watchers), None) => {
                assert_eq!(watchers, [7]);
                (TaskPhase::Returned, RESULT)
            }
            (None, Some(watchers)) => {
                assert_eq!(watchers, [7]);
                (TaskPhase::Raised, ERROR)
            }
            both => panic!("{both:?}"),
        };
        assert_eq!((model.word.phase(), model.outcome()), (phase, Some(outcome)));
    });
}

/// Who sees without the lock that it has raised, and fetches the exception, is not followed by a report that nobody
/// has.
#[test]
fn loom_an_exception_that_was_fetched_is_not_reported() {
    loom::model(|| {
        let model = Model::running();
        let fetching = meanwhile(&model, |model| {
            let has_raised = model.word.phase() == TaskPhase::Raised;
            if has_raised {
                model.word.fetched();
                assert_eq!(model.outcome(), Some(ERROR));
            }
            has_raised
        });
        assert_eq!(model.end(TaskPhase::Raised, ERROR), Some(vec![]));
        let was_fetched = fetching.join().unwrap();
        assert_eq!(model.word.take_unfetched(), !was_fetched);
    });
}
