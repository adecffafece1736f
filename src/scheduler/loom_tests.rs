//! Models of the scheduler, its search permits and its sleepers, checked over every interleaving. Run by
//! `make test-loom`.
//!
//! A thread that has found its job runs it for ever, as far as the model is concerned: it never
//! looks again. So each job needs a thread of its own, and one that is slept through leaves a
//! sleeper asleep for good, which loom reports as a deadlock.

use loom::sync::Notify;

use super::{
    Idle, Park, SchedulerShared, SearchKind, SearchPermit, Sleepers, Wake, Worker, WorkerIndex,
};
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use crate::sync::{Arc, thread};

/// One thread's sleep; `Notify` stands for the kernel's event counter.
struct Bed {
    idle: Idle,
    kernel: Notify,
}

impl Bed {
    fn new() -> Self {
        Self { idle: Idle::default(), kernel: Notify::new() }
    }
}

struct Model {
    scheduler_shared: std::sync::Arc<SchedulerShared<u32>>,
    beds: Vec<Bed>,
    /// Summonses that are being given or wait for their taker.
    summonses: AtomicUsize,
}

impl Sleepers for Model {
    fn is_parked(&self, worker_index: WorkerIndex) -> bool {
        self.beds[worker_index.0].idle.is_parked()
    }

    /// Whom a preference would spare is woken all the same.
    fn is_preferred(&self, worker_index: WorkerIndex) -> bool {
        worker_index.0 % 2 == 0
    }

    fn summon(&self, worker_index: WorkerIndex) -> bool {
        assert_eq!(self.summonses.fetch_add(1, Relaxed), 0, "two wakes are under way");
        let summoned = self.beds[worker_index.0].idle.summon(SearchKind::default());
        if summoned {
            self.beds[worker_index.0].kernel.notify();
        } else {
            self.summonses.fetch_sub(1, Relaxed);
        }
        summoned
    }
}

impl Model {
    /// A scheduler of so many threads, with their workers.
    fn new<const N: usize>() -> (Arc<Self>, [Worker<u32>; N]) {
        let (scheduler_shared, workers) = SchedulerShared::new(N);
        let beds = (0..N).map(|_| Bed::new()).collect();
        let model = Self { scheduler_shared, beds, summonses: AtomicUsize::new(0) };
        (Arc::new(model), workers.try_into().unwrap())
    }

    /// Sleeps until woken, or not at all if there is work.
    fn sleep(&self, worker_index: WorkerIndex) -> Option<SearchPermit> {
        let Bed { idle, kernel } = &self.beds[worker_index.0];
        if let Park::Sleep(_parked) = idle.park(|_| self.scheduler_shared.has_work()) {
            kernel.wait();
        }
        let permit = idle.take_permit();
        if permit.is_some() {
            self.summonses.fetch_sub(1, Relaxed);
        }
        permit
    }

    /// Looks and sleeps until there is a job.
    fn find(&self, worker: &mut Worker<u32>) -> u32 {
        loop {
            let found = worker.find(self).or_else(|| {
                let permit = self.sleep(worker.index())?;
                worker.answer(permit, self)
            });
            if let Some(job) = found {
                return job;
            }
        }
    }

    fn push(&self, worker: &Worker<u32>, job: u32) {
        worker.push(job);
        self.scheduler_shared.wake_one(self);
    }
}

fn spawn<R: 'static>(
    model: &Arc<Model>,
    body: impl FnOnce(&Model) -> R + 'static,
) -> thread::JoinHandle<R> {
    let model = Arc::clone(model);
    thread::spawn(move || body(&model))
}

/// For the larger models: enough for them to fail without the step that each is about.
pub(super) fn with_preemptions(count: usize, body: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(count);
    model.check(body);
}

pub(super) fn assert_all_found(mut found: Vec<u32>) {
    found.sort_unstable();
    let all: Vec<_> = (1..).take(found.len()).collect();
    assert_eq!(found, all);
}

#[test]
fn loom_two_pushers_and_one_sleeper() {
    with_preemptions(2, || {
        let (model, [one, two, mut thief]) = Model::new();
        let one = spawn(&model, move |model| model.push(&one, 1));
        let two = spawn(&model, move |model| model.push(&two, 2));
        assert_all_found(vec![model.find(&mut thief), model.find(&mut thief)]);
        one.join().unwrap();
        two.join().unwrap();
    });
}

/// The second push may rely on the wake that the first one began.
#[test]
fn loom_one_pusher_and_two_sleepers() {
    with_preemptions(2, || {
        let (model, [pusher, mut one, mut two]) = Model::new();
        let one = spawn(&model, move |model| model.find(&mut one));
        let two = spawn(&model, move |model| model.find(&mut two));
        model.push(&pusher, 1);
        model.push(&pusher, 2);
        assert_all_found(vec![one.join().unwrap(), two.join().unwrap()]);
    });
}

