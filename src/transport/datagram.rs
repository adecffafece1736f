//! Datagram sockets: UDP and unix.
//!
//! As with a [`Stream`](super::Stream) the owner receives and sends directly while it keeps up, and any
//! thread may do the rest. Unlike with a stream, no error ends the transport: errors are reported in order,
//! and the work continues.

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;

use super::read_ahead::{Piece, ReadAhead};
use super::{
    Buffer, JobContext, Link, Port, ReadClaim, Registrar, Report, Schedule, Source, State,
    WriteClaim,
};
use crate::config;
use crate::id::IoToken;
use crate::reactor::{Edges, Ready};
use crate::sync::Mutex;
use crate::sys::address::SocketAddress;
use crate::sys::socket;

/// What a datagram counts in a queue besides its bytes, as in asyncio.
const HEADER: usize = 8;

/// What was received before the owner asked for it.
#[derive(Debug)]
pub enum DatagramOutcome {
    /// A datagram, and whom it is from.
    Datagram(Box<[u8]>, SocketAddress),
    /// The kernel reported an error.
    Failed(io::Error),
}

impl Piece for DatagramOutcome {
    /// With a header.
    fn len(&self) -> usize {
        HEADER + if let Self::Datagram(data, _) = self { data.len() } else { 0 }
    }

    /// One: they are counted.
    fn overhead(&self) -> usize {
        1
    }
}

/// Where a datagram goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Where the socket is connected to.
    Peer,
    /// There.
    Address(SocketAddress),
    /// Only the owner knows, who sends it itself.
    Owner,
}

#[derive(Debug)]
struct Outgoing<B> {
    queue: VecDeque<(B, Target)>,
    /// Taken from the queue; the owner drops them, since their memory may be Python's.
    spent: Vec<B>,
    /// Why datagrams could not be sent, for the owner.
    failures: Vec<io::Error>,
}

impl<B> Default for Outgoing<B> {
    fn default() -> Self {
        Self { queue: VecDeque::new(), spent: Vec::new(), failures: Vec::new() }
    }
}

/// How sending has gone, for the owner.
#[derive(Debug)]
#[must_use]
pub struct Delivered<B> {
    /// Bytes sent.
    pub bytes: u64,
    /// What kept single datagrams from being sent, oldest first.
    pub failures: Vec<io::Error>,
    /// Buffers to drop.
    pub spent: Vec<B>,
}

/// Why sending stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    Empty,
    /// A datagram failed, the next is the owner's to send, or it is the turn of others.
    Room,
    Full,
}

/// One datagram socket.
#[derive(Debug)]
pub struct Datagrams<B> {
    link: Link,
    /// Whether the kernel does not tell when there is room for a datagram.
    untold: bool,
    /// Locked for a few instructions, never during a system call.
    outgoing: Mutex<Option<Box<Outgoing<B>>>>,
    ahead: ReadAhead<DatagramOutcome>,
}

impl<B: Buffer> Datagrams<B> {
    /// Datagrams over a non-blocking socket that the caller keeps open.
    #[must_use]
    pub fn new(fd: RawFd) -> Self {
        Self {
            link: Link::new(fd, false),
            untold: false,
            outgoing: Mutex::new(None),
            ahead: ReadAhead::new(),
        }
    }

    /// Of a unix socket that is not connected: a datagram waits for room in the queue of the socket
    /// that it goes to. The kernel does not tell of that room, and what it does tell, after each
    /// datagram that it refused, is not about it. So it is not asked, and [`retry`](Self::retry)
    /// alone lets sending go on.
    #[must_use]
    pub fn untold(self) -> Self {
        Self { untold: true, ..self }
    }

    // -- receiving -------------------------------------------------------------------------------

    /// Whether what is sent is lost with the connection: as asyncio's, a transport that was made for one
    /// address (`has_address`) counts from when its `connection_lost` is on its way, any other sends until
    /// it has given up its socket.
    pub fn is_lost(&self, has_address: bool) -> bool {
        self.state().bits().is_dead() || (has_address && self.link.ending().is_losing())
    }

