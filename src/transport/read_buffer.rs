//! Data received and not yet read by the program.
//!
//! A chunk that arrives while the buffer is empty is kept unchanged, and returned unchanged if all of it is
//! read at once: no byte is copied. Otherwise chunks are joined.

use super::write_queue::Buffer;

/// Memory that an empty buffer keeps for what comes next, in bytes.
const KEPT: usize = 8 * 1024;

/// Bytes in the order in which they came.
#[derive(Debug)]
pub struct ReadBuffer<B> {
    /// The only chunk; then `joined` is empty.
    whole: Option<B>,
    joined: Vec<u8>,
    /// Bytes that have been taken, of whichever of the two.
    start: usize,
}

impl<B> Default for ReadBuffer<B> {
    fn default() -> Self {
        Self { whole: None, joined: Vec::new(), start: 0 }
    }
}

impl<B: Buffer> ReadBuffer<B> {
    /// What is there.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match &self.whole {
            Some(whole) => &whole.bytes()[self.start..],
            None => &self.joined[self.start..],
        }
    }

    /// Appends `data`: as `keep` makes it if nothing is there, or else as a copy. Returns what is to
    /// be dropped.
    #[must_use]
    pub fn feed(&mut self, data: &[u8], keep: impl FnOnce() -> Option<B>) -> Option<B> {
        if self.bytes().is_empty()
            && let Some(whole) = keep()
        {
            self.start = 0;
            self.joined.clear();
            return self.whole.replace(whole);
        }
        let spent = self.join();
        self.joined.extend_from_slice(data);
        spent
    }

    /// Copies the only chunk, and gives it up; makes room in front if that costs less than it gives.
    fn join(&mut self) -> Option<B> {
        let spent = self.whole.take();
        if let Some(spent) = &spent {
            self.joined.extend_from_slice(&spent.bytes()[self.start..]);
            self.start = 0;
        } else if self.start > self.joined.len() / 2 {
            self.joined.drain(..self.start);
            self.start = 0;
        }
        spent
    }

    /// Takes the only chunk as it came, if all of it, and nothing else, is wanted.
    #[must_use]
    pub fn take_whole(&mut self, count: usize) -> Option<B> {
        self.whole.take_if(|whole| self.start == 0 && whole.bytes().len() == count)
    }

    /// Takes `count` bytes, which are there. Returns what is to be dropped.
    #[must_use]
    pub fn advance(&mut self, count: usize) -> Option<B> {
        debug_assert!(count <= self.bytes().len());
        self.start += count;
        if !self.bytes().is_empty() {
            return None;
        }
        self.start = 0;
        if self.joined.capacity() > KEPT {
            self.joined = Vec::new();
        } else {
            self.joined.clear();
        }
        self.whole.take()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn fed(chunks: &[&[u8]]) -> ReadBuffer<Vec<u8>> {
        let mut buffer = ReadBuffer::default();
        for chunk in chunks {
            let _ = buffer.feed(chunk, || Some(chunk.to_vec()));
        }
        buffer
    }

    #[test]
    fn a_chunk_that_is_wanted_whole_is_given_out_as_it_came() {
        let data = b"hello".to_vec();
        let address = data.as_ptr();
        let mut buffer = ReadBuffer::default();
        assert_eq!(buffer.feed(b"hello", || Some(data)), None);
        assert_eq!(buffer.take_whole(4), None);
        let taken = buffer.take_whole(5).unwrap();
        assert_eq!((taken.as_slice(), taken.as_ptr()), (&b"hello"[..], address));
        assert!(buffer.bytes().is_empty());
    }

    #[test]
    fn chunks_are_joined_and_what_is_given_up_is_returned() {
        let mut buffer = fed(&[b"abc"]);
        assert_eq!(buffer.advance(1), None);
        assert_eq!(buffer.take_whole(2), None);
        assert_eq!(buffer.feed(b"def", || unreachable!()), Some(b"abc".to_vec()));
        assert_eq!(buffer.bytes(), b"bcdef");
        assert_eq!(buffer.take_whole(5), None);
        assert_eq!(buffer.advance(5), None);
        assert!(buffer.bytes().is_empty());
        assert_eq!(buffer.feed(b"g", || Some(b"g".to_vec())), None);
        assert_eq!(buffer.advance(1), Some(b"g".to_vec()));
    }

    #[test]
    fn what_cannot_be_kept_is_copied() {
        let mut buffer = ReadBuffer::<Vec<u8>>::default();
        assert_eq!(buffer.feed(b"ab", || None), None);
        assert_eq!(buffer.take_whole(2), None);
        assert_eq!(buffer.bytes(), b"ab");
    }

    #[test]
    fn memory_is_bounded_by_what_is_there() {
        let mut buffer = fed(&[b"", b"x"]);
        for _ in 0..if cfg!(miri) { 100 } else { 1000 } {
            let _ = buffer.feed(&[7; 100], || None);
            let _ = buffer.advance(100);
        }
        assert_eq!(buffer.bytes().len(), 1);
        assert!(buffer.joined.capacity() < 2000, "{}", buffer.joined.capacity());
        let _ = buffer.feed(&vec![7; 10 * KEPT], || None);
        let _ = buffer.advance(buffer.bytes().len());
        assert_eq!(buffer.joined.capacity(), 0);
    }
}
