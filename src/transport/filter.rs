//! What the bytes of a stream may have to pass between the kernel and the stream's users, both ways: TLS.
//!
//! A filter has no memory of its own beyond a record of which a part has come. Whatever it needs to work is
//! the thread's: a [`Passage`].

use std::any::Any;
use std::cell::RefCell;
use std::{fmt, io};

use super::{Ciphertext, Plaintext};
use crate::sync::Mutex;
use crate::sync::MutexGuard;
use crate::sync::atomic::{
    AtomicBool,
    Ordering::{Acquire, Relaxed, Release},
};

/// Bytes of a thread's memory that a filter may need to be given at once.
pub const FILTER_MEMORY: usize = 96 * 1024;

/// Bytes of answers that may wait to be sent; a handshake needs some kilobytes.
const UNREAD_ANSWERS: usize = 64 * 1024;

/// More plaintext than this of a thread's memory is given back after use.
const KEPT: usize = 512 * 1024;

/// What data pass on their way between the kernel and a stream's users. One thread at a time.
pub trait Filter: Send + fmt::Debug {
    /// Copies to the front of `memory`, which has [`FILTER_MEMORY`] bytes, what has to stand before what is read
    /// next; says how many bytes these are. At least 4 KiB are left.
    fn restore(&self, memory: &mut [u8]) -> usize;

    /// Takes what was [restored](Self::restore), and what was read behind it. What it says is appended to
    /// `plaintext`, answers to `answers`; both also if it fails, and then the answer is to be sent before the
    /// connection is given up.
    ///
    /// # Errors
    /// If the connection cannot go on.
    fn receive(
        &mut self,
        read: &mut [u8],
        plaintext: &mut dyn Plaintext,
        answers: &mut Ciphertext,
    ) -> io::Result<()>;

    /// Takes the end of the stream below. Answers are appended to `answers`.
    ///
    /// # Errors
    /// If the peer has not said before that it sends no more, and that matters.
    fn receive_end(&mut self, answers: &mut Ciphertext) -> io::Result<()>;

    /// Appends what is to be sent for `data` to `to`; says how many bytes of them it took. None before the
    /// connection is open.
    ///
    /// # Errors
    /// If nothing can be sent any more.
    fn send(&mut self, data: &[u8], to: &mut Ciphertext) -> io::Result<usize>;

    /// As [`send`](Self::send), but takes all of it, of a connection that is open.
    ///
    /// # Errors
    /// If nothing can be sent any more.
    fn send_all(&mut self, data: &[u8], to: &mut Ciphertext) -> io::Result<()> {
        let taken = self.send(data, to)?;
        if taken < data.len() { Err(io::ErrorKind::NotConnected.into()) } else { Ok(()) }
    }

    /// Appends to `to` what says that no more is sent; once.
    fn close(&mut self, to: &mut Ciphertext);

    /// Whether data may be sent, and may have come: also of one that has failed since.
    fn is_open(&self) -> bool;

    /// Whether the peer has said that it sends no more.
    fn is_peer_closed(&self) -> bool;

    /// Whether there is something for the owner besides plaintext: it keeps what it makes of that itself.
    fn has_news(&self) -> bool {
        false
    }

    /// Whether something has come that any loop may begin, if the owner does not.
    fn has_offers(&self) -> bool {
        false
    }

    /// Whether it has no room for more of what comes. Then nothing is read until it has.
    fn is_full(&self) -> bool {
        false
    }

    /// The filter that the bytes pass between this one and the kernel.
    fn below(&self) -> Option<&dyn Filter> {
        None
    }

    /// Itself, for who knows what it is.
    fn as_any(&self) -> &dyn Any;

    /// Itself, for who knows what it is, and lets it work.
    fn as_any_mut(&mut self) -> &mut dyn Any;
}

impl dyn Filter + '_ {
    /// The filter of this kind that the bytes pass.
    #[must_use]
    pub fn find<T: 'static>(&self) -> Option<&T> {
        self.as_any().downcast_ref().or_else(|| self.below()?.find())
    }
}

/// A stream's filter, and how far it is.
#[derive(Debug)]
pub(super) struct Filtered {
    /// Locked while bytes pass it, and while the owner sends what came out: so the order in which records
    /// are made is that in which they are sent. Under it the write queue may come to have something; without
    /// it, not.
    locked: Mutex<LockedFilter>,
    /// The connection is open. Set under the lock.
    is_open: AtomicBool,
    /// The protocol knows of it. The owner's.
    is_introduced: AtomicBool,
    /// The filter takes no more. Set under the lock.
    is_full: AtomicBool,
}

impl Filtered {
    pub(super) fn new(filter: Box<dyn Filter>) -> Self {
        let is_open = AtomicBool::new(filter.is_open());
        let locked = LockedFilter { filter, is_at_work: false, answered: 0 };
        let (is_introduced, is_full) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { locked: Mutex::new(locked), is_open, is_introduced, is_full }
    }

    pub(super) fn locked(&self) -> &Mutex<LockedFilter> {
        &self.locked
    }

    pub(super) fn is_open(&self) -> bool {
        self.is_open.load(Acquire)
    }

    /// Notes whether the filter has opened the connection.
    pub(super) fn note_open(&self, locked: &LockedFilter) {
        if locked.filter.is_open() && !self.is_open.load(Relaxed) {
            self.is_open.store(true, Release);
        }
    }

