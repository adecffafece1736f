//! Which loop gets the next connection.

use crate::id::LoopId;
use crate::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// The least load of a loop that is not to be chosen as long as there is another: it is stuck, or
/// takes no connections at all.
pub(super) const STUCK_LOAD: u64 = 1 << 32;

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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

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
