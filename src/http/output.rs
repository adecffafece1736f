//! Memory for what is to be sent: one for a thread, not for a connection.

use super::date;

/// More memory than this is given back after use.
const KEPT: usize = 512 * 1024;

/// What a connection wants sent, oldest first. It is used for one connection at a time, and emptied in between; its
/// memory stays. It knows the time, which it is [told](Self::set_time): once a turn is enough.
#[derive(Debug)]
pub struct Output {
    pub(super) bytes: Vec<u8>,
    second: u64,
    date: [u8; date::LENGTH],
}

impl Default for Output {
    fn default() -> Self {
        Self { bytes: Vec::new(), second: 0, date: date::format(0) }
    }
}

impl Output {
    /// What is to be sent.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether nothing is to be sent.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Forgets what was to be sent, and keeps the memory.
    #[inline]
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Forgets what was to be sent, and keeps no more memory than is usual.
    pub(super) fn forget(&mut self) {
        self.bytes.clear();
        if self.bytes.capacity() > KEPT {
            self.bytes = Vec::new();
        }
    }

    /// Says which second it is, counted from 1970 (UTC), for the field `date`.
    #[inline]
    pub fn set_time(&mut self, second: u64) {
        if second != self.second {
            self.second = second;
            self.date = date::format(second);
        }
    }

    /// The second as a date.
    #[inline]
    pub(super) fn date(&self) -> [u8; date::LENGTH] {
        self.date
    }
}
