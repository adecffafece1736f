//! Which loop gets the next connection.

use crate::id::LoopId;
use crate::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Turns round the loops, and takes the less loaded of two neighbours.
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
        let first = LoopId(turn % self.loops);
        let second = LoopId((first.0 + 1) % self.loops);
        if load(second) < load(first) { second } else { first }
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
}
