//! Timers ordered by deadline, each of which can be cancelled at once.
//!
//! In: a deadline in seconds of the monotonic clock, and a value. Out: the values that are due, in
//! the order of their deadlines, those of one deadline in the order of insertion; or a cancelled
//! value, at once, so that nothing is kept alive until a deadline that no longer matters.
//!
//! A four-ary heap over a slab: each slab slot knows its place in the heap, so a removal costs
//! O(log n). Keys carry a generation, so a key that has outlived its timer removes nothing.
//!
//! Must never: drop a value (that could run arbitrary code under the caller's borrow).

use crate::id::TimerKey;

const ARITY: usize = 4;

#[derive(Clone, Copy, Debug)]
struct Node {
    when: f64,
    /// Order of insertion, which decides between equal deadlines.
    sequence: u64,
    slot: u32,
}

impl Node {
    fn before(&self, other: &Self) -> bool {
        self.when.total_cmp(&other.when).then(self.sequence.cmp(&other.sequence)).is_lt()
    }
}

#[derive(Debug)]
struct Slot<C> {
    generation: u32,
    /// Index in `heap` while `value` is there.
    place: u32,
    value: Option<C>,
}

/// A priority queue of timers.
///
/// ```
/// use loop_pool::reactor::TimerHeap;
/// let mut timers = TimerHeap::default();
/// timers.insert(2.0, "later");
/// let soon = timers.insert(1.0, "soon");
/// assert_eq!(timers.remove(soon), Some("soon"));
/// assert_eq!(timers.next_deadline(), Some(2.0));
/// assert_eq!(timers.pop_due(2.5), Some("later"));
/// ```
#[derive(Debug)]
pub struct TimerHeap<C> {
    heap: Vec<Node>,
    slots: Vec<Slot<C>>,
    free: Vec<u32>,
    sequence: u64,
    /// The first generation of a new slot: above that of any slot given back.
    first_generation: u32,
}

/// Slots that an empty heap keeps; more are the memory of a burst.
const KEEP: usize = 1024;

impl<C> Default for TimerHeap<C> {
    fn default() -> Self {
        Self {
            heap: Vec::new(),
            slots: Vec::new(),
            free: Vec::new(),
            sequence: 0,
            first_generation: 0,
        }
    }
}

impl<C> TimerHeap<C> {
    /// Timers pending.
    #[must_use]
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether no timer is pending.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// The earliest deadline, in seconds.
    #[must_use]
    pub fn next_deadline(&self) -> Option<f64> {
        self.heap.first().map(|node| node.when)
    }

