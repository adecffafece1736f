//! A stream whose bytes pass a filter: reading and writing through it.
//!
//! In: readiness, data of the owner's. Out: plaintext, and ciphertext that is sent or queued. The claims are those
//! of every stream: who reads has the claim to read, what is queued is written by who has the claim to write. The
//! filter's lock comes on top, as a filter has one state for both directions. `README.md` has the argument.

use std::io;
use std::os::fd::RawFd;

use super::filter::Filtered;
use super::write_queue::CopyOf;
use super::{
    Ahead, Ciphertext, Filter, FilterGuard, Input, JobContext, LockedFilter, Passage, Plaintext,
    ReadClaim, Report, Schedule, Source, Stream,
};
use crate::config;
use crate::sync::Mutex;
use crate::sys::socket::Channel;

/// So many bytes of records that the kernel does not take are queued in the memory in which they were made, if that
/// is no more than four times as large; fewer are copied.
const KEPT_REST: usize = 8 * 1024;

/// What one read through a filter has brought. The plaintext is in the [`Passage`].
#[derive(Debug, Default)]
#[must_use]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct ReadOutcome {
    /// Bytes read from the kernel.
    pub bytes: usize,
    /// There may be more to read.
    pub more: bool,
    /// Something was queued that the peer is to be sent.
    pub answers: bool,
    /// The filter has [something for the owner](Filter::has_news).
    pub news: bool,
    /// The filter has [something for any loop](Filter::has_offers).
    pub offers: bool,
    /// What comes after the plaintext, and nothing after it: the end, or a failure.
    pub last: Option<Ahead>,
}

/// What became of data that were written through a filter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct WriteOutcome {
    /// Bytes of the data that are on their way; none before the connection is open.
    pub taken: usize,
    /// Bytes that the kernel took.
    pub sent: usize,
    /// Something was queued.
    pub queued: bool,
}

impl<B: CopyOf> Stream<B> {
    /// A stream whose bytes pass a filter, and what that wants sent first. The caller keeps the descriptor open.
    ///
    /// It may be read from the beginning on: there is nothing to deliver before the filter says that the
    /// connection is open, and then the owner [introduces](Self::introduce) it first.
    #[must_use]
    pub fn filtered(
        fd: RawFd,
        channel: Channel,
        filter: Box<dyn Filter>,
        first: &Ciphertext,
    ) -> Self {
        let mut stream = Self::new(fd, channel, Input::Data);
        stream.filter = Some(Box::new(Filtered::new(filter)));
        // Its first turn is made by its registration.
        let _ = stream.state().start();
        if !first.is_empty() {
            stream.append(B::copy_of(first.bytes()), 0);
        }
        stream
    }

    /// The filter, if there is one. Locked for the time that some records take, and that a call takes which
    /// does not wait.
    #[inline]
    pub fn filter(&self) -> Option<&Mutex<LockedFilter>> {
        self.filter.as_deref().map(Filtered::locked)
    }

    /// Whether there is a filter.
    #[inline]
    pub fn is_filtered(&self) -> bool {
        self.filter.is_some()
    }

