//! Decides which loop gets the next connection.

use crate::config;
use crate::event_loop::Shared;
use crate::id::LoopId;
use crate::metrics::BusyShare;
use crate::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// The least load of a loop that is not to be chosen as long as there is another: it is stuck, or
/// takes no connections at all.
const STUCK_LOAD: u64 = 1 << 32;

/// Turns round the loops, and takes the less loaded of two neighbours; if both are stuck, the least
/// loaded of all.
///
/// Two choices are enough to keep the longest queue short, and turning makes the choice
/// deterministic: equal loads are filled one after another.
#[derive(Debug)]
pub struct Placement {
    loops: u32,
    turn: AtomicU32,
}

impl Placement {
    /// For a pool of `loops` loops, at least one.
    #[must_use]
    pub fn new(loops: u32) -> Self {
        Self { loops: loops.max(1), turn: AtomicU32::new(0) }
    }

    /// The loop for the next connection, given a way to ask for a loop's load. Any thread.
    pub fn next(&self, load: impl Fn(LoopId) -> u64) -> LoopId {
        let turn = self.turn.fetch_add(1, Relaxed);
        let from = |count| (0..count).map(|step| LoopId((turn % self.loops + step) % self.loops));
        let least = |count| from(count).map(|id| (load(id), id)).min_by_key(|(load, _)| *load);
        match least(2) {
            Some((load, id)) if load < STUCK_LOAD => id,
            _ => least(self.loops).map_or(LoopId(0), |(_, id)| id),
        }
    }
}

/// How loaded a loop is, for placing connections: above all whether it was stuck of late, then what it
/// holds, which counts for the more the less time it has left. It holds what was placed on it and what
/// waits; not what the program opened there by itself, such as the idle connections to a database: that
/// says nothing of what the loop does, nor was it spread by anybody. `now_ns`: the clock.
#[must_use]
pub fn load_of(shared: &Shared, now_ns: u64) -> u64 {
    let metrics = &shared.metrics;
    let holds = metrics.placed.get() + metrics.ready.get() + metrics.arriving.get();
    let holds = holds.saturating_add(config::OWN_WORK).min(STUCK_LOAD >> 8);
    // Since it noted what it was it has gone on like that, or slept.
    let since_ns = now_ns.saturating_sub(metrics.polled_ns.get());
    let works = shared.idle().is_awake() && !shared.load.is_looking();
    let (busy_ns, idle_ns) = if works { (since_ns, 0) } else { (0, since_ns) };
    let left = BusyShare::ALL.saturating_sub(metrics.busy.after(busy_ns, idle_ns));
    // As long as it sleeps half of the time, there is time enough; and among those that have none left,
    // how little it is says nothing.
    let left = (2 * left).clamp(BusyShare::ALL / 8, BusyShare::ALL);
    let load = holds * BusyShare::ALL / left;
    load.saturating_add(stuck_load(shared))
}

/// The part of a loop's load that is due to its being stuck of late: 0, or at least [`STUCK_LOAD`].
fn stuck_load(shared: &Shared) -> u64 {
    let steps = u128::from(shared.metrics.stuck_us.get()) / config::STUCK_STEP.as_micros();
    u64::try_from(steps * u128::from(STUCK_LOAD)).unwrap_or(u64::MAX)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::event_loop::EventLoop;
    use crate::scheduler::Park;

    const SECOND_NS: u64 = 1_000_000_000;

    /// A loop that was busy for a part of the time until a second ago, and asleep since then, with so
    /// many connections; and its load.
    fn load(busy: u64, placed: u64) -> u64 {
        let event_loop = EventLoop::<u32>::new().expect("descriptors");
        let metrics = event_loop.metrics();
        (0..200).for_each(|_| metrics.busy.note(busy * 250_000, (100 - busy) * 250_000));
        metrics.placed.set(placed);
        metrics.polled_ns.set(SECOND_NS);
        load_of(event_loop.shared(), SECOND_NS)
    }

    #[test]
    fn what_a_loop_holds_counts_for_the_more_the_less_time_it_has_left() {
        assert_eq!(load(0, 8), config::OWN_WORK + 8);
        assert_eq!(load(45, 8), load(0, 8));
        assert!(load(75, 8) > load(45, 40));
        assert!(load(95, 8) > load(75, 100));
        // All the same to them.
        assert!(load(100, 8) < load(95, 10));
        // Nothing is as bad as being stuck.
        assert!(load(100, 1 << 40) < STUCK_LOAD);
    }

    #[test]
    fn a_loop_that_sleeps_is_forgiven_and_one_that_works_on_is_not() {
        let event_loop = EventLoop::<u32>::new().expect("descriptors");
        (0..2).for_each(|_| event_loop.metrics().busy.note(SECOND_NS / 4, 0));
        event_loop.metrics().polled_ns.set(SECOND_NS);
        let loads = || [1, 2, 3].map(|second| load_of(event_loop.shared(), second * SECOND_NS));
        let [now, later, much_later] = loads();
        assert!(now < later && later == much_later);
        let _claim = event_loop.claim().expect("nobody's");
        let poller = event_loop.shared().poller();
        let Park::Sleep(_parked) = event_loop.park(&poller, || false) else { panic!("no work") };
        let [now, later, much_later] = loads();
        assert!(now > later && later == much_later && later == config::OWN_WORK);
    }

    /// A6: what the program has opened by itself.
    #[test]
    fn a_program_s_own_connections_are_no_load() {
        let event_loop = EventLoop::<u32>::new().expect("descriptors");
        event_loop.metrics().transports.add_shared(1000);
        assert_eq!(load_of(event_loop.shared(), 0), config::OWN_WORK);
    }

    #[test]
    fn equal_loops_take_turns() {
        let placement = Placement::new(3);
        let placed: Vec<_> = (0..6).map(|_| placement.next(|_| 0).0).collect();
        assert_eq!(placed, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn a_loaded_loop_is_passed_over() {
        let placement = Placement::new(2);
        for _ in 0..4 {
            let loaded = LoopId(1);
            assert_eq!(placement.next(|id| u64::from(id == loaded)), LoopId(0));
        }
    }

    #[test]
    fn nothing_goes_to_stuck_neighbours_while_another_loop_is_free() {
        for loops in 3..9 {
            let placement = Placement::new(loops);
            for free in 0..loops {
                for _ in 0..2 * loops {
                    let load = |id: LoopId| if id.0 == free { 1000 } else { STUCK_LOAD };
                    assert_eq!(placement.next(load), LoopId(free));
                }
            }
        }
    }

    #[test]
    fn the_one_stuck_least_gets_it_if_all_are() {
        let placement = Placement::new(4);
        for _ in 0..8 {
            assert_eq!(placement.next(|id| STUCK_LOAD * u64::from(5 - id.0)), LoopId(3));
        }
    }
}