/// Two pushers, neither of whom may leave the waking to the other in vain; the second sleeper goes
/// to bed at any moment.
#[test]
fn loom_two_pushers_and_two_sleepers() {
    with_preemptions(2, || {
        let (model, [one, two, mut early, mut late]) = Model::new();
        let one = spawn(&model, move |model| model.push(&one, 1));
        let early = spawn(&model, move |model| model.find(&mut early));
        let late = spawn(&model, move |model| model.find(&mut late));
        model.push(&two, 2);
        one.join().unwrap();
        assert_all_found(vec![early.join().unwrap(), late.join().unwrap()]);
    });
}

/// One wake for two jobs: the one who is woken wakes the next.
#[test]
fn loom_the_woken_one_wakes_the_next() {
    with_preemptions(2, || {
        let (model, [pusher, mut one, mut two]) = Model::new();
        let one = spawn(&model, move |model| model.find(&mut one));
        let two = spawn(&model, move |model| model.find(&mut two));
        pusher.push(1);
        pusher.push(2);
        model.scheduler_shared.wake_one(&*model);
        assert_all_found(vec![one.join().unwrap(), two.join().unwrap()]);
    });
}

/// What a thief moves to its own deque is in no deque for a moment, so it counts as pushed.
#[test]
fn loom_what_a_thief_leaves_is_found() {
    loom::model(|| {
        let (model, [busy, mut thief, mut sleeper]) = Model::new();
        (1..=3).for_each(|job| busy.push(job));
        // It takes two jobs, and runs one.
        let thief = spawn(&model, move |model| model.find(&mut thief));
        let found = vec![model.find(&mut sleeper), model.find(&mut sleeper)];
        assert_all_found([found, vec![thief.join().unwrap()]].concat());
    });
}

#[test]
fn loom_an_injected_job_is_found() {
    with_preemptions(2, || {
        let (model, [mut one]) = Model::new();
        let injecting = |job| {
            spawn(&model, move |model| {
                model.scheduler_shared.inject(job);
                model.scheduler_shared.wake_one(model);
            })
        };
        let threads = [injecting(1), injecting(2)];
        assert_all_found(vec![model.find(&mut one), model.find(&mut one)]);
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

/// A thread with work of its own declines, and the job is another's.
#[test]
fn loom_a_declined_summons_goes_to_another() {
    loom::model(|| {
        let (model, [pusher, busy, mut thief]) = Model::new();
        let busy = spawn(&model, move |model| {
            if let Some(permit) = model.sleep(busy.index()) {
                busy.decline(permit, model);
            }
        });
        let thief = spawn(&model, move |model| model.find(&mut thief));
        model.push(&pusher, 1);
        assert_eq!(thief.join().unwrap(), 1);
        // It may have slept through all this, if nobody chose it.
        model.beds[1].kernel.notify();
        busy.join().unwrap();
    });
}

/// A thread that was summoned in vain turns to work of its own. What was pushed meanwhile, by a
/// thread that relied on its search, is found all the same.
#[test]
fn loom_a_search_in_vain_leaves_nothing_behind() {
    with_preemptions(2, || {
        let (model, [mut pusher, mut busy, mut thief]) = Model::new();
        let busy = spawn(&model, move |model| {
            let permit = model.sleep(busy.index())?;
            busy.answer(permit, model)
        });
        let thief = spawn(&model, move |model| model.find(&mut thief));
        model.push(&pusher, 1);
        let own = pusher.pop();
        model.push(&pusher, 2);
        model.beds[1].kernel.notify();
        let found = busy.join().unwrap();
        if own.is_some() && found.is_some() {
            model.push(&pusher, 3);
        }
        thief.join().unwrap();
    });
}

/// A post and a search permit that meet: one wake serves both.
#[test]
fn loom_a_post_is_not_slept_through_for_a_summons() {
    loom::model(|| {
        let bed = Arc::new((Bed::new(), AtomicBool::new(false)));
        let poster = {
            let bed = Arc::clone(&bed);
            thread::spawn(move || {
                if bed.0.idle.post(|| bed.1.store(true, Relaxed)) == Wake::Needed {
                    bed.0.kernel.notify();
                }
            })
        };
        let summoner = {
            let bed = Arc::clone(&bed);
            thread::spawn(move || {
                let summoned = bed.0.idle.summon(SearchKind::default());
                if summoned {
                    bed.0.kernel.notify();
                }
                summoned
            })
        };
        let mut taken = 0;
        let Bed { idle, kernel } = &bed.0;
        loop {
            let is_posted = || bed.1.load(Relaxed);
            if let Park::Sleep(_parked) = idle.park(|_| is_posted()) {
                kernel.wait();
            }
            taken += usize::from(idle.take_permit().is_some());
            if is_posted() {
                break;
            }
        }
        poster.join().unwrap();
        assert_eq!(
            taken,
            usize::from(summoner.join().unwrap()),
            "a search permit was lost or doubled"
        );
    });
}
