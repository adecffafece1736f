//! An owner for one stream, as a loop is in earnest: it has turns for the entries that were made for
//! it, and waits for the kernel when there is none. For the tests.

#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(clippy::disallowed_methods, reason = "sync::thread is std's here")]

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use super::*;
use crate::error::LoopError;
use crate::reactor::{Driver, Handle};
use crate::sync::atomic::{
    AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed},
};
use crate::sync::{Arc, thread};
use crate::transport::Buffer;

/// Nothing in these tests takes nearly as long, unless it was lost.
const FOREVER: Duration = Duration::from_secs(60);

/// A buffer that only the thread which made it may drop, unless it is a filter's.
#[derive(Debug)]
pub(crate) struct Mine(Vec<u8>, Option<thread::ThreadId>);

impl Mine {
    pub(super) fn new(data: &[u8]) -> Self {
        Self(data.to_vec(), Some(thread::current().id()))
    }
}

impl Drop for Mine {
    fn drop(&mut self) {
        if let Some(owner) = self.1 {
            assert_eq!(owner, thread::current().id(), "dropped by another thread than its owner");
        }
    }
}

// SAFETY: a vector's memory is on the heap, and nobody changes it.
unsafe impl Buffer for Mine {
    fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl CopyOf for Mine {
    fn copy_of(bytes: &[u8]) -> Self {
        Self(bytes.to_vec(), None)
    }

    fn keep(bytes: Vec<u8>) -> Self {
        Self(bytes, None)
    }
}

/// What the owner shares with its helpers, as a loop does.
#[derive(Debug)]
pub(super) struct Reactor {
    driver: Mutex<Driver>,
    handle: Handle,
    /// Entries made for the owner and not taken.
    entries: AtomicUsize,
    /// Registrations that are still to be refused.
    pub(super) refuses: AtomicUsize,
}

impl Registrar for Reactor {
    fn with_handle(&self, f: &mut dyn FnMut(&Handle) -> io::Result<()>) -> Result<(), LoopError> {
        if self.refuses.load(Relaxed) > 0 {
            self.refuses.fetch_sub(1, Relaxed);
            return Err(LoopError::Closed);
        }
        f(&self.handle).map_err(|error| LoopError::Io("epoll", error))
    }
}

impl Reactor {
    /// Makes an entry. There is never more than one.
    fn tell(&self, needed: bool) {
        if needed {
            assert_eq!(self.entries.fetch_add(1, AcqRel), 0, "two entries");
            self.handle.wake();
        }
    }

    pub(super) fn has_entry(&self) -> bool {
        self.entries.load(Acquire) != 0
    }
}

/// What another thread does for the stream.
#[derive(Clone)]
pub(super) struct Helper {
    pub(super) stream: Arc<Stream<Mine>>,
    pub(super) reactor: Arc<Reactor>,
}

impl Helper {
    /// A job, on the calling thread.
    pub(super) fn run(&self, scratch: &mut [u8]) -> Report {
        let report = self.stream.run(&mut JobContext { scratch, registrar: &*self.reactor });
        self.reactor.tell(report.tell_owner);
        report
    }

    /// A job, on a thread of its own that ends with it.
    pub(super) fn run_elsewhere(&self) -> Report {
        let helper = self.clone();
        thread::spawn(move || helper.run(&mut [0; 4096])).join().unwrap()
    }

    /// Asks the kernel in the owner's stead, unless the owner does.
    pub(super) fn poll(&self) {
        let mut found = Vec::new();
        if let Some(mut driver) = self.reactor.driver.try_lock() {
            let _ = driver.poll(Duration::ZERO, &mut found).unwrap();
        }
        for ready in found {
            self.reactor.tell(self.stream.ready(ready) == Schedule::Needed);
        }
    }
}

/// The owner, with what it was told.
pub(super) struct Owner {
    pub(super) helper: Helper,
    pub(super) stream: Arc<Stream<Mine>>,
    reactor: Arc<Reactor>,
    descriptor: Option<OwnedFd>,
    scratch: Vec<u8>,
    pub(super) received: Vec<u8>,
    pub(super) ends: usize,
    pub(super) read_failures: Vec<io::ErrorKind>,
    pub(super) write_failures: Vec<io::ErrorKind>,
}

impl Owner {
    pub(super) fn new(descriptor: impl Into<OwnedFd>, channel: Channel, input: Input) -> Self {
        let descriptor = descriptor.into();
        let fd = descriptor.as_raw_fd();
        // SAFETY: a plain call on a descriptor that is ours.
        assert_eq!(unsafe { libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK) }, 0);
        let (driver, handle) = Driver::new().unwrap();
        let reactor = Arc::new(Reactor {
            driver: Mutex::new(driver),
            handle,
            entries: AtomicUsize::new(0),
            refuses: AtomicUsize::new(0),
        });
        let stream = Arc::new(Stream::new(fd, channel, input));
        stream.register(IoToken::of_source(0, 1), &*reactor).unwrap();
        let helper = Helper { stream: Arc::clone(&stream), reactor: Arc::clone(&reactor) };
        let owner = Self {
            helper,
            stream,
            reactor,
            descriptor: Some(descriptor),
            scratch: vec![0; 1000],
            received: Vec::new(),
            ends: 0,
            read_failures: Vec::new(),
            write_failures: Vec::new(),
        };
        owner.schedule(owner.stream.state().start());
        owner
    }

