//! How the loops of a team see each other, on a clock that the test sets.

use super::*;
use crate::event_loop::{Completion, EventLoop};
use crate::id::IoToken;
use crate::id::LoopId;
use crate::scheduler::{Park, Parked};

const WORKED_NS: u64 = 1_000_000_000;

/// A team of two; both have joined, and last did something of their own at [`WORKED_NS`].
fn team() -> (Arc<PoolShared>, [EventLoop<u32>; 2]) {
    let team = PoolShared::new(2, true, 2);
    let loops = [0, 1].map(|id| {
        let one = EventLoop::new().expect("descriptors");
        drop(team.join(LoopId(id), one.shared()).expect("a place"));
        one.metrics().worked_ns.set(WORKED_NS);
        one
    });
    (team, loops)
}

fn sleep(one: &EventLoop<u32>) -> Parked<'_> {
    let Park::Sleep(parked) = one.shared().idle().park(|_| false) else { panic!("no work") };
    parked
}

#[test]
fn a_place_is_taken_once_and_names_the_loop() {
    let (team, loops) = team();
    assert_eq!(loops.each_ref().map(|one| one.shared().id()), [LoopId(0), LoopId(1)]);
    let third = EventLoop::<u32>::new().expect("descriptors");
    assert!([0, 1, 2, u32::MAX].iter().all(|id| team.join(LoopId(*id), third.shared()).is_none()));
    assert!(team.loops().all(|(seat, one)| Arc::ptr_eq(one, loops[seat].shared())));
}

#[test]
fn a_loop_is_free_when_it_sleeps_and_has_done_nothing_of_its_own_for_a_while() {
    let (_team, [one, _]) = team();
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
    let (team, loops) = team();
    let parked = loops.each_ref().map(sleep);
    loops[0].metrics().worked_ns.set(u64::MAX);
    assert!(
        team.has_sleeper()
            && !team.is_preferred(WorkerIndex(0))
            && team.is_preferred(WorkerIndex(1))
    );
    team.inject(std::iter::empty());
    assert!(
        team.is_parked(WorkerIndex(0)) && !team.is_parked(WorkerIndex(1)) && !team.has_sleeper()
    );
    drop(parked);
    let summons = loops.map(|one| one.shared().idle().take_summons().map(|it| it.crew()));
    assert_eq!(summons, [None, Some(HELPERS)]);
}

#[test]
fn who_is_at_a_job_of_another_s_helps() {
    let (team, [one, _]) = team();
    let busy = one.shared().progress.busy();
    busy.begin();
    assert!(!team.has_helper());
    drop(busy);
    let busy = one.shared().progress.busy();
    busy.help(LoopId(0));
    assert!(!team.has_helper(), "its own");
    busy.help(LoopId(1));
    assert!(team.has_helper());
    drop(busy);
    assert!(!team.has_helper());
}
