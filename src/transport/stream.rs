//! A byte stream: TCP, a unix stream, or one end of a pipe.
//!
//! The owner reads and writes directly as long as it keeps up; whatever it does not get to, any
//! thread may do by [`Source::run`]: read ahead up to a bound, and write what is queued.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::RawFd;

use super::write_queue::{Buffer, PARTS, WriteQueue};
use super::{Bench, Bits, Registrar, Report, Schedule, Source, State};
use crate::config;
use crate::id::IoToken;
use crate::reactor::{Edges, Ready};
use crate::sync::Mutex;
use crate::sync::atomic::{
    AtomicBool, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};
use crate::sys::socket::{self, Channel};

/// What was read before the owner asked for it.
#[derive(Debug)]
pub enum Ahead {
    /// Bytes.
    Data(Box<[u8]>),
    /// The end of the stream.
    End,
    /// The read failed, and with it the stream.
    Failed(io::Error),
}

impl Ahead {
    fn len(&self) -> usize {
        if let Self::Data(data) = self { data.len() } else { 0 }
    }
}

#[derive(Debug)]
struct Outgoing<B> {
    queue: WriteQueue<B>,
    /// Shut the write side down when the queue is empty.
    shut_when_empty: bool,
    /// Why another thread's write failed, for the owner.
    failure: Option<io::Error>,
}

impl<B> Default for Outgoing<B> {
    fn default() -> Self {
        Self { queue: WriteQueue::default(), shut_when_empty: false, failure: None }
    }
}

/// How a flush left the queue.
#[derive(Debug)]
#[must_use]
pub struct Flushed<B> {
    /// Bytes written.
    pub bytes: u64,
    /// Whether the queue is empty.
    pub drained: bool,
    /// What ended the stream's write side.
    pub failure: Option<io::Error>,
    /// Buffers that have been written, to be dropped by the owner.
    pub spent: Vec<B>,
}

/// One byte stream. The descriptor is the owner's: it outlives every claim on the state.
#[derive(Debug)]
pub struct Stream<B> {
    fd: RawFd,
    channel: Channel,
    /// Whether the reactor is to report what can be read.
    reads: bool,
    /// Set once, when it is registered.
    token: AtomicU64,
    state: State,
    /// Whether the reactor reports that there is room to write; it is asked to when first needed.
    write_armed: AtomicBool,
    /// Bytes queued. Changed under the lock of `outgoing`, read by anybody.
    queued: AtomicUsize,
    /// The owner is to hear when no more than this is queued. Used under the lock of `outgoing`.
    tell_below: AtomicUsize,
    /// Locked for a few instructions, never during a system call.
    outgoing: Mutex<Option<Box<Outgoing<B>>>>,
    /// Locked for a few instructions. In a box, as few streams ever have any.
    #[allow(clippy::box_collection, reason = "a third of an empty queue's size")]
    ahead: Mutex<Option<Box<VecDeque<Ahead>>>>,
    /// Bytes in `ahead`.
    ahead_bytes: AtomicUsize,
}

impl<B: Buffer> Stream<B> {
    /// A stream on a non-blocking descriptor that the caller keeps open. `reads`: whether data may
    /// come from it.
    #[must_use]
    pub fn new(fd: RawFd, channel: Channel, reads: bool) -> Self {
        Self {
            fd,
            channel,
            reads,
            token: AtomicU64::new(0),
            state: State::new(),
            write_armed: AtomicBool::new(false),
            queued: AtomicUsize::new(0),
            tell_below: AtomicUsize::new(0),
            outgoing: Mutex::new(None),
            ahead: Mutex::new(None),
            ahead_bytes: AtomicUsize::new(0),
        }
    }

    /// The descriptor.
    pub fn fd(&self) -> RawFd {
        self.fd
    }

    /// The state word.
    #[inline]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The token under which it is registered; `None` before.
    pub fn token(&self) -> Option<IoToken> {
        match usize::try_from(self.token.load(Acquire)) {
            Ok(0) | Err(_) => None,
            Ok(bits) => IoToken::from_bits(bits),
        }
    }

