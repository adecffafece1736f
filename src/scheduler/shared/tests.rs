//! The crew's promises, by real threads and the real deques. The sleepers are `loom_tests`' affair.

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

    fn sleep(&self, seat: usize) -> Parked<'_> {
        let Park::Sleep(parked) = self.idle[seat].park(|_| false) else { panic!("no work") };
        parked
    }

    fn wake(&self, parked: Parked<'_>, seat: usize) -> Option<SearchPermit> {
        drop(parked);
        self.idle[seat].take_summons()
    }
}

impl Sleepers for Beds {
    fn is_parked(&self, seat: WorkerIndex) -> bool {
        self.idle[seat.0].is_parked()
    }

    fn is_preferred(&self, seat: WorkerIndex) -> bool {
        !self.spared.contains(&seat.0)
    }

    fn summon(&self, seat: WorkerIndex) -> bool {
        let summoned = self.idle[seat.0].summon(SearchKind::default());
        if summoned {
            self.woken.borrow_mut().push(seat.0);
        }
        summoned
    }
}

fn crew<const N: usize>() -> (Arc<SchedulerShared<usize>>, [Worker<usize>; N]) {
    let (crew, workers) = SchedulerShared::new(N);
    let Ok(workers) = workers.try_into() else { panic!("as many as asked for") };
    (crew, workers)
}

fn find(worker: &mut Worker<usize>) -> Option<usize> {
    worker.find(&Nobody)
}

#[test]
fn own_jobs_come_out_in_the_order_they_went_in() {
    let (crew, [mut worker]) = crew();
    assert!(worker.is_empty() && !crew.has_work());
    (0..4).for_each(|job| worker.push(job));
    assert!(worker.len() == 4 && crew.has_work());
    assert_eq!(worker.pop(), Some(0));
    assert_eq!(find(&mut worker), Some(1));
    assert_eq!([worker.pop(), worker.pop(), worker.pop()], [Some(2), Some(3), None]);
    assert_eq!(find(&mut worker), None);
}

#[test]
fn a_thief_takes_the_older_half() {
    let (_crew, [mut victim, mut thief]) = crew();
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
    let (_crew, [victim, mut thief]) = crew();
    victim.push(7);
    assert_eq!(find(&mut thief), Some(7));
    (0..1000).for_each(|job| victim.push(job));
    assert_eq!(find(&mut thief), Some(0));
    assert_eq!(thief.len(), STEAL_LIMIT - 1);
}

#[test]
fn victims_are_tried_from_a_random_one_on_and_none_is_left_out() {
    let (_crew, [mut thief, first, second, third]) = crew();
    let mut seen = HashSet::new();
    for _ in 0..64 {
        for victim in [&first, &second, &third] {
            victim.push(victim.seat().0);
        }
        seen.insert(find(&mut thief).expect("there were jobs"));
        assert!(find(&mut thief).is_some() && find(&mut thief).is_some());
        assert_eq!(find(&mut thief), None);
    }
    assert_eq!(seen.len(), 3, "the search always began at the same victim");
}

#[test]
fn an_injected_job_is_found_by_a_thread_that_never_runs_out_of_its_own() {
    let (crew, [mut worker]) = crew();
    crew.inject(usize::MAX);
    assert!(crew.has_work());
    // By a search, or by a look at nothing but what is its own.
    for take in [find, Worker::pop] {
        let taken = (1..=INJECTOR_INTERVAL).find(|_| {
            worker.push(0);
            take(&mut worker) == Some(usize::MAX)
        });
        assert_eq!(taken, Some(INJECTOR_INTERVAL));
        crew.inject(usize::MAX);
    }
}

#[test]
fn the_injector_comes_before_other_threads() {
    let (crew, [victim, mut thief]) = crew();
    victim.push(1);
    crew.inject(2);
    assert_eq!([find(&mut thief), find(&mut thief)], [Some(2), Some(1)]);
}

#[test]
fn one_sleeper_is_woken_at_a_time_and_wakes_the_next_if_there_is_more() {
    let (crew, [busy, mut first, mut second]) = crew();
    let beds = Beds::new(3);
    let (one, two) = (beds.sleep(1), beds.sleep(2));
    (0..4).for_each(|job| busy.push(job));
    crew.wake_one(&beds);
    crew.wake_one(&beds);
    assert_eq!(*beds.woken.borrow(), [1]);
    let summons = beds.wake(one, 1).unwrap();
    assert_eq!(first.answer(summons, &beds), Some(0));
    assert_eq!((busy.len(), first.len()), (2, 1));
    assert_eq!(*beds.woken.borrow(), [1, 2]);
    // All who are left are awake: nobody is woken.
    let summons = beds.wake(two, 2).unwrap();
    assert!(second.answer(summons, &beds).is_some());
    crew.wake_one(&beds);
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
    let (crew, [worker, _]) = crew();
    worker.push(1);
    let wake = panic::AssertUnwindSafe(|| crew.wake_one(&Broken));
    assert!(panic::catch_unwind(wake).is_err());
    let beds = Beds::new(2);
    let parked = beds.sleep(1);
    crew.wake_one(&beds);
    assert!(beds.wake(parked, 1).is_some());
}

