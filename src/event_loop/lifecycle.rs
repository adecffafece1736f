//! Ownership of a loop, and how it is opened, woken and closed.

use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_utils::CachePadded;

use super::{Claim, Drain, Inbox, Link, Local, OwnerCell, Poller, Post, Shared, Turned};
use crate::config;
use crate::error::LoopError;
use crate::metrics::Metrics;
use crate::reactor::{IoTable, Ready};
use crate::scheduler::Park;
use crate::sync::Mutex;
use crate::sync::announce::announce;
use crate::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Relaxed, Release},
};

/// One event loop. `E` is what the layer above keeps for the owner, beside what the loop itself needs.
#[derive(Debug)]
pub struct EventLoop<C, E = ()> {
    /// What other threads want run. Its nodes hold callbacks, so it is not in the shared part.
    /// In a box, as Python's allocator does not align an object to a cache line.
    inbox: Box<CachePadded<Inbox<Post<C>>>>,
    /// What is to run before the next callback, whatever waits already. Rare.
    urgent: Inbox<C>,
    shared: Arc<Shared>,
    /// The callbacks of `add_reader` and `add_writer`. Held for a few instructions or one
    /// `epoll_ctl`; no code of the caller's runs and nothing is dropped under it.
    pub io: Mutex<IoTable<C>>,
    stopping: AtomicBool,
    /// From when on a run ends in the middle of a turn.
    end_run_ns: AtomicU64,
    /// Whether one did.
    cut_short: AtomicBool,
    closed: AtomicBool,
    /// What only the owner touches.
    pub local: OwnerCell<Local<C, E>>,
}

impl<C> EventLoop<C> {
    /// A new loop, which nobody owns.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn new() -> io::Result<Self> {
        Self::with_extension(())
    }
}

impl<C, E> EventLoop<C, E> {
    /// As [`new`](EventLoop::new), with what the layer above keeps for the owner.
    ///
    /// # Errors
    /// As [`new`](EventLoop::new).
    pub fn with_extension(extension: E) -> io::Result<Self> {
        Ok(Self {
            inbox: Box::default(),
            urgent: Inbox::default(),
            shared: Arc::new(Shared::new()?),
            io: Mutex::new(IoTable::default()),
            stopping: AtomicBool::new(false),
            end_run_ns: AtomicU64::new(u64::MAX),
            cut_short: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            local: OwnerCell::new(Local::new(extension)),
        })
    }

