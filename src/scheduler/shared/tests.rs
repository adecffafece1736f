//! The scheduler's promises, by real threads and the real deques. The sleepers are `loom_tests`' affair.

use std::cell::RefCell;
use std::collections::HashSet;
use std::panic;

use super::super::{Idle, Park, Parked, SearchKind, SearchPermit};
use super::*;
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use crate::sync::{Arc, thread};

impl<J> Worker<J> {
    fn len(&self) -> usize {
        self.deque.len()
    }
}

/// Nobody sleeps.
struct Nobody;

impl Sleepers for Nobody {
    fn is_parked(&self, _: WorkerIndex) -> bool {
        false
    }

    fn summon(&self, _: WorkerIndex) -> bool {
        false
    }
}

/// Threads in name only, that sleep when they are told, and a list of the wakes.
#[derive(Default)]
struct Beds {
    idle: Vec<Idle>,
    woken: RefCell<Vec<usize>>,
    /// Who is not to be woken while another sleeps.
    spared: Vec<usize>,
}

impl Beds {
    fn new(count: usize) -> Self {
        Self { idle: iter::repeat_with(Idle::default).take(count).collect(), ..Self::default() }
    }

    fn sleep(&self, worker_index: usize) -> Parked<'_> {
        let Park::Sleep(parked) = self.idle[worker_index].park(|_| false) else {
            panic!("no work")
        };
        parked
    }

    fn wake(&self, parked: Parked<'_>, worker_index: usize) -> Option<SearchPermit> {
        drop(parked);
        self.idle[worker_index].take_permit()
    }
}

impl Sleepers for Beds {
    fn is_parked(&self, worker_index: WorkerIndex) -> bool {
        self.idle[worker_index.0].is_parked()
    }

    fn is_preferred(&self, worker_index: WorkerIndex) -> bool {
        !self.spared.contains(&worker_index.0)
    }

    fn summon(&self, worker_index: WorkerIndex) -> bool {
        let summoned = self.idle[worker_index.0].summon(SearchKind::default());
        if summoned {
            self.woken.borrow_mut().push(worker_index.0);
        }
        summoned
    }
}

fn scheduler_shared<const N: usize>() -> (Arc<SchedulerShared<usize>>, [Worker<usize>; N]) {
    let (scheduler_shared, workers) = SchedulerShared::new(N);
    let Ok(workers) = workers.try_into() else { panic!("as many as asked for") };
    (scheduler_shared, workers)
}

fn find(worker: &mut Worker<usize>) -> Option<usize> {
    worker.find(&Nobody)
}

#[test]
fn own_jobs_come_out_in_the_order_they_went_in() {
    let (scheduler_shared, [mut worker]) = scheduler_shared();
    assert!(worker.is_empty() && !scheduler_shared.has_work());
    (0..4).for_each(|job| worker.push(job));
    assert!(worker.len() == 4 && scheduler_shared.has_work());
    assert_eq!(worker.pop(), Some(0));
    assert_eq!(find(&mut worker), Some(1));
    assert_eq!([worker.pop(), worker.pop(), worker.pop()], [Some(2), Some(3), None]);
    assert_eq!(find(&mut worker), None);
}

#[test]
fn a_thief_takes_the_older_half() {
    let (_scheduler, [mut victim, mut thief]) = scheduler_shared();
    (0..10).for_each(|job| victim.push(job));
    assert_eq!(find(&mut thief), Some(0));
    assert_eq!((victim.len(), thief.len()), (5, 4));
    for job in 1..5 {
        assert_eq!(find(&mut thief), Some(job));
    }
    assert_eq!(victim.pop(), Some(5));
    assert_eq!(find(&mut thief), Some(6));
    assert_eq!((victim.len(), thief.len()), (2, 1));
}

#[test]
fn a_thief_takes_the_last_job_and_never_more_than_the_limit() {
    let (_scheduler, [victim, mut thief]) = scheduler_shared();
    victim.push(7);
    assert_eq!(find(&mut thief), Some(7));
    (0..1000).for_each(|job| victim.push(job));
    assert_eq!(find(&mut thief), Some(0));
    assert_eq!(thief.len(), STEAL_LIMIT - 1);
}

#[test]
fn victims_are_tried_from_a_random_one_on_and_none_is_left_out() {
    let (_scheduler, [mut thief, first, second, third]) = scheduler_shared();
    let mut seen = HashSet::new();
    for _ in 0..64 {
        for victim in [&first, &second, &third] {
            victim.push(victim.index().0);
        }
        seen.insert(find(&mut thief).expect("there were jobs"));
        assert!(find(&mut thief).is_some() && find(&mut thief).is_some());
        assert_eq!(find(&mut thief), None);
    }
    assert_eq!(seen.len(), 3, "the search always began at the same victim");
}