    /// Whether the filter takes no more of what comes. A hint without the lock.
    pub(super) fn is_full(&self) -> bool {
        self.is_full.load(Relaxed)
    }

    /// Notes whether the filter takes more; says whether it does again.
    pub(super) fn note_full(&self, locked: &LockedFilter) -> bool {
        let is_full = locked.filter.is_full();
        let was_full = self.is_full.load(Relaxed);
        if is_full != was_full {
            self.is_full.store(is_full, Relaxed);
        }
        was_full && !is_full
    }

    pub(super) fn is_introduced(&self) -> bool {
        self.is_introduced.load(Relaxed)
    }

    pub(super) fn introduce(&self) {
        self.is_introduced.store(true, Relaxed);
    }
}

/// A filter, and what is known of it under the lock.
#[derive(Debug)]
pub struct LockedFilter {
    filter: Box<dyn Filter>,
    /// Left set by a panic: what has come to half a state is not used again.
    is_at_work: bool,
    /// Bytes of answers that were queued since the write queue was empty.
    answered: usize,
}

impl LockedFilter {
    /// The filter, to be looked at.
    #[must_use]
    pub fn filter(&self) -> &dyn Filter {
        &*self.filter
    }

    /// Takes the filter out, to be put below another one, of a stream that is not used any more.
    #[must_use]
    pub fn take(&mut self) -> Box<dyn Filter> {
        std::mem::replace(&mut self.filter, Box::new(Taken))
    }

    /// Lets the filter work.
    ///
    /// # Errors
    /// Those of `f`, and if the filter has panicked before.
    pub(super) fn work<R>(
        &mut self,
        f: impl FnOnce(&mut dyn Filter) -> io::Result<R>,
    ) -> io::Result<R> {
        if std::mem::replace(&mut self.is_at_work, true) {
            return Err(io::Error::other("the filter of the connection has panicked"));
        }
        let result = f(&mut *self.filter);
        self.is_at_work = false;
        result
    }

    /// Notes answers that are about to be queued; says whether these are too many: the peer asks for
    /// them, and does not read them. `is_queued`: those before are not all sent.
    pub fn answers(&mut self, bytes: usize, is_queued: bool) -> bool {
        let before = if is_queued { self.answered } else { 0 };
        self.answered = before + bytes;
        self.answered > UNREAD_ANSWERS
    }
}

/// A filter that is locked.
pub type FilterGuard<'a> = MutexGuard<'a, LockedFilter>;

/// A thread's memory for what passes a filter, or what else decrypts and encrypts. What is in it between two uses
/// means nothing, but for what a method says that it leaves there.
#[derive(Debug, Default)]
pub struct Passage {
    /// What is read.
    memory: Vec<u8>,
    /// What came, to be taken by whoever had it read.
    pub plaintext: Vec<u8>,
    /// What is to be sent.
    pub ciphertext: Ciphertext,
}

thread_local! {
    static PASSAGE: RefCell<Passage> = RefCell::new(Passage::default());
}

impl Passage {
    /// Calls `f` with the thread's. `f` runs nothing that might use it.
    pub fn with<R>(f: impl FnOnce(&mut Self) -> R) -> R {
        PASSAGE.with_borrow_mut(f)
    }

    /// Empties it, and lends memory to read into, of [`FILTER_MEMORY`] bytes; what came and what is to be sent are
    /// appended to the other two.
    pub fn begin(&mut self) -> (&mut [u8], &mut Vec<u8>, &mut Ciphertext) {
        if self.memory.is_empty() {
            self.memory = vec![0; FILTER_MEMORY];
        }
        self.plaintext.clear();
        self.ciphertext.clear();
        (&mut self.memory, &mut self.plaintext, &mut self.ciphertext)
    }

    /// Takes what came out.
    #[must_use]
    pub fn take_plaintext(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.plaintext)
    }

    /// Takes back the memory of what came, when it is not needed any more.
    pub fn give_back(plaintext: Vec<u8>) {
        Self::with(|passage| {
            if passage.plaintext.capacity() == 0 {
                passage.plaintext = plaintext;
                passage.forget_plaintext();
            }
        });
    }

    /// Empties it of what came, and keeps no more memory for that than is usual.
    pub fn forget_plaintext(&mut self) {
        self.plaintext.clear();
        if self.plaintext.capacity() > KEPT {
            self.plaintext = Vec::new();
        }
    }
}

/// In the place of a filter that was taken out.
#[derive(Debug)]
struct Taken;

impl Taken {
    fn refuse<T>() -> io::Result<T> {
        Err(io::Error::other("the filter of the stream was taken out"))
    }
}

impl Filter for Taken {
    fn restore(&self, _: &mut [u8]) -> usize {
        0
    }

    fn receive(
        &mut self,
        _: &mut [u8],
        _: &mut dyn Plaintext,
        _: &mut Ciphertext,
    ) -> io::Result<()> {
        Self::refuse()
    }

    fn receive_end(&mut self, _: &mut Ciphertext) -> io::Result<()> {
        Self::refuse()
    }

    fn send(&mut self, _: &[u8], _: &mut Ciphertext) -> io::Result<usize> {
        Self::refuse()
    }

    fn close(&mut self, _: &mut Ciphertext) {}

    fn is_open(&self) -> bool {
        false
    }

    fn is_peer_closed(&self) -> bool {
        false
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}
