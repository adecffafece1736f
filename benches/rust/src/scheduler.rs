//! Deques, the search for jobs, and the bookkeeping of sleep: nobody really sleeps or is woken.

use std::hint::black_box;

use loop_pool::scheduler::{Idle, Park, SchedulerShared, SearchKind, Sleepers, WorkerIndex};

/// Jobs that a thief finds on its victim's deque.
pub const STOLEN: u32 = 64;

/// Threads of a scheduler in which nobody has work.
const CREW: usize = 8;

/// The sleep states of a scheduler; the kernel wakes nobody.
struct Threads(Vec<Idle>);

impl Threads {
    fn awake(count: usize) -> Self {
        Self((0..count).map(|_| Idle::default()).collect())
    }
}

impl Sleepers for Threads {
    fn is_parked(&self, worker_index: WorkerIndex) -> bool {
        self.0[worker_index.0].is_parked()
    }

    fn summon(&self, worker_index: WorkerIndex) -> bool {
        self.0[worker_index.0].summon(SearchKind(0))
    }
}

/// A push on the own deque and a pop from it.
pub fn push_pop() -> impl FnMut() {
    let mut worker = SchedulerShared::new(1).1.remove(0);
    move || {
        worker.push(black_box(7_usize));
        black_box(worker.pop());
    }
}

/// Pushes [`STOLEN`] jobs, which a thief steals by halves until none is left.
pub fn steal_half() -> impl FnMut() {
    let mut workers = SchedulerShared::new(2).1;
    let mut thief = workers.remove(1);
    let victim = workers.remove(0);
    let threads = Threads::awake(2);
    move || {
        for job in 0..STOLEN {
            victim.push(black_box(job));
        }
        while let Some(found) = thief.find(&threads) {
            let _ = black_box(found);
        }
    }
}

/// An injection, and the search that finds it.
pub fn inject_find() -> impl FnMut() {
    let (scheduler_shared, mut workers) = SchedulerShared::new(1);
    let mut worker = workers.remove(0);
    let threads = Threads::awake(1);
    move || {
        scheduler_shared.inject(black_box(7_usize));
        let _ = black_box(worker.find(&threads));
    }
}

/// A search in a scheduler of eight that has no job.
pub fn find_nothing() -> impl FnMut() {
    let mut worker = SchedulerShared::<usize>::new(CREW).1.remove(0);
    let threads = Threads::awake(CREW);
    move || {
        let _ = black_box(worker.find(&threads));
    }
}

/// The call after a push, in a scheduler of eight of which nobody sleeps.
pub fn wake_nobody() -> impl FnMut() {
    let scheduler_shared = SchedulerShared::<usize>::new(CREW).0;
    let threads = Threads::awake(CREW);
    move || scheduler_shared.wake_one(black_box(&threads))
}

/// The owner publishes that it sleeps, a poster undertakes to wake it, and it is awake again.
///
/// # Panics
/// When the owner may not sleep, which is a bug.
pub fn park_posted() -> impl FnMut() {
    let idle = Idle::default();
    move || {
        let idle = black_box(&idle);
        let Park::Sleep(parked) = idle.park(|_| false) else { panic!("nothing was posted") };
        let _ = black_box(idle.post(|| ()));
        drop(parked);
    }
}

/// What a poster asks after a push while the owner is awake.
pub fn posted_awake() -> impl FnMut() {
    let idle = Idle::default();
    move || {
        let _ = black_box(black_box(&idle).post(|| ()));
    }
}

/// One pushes a job and wakes the other, which answers the search permit and finds it.
///
/// # Panics
/// When the search permit gets lost, which is a bug.
pub fn summon_answer() -> impl FnMut() {
    let (scheduler_shared, mut workers) = SchedulerShared::new(2);
    let mut sleeper = workers.remove(1);
    let pusher = workers.remove(0);
    let threads = Threads::awake(2);
    move || {
        let idle = black_box(&threads.0[1]);
        let Park::Sleep(parked) = idle.park(|_| false) else { panic!("nothing was posted") };
        pusher.push(black_box(7_usize));
        scheduler_shared.wake_one(&threads);
        drop(parked);
        let permit = idle.take_permit().expect("it was woken");
        let _ = black_box(sleeper.answer(permit, &threads));
    }
}
