//! Which callback waits for which descriptor: the table behind `add_reader` and `add_writer`.
//!
//! In: a callback of the caller's type for one direction of a descriptor. Out: the callbacks of a
//! [`Ready`] event, by reference; and every callback that was displaced, by value, so that the
//! caller drops it after it has released the table's lock.
//!
//! Must never: drop a callback (that could run arbitrary code under the caller's lock).

use std::io;
use std::os::fd::RawFd;

use super::Ready;
use crate::id::IoToken;
use crate::sys::level_trigger::Watch;

/// Which readiness a callback waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Readable.
    Read,
    /// Writable.
    Write,
}

#[derive(Debug)]
struct Entry<C> {
    generation: u32,
    reader: Option<C>,
    writer: Option<C>,
    /// The object that the descriptor came from, for a removal after it was closed.
    source: Option<C>,
}

impl<C> Entry<C> {
    fn watch(&self) -> Watch {
        Watch { read: self.reader.is_some(), write: self.writer.is_some() }
    }

    fn side(&mut self, direction: Direction) -> &mut Option<C> {
        match direction {
            Direction::Read => &mut self.reader,
            Direction::Write => &mut self.writer,
        }
    }
}

/// What an operation took out of the table, to be dropped when its lock is released.
#[derive(Debug)]
#[must_use = "drop it after the table's lock has been released"]
pub struct Displaced<C> {
    /// The callback that was registered before.
    pub callback: Option<C>,
    _source: Option<C>,
}

/// Callbacks by descriptor.
#[derive(Debug)]
pub struct IoTable<C> {
    /// Indexed by descriptor: the kernel hands out the lowest free one, so this stays dense.
    entries: Vec<Option<Entry<C>>>,
    registered: usize,
    generation: u32,
}

impl<C> Default for IoTable<C> {
    fn default() -> Self {
        Self { entries: Vec::new(), registered: 0, generation: 0 }
    }
}

impl<C> IoTable<C> {
    /// Descriptors with at least one callback.
    #[must_use]
    pub fn len(&self) -> usize {
        self.registered
    }

