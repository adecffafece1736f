//! Who owns a loop, and how it opens, is woken and closes.

use std::io;
use std::marker::PhantomData;
use std::time::Duration;

use crossbeam_utils::CachePadded;

use super::{Drain, Inbox, Local, Post, Turned};
use crate::error::LoopError;
use crate::metrics::Metrics;
use crate::reactor::{Driver, Handle, IoTable, Ready};
use crate::scheduler::{Idle, Park, Wake};
use crate::sync::atomic::{
    AtomicBool, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};
use crate::sync::{Mutex, RwLock, UnsafeCell, thread_token, yield_now};
use crate::sys::clock;

/// What posters write: on a cache line of its own, away from what the owner writes.
#[derive(Debug)]
struct Door<C> {
    inbox: Inbox<Post<C>>,
    idle: Idle,
}

/// One event loop.
#[derive(Debug)]
pub struct EventLoop<C> {
    door: CachePadded<Door<C>>,
    /// Counters and gauges; the owner writes them.
    pub metrics: CachePadded<Metrics>,
    /// The callbacks of `add_reader` and `add_writer`. Held for a few instructions or one
    /// `epoll_ctl`; no code of the caller's runs and nothing is dropped under it.
    pub io: Mutex<IoTable<C>>,
    /// `None` when the loop is closed. Held by whoever polls: the owner, in its turn.
    driver: Mutex<Option<Driver>>,
    /// `None` when the loop is closed. Read for a wake or a registration; written once, by `close`.
    handle: RwLock<Option<Handle>>,
    /// The [`thread_token`] of the thread that holds the [`Claim`], with [`BRIEF`] added for a brief
    /// one; or 0.
    owner: AtomicUsize,
    stopping: AtomicBool,
    closed: AtomicBool,
    /// Touched by the thread that `owner` names, and by no other.
    local: UnsafeCell<Local<C>>,
}

// SAFETY: `local` is reached only through a `Claim` or after `is_owner`, hence by one thread at a
// time, handed over with acquire and release on `owner`. The rest is `Sync` for `C: Send`: no
// shared reference to a `C` is given out but under the lock of `io`.
unsafe impl<C: Send> Sync for EventLoop<C> {}
// SAFETY: an owner token does not keep a loop on its thread: a claim borrows the loop.
unsafe impl<C: Send> Send for EventLoop<C> {}

/// Proof that the calling thread owns the loop, until it is dropped.
#[derive(Debug)]
pub struct Claim<'a, C> {
    event_loop: &'a EventLoop<C>,
    /// Not `Send`: the claim names this thread.
    _thread: PhantomData<*const ()>,
}

/// Marks a claim that is held for a few instructions, free of Python. Tokens are even.
const BRIEF: usize = 1;

impl<C> Drop for Claim<'_, C> {
    fn drop(&mut self) {
        self.event_loop.owner.store(0, Release);
    }
}

