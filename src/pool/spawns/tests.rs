//! Where coroutines are placed, and when they are taken.

use crate::pool::LoopWorker;
use crate::pool::Unstarted;
use std::sync::Arc;

use super::*;
use crate::event_loop::EventLoop;
use crate::id::LoopId;
use crate::scheduler::Park;
use crate::sys::thread::ThreadId;

/// Loops that all run, as far as they are asked, in the thread of the test.
struct Pool {
    shared: Arc<PoolShared>,
    loops: Vec<EventLoop<u32>>,
    loop_workers: Vec<LoopWorker>,
}

impl Pool {
    fn new(loops: u32) -> Self {
        let pool_shared = PoolShared::new(loops as usize, true, loops as usize);
        let (loops, loop_workers) = (0..loops)
            .map(|id| {
                let event_loop = EventLoop::<u32>::new().expect("descriptors");
                event_loop.shared().set_running(true);
                // Of late.
                event_loop.shared().load.slept_ns.set(u64::MAX);
                let loop_worker =
                    pool_shared.join(LoopId(id), event_loop.shared()).expect("a place");
                (event_loop, loop_worker)
            })
            .unzip();
        Self { shared: pool_shared, loops, loop_workers }
    }

    fn shared(&self, worker_index: usize) -> &Shared {
        self.loops[worker_index].shared()
    }

    fn leave(&mut self, spawner: usize, count: usize) {
        for number in 0..count {
            assert!(self.loop_workers[spawner].leave_to_all(Unstarted::new(number)).is_empty());
        }
    }

    fn parts(&self) -> Vec<usize> {
        (0..self.loops.len())
            .map(|worker_index| self.shared.starts.len(WorkerIndex(worker_index)))
            .collect()
    }

    /// What the last look before a sleep finds.
    fn look_out(&mut self, worker_index: usize) -> LookOutcome {
        let mut watch = None;
        let outlook = self.loop_workers[worker_index].look_out(&mut watch);
        self.loop_workers[worker_index].stand_down(watch);
        outlook
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for mut loop_worker in self.loop_workers.drain(..) {
            for unstarted in loop_worker.take_unstarted() {
                let _ = unstarted.into_reference();
            }
        }
    }
}

/// Nothing that ends from now on is forgotten before the time that is returned, however slow the machine.
fn remember(pool: &Pool) -> u64 {
    let until_ns = clock::monotonic_ns() + 3_600_000_000_000;
    pool.shared.forget(until_ns);
    until_ns
}

#[test]
fn what_has_ended_counts_for_a_while() {
    let mut pool = Pool::new(2);
    let until_ns = remember(&pool);
    for _ in 0..60 {
        pool.shared(1).load.ended.add(1);
    }
    pool.leave(0, 50);
    assert_eq!(pool.parts(), [50, 0]);
    pool.shared.forget(until_ns + 2_000_000_000);
    pool.leave(0, 40);
    assert!(pool.parts()[1] >= 35, "{:?}", pool.parts());
}

#[test]
fn few_that_live_long_are_spread_behind_many_that_did_not() {
    let mut pool = Pool::new(8);
    remember(&pool);
    for worker_index in 0..8 {
        for _ in 0..500 {
            pool.shared(worker_index).load.ended.add(1);
        }
    }
    let idle: Vec<_> =
        (1..8).map(|worker_index| Arc::clone(pool.loops[worker_index].shared())).collect();
    let _parked: Vec<_> = idle.iter().map(|home| home.idle().park(|_| false)).collect();
    pool.leave(0, 100);
    let parts = pool.parts();
    assert!(parts.iter().all(|part| (9..=16).contains(part)), "{parts:?}");
}

