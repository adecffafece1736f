//! A thread that helps turns to its own loop soon, and no job is left lying.

use std::fmt;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use super::*;
use crate::event_loop::{Phase, Post};
use crate::id::{IoToken, LoopId};
use crate::pool::Monitor;
use crate::reactor::Edges;
use crate::scheduler::{Park, Parked};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use crate::transport::{JobContext, Listener, Report, Schedule, Source, State};

/// A source whose jobs are counted, and do something.
struct Counted<F> {
    runs: AtomicUsize,
    listener: Listener,
    /// Returns whether there is more to do at once.
    job: F,
}

impl<F> fmt::Debug for Counted<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counted")
    }
}

impl<F: Fn() -> bool + Send + Sync> Source for Counted<F> {
    fn ready(&self, _: Ready) -> Schedule {
        Schedule::Unneeded
    }

    fn state(&self) -> &State {
        self.listener.state()
    }

    fn run(&self, _: &mut JobContext<'_>) -> Report {
        self.runs.fetch_add(1, Relaxed);
        Report { worked: true, again: (self.job)(), ..Report::default() }
    }
}

fn counted<F: Fn() -> bool + Send + Sync>(job: F) -> Arc<Counted<F>> {
    Arc::new(Counted { runs: AtomicUsize::new(0), listener: Listener::new(-1, None), job })
}

type Loop = EventLoop<u32>;

/// A pool of two loops, one that has jobs and one that helps, and a clock that jobs move.
struct Two {
    pool_shared: Arc<PoolShared>,
    busy: Arc<Loop>,
    own: Arc<Loop>,
    busy_hand: LoopWorker,
    helper: LoopWorker,
    now: Arc<AtomicU64>,
}

/// How long a job takes at most, and a turn, as `Budget::new` has it.
const JOB_NS: u64 = 100_000;
const TURN_NS: u64 = 250_000;

impl Two {
    fn new() -> Self {
        let pool_shared = PoolShared::new(2, true, 2);
        let new_loop = || Arc::new(Loop::new().expect("descriptors"));
        let (busy, own) = (new_loop(), new_loop());
        let join = |id, one: &Loop| pool_shared.join(LoopId(id), one.shared()).expect("a place");
        let (busy_hand, helper) = (join(0, &busy), join(1, &own));
        let now = Arc::default();
        Self { pool_shared: Arc::clone(&pool_shared), busy, own, busy_hand, helper, now }
    }

    /// A source whose jobs take their time.
    fn source(&self, again: bool) -> Arc<Counted<impl Fn() -> bool + Send + Sync + use<>>> {
        let now = Arc::clone(&self.now);
        counted(move || {
            now.fetch_add(JOB_NS, Relaxed);
            again
        })
    }

    fn inject(&self, source: &Arc<impl Source + 'static>, count: usize) {
        self.pool_shared.inject(jobs(&self.busy, source, count));
    }

    /// A turn of the helper's, that may last until then.
    fn help(&mut self, call: Call, until_ns: u64) -> usize {
        let is_wanted = || self.own.has_posts();
        let budget = Budget { until_ns, is_wanted, now_ns: || self.now.load(Relaxed) };
        self.helper.help(self.own.shared(), &mut Scratch::default(), call, &budget)
    }

    /// As long as may be from now on.
    fn help_for_long(&mut self, call: Call) -> usize {
        let until_ns = self.now.load(Relaxed) + TURN_NS;
        self.help(call, until_ns)
    }
}

fn jobs(
    owner: &Loop,
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

/// Goes to sleep, having done something of its own just now.
fn sleep(one: &Loop) -> Parked<'_> {
    one.metrics().worked_ns.set(clock::monotonic_ns());
    let Park::Sleep(parked) = one.shared().idle().park(|_| false) else { panic!("no work") };
    parked
}

/// Wakes. Returns the search permit, if it was woken to search.
fn wake(one: &Loop, parked: Parked<'_>) -> Option<SearchPermit> {
    drop(parked);
    one.shared().idle().take_permit()
}

