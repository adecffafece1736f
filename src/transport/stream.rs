//! A byte stream: TCP, a unix stream, or one end of a pipe.
//!
//! The owner reads and writes directly while it keeps up. Any other thread may do the rest with
//! [`Source::run`]: read ahead up to a bound, and write what is queued.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::RawFd;

use super::filter::Filtered;
use super::read_ahead::{Ahead, ReadAhead};
use super::source::NoReactor;
use super::write_queue::{CopyOf, PARTS, WriteQueue};
use super::{
    Close, JobContext, Link, Port, ReadClaim, Registrar, Report, Schedule, ShutWrite, Source,
    State, WriteClaim,
};
use crate::config;
use crate::id::IoToken;
use crate::reactor::{Edges, Ready};
use crate::sync::Mutex;
use crate::sys::socket::{self, Channel};

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

/// What the reactor's word that there is something to read means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// Data, or their end.
    Data,
    /// That whoever reads what is written here is gone: of a pipe's write end.
    PeerGone,
    /// Nothing: of a device that is only written.
    Nothing,
}

/// One byte stream.
#[derive(Debug)]
pub struct Stream<B> {
    link: Link,
    channel: Channel,
    input: Input,
    /// Locked for a few instructions, never during a system call.
    outgoing: Mutex<Option<Box<Outgoing<B>>>>,
    pub(super) ahead: ReadAhead<Ahead>,
    /// What the bytes pass, both ways.
    pub(super) filter: Option<Box<Filtered>>,
}

impl<B: CopyOf> Stream<B> {
    /// A stream on a non-blocking descriptor that the caller keeps open.
    #[must_use]
    pub fn new(fd: RawFd, channel: Channel, input: Input) -> Self {
        Self {
            link: Link::new(fd, channel.is_pipe()),
            channel,
            input,
            outgoing: Mutex::new(None),
            ahead: ReadAhead::new(),
            filter: None,
        }
    }

    /// The descriptor.
    pub fn fd(&self) -> RawFd {
        self.link.fd()
    }

    /// What the descriptor is.
    #[inline]
    pub fn channel(&self) -> Channel {
        self.channel
    }

    /// What it means that there is something to read.
    #[inline]
    pub fn input(&self) -> Input {
        self.input
    }

    // -- reading ---------------------------------------------------------------------------------

    /// Reads once into `buffer`: what there is, and whether there may be more. The buffer is not empty;
    /// zero bytes mean the end.
    ///
    /// # Errors
    /// Those of the kernel; `WouldBlock` if there is nothing.
    #[inline]
    pub fn read(&self, claim: &ReadClaim<'_>, buffer: &mut [u8]) -> io::Result<(usize, bool)> {
        debug_assert!(!buffer.is_empty() && claim.is_on(self.state()));
        let (count, whole) = self.channel.read(self.link.descriptor().for_call(), buffer)?;
        // The kernel had no more than this, unless it stopped at a boundary. And an end that was
        // reported with it is still to come, and will not be reported again.
        let more =
            count != 0 && (count == buffer.len() || !whole || self.state().bits().read_end());
        Ok((count, more))
    }

    /// Takes what was read ahead, oldest first. Owner only.
    pub fn take_ahead(&self) -> VecDeque<Ahead> {
        self.ahead.take(self.state())
    }

    /// Puts back what could not be delivered. Owner only.
    pub fn put_back_ahead(&self, left: VecDeque<Ahead>) {
        self.ahead.put_back(left, self.state());
    }

    /// Bytes read ahead and not yet taken.
    pub fn ahead_bytes(&self) -> usize {
        self.ahead.bytes()
    }

    fn read_on(&self, claim: ReadClaim<'_>, job_context: &mut JobContext<'_>, report: &mut Report) {
        let more = loop {
            let room = self.ahead.room();
            if room == 0 {
                break true;
            }
            let limit = room.min(job_context.scratch.len());
            let last = match self.read(&claim, &mut job_context.scratch[..limit]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break false,
                Err(error) => Ahead::Failed(error),
                Ok((0, _)) => Ahead::End,
                Ok((count, more)) => {
                    report.bytes_in += count as u64;
                    self.ahead.push_data(&claim, &job_context.scratch[..count], self.state());
                    if more {
                        continue;
                    }
                    break false;
                }
            };
            self.ahead.push(&claim, last, self.state());
            break false;
        };
        // A full transport stays readable, and the owner keeps reading when it has taken what is there.
        report.tell_owner |= claim.release(more) == Schedule::Needed;
    }

    // -- writing ---------------------------------------------------------------------------------

    /// Bytes queued. Any thread.
    #[inline]
    pub fn queued(&self) -> usize {
        self.link.queued()
    }

    /// Sends at once what the kernel takes. Owner only, and only while nothing is queued.
    ///
    /// # Errors
    /// Those of the kernel.
    #[inline]
    pub fn send(&self, data: &[u8]) -> io::Result<usize> {
        self.channel.write(self.link.descriptor().for_call(), &[IoSlice::new(data)])
    }

