//! Tasks whose first step runs inside their constructor: asyncio's eager tasks.
//!
//! In: the start of such a task, and the two questions that are asked meanwhile: whether the loop runs
//! (the constructor asks before the step, a program may ask in it), and which task is running. Out:
//! which tasks the table of tasks has to learn of, each once. Starts are nested: a first step may start
//! another task.
//!
//! Must never: follow a task's address.

use std::marker::PhantomData;
use std::mem::ManuallyDrop;

use super::OwnerCell;

/// The eager starts that are under way. Owner only.
#[derive(Debug, Default)]
pub struct EagerStarts {
    innermost: Option<EagerStart>,
}

/// A task that starts. The ones around it are kept by their guards ([`Starting`]).
#[derive(Debug)]
struct EagerStart {
    task: usize,
    /// Its constructor has not asked yet whether the loop runs, after which it runs the step.
    is_constructing: bool,
    /// The table of tasks knows it.
    is_registered: bool,
}

/// Who asks whether the loop runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Asker {
    /// The constructor of the task that is being started.
    Constructor,
    /// Anybody else. It may be the constructor of a task that the loop was not told of, which is about to
    /// run its first step: the task around it has to be registered before.
    Program,
}

impl AsMut<Self> for EagerStarts {
    fn as_mut(&mut self) -> &mut Self {
        self
    }
}

impl EagerStarts {
    /// Begins a start inside the present one, which is returned.
    fn begin(&mut self, task: usize) -> Option<EagerStart> {
        let start = EagerStart { task, is_constructing: true, is_registered: false };
        self.innermost.replace(start)
    }

    /// Ends the present start, and goes on with the one around it.
    fn end(&mut self, outer: Option<EagerStart>) -> Option<EagerStart> {
        std::mem::replace(&mut self.innermost, outer)
    }

    /// Somebody asks whether the loop runs. A constructor asks once.
    pub fn asked_whether_running(&mut self) -> Asker {
        match &mut self.innermost {
            Some(start) if start.is_constructing => {
                start.is_constructing = false;
                Asker::Constructor
            }
            _ => Asker::Program,
        }
    }

    /// Another task is about to start inside `running`, which is asyncio's current task, while `shown` is
    /// the one that the loop shows to other threads. Whether `running` is to be registered now: the
    /// start's own task is registered once; any other is one that the loop was not told of, unless it is
    /// the one shown.
    pub fn must_register(&mut self, running: usize, shown: usize) -> bool {
        match &mut self.innermost {
            Some(start) if start.task == running && !start.is_registered => {
                start.is_registered = true;
                true
            }
            _ => shown != running,
        }
    }
}

/// A start that is under way. It ends when this is dropped, also by a panic.
#[derive(Debug)]
#[must_use = "the task is being started while this lives"]
pub struct Starting<'a, T: AsMut<EagerStarts>> {
    /// What the loop's owner touches.
    local: &'a OwnerCell<T>,
    outer: Option<EagerStart>,
    /// Not `Send`: it ends on the thread where it began.
    _thread: PhantomData<*const ()>,
}

impl<'a, T: AsMut<EagerStarts>> Starting<'a, T> {
    /// Begins to start a task at once. `None` on another thread than the owner's, which cannot.
    pub fn begin(local: &'a OwnerCell<T>, task: usize) -> Option<Self> {
        // SAFETY: reaches nothing else.
        let outer = unsafe { local.if_owner(|local| local.as_mut().begin(task)) }?;
        Some(Self { local, outer, _thread: PhantomData })
    }

    /// Ends the start. Whether the table of tasks has still to learn of the task, unless it is done.
    #[must_use]
    pub fn end(self) -> bool {
        ManuallyDrop::new(self).restore().is_some_and(|start| !start.is_registered)
    }

    fn restore(&mut self) -> Option<EagerStart> {
        let outer = self.outer.take();
        // SAFETY: reaches nothing else.
        unsafe { self.local.if_owner(|local| local.as_mut().end(outer)) }.flatten()
    }
}

