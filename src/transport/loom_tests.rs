//! Models of a transport's word, checked over every interleaving. Run by `make test-loom`.
//!
//! A socket is two numbers here: what the kernel has, and what it has reported of that. The kernel
//! reports each arrival by an edge, some time after it, from a thread of its own; the owner has turns
//! for its entries alone. An edge that is lost leaves the owner asleep with something to do, which
//! loom reports as a deadlock; two holders of a claim meet in an `UnsafeCell`, which loom reports too.

use std::collections::VecDeque;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixDatagram, UnixStream};

use loom::sync::Notify;

use super::source::NoReactor;
use super::{
    Abort, Close, Datagrams, Drained, Ending, Input, JobContext, Port, Schedule, State, Stream,
    Target,
};
use crate::config;
use crate::id::IoToken;
use crate::reactor::Ready;
use crate::sync::atomic::{
    AtomicBool, AtomicUsize,
    Ordering::{AcqRel, Relaxed},
};
use crate::sync::{Arc, Mutex, UnsafeCell, thread};
use crate::sys::socket::Channel;

const READABLE: Ready =
    Ready { token: IoToken::new(0, 0), readable: true, writable: false, ended: false };
const WRITABLE: Ready = Ready { readable: false, writable: true, ..READABLE };

/// One side of a transport, with its socket and its owner's inbox.
struct Model {
    state: State,
    /// Bytes that have come, or that there is room for.
    socket: AtomicUsize,
    /// Bytes that were read from the socket or written to it, by the holder of the claim only. They
    /// are numbered in this order.
    moved: UnsafeCell<usize>,
    /// Bytes that were read and not yet delivered, or queued and not yet written.
    kept: Mutex<VecDeque<usize>>,
    has_entry: AtomicBool,
    inbox: Notify,
}

impl Model {
    fn new(state: State, socket: usize) -> Arc<Self> {
        Arc::new(Self {
            state,
            socket: AtomicUsize::new(socket),
            moved: UnsafeCell::new(0),
            kept: Mutex::new(VecDeque::new()),
            has_entry: AtomicBool::new(false),
            inbox: Notify::new(),
        })
    }

    /// A transport that has begun.
    fn started() -> State {
        let state = State::new();
        assert_eq!(state.start(), Schedule::Unneeded);
        state
    }

    fn schedule(&self, needed: Schedule) {
        if needed == Schedule::Needed {
            assert!(!self.has_entry.swap(true, AcqRel), "two entries");
            self.inbox.notify();
        }
    }

    /// Waits for the owner's entry, and takes it.
    fn take_entry(&self) {
        while !self.has_entry.swap(false, AcqRel) {
            self.inbox.wait();
        }
    }

    /// What the kernel does by itself: a byte, or room for one; then the edge.
    fn kernel(&self, edge: Ready) {
        self.socket.fetch_add(1, Relaxed);
        self.schedule(self.state.ready(edge));
    }

    /// A system call of a claim's holder: takes a byte or room and returns the byte's number, or
    /// would block.
    fn call(&self) -> Option<usize> {
        self.moved.with_mut(|moved| {
            self.socket.fetch_update(Relaxed, Relaxed, |have| have.checked_sub(1)).ok()?;
            // SAFETY: the claim's holder alone gets here, or loom reports it.
            unsafe {
                *moved += 1;
                Some(*moved - 1)
            }
        })
    }

    // -- reading ---------------------------------------------------------------------------------

    /// Reads once, as another thread does.
    fn read_ahead(&self) {
        if let Some(claim) = self.state.claim_read() {
            let byte = self.call();
            if byte.is_some() {
                let mut kept = self.kept.lock();
                self.state.set_ahead();
                kept.extend(byte);
            }
            // There may be more, unless it would have blocked.
            self.schedule(claim.release(byte.is_some()));
        }
    }

    /// Has turns until `delivered` has the bytes up to number `count`, in their order.
    fn deliver(&self, mut delivered: Vec<usize>, count: usize) {
        while delivered.len() < count {
            self.take_entry();
            let turn = self.state.begin_turn();
            if let Some(claim) = turn.claim {
                let byte = self.call();
                claim.release_in_turn(byte.is_some());
                delivered.extend(byte);
            } else if turn.bits.is_ahead() {
                let mut kept = self.kept.lock();
                self.state.taken_ahead();
                delivered.extend(kept.drain(..));
            }
            self.schedule(self.state.end_turn());
        }
        assert!(delivered.into_iter().eq(0..count));
    }

    // -- writing ---------------------------------------------------------------------------------

    fn queue(&self, byte: usize) {
        let mut kept = self.kept.lock();
        kept.push_back(byte);
        self.state.set_queued(true);
    }

