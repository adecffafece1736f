//! Where the connections of a pool-wide server go, and how a loop leaves the server.
//!
//! In: accepted connections, from any thread. Out: each one in the inbox of a loop, for its listener. At
//! any time a connection is in one place only: with the accepting thread, in an inbox, or with a listener.
//!
//! Must never: place a connection on a loop that has left the server.

// A loop leaves a server in three steps:
//
// 1. its own listener stops accepting, and no thread is about to accept for it (`State::retire`);
// 2. it closes its `LoopIntake`: afterwards no thread places a connection on it, or is about to;
// 3. it takes the connections in its inbox, and passes on those of its listener.
//
// # Why no connection is placed on a closed intake
//
// A placer announces that it is inside, then reads the token. A closing loop announces that there is
// no token, then reads `inside`. One of the two sees the other (`announce`): either the placer finds
// no token and selects another loop, or the closing loop finds it inside and waits until it has left.
//
// A placer leaves after a push to the inbox, which never waits. Each loop of a server leaves after its
// last accept, so the last loop that accepts finds its own intake open.

use std::sync::Arc;

use crossbeam_utils::CachePadded;

use super::{PoolShared, load_of};
use crate::event_loop::{CallbackEpoch, Completion, Shared};
use crate::id::{IoToken, LoopId};
use crate::scheduler::WorkerIndex;
use crate::sync::announce::announce;
use crate::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use crate::sync::yield_now;
use crate::sys::clock;
use crate::transport::{AcceptSink, Connection};

/// By which connections get to one loop.
#[derive(Debug, Default)]
pub(super) struct LoopIntake {
    /// The token of the loop's listener, as a word; 0: shut.
    token: AtomicU64,
    /// The threads that are placing a connection on the loop.
    inside: AtomicU32,
}

/// The right to place a connection on a loop, to its listener with this token. It ends with this, also by
/// a panic.
#[derive(Debug)]
pub(super) struct PlacementGuard<'a> {
    pub(super) token: IoToken,
    _counted: Counted<'a>,
}

/// A thread that is counted as inside of an intake.
#[derive(Debug)]
struct Counted<'a>(&'a LoopIntake);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Release);
    }
}

impl LoopIntake {
    /// Lets connections in, to the listener with this token.
    pub(super) fn open(&self, token: IoToken) {
        self.token.store(token.to_word(), Release);
    }

    /// Lets none in any more; returns when nobody is inside.
    pub(super) fn shut(&self) {
        announce(|| self.token.store(0, Relaxed)).look(|| {
            while self.inside.load(Acquire) != 0 {
                yield_now();
            }
        });
    }

    /// Goes in, for as long as the returned value lives; `None`: it is shut.
    pub(super) fn enter(&self) -> Option<PlacementGuard<'_>> {
        let entered = announce(|| self.inside.fetch_add(1, Relaxed));
        let counted = Counted(self);
        let token = IoToken::from_word(entered.look(|| self.token.load(Acquire)))?;
        Some(PlacementGuard { token, _counted: counted })
    }

    fn is_open(&self) -> bool {
        self.token.load(Relaxed) != 0
    }
}

/// Where the connections of one pool-wide server go.
#[derive(Debug)]
pub struct PoolAcceptor {
    pool_shared: Arc<PoolShared>,
    /// Each on cache lines of its own: whoever accepts writes to the intake that it goes in by.
    intakes: Box<[CachePadded<LoopIntake>]>,
}

impl PoolAcceptor {
    /// For a server on the loops of a pool.
    #[must_use]
    pub fn new(pool_shared: Arc<PoolShared>) -> Self {
        let intakes = pool_shared.loops.iter().map(|_| CachePadded::default()).collect();
        Self { pool_shared, intakes }
    }

    /// Lets connections be placed on a loop, by the token of its listener. Any thread.
    ///
    /// A loop that begins to listen has no past: what was slow before, as imports are, says nothing
    /// of what it serves, but would keep the first connections, which may be the longest, from it.
    pub fn open(&self, id: LoopId, token: IoToken) {
        if let Some(shared) = self.shared(id) {
            let callback = shared.progress.present();
            shared.metrics.listened_in.set(callback.map_or(0, CallbackEpoch::number));
            shared.metrics.stuck_us.set(0);
            shared.metrics.busy.forget();
        }
        self.intakes[id.0 as usize].open(token);
    }

    /// Places nothing on a loop any more: what was placed is in its inbox when this returns. Any
    /// thread, detached.
    pub fn shut(&self, id: LoopId) {
        self.intakes[id.0 as usize].shut();
    }

    fn shared(&self, id: LoopId) -> Option<&Arc<Shared>> {
        self.pool_shared.home(WorkerIndex(id.0 as usize))
    }

    /// The loop for the next connection, at this time of the clock.
    fn choose(&self, now_ns: u64) -> LoopId {
        self.pool_shared.placement.next(|id| self.load(id, now_ns))
    }

    fn load(&self, id: LoopId, now_ns: u64) -> u64 {
        let intake = &self.intakes[id.0 as usize];
        self.shared(id)
            .filter(|_| intake.is_open())
            .map_or(u64::MAX, |shared| load_of(shared, now_ns))
    }
}

