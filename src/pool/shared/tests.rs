//! How the loops of a pool see each other, on a clock that the test sets.

use super::*;
use crate::event_loop::{Completion, EventLoop};
use crate::id::IoToken;
use crate::id::LoopId;
use crate::scheduler::{Park, Parked};

const WORKED_NS: u64 = 1_000_000_000;

/// A pool of two; both have joined, and last did something of their own at [`WORKED_NS`].
fn pool_shared() -> (Arc<PoolShared>, [EventLoop<u32>; 2]) {
    let pool_shared = PoolShared::new(2, true, 2);
    let loops = [0, 1].map(|id| {
        let one = EventLoop::new().expect("descriptors");
        drop(pool_shared.join(LoopId(id), one.shared()).expect("a place"));
        one.metrics().worked_ns.set(WORKED_NS);
        one
    });
    (pool_shared, loops)
}

fn sleep(one: &EventLoop<u32>) -> Parked<'_> {
    let Park::Sleep(parked) = one.shared().idle().park(|_| false) else { panic!("no work") };
    parked
}

#[test]
fn a_place_is_taken_once_and_names_the_loop() {
    let (pool_shared, loops) = pool_shared();
    assert_eq!(loops.each_ref().map(|one| one.shared().id()), [LoopId(0), LoopId(1)]);
    let third = EventLoop::<u32>::new().expect("descriptors");
    assert!(
        [0, 1, 2, u32::MAX]
            .iter()
            .all(|id| pool_shared.join(LoopId(*id), third.shared()).is_none())
    );
    assert!(
        pool_shared
            .loops()
            .all(|(worker_index, one)| Arc::ptr_eq(one, loops[worker_index].shared()))
    );
}

#[test]
fn a_loop_is_free_when_it_sleeps_and_has_done_nothing_of_its_own_for_a_while() {
    let (_team, [one, _]) = pool_shared();
    let later = WORKED_NS + u64::try_from(config::FREE_AFTER.as_nanos()).expect("short");
    assert!(!is_free(one.shared(), later), "it is awake");
    let parked = sleep(&one);
    assert!(!is_free(one.shared(), later - 1) && is_free(one.shared(), later));
    one.shared().complete(Completion::Turn(IoToken::new(0, 0)));
    assert!(!is_free(one.shared(), later), "it is being woken");
    drop(parked);
    // A clock that another thread read before.
    let _parked = sleep(&one);
    assert!(!is_free(one.shared(), WORKED_NS - 1));
}

#[test]
fn who_is_free_is_woken_first_but_another_one_rather_than_nobody() {
    let (pool_shared, loops) = pool_shared();
    let parked = loops.each_ref().map(sleep);
    loops[0].metrics().worked_ns.set(u64::MAX);
    assert!(
        pool_shared.has_sleeper()
            && !pool_shared.is_preferred(WorkerIndex(0))
            && pool_shared.is_preferred(WorkerIndex(1))
    );
    pool_shared.inject(std::iter::empty());
    assert!(
        pool_shared.is_parked(WorkerIndex(0))
            && !pool_shared.is_parked(WorkerIndex(1))
            && !pool_shared.has_sleeper()
    );
    drop(parked);
    let permit = loops.map(|one| one.shared().idle().take_permit().map(|it| it.kind()));
    assert_eq!(permit, [None, Some(HELPERS)]);
}

#[test]
fn who_is_at_a_job_of_another_s_helps() {
    let (pool_shared, [one, _]) = pool_shared();
    let busy = one.shared().progress.busy();
    busy.begin();
    assert!(!pool_shared.has_helper());
    drop(busy);
    let busy = one.shared().progress.busy();
    busy.help(LoopId(0));
    assert!(!pool_shared.has_helper(), "its own");
    busy.help(LoopId(1));
    assert!(pool_shared.has_helper());
    drop(busy);
    assert!(!pool_shared.has_helper());
}