impl<T: AsMut<EagerStarts>> Drop for Starting<'_, T> {
    fn drop(&mut self) {
        self.restore();
    }
}

#[cfg(all(test, not(loom)))]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::sync::thread;

    type Local = OwnerCell<EagerStarts>;

    fn local() -> Local {
        OwnerCell::new(EagerStarts::default())
    }

    fn asker(local: &Local) -> Asker {
        // SAFETY: reaches nothing else.
        unsafe { local.if_owner(EagerStarts::asked_whether_running) }.unwrap()
    }

    fn must_register(local: &Local, running: usize, shown: usize) -> bool {
        // SAFETY: reaches nothing else.
        unsafe { local.if_owner(|starts| starts.must_register(running, shown)) }.unwrap()
    }

    #[test]
    fn a_constructor_asks_once_and_whoever_asks_then_is_the_program() {
        let local = local();
        let _claim = local.claim().unwrap();
        assert_eq!(asker(&local), Asker::Program);
        let starting = Starting::begin(&local, 1).unwrap();
        assert_eq!(asker(&local), Asker::Constructor);
        assert_eq!(asker(&local), Asker::Program);
        assert!(starting.end());
        assert_eq!(asker(&local), Asker::Program);
    }

    #[test]
    fn a_start_inside_another_asks_for_itself() {
        let local = local();
        let _claim = local.claim().unwrap();
        let outer = Starting::begin(&local, 1).unwrap();
        // The outer one's constructor has not asked yet: what it was given starts another task.
        let inner = Starting::begin(&local, 2).unwrap();
        assert_eq!(asker(&local), Asker::Constructor);
        assert_eq!(asker(&local), Asker::Program);
        assert!(inner.end());
        assert_eq!(asker(&local), Asker::Constructor);
        assert_eq!(asker(&local), Asker::Program);
        assert!(outer.end());
    }

    #[test]
    fn a_starting_task_is_registered_once_when_another_starts_inside_of_it() {
        let local = local();
        let _claim = local.claim().unwrap();
        let outer = Starting::begin(&local, 1).unwrap();
        assert!(must_register(&local, 1, 1));
        assert!(!must_register(&local, 1, 1));
        let inner = Starting::begin(&local, 2).unwrap();
        assert!(must_register(&local, 2, 2));
        assert!(!inner.end(), "it is registered already");
        assert!(!outer.end(), "so is this one");
    }

    #[test]
    fn a_task_that_the_loop_was_not_told_of_is_registered_and_the_one_shown_is_not() {
        let local = local();
        let _claim = local.claim().unwrap();
        assert!(!must_register(&local, 9, 9), "an ordinary task's step");
        assert!(must_register(&local, 8, 9), "the program has started one inside of it");
        let starting = Starting::begin(&local, 1).unwrap();
        assert!(must_register(&local, 8, 1));
        assert!(starting.end(), "that was another one");
    }

    #[test]
    fn a_start_that_panics_ends_and_the_one_around_it_goes_on() {
        let local = local();
        let _claim = local.claim().unwrap();
        let outer = Starting::begin(&local, 1).unwrap();
        assert_eq!(asker(&local), Asker::Constructor);
        let inner = std::panic::AssertUnwindSafe(|| {
            let _inner = Starting::begin(&local, 2).unwrap();
            panic!("in a first step");
        });
        assert!(std::panic::catch_unwind(inner).is_err());
        assert_eq!(asker(&local), Asker::Program, "the inner one's question is gone with it");
        assert!(must_register(&local, 1, 1));
        assert!(!outer.end());
    }

    #[test]
    fn only_the_owner_starts_tasks() {
        let local = local();
        assert!(Starting::begin(&local, 1).is_none());
        let _claim = local.claim().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| assert!(Starting::begin(&local, 1).is_none()));
        });
    }
}
