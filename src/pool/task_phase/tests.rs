//! Each transition of a task, by one thread.

use super::*;

type State = TaskState<&'static str, u32>;

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as it is called")]
fn copy(one: &&'static str) -> &'static str {
    one
}

fn unbegun() -> (TaskWord, State) {
    let mut state = State::default();
    state.set_coro("coro");
    (TaskWord::default(), state)
}

fn running() -> (TaskWord, State) {
    let (word, mut state) = unbegun();
    assert_eq!(state.begin(), BeginOutcome::Begins("coro"));
    state.started("task");
    (word, state)
}

fn ended(task: Option<&'static str>) -> EndOutcome<&'static str, u32> {
    EndOutcome::Ended { task, cancels: vec![], watchers: vec![] }
}

#[test]
fn a_task_begins_once_and_ends_once() {
    let (word, mut state) = unbegun();
    assert_eq!(state.coro(), Some(&"coro"));
    assert_eq!(state.begin(), BeginOutcome::Begins("coro"));
    assert_eq!(state.begin(), BeginOutcome::HasBegun);
    state.started("task");
    assert_eq!((state.coro(), state.task()), (None, Some(&"task")));
    assert_eq!((word.phase(), word.is_done()), (TaskPhase::Pending, false));
    assert_eq!(state.end(&word, TaskPhase::Returned, "result", copy), ended(Some("task")));
    assert_eq!((word.phase(), word.is_done()), (TaskPhase::Returned, true));
    let again = state.end(&word, TaskPhase::Raised, "error", copy);
    assert_eq!(again, EndOutcome::TooLate("error"));
    assert_eq!((word.phase(), state.outcome()), (TaskPhase::Returned, Some(&"result")));
    assert!(!word.take_unfetched());
}

#[test]
fn an_exception_is_unfetched_until_somebody_asks() {
    let (word, mut state) = running();
    assert_eq!(state.end(&word, TaskPhase::Raised, "error", copy), ended(Some("task")));
    assert!(word.take_unfetched());
    assert!(!word.take_unfetched(), "it is told once");
    let (word, mut state) = running();
    assert_eq!(state.end(&word, TaskPhase::Raised, "error", copy), ended(Some("task")));
    word.fetched();
    assert!(!word.take_unfetched());
}

#[test]
fn who_awaits_is_noted() {
    let word = TaskWord::default();
    assert!(!word.is_awaited());
    word.set_awaited();
    assert!(word.is_awaited());
}

#[test]
fn one_that_has_ended_is_not_cancelled() {
    for from in [CancelFrom::NoLoop, CancelFrom::OwnThread, CancelFrom::OtherThread] {
        let (word, mut state) = running();
        let _ = state.end(&word, TaskPhase::Returned, "result", copy);
        assert_eq!(state.cancel(&word, "stop", from, copy), CancelOutcome::TooLate("stop"));
    }
}

#[test]
fn another_thread_takes_a_coroutine_that_has_not_begun() {
    let (word, mut state) = unbegun();
    let outcome = state.cancel(&word, "stop", CancelFrom::OtherThread, copy);
    assert_eq!(outcome, CancelOutcome::Unbegun { coro: "coro", message: "stop" });
    assert_eq!(state.begin(), BeginOutcome::HasBegun, "nobody begins it");
    assert_eq!(state.take_cancels(copy), None, "and there is nothing to cancel");
}

#[test]
fn on_its_own_thread_it_is_closed_in_place_of_begun() {
    for from in [CancelFrom::OwnThread, CancelFrom::NoLoop] {
        let (word, mut state) = unbegun();
        for message in ["first", "last"] {
            assert_eq!(state.cancel(&word, message, from, copy), CancelOutcome::Left);
        }
        let others = vec!["first"];
        let closed = BeginOutcome::Cancelled { coro: "coro", message: "last", others };
        assert_eq!(state.begin(), closed);
        assert_eq!(state.end(&word, TaskPhase::Cancelled, "last", copy), ended(None));
    }
}

#[test]
fn one_that_runs_is_cancelled_by_its_own_thread_alone() {
    let (word, mut state) = running();
    let outcome = state.cancel(&word, "stop", CancelFrom::OwnThread, copy);
    assert_eq!(outcome, CancelOutcome::Direct { task: "task", message: "stop" });
    let outcome = state.cancel(&word, "one", CancelFrom::OtherThread, copy);
    assert_eq!(outcome, CancelOutcome::CallLoop);
    // After what was asked for before.
    let outcome = state.cancel(&word, "two", CancelFrom::OwnThread, copy);
    assert_eq!(outcome, CancelOutcome::CallLoop);
    assert_eq!(state.take_cancels(copy), Some(("task", vec!["one", "two"])));
    assert_eq!(state.take_cancels(copy), Some(("task", vec![])), "each once");
}

#[test]
fn a_request_between_the_begin_and_the_start_waits_for_its_loop() {
    let (word, mut state) = unbegun();
    assert_eq!(state.begin(), BeginOutcome::Begins("coro"));
    let outcome = state.cancel(&word, "stop", CancelFrom::OtherThread, copy);
    assert_eq!(outcome, CancelOutcome::CallLoop);
    assert_eq!(state.take_cancels(copy), None, "nothing runs yet");
    state.started("task");
    assert_eq!(state.take_cancels(copy), Some(("task", vec!["stop"])));
}

#[test]
fn a_result_that_comes_after_a_request_to_stop_is_none() {
    let (word, mut state) = running();
    let _ = state.cancel(&word, "first", CancelFrom::OtherThread, copy);
    let (_, mut cancels) = state.take_cancels(copy).expect("it runs");
    state.put_back(cancels.remove(0));
    let outcome = state.end(&word, TaskPhase::Returned, "result", copy);
    assert_eq!(outcome, EndOutcome::AskedToStop { message: "first", outcome: "result" });
    assert!(!word.is_done());
    let outcome = state.end(&word, TaskPhase::Cancelled, "args", copy);
    let (cancels, watchers) = (vec!["first"], vec![]);
    assert_eq!(outcome, EndOutcome::Ended { task: Some("task"), cancels, watchers });
    assert_eq!(word.phase(), TaskPhase::Cancelled);
}

#[test]
fn an_exception_stays_one_after_a_request_to_stop() {
    let (word, mut state) = running();
    let _ = state.cancel(&word, "stop", CancelFrom::OtherThread, copy);
    let _ = state.end(&word, TaskPhase::Raised, "error", copy);
    assert_eq!(word.phase(), TaskPhase::Raised);
}

#[test]
fn watchers_are_told_once_and_late_ones_at_once() {
    let (word, mut state) = running();
    for watcher in [1, 2, 3, 2] {
        assert_eq!(state.watch(&word, watcher), Ok(()));
    }
    assert_eq!(state.unwatch(|watcher| *watcher == 2), [2, 2]);
    assert_eq!(state.watchers().collect::<Vec<_>>(), [&1, &3]);
    let EndOutcome::Ended { watchers, .. } = state.end(&word, TaskPhase::Returned, "x", copy)
    else {
        panic!("it has not ended")
    };
    assert_eq!(watchers, [1, 3]);
    assert_eq!(state.watch(&word, 4), Err(4));
    assert_eq!(state.unwatch(|_| true), [0; 0]);
}

#[test]
fn all_references_are_shown() {
    let (word, mut state) = unbegun();
    let _ = state.cancel(&word, "stop", CancelFrom::NoLoop, copy);
    assert_eq!(state.references().collect::<Vec<_>>(), [&"coro", &"stop"]);
    assert_eq!(state.take_unbegun(), Some("coro"));
    let _ = state.end(&word, TaskPhase::Cancelled, "args", copy);
    assert_eq!(state.references().collect::<Vec<_>>(), [&"args"]);
    assert_eq!(state.take_unbegun(), None);
}