#[test]
fn an_injected_job_is_found_by_a_thread_that_never_runs_out_of_its_own() {
    let (scheduler_shared, [mut worker]) = scheduler_shared();
    scheduler_shared.inject(usize::MAX);
    assert!(scheduler_shared.has_work());
    // By a search, or by a look at nothing but what is its own.
    for take in [find, Worker::pop] {
        let taken = (1..=INJECTOR_INTERVAL).find(|_| {
            worker.push(0);
            take(&mut worker) == Some(usize::MAX)
        });
        assert_eq!(taken, Some(INJECTOR_INTERVAL));
        scheduler_shared.inject(usize::MAX);
    }
}

#[test]
fn the_injector_comes_before_other_threads() {
    let (scheduler_shared, [victim, mut thief]) = scheduler_shared();
    victim.push(1);
    scheduler_shared.inject(2);
    assert_eq!([find(&mut thief), find(&mut thief)], [Some(2), Some(1)]);
}

#[test]
fn one_sleeper_is_woken_at_a_time_and_wakes_the_next_if_there_is_more() {
    let (scheduler_shared, [busy, mut first, mut second]) = scheduler_shared();
    let beds = Beds::new(3);
    let (one, two) = (beds.sleep(1), beds.sleep(2));
    (0..4).for_each(|job| busy.push(job));
    scheduler_shared.wake_one(&beds);
    scheduler_shared.wake_one(&beds);
    assert_eq!(*beds.woken.borrow(), [1]);
    let permit = beds.wake(one, 1).unwrap();
    assert_eq!(first.answer(permit, &beds), Some(0));
    assert_eq!((busy.len(), first.len()), (2, 1));
    assert_eq!(*beds.woken.borrow(), [1, 2]);
    // All who are left are awake: nobody is woken.
    let permit = beds.wake(two, 2).unwrap();
    assert!(second.answer(permit, &beds).is_some());
    scheduler_shared.wake_one(&beds);
    assert_eq!(*beds.woken.borrow(), [1, 2]);
}

/// Somebody sleeps, and cannot be woken.
struct Broken;

impl Sleepers for Broken {
    fn is_parked(&self, _: WorkerIndex) -> bool {
        true
    }

    fn is_preferred(&self, _: WorkerIndex) -> bool {
        true
    }

    fn summon(&self, _: WorkerIndex) -> bool {
        panic!("the wake fails")
    }
}

#[test]
fn a_wake_that_panics_keeps_nobody_else_from_waking() {
    let (scheduler_shared, [worker, _]) = scheduler_shared();
    worker.push(1);
    let wake = panic::AssertUnwindSafe(|| scheduler_shared.wake_one(&Broken));
    assert!(panic::catch_unwind(wake).is_err());
    let beds = Beds::new(2);
    let parked = beds.sleep(1);
    scheduler_shared.wake_one(&beds);
    assert!(beds.wake(parked, 1).is_some());
}

#[test]
fn wakes_go_round() {
    let (scheduler_shared, [busy, mut first, mut second, mut third]) = scheduler_shared();
    let beds = Beds::new(4);
    for round in 1..=6 {
        let parked = [1, 2, 3].map(|worker_index| (worker_index, beds.sleep(worker_index)));
        busy.push(round);
        scheduler_shared.wake_one(&beds);
        for ((worker_index, parked), worker) in
            parked.into_iter().zip([&mut first, &mut second, &mut third])
        {
            if let Some(permit) = beds.wake(parked, worker_index) {
                assert_eq!(worker.answer(permit, &beds), Some(round));
            }
        }
    }
    assert_eq!(*beds.woken.borrow(), [1, 2, 3, 1, 2, 3]);
}

#[test]
fn one_who_is_to_be_spared_is_woken_after_the_others_but_is_woken() {
    let (scheduler_shared, [busy, mut first, mut second]) = scheduler_shared();
    let beds = Beds { spared: vec![1], ..Beds::new(3) };
    let (one, two) = (beds.sleep(1), beds.sleep(2));
    (0..2).for_each(|job| busy.push(job));
    scheduler_shared.wake_one(&beds);
    assert_eq!(*beds.woken.borrow(), [2]);
    let permit = beds.wake(two, 2).unwrap();
    assert_eq!(second.answer(permit, &beds), Some(0));
    assert_eq!(*beds.woken.borrow(), [2, 1], "a job is slept through by nobody");
    let permit = beds.wake(one, 1).unwrap();
    assert_eq!(first.answer(permit, &beds), Some(1));
}