#[test]
fn one_alone_stays_and_wakes_nobody_until_it_lies_for_long() {
    let mut pool = Pool::new(2);
    remember(&pool);
    let home = Arc::clone(pool.loops[1].shared());
    let Park::Sleep(parked) = home.idle().park(|_| false) else { panic!("nothing to do") };
    for _ in 0..2 {
        pool.leave(0, 1);
        assert_eq!(pool.parts(), [1, 0]);
        assert!(home.idle().is_parked());
        let unstarted = pool.loop_workers[0].next_unstarted().expect("left here");
        assert!(pool.loop_workers[0].was_alone());
        let _ = unstarted.into_reference();
        // Nobody had awaited it.
        pool.shared(0).load.ended.add(1);
    }
    pool.leave(0, 1);
    assert_eq!(pool.parts(), [0, 1], "it is no single one");
    drop(parked);
    assert!(pool.shared.starts.pop(WorkerIndex(1)).map(Unstarted::into_reference).is_some());
    let Park::Sleep(parked) = home.idle().park(|_| false) else { panic!("nothing to do") };
    pool.shared.starts.push_alone(WorkerIndex(0), Unstarted::new(1));
    pool.shared.see_to_unstarted(0);
    drop(parked);
    assert!(home.idle().take_permit().is_some());
}

#[test]
fn one_alone_goes_to_a_loop_that_sleeps_with_the_second_or_as_the_turn_ends() {
    for passes in [false, true] {
        let mut pool = Pool::new(2);
        remember(&pool);
        let home = Arc::clone(pool.loops[1].shared());
        let Park::Sleep(parked) = home.idle().park(|_| false) else { panic!("nothing to do") };
        pool.leave(0, 1);
        if passes {
            let unstarted = pool.loop_workers[0].next_unstarted().expect("left here");
            assert!(pool.loop_workers[0].was_alone());
            assert!(pool.loop_workers[0].pass_on(unstarted).is_none());
            assert_eq!(pool.parts(), [0, 1]);
        } else {
            pool.leave(0, 19);
            assert!(pool.parts()[1] >= 9, "{:?}", pool.parts());
        }
        drop(parked);
    }
}

#[test]
fn who_makes_what_is_long_leaves_it_to_others() {
    let mut pool = Pool::new(2);
    remember(&pool);
    pool.shared(0).metrics.begin_ns.set(1_000_000);
    let home = Arc::clone(pool.loops[1].shared());
    let Park::Sleep(parked) = home.idle().park(|_| false) else { panic!("nothing to do") };
    pool.leave(0, 1);
    assert_eq!(pool.parts(), [0, 1]);
    let expected_ns = pool.shared(0).metrics.begin_ns.get();
    assert!(expected_ns < 1_000_000, "one that was long does not decide for ever");
    drop(parked);
}

#[test]
fn what_is_taken_is_spread_over_those_that_sleep() {
    let mut pool = Pool::new(4);
    for number in 0..30 {
        let refused = pool.shared.starts.push(
            WorkerIndex(0),
            Unstarted::new(number),
            &SpawnTargets(&pool.shared),
        );
        assert!(refused.is_empty());
    }
    let own = Arc::clone(pool.loops[1].shared());
    let other = Arc::clone(pool.loops[2].shared());
    let Park::Sleep(parked) = other.idle().park(|_| false) else { panic!("nothing to do") };
    pool.loop_workers[1].take_over(&own, WorkerIndex(0));
    // The last one works, or is held up as well.
    assert_eq!(pool.parts(), [15, 8, 7, 0]);
    assert!(!other.idle().is_parked(), "it has been woken");
    drop(parked);
}

/// Uses so much of a processor.
fn compute(duration: Duration) {
    let before = ThreadId::current().processor_time();
    while ThreadId::current()
        .processor_time()
        .zip(before)
        .is_some_and(|(now, before)| now < before + duration)
    {}
}

#[test]
fn a_burst_is_spread_whoever_is_asleep() {
    for loops in [2, 3, 4, 8, 20] {
        for asleep in 0..loops {
            let mut pool = Pool::new(loops);
            let idle: Vec<_> = (1..=asleep.min(loops - 1))
                .map(|worker_index| Arc::clone(pool.loops[worker_index as usize].shared()))
                .collect();
            let _parked: Vec<_> = idle.iter().map(|home| home.idle().park(|_| false)).collect();
            let each = 20;
            pool.leave(0, each * loops as usize);
            let parts = pool.parts();
            assert!(parts.iter().all(|part| (15..=26).contains(part)), "{parts:?}");
        }
    }
}

