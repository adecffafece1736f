//! A pool under load, with each thread that it has in earnest: one loop is behind and stuck at times,
//! others do its socket work, and the monitor looks on. What is echoed is whole and in order. `make
//! models` runs it under `ThreadSanitizer`.

#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(clippy::disallowed_methods, reason = "sync::thread is std's here")]

use std::collections::{HashMap, VecDeque};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::config;
use crate::event_loop::{Completion, EventLoop, Job};
use crate::id::{IoToken, LoopId};
use crate::reactor::Ready;
use crate::sync::atomic::{AtomicBool, Ordering::Relaxed};
use crate::sync::thread;
use crate::sys::clock;
use crate::sys::socket::Channel;
use crate::transport::{Ahead, Input, Port, Schedule, Scratch, Source, Stream};

const LOOPS: u32 = 3;
/// Of the loop that is behind; each of the others has one.
const CONNECTIONS: usize = 2 * config::BEHIND;
/// More than a socket takes, so that the rest is queued.
const MESSAGE: usize = 256 * 1024;
const ROUNDS: usize = 3;
/// It only ends a failed test: nobody waits for a processor that long.
const HANG: Duration = Duration::from_secs(120);

type Echoed = Arc<Stream<Vec<u8>>>;

/// One loop, on its thread, with what it echoes.
struct Owner {
    event_loop: Arc<EventLoop<u32>>,
    loop_worker: LoopWorker,
    streams: HashMap<IoToken, (UnixStream, Echoed)>,
    ready: VecDeque<IoToken>,
    scratch: Scratch,
    /// Whether it is to be stuck in a callback.
    stuck: Arc<AtomicBool>,
}

impl Owner {
    fn new(pool_shared: &Arc<PoolShared>, id: u32, event_loop: Arc<EventLoop<u32>>) -> Self {
        let loop_worker = pool_shared.join(LoopId(id), event_loop.shared()).unwrap();
        let (streams, ready) = (HashMap::new(), VecDeque::new());
        let (scratch, stuck) = (Scratch::default(), Arc::default());
        Self { event_loop, loop_worker, streams, ready, scratch, stuck }
    }

    fn add(&mut self, near: UnixStream) {
        near.set_nonblocking(true).unwrap();
        let shared = self.event_loop.shared();
        let stream =
            Arc::new(Stream::<Vec<u8>>::new(near.as_raw_fd(), Channel::Local, Input::Data));
        let token = shared.sources.lock().insert(near.as_raw_fd(), stream.clone(), 0).unwrap();
        stream.register(token, &**shared).unwrap();
        let schedule = stream.state().start();
        self.streams.insert(token, (near, stream));
        self.schedule(token, schedule);
    }

    fn schedule(&mut self, token: IoToken, schedule: Schedule) {
        if schedule == Schedule::Needed {
            self.ready.push_back(token);
        }
    }

    /// Until it is asked to stop.
    fn run(mut self) {
        let event_loop = Arc::clone(&self.event_loop);
        let shared = event_loop.shared();
        let claim = event_loop.claim().unwrap();
        shared.set_running(true);
        let mut found = Vec::new();
        while !event_loop.is_stopping() {
            let limit = if self.ready.is_empty() { HANG } else { Duration::ZERO };
            let began_ns = clock::monotonic_ns();
            let when = (began_ns, began_ns + u64::try_from(limit.as_nanos()).unwrap());
            found.clear();
            let waited =
                self.loop_worker.wait(&event_loop, &mut self.scratch, when, limit, &mut found);
            shared.metrics.worked_ns.set(waited.unwrap().1);
            self.collect(&found);
            let busy = shared.progress.busy();
            for token in std::mem::take(&mut self.ready) {
                busy.begin();
                self.turn(token);
            }
            if self.ready.is_empty() && self.stuck.swap(false, Relaxed) {
                busy.begin();
                self.get_stuck();
            }
            drop(busy);
        }
        self.give_up();
        shared.set_running(false);
        assert!(self.loop_worker.leave(shared).is_empty());
        event_loop.close_reactor(&claim);
    }

    fn collect(&mut self, found: &[Ready]) {
        let shared = Arc::clone(self.event_loop.shared());
        let mut jobs = Vec::new();
        for (place, ready) in found.iter().enumerate().filter(|(_, ready)| ready.token.is_source())
        {
            let mut sources = shared.sources.lock();
            let Some((entry, schedule)) = sources.ready(*ready) else { continue };
            let (source, token) = (Arc::clone(&entry.source), ready.token);
            drop(sources);
            if place >= config::BEHIND / 2 {
                jobs.push(Job { owner: Arc::clone(&shared), token, source });
            }
            self.schedule(token, schedule);
        }
        self.loop_worker.offer(jobs.into_iter());
        for completion in shared.drain_completions() {
            let Completion::Turn(token) = completion else { panic!("nobody accepts") };
            self.ready.push_back(token);
        }
    }

