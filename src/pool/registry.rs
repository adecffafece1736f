//! All suspended tasks of every loop of the process, as weak references.
//!
//! In: a task that has not ended in its first step, or registers itself. Out: the tasks of a loop, to any
//! thread. A task that has not started is published by its loop ([`Current`](crate::event_loop::Current)),
//! so most short tasks are never added here.
//!
//! Must never: drop what it holds, or know what it is.

// The table is sharded, and the tasks of a loop are in shards of its own, so that loops do not contend
// for locks and cache lines. The holder of a shard's lock waits for nothing, so a thread may wait for
// it while attached; it drops nothing either. But the system may preempt a reader that holds a lock.
// So a loop has several shards, and adds a task to one that nobody is reading; it waits only if all
// are being read.
//
// A dead task leaves its entry behind until it is checked: two entries for each added task, so that
// dead entries never outnumber live ones by much, and all entries once the loop has run as many
// callbacks as it has entries (`WeakTasks`).

use std::collections::VecDeque;
use std::hash::{BuildHasherDefault, Hash, Hasher};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry as Place;

use crate::config;

/// Names one loop of the process among its tasks' owners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnerKey(pub u32);

/// Names a task while it is registered: its owner, and the address of the object. Addresses are used
/// again, so that a dead task's entry may give way to a new one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TaskKey {
    /// The loop.
    owner: OwnerKey,
    /// The object's address.
    address: usize,
    /// In which of its owner's shards it is.
    part: u8,
}

/// The shards of one loop. More readers than these must hold a lock each before the loop waits.
const PARTS: u8 = 8;

const SHARDS: usize = 512;

/// Which shard a part is.
fn shard_of(owner: OwnerKey, part: u8) -> usize {
    (owner.0 as usize * usize::from(PARTS) + usize::from(part)) % SHARDS
}

impl Hash for TaskKey {
    /// dashmap takes the shard from the bits below the uppermost seven, and the place in the shard
    /// from the lowest ones and those seven.
    fn hash<H: Hasher>(&self, state: &mut H) {
        const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
        const UPPERMOST: u32 = 57;
        let mixed = (self.address as u64 >> 4).wrapping_mul(GOLDEN);
        let shard = shard_of(self.owner, self.part) as u64;
        let below = (1 << (UPPERMOST - SHARDS.ilog2())) - 1;
        let place = mixed.rotate_right(40);
        let uppermost = place & (0x7f << UPPERMOST);
        state.write_u64(uppermost | shard << (UPPERMOST - SHARDS.ilog2()) | (place & below));
    }
}

/// Takes a hash that is one already.
#[derive(Debug, Default)]
pub(super) struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("a key is hashed as one number");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// One registered task.
#[derive(Debug)]
pub struct Entry<T> {
    /// What leads to the task, and lets it die.
    pub reference: T,
    /// When it was made, in nanoseconds of the clock.
    pub created_ns: u64,
    /// Whether it registered itself.
    pub foreign: bool,
    serial: u64,
}

/// One registered task in its loop's list.
#[derive(Clone, Copy, Debug)]
struct Listed {
    address: usize,
    serial: u64,
    part: u8,
}

/// The registered tasks of a loop in the order in which they are looked at, to find the dead ones.
#[derive(Debug, Default)]
pub struct WeakTasks {
    queue: VecDeque<Listed>,
    /// Where the last task was added.
    part: u8,
    serial: u64,
    /// How many are still to be looked at before the loop sleeps.
    due: usize,
    /// Callbacks that the loop had done when it last began to look at all.
    looked_at: u64,
    /// Tasks that had been added by then.
    looked_serial: u64,
    /// Entries of dead tasks removed.
    swept: u64,
}

impl WeakTasks {
    /// Entries in the registry.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether nothing is registered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Entries of dead tasks that were removed.
    #[must_use]
    pub fn swept(&self) -> u64 {
        self.swept
    }