impl AcceptSink for PoolAcceptor {
    fn place(&self, connection: Connection) -> Vec<Connection> {
        let chosen = self.choose(clock::monotonic_ns());
        let count = u32::try_from(self.intakes.len()).unwrap_or(u32::MAX);
        // If both candidates have left: anyone who has not.
        for id in std::iter::once(chosen).chain((0..count).map(LoopId)) {
            let Some(shared) = self.shared(id) else { continue };
            let Some(inside) = self.intakes[id.0 as usize].enter() else { continue };
            shared.metrics.arriving.add_shared(1);
            shared.complete(Completion::Accepted(inside.token, connection));
            if shared.is_closed() {
                // It closed meanwhile, and may have looked for the last time: so is the connection.
                return shared.drain_connections();
            }
            return Vec::new();
        }
        // The server has closed; so is the connection.
        vec![connection]
    }
}

#[cfg(all(test, not(loom)))]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::event_loop::EventLoop;
    use crate::sys::address::SocketAddress;
    use std::io::{self, Read};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    const ADDRESS: SocketAddress = SocketAddress::Unknown;

    /// A server on so many loops, which listen.
    fn serving(count: u32) -> (PoolAcceptor, Vec<EventLoop<u32>>) {
        let pool_shared = PoolShared::new(count as usize, false, 1);
        let loops: Vec<_> = (0..count).map(|_| EventLoop::new().unwrap()).collect();
        let acceptor = PoolAcceptor::new(Arc::clone(&pool_shared));
        for (id, one) in (0..).map(LoopId).zip(&loops) {
            assert!(pool_shared.join(id, one.shared()).is_some());
            acceptor.open(id, IoToken::of_source(id.0, 1));
        }
        (acceptor, loops)
    }

    /// A connection that is placed; the other end of it.
    fn place(acceptor: &PoolAcceptor) -> UnixStream {
        let (near, far) = UnixStream::pair().unwrap();
        far.set_nonblocking(true).unwrap();
        drop(acceptor.place((OwnedFd::from(near).into(), ADDRESS)));
        far
    }

    /// What was placed on a loop, by the listeners' slots.
    fn placed(one: &EventLoop<u32>) -> Vec<u32> {
        let number = |completion| match completion {
            Completion::Accepted(token, ..) => token.slot(),
            Completion::Turn(_) | Completion::Offered(..) => {
                unreachable!("nothing else was handed over")
            }
        };
        one.shared().drain_completions().map(number).collect()
    }

    fn is_open(mut far: &UnixStream) -> bool {
        match far.read(&mut [0]) {
            Ok(count) => count > 0,
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        }
    }

    #[test]
    fn loops_take_turns_and_a_connection_finds_its_loop_s_listener() {
        let (acceptor, loops) = serving(2);
        let far: Vec<_> = (0..4).map(|_| place(&acceptor)).collect();
        assert!(far.iter().all(is_open));
        assert_eq!(loops[0].metrics().arriving.get(), 2);
        assert_eq!([placed(&loops[0]), placed(&loops[1])], [[0, 0], [1, 1]]);
    }

    #[test]
    fn a_loop_that_was_busy_is_chosen_again_when_it_has_slept_for_a_while() {
        const SECOND_NS: u64 = 1_000_000_000;
        let (acceptor, loops) = serving(2);
        let _asleep: Vec<_> = loops.iter().map(|one| one.shared().idle().park(|_| false)).collect();
        for one in &loops {
            one.metrics().polled_ns.set(SECOND_NS);
        }
        (0..9).for_each(|_| loops[0].metrics().busy.note(SECOND_NS, 0));
        let chosen = |now_ns| [(); 4].map(|()| acceptor.choose(now_ns).0);
        assert_eq!(chosen(SECOND_NS), [1; 4]);
        assert_eq!(chosen(10 * SECOND_NS), [0, 1, 0, 1]);
    }

    #[test]
    fn a_thread_that_panics_places_nothing_any_more() {
        let (acceptor, _loops) = serving(1);
        let placing = std::panic::AssertUnwindSafe(|| {
            let _placement = acceptor.intakes[0].enter().unwrap();
            panic!("while it places");
        });
        assert!(std::panic::catch_unwind(placing).is_err());
        // Returns when nobody is placing.
        acceptor.shut(LoopId(0));
        assert!(acceptor.intakes[0].enter().is_none());
        acceptor.shut(LoopId(0));
    }

    #[test]
    fn nothing_is_placed_on_a_loop_that_has_left_while_another_has_not() {
        let (acceptor, loops) = serving(3);
        acceptor.shut(LoopId(0));
        acceptor.shut(LoopId(1));
        let far: Vec<_> = (0..6).map(|_| place(&acceptor)).collect();
        assert!(far.iter().all(is_open));
        assert_eq!(placed(&loops[2]), [2; 6]);
        acceptor.shut(LoopId(2));
        assert!(!is_open(&place(&acceptor)), "the server has closed");
    }

    #[test]
    fn a_connection_placed_on_a_loop_that_closes_meanwhile_is_closed() {
        let (acceptor, loops) = serving(1);
        let before = place(&acceptor);
        loops[0].close_reactor(&loops[0].claim().unwrap());
        let after = place(&acceptor);
        assert!(!is_open(&after) && !is_open(&before), "it will not look again");
        assert!(!loops[0].shared().has_completions());
    }

    #[test]
    fn what_was_slow_before_a_loop_listened_keeps_no_connection_from_it() {
        let (acceptor, loops) = serving(2);
        loops[0].metrics().stuck_us.set(u64::from(u32::MAX));
        let _far = [place(&acceptor), place(&acceptor)];
        assert_eq!(loops[0].metrics().arriving.get(), 0);
        acceptor.open(LoopId(0), IoToken::of_source(0, 0));
        let _far = [place(&acceptor), place(&acceptor)];
        assert!(loops[0].metrics().arriving.get() > 0);
    }
}