    fn turn(&mut self, token: IoToken) {
        let shared = Arc::clone(self.event_loop.shared());
        let stream = Arc::clone(&self.streams[&token].1);
        let turn = stream.state().begin_turn();
        if let Some(claim) = turn.claim {
            let read = stream.read(&claim, self.scratch.get());
            claim.release_in_turn(matches!(read, Ok((_, true))));
            if let Ok((count, _)) = read {
                Self::echo(&stream, self.scratch.get()[..count].to_vec());
            }
        } else if turn.bits.is_ahead() {
            for ahead in stream.take_ahead() {
                match ahead {
                    Ahead::Data(data) => Self::echo(&stream, data),
                    Ahead::End | Ahead::Failed(_) => stream.state().close_read(),
                }
            }
        }
        if turn.bits.has_news() {
            assert!(stream.take_news().failure.is_none());
        }
        drop(stream.flush(&*shared));
        if stream.state().end_turn() == Schedule::Needed {
            let _ = shared.sources.lock().note_work(token);
            self.ready.push_back(token);
        }
    }

    fn echo(stream: &Stream<Vec<u8>>, data: Vec<u8>) {
        if data.is_empty() {
            stream.state().close_read();
        } else {
            drop(stream.enqueue(data, 0));
        }
    }

    /// In a callback that computes until the monitor has found it out, and somebody has helped. With no
    /// turn left to take: a peer may be waiting for that one.
    fn get_stuck(&self) {
        let metrics = self.event_loop.metrics();
        let (found_out, helped) = (metrics.handoffs.get(), metrics.jobs_helped.get());
        while metrics.handoffs.get() == found_out
            || metrics.jobs_helped.get() == helped && !self.event_loop.has_posts()
        {
            if self.event_loop.is_stopping() {
                return;
            }
            std::hint::spin_loop();
        }
    }

    /// As transports end, whoever is at them.
    fn give_up(&mut self) {
        let shared = self.event_loop.shared();
        for (token, (_near, stream)) in self.streams.drain() {
            drop(shared.sources.lock().remove(token));
            if stream.state().retire() {
                while stream.state().bits().is_claimed() {
                    thread::yield_now();
                }
            }
            stream.forget();
        }
    }
}

/// Writes to all, and reads from all what comes back. `get_stuck` is called before either.
fn exchange(peers: &mut [UnixStream], round: usize, get_stuck: impl Fn()) {
    let message = |peer: usize| {
        let mut message = vec![0; MESSAGE];
        for (place, block) in message.chunks_mut(512).enumerate() {
            block.fill(u8::try_from((31 * peer + round + place) % 251).unwrap());
        }
        message
    };
    get_stuck();
    for (number, peer) in peers.iter_mut().enumerate() {
        peer.write_all(&message(number)).unwrap();
    }
    get_stuck();
    let mut back = vec![0; MESSAGE];
    for (number, peer) in peers.iter_mut().enumerate() {
        peer.read_exact(&mut back).unwrap();
        assert!(back == message(number), "of {number}, in round {round}");
    }
}

#[test]
fn what_many_threads_echo_is_whole_and_in_order() {
    let pool_shared = PoolShared::new(LOOPS as usize, true, LOOPS as usize);
    let loops: Vec<_> = (0..LOOPS).map(|_| Arc::new(EventLoop::new().unwrap())).collect();
    let stuck = Arc::new(AtomicBool::new(false));
    let mut peers = Vec::new();
    let mut threads = Vec::new();
    for (event_loop, id) in loops.iter().zip(0..) {
        let mut owner = Owner::new(&pool_shared, id, Arc::clone(event_loop));
        if id == 0 {
            owner.stuck = Arc::clone(&stuck);
        }
        for _ in 0..if id == 0 { CONNECTIONS } else { 1 } {
            let (near, far) = UnixStream::pair().unwrap();
            far.set_read_timeout(Some(HANG)).unwrap();
            far.set_write_timeout(Some(HANG)).unwrap();
            peers.push(far);
            owner.add(near);
        }
        threads.push(thread::spawn(move || owner.run()));
    }
    let monitor = Monitor::start(Arc::clone(&pool_shared)).unwrap();
    let get_stuck = || stuck.store(true, Relaxed);
    let metrics = loops[0].metrics();
    let has_helped = || metrics.bytes_in_helped.get() > 0 && metrics.bytes_out_helped.get() > 0;
    for round in (0..100).take_while(|round| *round < ROUNDS || !has_helped()) {
        exchange(&mut peers, round, get_stuck);
    }
    // The last ones end while there is something to do for them.
    for peer in &mut peers {
        peer.write_all(&[0; 1000]).unwrap();
    }
    for one in &loops {
        one.set_stopping(true);
    }
    for thread in threads {
        thread.join().unwrap();
    }
    monitor.stop();
    assert!(has_helped() && metrics.handoffs.get() > 0);
}