impl<C> EventLoop<C> {
    /// A new loop, which nobody owns.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn new() -> io::Result<Self> {
        let (driver, handle) = Driver::new()?;
        Ok(Self {
            door: CachePadded::new(Door { inbox: Inbox::default(), idle: Idle::default() }),
            metrics: CachePadded::new(Metrics::default()),
            io: Mutex::new(IoTable::default()),
            driver: Mutex::new(Some(driver)),
            handle: RwLock::new(Some(handle)),
            owner: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            local: UnsafeCell::new(Local::new()),
        })
    }

    /// Makes the calling thread the owner.
    ///
    /// # Errors
    /// [`LoopError::Running`] if a thread, this one included, owns it already.
    pub fn claim(&self) -> Result<Claim<'_, C>, LoopError> {
        let token = thread_token();
        debug_assert_eq!(token & BRIEF, 0);
        loop {
            match self.owner.compare_exchange(0, token, Acquire, Relaxed) {
                Ok(_) => return Ok(Claim { event_loop: self, _thread: PhantomData }),
                Err(owner) if owner & BRIEF != 0 => yield_now(),
                Err(_) => return Err(LoopError::Running),
            }
        }
    }

    /// Makes the calling thread the owner for a few instructions, if nobody is. It must run no
    /// Python meanwhile: whoever claims the loop in earnest waits for it.
    pub fn claim_briefly(&self) -> Option<Claim<'_, C>> {
        self.owner.compare_exchange(0, thread_token() | BRIEF, Acquire, Relaxed).ok()?;
        Some(Claim { event_loop: self, _thread: PhantomData })
    }

    /// Whether the calling thread owns the loop.
    #[inline(always)]
    pub fn is_owner(&self) -> bool {
        // Relaxed: if it is our own token, this very thread wrote it.
        self.owner.load(Relaxed) == thread_token()
    }

    /// Calls `f` with the owner's state if the calling thread is the owner.
    ///
    /// # Safety
    /// `f` must not reach this loop's `local` again, nor run code that could (any Python).
    #[inline(always)]
    pub unsafe fn if_owner<R>(&self, f: impl FnOnce(&mut Local<C>) -> R) -> Option<R> {
        if self.is_owner() {
            // SAFETY: we are the owner, and the caller vouches that `f` makes no second reference.
            Some(self.local.with_mut(|local| f(unsafe { &mut *local })))
        } else {
            None
        }
    }

    /// Asks the loop for something, and wakes it if it sleeps. Any thread.
    pub fn post(&self, post: Post<C>) {
        self.door.inbox.push(post);
        if self.door.idle.posted() == Wake::Needed {
            self.wake();
        }
    }

    /// Leaves something for the loop to find when it wakes for another reason. Any thread.
    pub fn leave(&self, post: Post<C>) {
        self.door.inbox.push(post);
    }

    /// Ends the loop's present wait, or else its next one. Any thread; after `close`, nothing.
    pub fn wake(&self) {
        // The lock is only ever written by `close`, so a failed try means there is none to wake.
        if let Some(handle) = self.handle.try_read()
            && let Some(handle) = &*handle
        {
            let woken = handle.wake();
            debug_assert!(woken.is_ok(), "the waker is open while its lock is held");
        }
    }

    /// Asks the kernel what is ready, waiting at most for `timeout`, and appends it to `found`.
    /// Call it detached: it may sleep.
    ///
    /// # Errors
    /// Those of the kernel; [`LoopError::Closed`] after `close_reactor`.
    pub fn poll(&self, timeout: Duration, found: &mut Vec<Ready>) -> Result<Turned, LoopError> {
        let mut driver = self.driver.lock();
        let driver = driver.as_mut().ok_or(LoopError::Closed)?;
        let end = driver.poll(timeout, found).map_err(|error| LoopError::Io("poll", error))?;
        Ok(Turned { end, now_ns: clock::monotonic_ns() })
    }

    /// Calls `f` with the reactor's shared half. Any thread.
    ///
    /// # Errors
    /// [`LoopError::Closed`] after `close`.
    pub fn with_handle<R>(&self, f: impl FnOnce(&Handle) -> R) -> Result<R, LoopError> {
        let handle = self.handle.try_read().ok_or(LoopError::Closed)?;
        handle.as_ref().map(f).ok_or(LoopError::Closed)
    }

    /// Whether anything was posted and not yet drained.
    #[inline]
    pub fn has_posts(&self) -> bool {
        !self.door.inbox.is_empty()
    }

    /// Takes out what was posted, oldest first. Owner only, by convention: order would suffer.
    #[inline]
    pub fn drain_posts(&self) -> Drain<Post<C>> {
        self.door.inbox.drain()
    }

    /// Publishes that the owner is about to sleep and looks once more: at the inbox, and at
    /// whether the loop was asked to stop. Owner only.
    pub fn park(&self) -> Park<'_> {
        self.door.idle.park(|| self.has_posts() || self.is_stopping())
    }

    /// Whether the running turn is to be the last one.
    #[inline]
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Relaxed)
    }

    /// Sets or clears the wish to stop, and wakes a sleeping loop for it. Any thread.
    pub fn set_stopping(&self, stopping: bool) {
        self.stopping.store(stopping, Release);
        if stopping && self.door.idle.posted() == Wake::Needed {
            self.wake();
        }
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
        self.local.with(|local| {
            // SAFETY: the caller vouches that nobody changes it meanwhile.
            let local = unsafe { &*local };
            local.ready.iter().for_each(&mut f);
            local.timers.iter().for_each(|(_, callback)| f(callback));
        });
        // Locked only by a thread that is attached or waits, so never while the collector runs;
        // if it were, visiting less is safe: the objects merely live until the next collection.
        if let Some(io) = self.io.try_lock() {
            io.iter().for_each(&mut f);
        }
    }

    /// Calls `f` with everything posted and not yet drained.
    ///
    /// # Safety
    /// As for [`for_each_local`](Self::for_each_local).
    pub unsafe fn for_each_post(&self, f: impl FnMut(&Post<C>)) {
        // SAFETY: handed on to our caller.
        unsafe { self.door.inbox.for_each(f) };
    }
}

