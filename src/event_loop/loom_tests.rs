//! Models of inbox, park and ownership, checked over every interleaving. Run by `make test-loom`.

use super::current::{Current, Step};
use super::{Carrier, Inbox, Link, OwnerCell};
use crate::scheduler::{Idle, Park, Wake};
use crate::sync::{Arc, Mutex, UnsafeCell, thread, yield_now};
use loom::sync::Notify;
use std::ptr::NonNull;

/// The part of a loop that the protocol is about; `Notify` stands for the kernel's event counter:
/// a wake that comes first ends the next wait.
#[derive(Default)]
struct Model {
    inbox: Inbox<u32>,
    idle: Idle,
    kernel: Kernel,
}

struct Kernel(Notify);

impl Default for Kernel {
    fn default() -> Self {
        Self(Notify::new())
    }
}

impl Model {
    fn post(&self, value: u32) {
        if self.idle.posted(&self.inbox.push(value)) == Wake::Needed {
            self.kernel.0.notify();
        }
    }

    /// Runs the owner until it has seen `count` values. A lost wakeup leaves it asleep for ever,
    /// which loom reports as a deadlock.
    fn own(&self, count: usize) -> Vec<u32> {
        let mut seen = Vec::new();
        while seen.len() < count {
            if let Park::Sleep(_parked) = self.idle.park(|announced| self.inbox.has_come(announced))
            {
                self.kernel.0.wait();
            }
            seen.extend(self.inbox.drain());
        }
        seen
    }
}

#[test]
fn loom_no_post_is_slept_through() {
    loom::model(|| {
        let model = Arc::new(Model::default());
        let poster = {
            let model = Arc::clone(&model);
            thread::spawn(move || {
                model.post(1);
                model.post(2);
            })
        };
        assert_eq!(model.own(2), [1, 2]);
        poster.join().unwrap();
    });
}

#[test]
fn loom_two_posters_wake_one_sleeper() {
    loom::model(|| {
        let model = Arc::new(Model::default());
        let posters: Vec<_> = (1..=2)
            .map(|value| {
                let model = Arc::clone(&model);
                thread::spawn(move || model.post(value))
            })
            .collect();
        let mut seen = model.own(2);
        seen.sort_unstable();
        assert_eq!(seen, [1, 2]);
        for poster in posters {
            poster.join().unwrap();
        }
    });
}

#[test]
fn loom_the_inbox_hands_over_what_was_written_before_the_push() {
    loom::model(|| {
        let inbox = Arc::new(Inbox::default());
        let cell = Arc::new(Mutex::new(0));
        let pusher = {
            let (inbox, cell) = (Arc::clone(&inbox), Arc::clone(&cell));
            thread::spawn(move || {
                let _ = inbox.push(Box::new(7));
                *cell.lock() = 1;
            })
        };
        let mut seen: Vec<Box<u32>> = inbox.drain().collect();
        pusher.join().unwrap();
        seen.extend(inbox.drain());
        assert_eq!(seen, [Box::new(7)]);
        assert_eq!(*cell.lock(), 1);
    });
}

/// What has its link in it. loom's cell reports a value that is read before it was written, and one
/// that two threads use at a time.
#[repr(C)]
struct Object {
    link: Link<u32>,
    value: UnsafeCell<u32>,
}

/// An [`Object`] that the thread which has it may use.
struct Handed(NonNull<Object>);

// SAFETY: it is handed from thread to thread.
unsafe impl Send for Handed {}

impl Object {
    const CARRIER: &'static Carrier<u32> = &Carrier { take: Self::take, look: Self::look };

    fn make(value: u32) -> Handed {
        let object = Self { link: Link::new(Self::CARRIER), value: UnsafeCell::new(value) };
        Handed(NonNull::from(Box::leak(Box::new(object))))
    }

    /// Leaves 0, so that a value which is taken twice is seen.
    unsafe fn take(link: NonNull<Link<u32>>) -> u32 {
        // SAFETY: the link is the first field; what the model is about.
        unsafe { link.cast::<Self>().as_ref() }
            .value
            .with_mut(|value| std::mem::replace(unsafe { &mut *value }, 0))
    }

    unsafe fn look(_: NonNull<Link<u32>>, _: &mut dyn FnMut(&u32)) {}
}

impl Handed {
    /// Gives the object a value and pushes it.
    fn push(&self, inbox: &Inbox<u32>, value: u32) {
        // SAFETY: the object is in no queue, and ours.
        unsafe {
            self.0.as_ref().value.with_mut(|place| *place = value);
            let _ = inbox.push_link(self.0.cast());
        }
    }