    /// Notes the token, and asks the reactor for the edges. Owner only, once, or again after
    /// somebody else used the registration.
    ///
    /// # Errors
    /// Those of the kernel, and of a closed loop.
    pub fn register(&self, token: IoToken, registrar: &dyn Registrar) -> io::Result<()> {
        self.token.store(token.to_bits() as u64, Release);
        let edges = match (self.reads, self.write_armed.load(Relaxed)) {
            (true, false) => Edges::Read,
            (true, true) => Edges::Both,
            // A pipe's write end fails when its reader goes, and that is reported in any case.
            (false, _) => Edges::Write,
        };
        let registered = registrar.with_handle(&mut |handle| handle.register(token, edges));
        registered.map_err(io::Error::from)
    }

    /// Asks the reactor to report room, if it does not yet. The holder of the claim to write.
    fn arm_write(&self, registrar: &dyn Registrar) -> io::Result<()> {
        if !self.reads || self.write_armed.swap(true, Relaxed) {
            return Ok(());
        }
        // Before there is a token, `register` will ask.
        let Some(token) = self.token() else { return Ok(()) };
        let armed = registrar.with_handle(&mut |handle| handle.reregister(token, Edges::Both));
        if armed.is_err() {
            // Whoever tries again is not to believe that room will be reported.
            self.write_armed.store(false, Relaxed);
        }
        armed.map_err(io::Error::from)
    }

    // -- reading ---------------------------------------------------------------------------------

    /// Reads once into `buffer`: what there is, and whether there may be more. The holder of the
    /// claim to read. The buffer is not empty; zero bytes mean the end.
    ///
    /// # Errors
    /// Those of the kernel; `WouldBlock` if there is nothing.
    #[inline]
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<(usize, bool)> {
        debug_assert!(!buffer.is_empty());
        let (count, whole) = self.channel.read(self.fd, buffer)?;
        // The kernel had no more than this, unless it stopped at a boundary. And an end that was
        // reported with it is still to come, and will not be reported again.
        let more = count != 0 && (count == buffer.len() || !whole || self.state.bits().read_end());
        Ok((count, more))
    }

    /// Takes what was read ahead, oldest first. Owner only.
    pub fn take_ahead(&self) -> VecDeque<Ahead> {
        let mut ahead = self.ahead.lock();
        self.ahead_bytes.store(0, Relaxed);
        self.state.taken_ahead();
        ahead.take().map_or_else(VecDeque::new, |ahead| *ahead)
    }

    /// Puts back what could not be delivered. Owner only.
    pub fn put_back_ahead(&self, mut left: VecDeque<Ahead>) {
        let mut ahead = self.ahead.lock();
        if let Some(ahead) = &mut *ahead {
            left.append(ahead);
        }
        self.ahead_bytes.store(left.iter().map(Ahead::len).sum(), Relaxed);
        *ahead = Some(Box::new(left));
        self.state.set_ahead();
    }

    /// Bytes read ahead and not yet taken.
    pub fn ahead_bytes(&self) -> usize {
        self.ahead_bytes.load(Relaxed)
    }

    fn read_on(&self, bench: &mut Bench<'_>, report: &mut Report) {
        let mut came = false;
        let more = loop {
            let room = config::READ_AHEAD.saturating_sub(self.ahead_bytes());
            if room == 0 {
                break true;
            }
            let limit = room.min(bench.scratch.len());
            let (one, more) = match self.read(&mut bench.scratch[..limit]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break false,
                Err(error) => (Ahead::Failed(error), false),
                Ok((0, _)) => (Ahead::End, false),
                Ok((count, more)) => {
                    report.bytes_in += count as u64;
                    (Ahead::Data(bench.scratch[..count].into()), more)
                }
            };
            let mut ahead = self.ahead.lock();
            self.ahead_bytes.store(self.ahead_bytes() + one.len(), Relaxed);
            ahead.get_or_insert_default().push_back(one);
            drop(ahead);
            came = true;
            if !more {
                break false;
            }
        };
        // A full transport stays readable, and the owner reads on when it has taken what is there.
        report.tell_owner |= self.state.release_read(more, came) == Schedule::Needed;
    }

