//! The spawned tasks of one loop that have not ended.
//!
//! In: a task when it is admitted and when it ends. Out: the remaining ones when the loop closes. It keeps
//! them alive. Its lock decides admission: tasks admitted before it closed are seen by the shutdown. Must
//! never: know what a task is.

/// Which tasks are let in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Admission {
    /// All of them.
    #[default]
    Open,
    /// Those of the shutdown itself.
    Closing,
    /// None: the loop has ended.
    Closed,
}

/// The tasks of one loop that have not ended. The caller locks it.
#[derive(Debug)]
pub struct SpawnedTasks<T> {
    admission: Admission,
    tasks: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Default for SpawnedTasks<T> {
    fn default() -> Self {
        Self { admission: Admission::Open, tasks: Vec::new(), free: Vec::new() }
    }
}

impl<T> SpawnedTasks<T> {
    /// Which tasks are let in.
    #[must_use]
    pub fn admission(&self) -> Admission {
        self.admission
    }

    /// Adds a task; returns its slot. `closing`: it belongs to the shutdown.
    ///
    /// # Errors
    /// The task, if it is not let in.
    pub fn add(&mut self, task: T, closing: bool) -> Result<usize, T> {
        let allowed = if closing { Admission::Closing } else { Admission::Open };
        if self.admission > allowed {
            return Err(task);
        }
        if let Some(slot) = self.free.pop() {
            self.tasks[slot] = Some(task);
            return Ok(slot);
        }
        self.tasks.push(Some(task));
        Ok(self.tasks.len() - 1)
    }

    /// Removes the task at `slot`, if `is_it` says that it is the one. `None` if it is not there any
    /// more.
    pub fn remove(&mut self, slot: usize, is_it: impl FnOnce(&T) -> bool) -> Option<T> {
        let entry = self.tasks.get_mut(slot)?;
        if !entry.as_ref().is_some_and(is_it) {
            return None;
        }
        self.free.push(slot);
        entry.take()
    }

    /// The tasks, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.tasks.iter().flatten()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        (self.tasks.len() - self.free.len()) as u64
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// From now on lets in the tasks of the shutdown only.
    pub fn begin_closing(&mut self) {
        self.admission = self.admission.max(Admission::Closing);
    }

    /// Lets no task in any more, and returns those that have not ended.
    pub fn close(&mut self) -> Vec<T> {
        self.admission = Admission::Closed;
        self.free.clear();
        self.tasks.drain(..).flatten().collect()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_slot_is_used_again_by_another_task_only() {
        let mut tasks = SpawnedTasks::default();
        let first = tasks.add("first", false).unwrap();
        assert_eq!(tasks.remove(first, |task| *task == "first"), Some("first"));
        let second = tasks.add("second", false).unwrap();
        assert_eq!(second, first);
        assert_eq!(tasks.remove(first, |task| *task == "first"), None, "it has ended before");
        assert_eq!(tasks.iter().collect::<Vec<_>>(), [&"second"]);
        assert_eq!(tasks.len(), 1);
    }

    #[test]
    fn a_closing_loop_takes_the_tasks_of_its_shutdown_only() {
        let mut tasks = SpawnedTasks::default();
        tasks.add(1, false).unwrap();
        tasks.begin_closing();
        assert_eq!(tasks.add(2, false), Err(2));
        assert!(tasks.add(3, true).is_ok());
        assert_eq!(tasks.close(), [1, 3]);
        assert_eq!(tasks.add(4, true), Err(4));
        tasks.begin_closing();
        assert_eq!(tasks.admission(), Admission::Closed, "a closed one stays closed");
        assert!(tasks.is_empty());
    }

    #[test]
    fn what_was_closed_is_not_removed_again() {
        let mut tasks = SpawnedTasks::default();
        let slot = tasks.add(1, false).unwrap();
        assert_eq!(tasks.close(), [1]);
        assert_eq!(tasks.remove(slot, |_| true), None);
        assert_eq!(tasks.len(), 0);
    }
}