    /// The part that other threads work on.
    #[inline(always)]
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Counters and gauges.
    #[inline(always)]
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Makes the calling thread the owner.
    ///
    /// # Errors
    /// [`LoopError::Running`] if a thread, this one included, owns it already.
    pub fn claim(&self) -> Result<Claim<'_, Local<C, E>>, LoopError> {
        self.local.claim().ok_or(LoopError::Running)
    }

    /// Asks the loop for something, and wakes it if it sleeps. Any thread.
    pub fn post(&self, post: Post<C>) {
        self.shared.posted(&self.inbox.push(post));
    }

    /// As [`post`](Self::post), of what `link` is part of. Any thread.
    ///
    /// # Safety
    /// As for [`Inbox::push_link`].
    #[inline]
    pub unsafe fn post_link(&self, link: NonNull<Link<Post<C>>>) {
        // SAFETY: handed on to our caller.
        self.shared.posted(&unsafe { self.inbox.push_link(link) });
    }

    /// Leaves something for the loop to find when it wakes for another reason. Any thread.
    pub fn leave(&self, post: Post<C>) {
        let _ = self.inbox.push(post);
    }

    /// As [`post`](Self::post), of a callback that is to run before any other that has not begun:
    /// whoever runs callbacks looks at [`has_urgent`](Self::has_urgent) before each of them.
    pub fn post_urgent(&self, callback: C) {
        self.shared.posted(&self.urgent.push(callback));
    }

    /// Whether something is to run before the next callback.
    #[inline(always)]
    pub fn has_urgent(&self) -> bool {
        !self.urgent.is_empty()
    }

    /// Takes out what is to run before the next callback, oldest first.
    pub fn drain_urgent(&self) -> Drain<C> {
        self.urgent.drain()
    }

    /// Whether anything was posted and not yet drained.
    #[inline]
    pub fn has_posts(&self) -> bool {
        !self.inbox.is_empty() || self.has_urgent() || self.shared.has_completions()
    }

    /// Takes out what was posted, oldest first. Owner only, by convention: order would suffer.
    #[inline]
    pub fn drain_posts(&self) -> Drain<Post<C>> {
        self.inbox.drain()
    }

    /// Announces that the owner is about to sleep and looks once more: at what was posted, at whether
    /// the loop was asked to stop, and by `more`. Owner only, with the right to poll in its hands:
    /// nobody else may then take the event that is to wake it.
    pub fn park(&self, _poller: &Poller<'_>, more: impl FnOnce() -> bool) -> Park<'_> {
        self.shared.idle().park(|announced| {
            self.inbox.has_come(announced)
                || self.urgent.has_come(announced)
                || self.shared.have_completions_come(announced)
                || self.is_stopping()
                || more()
        })
    }

    /// Waits for the kernel for as long as the last look before the sleep says; `None`: not at all.
    /// Owner only, detached.
    ///
    /// # Errors
    /// Those of the kernel, and of a closed loop.
    pub fn wait(
        &self,
        last_look: impl FnOnce() -> Option<Duration>,
        found: &mut Vec<Ready>,
    ) -> Result<Turned, LoopError> {
        let mut poller = self.shared.poller();
        let mut limit = Duration::ZERO;
        let has_work = || match last_look() {
            Some(wait) => {
                limit = wait;
                false
            }
            None => true,
        };
        match self.park(&poller, has_work) {
            Park::Sleep(_parked) => poller.poll(limit, found),
            Park::Work => poller.poll(Duration::ZERO, found),
        }
    }

    /// Asks the kernel without waiting. Owner only, detached.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    #[inline]
    pub fn look(&self, found: &mut Vec<Ready>) -> Result<Turned, LoopError> {
        self.shared.poller().poll(Duration::ZERO, found)
    }

    /// Whether the running turn is to be the last one.
    #[inline]
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Relaxed)
    }

    /// Sets or clears the wish to stop, and wakes a sleeping loop for it. Any thread.
    pub fn set_stopping(&self, stopping: bool) {
        let announced = announce(|| self.stopping.store(stopping, Release));
        if stopping {
            self.shared.posted(&announced);
        }
    }

    /// Whether an end of the run has been set.
    #[inline]
    pub fn has_end_of_run(&self) -> bool {
        self.end_run_ns.load(Relaxed) != u64::MAX
    }

    /// Whether the end of the run has passed.
    pub fn is_past_end_of_run(&self, now_ns: u64) -> bool {
        now_ns >= self.end_run_ns.load(Relaxed)
    }

    /// Ends the run, if its time is up, in a turn that has `left` callbacks to run. A few are run all
    /// the same, unless they take long: what they belong to may be about to end by itself.
    pub fn cut_run_short(&self, now_ns: u64, left: usize) -> bool {
        let end_ns = self.end_run_ns.load(Relaxed);
        let few = left <= config::LEFT_AT_THE_END;
        let cut = now_ns >= end_ns && !(few && now_ns - end_ns < config::END_OF_RUN_NS);
        if cut {
            self.cut_short.store(true, Relaxed);
            self.set_stopping(true);
        }
        cut
    }

    /// Whether a run was ended before it got to all that was ready.
    pub fn was_cut_short(&self) -> bool {
        self.cut_short.load(Relaxed)
    }

    /// Lets a run end from `at_ns` on, in the middle of a turn if need be. Any thread.
    pub fn set_end_of_run(&self, at_ns: u64) {
        self.end_run_ns.store(at_ns, Relaxed);
    }

    /// Whether the loop has been marked closed.
    #[inline(always)]
    pub fn is_closed(&self) -> bool {
        self.closed.load(Relaxed)
    }

    /// Marks the loop closed or open. (asyncio marks first and tears down later.)
    pub fn set_closed(&self, closed: bool) {
        self.closed.store(closed, Release);
    }

    /// Calls `f` with every callback held, except those posted.
    ///
    /// # Safety
    /// No other thread may use the loop meanwhile, and `f` must not reach it.
    pub unsafe fn for_each_local(&self, mut f: impl FnMut(&C)) {
        // SAFETY: handed on to our caller.
        unsafe {
            self.local.inspect(|local| {
                local.ready.iter().for_each(&mut f);
                local.timers.iter().for_each(|(_, callback)| f(callback));
                local.aside.iter().for_each(&mut f);
            });
        }
        // A collection visits more than once, and must be shown the same each time: what it is shown
        // at first and misses later is garbage to it.
        if let Some(io) = self.io.lock_for_collector() {
            io.iter().for_each(&mut f);
        }
    }

    /// Calls `f` with what the layer above keeps for the owner.
    ///
    /// # Safety
    /// As for [`for_each_local`](Self::for_each_local).
    pub unsafe fn inspect_extension(&self, f: impl FnOnce(&E)) {
        // SAFETY: handed on to our caller.
        unsafe { self.local.inspect(|local| f(&local.extension)) };
    }

    /// Calls `f` with everything posted and not yet drained.
    ///
    /// # Safety
    /// As for [`for_each_local`](Self::for_each_local).
    pub unsafe fn for_each_post(&self, mut f: impl FnMut(&C)) {
        // SAFETY: handed on to our caller.
        unsafe {
            self.inbox.for_each(|post| f(post.callback()));
            self.urgent.for_each(f);
        }
    }

    /// Gives the descriptors back. Posts and callbacks stay, for the caller to take and drop.
    ///
    /// Waits for a wake, a registration or a poll under way on another thread, each a few
    /// instructions and a syscall long and free of Python, so it may be called attached.
    pub fn close_reactor(&self, _owner: &Claim<'_, Local<C, E>>) {
        self.shared.close();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sync::{atomic::AtomicU32, thread};
    use crate::sys::clock;
    use std::time::Duration;

    type Loop = EventLoop<u32>;

    fn calls(event_loop: &Loop) -> Vec<u32> {
        event_loop.drain_posts().map(Post::into_callback).collect()
    }

    #[test]
    fn a_post_ends_a_wait_and_nothing_else_does() {
        /// It only ends a failed test: nobody waits for a processor that long.
        const HANG: Duration = Duration::from_secs(300);
        let event_loop = Arc::new(Loop::new().unwrap());
        let rounds = 2000;
        let count = Arc::new(AtomicU32::new(0));
        let poster = {
            let (event_loop, count) = (Arc::clone(&event_loop), Arc::clone(&count));
            #[allow(clippy::disallowed_methods, reason = "sync::thread is std's here")]
            thread::spawn(move || {
                for n in 0..rounds {
                    event_loop.post(Post::Call(n));
                    // No later post makes up for the wake of this one.
                    while n % 7 == 0 && count.load(Relaxed) <= n {
                        thread::park();
                    }
                }
            })
        };
        let _claim = event_loop.claim().unwrap();
        let mut seen = Vec::new();
        while seen.len() < rounds as usize {
            let mut poller = event_loop.shared().poller();
            if let Park::Sleep(_parked) = event_loop.park(&poller, || false) {
                let began_ns = clock::monotonic_ns();
                let turned = poller.poll(HANG, &mut Vec::new()).unwrap();
                let slept = Duration::from_nanos(turned.now_ns - began_ns);
                assert!(slept < HANG, "a wakeup was lost");
            }
            drop(poller);
            seen.extend(calls(&event_loop));
            count.store(u32::try_from(seen.len()).unwrap(), Relaxed);
            poster.thread().unpark();
        }
        poster.join().unwrap();
        assert_eq!(seen, (0..rounds).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_urgent_ends_a_wait_and_is_taken_apart_from_the_posts() {
        let event_loop = Loop::new().unwrap();
        let _claim = event_loop.claim().unwrap();
        event_loop.post(Post::Call(1));
        assert_eq!(calls(&event_loop), [1]);
        assert!(!event_loop.has_urgent());
        event_loop.post_urgent(2);
        event_loop.post_urgent(3);
        assert!(event_loop.has_posts() && event_loop.has_urgent());
        let poller = event_loop.shared().poller();
        assert!(matches!(event_loop.park(&poller, || false), Park::Work));
        assert_eq!(calls(&event_loop), [0; 0]);
        assert_eq!(event_loop.drain_urgent().collect::<Vec<_>>(), [2, 3]);
        assert!(!event_loop.has_posts());
        assert!(matches!(event_loop.park(&poller, || false), Park::Sleep(_)));
    }

    #[test]
    fn what_is_left_wakes_nobody_and_is_found_with_what_is_posted() {
        let event_loop = Loop::new().unwrap();
        let _claim = event_loop.claim().unwrap();
        let poller = event_loop.shared().poller();
        let Park::Sleep(parked) = event_loop.park(&poller, || false) else { panic!("no posts") };
        event_loop.leave(Post::Call(1));
        assert!(event_loop.shared().idle().is_parked());
        event_loop.post(Post::Call(2));
        assert!(!event_loop.shared().idle().is_parked());
        drop(parked);
        assert_eq!(calls(&event_loop), [1, 2]);
    }

    #[test]
    fn a_wish_to_stop_keeps_the_owner_awake() {
        let event_loop = Loop::new().unwrap();
        let _claim = event_loop.claim().unwrap();
        let poller = event_loop.shared().poller();
        event_loop.set_stopping(true);
        assert!(matches!(event_loop.park(&poller, || false), Park::Work));
        event_loop.set_stopping(false);
        assert!(matches!(event_loop.park(&poller, || false), Park::Sleep(_)));
    }

    #[test]
    fn a_run_whose_time_is_up_is_cut_short_at_once_if_much_is_left_and_else_soon() {
        let event_loop = Loop::new().unwrap();
        assert!(!event_loop.has_end_of_run() && !event_loop.cut_run_short(u64::MAX - 1, 1000));
        let end = 1_000_000;
        event_loop.set_end_of_run(end);
        let (few, many) = (config::LEFT_AT_THE_END, config::LEFT_AT_THE_END + 1);
        assert!(event_loop.has_end_of_run() && !event_loop.is_past_end_of_run(end - 1));
        assert!(!event_loop.cut_run_short(end - 1, many) && !event_loop.cut_run_short(end, few));
        assert!(!event_loop.was_cut_short() && !event_loop.is_stopping());
        assert!(event_loop.cut_run_short(end, many) && event_loop.is_stopping());
        assert!(event_loop.was_cut_short() && event_loop.is_past_end_of_run(end));
        assert!(event_loop.cut_run_short(end + config::END_OF_RUN_NS, 0));
    }

    #[test]
    fn a_loop_is_closed_as_long_as_it_is_marked_so() {
        let event_loop = Loop::new().unwrap();
        for closed in [true, false] {
            event_loop.set_closed(closed);
            assert_eq!(event_loop.is_closed(), closed);
        }
    }

    #[test]
    fn closing_gives_descriptors_back_and_later_posts_do_no_harm() {
        let event_loop = Loop::new().unwrap();
        event_loop.close_reactor(&event_loop.claim().unwrap());
        event_loop.post(Post::Call(1));
        event_loop.shared().wake();
        assert!(matches!(event_loop.shared().with_handle(|_| ()), Err(LoopError::Closed)));
        assert_eq!(calls(&event_loop), [1]);
        let polled = event_loop.shared().poller().poll(Duration::ZERO, &mut Vec::new());
        assert!(matches!(polled, Err(LoopError::Closed)));
    }

    #[test]
    fn a_forked_child_has_another_reactor_or_none() {
        let event_loop = Loop::new().unwrap();
        let shared = event_loop.shared();
        let selector = || shared.with_handle(crate::reactor::Handle::selector);
        let before = std::fs::read_link(format!("/proc/self/fd/{}", selector().unwrap())).unwrap();
        assert!(before.to_string_lossy().contains("eventpoll"));
        shared.after_fork(true).unwrap();
        shared.wake();
        let mut found = Vec::new();
        assert!(shared.poller().poll(Duration::from_secs(20), &mut found).is_ok());
        let held = shared.poller();
        shared.after_fork(true).unwrap();
        assert!(shared.is_parents() && matches!(selector(), Err(LoopError::Closed)));
        event_loop.close_reactor(&event_loop.claim().unwrap());
        drop(held);
    }
}
