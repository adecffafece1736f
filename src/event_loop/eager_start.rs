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
    innermost: EagerStart,
}

/// A task that starts: its address, and the two bits below; or none. The ones around it are kept by
/// their guards ([`Starting`]).
#[derive(Clone, Copy, Debug, Default)]
struct EagerStart(usize);

/// Its constructor has not asked yet whether the loop runs, after which it runs the step.
const CONSTRUCTING: usize = 1 << 0;
/// The table of tasks knows it.
const REGISTERED: usize = 1 << 1;

impl EagerStart {
    /// Whether this is the start of a task that the table of tasks does not know.
    fn is_unregistered(self) -> bool {
        self.0 != 0 && self.0 & REGISTERED == 0
    }

    fn is_of(self, task: usize) -> bool {
        self.0 & !(CONSTRUCTING | REGISTERED) == task
    }
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
    fn begin(&mut self, task: usize) -> EagerStart {
        debug_assert_eq!(task & (CONSTRUCTING | REGISTERED), 0, "objects are aligned");
        std::mem::replace(&mut self.innermost, EagerStart(task | CONSTRUCTING))
    }

    /// Ends the present start, and goes on with the one around it.
    fn end(&mut self, outer: EagerStart) -> EagerStart {
        std::mem::replace(&mut self.innermost, outer)
    }

    /// Somebody asks whether the loop runs. A constructor asks once.
    pub fn asked_whether_running(&mut self) -> Asker {
        let is_constructing = self.innermost.0 & CONSTRUCTING != 0;
        self.innermost.0 &= !CONSTRUCTING;
        if is_constructing { Asker::Constructor } else { Asker::Program }
    }

    /// Another task is about to start inside `running`, which is asyncio's current task, while `shown` is
    /// the one that the loop shows to other threads. Whether `running` is to be registered now: the
    /// start's own task is registered once; any other is one that the loop was not told of, unless it is
    /// the one shown.
    pub fn must_register(&mut self, running: usize, shown: usize) -> bool {
        if self.innermost.is_unregistered() && self.innermost.is_of(running) {
            self.innermost.0 |= REGISTERED;
            true
        } else {
            shown != running
        }
    }
}

/// A start that is under way. It ends when this is dropped, also by a panic.
#[derive(Debug)]
#[must_use = "the task is being started while this lives"]
pub struct Starting<'a, T: AsMut<EagerStarts>> {
    /// What the loop's owner touches.
    local: &'a OwnerCell<T>,
    outer: EagerStart,
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
        ManuallyDrop::new(self).restore().is_unregistered()
    }

    fn restore(&self) -> EagerStart {
        // SAFETY: reaches nothing else.
        unsafe { self.local.if_owner(|local| local.as_mut().end(self.outer)) }.unwrap_or_default()
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

    /// Addresses of tasks.
    const OUTER: usize = 16;
    const INNER: usize = 32;
    const OTHER: usize = 48;
    const STEPPING: usize = 64;

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
        let starting = Starting::begin(&local, OUTER).unwrap();
        assert_eq!(asker(&local), Asker::Constructor);
        assert_eq!(asker(&local), Asker::Program);
        assert!(starting.end());
        assert_eq!(asker(&local), Asker::Program);
    }

    #[test]
    fn a_start_inside_another_asks_for_itself() {
        let local = local();
        let _claim = local.claim().unwrap();
        let outer = Starting::begin(&local, OUTER).unwrap();
        // The outer one's constructor has not asked yet: what it was given starts another task.
        let inner = Starting::begin(&local, INNER).unwrap();
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
        let outer = Starting::begin(&local, OUTER).unwrap();
        assert!(must_register(&local, OUTER, OUTER));
        assert!(!must_register(&local, OUTER, OUTER));
        let inner = Starting::begin(&local, INNER).unwrap();
        assert!(must_register(&local, INNER, INNER));
        assert!(!inner.end(), "it is registered already");
        assert!(!outer.end(), "so is this one");
    }

    #[test]
    fn a_task_that_the_loop_was_not_told_of_is_registered_and_the_one_shown_is_not() {
        let local = local();
        let _claim = local.claim().unwrap();
        assert!(!must_register(&local, STEPPING, STEPPING), "an ordinary task's step");
        assert!(must_register(&local, OTHER, STEPPING), "the program has started one inside of it");
        let starting = Starting::begin(&local, OUTER).unwrap();
        assert!(must_register(&local, OTHER, OUTER));
        assert!(starting.end(), "that was another one");
    }

    #[test]
    fn a_start_that_panics_ends_and_the_one_around_it_goes_on() {
        let local = local();
        let _claim = local.claim().unwrap();
        let outer = Starting::begin(&local, OUTER).unwrap();
        assert_eq!(asker(&local), Asker::Constructor);
        let inner = std::panic::AssertUnwindSafe(|| {
            let _inner = Starting::begin(&local, INNER).unwrap();
            panic!("in a first step");
        });
        assert!(std::panic::catch_unwind(inner).is_err());
        assert_eq!(asker(&local), Asker::Program, "the inner one's question is gone with it");
        assert!(must_register(&local, OUTER, OUTER));
        assert!(!outer.end());
    }

    #[test]
    fn only_the_owner_starts_tasks() {
        let local = local();
        assert!(Starting::begin(&local, OUTER).is_none());
        let _claim = local.claim().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| assert!(Starting::begin(&local, OUTER).is_none()));
        });
    }
}