    pub(super) fn schedule(&self, needed: Schedule) {
        self.reactor.tell(needed == Schedule::Needed);
    }

    /// Writes as a transport does: at once, or behind what is queued.
    pub(super) fn write(&mut self, data: &[u8]) {
        let mut offset = 0;
        if !self.stream.state().bits().is_queued() {
            match self.stream.send(data) {
                Ok(count) => offset = count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return self.write_failures.push(error.kind()),
            }
        }
        if offset < data.len() {
            drop(self.stream.enqueue(Mine::new(data), offset));
            self.flush();
            self.schedule(self.stream.state().end_turn());
        }
    }

    /// Queues without trying to write: somebody else will.
    pub(super) fn queue(&self, data: &[u8]) {
        drop(self.stream.enqueue(Mine::new(data), 0));
    }

    pub(super) fn flush(&mut self) {
        if let Some(flushed) = self.stream.flush(&*self.reactor) {
            self.flushed(flushed);
        }
    }

    fn flushed(&mut self, flushed: Flushed<Mine>) {
        self.write_failures.extend(flushed.failure.map(|error| error.kind()));
    }

    /// Asks the kernel, once, and waits for it if there is no entry.
    pub(super) fn poll(&mut self) {
        let began = Instant::now();
        self.poll_for(FOREVER);
        let state = self.stream.state().bits();
        assert!(began.elapsed() < FOREVER, "slept for ever: {state:?}");
    }

    /// As `poll`, but not for ever.
    pub(super) fn poll_for(&mut self, wait: Duration) {
        let mut found = Vec::new();
        {
            let mut driver = self.reactor.driver.lock();
            let wait = if self.reactor.has_entry() { Duration::ZERO } else { wait };
            let _ = driver.poll(wait, &mut found).unwrap();
        }
        for ready in found {
            self.schedule(self.stream.ready(ready));
        }
    }

    /// Waits until the kernel has reported the stream's end or failure.
    pub(super) fn poll_for_end(&mut self) {
        let began = Instant::now();
        while !self.stream.state().bits().read_end() {
            self.poll_for(Duration::from_millis(10));
            assert!(began.elapsed() < FOREVER, "no end was reported");
        }
    }

    /// Has the turn that an entry stands for.
    pub(super) fn turn(&mut self) {
        assert_eq!(self.reactor.entries.swap(0, AcqRel), 1, "a turn without an entry");
        let stream = Arc::clone(&self.stream);
        let turn = stream.state().begin_turn();
        if let Some(claim) = turn.claim {
            self.read(claim);
        } else if turn.bits.is_ahead() {
            self.deliver_ahead();
        }
        if turn.bits.has_news() {
            let news = self.stream.take_news();
            self.flushed(news);
        }
        self.flush();
        self.schedule(self.stream.state().end_turn());
    }

    fn read(&mut self, claim: ReadClaim<'_>) {
        let read = self.stream.read(&claim, &mut self.scratch);
        claim.release_in_turn(matches!(read, Ok((_, true))));
        match read {
            Ok((0, _)) => self.receive(Ahead::End),
            Ok((count, _)) => self.receive(Ahead::Data(self.scratch[..count].into())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => self.receive(Ahead::Failed(error)),
        }
    }

    fn deliver_ahead(&mut self) {
        let mut waiting = self.stream.take_ahead();
        // Some turns take only one, as if the protocol paused and resumed.
        let one = self.received.len() % 3 == 1;
        while !self.stream.state().bits().is_read_closed()
            && let Some(next) = waiting.pop_front()
        {
            self.receive(next);
            if one {
                break;
            }
        }
        if !waiting.is_empty() && !self.stream.state().bits().is_read_closed() {
            self.stream.put_back_ahead(waiting);
        }
    }

    fn receive(&mut self, what: Ahead) {
        match what {
            Ahead::Data(data) => self.received.extend_from_slice(&data),
            Ahead::End => {
                self.ends += 1;
                self.stream.state().close_read();
            }
            Ahead::Failed(error) => {
                self.read_failures.push(error.kind());
                self.stream.state().close_read();
            }
        }
    }

    /// Has turns, and waits between them, until `done`.
    pub(super) fn run_until(&mut self, mut done: impl FnMut(&mut Self) -> bool) {
        while !done(self) {
            if self.reactor.has_entry() { self.turn() } else { self.poll() }
        }
    }

    /// Ends all work, as `retire` does, closes the descriptor, and drops what was queued.
    pub(super) fn give_up(&mut self) {
        if self.stream.state().retire() {
            while self.stream.state().bits().is_claimed() {
                thread::yield_now();
            }
        }
        drop(self.stream.take_queue());
        drop(self.stream.take_ahead());
        self.descriptor = None;
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.give_up();
    }
}
