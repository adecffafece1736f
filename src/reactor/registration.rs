//! The table behind `add_reader` and `add_writer`: which callback waits for which descriptor.
//!
//! In: a callback of the caller's type for one direction of a descriptor. Out: the callbacks of a [`Ready`]
//! event, by reference; and every replaced callback, by value, so that the caller drops it after it has
//! released the table's lock.
//!
//! Must never: drop a callback (that could run arbitrary code under the caller's lock).

use std::io;
use std::os::fd::RawFd;

use super::{Ready, Slots};
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
pub struct IoTable<C>(Slots<Entry<C>>);

impl<C> Default for IoTable<C> {
    fn default() -> Self {
        Self(Slots::new(IoToken::new))
    }
}

impl<C> IoTable<C> {
    /// Descriptors with at least one callback.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no descriptor has a callback.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sets the callback of one direction of `fd`, after `arm` has told the kernel.
    ///
    /// # Errors
    /// As [`set_at`](Self::set_at); then nothing has changed.
    pub fn set(
        &mut self,
        fd: RawFd,
        direction: Direction,
        callback: C,
        source: Option<C>,
        arm: impl FnOnce(IoToken, Watch, Watch) -> io::Result<()>,
    ) -> Result<Displaced<C>, (io::Error, C, Option<C>)> {
        let token = self.place(fd).or_else(|| self.0.find(fd));
        self.set_at(token, direction, callback, source, arm)
    }

    /// Makes a place for a descriptor's callbacks, for [`set_at`](Self::set_at) at once. `None` if it has
    /// one, or is negative.
    pub fn place(&mut self, fd: RawFd) -> Option<IoToken> {
        self.0.insert(fd, Entry { reader: None, writer: None, source: None })
    }

    /// As [`set`](Self::set), where [`place`](Self::place) has made room.
    ///
    /// # Errors
    /// That of `arm`; then the place is gone if it is empty, and the rejected callback comes back.
    pub fn set_at(
        &mut self,
        token: Option<IoToken>,
        direction: Direction,
        callback: C,
        source: Option<C>,
        arm: impl FnOnce(IoToken, Watch, Watch) -> io::Result<()>,
    ) -> Result<Displaced<C>, (io::Error, C, Option<C>)> {
        let Some((token, entry)) = token.and_then(|token| Some((token, self.0.get_mut(token)?)))
        else {
            return Err((io::Error::from_raw_os_error(libc::EBADF), callback, source));
        };
        let old = entry.watch();
        let mut new = old;
        match direction {
            Direction::Read => new.read = true,
            Direction::Write => new.write = true,
        }
        // Also if nothing changes: the descriptor may be another one, which the kernel has not been told
        // of.
        if let Err(error) = arm(token, old, new) {
            if old.is_none() {
                self.0.remove(token);
            }
            return Err((error, callback, source));
        }
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
        let token = self.0.find(fd)?;
        let entry = self.0.get_mut(token)?;
        let old = entry.watch();
        let callback = Some(entry.side(direction).take()?);
        let new = entry.watch();
        let armed = arm(token, old, new);
        let mut source = None;
        if new.is_none() {
            source = self.0.remove(token).and_then(|entry| entry.source);
        }
        Some((Displaced { callback, _source: source }, armed))
    }

    /// The descriptor whose source object satisfies `is_source`, for a removal by an object that
    /// has been closed and no longer knows its descriptor.
    #[must_use]
    pub fn find_source(&self, mut is_source: impl FnMut(&C) -> bool) -> Option<RawFd> {
        self.0.iter().find_map(|(_, fd, entry)| is_source(entry.source.as_ref()?).then_some(fd))
    }

    /// Hands `sink` the callbacks that wait for what `ready` reports: the reader first, as in
    /// asyncio. An event of an earlier registration of the descriptor yields nothing.
    pub fn collect(&self, ready: Ready, mut sink: impl FnMut(Direction, &C)) {
        let Some(entry) = self.0.get(ready.token) else { return };
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

    /// The descriptor of a registration that is still there.
    #[must_use]
    pub fn descriptor(&self, token: IoToken) -> Option<RawFd> {
        self.0.descriptor(token)
    }

    /// The object that `fd` came from, if it was one.
    #[must_use]
    pub fn source(&self, fd: RawFd) -> Option<&C> {
        self.entry(fd)?.source.as_ref()
    }

    /// The reader and the writer of `fd`; `None` if it has neither.
    #[must_use]
    pub fn get(&self, fd: RawFd) -> Option<[Option<&C>; 2]> {
        let entry = self.entry(fd)?;
        Some([entry.reader.as_ref(), entry.writer.as_ref()])
    }

    /// Everything held, by value, for a loop that is being closed.
    pub fn into_callbacks(mut self) -> impl Iterator<Item = C> {
        self.0.drain().flat_map(|all| [all.reader, all.writer, all.source].into_iter().flatten())
    }

    /// Every object held, for the garbage collector.
    pub fn iter(&self) -> impl Iterator<Item = &C> {
        self.0.iter().flat_map(|(_, _, entry)| {
            [&entry.reader, &entry.writer, &entry.source].into_iter().filter_map(Option::as_ref)
        })
    }

    fn entry(&self, fd: RawFd) -> Option<&Entry<C>> {
        self.0.get(self.0.find(fd)?)
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

    fn ready(token: IoToken) -> Ready {
        Ready { token, readable: true, writable: true, ended: false }
    }

    #[test]
    fn the_kernel_is_told_of_changes_and_of_what_may_be_another_descriptor() {
        let mut table = Table::default();
        let mut changes = Vec::new();
        let mut arm = |_, old, new| {
            changes.push((old, new));
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
            changes,
            [(Watch::NONE, READ), (READ, READ), (READ, BOTH), (BOTH, READ), (READ, Watch::NONE),]
        );
        assert!(table.is_empty() && table.get(5).is_none());
    }

    #[test]
    fn reader_comes_before_writer_and_a_stale_event_yields_nothing() {
        let mut table = Table::default();
        set(&mut table, 3, Direction::Write, "w");
        set(&mut table, 3, Direction::Read, "r");
        let old = table.0.find(3).unwrap();
        assert_eq!(collected(&table, ready(old)), ["r", "w"]);
        let _ = table.remove(3, Direction::Read, |_, _, _| Ok(()));
        let _ = table.remove(3, Direction::Write, |_, _, _| Ok(()));
        set(&mut table, 3, Direction::Read, "new");
        assert!(collected(&table, ready(old)).is_empty() && table.descriptor(old).is_none());
        let new = table.0.find(3).unwrap();
        assert_eq!((collected(&table, ready(new)), table.descriptor(new)), (vec!["new"], Some(3)));
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