#[test]
fn who_makes_many_short_ones_gets_fewer_of_them_until_that_is_forgotten() {
    for (loops, made) in [(2, 400), (3, 600), (8, 1600)] {
        let mut pool = Pool::new(loops);
        let until_ns = remember(&pool);
        pool.shared(0).metrics.begin_ns.set(5_000);
        pool.leave(0, made);
        let parts = pool.parts();
        let share = made / loops as usize;
        assert!((share * 3 / 4..share - share / 8).contains(&parts[0]), "{parts:?}");
        assert!(parts.iter().all(|part| *part <= share + share / 4), "{parts:?}");
        let ended: Vec<_> =
            pool.loop_workers.iter_mut().flat_map(LoopWorker::take_unstarted).collect();
        for unstarted in ended {
            let _ = unstarted.into_reference();
        }
        pool.shared.forget(until_ns + 2_000_000_000);
        pool.shared(0).metrics.begin_ns.set(5_000_000);
        pool.leave(0, made);
        let parts = pool.parts();
        assert!(parts[0] >= share - share / 8, "to make long ones is nothing: {parts:?}");
    }
}

#[test]
fn a_new_burst_makes_up_for_nothing() {
    let mut pool = Pool::new(2);
    remember(&pool);
    for _ in 0..60 {
        pool.shared(1).load.ended.add(1);
    }
    pool.leave(0, 100);
    assert!(pool.parts()[0] >= 75, "it is one burst: {:?}", pool.parts());
    let begun: Vec<_> = pool.loop_workers.iter_mut().flat_map(LoopWorker::take_unstarted).collect();
    for unstarted in begun {
        let _ = unstarted.into_reference();
    }
    compute(2 * config::BURST_PAUSE);
    pool.leave(0, 100);
    assert!((45..=55).contains(&pool.parts()[0]), "{:?}", pool.parts());
}

#[test]
fn all_that_make_as_many_keep_their_share() {
    let mut pool = Pool::new(3);
    remember(&pool);
    for _ in 0..40 {
        for worker_index in 0..3 {
            pool.shared(worker_index).metrics.begin_ns.set(5_000);
            pool.leave(worker_index, 5);
        }
    }
    let parts = pool.parts();
    assert!(parts.iter().all(|part| (180..=220).contains(part)), "{parts:?}");
}

#[test]
fn a_loop_that_sleeps_is_preferred_and_then_the_spawner_itself() {
    let mut pool = Pool::new(3);
    pool.leave(0, 1);
    assert_eq!(pool.parts(), [1, 0, 0], "the others work");
    let home = Arc::clone(pool.loops[2].shared());
    let Park::Sleep(parked) = home.idle().park(|_| false) else { panic!("nothing to do") };
    pool.leave(0, 1);
    assert_eq!(pool.parts(), [1, 0, 1]);
    assert!(!home.idle().is_parked(), "it has been woken");
    drop(parked);
}

#[test]
fn a_few_more_stay_while_all_loops_are_busy() {
    let mut pool = Pool::new(3);
    for worker_index in [1, 2] {
        pool.shared(worker_index).load.slept_ns.set(0);
    }
    pool.leave(0, 8);
    assert_eq!(pool.parts(), [8, 0, 0]);
    pool.leave(0, 100);
    let parts = pool.parts();
    assert!(parts.iter().all(|part| (30..=44).contains(part)), "{parts:?}");
}

#[test]
fn what_has_begun_counts_until_it_ends() {
    let mut pool = Pool::new(3);
    pool.shared(1).load.spawned.set(30);
    pool.leave(0, 60);
    assert_eq!(pool.parts()[1], 0);
    pool.shared(1).load.spawned.set(0);
    pool.leave(0, 30);
    assert!(pool.parts()[1] >= 25);
}

