//! Models of the run queues, checked over every interleaving. Run by `make test-loom`.
//!
//! A thread that has begun something never comes back to its queue, as far as the model is concerned.
//! Who keeps the watch takes what lies at its second look, as if time had passed. So what is slept
//! through leaves a sleeper asleep for good, which loom reports as a deadlock.

use loom::sync::Notify;

use super::loom_tests::{assert_all_found, with_preemptions};
use super::{
    Homes, Idle, LookOutcome, Park, RunQueues, SearchKind, Sleepers, Wake, Watch, WorkerIndex,
};
use crate::sync::announce::Announced;
use crate::sync::{Arc, thread};

/// One thread's sleep; `Notify` stands for the kernel's event counter.
struct Bed {
    idle: Idle,
    kernel: Notify,
}

struct Model {
    queues: RunQueues<u32>,
    beds: Vec<Bed>,
    /// How many whoever takes from another's queue takes at once: the first for a thread that sleeps.
    takes: usize,
}

impl Sleepers for Model {
    fn is_parked(&self, worker_index: WorkerIndex) -> bool {
        self.beds[worker_index.0].idle.is_parked()
    }

    fn summon(&self, worker_index: WorkerIndex) -> bool {
        let summoned = self.beds[worker_index.0].idle.summon(SearchKind::default());
        if summoned {
            self.beds[worker_index.0].kernel.notify();
        }
        summoned
    }
}

impl Homes for Model {
    fn is_awake(&self, worker_index: WorkerIndex) -> bool {
        self.beds[worker_index.0].idle.is_awake()
    }

    fn post(&self, worker_index: WorkerIndex, announced: &Announced) {
        if self.beds[worker_index.0].idle.posted(announced) == Wake::Needed {
            self.beds[worker_index.0].kernel.notify();
        }
    }
}

impl Model {
    fn new(threads: usize) -> Arc<Self> {
        let bed = || Bed { idle: Idle::default(), kernel: Notify::new() };
        let beds = std::iter::repeat_with(bed).take(threads).collect();
        Arc::new(Self { queues: RunQueues::new(threads, SearchKind::default()), beds, takes: 1 })
    }

    fn taking(threads: usize, takes: usize) -> Arc<Self> {
        let mut model = Self::new(threads);
        Arc::get_mut(&mut model).unwrap().takes = takes;
        model
    }

    fn push(&self, home: usize, job: u32) {
        assert_eq!(self.queues.push(WorkerIndex(home), job, self), []);
    }

    /// By the home itself, the first one, which never begins it.
    fn push_own(&self, job: u32) {
        self.queues.push_own(WorkerIndex(0), job, self);
    }

    /// What lies on the queues of others that are awake.
    fn lying(&self, own: WorkerIndex) -> Option<WorkerIndex> {
        let others =
            (0..self.beds.len()).map(WorkerIndex).filter(|worker_index| *worker_index != own);
        others.into_iter().find(|worker_index| {
            !self.queues.is_empty(*worker_index) && self.is_awake(*worker_index)
        })
    }

    /// Looks and sleeps until there is something to begin.
    fn begin(&self, own: WorkerIndex) -> u32 {
        let Bed { idle, kernel } = &self.beds[own.0];
        let mut watch = None;
        loop {
            let mut outlook = LookOutcome::Clear;
            let last_look = |_: &_| {
                let look = || self.lying(own).map_or(LookOutcome::Clear, |_| LookOutcome::Waiting);
                outlook = self.queues.look_out(own, &mut watch, look);
                outlook != LookOutcome::Clear
            };
            if let Park::Sleep(_parked) = idle.park(last_look) {
                kernel.wait();
            }
            if let Some(permit) = idle.take_permit() {
                watch = Some(Watch::from_summons(permit));
            }
            if watch.is_some()
                && self.queues.is_empty(own)
                && let Some(from) = self.lying(own)
            {
                let sleeps = |worker_index: &WorkerIndex| {
                    *worker_index != own && *worker_index != from && !self.is_awake(*worker_index)
                };
                let other = (0..self.beds.len()).map(WorkerIndex).find(sleeps).unwrap_or(own);
                let mut place = [own, other].into_iter().cycle().skip(self.takes - 1);
                self.queues.take_over(from, own, self.takes, self, || place.next().unwrap());
            }
            if !self.queues.is_empty(own) {
                self.queues.stand_down(own, watch.take(), self);
                if let Some(job) = self.queues.pop(own) {
                    return job;
                }
            }
        }
    }
}

