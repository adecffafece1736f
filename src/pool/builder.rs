//! How many loops a pool has.

use std::fmt;

/// More loops than this are a mistake: each has a thread and five descriptors.
const MAX_LOOPS: i64 = 4096;

/// A number of loops that no pool can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidLoopCount(pub i64);

impl fmt::Display for InvalidLoopCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "loops must be between 1 and {MAX_LOOPS}, not {}", self.0)
    }
}

impl std::error::Error for InvalidLoopCount {}

/// The number of loops for what was asked; `None` means one for each core that this process may
/// use: `cores` of them, if the layer above knows how many it is to use.
///
/// # Errors
/// [`InvalidLoopCount`] below 1 or above 4096.
pub fn loop_count(asked: Option<i64>, cores: Option<i64>) -> Result<usize, InvalidLoopCount> {
    match asked {
        None => Ok(cores.map_or_else(num_cpus::get, |cores| {
            usize::try_from(cores.clamp(1, MAX_LOOPS)).unwrap_or(1)
        })),
        Some(n @ 1..=MAX_LOOPS) => usize::try_from(n).map_err(|_| InvalidLoopCount(n)),
        Some(n) => Err(InvalidLoopCount(n)),
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn counts_are_checked_and_the_default_is_the_cores() {
        assert_eq!(loop_count(Some(3), Some(7)), Ok(3));
        assert!(loop_count(None, None).is_ok_and(|n| n >= 1));
        for (cores, loops) in [(7, 7), (0, 1), (1 << 40, 4096)] {
            assert_eq!(loop_count(None, Some(cores)), Ok(loops));
        }
        for wrong in [0, -1, i64::MIN, MAX_LOOPS + 1] {
            assert_eq!(loop_count(Some(wrong), None), Err(InvalidLoopCount(wrong)));
        }
        assert!(InvalidLoopCount(-2).to_string().contains("not -2"));
    }
}
