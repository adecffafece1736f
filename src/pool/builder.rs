//! The number of loops of a pool.

use std::fmt;

/// More loops than this are a mistake: each has a thread and five descriptors.
const MAX_LOOPS: usize = 4096;

/// A number of loops that no pool can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidLoopCount(pub i64);

impl fmt::Display for InvalidLoopCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "loops must be between 1 and {MAX_LOOPS}, not {}", self.0)
    }
}

impl std::error::Error for InvalidLoopCount {}

/// The number of loops for what was asked: one at least.
///
/// # Errors
/// [`InvalidLoopCount`] below 1 or above 4096.
pub fn loop_count(asked: i64) -> Result<usize, InvalidLoopCount> {
    match usize::try_from(asked) {
        Ok(count @ 1..=MAX_LOOPS) => Ok(count),
        _ => Err(InvalidLoopCount(asked)),
    }
}

/// The number of loops if nobody asked for one: one for each core to make use of.
#[must_use]
pub fn default_loop_count(cores: usize) -> usize {
    cores.clamp(1, MAX_LOOPS)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn counts_are_checked_and_the_default_is_the_cores() {
        assert_eq!(loop_count(3), Ok(3));
        for (cores, loops) in [(7, 7), (0, 1), (1 << 20, 4096)] {
            assert_eq!(default_loop_count(cores), loops);
        }
        for wrong in [0, -1, i64::MIN, i64::MAX, 4097] {
            assert_eq!(loop_count(wrong), Err(InvalidLoopCount(wrong)));
        }
        assert!(InvalidLoopCount(-2).to_string().contains("not -2"));
    }
}
