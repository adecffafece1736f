//! Publishes which task a loop is running and which tasks it has not started, for any thread.
//!
//! In: a task, as a number, that the owner keeps alive while it is published: in its queue entry until the
//! first step has run, and during each step. Out: a reference that a reader takes for itself while the task
//! is published. This layer neither counts references nor follows pointers.
//!
//! Must never: make the owner wait.

//   owner                                  reader, any thread
//   publish the task                       announce: readers += 1
//   ... run the step ...                   look: is one published? take a reference
//   announce: withdraw it                  readers -= 1
//   look: readers == 0?  drop the task
//         else           put it aside, drop it later
//
// One of the two sees the announcement of the other (`SharedFence`). Either the reader does not find
// the task, or the owner sees the reader in the count, or the reader already has its reference. So no
// reader takes a reference to a task that the owner has dropped. Neither waits for the other.

use std::mem::ManuallyDrop;

use crate::sync::announce::SharedFence;
use crate::sync::atomic::{
    AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};
use crate::sync::yield_now;

/// Tasks that can be shown before their first step.
const YOUNG: usize = if cfg!(any(loom, miri)) { 4 } else { 1024 };

/// What the owner may do with a task that it has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum LeaveOutcome {
    /// Drop it: nobody is looking.
    Drop,
    /// Keep it until [`Current::is_unread`]: a reader may be about to count a reference.
    PutAside,
}

#[derive(Debug)]
struct Young {
    /// 0: none.
    task: AtomicUsize,
    /// When it was made. A reader may find that of the next task in this place: its age is wrong by
    /// less than the time it takes to read it.
    created_ns: AtomicU64,
}

/// What is shown: of the owner to change, and of readers that have announced themselves to see.
#[derive(Debug)]
pub struct Shown {
    /// The task whose step is running; 0: none.
    running: AtomicUsize,
    /// The first of `young` in use, and the first free one, without end; owner's to write.
    begin: AtomicUsize,
    end: AtomicUsize,
    young: Box<[Young]>,
}

/// The tasks that a loop shows. On a cache line of its own: see `Shared`.
#[derive(Debug)]
pub struct Current {
    shown: Shown,
    /// Threads that are reading.
    readers: AtomicUsize,
    /// Between what the owner shows no more and the readers' count.
    fence: SharedFence,
}

impl Current {
    pub(super) fn new() -> Self {
        let young = || Young { task: AtomicUsize::new(0), created_ns: AtomicU64::new(0) };
        let shown = Shown {
            running: AtomicUsize::new(0),
            begin: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            young: std::iter::repeat_with(young).take(YOUNG).collect(),
        };
        Self { shown, readers: AtomicUsize::new(0), fence: SharedFence::default() }
    }

    // -- the owner -------------------------------------------------------------------------------

    /// The task whose step is running; 0: none. Owner only.
    #[inline(always)]
    pub fn running(&self) -> usize {
        self.shown.running.load(Relaxed)
    }