#[test]
fn a_turn_ends_with_its_time_or_with_its_number_of_jobs() {
    let mut two = Two::new();
    let source = two.source(false);
    two.inject(&source, 200);
    assert_eq!(two.help_for_long(Call::Anybody), 3);
    assert_eq!(two.help_for_long(Call::Own), 3);
    // The clock as good as stands still.
    assert_eq!(two.help(Call::Anybody, u64::MAX), config::JOBS_PER_TURN);
    assert_eq!(source.runs.load(Relaxed), 6 + config::JOBS_PER_TURN);
    assert!(two.helper.leave(two.own.shared()).is_empty());
}

/// Neither for as long as it may nor beyond the time at which it has a timer due.
#[test]
fn a_budget_ends_with_the_next_timer() {
    assert_eq!(Budget::new(1000, 2000, || false).until_ns, 2000);
    assert_eq!(Budget::new(1000, u64::MAX, || false).until_ns, 1000 + TURN_NS);
    let mut two = Two::new();
    let source = two.source(false);
    two.inject(&source, 200);
    assert_eq!(two.help(Call::Anybody, JOB_NS + 1), 2);
    // It is due: nothing is done for others, and of what lies on the own deque one job only.
    assert_eq!((two.help(Call::Anybody, 0), two.help(Call::Own, 0)), (0, 1));
}

#[test]
fn a_helper_turns_to_what_is_posted_to_its_own_loop_after_one_job() {
    let mut two = Two::new();
    let source = {
        let own = Arc::clone(&two.own);
        counted(move || {
            own.post(Post::Call(1));
            false
        })
    };
    two.inject(&source, 200);
    assert_eq!(two.help(Call::Anybody, u64::MAX), 1);
    assert_eq!(two.help(Call::Anybody, u64::MAX), 0);
    // What it has taken along is done job by job, and by whoever gets to it.
    assert_eq!(two.help(Call::Own, u64::MAX), 1);
    assert!(two.pool_shared.scheduler_shared.has_work());
}

#[test]
fn a_turn_goes_on_with_what_others_have_as_long_as_there_is_time() {
    let mut two = Two::new();
    let source = two.source(false);
    two.busy_hand.offer(jobs(&two.busy, &source, 20));
    two.helper.offer(jobs(&two.own, &source, 1));
    // A loop that has callbacks to run does its own.
    assert_eq!(two.help(Call::Own, u64::MAX), 1);
    assert_eq!(two.help(Call::Anybody, u64::MAX), 20);
    assert_eq!(two.own.metrics().stolen_by.get(), 20);
}

#[test]
fn what_has_more_to_do_at_once_is_done_again() {
    let mut two = Two::new();
    let left = Arc::new(AtomicUsize::new(4));
    let source = counted(move || left.fetch_sub(1, Relaxed) > 1);
    two.inject(&source, 1);
    assert_eq!(two.help(Call::Anybody, u64::MAX), 4);
    assert_eq!(source.runs.load(Relaxed), 4);
}

/// Each has more to do for ever, and the first ones fill the own deque.
#[test]
fn injected_jobs_do_not_starve_behind_own_ones() {
    let mut two = Two::new();
    let sources: Vec<_> = (0..100).map(|_| two.source(true)).collect();
    for source in &sources {
        two.inject(source, 1);
    }
    let runs = |source: &Arc<Counted<_>>| source.runs.load(Relaxed);
    let turns = (1..1000).find(|_| {
        two.help_for_long(Call::Own);
        two.help_for_long(Call::Anybody);
        sources.iter().all(|source| runs(source) > 0)
    });
    assert!(turns.is_some(), "{:?}", sources.iter().map(runs).collect::<Vec<_>>());
}