    /// Receives one datagram into `buffer`.
    ///
    /// # Errors
    /// Those of the kernel; `WouldBlock` if there is none.
    pub fn receive(
        &self,
        claim: &ReadClaim<'_>,
        buffer: &mut [u8],
    ) -> io::Result<(usize, SocketAddress)> {
        debug_assert!(claim.is_on(self.state()));
        socket::recv_from(self.link.descriptor().for_call(), buffer)
    }

    /// Whether there may be more after `error`: it stood for one datagram, or for an answer to one
    /// that was sent. Not if nothing can be received at all.
    #[must_use]
    pub fn goes_on_after(error: &io::Error) -> bool {
        error.kind() != io::ErrorKind::WouldBlock
            && !matches!(error.raw_os_error(), Some(libc::EBADF | libc::ENOTSOCK | libc::EINVAL))
    }

    /// Takes what was received ahead, oldest first. Owner only.
    pub fn take_ahead(&self) -> VecDeque<DatagramOutcome> {
        self.ahead.take(self.state())
    }

    /// Puts back what could not be delivered. Owner only.
    pub fn put_back_ahead(&self, left: VecDeque<DatagramOutcome>) {
        self.ahead.put_back(left, self.state());
    }

    fn may_receive_ahead(&self) -> bool {
        self.ahead.bytes() < config::READ_AHEAD
            && self.ahead.overhead() < config::READ_AHEAD_DATAGRAMS
    }

    fn receive_ahead(
        &self,
        claim: ReadClaim<'_>,
        job_context: &mut JobContext<'_>,
        report: &mut Report,
    ) {
        let more = loop {
            // The last one may exceed the bound by its own size: none is ever cut.
            if !self.may_receive_ahead() || self.state().bits().is_dead() {
                break true;
            }
            let (one, more) = match self.receive(&claim, job_context.scratch) {
                Ok((count, from)) => {
                    report.bytes_in += count as u64;
                    (DatagramOutcome::Datagram(job_context.scratch[..count].into(), from), true)
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break false,
                Err(error) => {
                    let more = Self::goes_on_after(&error);
                    (DatagramOutcome::Failed(error), more)
                }
            };
            self.ahead.push(&claim, one, self.state());
            if !more {
                break false;
            }
        };
        // A full transport stays readable, and the owner goes on when it has taken what is there.
        report.tell_owner |= claim.release(more) == Schedule::Needed;
    }

    // -- sending ---------------------------------------------------------------------------------

    /// Bytes queued, with a header for each datagram. Any thread.
    #[inline]
    pub fn queued(&self) -> usize {
        self.link.queued()
    }

    /// Sends one datagram at once. Owner only, and only while nothing is queued; for a target that
    /// is not the owner's to resolve.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn send(&self, data: &[u8], target: &Target) -> io::Result<()> {
        let fd = self.link.descriptor().for_call();
        match target {
            Target::Peer => socket::send(fd, data)?,
            Target::Address(address) => socket::send_to(fd, data, address)?,
            Target::Owner => return Err(io::ErrorKind::InvalidInput.into()),
        };
        Ok(())
    }

    /// Queues a datagram. Owner only. Returns buffers to drop.
    #[must_use]
    pub fn enqueue(&self, buffer: B, target: Target) -> Vec<B> {
        let mut outgoing = self.outgoing.lock();
        let outgoing = outgoing.get_or_insert_default();
        self.link.set_queued(self.queued() + buffer.bytes().len() + HEADER);
        outgoing.queue.push_back((buffer, target));
        self.state().set_queued(true);
        std::mem::take(&mut outgoing.spent)
    }