    /// Shows the task whose step begins, until the step is left. Owner only.
    #[inline(always)]
    pub fn enter(&self, task: usize) -> Step<'_> {
        let before = self.running();
        self.shown.running.store(task, Release);
        Step { current: self, before }
    }

    /// Ends a step that was [kept on](Step::keep_on): as [`Step::leave`]. Owner only.
    #[inline(always)]
    pub fn leave(&self, before: usize) -> LeaveOutcome {
        let announced = self.fence.announce(|| self.shown.running.store(before, Release));
        if announced.look(|| self.is_unread()) {
            LeaveOutcome::Drop
        } else {
            LeaveOutcome::PutAside
        }
    }

    /// Whether nobody is reading: what was put aside before may be dropped. Owner only.
    #[inline(always)]
    pub fn is_unread(&self) -> bool {
        // What a reader did with a task has happened before the owner drops it.
        self.readers.load(Acquire) == 0
    }

    /// Shows a task that waits for its first step; whether there was room. Owner only.
    #[inline]
    pub fn add_young(&self, task: usize, created_ns: u64) -> bool {
        let end = self.shown.end.load(Relaxed);
        if end.wrapping_sub(self.shown.begin.load(Relaxed)) == YOUNG {
            return false;
        }
        let place = &self.shown.young[end % YOUNG];
        place.created_ns.store(created_ns, Relaxed);
        place.task.store(task, Release);
        self.shown.end.store(end.wrapping_add(1), Release);
        true
    }

    /// Whether a task is the last one shown by [`add_young`](Self::add_young). Owner only.
    pub fn is_last_young(&self, task: usize) -> bool {
        let (begin, end) = (self.shown.begin.load(Relaxed), self.shown.end.load(Relaxed));
        begin != end && self.shown.young[end.wrapping_sub(1) % YOUNG].task.load(Relaxed) == task
    }

    /// Calls `f` with the time when a young task was made, and then shows it no more; `None` if it is
    /// not shown. Owner only, when its first step has run, before [`leave`](Self::leave).
    #[inline(always)]
    pub fn remove_young<R>(&self, task: usize, f: impl FnOnce(u64) -> R) -> Option<R> {
        let (mut begin, end) = (self.shown.begin.load(Relaxed), self.shown.end.load(Relaxed));
        let at = |index: usize| &self.shown.young[index % YOUNG];
        // Tasks begin in the order in which they were made, unless somebody has reordered them.
        let mut index = begin;
        while index != end && at(index).task.load(Relaxed) != task {
            index = index.wrapping_add(1);
        }
        if index == end {
            return None;
        }
        let result = f(at(index).created_ns.load(Relaxed));
        at(index).task.store(0, Release);
        while begin != end && at(begin).task.load(Relaxed) == 0 {
            begin = begin.wrapping_add(1);
        }
        self.shown.begin.store(begin, Release);
        Some(result)
    }

    /// Shows no task any more that waits for its first step: none of them will begin. Owner only, before
    /// it drops them, which it may do once [`is_unread`](Self::is_unread).
    pub fn clear_young(&self) {
        let (begin, end) = (self.shown.begin.load(Relaxed), self.shown.end.load(Relaxed));
        let _ = self.fence.announce(|| {
            for offset in 0..end.wrapping_sub(begin) {
                self.shown.young[begin.wrapping_add(offset) % YOUNG].task.store(0, Release);
            }
            self.shown.begin.store(end, Release);
        });
    }

    /// Calls `f`, during which no task that it sees is dropped. Any thread. `f` is as short as can
    /// be: it takes references, and nothing more.
    pub fn read<R>(&self, f: impl FnOnce(&Shown) -> R) -> R {
        let announced = self.fence.announce(|| self.readers.fetch_add(1, Relaxed));
        let _reader = Reader(self);
        announced.look(|| f(&self.shown))
    }
}

impl Shown {
    /// The task whose step is running; 0: none.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.load(Acquire)
    }

    /// The tasks that wait for their first step, and when they were made.
    pub fn young(&self) -> impl Iterator<Item = (usize, u64)> {
        let (begin, end) = (self.begin.load(Acquire), self.end.load(Acquire));
        (0..end.wrapping_sub(begin).min(YOUNG)).filter_map(move |offset| {
            let place = &self.young[begin.wrapping_add(offset) % YOUNG];
            let task = place.task.load(Acquire);
            (task != 0).then(|| (task, place.created_ns.load(Relaxed)))
        })
    }
}

/// A step that has begun. It ends when this is dropped, also by a panic: before the task is dropped.
#[derive(Debug)]
#[must_use = "the task is shown while this lives"]
pub struct Step<'a> {
    current: &'a Current,
    /// What was shown when it began.
    before: usize,
}

impl Step<'_> {
    /// Shows again what was shown when it began, and says what to do with the task.
    #[inline(always)]
    pub fn leave(self) -> LeaveOutcome {
        let step = ManuallyDrop::new(self);
        step.current.leave(step.before)
    }

    /// Lets it go on beyond this, until [`Current::leave`] shows again what this returns.
    #[must_use = "it goes on until it is left"]
    pub fn keep_on(self) -> usize {
        ManuallyDrop::new(self).before
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        // Who panics puts nothing aside.
        if self.current.leave(self.before) == LeaveOutcome::PutAside {
            while !self.current.is_unread() {
                yield_now();
            }
        }
    }
}

/// A thread that is reading, and counted.
struct Reader<'a>(&'a Current);

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        self.0.readers.fetch_sub(1, Release);
    }
}