    /// How many to look at before the loop goes to sleep, at most `limit` at a time: all, in
    /// portions, once it has done as many callbacks as it has entries; or
    /// [`config::CALLBACKS_PER_SWEEP`] times as many, if no task was added since the last look.
    pub fn due(&mut self, callbacks: u64, limit: usize) -> usize {
        let since = callbacks.wrapping_sub(self.looked_at);
        let entries = self.queue.len() as u64;
        if self.due == 0
            && since >= entries
            && (self.serial != self.looked_serial || since >= config::CALLBACKS_PER_SWEEP * entries)
        {
            self.due = self.queue.len();
            self.looked_at = callbacks;
            self.looked_serial = self.serial;
        }
        let portion = self.due.min(limit).min(self.queue.len());
        self.due = if portion == 0 { 0 } else { self.due - portion };
        portion
    }

    /// Whether there are more to look at before the loop goes to sleep.
    #[must_use]
    pub fn has_due(&self) -> bool {
        self.due > 0
    }
}

/// The tasks of all loops.
#[derive(Debug)]
pub struct Registry<T> {
    tasks: DashMap<TaskKey, Entry<T>, BuildHasherDefault<Hashed>>,
}

impl<T: Send + Sync> Default for Registry<T> {
    fn default() -> Self {
        Self { tasks: DashMap::with_hasher_and_shard_amount(BuildHasherDefault::default(), SHARDS) }
    }
}

impl<T: Send + Sync> Registry<T> {
    /// Adds a task. Returns what a dead task has left under its address, to be dropped.
    pub fn add(
        &self,
        owner: OwnerKey,
        address: usize,
        reference: T,
        created_ns: u64,
        foreign: bool,
        weak_tasks: &mut WeakTasks,
    ) -> Option<T> {
        weak_tasks.serial += 1;
        let serial = weak_tasks.serial;
        let first = weak_tasks.part;
        let free = (0..PARTS)
            .map(|step| (first + step) % PARTS)
            .find_map(|part| Some((part, self.tasks.try_entry(TaskKey { owner, address, part })?)));
        let (part, place) = free.unwrap_or_else(|| {
            // Each is being read.
            (first, self.tasks.entry(TaskKey { owner, address, part: first }))
        });
        weak_tasks.part = part;
        weak_tasks.queue.push_back(Listed { address, serial, part });
        let entry = Entry { reference, created_ns, foreign, serial };
        match place {
            Place::Occupied(mut place) => Some(place.insert(entry).reference),
            Place::Vacant(place) => {
                let _ = place.insert(entry);
                None
            }
        }
    }

    /// Takes a task out, with what dead ones have left under its address; all this is to be dropped.
    /// Its place in the list is given up when its turn comes.
    #[must_use]
    pub fn remove(&self, owner: OwnerKey, address: usize) -> Vec<T> {
        let part = |part| self.tasks.remove(&TaskKey { owner, address, part });
        (0..PARTS).filter_map(part).map(|(_, entry)| entry.reference).collect()
    }

    /// Calls `f` with the tasks of a loop, under a shard's lock: it must not wait, drop or run Python.
    /// One that is added or removed meanwhile may be among them or not.
    pub fn each(&self, owner: OwnerKey, mut f: impl FnMut(&Entry<T>)) {
        for part in 0..PARTS {
            let shard = self.tasks.shards()[shard_of(owner, part)].read();
            // SAFETY: the table is locked while its entries are looked at.
            for place in unsafe { shard.iter() } {
                // SAFETY: as above.
                let (key, entry) = unsafe { place.as_ref() };
                if key.owner == owner {
                    f(entry.get());
                }
            }
        }
    }

