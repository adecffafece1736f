//! What a stuck loop has left lying is done; of a free one nothing more is heard.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::*;
use crate::event_loop::EventLoop;
use crate::id::LoopId;
use crate::pool::LoopWorker;
use crate::scheduler::Park;
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use crate::transport::{JobContext, Listener, Report, Schedule, Source, State};

/// Something to read that nobody has read; each job counts, and may leave more.
#[derive(Debug)]
struct Lying {
    state: Listener,
    runs: AtomicUsize,
    again: AtomicBool,
}

impl Lying {
    fn on(event_loop: &EventLoop<u32>, fd: i32, again: bool) -> Arc<Self> {
        let (lying, token) = Self::expected_on(event_loop, fd, again);
        let ready = Ready { token, readable: true, writable: false, ended: false };
        let _ = event_loop.shared().sources.lock().ready(ready);
        lying
    }

    /// As `on`, of something that has yet to come.
    fn expected_on(event_loop: &EventLoop<u32>, fd: i32, again: bool) -> (Arc<Self>, IoToken) {
        let state = Listener::new(-1, None);
        let (runs, again) = (AtomicUsize::new(0), AtomicBool::new(again));
        let lying = Arc::new(Self { state, runs, again });
        let source = Arc::clone(&lying) as Arc<dyn Source>;
        let token = event_loop.shared().sources.lock().insert(fd, source, 0).expect("its place");
        let _ = lying.state.state().start();
        (lying, token)
    }

    fn runs(&self) -> usize {
        self.runs.load(Relaxed)
    }
}

impl Source for Lying {
    fn ready(&self, ready: Ready) -> Schedule {
        self.state.state().ready(ready)
    }

    fn state(&self) -> &State {
        self.state.state()
    }

    fn run(&self, _: &mut JobContext<'_>) -> Report {
        self.runs.fetch_add(1, Relaxed);
        Report { worked: true, again: self.again.load(Relaxed), ..Report::default() }
    }
}

/// A loop that is stuck or not, as a test says; another one, and its thread's part; and who helps.
fn stuck_loop() -> (LoopWorker, [EventLoop<u32>; 2], Helper) {
    let pool_shared = PoolShared::new(2, true, 2);
    let loops = [0, 1].map(|_| EventLoop::new().expect("descriptors"));
    let [_, loop_worker] =
        [0, 1].map(|id| pool_shared.join(LoopId(id), loops[id as usize].shared()));
    let helper = Helper::new(pool_shared).expect("descriptors");
    (loop_worker.expect("a place"), loops, helper)
}

/// Whether the helper hears of a wake of the loop.
fn hears(helper: &mut Helper, event_loop: &EventLoop<u32>) -> bool {
    event_loop.shared().wake();
    helper.wait(Duration::ZERO);
    !helper.found.is_empty()
}

#[test]
fn what_a_stuck_loop_has_left_lying_is_taken_up_once() {
    let (_hand, [stuck, _other], mut helper) = stuck_loop();
    let lying = Lying::on(&stuck, 100, false);
    helper.follow(0, stuck.shared(), true);
    helper.run_jobs(0);
    assert_eq!((lying.runs(), helper.has_jobs()), (1, false));
    helper.follow(0, stuck.shared(), true);
    helper.run_jobs(0);
    assert_eq!((lying.runs(), stuck.metrics().handoffs.get()), (1, 1));
}

#[test]
fn it_hears_of_a_loop_s_epoll_until_the_loop_is_free() {
    let (_hand, [stuck, _other], mut helper) = stuck_loop();
    assert!(!hears(&mut helper, &stuck));
    for time in 1..=2 {
        helper.follow(0, stuck.shared(), true);
        assert!(hears(&mut helper, &stuck));
        helper.follow(0, stuck.shared(), false);
        assert!(!hears(&mut helper, &stuck));
        assert_eq!(stuck.metrics().handoffs.get(), time);
    }
}

/// What will come on a socket, which the loop's reactor watches.
fn watched(event_loop: &EventLoop<u32>, socket: &UnixStream) -> Arc<Lying> {
    let fd = socket.as_raw_fd();
    let (lying, token) = Lying::expected_on(event_loop, fd, false);
    let registered =
        event_loop.shared().with_handle(|handle| handle.register(fd, token, Edges::Read));
    registered.expect("open").expect("a socket");
    lying
}

#[test]
fn what_comes_while_the_loop_is_stuck_is_found_when_it_is_reported() {
    let (_hand, [stuck, _other], mut helper) = stuck_loop();
    let (mut far, near) = UnixStream::pair().expect("descriptors");
    let lying = watched(&stuck, &near);
    helper.follow(0, stuck.shared(), true);
    helper.run_jobs(0);
    for runs in 0..3 {
        assert_eq!((lying.runs(), helper.is_due()), (runs, false));
        // Nothing has been reported: it does not ask.
        helper.follow(0, stuck.shared(), true);
        assert!(!helper.has_jobs());
        far.write_all(b".").expect("room");
        helper.wait(config::MAX_WAIT);
        assert!(helper.is_due());
        helper.follow(0, stuck.shared(), true);
        helper.run_jobs(0);
    }
}

