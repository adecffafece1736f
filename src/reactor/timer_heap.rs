//! Timers ordered by deadline, with immediate removal of cancelled ones.
//!
//! In: a deadline in seconds of the monotonic clock, and a value. Out: the due values, ordered by deadline
//! and then by insertion; or a cancelled value, at once, so that nothing is kept alive until its deadline.
//!
//! A four-ary heap over a slab: each slab slot knows its position in the heap, so removal costs O(log n).
//! Keys carry a generation, so a key whose timer is gone removes nothing.

// The processor cannot predict which of two timers comes first, so the order is computed without branches. Each
// step down the heap moves a timer, so the positions are kept apart from the values, in a table that is small
// enough to stay in the cache.

use crate::id::TimerKey;

const ARITY: usize = 4;

#[derive(Clone, Copy, Debug)]
struct Node {
    /// The deadline, as a number of the same order.
    when: u64,
    /// Order of insertion, which decides between equal deadlines.
    sequence: u64,
    slot: u32,
}

const SIGN: u64 = 1 << 63;

/// A float as a number: the same order as `f64::total_cmp`.
#[inline]
fn ordered(when: f64) -> u64 {
    let bits = when.to_bits();
    if bits & SIGN == 0 { bits | SIGN } else { !bits }
}

/// What [`ordered`] was made of.
#[inline]
fn seconds(ordered: u64) -> f64 {
    f64::from_bits(if ordered & SIGN == 0 { !ordered } else { ordered & !SIGN })
}

impl Node {
    #[inline(always)]
    fn before(&self, other: &Self) -> bool {
        self.rank() < other.rank()
    }

    #[inline(always)]
    fn rank(&self) -> u128 {
        u128::from(self.when) << 64 | u128::from(self.sequence)
    }
}

#[derive(Debug)]
struct Slot<C> {
    generation: u32,
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
    /// Index in `heap` of each slot's timer, while there is one.
    places: Vec<u32>,
    free: Vec<u32>,
    sequence: u64,
    /// The first generation of a new slot: above that of any slot given back.
    first_generation: u32,
}

/// Slots that an empty heap keeps; more are the memory of a burst.
const KEEP: usize = if cfg!(miri) { 16 } else { 1024 };

impl<C> Default for TimerHeap<C> {
    fn default() -> Self {
        Self {
            heap: Vec::new(),
            slots: Vec::new(),
            places: Vec::new(),
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
        self.heap.first().map(|node| seconds(node.when))
    }

    /// Adds a timer due at `when` seconds; NaN, like infinity, is never due.
    #[allow(clippy::missing_panics_doc, reason = "four billion timers do not fit in memory")]
    pub fn insert(&mut self, when: f64, value: C) -> TimerKey {
        // Either sign: a negative NaN would sort before all others and keep them from firing.
        let when = if when.is_nan() { f64::INFINITY } else { when };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: self.first_generation, value: None });
            self.places.push(0);
            u32::try_from(self.slots.len() - 1).unwrap_or_else(|_| unreachable!("2^32 timers"))
        });
        let entry = &mut self.slots[slot as usize];
        entry.value = Some(value);
        let key = TimerKey { slot, generation: entry.generation };
        let sequence = self.sequence;
        self.sequence += 1;
        let node = Node { when: ordered(when), sequence, slot };
        self.heap.push(node);
        self.sift_up(self.heap.len() - 1, node);
        key
    }

    /// Takes a timer out before it is due. `None` if it has run or was removed.
    pub fn remove(&mut self, key: TimerKey) -> Option<C> {
        let slot = self.slots.get(key.slot as usize)?;
        if slot.generation != key.generation || slot.value.is_none() {
            return None;
        }
        let place = self.places[key.slot as usize] as usize;
        self.take_at(place)
    }

    /// Takes out the earliest timer whose deadline is below `now` seconds.
    pub fn pop_due(&mut self, now: f64) -> Option<C> {
        if self.next_deadline()? < now { self.take_at(0) } else { None }
    }

    /// Takes out any timer, for emptying the heap.
    pub fn pop_any(&mut self) -> Option<C> {
        self.take_at(self.heap.len().checked_sub(1)?)
    }

    /// Every pending value with its deadline, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (f64, &C)> {
        self.heap
            .iter()
            .filter_map(|node| Some((node, self.slots[node.slot as usize].value.as_ref()?)))
            .map(|(node, value)| (seconds(node.when), value))
    }

    fn take_at(&mut self, place: usize) -> Option<C> {
        let node = self.heap[place];
        let last = self.heap.pop()?;
        if place < self.heap.len() {
            // The last one mostly belongs near the bottom, so it is not compared on the way down.
            let place = self.sink_hole(place);
            self.sift_up(place, last);
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
            self.places = Vec::new();
            self.free = Vec::new();
            self.heap = Vec::new();
        }
    }

    /// Puts `node` where it belongs, at `place` or above.
    fn sift_up(&mut self, mut place: usize, node: Node) {
        while place > 0 {
            let parent = (place - 1) / ARITY;
            if !node.before(&self.heap[parent]) {
                break;
            }
            self.put(place, self.heap[parent]);
            place = parent;
        }
        self.put(place, node);
    }

    /// Fills `place` with the first of its children, and so on; returns the place without children
    /// that is to be filled in the end.
    fn sink_hole(&mut self, mut place: usize) -> usize {
        loop {
            let first = place * ARITY + 1;
            let child = match self.heap.get(first..) {
                Some([one, two, three, four, ..]) => {
                    // Two matches and a final, without a branch.
                    let low = usize::from(two.before(one));
                    let high = usize::from(four.before(three));
                    let winners = ([one, two][low], [three, four][high]);
                    let upper = winners.1.before(winners.0);
                    first + if upper { 2 + high } else { low }
                }
                Some(few @ [_, ..]) => {
                    let before = |best: usize, other: usize| {
                        if few[other].before(&few[best]) { other } else { best }
                    };
                    first + (1..few.len()).fold(0, before)
                }
                _ => return place,
            };
            self.put(place, self.heap[child]);
            place = child;
        }
    }

    #[allow(clippy::cast_possible_truncation, reason = "a heap place is below the slot count")]
    fn put(&mut self, place: usize, node: Node) {
        self.heap[place] = node;
        self.places[node.slot as usize] = place as u32;
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
    fn deadlines_of_any_sign_keep_their_order_and_their_value() {
        let deadlines =
            [f64::NEG_INFINITY, -2.5, -f64::MIN_POSITIVE, -0.0, 0.0, 1e-300, 2.5, f64::MAX];
        let mut timers = TimerHeap::default();
        for (name, when) in deadlines.iter().enumerate().rev() {
            timers.insert(*when, name);
        }
        for (name, when) in deadlines.iter().enumerate() {
            assert_eq!(timers.next_deadline().map(f64::to_bits), Some(when.to_bits()));
            assert_eq!(timers.pop_due(f64::INFINITY), Some(name));
        }
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
        for step in 0..if cfg!(miri) { 500 } else { 20_000_u64 } {
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