    /// Looks at the next task of a list, unless it is being read. Returns what a dead one leaves, to
    /// be dropped. `is_dead` as `f` of [`each`](Self::each).
    pub fn sweep_one(
        &self,
        owner: OwnerKey,
        weak_tasks: &mut WeakTasks,
        is_dead: impl Fn(&T) -> bool,
    ) -> Option<T> {
        let listed = weak_tasks.queue.pop_front()?;
        let Listed { address, part, .. } = listed;
        match self.tasks.try_entry(TaskKey { owner, address, part }) {
            Some(Place::Occupied(place)) if place.get().serial == listed.serial => {
                if is_dead(&place.get().reference) {
                    weak_tasks.swept += 1;
                    return Some(place.remove().reference);
                }
                weak_tasks.queue.push_back(listed);
            }
            // It was removed, or another has its address now, with a place of its own.
            Some(_) => {}
            // It is being read.
            None => weak_tasks.queue.push_back(listed),
        }
        None
    }

    /// As [`sweep_one`](Self::sweep_one), `count` times.
    pub fn sweep(
        &self,
        owner: OwnerKey,
        weak_tasks: &mut WeakTasks,
        count: usize,
        is_dead: impl Fn(&T) -> bool,
    ) -> Vec<T> {
        (0..count).filter_map(|_| self.sweep_one(owner, weak_tasks, &is_dead)).collect()
    }

