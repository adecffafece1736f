//! A generational slab of values keyed by descriptor; its size follows the number of values.
//!
//! In: a value for a descriptor. Out: its token (slot and generation), which finds the value in one step.
//! The generation distinguishes it from earlier values of the slot. A hash table finds values by
//! descriptor.
//!
//! Must never: drop a value that it holds (that could run arbitrary code under the caller's lock).

//  descriptor -> by_fd -> slot ----v
//  event's token: (slot, generation) -> slab[slot]: (descriptor, generation, value)

use std::collections::{HashMap, hash_map};
use std::hash::{BuildHasherDefault, Hasher};
use std::os::fd::RawFd;

use slab::Slab;

use crate::id::IoToken;

/// Slots that an empty table keeps; more are the memory of a burst.
const KEEP: usize = if cfg!(miri) { 16 } else { 1024 };

/// Mixes the number of a descriptor; nobody can choose many of them so that they collide.
#[derive(Debug, Default)]
struct Mixed(u64);

impl Hasher for Mixed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("a descriptor is one number");
    }

    fn write_i32(&mut self, fd: RawFd) {
        const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
        self.0 = u64::from(fd.cast_unsigned()).wrapping_mul(GOLDEN).rotate_left(32);
    }
}

#[derive(Debug)]
struct Slot<T> {
    fd: RawFd,
    generation: u32,
    value: T,
}

/// Values by descriptor and by token.
#[derive(Debug)]
pub struct Slots<T> {
    slab: Slab<Slot<T>>,
    by_fd: HashMap<RawFd, u32, BuildHasherDefault<Mixed>>,
    /// Of the last value that was put in.
    generation: u32,
    token: fn(u32, u32) -> IoToken,
}

impl<T> Slots<T> {
    /// An empty table whose tokens `token` makes of slot and generation.
    #[must_use]
    pub fn new(token: fn(u32, u32) -> IoToken) -> Self {
        Self { slab: Slab::new(), by_fd: HashMap::default(), generation: 0, token }
    }

    /// Values held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    /// Whether none is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }

    /// Puts a value in. `None`, and the value is dropped, if the descriptor has one or is negative.
    pub fn insert(&mut self, fd: RawFd, value: T) -> Option<IoToken> {
        let place = match self.by_fd.entry(fd) {
            hash_map::Entry::Vacant(place) if fd >= 0 => place,
            _ => return None,
        };
        self.generation = self.generation.wrapping_add(1);
        let slot = self.slab.vacant_entry();
        let token = (self.token)(u32::try_from(slot.key()).ok()?, self.generation);
        slot.insert(Slot { fd, generation: token.generation(), value });
        place.insert(token.slot());
        Some(token)
    }

    /// The token of a descriptor's value.
    #[must_use]
    pub fn find(&self, fd: RawFd) -> Option<IoToken> {
        let slot = *self.by_fd.get(&fd)?;
        Some((self.token)(slot, self.slab.get(slot as usize)?.generation))
    }

    /// The descriptor of a token's value, if it is still the one that was put in.
    #[must_use]
    pub fn descriptor(&self, token: IoToken) -> Option<RawFd> {
        Some(self.slot(token)?.fd)
    }

    #[inline]
    fn slot(&self, token: IoToken) -> Option<&Slot<T>> {
        let slot = self.slab.get(token.slot() as usize)?;
        (slot.generation == token.generation()).then_some(slot)
    }

    /// The value of a token, if it is still the one that was put in.
    #[inline]
    #[must_use]
    pub fn get(&self, token: IoToken) -> Option<&T> {
        Some(&self.slot(token)?.value)
    }

    /// As [`get`](Self::get).
    #[inline]
    pub fn get_mut(&mut self, token: IoToken) -> Option<&mut T> {
        let slot = self.slab.get_mut(token.slot() as usize)?;
        (slot.generation == token.generation()).then_some(&mut slot.value)
    }

