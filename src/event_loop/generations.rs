//! References that are kept for a while after somebody was handed a copy, in two generations.
//!
//! In: what was handed out, and the clock. Out: what has been kept for long enough, a few at a time:
//! each for one lifetime of a generation at least, and two of them or little more at most. What is kept
//! is dropped by the caller, never here, but for what [`Generations::close`] is given.
//!
//! Must never: drop a reference, look at the clock, or lock.

use std::collections::HashSet;
use std::time::Duration;

/// What is kept. `T` is a reference, known by a number.
#[derive(Debug)]
pub struct Generations<T> {
    /// Handed out since the last change of generations.
    young: Vec<T>,
    /// The numbers of those.
    known: HashSet<usize>,
    /// Handed out in the generation before.
    old: Vec<T>,
    /// To be dropped, a few at a time.
    dying: Vec<T>,
    /// When generations changed last.
    changed_ns: u64,
    /// Nothing more is kept.
    is_closed: bool,
}

impl<T> Default for Generations<T> {
    fn default() -> Self {
        Self {
            young: Vec::new(),
            known: HashSet::new(),
            old: Vec::new(),
            dying: Vec::new(),
            changed_ns: 0,
            is_closed: false,
        }
    }
}

impl<T> Generations<T> {
    /// Keeps what `reference` makes, unless the present generation has it; `number` says so. Nothing after
    /// [`close`](Self::close).
    pub fn keep(&mut self, number: usize, reference: impl FnOnce() -> T) {
        if !self.is_closed && self.known.insert(number) {
            self.young.push(reference());
        }
    }

    /// Takes out what may be dropped at `now_ns`, at most so many. Generations change when the present one
    /// is as old as `lifetime`, and what the last change has left to be dropped is gone.
    #[must_use = "it is the caller's to drop"]
    pub fn take_dying(&mut self, now_ns: u64, lifetime: Duration, at_most: usize) -> Vec<T> {
        let age = Duration::from_nanos(now_ns.saturating_sub(self.changed_ns));
        if self.dying.is_empty() && age >= lifetime {
            self.dying = std::mem::take(&mut self.old);
            self.old = std::mem::take(&mut self.young);
            self.known.clear();
            self.changed_ns = now_ns;
        }
        let rest = self.dying.len().saturating_sub(at_most);
        self.dying.split_off(rest)
    }

    /// Keeps nothing from now on, and takes out what was kept.
    #[must_use = "it is the caller's to drop"]
    pub fn close(&mut self) -> Self {
        std::mem::replace(self, Self { is_closed: true, ..Self::default() })
    }

    /// Whether nothing is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// All that is kept.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.young.iter().chain(&self.old).chain(&self.dying)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const LIFETIME: Duration = Duration::from_nanos(100);

    fn kept(generations: &Generations<u32>) -> Vec<u32> {
        let mut all: Vec<_> = generations.iter().copied().collect();
        all.sort_unstable();
        all
    }

    fn take(generations: &mut Generations<u32>, now_ns: u64) -> Vec<u32> {
        generations.take_dying(now_ns, LIFETIME, 10)
    }

    #[test]
    fn a_reference_is_kept_for_one_to_two_lifetimes() {
        let mut generations = Generations::default();
        assert!(take(&mut generations, 1000).is_empty());
        generations.keep(1, || 1);
        assert!(take(&mut generations, 1099).is_empty(), "the generation is not old enough");
        generations.keep(2, || 2);
        assert!(take(&mut generations, 1100).is_empty(), "now both are old");
        generations.keep(3, || 3);
        assert!(take(&mut generations, 1199).is_empty());
        assert_eq!(kept(&generations), [1, 2, 3]);
        assert_eq!(take(&mut generations, 1200), [1, 2]);
        assert_eq!(take(&mut generations, 1300), [3]);
        assert!(generations.is_empty());
    }

    #[test]
    fn a_generation_has_each_reference_once() {
        let mut generations = Generations::default();
        let _ = take(&mut generations, 1000);
        for _ in 0..3 {
            generations.keep(1, || 1);
        }
        assert_eq!(kept(&generations), [1]);
        let _ = take(&mut generations, 1100);
        generations.keep(1, || 1);
        assert_eq!(kept(&generations), [1, 1], "handed out again, it is kept for longer");
        assert_eq!(take(&mut generations, 1200), [1]);
        assert_eq!(take(&mut generations, 1300), [1]);
    }

    #[test]
    fn a_few_are_taken_at_a_time_and_generations_wait_for_the_last_of_them() {
        let mut generations = Generations::default();
        let _ = take(&mut generations, 1000);
        for number in 0..5 {
            generations.keep(number as usize, || number);
        }
        let _ = take(&mut generations, 1100);
        generations.keep(9, || 9);
        let few = |generations: &mut Generations<u32>, now_ns| {
            generations.take_dying(now_ns, LIFETIME, 2).len()
        };
        assert_eq!(few(&mut generations, 1200), 2);
        assert_eq!(few(&mut generations, 1500), 2);
        assert_eq!(
            kept(&generations).len(),
            2,
            "one of the dead, and the one of the next generation"
        );
        assert_eq!(few(&mut generations, 1500), 1, "the last of its generation");
        assert_eq!(kept(&generations), [9]);
        assert_eq!(take(&mut generations, 1500), [9]);
    }

    #[test]
    fn what_is_closed_gives_all_away_and_keeps_nothing_more() {
        let mut generations = Generations::default();
        for round in 0..3 {
            generations.keep(round, || round);
            let _ = generations.take_dying(1000 * round as u64, LIFETIME, 0);
        }
        let mut all: Vec<_> = generations.close().iter().copied().collect();
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2]);
        generations.keep(7, || unreachable!("it is closed"));
        assert!(generations.is_empty());
    }
}