    /// Whether data may be sent: there is no filter, or it has opened the connection. Any thread.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.filter.as_deref().is_none_or(Filtered::is_open)
    }

    /// Whether the owner has [introduced](Self::introduce) it. Owner only.
    #[inline]
    pub fn is_introduced(&self) -> bool {
        self.filter.as_deref().is_none_or(Filtered::is_introduced)
    }

    /// Notes that the protocol is told of the open connection. Owner only.
    pub fn introduce(&self) {
        if let Some(filtered) = &self.filter {
            filtered.introduce();
        }
    }

    /// Reads once, through the filter. What it says is left in `passage`; what is to be answered is queued, and
    /// is to be flushed. `lock` locks the filter.
    pub fn read_through<'a>(
        &'a self,
        claim: &ReadClaim<'_>,
        passage: &mut Passage,
        lock: impl Fn(&'a Mutex<LockedFilter>) -> FilterGuard<'a>,
    ) -> ReadOutcome {
        let (memory, plaintext, ciphertext) = passage.begin();
        self.read_into(claim, (memory, ciphertext), plaintext, lock)
    }

    /// As [`read_through`](Self::read_through), but what it says is appended to `plaintext`.
    pub fn read_through_into<'a>(
        &'a self,
        claim: &ReadClaim<'_>,
        passage: &mut Passage,
        plaintext: &mut dyn Plaintext,
        lock: impl Fn(&'a Mutex<LockedFilter>) -> FilterGuard<'a>,
    ) -> ReadOutcome {
        let (memory, _, ciphertext) = passage.begin();
        self.read_into(claim, (memory, ciphertext), plaintext, lock)
    }

    fn read_into<'a>(
        &'a self,
        claim: &ReadClaim<'_>,
        (memory, ciphertext): (&mut [u8], &mut Ciphertext),
        plaintext: &mut dyn Plaintext,
        lock: impl Fn(&'a Mutex<LockedFilter>) -> FilterGuard<'a>,
    ) -> ReadOutcome {
        let Some(filtered) = self.filter.as_deref() else { return ReadOutcome::default() };
        // What waits for the rest of it changes by reading alone, for which there is one claim: so the lock
        // need not be held during the call.
        let start = lock(filtered.locked()).filter().restore(memory);
        let (bytes, more) = match self.read(claim, &mut memory[start..]) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return ReadOutcome::default();
            }
            Err(error) => {
                return ReadOutcome { last: Some(Ahead::Failed(error)), ..ReadOutcome::default() };
            }
        };
        let mut locked = lock(filtered.locked());
        let was_closed = locked.filter().is_peer_closed();
        let done = locked.work(|filter| {
            if bytes == 0 {
                return filter.receive_end(ciphertext);
            }
            filter.receive(&mut memory[..start + bytes], plaintext, ciphertext)
        });
        // Also if it has failed behind that.
        filtered.note_open(&locked);
        filtered.note_full(&locked);
        let (news, offers) = (locked.filter().has_news(), locked.filter().has_offers());
        let mut last = match done {
            Ok(()) if bytes == 0 || (locked.filter().is_peer_closed() && !was_closed) => {
                Some(Ahead::End)
            }
            Ok(()) => None,
            Err(error) => Some(Ahead::Failed(error)),
        };
        let answers = !ciphertext.is_empty();
        if answers {
            if locked.answers(ciphertext.len(), self.state().bits().is_queued()) {
                let said = "the peer asks for answers, and does not read them";
                last = Some(Ahead::Failed(io::Error::other(said)));
            }
            self.append(B::copy_of(ciphertext.bytes()), 0);
            ciphertext.clear();
        }
        ReadOutcome { bytes, more, answers, news, offers, last }
    }

    /// Reads ahead through the filter, and sends what is to be answered, as a job of any thread.
    pub(super) fn read_on_through(
        &self,
        filtered: &Filtered,
        claim: ReadClaim<'_>,
        job_context: &JobContext<'_>,
        report: &mut Report,
    ) {
        let was_open = filtered.is_open();
        let began = report.bytes_in;
        let mut news = false;
        let more = Passage::with(|passage| {
            // Records without data take no room: the bytes that are read are bounded as well.
            while self.has_room_ahead()
                && report.bytes_in - began < config::JOB_BUDGET as u64
                && !self.state().bits().is_read_closed()
            {
                let passed = self.read_through(&claim, passage, Mutex::lock);
                report.bytes_in += passed.bytes as u64;
                news |= passed.news;
                report.offers |= passed.offers;
                if !passage.plaintext.is_empty() {
                    self.ahead.push_data(&claim, &passage.plaintext, self.state());
                    passage.plaintext.clear();
                }
                if let Some(last) = passed.last {
                    self.ahead.push(&claim, last, self.state());
                    return false;
                }
                if !passed.more {
                    return false;
                }
            }
            true
        });
        // Not before: whoever panics while it reads leaves nobody told, and nothing to tell.
        if let Some(claim) = self.state().claim_write() {
            self.flush_ahead(claim, job_context, report);
        }
        if news || !was_open && filtered.is_open() {
            // Even if no data came with it, the protocol is to know.
            report.tell_owner |= self.state().note_news() == Schedule::Needed;
        }
        report.tell_owner |= claim.release(more) == Schedule::Needed;
        // Whoever has made room meanwhile has found the claim taken.
        report.again |= more && self.has_room_ahead();
    }

    /// Whether more may be read ahead.
    pub(super) fn has_room_ahead(&self) -> bool {
        self.ahead.room() > 0 && !self.filter.as_deref().is_some_and(Filtered::is_full)
    }

    /// Whether the filter takes no more for now. Any thread.
    pub fn is_full(&self) -> bool {
        self.filter.as_deref().is_some_and(Filtered::is_full)
    }

    /// Lets `make` have the filter of kind `F` make what is to be sent, and sends it as
    /// [`write_through`](Self::write_through) does; anybody but the owner `queues`. Says what `make` says, what became of
    /// it, and whether the filter takes again what comes.
    ///
    /// # Errors
    /// Those of the kernel, and of the filter, after which the connection is to be ended.
    pub fn make_through<F: 'static, R>(
        &self,
        locked: &mut LockedFilter,
        queues: bool,
        ciphertext: &mut Ciphertext,
        make: impl FnOnce(&mut F, &mut Ciphertext) -> io::Result<R>,
    ) -> io::Result<(R, WriteOutcome, bool)> {
        ciphertext.clear();
        let result = locked.work(|filter| {
            let filter = filter.as_any_mut().downcast_mut();
            filter.map_or_else(
                || Err(io::Error::other("the stream has another filter")),
                |filter| make(filter, ciphertext),
            )
        });
        let wrote = self.send_records(locked, queues, ciphertext);
        ciphertext.forget();
        let wrote = wrote?;
        let takes_again = self.filter.as_deref().is_some_and(|filtered| filtered.note_full(locked));
        result.map(|result| (result, wrote, takes_again))
    }

    /// Sends the beginning of `data` through the filter, as much as one piece takes: at once what the kernel takes,
    /// unless others wait or `queues`; the rest is queued. Owner only. Between two pieces the lock is to be given
    /// back.
    ///
    /// # Errors
    /// Those of the kernel, and of the filter, after which the connection is to be ended.
    pub fn write_through(
        &self,
        locked: &mut LockedFilter,
        data: &[u8],
        queues: bool,
        ciphertext: &mut Ciphertext,
    ) -> io::Result<WriteOutcome> {
        ciphertext.clear();
        let taken = locked.work(|filter| filter.send(data, ciphertext));
        // Also what says to the peer why it goes no further.
        let wrote = self.send_records(locked, queues, ciphertext)?;
        taken.map(|taken| WriteOutcome { taken, ..wrote })
    }

    /// Says through the filter that no more is sent, behind all that was. Owner only. Says also whether the peer
    /// has said the same.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn shut_through(
        &self,
        locked: &mut LockedFilter,
        ciphertext: &mut Ciphertext,
    ) -> io::Result<(WriteOutcome, bool)> {
        ciphertext.clear();
        locked.work(|filter| {
            filter.close(ciphertext);
            Ok(())
        })?;
        let wrote = self.send_records(locked, false, ciphertext)?;
        Ok((wrote, locked.filter().is_peer_closed()))
    }

    /// Sends what came out of the filter, which is still locked: nobody else makes records meanwhile.
    fn send_records(
        &self,
        _: &LockedFilter,
        queues: bool,
        ciphertext: &mut Ciphertext,
    ) -> io::Result<WriteOutcome> {
        let records = ciphertext.bytes();
        if records.is_empty() {
            return Ok(WriteOutcome::default());
        }
        // Nothing comes into the queue without the lock: if it is empty, nobody else writes.
        let sent = if queues || self.state().bits().is_queued() {
            0
        } else {
            match self.send(records) {
                Ok(sent) => sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(error) => return Err(error),
            }
        };
        let rest = &records[sent..];
        let has_rest = !rest.is_empty();
        if rest.len() >= KEPT_REST && rest.len() >= ciphertext.capacity() / 4 {
            // In the memory in which they were made.
            self.append(B::keep(ciphertext.take()), sent);
        } else if has_rest {
            self.append(B::copy_of(rest), 0);
        }
        Ok(WriteOutcome { taken: 0, sent, queued: has_rest })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
pub(super) mod counting;
#[cfg(all(test, not(loom)))]
mod tests;