    /// Queues a buffer of which `offset` bytes have gone. Owner only. Returns buffers to drop.
    #[must_use]
    pub fn enqueue(&self, buffer: B, offset: usize) -> Vec<B> {
        let mut outgoing = self.outgoing.lock();
        let outgoing = outgoing.get_or_insert_default();
        self.append_to(outgoing, buffer, offset);
        outgoing.queue.take_spent()
    }

    /// As [`enqueue`](Self::enqueue), for any thread that has locked the filter: leaves what is to be dropped.
    pub(super) fn append(&self, buffer: B, offset: usize) {
        self.append_to(self.outgoing.lock().get_or_insert_default(), buffer, offset);
    }

    #[inline(always)]
    fn append_to(&self, outgoing: &mut Outgoing<B>, buffer: B, offset: usize) {
        let added = buffer.bytes().len() - offset;
        outgoing.queue.push(buffer, offset);
        self.link.set_queued(self.queued() + added);
        self.state().set_queued(true);
    }

    /// Shuts the write side down as soon as nothing is queued, unless that was asked before, or the
    /// connection is closing. Owner only.
    ///
    /// # Errors
    /// Those of `shutdown(2)`, if it was done now.
    pub fn shut_write(&self) -> io::Result<()> {
        if self.link.ending().shut_write() == ShutWrite::Ignore {
            return Ok(());
        }
        {
            let mut outgoing = self.outgoing.lock();
            if self.state().bits().is_queued() {
                outgoing.get_or_insert_default().shut_when_empty = true;
                return Ok(());
            }
            if self.state().bits().is_dead() {
                return Ok(());
            }
        }
        socket::shutdown_write(self.link.descriptor().for_call())
    }

    /// Writes what is queued until it is gone, the kernel is full, or so many bytes have gone. The
    /// second value: whether the kernel would have taken more.
    fn write_queued(
        &self,
        claim: &WriteClaim<'_>,
        registrar: &dyn Registrar,
        budget: usize,
    ) -> (Flushed<B>, bool) {
        debug_assert!(claim.is_on(self.state()));
        let mut flushed = Flushed { bytes: 0, drained: false, failure: None, spent: Vec::new() };
        let mut parts = [IoSlice::new(&[]); PARTS];
        let mut outgoing = self.outgoing.lock();
        let shut = loop {
            let all = outgoing.get_or_insert_default();
            if all.queue.is_empty() {
                self.state().set_queued(false);
                flushed.drained = true;
                break std::mem::take(&mut all.shut_when_empty);
            }
            // No call is given more than is left: a reader that keeps up would let the kernel
            // take any amount in one.
            let left = budget.saturating_sub(usize::try_from(flushed.bytes).unwrap_or(budget));
            if left == 0 || self.state().bits().is_dead() {
                return (flushed, true);
            }
            // SAFETY: buffers leave the queue by the next `advance` only, or by the owner once
            // no claim is held.
            let count = unsafe { all.queue.parts(&mut parts, left) };
            drop(outgoing);
            let offered: usize = parts[..count].iter().map(|part| part.len()).sum();
            match self.channel.write(self.link.descriptor().for_call(), &parts[..count]) {
                Ok(wrote) => {
                    flushed.bytes += wrote as u64;
                    outgoing = self.outgoing.lock();
                    // At once: whoever has the claim next is not to write it again.
                    outgoing.get_or_insert_default().queue.advance(wrote);
                    self.link.set_queued(self.queued() - wrote);
                    if wrote < offered && self.channel.short_write_fills() {
                        drop(outgoing);
                        if self.link.arm_write(claim, registrar).is_ok() {
                            return (flushed, false);
                        }
                        outgoing = self.outgoing.lock();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if let Err(error) = self.link.arm_write(claim, registrar) {
                        flushed.failure = Some(error);
                    }
                    return (flushed, false);
                }
                Err(error) => {
                    flushed.failure = Some(error);
                    return (flushed, false);
                }
            }
        };
        drop(outgoing);
        if shut {
            // As in asyncio's transport, a peer that is gone is found out by reading.
            let _ = socket::shutdown_write(self.link.descriptor().for_call());
        }
        (flushed, true)
    }

    /// Writes what is queued, as far as the kernel takes it. Owner only. `None` if another thread
    /// is at it, if nothing is queued, or if the kernel has no room.
    pub fn flush(&self, registrar: &dyn Registrar) -> Option<Flushed<B>> {
        let claim = self.state().claim_write()?;
        let (mut flushed, room) = self.write_queued(&claim, registrar, config::WRITE_BUDGET);
        // After a failure nothing that is queued will ever be written.
        let failed = flushed.failure.is_some();
        flushed.spent = if failed { self.empty_queue() } else { self.take_spent() };
        claim.release_in_turn(room);
        Some(flushed)
    }

    /// Sends what was held back while the turn keeps reading, before the stream closes: asyncio would have
    /// sent it, and what is written later is not to follow it. Owner only. Returns buffers to drop.
    #[must_use]
    pub fn send_before_close(&self, registrar: &dyn Registrar) -> Vec<B> {
        let is_corked = self.link.ending().is_corked();
        let flushed = if is_corked { self.flush(registrar) } else { None };
        let Some(Flushed { failure, spent, .. }) = flushed else { return Vec::new() };
        if let Some(failure) = failure {
            let mut outgoing = self.outgoing.lock();
            outgoing.get_or_insert_default().failure.get_or_insert(failure);
            drop(outgoing);
            // The turn that reads is followed by one that takes it.
            let _ = self.state().note_news();
        }
        spent
    }

    /// Sends what was held back while the turn keeps reading, as far as the kernel takes it, before the
    /// stream is given up: asyncio would have sent it. Owner only. Returns buffers to drop.
    #[must_use]
    pub fn send_held_back(&self) -> Vec<B> {
        let is_corked = self.link.ending().is_corked();
        let flushed = if is_corked { self.flush(&NoReactor) } else { None };
        flushed.map_or_else(Vec::new, |flushed| flushed.spent)
    }

    pub(super) fn flush_ahead(
        &self,
        claim: WriteClaim<'_>,
        job_context: &JobContext<'_>,
        report: &mut Report,
    ) {
        let (flushed, room) = self.write_queued(&claim, job_context.registrar, config::JOB_BUDGET);
        report.bytes_out += flushed.bytes;
        report.again |= room && !flushed.drained;
        let news = {
            let mut outgoing = self.outgoing.lock();
            let outgoing = outgoing.get_or_insert_default();
            if let Some(failure) = flushed.failure {
                // The first says why; what fails after it only says that it has failed.
                outgoing.failure.get_or_insert(failure);
            }
            let is_below = flushed.bytes > 0 && self.link.is_below();
            flushed.drained || outgoing.failure.is_some() || is_below
        };
        report.tell_owner |= claim.release(room, news) == Schedule::Needed;
    }

    /// What another thread's writes came to. Owner only.
    pub fn take_news(&self) -> Flushed<B> {
        let mut outgoing = self.outgoing.lock();
        let drained = !self.state().bits().is_queued();
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
        debug_assert!(!self.state().bits().is_claimed());
        self.empty_queue()
    }

    /// Takes everything that was queued. The owner, if nobody else holds the claim to write.
    fn empty_queue(&self) -> Vec<B> {
        let mut outgoing = self.outgoing.lock();
        self.state().set_queued(false);
        self.link.set_queued(0);
        outgoing.take().map_or_else(Vec::new, |mut all| all.queue.take_all())
    }
}

impl<B: CopyOf + 'static> Port for Stream<B> {
    fn link(&self) -> &Link {
        &self.link
    }