/// Not even by one that slept for so short that others are woken before it.
#[test]
fn an_injected_job_is_slept_through_by_nobody() {
    let mut two = Two::new();
    let source = two.source(false);
    let own = Arc::clone(&two.own);
    let parked = sleep(&own);
    assert!(!two.pool_shared.has_sleeper(), "it has worked just now");
    two.inject(&source, 1);
    let permit = wake(&own, parked).expect("it was woken");
    assert_eq!(two.help(Call::Summoned(permit), u64::MAX), 1);
}

/// So does what is taken along and left lying.
#[test]
fn the_rest_of_a_turn_is_slept_through_by_nobody() {
    let mut two = Two::new();
    let source = two.source(false);
    let busy = Arc::clone(&two.busy);
    let parked = sleep(&busy);
    // Whoever does it is not told of it.
    jobs(&busy, &source, 20).for_each(|job| two.pool_shared.scheduler_shared.inject(job));
    assert_eq!(two.help(Call::Anybody, JOB_NS), 1);
    assert!(wake(&busy, parked).is_some());
}

#[test]
fn a_loop_that_has_no_time_gives_its_permit_up() {
    let mut two = Two::new();
    let source = two.source(false);
    let own = Arc::clone(&two.own);
    for spent in [0, u64::MAX] {
        let parked = sleep(&own);
        two.inject(&source, 1);
        let permit = wake(&own, parked).expect("the search is free");
        if spent > 0 {
            own.post(Post::Call(1));
        }
        assert_eq!(two.help(Call::Summoned(permit), spent), 0);
    }
    assert_eq!(source.runs.load(Relaxed), 0);
    // Another is woken for what was given up.
    let parked = sleep(&two.busy);
    two.inject(&source, 1);
    assert!(wake(&two.busy, parked).is_some());
}

/// As by a panic in between: another is woken for what there is.
#[test]
fn a_thread_that_panics_gives_up_what_it_was_woken_for() {
    let mut two = Two::new();
    let source = two.source(false);
    let (own, busy) = (Arc::clone(&two.own), Arc::clone(&two.busy));
    let parked = sleep(&own);
    two.inject(&source, 1);
    let permit = wake(&own, parked);
    let parked = sleep(&busy);
    two.inject(&source, 1);
    assert!(busy.shared().idle().is_parked(), "it is left to the one that was woken");
    let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _permits = Permits { loop_worker: &mut two.helper, permit, watch: None };
        panic!("between the wake and the search");
    }));
    assert!(unwound.is_err() && wake(&busy, parked).is_some());
}

/// Likewise: the next who sees that something waits gets the watch.
#[test]
fn a_thread_that_panics_gives_up_the_watch() {
    let Two { pool_shared, mut helper, .. } = Two::new();
    let worker_index = helper.worker.index();
    let keep = || {
        let mut watch = None;
        let _ = pool_shared.starts.look_out(worker_index, &mut watch, || LookOutcome::Waiting);
        watch
    };
    let watch = keep();
    assert!(watch.is_some() && keep().is_none(), "one keeps it");
    let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _permits = Permits { loop_worker: &mut helper, permit: None, watch };
        panic!("while it keeps the watch");
    }));
    let watch = keep();
    assert!(unwound.is_err() && watch.is_some());
    helper.stand_down(watch);
}

#[test]
fn whose_job_a_thread_is_at_shows_while_it_is_at_it() {
    let mut two = Two::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let source = {
        let (own, seen) = (Arc::clone(&two.own), Arc::clone(&seen));
        counted(move || {
            seen.lock().push(own.shared().progress.phase());
            false
        })
    };
    two.helper.offer(jobs(&two.own, &source, 1));
    two.inject(&source, 1);
    assert_eq!(two.help(Call::Anybody, u64::MAX), 2);
    assert_eq!(*seen.lock(), [1, 0].map(|id| Phase::Helping(LoopId(id))));
    assert_eq!(two.own.shared().progress.phase(), Phase::Between);
}