    /// Writes what is queued, in a claim: whether it would have taken more, and whether all is gone.
    fn write_queued(&self) -> (bool, bool) {
        loop {
            {
                let kept = self.kept.lock();
                if kept.is_empty() {
                    self.state.set_queued(false);
                    return (true, true);
                }
            }
            let Some(byte) = self.call() else { return (false, false) };
            assert_eq!(self.kept.lock().pop_front(), Some(byte));
        }
    }

    fn flush_ahead(&self) {
        if let Some(claim) = self.state.claim_write() {
            let (room, drained) = self.write_queued();
            self.schedule(claim.release(room, drained));
        }
    }

    fn flush(&self) {
        if let Some(claim) = self.state.claim_write() {
            let (room, _) = self.write_queued();
            claim.release_in_turn(room);
        }
    }

    /// Has turns until nothing is queued.
    fn drain(&self) {
        while self.state.bits().is_queued() {
            self.take_entry();
            let turn = self.state.begin_turn();
            if turn.bits.may_write() {
                self.flush();
            }
            self.schedule(self.state.end_turn());
        }
    }
}

/// For the larger models: enough for them to fail without the step that each is about.
fn with_two_preemptions(body: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(body);
}

fn spawn(model: &Arc<Model>, body: impl FnOnce(&Model) + 'static) -> thread::JoinHandle<()> {
    let model = Arc::clone(model);
    thread::spawn(move || body(&model))
}

#[test]
fn loom_no_byte_that_comes_is_slept_through() {
    with_two_preemptions(|| {
        let model = Model::new(Model::started(), 0);
        let kernel = spawn(&model, |model| {
            model.kernel(READABLE);
            model.kernel(READABLE);
        });
        let helper = spawn(&model, Model::read_ahead);
        model.deliver(Vec::new(), 2);
        kernel.join().unwrap();
        helper.join().unwrap();
    });
}

/// The owner takes what was read ahead while the other reads on.
#[test]
fn loom_what_is_read_ahead_is_delivered_once() {
    loom::model(|| {
        let model = Model::new(Model::started(), 2);
        model.schedule(model.state.ready(READABLE));
        let helper = spawn(&model, |model| {
            model.read_ahead();
            model.read_ahead();
        });
        model.deliver(Vec::new(), 2);
        helper.join().unwrap();
    });
}

/// A pause, with a byte that comes before, during or after it.
#[test]
fn loom_what_comes_during_a_pause_is_delivered_after_it() {
    loom::model(|| {
        let model = Model::new(Model::started(), 0);
        let kernel = spawn(&model, |model| model.kernel(READABLE));
        let helper = spawn(&model, Model::read_ahead);
        model.state.pause();
        model.schedule(model.state.resume());
        model.deliver(Vec::new(), 1);
        kernel.join().unwrap();
        helper.join().unwrap();
    });
}

/// The edge may come before the protocol knows its transport.
#[test]
fn loom_what_comes_before_the_start_is_delivered() {
    loom::model(|| {
        let model = Model::new(State::new(), 0);
        let kernel = spawn(&model, |model| model.kernel(READABLE));
        let helper = spawn(&model, Model::read_ahead);
        model.schedule(model.state.start());
        model.deliver(Vec::new(), 1);
        kernel.join().unwrap();
        helper.join().unwrap();
    });
}

/// The protocol's buffer is asked for without the claim, which is taken again.
#[test]
fn loom_the_owner_gives_the_claim_back_and_takes_it_again() {
    loom::model(|| {
        let model = Model::new(Model::started(), 1);
        let kernel = spawn(&model, |model| model.kernel(READABLE));
        let helper = spawn(&model, Model::read_ahead);
        model.take_entry();
        let turn = model.state.begin_turn();
        let mut delivered = Vec::new();
        if let Some(claim) = turn.claim {
            claim.release_in_turn(true);
            if let Some(claim) = model.state.claim_read_in_turn() {
                let byte = model.call();
                claim.release_in_turn(byte.is_some());
                delivered.extend(byte);
            }
        }
        model.schedule(model.state.end_turn());
        model.deliver(delivered, 2);
        kernel.join().unwrap();
        helper.join().unwrap();
    });
}

#[test]
fn loom_no_room_is_slept_through() {
    with_two_preemptions(|| {
        let model = Model::new(Model::started(), 0);
        let kernel = spawn(&model, |model| {
            model.kernel(WRITABLE);
            model.kernel(WRITABLE);
        });
        let helper = spawn(&model, Model::flush_ahead);
        model.queue(0);
        model.queue(1);
        model.flush();
        model.schedule(model.state.end_turn());
        model.drain();
        kernel.join().unwrap();
        helper.join().unwrap();
    });
}

/// The queue may be emptied by another thread at the moment in which the owner adds to it. What the
/// owner sends by itself goes after all that was queued.
#[test]
fn loom_the_owner_sends_nothing_past_what_is_queued() {
    loom::model(|| {
        let model = Model::new(Model::started(), 3);
        model.queue(0);
        let helper = spawn(&model, Model::flush_ahead);
        while model.state.bits().is_queued() {
            thread::yield_now();
        }
        // Without a claim: nobody else writes while nothing is queued.
        assert_eq!(model.call(), Some(1));
        model.queue(2);
        model.flush();
        model.schedule(model.state.end_turn());
        model.drain();
        helper.join().unwrap();
    });
}