#[test]
fn more_than_one_poll_finds_is_found_without_another_report() {
    let (_hand, [stuck, _other], mut helper) = stuck_loop();
    let (mut far, near) = UnixStream::pair().expect("descriptors");
    let sockets: Vec<_> =
        (0..=config::EVENTS_PER_POLL).map(|_| near.try_clone().expect("a descriptor")).collect();
    let lying: Vec<_> = sockets.iter().map(|socket| watched(&stuck, socket)).collect();
    far.write_all(b".").expect("room");
    let mut looks = 0;
    while looks == 0 || helper.is_due() {
        helper.follow(0, stuck.shared(), true);
        looks += 1;
    }
    assert_eq!(looks, 2);
    while helper.has_jobs() {
        helper.run_jobs(crate::sys::clock::monotonic_ns());
    }
    assert!(lying.iter().all(|one| one.runs() > 0));
}

#[test]
fn who_could_not_poll_tries_again() {
    let (_hand, [stuck, _other], mut helper) = stuck_loop();
    let poller = stuck.shared().poller();
    helper.follow(0, stuck.shared(), true);
    assert!(helper.is_due());
    drop(poller);
    helper.follow(0, stuck.shared(), true);
    assert!(!helper.is_due());
}

/// It is its own: nobody else knows of what is left of it.
#[test]
fn a_job_that_has_more_to_do_is_done_to_its_end_though_the_loop_is_free() {
    let (_hand, [stuck, _other], mut helper) = stuck_loop();
    let lying = Lying::on(&stuck, 100, true);
    helper.follow(0, stuck.shared(), true);
    helper.run_jobs(0);
    helper.follow(0, stuck.shared(), false);
    assert!(helper.has_jobs());
    lying.again.store(false, Relaxed);
    helper.run_jobs(0);
    assert_eq!((lying.runs(), helper.has_jobs()), (2, false));
}

/// Long jobs do not keep the monitor from its next look.
#[test]
fn it_does_no_more_than_a_budget_at_once() {
    let (_hand, [stuck, _other], mut helper) = stuck_loop();
    let lying: Vec<_> = (100..103).map(|fd| Lying::on(&stuck, fd, false)).collect();
    let done = || lying.iter().map(|one| one.runs()).sum::<usize>();
    helper.follow(0, stuck.shared(), true);
    for count in 1..=3 {
        // Its time was over long ago.
        helper.run_jobs(0);
        assert_eq!(done(), count);
    }
    assert!(!helper.has_jobs());
}

#[test]
fn many_jobs_are_offered_to_who_is_free() {
    let (loop_worker, [stuck, free], mut helper) = stuck_loop();
    let count = i32::try_from(3 * config::BEHIND).expect("small");
    let lying: Vec<_> = (100..100 + count).map(|fd| Lying::on(&stuck, fd, false)).collect();
    helper.follow(0, stuck.shared(), true);
    helper.run_jobs(0);
    assert_eq!(
        (helper.jobs.len(), loop_worker.pool_shared.scheduler_shared.has_work()),
        (lying.len() - 1, false)
    );
    let _claim = free.claim().expect("nobody's");
    let poller = free.shared().poller();
    let Park::Sleep(_parked) = free.park(&poller, || false) else { panic!("there is nothing") };
    helper.run_jobs(0);
    assert_eq!(
        (helper.jobs.len(), loop_worker.pool_shared.scheduler_shared.has_work()),
        (config::BEHIND / 2 - 1, true)
    );
    assert!(free.shared().idle().take_permit().is_some());
}

/// It takes no third thread; but if the second one turns to its own loop, nothing is left lying.
#[test]
fn who_helps_already_is_left_the_jobs_and_what_it_does_not_get_to_is_taken_back() {
    let (loop_worker, [stuck, free], mut helper) = stuck_loop();
    let lying: Vec<_> = (100..103).map(|fd| Lying::on(&stuck, fd, false)).collect();
    let done = || lying.iter().map(|one| one.runs()).sum::<usize>();
    // At a job of its own it may be soon at its end.
    let busy = free.shared().progress.busy();
    for (whose, left) in [(1, 0), (0, lying.len() - 1)] {
        busy.help(LoopId(whose));
        helper.follow(0, stuck.shared(), true);
        helper.run_jobs(0);
        assert_eq!((done(), loop_worker.pool_shared.scheduler_shared.has_work()), (1, left > 0));
    }
    helper.run_jobs(0);
    assert_eq!(done(), 1);
    drop(busy);
    while helper.has_jobs() || loop_worker.pool_shared.scheduler_shared.has_work() {
        helper.run_jobs(0);
    }
    assert_eq!(done(), lying.len());
}

#[test]
fn what_a_stuck_loop_has_taken_along_is_taken_up_too() {
    let (loop_worker, [other, stuck], mut helper) = stuck_loop();
    let lying = Lying::on(&other, 100, false);
    other.shared().pending(false, |job| loop_worker.offer(std::iter::once(job)));
    helper.follow(1, stuck.shared(), true);
    helper.run_jobs(0);
    assert_eq!((lying.runs(), loop_worker.pool_shared.scheduler_shared.has_work()), (1, false));
}
