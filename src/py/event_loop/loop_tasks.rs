//! A loop's tasks, as other threads ask for them: what the table of tasks, those who were handed a
//! task, and `spawn` keep for each loop.
//!
//! In and out: `registry`, and `pool::spawned_tasks`. Each part has a lock of its own, which is held for a
//! few instructions, and two of them never at once. Must never: run Python, or drop a reference, under one
//! of them.

use super::borrowed_tasks::BorrowedTasks;
use crate::pool::{OwnerKey, SpawnedTasks, WeakTasks};
use crate::py::cpython::object::Ref;
use crate::sync::Mutex;

/// The tasks of one loop. Any thread.
pub(crate) struct LoopTasks {
    /// The loop as the owner of its tasks in the table.
    pub(crate) owner_key: OwnerKey,
    /// Its tasks there.
    pub(crate) weak: Mutex<WeakTasks>,
    /// Those that other threads were handed.
    pub(crate) borrowed: BorrowedTasks,
    /// Those of `spawn` that were given to it.
    pub(crate) spawned: Mutex<SpawnedTasks<Ref>>,
}

impl LoopTasks {
    /// Those of a new loop.
    pub(crate) fn new() -> Self {
        Self {
            owner_key: next_key(),
            weak: Mutex::new(WeakTasks::default()),
            borrowed: BorrowedTasks::new(),
            spawned: Mutex::new(SpawnedTasks::default()),
        }
    }
}

/// Numbers the loops of the process.
fn next_key() -> OwnerKey {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    OwnerKey(NEXT.fetch_add(1, Relaxed))
}
