//! The monitor on a clock that the test sets, and loops whose threads do as the test says.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use super::*;
use crate::event_loop::{Completion, EventLoop};
use crate::id::{IoToken, LoopId};
use crate::pool::{PoolAcceptor, StuckReports, load_of};
use crate::sync::thread;
use crate::sys::socket;
use crate::transport::AcceptSink;

const TICK_NS: u64 = 1_000_000;

struct Model {
    pool_shared: Arc<PoolShared>,
    loops: Vec<Arc<EventLoop<u32>>>,
    watch: Watch,
    now_ns: u64,
}

impl Model {
    fn new(loops: u32) -> Self {
        let pool_shared = PoolShared::new(loops as usize, true, 2);
        let event_loop = |id| {
            let one = Arc::new(EventLoop::new().expect("descriptors"));
            drop(pool_shared.join(LoopId(id), one.shared()).expect("a place"));
            one
        };
        let loops = (0..loops).map(event_loop).collect();
        let watch = Watch::new(Arc::clone(&pool_shared), TICK_NS).expect("descriptors");
        Self { pool_shared, loops, watch, now_ns: TICK_NS }
    }

    /// Lets a tick pass, and looks.
    fn look(&mut self) {
        self.now_ns += TICK_NS;
        self.watch.look(self.now_ns);
    }

    /// Has a thread run the loop, which blocks in a callback until what is returned is dropped.
    fn block(&self, worker_index: usize) -> Blocked {
        let event_loop = Arc::clone(&self.loops[worker_index]);
        let (mut end, mut theirs) = UnixStream::pair().expect("descriptors");
        let thread = spawn("a blocked loop", move || {
            event_loop.shared().set_running(true);
            let busy = event_loop.shared().progress.busy();
            busy.begin();
            theirs.write_all(b".").expect("it listens");
            let _ = theirs.read(&mut [0]);
            drop(busy);
            event_loop.shared().set_running(false);
        });
        end.read_exact(&mut [0]).expect("it has begun");
        let runner = self.loops[worker_index].shared().awake_runner().expect("it runs");
        while runner.is_blocked() != Some(true) {
            thread::yield_now();
        }
        Blocked { end: Some(end), thread: thread.ok() }
    }

    fn handoffs(&self) -> Vec<u64> {
        self.loops.iter().map(|one| one.metrics().handoffs.get()).collect()
    }
}

