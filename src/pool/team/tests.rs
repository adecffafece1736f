//! A thread that helps turns to its own loop soon.

use super::*;
use crate::event_loop::{EventLoop, Post};
use crate::id::IoToken;
use crate::reactor::Ready;
use crate::sync::atomic::AtomicUsize;
use crate::transport::Scratch;
use crate::transport::{Bench, Bits, Listener, Report, Schedule, Source};

/// A source whose jobs are counted, and do something.
struct Counted<F> {
    runs: AtomicUsize,
    listener: Listener,
    job: F,
}

impl<F> fmt::Debug for Counted<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counted")
    }
}

impl<F: Fn() + Send + Sync> Source for Counted<F> {
    fn after_fork(&self) {}

    fn ready(&self, _: Ready) -> Schedule {
        Schedule::Unneeded
    }

    fn bits(&self) -> Bits {
        self.listener.state().bits()
    }

    fn run(&self, _: &mut Bench<'_>) -> Report {
        self.runs.fetch_add(1, Relaxed);
        (self.job)();
        Report { worked: true, ..Report::default() }
    }
}

fn counted<F: Fn() + Send + Sync>(job: F) -> Arc<Counted<F>> {
    Arc::new(Counted { runs: AtomicUsize::new(0), listener: Listener::new(-1, None), job })
}

/// A team of two loops: one that has jobs, and one that helps.
struct Two {
    team: Arc<Team>,
    busy: Arc<EventLoop<u32>>,
    own: Arc<EventLoop<u32>>,
    _hand: Hand,
    helper: Hand,
}

fn team() -> Two {
    let team = Team::new(2, true, 2);
    let new_loop = || Arc::new(EventLoop::<u32>::new().expect("descriptors"));
    let (busy, own) = (new_loop(), new_loop());
    let join = |id, one: &EventLoop<u32>| team.join(LoopId(id), one.shared()).expect("a place");
    let (first, second) = (join(0, &busy), join(1, &own));
    Two { team: Arc::clone(&team), busy, own, _hand: first, helper: second }
}

fn jobs(
    owner: &EventLoop<u32>,
    source: &Arc<impl Source + 'static>,
    count: usize,
) -> impl Iterator<Item = Job> {
    let (owner, source) = (Arc::clone(owner.shared()), Arc::clone(source));
    std::iter::repeat_with(move || Job {
        owner: Arc::clone(&owner),
        token: IoToken::new(0, 0),
        source: Arc::clone(&source) as Arc<dyn Source>,
    })
    .take(count)
}

const EVER: u64 = u64::MAX / 2;

#[test]
fn a_helper_turns_to_what_is_posted_to_its_own_loop_after_one_job() {
    let Two { team, busy, own, _hand, mut helper } = team();
    let source = {
        let own = Arc::clone(&own);
        counted(move || own.post(Post::Call(1)))
    };
    team.inject(jobs(&busy, &source, 200));
    let budget = || Budget::new(EVER, EVER, || own.has_posts());
    assert!(helper.help(own.shared(), &mut Scratch::default(), &budget()));
    assert_eq!(source.runs.load(Relaxed), 1);
    // What it has taken along is done job by job, and by whoever gets to it.
    assert!(helper.run_own(own.shared(), &mut Scratch::default(), &budget()));
    assert_eq!(source.runs.load(Relaxed), 2);
    assert!(team.crew.has_work());
    helper.leave(own.shared()).into_iter().for_each(drop);
}

#[test]
fn a_helper_s_jobs_end_with_their_time() {
    let Two { team, busy, own, _hand, mut helper } = team();
    let source = counted(|| ());
    team.inject(jobs(&busy, &source, 200));
    // The time is over, by the clock.
    let spent = Budget::new(0, 0, || false);
    assert!(helper.help(own.shared(), &mut Scratch::default(), &spent));
    assert_eq!(source.runs.load(Relaxed), 1);
    let lasting = Budget { until_ns: u64::MAX, is_wanted: || false };
    assert!(!helper.run_own(own.shared(), &mut Scratch::default(), &lasting));
    assert!(source.runs.load(Relaxed) > 1);
}

/// Neither for as long as it may nor beyond the time at which it has a timer due.
#[test]
fn a_budget_ends_with_the_next_timer() {
    let limit = u64::try_from(config::JOBS_FOR.as_nanos()).expect("short");
    assert_eq!(Budget::new(1000, 2000, || false).until_ns, 2000);
    assert_eq!(Budget::new(1000, u64::MAX, || false).until_ns, 1000 + limit);
}

/// Uses its processor until so much time has passed.
fn compute(duration: Duration) {
    let end = clock::monotonic_ns() + u64::try_from(duration.as_nanos()).expect("short");
    while clock::monotonic_ns() < end {}
}

#[test]
fn a_loop_that_works_between_its_callbacks_is_not_stuck() {
    let Two { team, busy, own, _hand, helper: _ } = team();
    let monitor = crate::pool::Monitor::start(Arc::clone(&team)).expect("a thread");
    let (busy, own) = (busy.shared(), own.shared());
    busy.set_running(true);
    own.set_running(true);
    // The monitor looks at both: it finds the one that is inside a callback.
    busy.progress.begin();
    own.progress.begin();
    own.progress.rest();
    while busy.metrics.handoffs.get() == 0 {
        compute(5 * config::STUCK_AFTER);
    }
    assert_eq!(own.metrics.handoffs.get(), 0);
    // Both are run by this thread, whose processor time is theirs.
    own.progress.begin();
    while own.metrics.handoffs.get() == 0 {
        compute(5 * config::STUCK_AFTER);
    }
    monitor.stop();
}