    fn free(self) {
        // SAFETY: made by `Box`, and in no queue.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// The link that one thread finds at the head is taken and pushed again before it pushes its own.
#[test]
fn loom_a_link_that_comes_back_loses_nothing() {
    loom::model(|| {
        let inbox = Arc::new(Inbox::default());
        let (again, other) = (Object::make(0), Object::make(0));
        again.push(&inbox, 1);
        let pusher = {
            let inbox = Arc::clone(&inbox);
            thread::spawn(move || {
                other.push(&inbox, 2);
                other
            })
        };
        let mut seen: Vec<u32> = inbox.drain().collect();
        again.push(&inbox, 3);
        seen.extend(inbox.drain());
        let other = pusher.join().unwrap();
        seen.extend(inbox.drain());
        let place = |value| seen.iter().position(|other| *other == value);
        assert!(place(1) < place(3), "the order of one thread's pushes");
        seen.sort_unstable();
        assert_eq!(seen, [1, 2, 3]);
        other.free();
        again.free();
    });
}

/// loom's cell reports any access that is not ordered after the one before it.
#[test]
fn loom_owners_in_earnest_and_brief_ones_never_meet() {
    loom::model(|| {
        let cell = Arc::new(OwnerCell::new(0));
        let brief = {
            let cell = Arc::clone(&cell);
            thread::spawn(move || {
                // SAFETY: adding reaches nothing.
                assert!(unsafe { cell.if_owner(|_| ()) }.is_none(), "another thread's claim");
                let Some(claim) = cell.claim_briefly() else { return 0 };
                assert!(!cell.is_owner(), "a brief claim is not ownership");
                // SAFETY: as above.
                unsafe { claim.local(|value| *value += 1) };
                1
            })
        };
        {
            // Nobody else claims in earnest, so this waits and succeeds.
            let claim = cell.claim().unwrap();
            assert!(cell.is_owner());
            // SAFETY: as above.
            unsafe {
                claim.local(|value| *value += 1);
                assert!(cell.if_owner(|value| *value += 1).is_some());
            }
        }
        let briefly = brief.join().unwrap();
        let claim = cell.claim().unwrap();
        // SAFETY: as above.
        assert_eq!(unsafe { claim.local(|value| *value) }, 2 + briefly);
    });
}

#[test]
fn loom_one_of_two_claims_in_earnest_is_refused_or_comes_after_the_other() {
    loom::model(|| {
        let cell = Arc::new(OwnerCell::new(0));
        let claim_and_add = |cell: &OwnerCell<i32>| match cell.claim() {
            // SAFETY: adding reaches nothing.
            Some(claim) => unsafe { claim.local(|value| *value += 1) },
            None => assert!(!cell.is_owner()),
        };
        let other = {
            let cell = Arc::clone(&cell);
            thread::spawn(move || claim_and_add(&cell))
        };
        claim_and_add(&cell);
        other.join().unwrap();
        let claim = cell.claim().unwrap();
        // SAFETY: as above.
        assert!(matches!(unsafe { claim.local(|value| *value) }, 1 | 2));
    });
}

/// A task that must not be touched once it is dropped: loom reports a touch beside the drop.
#[derive(Default)]
struct Task(UnsafeCell<bool>);

impl Task {
    fn take_reference(&self) {
        // SAFETY: what the model is about.
        self.0.with(|dropped| assert!(!unsafe { *dropped }, "a dropped task was taken"));
    }

    fn drop_last(&self) {
        // SAFETY: as above.
        self.0.with_mut(|dropped| unsafe { *dropped = true });
    }
}

/// Ends a step, which waits for those who read, and then its task.
fn part(step: Step<'_>, task: &Task) {
    drop(step);
    task.drop_last();
}

#[test]
fn loom_no_reader_takes_a_task_that_was_dropped() {
    loom::model(|| {
        let shared = Arc::new((Current::new(), Task::default()));
        let reader = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                shared.0.read(|shown| {
                    if shown.running() == 1 {
                        shared.1.take_reference();
                    }
                });
            })
        };
        part(shared.0.enter(1), &shared.1);
        reader.join().unwrap();
    });
}

#[test]
fn loom_no_reader_takes_a_young_task_of_a_loop_that_was_closed() {
    loom::model(|| {
        let shared = Arc::new((Current::new(), Task::default()));
        let reader = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                shared.0.read(|shown| {
                    for _ in shown.young() {
                        shared.1.take_reference();
                    }
                });
            })
        };
        let (current, task) = &*shared;
        assert!(current.add_young(1, 0));
        current.clear_young();
        while !current.is_unread() {
            yield_now();
        }
        task.drop_last();
        reader.join().unwrap();
    });
}

#[test]
fn loom_no_reader_takes_a_young_task_that_was_dropped() {
    loom::model(|| {
        let shared = Arc::new((Current::new(), Task::default(), Task::default()));
        let reader = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                shared.0.read(|shown| {
                    for (task, _) in shown.young() {
                        if task == 1 { &shared.1 } else { &shared.2 }.take_reference();
                    }
                });
            })
        };
        let (current, one, two) = &*shared;
        assert!(current.add_young(1, 0));
        let step = current.enter(1);
        assert!(current.add_young(2, 0));
        assert_eq!(current.remove_young(1, |ns| ns), Some(0));
        part(step, one);
        let step = current.enter(2);
        assert_eq!(current.remove_young(2, |ns| ns), Some(0));
        part(step, two);
        reader.join().unwrap();
    });
}
