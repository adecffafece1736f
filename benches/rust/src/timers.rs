//! Timers: set, cancelled and due, with so many others pending. Deadlines are seconds.

use std::collections::VecDeque;
use std::hint::black_box;

use loop_pool::id::TimerKey;
use loop_pool::reactor::TimerHeap;

use crate::Random;

/// Deadlines of pending timers are spread over this time.
const SPREAD: f64 = 30.0;

/// Timers with deadlines in no order.
fn pending(count: usize) -> (TimerHeap<usize>, Random) {
    let (mut timers, mut random) = (TimerHeap::default(), Random::default());
    for value in 0..count {
        timers.insert(SPREAD * random.fraction(), value);
    }
    (timers, random)
}

/// A deadline that is cancelled at once, as that of `asyncio.timeout` around something quick. It is as
/// soon as any other.
pub fn insert_cancel(count: usize) -> impl FnMut() {
    let (mut timers, mut random) = pending(count);
    move || {
        let key = timers.insert(SPREAD * random.fraction(), 7);
        black_box(timers.remove(key));
    }
}

/// The oldest of all time-outs is cancelled and set again, behind all others, as those of connections
/// that say something in turn.
///
/// # Panics
/// When a timer is lost, which is a bug.
#[allow(clippy::cast_precision_loss, reason = "far below 2^52 timers")]
pub fn renew(count: usize) -> impl FnMut() {
    let mut timers = TimerHeap::default();
    let mut now = 0.0;
    let step = SPREAD / count as f64;
    let mut set = move |timers: &mut TimerHeap<usize>| {
        now += step;
        timers.insert(now + SPREAD, 7)
    };
    let mut keys: VecDeque<TimerKey> = (0..count).map(|_| set(&mut timers)).collect();
    move || {
        let oldest = keys.pop_front().expect("there are as many as at first");
        black_box(timers.remove(oldest).expect("it is pending"));
        keys.push_back(set(&mut timers));
    }
}

/// The next timer falls due, and another is set.
///
/// # Panics
/// When a timer is lost, which is a bug.
pub fn expire(count: usize) -> impl FnMut() {
    let (mut timers, mut random) = pending(count);
    move || {
        let now = timers.next_deadline().expect("there are as many as at first");
        black_box(timers.pop_due(now + 1e-9).expect("it is due"));
        timers.insert(now + SPREAD * random.fraction(), 7);
    }
}