/// Pushed by threads that saw the search under way, when it has passed: whoever ends it takes one of
/// them, and another is woken for the other.
#[test]
fn what_was_left_to_a_search_is_not_left_lying_by_one_that_finds_something_at_the_second_look() {
    let (scheduler_shared, [busy, mut searcher, other, _sleeper]) = scheduler_shared();
    let beds = Beds::new(4);
    let (one, two) = (beds.sleep(1), beds.sleep(3));
    scheduler_shared.wake_one(&beds);
    let permit = beds.wake(one, 1).unwrap();
    let found = searcher.search();
    assert_eq!(found, None);
    for pusher in [&busy, &other] {
        pusher.push(pusher.index().0);
        scheduler_shared.wake_one(&beds);
    }
    assert_eq!(*beds.woken.borrow(), [1], "they left it to the search");
    let ended = searcher.give_back(permit);
    assert!(searcher.look_again(&ended, found, &beds).is_some());
    assert_eq!(*beds.woken.borrow(), [1, 3]);
    assert!(beds.wake(two, 3).is_some());
}

#[test]
fn a_summons_answered_in_vain_or_declined_leaves_the_way_free() {
    let (scheduler_shared, [mut busy, mut first, second]) = scheduler_shared();
    let beds = Beds::new(3);
    let one = beds.sleep(1);
    busy.push(1);
    scheduler_shared.wake_one(&beds);
    assert_eq!(find(&mut busy), Some(1));
    assert!(first.answer(beds.wake(one, 1).unwrap(), &beds).is_none());

    let (one, two) = (beds.sleep(1), beds.sleep(2));
    busy.push(2);
    scheduler_shared.wake_one(&beds);
    second.decline(beds.wake(two, 2).unwrap(), &beds);
    assert_eq!(*beds.woken.borrow(), [1, 2, 1], "another is woken for the job");
    first.decline(beds.wake(one, 1).unwrap(), &beds);
    assert_eq!(*beds.woken.borrow(), [1, 2, 1], "nobody is left to wake");
}

#[test]
fn a_thief_on_its_own_account_wakes_another_for_what_it_leaves() {
    let (_scheduler, [busy, mut thief, _sleeper]) = scheduler_shared();
    let beds = Beds::new(3);
    let parked = beds.sleep(2);
    busy.push(1);
    assert!(thief.find(&beds).is_some());
    assert!(beds.woken.borrow().is_empty(), "it took one job and runs it");
    (0..4).for_each(|job| busy.push(job));
    assert!(thief.find(&beds).is_some());
    assert_eq!(*beds.woken.borrow(), [2]);
    drop(parked);
}

#[test]
fn what_a_worker_leaves_behind_can_still_be_stolen() {
    let (scheduler_shared, [leaver, mut thief]) = scheduler_shared();
    leaver.push(1);
    drop(leaver);
    assert!(scheduler_shared.has_work());
    assert_eq!(find(&mut thief), Some(1));
}

#[test]
#[cfg_attr(
    miri,
    ignore = "a thief of crossbeam's reads a job before it knows whether it is its own"
)]
fn no_job_is_lost_or_run_twice_among_threads() {
    const THREADS: usize = 4;
    const JOBS: usize = 100_000;
    let (scheduler_shared, workers) = SchedulerShared::new(THREADS);
    let runs: Arc<Vec<_>> = Arc::new((0..JOBS).map(|_| AtomicBool::new(false)).collect());
    let left = Arc::new(AtomicUsize::new(JOBS));
    let threads: Vec<_> = workers
        .into_iter()
        .map(|mut worker| {
            let (scheduler_shared, runs, left) =
                (Arc::clone(&scheduler_shared), Arc::clone(&runs), Arc::clone(&left));
            #[allow(clippy::disallowed_methods, reason = "sync::thread is std's here")]
            thread::spawn(move || {
                // The first two threads push all jobs; every tenth is injected.
                let mut to_push = (worker.index().0..JOBS).step_by(2);
                let is_pusher = worker.index().0 < 2;
                while left.load(Relaxed) > 0 {
                    for job in to_push.by_ref().take(if is_pusher { 48 } else { 0 }) {
                        if job % 10 == 0 { scheduler_shared.inject(job) } else { worker.push(job) }
                    }
                    for _ in 0..16 {
                        let Some(job) = worker.find(&Nobody) else { break };
                        assert!(!runs[job].swap(true, Relaxed), "run twice");
                        left.fetch_sub(1, Relaxed);
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert!(!scheduler_shared.has_work() && runs.iter().all(|run| run.load(Relaxed)));
}