fn spawn<R: 'static>(
    model: &Arc<Model>,
    body: impl FnOnce(&Model) -> R + 'static,
) -> thread::JoinHandle<R> {
    let model = Arc::clone(model);
    thread::spawn(move || body(&model))
}

#[test]
fn loom_a_home_that_sleeps_begins_what_is_pushed() {
    loom::model(|| {
        let model = Model::new(2);
        let home = spawn(&model, |model| model.begin(WorkerIndex(1)));
        model.push(1, 7);
        assert_eq!(home.join().unwrap(), 7);
    });
}

/// The pusher is the home, and never begins it.
#[test]
fn loom_one_who_would_sleep_takes_what_its_home_does_not_begin() {
    loom::model(|| {
        let model = Model::new(2);
        let other = spawn(&model, |model| model.begin(WorkerIndex(1)));
        model.push_own(7);
        assert_eq!(other.join().unwrap(), 7);
    });
}

/// Two others begin, one each, what the first thread pushes on its own queue.
fn two_begin_two(model: &Arc<Model>) {
    let one = spawn(model, |model| model.begin(WorkerIndex(1)));
    let two = spawn(model, |model| model.begin(WorkerIndex(2)));
    model.push_own(1);
    model.push_own(2);
    assert_all_found(vec![one.join().unwrap(), two.join().unwrap()]);
}

/// The second one relies on the watch of whoever takes the first, and hands it on.
#[test]
fn loom_the_watch_is_handed_on_as_long_as_something_lies() {
    with_preemptions(2, || {
        two_begin_two(&Model::new(3));
    });
}

/// One takes both, and leaves the first to the other, which may be asleep, or about to be.
#[test]
fn loom_what_is_taken_for_one_who_sleeps_is_begun_by_it() {
    // With two it takes a minute.
    with_preemptions(1, || {
        two_begin_two(&Model::taking(3, 2));
    });
}

/// What is taken for one that leaves is begun by who has taken it.
#[test]
fn loom_what_is_taken_for_a_queue_that_closes_is_not_lost() {
    with_preemptions(2, || {
        let model = Model::taking(3, 1);
        let leaver = spawn(&model, |model| model.queues.close(WorkerIndex(1)));
        let _ = model.queues.push(WorkerIndex(0), 7, &*model);
        let taken =
            model.queues.take_over(WorkerIndex(0), WorkerIndex(2), 1, &*model, || WorkerIndex(1));
        assert_eq!(taken, 1);
        let left = leaver.join().unwrap();
        assert_eq!(model.queues.take_all(WorkerIndex(2)).len() + left.len(), 1);
    });
}

/// Nobody is woken by who pushes it: the third thread sees to it that it is not slept through.
#[test]
fn loom_what_is_pushed_alone_and_seen_to_later_is_taken_by_another() {
    loom::model(|| {
        let model = Model::new(2);
        let other = spawn(&model, |model| model.begin(WorkerIndex(1)));
        model.queues.push_alone(WorkerIndex(0), 7);
        let monitor = spawn(&model, |model| model.queues.see_to_it(model));
        monitor.join().unwrap();
        assert_eq!(other.join().unwrap(), 7);
    });
}

/// A home that sleeps begins one of two, and is long in it.
#[test]
fn loom_what_a_woken_home_leaves_lying_is_taken_by_another() {
    with_preemptions(2, || {
        let model = Model::new(3);
        let home = spawn(&model, |model| model.begin(WorkerIndex(1)));
        let other = spawn(&model, |model| model.begin(WorkerIndex(2)));
        model.push(1, 1);
        model.push(1, 2);
        assert_all_found(vec![home.join().unwrap(), other.join().unwrap()]);
    });
}

/// Pushes by two threads, on two queues, of which one's home never comes.
#[test]
fn loom_two_pushers_and_a_home_that_is_held_up() {
    // Of four threads: with two it takes a minute.
    with_preemptions(1, || {
        let model = Model::new(3);
        let home = spawn(&model, |model| model.begin(WorkerIndex(1)));
        let other = spawn(&model, |model| model.begin(WorkerIndex(2)));
        let pusher = spawn(&model, |model| model.push(1, 1));
        model.push_own(2);
        pusher.join().unwrap();
        assert_all_found(vec![home.join().unwrap(), other.join().unwrap()]);
    });
}

#[test]
fn loom_what_is_pushed_on_a_queue_that_closes_is_given_back_once() {
    loom::model(|| {
        let model = Model::new(2);
        let home = spawn(&model, |model| model.queues.close(WorkerIndex(1)));
        let refused = model.queues.push(WorkerIndex(1), 7, &*model);
        let left = home.join().unwrap();
        assert_eq!(refused.len() + left.len(), 1);
    });
}