struct Blocked {
    end: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Blocked {
    fn drop(&mut self) {
        drop(self.end.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

#[test]
fn it_looks_once_more_before_it_sleeps() {
    let mut model = Model::new(2);
    let pool_shared = Arc::clone(&model.pool_shared);
    for _ in 0..config::QUIET_LOOKS {
        assert!(matches!(model.watch.next_wait(&pool_shared), (config::MONITOR_REST, None)));
        model.look();
    }
    // A loop has woken since the last look, and has not found it asleep.
    model.loops[1].shared().set_running(true);
    assert!(matches!(model.watch.next_wait(&pool_shared), (config::MONITOR_REST, None)));
    assert_eq!((model.watch.quiet, pool_shared.monitor_idle.is_awake()), (0, true));
    model.watch.quiet = config::QUIET_LOOKS;
    model.look();
    assert_eq!(model.watch.quiet, 0, "one that is awake is enough");
    model.loops[1].shared().set_running(false);
    model.watch.quiet = config::QUIET_LOOKS;
    let (limit, parked) = model.watch.next_wait(&pool_shared);
    assert_eq!((limit, pool_shared.monitor_idle.is_parked()), (config::MAX_WAIT, true));
    pool_shared.awake();
    assert!(!pool_shared.monitor_idle.is_parked());
    drop(parked);
    // It has been woken; what ends a failed test is the runner's limit.
    model.watch.helper.wait(config::MAX_WAIT);
}

#[test]
fn it_sleeps_while_there_is_nothing_to_look_for() {
    let pool_shared = PoolShared::new(1, false, 1);
    let mut watch = Watch::new(Arc::clone(&pool_shared), TICK_NS).expect("descriptors");
    assert!(matches!(watch.next_wait(&pool_shared), (config::MAX_WAIT, None)));
    pool_shared.make_stuck_reports().expect("descriptors");
    pool_shared.set_limit(Limit::Seconds(1.0));
    watch.look(2 * TICK_NS);
    assert!(matches!(watch.next_wait(&pool_shared), (config::MONITOR_TICK, None)));
}

/// How long it waits after each of four looks, a callback further on each time if the loop `moves`.
fn waits(model: &mut Model, moves: bool) -> [Duration; 4] {
    let pool_shared = Arc::clone(&model.pool_shared);
    let event_loop = Arc::clone(&model.loops[1]);
    let shared = event_loop.shared();
    shared.set_running(true);
    let busy = shared.progress.busy();
    busy.begin();
    [(); 4].map(|()| {
        if moves {
            busy.begin();
        }
        model.look();
        model.watch.next_wait(&pool_shared).0
    })
}

#[test]
fn it_looks_soon_again_only_where_that_could_find_a_loop_stuck() {
    const TICK: Duration = config::MONITOR_TICK;
    const REST: Duration = config::MONITOR_REST;
    let mut model = Model::new(2);
    // In another callback each time: what is seen at the second look of two may last as well.
    assert_eq!(waits(&mut model, true), [TICK, REST, TICK, REST]);
    // In the same one, but this thread, which runs it, waits for a processor by that clock.
    assert_eq!(waits(&mut model, false), [TICK; 4]);
    // Between two callbacks.
    model.look();
    assert_eq!(model.watch.next_wait(&model.pool_shared).0, REST);
    // A loop that is known to be stuck wakes it by its epoll.
    let blocked = model.block(0);
    model.look();
    assert_eq!(model.watch.next_wait(&model.pool_shared).0, TICK);
    model.look();
    assert_eq!((model.handoffs(), model.watch.next_wait(&model.pool_shared).0), (vec![1, 0], REST));
    drop(blocked);
}

#[test]
fn a_loop_that_stays_in_a_callback_is_helped_until_it_leaves_it() {
    let mut model = Model::new(2);
    model.loops[1].shared().set_running(true);
    let blocked = model.block(0);
    model.look();
    assert_eq!(model.handoffs(), [0, 0]);
    model.look();
    model.look();
    // The other one runs as well, and is in no callback.
    assert_eq!(model.handoffs(), [1, 0]);
    drop(blocked);
    model.look();
    let again = model.block(0);
    model.look();
    assert_eq!(model.handoffs(), [1, 0]);
    model.look();
    assert_eq!(model.handoffs(), [2, 0]);
    drop(again);
}

#[test]
fn a_callback_is_reported_when_it_reaches_the_limit_and_when_it_ends() {
    let mut model = Model::new(1);
    let pool_shared = Arc::clone(&model.pool_shared);
    let stuck_reports: &StuckReports = pool_shared.make_stuck_reports().expect("descriptors");
    pool_shared.set_limit(Limit::Seconds(0.01));
    let blocked = model.block(0);
    (0..20).for_each(|_| model.look());
    drop(blocked);
    // The end is reported even if nobody wants to hear of any more.
    pool_shared.set_limit(Limit::Off);
    model.look();
    let told = stuck_reports.wait().expect("not at its end");
    let seen: Vec<_> =
        told.iter().map(|it| (it.worker_index, it.ended, it.lasted.as_millis())).collect();
    assert_eq!(seen, [(0, false, 10), (0, true, 20)]);
}

/// One loop of three is free: it gets every connection, from when the others are stuck.
#[test]
fn no_connection_goes_to_a_stuck_loop_while_one_is_free() {
    const CONNECTIONS: usize = 1000;
    for free in 0..3 {
        let mut model = Model::new(3);
        let acceptor = PoolAcceptor::new(Arc::clone(&model.pool_shared));
        (0..3).for_each(|id| acceptor.open(LoopId(id), IoToken::of_source(7, 1)));
        let _blocked: Vec<_> = (0..3)
            .filter(|worker_index| *worker_index != free)
            .map(|worker_index| model.block(worker_index))
            .collect();
        (0..2).for_each(|_| model.look());
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let _client =
            TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        let (socket, peer) = socket::accept(listener.as_raw_fd()).expect("there is one");
        let mut placed = [0; 3];
        for _ in 0..CONNECTIONS {
            // Each time with what was placed before.
            let connection = socket.try_clone().expect("a descriptor");
            drop(acceptor.place((connection, peer.clone())));
            for (worker_index, one) in model.loops.iter().enumerate() {
                let taken = one.shared().drain_completions();
                placed[worker_index] +=
                    taken.filter(|it| matches!(it, Completion::Accepted(..))).count();
            }
        }
        assert_eq!(placed[free], CONNECTIONS, "{placed:?}");
        assert!(load_of(model.loops[free].shared(), 0) >= CONNECTIONS as u64);
    }
}

#[test]
fn the_callback_in_which_a_loop_began_to_listen_does_not_count_when_it_is_over() {
    let mut model = Model::new(2);
    let acceptor = PoolAcceptor::new(Arc::clone(&model.pool_shared));
    let step = u64::try_from(config::STUCK_STEP.as_micros()).expect("small");
    let stuck_us = |model: &Model| model.loops[0].metrics().stuck_us.get();
    let blocked = model.block(0);
    acceptor.open(LoopId(0), IoToken::of_source(7, 1));
    (0..100).for_each(|_| model.look());
    assert_eq!(stuck_us(&model), step, "nothing goes there while it is stuck");
    drop(blocked);
    model.look();
    assert_eq!(stuck_us(&model), 0);
    let later = model.block(0);
    (0..100).for_each(|_| model.look());
    drop(later);
    model.look();
    assert!(stuck_us(&model) > step);
}
