//! The table of all tasks: a task comes, is swept when it is dead, is removed, and is read.

use std::hint::black_box;

use loop_pool::pool::{OwnerKey, Registry, WeakTasks};

const OWNER: OwnerKey = OwnerKey(3);

/// Tasks that are alive.
pub const ALIVE: usize = 1000;

/// Addresses are used again after this many tasks.
const ADDRESSES: usize = 4 * ALIVE;

/// The size of a task in memory.
const TASK: usize = 352;

struct Tasks {
    registry: Registry<usize>,
    known: WeakTasks,
    added: usize,
}

impl Tasks {
    fn new() -> Self {
        let known = WeakTasks::default();
        let mut tasks = Self { registry: Registry::default(), known, added: 0 };
        for _ in 0..ALIVE {
            tasks.add();
        }
        tasks
    }

    /// Adds a task and returns its address.
    fn add(&mut self) -> usize {
        self.added += 1;
        let address = 0x7f00_0000_0000 + self.added % ADDRESSES * TASK;
        let known = &mut self.known;
        black_box(self.registry.add(OWNER, address, self.added, 1, false, known));
        address
    }

    /// Looks at the next task; the [`ALIVE`] youngest are alive.
    fn sweep_one(&mut self) {
        let oldest = self.added - ALIVE;
        let is_dead = |task: &usize| *task <= oldest;
        black_box(self.registry.sweep_one(OWNER, &mut self.known, is_dead));
    }
}

/// A task is registered, and two are looked at, of which one is dead on average.
pub fn add_sweep() -> impl FnMut() {
    let mut tasks = Tasks::new();
    move || {
        tasks.add();
        tasks.sweep_one();
        tasks.sweep_one();
    }
}

/// A task registers and unregisters itself; its place in the roster is given up.
pub fn add_remove() -> impl FnMut() {
    let mut tasks =
        Tasks { registry: Registry::default(), known: WeakTasks::default(), added: ALIVE };
    move || {
        let address = tasks.add();
        black_box(tasks.registry.remove(OWNER, address));
        tasks.sweep_one();
    }
}

/// A reader looks at all [`ALIVE`] tasks.
pub fn each() -> impl FnMut() {
    let tasks = Tasks::new();
    move || {
        tasks.registry.each(OWNER, |entry| {
            black_box(entry.reference);
        });
    }
}