impl<C> Claim<'_, C> {
    /// Calls `f` with the owner's state.
    ///
    /// # Safety
    /// `f` must not reach this loop's `local` again, nor run code that could (any Python).
    #[inline(always)]
    pub unsafe fn local<R>(&self, f: impl FnOnce(&mut Local<C>) -> R) -> R {
        // SAFETY: the claim proves ownership; the caller vouches for `f`.
        self.event_loop.local.with_mut(|local| f(unsafe { &mut *local }))
    }

    /// Gives the descriptors back. Posts and callbacks stay, for the caller to take and drop.
    ///
    /// Waits for a wake or a registration under way on another thread, each a few instructions and
    /// a syscall long and free of Python, so it may be called attached.
    pub fn close_reactor(&self) {
        let handle = self.event_loop.handle.replace(None);
        let driver = self.event_loop.driver.lock().take();
        drop((handle, driver));
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sync::{Arc, thread};

    type Loop = EventLoop<u32>;

    fn calls(event_loop: &Loop) -> Vec<u32> {
        event_loop
            .drain_posts()
            .map(|post| match post {
                Post::Call(n) | Post::Timer(_, n) | Post::CancelTimer(n) => n,
            })
            .collect()
    }

    #[test]
    fn a_loop_has_one_owner_at_a_time() {
        let event_loop = Loop::new().unwrap();
        assert!(!event_loop.is_owner());
        let claim = event_loop.claim().unwrap();
        assert!(event_loop.is_owner());
        assert!(matches!(event_loop.claim(), Err(LoopError::Running)));
        thread::scope(|scope| {
            scope.spawn(|| {
                assert!(!event_loop.is_owner());
                // SAFETY: the closure does nothing.
                assert!(unsafe { event_loop.if_owner(|_| ()) }.is_none());
                assert!(matches!(event_loop.claim(), Err(LoopError::Running)));
            });
        });
        drop(claim);
        assert!(!event_loop.is_owner());
    }

    #[test]
    fn a_claim_waits_for_a_brief_one_and_a_brief_one_for_nobody() {
        let event_loop = Loop::new().unwrap();
        let brief = event_loop.claim_briefly().unwrap();
        assert!(!event_loop.is_owner() && event_loop.claim_briefly().is_none());
        thread::scope(|scope| {
            let claimed = scope.spawn(|| event_loop.claim().is_ok());
            thread::yield_now();
            drop(brief);
            assert!(claimed.join().unwrap());
        });
        let _claim = event_loop.claim().unwrap();
        assert!(event_loop.claim_briefly().is_none());
    }

    #[test]
    fn a_post_ends_a_wait_and_nothing_else_does() {
        let event_loop = Arc::new(Loop::new().unwrap());
        let rounds = 2000;
        let poster = {
            let event_loop = Arc::clone(&event_loop);
            #[allow(clippy::disallowed_methods, reason = "sync::thread is std's here")]
            thread::spawn(move || {
                for n in 0..rounds {
                    event_loop.post(Post::Call(n));
                    if n % 7 == 0 {
                        thread::yield_now();
                    }
                }
            })
        };
        let _claim = event_loop.claim().unwrap();
        let mut seen = Vec::new();
        let began = clock::monotonic_ns();
        while seen.len() < rounds as usize {
            if let Park::Sleep(_parked) = event_loop.park() {
                // The limit only ends a failed test.
                assert!(event_loop.poll(Duration::from_secs(20), &mut Vec::new()).is_ok());
            }
            seen.extend(calls(&event_loop));
            assert!(clock::monotonic_ns() - began < 15_000_000_000, "a wakeup was lost");
        }
        poster.join().unwrap();
        assert_eq!(seen, (0..rounds).collect::<Vec<_>>());
    }

    #[test]
    fn a_wish_to_stop_keeps_the_owner_awake() {
        let event_loop = Loop::new().unwrap();
        let _claim = event_loop.claim().unwrap();
        event_loop.set_stopping(true);
        assert!(matches!(event_loop.park(), Park::Work));
        event_loop.set_stopping(false);
        assert!(matches!(event_loop.park(), Park::Sleep(_)));
    }

    #[test]
    fn closing_gives_descriptors_back_and_later_posts_do_no_harm() {
        let event_loop = Loop::new().unwrap();
        event_loop.claim().unwrap().close_reactor();
        event_loop.post(Post::Call(1));
        event_loop.wake();
        assert!(matches!(event_loop.with_handle(|_| ()), Err(LoopError::Closed)));
        assert_eq!(calls(&event_loop), [1]);
        let polled = event_loop.poll(Duration::ZERO, &mut Vec::new());
        assert!(matches!(polled, Err(LoopError::Closed)));
    }
}