    // -- writing ---------------------------------------------------------------------------------

    /// Bytes queued. Any thread.
    #[inline]
    pub fn queued(&self) -> usize {
        self.queued.load(Relaxed)
    }

    /// Sends at once what the kernel takes. Owner only, and only while nothing is queued.
    ///
    /// # Errors
    /// Those of the kernel.
    #[inline]
    pub fn send(&self, data: &[u8]) -> io::Result<usize> {
        self.channel.write(self.fd, &[IoSlice::new(data)])
    }

    /// As [`send`](Self::send), several parts in one call.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn send_parts(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.channel.write(self.fd, parts)
    }

    /// Queues a buffer of which `offset` bytes have gone. Owner only. Returns buffers to drop.
    #[must_use]
    pub fn enqueue(&self, buffer: B, offset: usize) -> Vec<B> {
        let mut outgoing = self.outgoing.lock();
        let outgoing = outgoing.get_or_insert_default();
        let added = buffer.bytes().len() - offset;
        outgoing.queue.push(buffer, offset);
        self.queued.store(self.queued() + added, Relaxed);
        self.state.set_queued(true);
        outgoing.queue.take_spent()
    }

    /// The owner is to hear when no more than `bytes` are queued. What another thread writes from
    /// now on is told; what it wrote before, [`queued`](Self::queued) shows. Owner only.
    pub fn tell_below(&self, bytes: usize) {
        let _outgoing = self.outgoing.lock();
        self.tell_below.store(bytes, Relaxed);
    }

    /// Shuts the write side down as soon as nothing is queued. Owner only.
    ///
    /// # Errors
    /// Those of `shutdown(2)`, if it was done now.
    pub fn shut_write(&self) -> io::Result<()> {
        {
            let mut outgoing = self.outgoing.lock();
            if self.state.bits().is_queued() {
                outgoing.get_or_insert_default().shut_when_empty = true;
                return Ok(());
            }
        }
        socket::shutdown_write(self.fd)
    }

    /// Writes what is queued until it is gone, the kernel is full, or the budget is spent. The
    /// holder of the claim to write; the caller gives it back. The second value: whether the kernel
    /// would have taken more.
    fn write_queued(&self, registrar: &dyn Registrar) -> (Flushed<B>, bool) {
        let mut flushed = Flushed { bytes: 0, drained: false, failure: None, spent: Vec::new() };
        let mut wrote = 0;
        loop {
            let mut parts = [IoSlice::new(&[]); PARTS];
            let count = {
                let mut outgoing = self.outgoing.lock();
                let outgoing = outgoing.get_or_insert_default();
                outgoing.queue.advance(wrote);
                self.queued.store(self.queued() - wrote, Relaxed);
                flushed.bytes += wrote as u64;
                if outgoing.queue.is_empty() {
                    self.state.set_queued(false);
                    flushed.drained = true;
                    if std::mem::take(&mut outgoing.shut_when_empty) {
                        // As in asyncio's transport, a peer that is gone is found out by reading.
                        let _ = socket::shutdown_write(self.fd);
                    }
                    return (flushed, true);
                }
                if flushed.bytes >= config::WRITE_BUDGET || self.state.bits().is_dead() {
                    return (flushed, true);
                }
                // SAFETY: buffers leave the queue by the next `advance` only, or by the owner once
                // no claim is held.
                unsafe { outgoing.queue.parts(&mut parts) }
            };
            let offered: usize = parts[..count].iter().map(|part| part.len()).sum();
            match self.channel.write(self.fd, &parts[..count]) {
                Ok(count) => {
                    wrote = count;
                    if wrote < offered && self.arm_write(registrar).is_ok() {
                        // The kernel is full. Note what has gone, and wait for room.
                        let mut outgoing = self.outgoing.lock();
                        if let Some(outgoing) = &mut *outgoing {
                            outgoing.queue.advance(wrote);
                        }
                        self.queued.store(self.queued() - wrote, Relaxed);
                        flushed.bytes += wrote as u64;
                        return (flushed, false);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if let Err(error) = self.arm_write(registrar) {
                        flushed.failure = Some(error);
                    }
                    return (flushed, false);
                }
                Err(error) => {
                    flushed.failure = Some(error);
                    return (flushed, false);
                }
            }
        }
    }

    /// Writes what is queued, as far as the kernel takes it. Owner only. `None` if another thread
    /// is at it, if nothing is queued, or if the kernel has no room.
    pub fn flush(&self, registrar: &dyn Registrar) -> Option<Flushed<B>> {
        if !self.state.claim_write() {
            return None;
        }
        let (mut flushed, room) = self.write_queued(registrar);
        flushed.spent = self.take_spent();
        self.state.release_write_in_turn(room);
        Some(flushed)
    }

    fn flush_ahead(&self, bench: &Bench<'_>, report: &mut Report) {
        let (flushed, room) = self.write_queued(bench.registrar);
        report.bytes_out += flushed.bytes;
        report.again |= room && !flushed.drained;
        let news = {
            let mut outgoing = self.outgoing.lock();
            let outgoing = outgoing.get_or_insert_default();
            if let Some(failure) = flushed.failure {
                // The first says why; what fails after it only says that it has failed.
                outgoing.failure.get_or_insert(failure);
            }
            let is_below = self.queued() <= self.tell_below.load(Relaxed);
            flushed.drained || outgoing.failure.is_some() || (flushed.bytes > 0 && is_below)
        };
        report.tell_owner |= self.state.release_write(room, news) == Schedule::Needed;
    }

    /// What another thread's writes came to. Owner only.
    pub fn take_news(&self) -> Flushed<B> {
        let mut outgoing = self.outgoing.lock();
        let drained = !self.state.bits().is_queued();
        match &mut *outgoing {
            None => Flushed { bytes: 0, drained, failure: None, spent: Vec::new() },
            Some(outgoing) => Flushed {
                bytes: 0,
                drained,
                failure: outgoing.failure.take(),
                spent: outgoing.queue.take_spent(),
            },
        }
    }

    fn take_spent(&self) -> Vec<B> {
        self.outgoing.lock().as_mut().map_or_else(Vec::new, |all| all.queue.take_spent())
    }

    /// Takes everything that was queued, when no claim is held any more: the stream is dead, or the
    /// program gave it up. Owner only.
    pub fn take_queue(&self) -> Vec<B> {
        debug_assert!(!self.state.bits().is_claimed());
        let mut outgoing = self.outgoing.lock();
        self.state.set_queued(false);
        self.queued.store(0, Relaxed);
        outgoing.take().map_or_else(Vec::new, |mut all| all.queue.take_all())
    }
}

impl<B: Buffer> Source for Stream<B> {
    #[inline]
    fn ready(&self, ready: Ready) -> Schedule {
        self.state.ready(ready)
    }

    fn bits(&self) -> Bits {
        self.state.bits()
    }

    fn read_ahead(&self) -> usize {
        self.ahead_bytes()
    }

    fn run(&self, bench: &mut Bench<'_>) -> Report {
        let mut report = Report::default();
        if self.state.claim_write() {
            report.worked = true;
            self.flush_ahead(bench, &mut report);
        }
        if self.ahead_bytes() < config::READ_AHEAD && self.state.claim_read() {
            report.worked = true;
            self.read_on(bench, &mut report);
        }
        report
    }
}

#[cfg(all(test, not(loom)))]
mod test_owner;
#[cfg(all(test, not(loom)))]
mod tests;