#[cfg(all(test, not(loom)))]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::sync::{Arc, UnsafeCell, thread};

    fn young(current: &Current) -> Vec<usize> {
        current.read(|shown| shown.young().map(|(task, _)| task).collect())
    }

    #[test]
    fn what_is_entered_is_shown_until_it_is_left() {
        let current = Current::new();
        assert_eq!(current.read(Shown::running), 0);
        let step = current.enter(10);
        assert_eq!(current.read(Shown::running), 10);
        // A task that begins inside of another's step.
        let inner = current.enter(20);
        assert_eq!(current.read(Shown::running), 20);
        assert_eq!(inner.leave(), LeaveOutcome::Drop);
        assert_eq!(current.read(Shown::running), 10);
        assert_eq!(step.leave(), LeaveOutcome::Drop);
        assert_eq!(current.read(Shown::running), 0);
        // One that goes on beyond the call that has begun it.
        let before = current.enter(30).keep_on();
        assert_eq!(current.read(Shown::running), 30);
        assert_eq!(current.leave(before), LeaveOutcome::Drop);
        assert_eq!(current.read(Shown::running), 0);
    }

    #[test]
    fn a_step_that_panics_is_shown_no_more() {
        let current = Current::new();
        let step = std::panic::AssertUnwindSafe(|| {
            let _step = current.enter(10);
            panic!("in a step");
        });
        assert!(std::panic::catch_unwind(step).is_err());
        assert_eq!(current.read(Shown::running), 0);
    }

    /// A task that must not be touched once it is dropped.
    #[derive(Default)]
    struct Task(UnsafeCell<bool>);

    // SAFETY: what the test is about; Miri reports it if it is not true.
    unsafe impl Sync for Task {}
    // SAFETY: nothing in it belongs to a thread.
    unsafe impl Send for Task {}

    /// As the models of `loom_tests.rs`, for Miri, which reports a race.
    #[test]
    fn no_reader_touches_a_task_that_is_being_dropped() {
        const TASKS: usize = if cfg!(miri) { 100 } else { 10_000 };
        let tasks: Vec<_> = std::iter::repeat_with(Task::default).take(TASKS).collect();
        let shared = Arc::new((Current::new(), tasks));
        let reader = {
            let shared = Arc::clone(&shared);
            let read = move || {
                let (current, tasks) = &*shared;
                current.read(|shown| {
                    let task = shown.running();
                    if task != 0 {
                        // SAFETY: what is shown is not dropped meanwhile.
                        tasks[task - 1].0.with(|dropped| assert!(!unsafe { *dropped }));
                    }
                    task
                })
            };
            #[allow(clippy::disallowed_methods, reason = "sync::thread is std's here")]
            thread::spawn(move || while read() != TASKS {})
        };
        let (current, tasks) = &*shared;
        // Where others work as well, each `yield_now` may take long.
        let until = Instant::now() + Duration::from_secs(5);
        for (number, task) in (1..TASKS).zip(tasks) {
            if Instant::now() > until {
                break;
            }
            let step = current.enter(number);
            thread::yield_now();
            // As by a panic: it waits for who reads.
            drop(step);
            // SAFETY: nobody reads it any more.
            task.0.with_mut(|dropped| unsafe { *dropped = true });
        }
        // The last one is never dropped.
        let _last = current.enter(TASKS);
        reader.join().unwrap();
    }

    #[test]
    fn a_task_that_is_being_read_is_put_aside() {
        let current = Current::new();
        let step = current.enter(10);
        current.read(|_| {
            assert_eq!(step.leave(), LeaveOutcome::PutAside);
            assert!(!current.is_unread());
        });
        assert!(current.is_unread());
    }

    #[test]
    fn a_reader_that_panics_reads_no_more() {
        let current = Current::new();
        let read = std::panic::AssertUnwindSafe(|| current.read(|_| panic!("while it reads")));
        assert!(std::panic::catch_unwind(read).is_err());
        assert!(current.is_unread());
        assert_eq!(current.enter(10).leave(), LeaveOutcome::Drop);
    }

    #[test]
    fn young_tasks_are_shown_in_their_order_and_may_begin_in_any() {
        let current = Current::new();
        for task in 1..=4 {
            assert!(current.add_young(task, task as u64 * 100));
        }
        assert_eq!(young(&current), [1, 2, 3, 4]);
        assert!(current.is_last_young(4) && !current.is_last_young(3));
        assert_eq!(current.remove_young(1, |ns| ns), Some(100));
        assert_eq!(current.remove_young(3, |ns| ns), Some(300));
        assert_eq!(young(&current), [2, 4]);
        assert_eq!(current.remove_young(3, |ns| ns), None);
        assert_eq!(current.remove_young(2, |ns| ns), Some(200));
        assert_eq!(current.remove_young(4, |ns| ns), Some(400));
        assert!(young(&current).is_empty());
    }

    #[test]
    fn young_tasks_that_will_not_begin_are_shown_no_more() {
        let current = Current::new();
        for task in 1..=3 {
            assert!(current.add_young(task, 0));
        }
        assert_eq!(current.remove_young(2, |ns| ns), Some(0));
        current.clear_young();
        assert!(young(&current).is_empty());
        assert_eq!(current.remove_young(1, |ns| ns), None);
        assert!(current.add_young(4, 0));
        assert_eq!(young(&current), [4]);
    }

    #[test]
    fn there_is_room_again_when_tasks_have_begun() {
        let current = Current::new();
        for round in 0..3 {
            for task in 1..=YOUNG {
                assert!(current.add_young(task, 0), "round {round}");
            }
            assert!(!current.add_young(YOUNG + 1, 0));
            for task in 1..=YOUNG {
                assert_eq!(current.remove_young(task, |ns| ns), Some(0));
            }
        }
    }
}