    fn register(&self, token: IoToken, registrar: &dyn Registrar) -> io::Result<()> {
        let edges = match self.input {
            Input::Data => Edges::Read,
            Input::PeerGone => Edges::Both,
            Input::Nothing => Edges::Write,
        };
        self.link.register(token, edges, registrar)
    }

    fn tell_below(&self, bytes: usize) {
        let _outgoing = self.outgoing.lock();
        self.link.set_tell_below(bytes);
    }

    fn forget(&self) {
        drop(self.take_queue());
        drop(self.take_ahead());
    }

    fn close(&self) -> Close {
        if self.input == Input::Data { self.link.close() } else { self.link.close_writes() }
    }
}

impl<B: CopyOf> Source for Stream<B> {
    #[inline]
    fn ready(&self, ready: Ready) -> Schedule {
        let readable = ready.readable && self.input != Input::Nothing;
        self.state().ready(Ready { readable, ..ready })
    }

    #[inline]
    fn state(&self) -> &State {
        self.link.state()
    }

    /// In a handshake.
    fn is_costly(&self) -> bool {
        !self.is_open()
    }

    fn read_ahead(&self) -> usize {
        self.ahead_bytes()
    }

    fn after_fork(&self) {
        self.link.after_fork();
    }

    fn run(&self, job_context: &mut JobContext<'_>) -> Report {
        let mut report = Report::default();
        if let Some(claim) = self.state().claim_write() {
            report.worked = true;
            self.flush_ahead(claim, job_context, &mut report);
        }
        if self.input == Input::Data
            && self.has_room_ahead()
            && let Some(claim) = self.state().claim_read()
        {
            report.worked = true;
            match &self.filter {
                None => self.read_on(claim, job_context, &mut report),
                Some(filtered) => self.read_on_through(filtered, claim, job_context, &mut report),
            }
        }
        report
    }
}

#[cfg(all(test, not(loom)))]
mod test_ahead;
#[cfg(all(test, not(loom)))]
mod test_end;
#[cfg(all(test, not(loom)))]
mod test_owner;
#[cfg(all(test, not(loom)))]
mod tests;