    /// Adds a timer due at `when` seconds; NaN, like infinity, is never due.
    #[allow(clippy::missing_panics_doc, reason = "four billion timers do not fit in memory")]
    pub fn insert(&mut self, when: f64, value: C) -> TimerKey {
        // Either sign: a negative NaN would sort before all others and keep them from firing.
        let when = if when.is_nan() { f64::INFINITY } else { when };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: self.first_generation, place: 0, value: None });
            u32::try_from(self.slots.len() - 1).unwrap_or_else(|_| unreachable!("2^32 timers"))
        });
        let entry = &mut self.slots[slot as usize];
        entry.value = Some(value);
        let key = TimerKey { slot, generation: entry.generation };
        let sequence = self.sequence;
        self.sequence += 1;
        self.heap.push(Node { when, sequence, slot });
        self.sift_up(self.heap.len() - 1);
        key
    }

    /// Takes a timer out before it is due. `None` if it has run or was removed.
    pub fn remove(&mut self, key: TimerKey) -> Option<C> {
        let slot = self.slots.get(key.slot as usize)?;
        if slot.generation != key.generation || slot.value.is_none() {
            return None;
        }
        let place = slot.place as usize;
        self.take_at(place)
    }

    /// Takes out the earliest timer whose deadline is below `now` seconds.
    pub fn pop_due(&mut self, now: f64) -> Option<C> {
        if self.heap.first()?.when < now { self.take_at(0) } else { None }
    }

    /// Takes out any timer, for emptying the heap.
    pub fn pop_any(&mut self) -> Option<C> {
        self.take_at(self.heap.len().checked_sub(1)?)
    }

    /// Every pending value with its deadline, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (f64, &C)> {
        self.heap
            .iter()
            .filter_map(|node| Some((node.when, self.slots[node.slot as usize].value.as_ref()?)))
    }

    fn take_at(&mut self, place: usize) -> Option<C> {
        let node = self.heap.swap_remove(place);
        if place < self.heap.len() {
            let place = self.sift_up(place);
            self.sift_down(place);
        }
        let slot = &mut self.slots[node.slot as usize];
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(node.slot);
        let value = slot.value.take();
        if self.heap.is_empty() {
            self.give_back();
        }
        value
    }

    /// Returns the memory of a burst, once its last timer has gone.
    fn give_back(&mut self) {
        if self.slots.len() > KEEP {
            let generations = self.slots.iter().map(|slot| slot.generation);
            self.first_generation = generations.max().unwrap_or(0).wrapping_add(1);
            self.slots = Vec::new();
            self.free = Vec::new();
            self.heap = Vec::new();
        }
    }

    fn sift_up(&mut self, mut place: usize) -> usize {
        let node = self.heap[place];
        while place > 0 {
            let parent = (place - 1) / ARITY;
            if !node.before(&self.heap[parent]) {
                break;
            }
            self.put(place, self.heap[parent]);
            place = parent;
        }
        self.put(place, node);
        place
    }

    fn sift_down(&mut self, mut place: usize) {
        let node = self.heap[place];
        loop {
            let first = place * ARITY + 1;
            let last = (first + ARITY).min(self.heap.len());
            let Some(child) = (first..last).reduce(|best, other| {
                if self.heap[other].before(&self.heap[best]) { other } else { best }
            }) else {
                break;
            };
            if !self.heap[child].before(&node) {
                break;
            }
            self.put(place, self.heap[child]);
            place = child;
        }
        self.put(place, node);
    }

    #[allow(clippy::cast_possible_truncation, reason = "a heap place is below the slot count")]
    fn put(&mut self, place: usize, node: Node) {
        self.heap[place] = node;
        self.slots[node.slot as usize].place = place as u32;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// A small deterministic generator: the tests need variety, not randomness.
    struct Lcg(u64);

    impl Lcg {
        fn below(&mut self, limit: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (self.0 >> 33) % limit
        }
    }

    #[test]
    fn due_timers_come_by_deadline_then_by_insertion() {
        let mut timers = TimerHeap::default();
        for (when, name) in [(2.0, "c"), (1.0, "a"), (1.0, "b"), (3.0, "d")] {
            timers.insert(when, name);
        }
        let mut due = Vec::new();
        while let Some(name) = timers.pop_due(2.5) {
            due.push(name);
        }
        assert_eq!(due, ["a", "b", "c"]);
        assert_eq!(timers.len(), 1);
    }

    #[test]
    fn a_deadline_equal_to_now_is_not_yet_due() {
        let mut timers = TimerHeap::default();
        timers.insert(1.0, ());
        assert_eq!(timers.pop_due(1.0), None);
        assert_eq!(timers.pop_due(1.1), Some(()));
    }

    #[test]
    fn nan_and_infinity_are_never_due() {
        let mut timers = TimerHeap::default();
        timers.insert(f64::NAN, "nan");
        timers.insert(-f64::NAN, "negative nan");
        timers.insert(f64::INFINITY, "inf");
        timers.insert(0.0, "now");
        assert_eq!(timers.pop_due(f64::MAX), Some("now"));
        assert_eq!(timers.pop_due(f64::MAX), None);
        assert_eq!(timers.len(), 3);
    }

    #[test]
    fn a_key_that_outlived_its_timer_removes_nothing() {
        let mut timers = TimerHeap::default();
        let old = timers.insert(1.0, "old");
        assert_eq!(timers.remove(old), Some("old"));
        let new = timers.insert(1.0, "new");
        assert_eq!(timers.remove(old), None);
        assert_eq!(timers.remove(new), Some("new"));
        assert!(timers.is_empty());
    }

    #[test]
    fn a_burst_is_given_back_and_its_keys_stay_dead() {
        let mut timers = TimerHeap::default();
        let keys: Vec<_> = (0..2 * KEEP).map(|n| timers.insert(1.0, n)).collect();
        while timers.pop_due(2.0).is_some() {}
        assert_eq!(timers.slots.capacity() + timers.heap.capacity(), 0);
        timers.insert(1.0, 0);
        assert!(keys.into_iter().all(|key| timers.remove(key).is_none()));
        assert_eq!(timers.len(), 1);
    }

    #[test]
    fn any_mix_of_operations_agrees_with_a_sorted_list() {
        let mut rng = Lcg(7);
        let mut timers = TimerHeap::default();
        let mut model: Vec<(u64, u64, TimerKey)> = Vec::new();
        for step in 0..20_000_u64 {
            match rng.below(3) {
                0 | 1 if model.len() < 400 => {
                    let when = rng.below(50);
                    #[allow(clippy::cast_precision_loss)]
                    let key = timers.insert(when as f64, step);
                    model.push((when, step, key));
                }
                2 if !model.is_empty() => {
                    let at = usize::try_from(rng.below(model.len() as u64)).unwrap();
                    let (_, value, key) = model.swap_remove(at);
                    assert_eq!(timers.remove(key), Some(value));
                }
                _ => {
                    model.sort_unstable_by_key(|(when, step, _)| (*when, *step));
                    let expected = (!model.is_empty()).then(|| model.remove(0).1);
                    assert_eq!(timers.pop_due(f64::INFINITY), expected);
                }
            }
            assert_eq!(timers.len(), model.len());
        }
        while timers.pop_any().is_some() {}
        assert!(timers.is_empty());
    }
}