#[test]
fn a_loop_that_ended_or_is_not_run_gets_nothing() {
    let mut pool = Pool::new(3);
    assert!(pool.loop_workers[1].close_unstarted().is_empty());
    pool.shared(2).set_running(false);
    pool.leave(0, 10);
    assert_eq!(pool.parts(), [10, 0, 0]);
    let refused =
        pool.shared.starts.push(WorkerIndex(1), Unstarted::new(7), &SpawnTargets(&pool.shared));
    assert_eq!(refused.into_iter().map(Unstarted::into_reference).collect::<Vec<_>>(), [7]);
}

#[test]
fn what_lies_on_a_loop_that_nobody_runs_is_taken_at_once() {
    let mut pool = Pool::new(2);
    pool.leave(0, 1);
    assert_eq!(pool.look_out(1), LookOutcome::Waiting);
    pool.shared(0).set_running(false);
    assert_eq!(pool.look_out(1), LookOutcome::Due(WorkerIndex(0)));
    let own = Arc::clone(pool.loops[1].shared());
    pool.loop_workers[1].take_over(&own, WorkerIndex(0));
    assert_eq!(pool.parts(), [0, 1]);
    assert_eq!(pool.look_out(1), LookOutcome::Own);
}

#[test]
fn a_home_that_computes_is_held_up_and_one_that_goes_on_is_not() {
    let mut pool = Pool::new(2);
    pool.leave(0, 2);
    assert_eq!(pool.look_out(1), LookOutcome::Waiting);
    compute(2 * config::BEGIN_SOON);
    // It has begun one meanwhile.
    pool.shared(0).metrics.begun.add(1);
    assert_eq!(pool.look_out(1), LookOutcome::Waiting);
    compute(2 * config::BEGIN_SOON);
    assert_eq!(pool.look_out(1), LookOutcome::Due(WorkerIndex(0)));
    pool.shared(1).load.spawned.set(100);
    assert_eq!(
        pool.loop_workers[1].placer.room(&pool.shared, WorkerIndex(0)),
        0,
        "it has had more than is fair"
    );
    compute(config::HELD_UP_LONG);
    assert_eq!(pool.look_out(1), LookOutcome::Due(WorkerIndex(0)), "however much it has itself");
}

#[test]
fn what_takes_long_to_begin_is_shared_by_loops_that_have_less() {
    let mut pool = Pool::new(2);
    for number in 0..20 {
        let refused = pool.shared.starts.push(
            WorkerIndex(0),
            Unstarted::new(number),
            &SpawnTargets(&pool.shared),
        );
        assert!(refused.is_empty());
    }
    let millisecond = 1_000_000;
    pool.shared(0).metrics.begin_ns.set(millisecond);
    let look = |pool: &mut Pool| {
        let _ = pool.look_out(1);
        compute(2 * config::BEGIN_SOON);
        pool.shared(0).metrics.begun.add(1);
        pool.look_out(1)
    };
    pool.shared(1).load.spawned.set(20);
    assert_eq!(look(&mut pool), LookOutcome::Waiting, "it has as many itself");
    pool.shared(1).load.spawned.set(10);
    pool.shared(0).metrics.begin_ns.set(millisecond / 100);
    assert_eq!(look(&mut pool), LookOutcome::Waiting, "they will begin soon");
    pool.shared(0).metrics.begin_ns.set(millisecond);
    let outlook = look(&mut pool);
    // Unless this thread had to wait for a processor.
    if outlook == LookOutcome::Due(WorkerIndex(0)) {
        let own = Arc::clone(pool.loops[1].shared());
        pool.loop_workers[1].take_over(&own, WorkerIndex(0));
        assert_eq!(pool.parts(), [15, 5], "both have as many then");
    }
}

#[test]
fn one_thread_keeps_the_watch() {
    let mut pool = Pool::new(3);
    pool.leave(0, 1);
    let (mut one, mut two) = (None, None);
    assert_eq!(pool.loop_workers[1].look_out(&mut one), LookOutcome::Waiting);
    assert!(one.is_some());
    assert_eq!(pool.loop_workers[2].look_out(&mut two), LookOutcome::Clear, "the other looks");
    assert!(two.is_none());
    pool.loop_workers[1].stand_down(one);
    assert_eq!(pool.loop_workers[2].look_out(&mut two), LookOutcome::Waiting);
    pool.loop_workers[2].stand_down(two);
}