/// Uses its processor until so much time has passed.
fn compute(duration: Duration) {
    let end = clock::monotonic_ns() + u64::try_from(duration.as_nanos()).expect("short");
    while clock::monotonic_ns() < end {}
}

/// A job that is far too long, of a loop that is stuck: the monitor does not take the helper for stuck.
#[test]
fn a_loop_that_helps_is_not_stuck() {
    let mut two = Two::new();
    let monitor = Monitor::start(Arc::clone(&two.pool_shared)).expect("a thread");
    let (busy, own) = (Arc::clone(two.busy.shared()), Arc::clone(two.own.shared()));
    // Both are run by this thread, whose processor time is theirs.
    busy.set_running(true);
    own.set_running(true);
    let in_callback = busy.progress.busy();
    in_callback.begin();
    let source = {
        let busy = Arc::clone(&busy);
        counted(move || {
            // The monitor looks at both.
            while busy.metrics.handoffs.get() == 0 {
                compute(5 * config::STUCK_AFTER);
            }
            false
        })
    };
    two.helper.offer(jobs(&two.busy, &source, 1));
    assert_eq!(two.help(Call::Own, u64::MAX), 1);
    assert_eq!(own.metrics.handoffs.get(), 0);
    let in_callback = own.progress.busy();
    in_callback.begin();
    while own.metrics.handoffs.get() == 0 {
        compute(5 * config::STUCK_AFTER);
    }
    monitor.stop();
}

/// As a turn that has nothing of its own to do for long.
fn wait(two: &mut Two) -> (u64, usize) {
    let mut found = Vec::new();
    let began_ns = clock::monotonic_ns();
    let hour = Duration::from_secs(3600);
    let when = (began_ns, began_ns + 3_600_000_000_000);
    let own = Arc::clone(&two.own);
    let _claim = own.claim().expect("nobody else's");
    let waited = two.helper.wait(&own, &mut Scratch::default(), when, hour, &mut found);
    let (turned, now_ns) = waited.expect("the kernel answers");
    assert!(turned.now_ns <= now_ns);
    (now_ns, found.len())
}

#[test]
fn who_would_sleep_does_what_others_have_and_says_how_late_it_is_then() {
    let mut two = Two::new();
    let done_ns = Arc::new(AtomicU64::new(0));
    let source = {
        let done_ns = Arc::clone(&done_ns);
        counted(move || {
            compute(Duration::from_micros(1));
            done_ns.store(clock::monotonic_ns(), Relaxed);
            false
        })
    };
    two.inject(&source, 1);
    let (now_ns, found) = wait(&mut two);
    assert_eq!((source.runs.load(Relaxed), found), (1, 0));
    assert!(now_ns >= done_ns.load(Relaxed), "timers would be late");
}

#[test]
fn who_has_a_post_of_its_own_does_nothing_for_others() {
    let mut two = Two::new();
    let source = two.source(false);
    two.inject(&source, 1);
    two.own.post(Post::Call(1));
    wait(&mut two);
    assert_eq!(source.runs.load(Relaxed), 0);
    // But for what it has taken along: a job.
    two.helper.offer(jobs(&two.busy, &source, 2));
    wait(&mut two);
    assert_eq!(source.runs.load(Relaxed), 1);
}

#[test]
fn who_has_an_event_of_its_own_does_nothing_for_others() {
    let mut two = Two::new();
    let source = two.source(false);
    two.inject(&source, 1);
    let (near, mut far) = UnixStream::pair().expect("descriptors");
    far.write_all(b"x").expect("room");
    let token = IoToken::of_source(0, 1);
    let registered = two
        .own
        .shared()
        .with_handle(|handle| handle.register(near.as_raw_fd(), token, Edges::Read));
    registered.expect("it is open").expect("the kernel takes it");
    assert_eq!((wait(&mut two).1, source.runs.load(Relaxed)), (1, 0));
    assert_eq!((wait(&mut two).1, source.runs.load(Relaxed)), (0, 1));
}