/// When the last byte was written by another thread, the owner hears of it.
#[test]
fn loom_the_owner_hears_that_all_is_written() {
    loom::model(|| {
        let model = Model::new(Model::started(), 0);
        model.queue(0);
        let kernel = spawn(&model, |model| model.kernel(WRITABLE));
        let helper = spawn(&model, Model::flush_ahead);
        let mut drained = false;
        while !drained {
            model.take_entry();
            let turn = model.state.begin_turn();
            if turn.bits.may_write() {
                model.flush();
                drained = !model.state.bits().is_queued();
            }
            drained |= turn.bits.has_news();
            model.schedule(model.state.end_turn());
        }
        assert!(model.kept.lock().is_empty());
        kernel.join().unwrap();
        helper.join().unwrap();
    });
}

/// Once a retired transport is unclaimed, nobody touches its socket.
#[test]
fn loom_a_retired_transport_is_the_owners_alone() {
    loom::model(|| {
        let model = Model::new(Model::started(), 2);
        model.queue(0);
        let kernel = spawn(&model, |model| model.kernel(READABLE));
        let helper = spawn(&model, Model::flush_ahead);
        if model.state.retire() {
            while model.state.bits().is_claimed() {
                thread::yield_now();
            }
        }
        // Without a claim: nobody else has one any more, or will, or loom reports it.
        let _ = model.call();
        model.kept.lock().clear();
        kernel.join().unwrap();
        helper.join().unwrap();
    });
}

/// One who holds a claim panics: the claim is only dropped. What the holder has not done is done by
/// whoever looks after it, and whoever waits for the claim gets it.
#[test]
fn loom_what_a_holder_drops_is_anothers_to_do() {
    loom::model(|| {
        let model = Model::new(Model::started(), 1);
        let kernel = spawn(&model, |model| model.kernel(READABLE));
        let helper = spawn(&model, |model| {
            drop(model.state.claim_read());
            // As `Job::run` does on the way out.
            model.schedule(model.state.ready(Ready { readable: false, ..READABLE }));
        });
        model.deliver(Vec::new(), 2);
        kernel.join().unwrap();
        helper.join().unwrap();
        assert!(!model.state.retire());
    });
}

/// Another thread writes a part of what is queued, at the moment in which the owner says below which
/// mark it is to hear of that.
fn little_is_left(port: &Arc<impl Port + 'static>, mark: usize) {
    let _ = port.link().state().start();
    let helper = {
        let port = Arc::clone(port);
        thread::spawn(move || {
            let _ = port.run(&mut JobContext { scratch: &mut [0; 1], registrar: &NoReactor });
        })
    };
    port.tell_below(mark);
    let is_seen = port.link().queued() <= mark;
    helper.join().unwrap();
    let queued = port.link().queued();
    assert!(0 < queued && queued <= mark, "it writes a part");
    assert!(is_seen || port.bits().has_news(), "nobody knows that little is left");
}

#[test]
fn loom_little_is_left_in_a_stream_and_its_owner_sees_it_or_hears_of_it() {
    loom::model(|| {
        let (near, _far) = UnixStream::pair().unwrap();
        let stream = Stream::new(near.as_raw_fd(), Channel::Local, Input::Data);
        drop(stream.enqueue(vec![0; config::JOB_BUDGET + 1], 0));
        little_is_left(&Arc::new(stream), config::JOB_BUDGET);
    });
}

#[test]
fn loom_few_datagrams_are_left_and_their_owner_sees_it_or_hears_of_it() {
    loom::model(|| {
        let (near, _far) = UnixDatagram::pair().unwrap();
        let datagrams = Datagrams::new(near.as_raw_fd());
        // More than the kernel keeps.
        for _ in 0..8 {
            drop(datagrams.enqueue(vec![0; 60_000], Target::Peer));
        }
        let mark = datagrams.queued() - 1;
        little_is_left(&Arc::new(datagrams), mark);
    });
}

#[test]
fn loom_a_connection_is_lost_once_whoever_ends_it() {
    loom::model(|| {
        let ending = Arc::new(Ending::new());
        let aborts = {
            let ending = Arc::clone(&ending);
            thread::spawn(move || ending.abort() == Abort::LoseSoon)
        };
        let closes = ending.close(true) != Close::Ignore;
        let drains = ending.drained() == Drained::LoseNow;
        let aborts = aborts.join().unwrap();
        assert!(aborts != drains, "{aborts}, {closes}, {drains}");
        assert!(closes || aborts, "who finds it closed leaves it to whoever closed it");
    });
}