#[test]
fn wakes_go_round() {
    let (crew, [busy, mut first, mut second, mut third]) = crew();
    let beds = Beds::new(4);
    for round in 1..=6 {
        let parked = [1, 2, 3].map(|seat| (seat, beds.sleep(seat)));
        busy.push(round);
        crew.wake_one(&beds);
        for ((seat, parked), worker) in
            parked.into_iter().zip([&mut first, &mut second, &mut third])
        {
            if let Some(summons) = beds.wake(parked, seat) {
                assert_eq!(worker.answer(summons, &beds), Some(round));
            }
        }
    }
    assert_eq!(*beds.woken.borrow(), [1, 2, 3, 1, 2, 3]);
}

#[test]
fn one_who_is_to_be_spared_is_woken_after_the_others_but_is_woken() {
    let (crew, [busy, mut first, mut second]) = crew();
    let beds = Beds { spared: vec![1], ..Beds::new(3) };
    let (one, two) = (beds.sleep(1), beds.sleep(2));
    (0..2).for_each(|job| busy.push(job));
    crew.wake_one(&beds);
    assert_eq!(*beds.woken.borrow(), [2]);
    let summons = beds.wake(two, 2).unwrap();
    assert_eq!(second.answer(summons, &beds), Some(0));
    assert_eq!(*beds.woken.borrow(), [2, 1], "a job is slept through by nobody");
    let summons = beds.wake(one, 1).unwrap();
    assert_eq!(first.answer(summons, &beds), Some(1));
}

/// Pushed by threads that saw the search under way, when it has passed: whoever ends it takes one of
/// them, and another is woken for the other.
#[test]
fn what_was_left_to_a_search_is_not_left_lying_by_one_that_finds_something_at_the_second_look() {
    let (crew, [busy, mut searcher, other, _sleeper]) = crew();
    let beds = Beds::new(4);
    let (one, two) = (beds.sleep(1), beds.sleep(3));
    crew.wake_one(&beds);
    let summons = beds.wake(one, 1).unwrap();
    let found = searcher.search();
    assert_eq!(found, None);
    for pusher in [&busy, &other] {
        pusher.push(pusher.seat().0);
        crew.wake_one(&beds);
    }
    assert_eq!(*beds.woken.borrow(), [1], "they left it to the search");
    let ended = searcher.give_back(summons);
    assert!(searcher.look_again(&ended, found, &beds).is_some());
    assert_eq!(*beds.woken.borrow(), [1, 3]);
    assert!(beds.wake(two, 3).is_some());
}

#[test]
fn a_summons_answered_in_vain_or_declined_leaves_the_way_free() {
    let (crew, [mut busy, mut first, second]) = crew();
    let beds = Beds::new(3);
    let one = beds.sleep(1);
    busy.push(1);
    crew.wake_one(&beds);
    assert_eq!(find(&mut busy), Some(1));
    assert!(first.answer(beds.wake(one, 1).unwrap(), &beds).is_none());

    let (one, two) = (beds.sleep(1), beds.sleep(2));
    busy.push(2);
    crew.wake_one(&beds);
    second.decline(beds.wake(two, 2).unwrap(), &beds);
    assert_eq!(*beds.woken.borrow(), [1, 2, 1], "another is woken for the job");
    first.decline(beds.wake(one, 1).unwrap(), &beds);
    assert_eq!(*beds.woken.borrow(), [1, 2, 1], "nobody is left to wake");
}

#[test]
fn a_thief_on_its_own_account_wakes_another_for_what_it_leaves() {
    let (_crew, [busy, mut thief, _sleeper]) = crew();
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
    let (crew, [leaver, mut thief]) = crew();
    leaver.push(1);
    drop(leaver);
    assert!(crew.has_work());
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
    let (crew, workers) = SchedulerShared::new(THREADS);
    let runs: Arc<Vec<_>> = Arc::new((0..JOBS).map(|_| AtomicBool::new(false)).collect());
    let left = Arc::new(AtomicUsize::new(JOBS));
    let threads: Vec<_> = workers
        .into_iter()
        .map(|mut worker| {
            let (crew, runs, left) = (Arc::clone(&crew), Arc::clone(&runs), Arc::clone(&left));
            #[allow(clippy::disallowed_methods, reason = "sync::thread is std's here")]
            thread::spawn(move || {
                // The first two threads push all jobs; every tenth is injected.
                let mut to_push = (worker.seat().0..JOBS).step_by(2);
                let is_pusher = worker.seat().0 < 2;
                while left.load(Relaxed) > 0 {
                    for job in to_push.by_ref().take(if is_pusher { 48 } else { 0 }) {
                        if job % 10 == 0 { crew.inject(job) } else { worker.push(job) }
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
    assert!(!crew.has_work() && runs.iter().all(|run| run.load(Relaxed)));
}