    /// Takes all tasks of a list out.
    pub fn forget(&self, owner: OwnerKey, weak_tasks: &mut WeakTasks) -> Vec<T> {
        let gone = std::mem::take(&mut weak_tasks.queue).into_iter();
        gone.flat_map(|listed| self.remove(owner, listed.address)).collect()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const OWNER: OwnerKey = OwnerKey(3);

    fn of(registry: &Registry<usize>, owner: OwnerKey) -> Vec<usize> {
        let mut all = Vec::new();
        registry.each(owner, |entry| all.push(entry.reference));
        all.sort_unstable();
        all
    }

    #[test]
    fn a_loop_sees_its_own_tasks() {
        let registry = Registry::default();
        let (mut one, mut other) = (WeakTasks::default(), WeakTasks::default());
        for task in 1..=3 {
            assert_eq!(registry.add(OWNER, task * 16, task, 0, false, &mut one), None);
        }
        let far = OwnerKey(67);
        assert_eq!(shard_of(far, 0), shard_of(OWNER, 0));
        assert_eq!(registry.add(far, 16, 9, 0, false, &mut other), None);
        assert_eq!(of(&registry, OWNER), [1, 2, 3]);
        assert_eq!(of(&registry, far), [9]);
        assert_eq!(registry.remove(OWNER, 32), [2]);
        assert_eq!(of(&registry, OWNER), [1, 3]);
        assert_eq!(registry.forget(OWNER, &mut one).len(), 2);
        assert_eq!(of(&registry, far), [9]);
    }

    #[test]
    fn the_dead_are_swept_and_the_living_stay() {
        let (registry, mut weak_tasks) = (Registry::default(), WeakTasks::default());
        for task in 0..10 {
            let _ = registry.add(OWNER, task * 16, task, 0, false, &mut weak_tasks);
        }
        let removed = registry.sweep(OWNER, &mut weak_tasks, 4, |task| task % 2 == 1);
        assert_eq!(removed, [1, 3]);
        let removed = registry.sweep(OWNER, &mut weak_tasks, 100, |task| task % 2 == 1);
        assert_eq!(removed, [5, 7, 9]);
        assert_eq!((weak_tasks.len(), weak_tasks.swept()), (5, 5));
        assert_eq!(of(&registry, OWNER), [0, 2, 4, 6, 8]);
    }

    #[test]
    fn an_address_that_is_used_again_has_one_place() {
        let (registry, mut weak_tasks) = (Registry::default(), WeakTasks::default());
        assert_eq!(registry.add(OWNER, 16, 1, 0, false, &mut weak_tasks), None);
        assert_eq!(registry.add(OWNER, 16, 2, 0, false, &mut weak_tasks), Some(1));
        assert!(registry.sweep(OWNER, &mut weak_tasks, 2, |_| false).is_empty());
        assert_eq!(weak_tasks.len(), 1);
        assert_eq!(of(&registry, OWNER), [2]);
    }

    #[test]
    fn all_are_due_once_as_many_callbacks_have_run() {
        let (registry, mut weak_tasks) = (Registry::default(), WeakTasks::default());
        for task in 0..10 {
            let _ = registry.add(OWNER, task * 16, task, 0, false, &mut weak_tasks);
        }
        assert_eq!(weak_tasks.due(9, 4), 0);
        for (portion, more) in [(4, true), (4, true), (2, false)] {
            assert_eq!((weak_tasks.due(10, 4), weak_tasks.has_due()), (portion, more));
        }
        assert_eq!(weak_tasks.due(10, 4), 0);
        let later = 10 + 10 * config::CALLBACKS_PER_SWEEP;
        assert_eq!(weak_tasks.due(later - 1, 100), 0, "none was added");
        assert_eq!(weak_tasks.due(later, 100), 10);
        let _ = registry.add(OWNER, 160, 10, 0, false, &mut weak_tasks);
        assert_eq!(weak_tasks.due(later + 11, 100), 11);
    }

    #[test]
    fn each_loop_has_its_shards_and_tasks_are_spread_within_them() {
        let hash = |address: usize| {
            let mut hasher = Hashed::default();
            TaskKey { owner: OwnerKey(1), address, part: 0 }.hash(&mut hasher);
            hasher.finish()
        };
        let registry = Registry::<usize>::default();
        for owner in [0, 1, 63, 64, 1000].map(OwnerKey) {
            for part in 0..PARTS {
                let key = TaskKey { owner, address: 0x7f00_1000, part };
                assert_eq!(registry.tasks.determine_map(&key), shard_of(owner, part));
            }
        }
        let count = if cfg!(miri) { 64 } else { 1024 };
        let low: std::collections::HashSet<_> =
            (0..count).map(|task| hash(0x7f00_0000 + task * 352) & (count as u64 - 1)).collect();
        assert!(low.len() > count * 9 / 20, "{} places for {count} tasks", low.len());
    }

    #[test]
    fn a_loop_does_not_wait_for_those_who_read_its_tasks() {
        let (registry, mut weak_tasks) = (Registry::default(), WeakTasks::default());
        assert_eq!(registry.add(OWNER, 16, 1, 0, false, &mut weak_tasks), None);
        let read = |part| registry.tasks.shards()[shard_of(OWNER, part)].read();
        {
            let _readers: Vec<_> = (0..PARTS - 1).map(read).collect();
            assert_eq!(registry.add(OWNER, 32, 2, 0, false, &mut weak_tasks), None);
            assert_eq!(registry.add(OWNER, 16, 3, 0, false, &mut weak_tasks), None);
            // What is being read is looked at another time; what is not, is looked at.
            assert_eq!(registry.sweep(OWNER, &mut weak_tasks, 3, |_| true), [2, 3]);
            assert_eq!(weak_tasks.len(), 1);
        }
        assert_eq!(of(&registry, OWNER), [1]);
        assert_eq!(registry.sweep(OWNER, &mut weak_tasks, 3, |_| true), [1]);
    }

    #[test]
    fn what_is_removed_is_gone_from_every_shard() {
        let (registry, mut weak_tasks) = (Registry::default(), WeakTasks::default());
        let _ = registry.add(OWNER, 16, 1, 0, false, &mut weak_tasks);
        {
            let _reader = registry.tasks.shards()[shard_of(OWNER, 0)].read();
            let _ = registry.add(OWNER, 16, 2, 0, false, &mut weak_tasks);
        }
        assert_eq!(of(&registry, OWNER), [1, 2]);
        assert_eq!(registry.remove(OWNER, 16), [1, 2]);
        assert!(of(&registry, OWNER).is_empty());
        assert!(registry.sweep(OWNER, &mut weak_tasks, 9, |_| true).is_empty());
        assert!(weak_tasks.is_empty());
    }
}