    /// Takes the first datagram from the queue. Under its lock.
    fn pop(&self, outgoing: &mut Outgoing<B>) {
        if let Some((buffer, _)) = outgoing.queue.pop_front() {
            self.link.set_queued(self.queued() - buffer.bytes().len() - HEADER);
            outgoing.spent.push(buffer);
        }
        if outgoing.queue.is_empty() {
            self.state().set_queued(false);
        }
    }

    /// Sends what is queued until it is gone, the kernel is full, or others are to have a turn.
    fn send_queued(&self, claim: &WriteClaim<'_>, registrar: &dyn Registrar) -> (u64, Stop) {
        debug_assert!(claim.is_on(self.state()));
        let mut bytes = 0;
        for _ in 0..config::DATAGRAM_BUDGET {
            if bytes >= config::JOB_BUDGET as u64 {
                break;
            }
            let (data, target): (&[u8], Target) = {
                let outgoing = self.outgoing.lock();
                let first = outgoing.as_ref().and_then(|outgoing| outgoing.queue.front());
                let Some((buffer, target)) = first else { return (bytes, Stop::Empty) };
                if *target == Target::Owner || self.state().bits().is_dead() {
                    return (bytes, Stop::Room);
                }
                let data = buffer.bytes();
                // SAFETY: the memory stays where it is while the buffer lives, by its contract, and
                // only the holder of the claim drops it: it takes it from the queue below, or, once
                // no claim is held, the owner does.
                let data = unsafe { std::slice::from_raw_parts(data.as_ptr(), data.len()) };
                (data, target.clone())
            };
            let sent = self.send(data, &target);
            let failure = match sent {
                Ok(()) => {
                    bytes += data.len() as u64;
                    None
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.untold {
                        return (bytes, Stop::Full);
                    }
                    match self.link.arm_write(claim, registrar) {
                        Ok(()) => return (bytes, Stop::Full),
                        Err(error) => Some(error),
                    }
                }
                Err(error) => Some(error),
            };
            let mut outgoing = self.outgoing.lock();
            let outgoing = outgoing.get_or_insert_default();
            self.pop(outgoing);
            if let Some(failure) = failure {
                outgoing.failures.push(failure);
                return (bytes, Stop::Room);
            }
        }
        (bytes, Stop::Room)
    }

    /// Sends what is queued, as far as the kernel takes it and up to the first failure. Owner only.
    /// `None` if another thread is at it, if nothing is queued, or if the kernel has no room.
    pub fn flush(&self, registrar: &dyn Registrar) -> Option<Delivered<B>> {
        let claim = self.state().claim_write()?;
        let (bytes, stop) = self.send_queued(&claim, registrar);
        let delivered = self.take_news();
        claim.release_in_turn(stop != Stop::Full);
        Some(Delivered { bytes, ..delivered })
    }

    fn send_ahead(&self, claim: WriteClaim<'_>, job_context: &JobContext<'_>, report: &mut Report) {
        let before = self.queued();
        let (bytes, stop) = self.send_queued(&claim, job_context.registrar);
        report.bytes_out += bytes;
        let room = stop != Stop::Full;
        let news = {
            let outgoing = self.outgoing.lock();
            let failed = outgoing.as_ref().is_some_and(|all| !all.failures.is_empty());
            let first = outgoing.as_ref().and_then(|all| all.queue.front());
            let next = first.map(|(_, target)| target);
            report.again |= stop == Stop::Room && !failed && next != Some(&Target::Owner);
            // The owner tries again in a while.
            let untold = !room && self.untold;
            let is_below = self.queued() < before && self.link.is_below();
            stop == Stop::Empty || failed || next == Some(&Target::Owner) || untold || is_below
        };
        report.tell_owner |= claim.release(room, news) == Schedule::Needed;
    }

    /// What sending by other threads came to. Owner only.
    pub fn take_news(&self) -> Delivered<B> {
        match &mut *self.outgoing.lock() {
            None => Delivered { bytes: 0, failures: Vec::new(), spent: Vec::new() },
            Some(outgoing) => Delivered {
                bytes: 0,
                failures: std::mem::take(&mut outgoing.failures),
                spent: std::mem::take(&mut outgoing.spent),
            },
        }
    }