    /// Whether no descriptor has a callback.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.registered == 0
    }

    /// Sets the callback of one direction of `fd`, after `arm` has told the kernel.
    ///
    /// # Errors
    /// That of `arm`; then nothing has changed, and the rejected callback comes back with it.
    #[allow(clippy::missing_panics_doc, reason = "the entry was put there one line above")]
    pub fn set(
        &mut self,
        fd: RawFd,
        direction: Direction,
        callback: C,
        source: Option<C>,
        arm: impl FnOnce(IoToken, Watch, Watch) -> io::Result<()>,
    ) -> Result<Displaced<C>, (io::Error, C, Option<C>)> {
        let Ok(index) = usize::try_from(fd) else {
            return Err((io::Error::from_raw_os_error(libc::EBADF), callback, source));
        };
        let old = self.entry(index).map_or(Watch::NONE, Entry::watch);
        let mut new = old;
        match direction {
            Direction::Read => new.read = true,
            Direction::Write => new.write = true,
        }
        let generation = if let Some(entry) = self.entry(index) {
            entry.generation
        } else {
            // The upper half of the numbers is that of transports.
            self.generation = self.generation.wrapping_add(1) & (u32::MAX >> 1);
            self.generation
        };
        // Also if nothing changes: the descriptor may be another one, which the kernel has not been told
        // of.
        if let Err(error) = arm(IoToken::new(fd, generation), old, new) {
            return Err((error, callback, source));
        }
        if index >= self.entries.len() {
            self.entries.resize_with(index + 1, || None);
        }
        if old.is_none() {
            self.registered += 1;
        }
        let entry = self.entries[index].get_or_insert_with(|| Entry {
            generation,
            reader: None,
            writer: None,
            source: None,
        });
        let callback = entry.side(direction).replace(callback);
        // As asyncio: without a new source the descriptor keeps the one it came from.
        let source = match source {
            Some(source) => entry.source.replace(source),
            None => None,
        };
        Ok(Displaced { callback, _source: source })
    }

    /// Takes out the callback of one direction of `fd` and tells the kernel through `arm`.
    /// `None` if there was none. The callback is gone even if the kernel refuses.
    ///
    /// # Errors
    /// That of `arm`, beside what was taken out.
    pub fn remove(
        &mut self,
        fd: RawFd,
        direction: Direction,
        arm: impl FnOnce(IoToken, Watch, Watch) -> io::Result<()>,
    ) -> Option<(Displaced<C>, io::Result<()>)> {
        let index = usize::try_from(fd).ok()?;
        let entry = self.entries.get_mut(index)?.as_mut()?;
        let old = entry.watch();
        let callback = Some(entry.side(direction).take()?);
        let new = entry.watch();
        let told = arm(IoToken::new(fd, entry.generation), old, new);
        let mut source = None;
        if new.is_none() {
            source = self.entries[index].take().and_then(|entry| entry.source);
            self.registered -= 1;
        }
        Some((Displaced { callback, _source: source }, told))
    }

    /// The descriptor whose source object satisfies `is_source`, for a removal by an object that
    /// has been closed and no longer knows its descriptor.
    #[must_use]
    pub fn find_source(&self, mut is_source: impl FnMut(&C) -> bool) -> Option<RawFd> {
        self.entries.iter().enumerate().find_map(|(index, entry)| {
            let source = entry.as_ref()?.source.as_ref()?;
            is_source(source).then(|| RawFd::try_from(index).ok())?
        })
    }

    /// Hands `sink` the callbacks that wait for what `ready` reports: the reader first, as in
    /// asyncio. An event of an earlier registration of the descriptor yields nothing.
    pub fn collect(&self, ready: Ready, mut sink: impl FnMut(Direction, &C)) {
        let Ok(index) = usize::try_from(ready.token.fd()) else {
            return;
        };
        let Some(entry) = self.entry(index) else { return };
        if entry.generation != ready.token.generation() {
            return;
        }
        if ready.readable
            && let Some(reader) = &entry.reader
        {
            sink(Direction::Read, reader);
        }
        if ready.writable
            && let Some(writer) = &entry.writer
        {
            sink(Direction::Write, writer);
        }
    }

    /// The object that `fd` came from, if it was one.
    #[must_use]
    pub fn source(&self, fd: RawFd) -> Option<&C> {
        self.entry(usize::try_from(fd).ok()?)?.source.as_ref()
    }

    /// The reader and the writer of `fd`; `None` if it has neither.
    #[must_use]
    pub fn get(&self, fd: RawFd) -> Option<[Option<&C>; 2]> {
        let entry = self.entry(usize::try_from(fd).ok()?)?;
        Some([entry.reader.as_ref(), entry.writer.as_ref()])
    }

    /// Everything held, by value, for a loop that is being closed.
    pub fn into_callbacks(self) -> impl Iterator<Item = C> {
        self.entries
            .into_iter()
            .flatten()
            .flat_map(|entry| [entry.reader, entry.writer, entry.source].into_iter().flatten())
    }

    /// Every object held, for the garbage collector.
    pub fn iter(&self) -> impl Iterator<Item = &C> {
        self.entries.iter().flatten().flat_map(|entry| {
            [&entry.reader, &entry.writer, &entry.source].into_iter().filter_map(Option::as_ref)
        })
    }

    fn entry(&self, index: usize) -> Option<&Entry<C>> {
        self.entries.get(index)?.as_ref()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    type Table = IoTable<&'static str>;
    const READ: Watch = Watch { read: true, write: false };
    const BOTH: Watch = Watch { read: true, write: true };

    fn set(table: &mut Table, fd: RawFd, direction: Direction, callback: &'static str) {
        assert!(table.set(fd, direction, callback, None, |_, _, _| Ok(())).is_ok());
    }

    fn collected(table: &Table, ready: Ready) -> Vec<&'static str> {
        let mut found = Vec::new();
        table.collect(ready, |_, callback| found.push(*callback));
        found
    }

    fn ready(fd: RawFd, generation: u32) -> Ready {
        Ready { token: IoToken::new(fd, generation), readable: true, writable: true, ended: false }
    }

    #[test]
    fn the_kernel_is_told_of_changes_and_of_what_may_be_another_descriptor() {
        let mut table = Table::default();
        let mut told = Vec::new();
        let mut arm = |token: IoToken, old, new| {
            told.push((token.fd(), old, new));
            Ok(())
        };
        assert!(table.set(5, Direction::Read, "r1", None, &mut arm).is_ok());
        let displaced = table.set(5, Direction::Read, "r2", None, &mut arm).unwrap();
        assert_eq!(displaced.callback, Some("r1"));
        assert_eq!(table.get(5), Some([Some(&"r2"), None]));
        assert!(table.set(5, Direction::Write, "w", None, &mut arm).is_ok());
        let (displaced, _) = table.remove(5, Direction::Write, &mut arm).unwrap();
        assert_eq!(displaced.callback, Some("w"));
        assert!(table.remove(5, Direction::Write, &mut arm).is_none());
        assert!(table.remove(5, Direction::Read, &mut arm).is_some());
        assert_eq!(
            told,
            [
                (5, Watch::NONE, READ),
                (5, READ, READ),
                (5, READ, BOTH),
                (5, BOTH, READ),
                (5, READ, Watch::NONE),
            ]
        );
        assert!(table.is_empty() && table.get(5).is_none());
    }

    #[test]
    fn reader_comes_before_writer_and_a_stale_event_yields_nothing() {
        let mut table = Table::default();
        set(&mut table, 3, Direction::Write, "w");
        set(&mut table, 3, Direction::Read, "r");
        assert_eq!(collected(&table, ready(3, 1)), ["r", "w"]);
        let _ = table.remove(3, Direction::Read, |_, _, _| Ok(()));
        let _ = table.remove(3, Direction::Write, |_, _, _| Ok(()));
        set(&mut table, 3, Direction::Read, "new");
        assert!(collected(&table, ready(3, 1)).is_empty());
        assert_eq!(collected(&table, ready(3, 2)), ["new"]);
    }

    #[test]
    fn a_refused_callback_comes_back_and_changes_nothing() {
        let mut table = Table::default();
        let refuse = |_, _, _| Err(io::Error::from_raw_os_error(libc::EPERM));
        let (error, callback, _) = table.set(4, Direction::Read, "r", None, refuse).unwrap_err();
        assert_eq!((error.raw_os_error(), callback), (Some(libc::EPERM), "r"));
        let (error, ..) = table.set(-1, Direction::Read, "r", None, |_, _, _| Ok(())).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
        assert!(table.is_empty());
    }

    #[test]
    fn a_closed_object_finds_its_descriptor() {
        let mut table = Table::default();
        assert!(table.set(9, Direction::Read, "r", Some("sock"), |_, _, _| Ok(())).is_ok());
        assert_eq!(table.find_source(|source| *source == "sock"), Some(9));
        assert_eq!(table.find_source(|source| *source == "other"), None);
        assert_eq!(table.iter().count(), 2);
        set(&mut table, 9, Direction::Write, "w");
        assert_eq!(table.find_source(|source| *source == "sock"), Some(9), "it is kept");
        assert_eq!(table.iter().count(), 3);
    }
}