    /// Takes a value out. `None` if it is not the one that was put in.
    pub fn remove(&mut self, token: IoToken) -> Option<T> {
        self.get(token)?;
        let slot = self.slab.remove(token.slot() as usize);
        self.by_fd.remove(&slot.fd);
        if self.is_empty() && self.slab.capacity() > KEEP {
            self.slab = Slab::new();
            self.by_fd = HashMap::default();
        }
        Some(slot.value)
    }

    /// Every value, with its token and its descriptor.
    pub fn iter(&self) -> impl Iterator<Item = (IoToken, RawFd, &T)> {
        self.slab.iter().map(|(index, slot)| {
            #[allow(clippy::cast_possible_truncation, reason = "it was made of a u32")]
            ((self.token)(index as u32, slot.generation), slot.fd, &slot.value)
        })
    }

    /// Takes every value out.
    pub fn drain(&mut self) -> impl Iterator<Item = T> + use<T> {
        self.by_fd = HashMap::default();
        std::mem::take(&mut self.slab).into_iter().map(|(_, slot)| slot.value)
    }
}

#[cfg(all(test, not(loom)))]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::hash::BuildHasher;

    fn table() -> Slots<&'static str> {
        Slots::new(IoToken::of_source)
    }

    #[test]
    fn a_value_is_found_by_its_token_and_by_its_descriptor() {
        let mut table = table();
        let [low, high] = [(3, "low"), (i32::MAX, "high")].map(|(fd, value)| {
            let token = table.insert(fd, value).unwrap();
            assert_eq!((table.find(fd), table.get(token)), (Some(token), Some(&value)));
            assert_eq!(table.descriptor(token), Some(fd));
            token
        });
        assert_eq!(table.insert(3, "twice"), None);
        assert_eq!(table.insert(-1, "no descriptor"), None);
        assert_eq!(table.find(4), None);
        assert_eq!(table.iter().collect::<Vec<_>>(), [(low, 3, &"low"), (high, i32::MAX, &"high")]);
        *table.get_mut(low).unwrap() = "changed";
        assert_eq!((table.remove(low), table.remove(low)), (Some("changed"), None));
        assert_eq!((table.find(3), table.len()), (None, 1));
        assert_eq!(table.drain().collect::<Vec<_>>(), ["high"]);
        assert!(table.is_empty() && table.find(i32::MAX).is_none());
    }

    /// Whether the descriptor's number was used again, or the slot, or both.
    #[test]
    fn a_token_leads_to_nothing_that_came_after_its_value() {
        for fd in [5, 6] {
            let mut table = table();
            let old = table.insert(5, "old").unwrap();
            table.remove(old);
            let new = table.insert(fd, "new").unwrap();
            assert_eq!(new.slot(), old.slot(), "or this shows nothing");
            assert_eq!(table.get(old), None);
            assert_eq!(table.get_mut(old), None);
            assert_eq!(table.remove(old), None);
            assert_eq!(table.get(new), Some(&"new"));
        }
    }

    #[test]
    fn generations_begin_anew_after_the_last_one() {
        let mut table = table();
        table.generation = u32::MAX - 1;
        for fd in 0..3 {
            let token = table.insert(fd, "value").unwrap();
            assert!(token.is_source() && table.find(fd) == Some(token));
            assert_eq!(table.get(token), Some(&"value"));
        }
    }

    /// Else each look-up would go through all of them.
    #[test]
    fn descriptors_are_spread_by_their_numbers() {
        let hashes = BuildHasherDefault::<Mixed>::default();
        let count = if cfg!(miri) { 50 } else { 1000 };
        let spread: HashSet<_> = (0..).take(count).map(|fd: RawFd| hashes.hash_one(fd)).collect();
        assert_eq!(spread.len(), count);
    }

    #[test]
    fn the_memory_of_a_burst_is_given_back() {
        let mut table = table();
        let count = i32::try_from(2 * KEEP).unwrap();
        let tokens: Vec<_> = (0..count).map(|fd| table.insert(fd, "value").unwrap()).collect();
        for token in tokens {
            assert!(table.remove(token).is_some());
        }
        assert_eq!((table.slab.capacity(), table.by_fd.capacity()), (0, 0));
    }
}