    /// Whether the next datagram to send is one that the owner sends itself.
    pub fn own_is_next(&self) -> bool {
        self.with_first(|_, target| *target == Target::Owner) == Some(true)
    }

    /// Whether the kernel, which was full, may have room without a word, so that the owner has to
    /// [`retry`](Self::retry).
    pub fn waits_untold(&self) -> bool {
        let bits = self.state().bits();
        self.untold && bits.is_queued() && !bits.may_write() && !bits.is_dead()
    }

    /// Calls `f` with the next datagram to send, under the queue's lock.
    pub fn with_first<R>(&self, f: impl FnOnce(&B, &Target) -> R) -> Option<R> {
        let outgoing = self.outgoing.lock();
        let (buffer, target) = outgoing.as_ref()?.queue.front()?;
        Some(f(buffer, target))
    }

    /// Takes the next datagram from the queue, which the owner has sent itself. Returns buffers to
    /// drop.
    pub fn pop_own(&self) -> Vec<B> {
        let mut outgoing = self.outgoing.lock();
        let Some(outgoing) = &mut *outgoing else { return Vec::new() };
        if matches!(outgoing.queue.front(), Some((_, Target::Owner))) {
            self.pop(outgoing);
        }
        std::mem::take(&mut outgoing.spent)
    }

    /// Notes that the kernel was full when the owner sent a datagram itself, which is the next in the
    /// queue. If it has had room since, it says so again. After an error it may be tried at once.
    ///
    /// # Errors
    /// Those of the reactor.
    pub fn blocked(&self, registrar: &dyn Registrar) -> io::Result<()> {
        let Some(claim) = self.state().claim_write() else { return Ok(()) };
        let armed = if self.untold { Ok(()) } else { self.link.rearm(&claim, registrar) };
        claim.release_in_turn(armed.is_err());
        armed
    }

    /// Lets what found the kernel full be tried again. Owner only.
    pub fn retry(&self) -> Schedule {
        let token = self.link.token().unwrap_or(IoToken::new(0, 0));
        self.state().ready(Ready { token, readable: false, writable: true, ended: false })
    }
}

impl<B: Buffer + 'static> Port for Datagrams<B> {
    fn link(&self) -> &Link {
        &self.link
    }

    fn register(&self, token: IoToken, registrar: &dyn Registrar) -> io::Result<()> {
        self.link.register(token, Edges::Read, registrar)
    }

    fn tell_below(&self, bytes: usize) {
        let _outgoing = self.outgoing.lock();
        self.link.set_tell_below(bytes);
    }

    fn forget(&self) {
        debug_assert!(!self.state().bits().is_claimed());
        let outgoing = {
            let mut outgoing = self.outgoing.lock();
            self.state().set_queued(false);
            self.link.set_queued(0);
            outgoing.take()
        };
        drop((outgoing, self.take_ahead()));
    }
}

impl<B: Buffer> Source for Datagrams<B> {
    fn ready(&self, ready: Ready) -> Schedule {
        let writable = ready.writable && !self.untold;
        self.state().ready(Ready { writable, ..ready })
    }

    #[inline]
    fn state(&self) -> &State {
        self.link.state()
    }

    fn read_ahead(&self) -> usize {
        self.ahead.bytes()
    }

    fn after_fork(&self) {
        self.link.after_fork();
    }

    fn run(&self, job_context: &mut JobContext<'_>) -> Report {
        let mut report = Report::default();
        if !self.own_is_next()
            && let Some(claim) = self.state().claim_write()
        {
            report.worked = true;
            self.send_ahead(claim, job_context, &mut report);
        }
        if self.may_receive_ahead()
            && let Some(claim) = self.state().claim_read()
        {
            report.worked = true;
            self.receive_ahead(claim, job_context, &mut report);
        }
        report
    }
}

#[cfg(all(test, not(loom)))]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;
