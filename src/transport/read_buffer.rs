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
    data: Data<B>,
    /// Bytes of it that have been taken.
    start: usize,
}

/// What is there. One or the other, as each connection has one of these.
#[derive(Debug)]
enum Data<B> {
    /// The only chunk, as it came.
    Whole(B),
    Joined(Vec<u8>),
}

impl<B> Default for ReadBuffer<B> {
    fn default() -> Self {
        Self { data: Data::Joined(Vec::new()), start: 0 }
    }
}

impl<B: Buffer> ReadBuffer<B> {
    /// What is there.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match &self.data {
            Data::Whole(whole) => &whole.bytes()[self.start..],
            Data::Joined(joined) => &joined[self.start..],
        }
    }

    /// Appends `data`: as `keep` makes it if nothing is there, or else as a copy. Returns what is to
    /// be dropped.
    #[must_use]
    pub fn feed(&mut self, data: &[u8], keep: impl FnOnce() -> Option<B>) -> Option<B> {
        if self.bytes().is_empty()
            && let Some(whole) = keep()
        {
            return self.replace(Data::Whole(whole));
        }
        match &mut self.data {
            Data::Joined(joined) => {
                // Room in front, if to make it costs less than it gives.
                if self.start > joined.len() / 2 {
                    joined.drain(..self.start);
                    self.start = 0;
                }
                joined.extend_from_slice(data);
                None
            }
            Data::Whole(whole) => {
                let kept = &whole.bytes()[self.start..];
                let mut joined = Vec::with_capacity(kept.len() + data.len());
                joined.extend_from_slice(kept);
                joined.extend_from_slice(data);
                self.replace(Data::Joined(joined))
            }
        }
    }

    /// Keeps these data instead, of which nothing has been taken. Returns what is to be dropped.
    fn replace(&mut self, data: Data<B>) -> Option<B> {
        self.start = 0;
        match std::mem::replace(&mut self.data, data) {
            Data::Whole(whole) => Some(whole),
            Data::Joined(_) => None,
        }
    }

    /// Takes the only chunk as it came, if all of it, and nothing else, is wanted.
    #[must_use]
    pub fn take_whole(&mut self, count: usize) -> Option<B> {
        match &self.data {
            Data::Whole(whole) if self.start == 0 && whole.bytes().len() == count => {
                self.replace(Data::Joined(Vec::new()))
            }
            _ => None,
        }
    }

    /// Takes `count` bytes, which are there. Returns what is to be dropped.
    #[must_use]
    pub fn advance(&mut self, count: usize) -> Option<B> {
        debug_assert!(count <= self.bytes().len());
        self.start += count;
        if !self.bytes().is_empty() {
            return None;
        }
        if let Data::Joined(joined) = &mut self.data
            && joined.capacity() <= KEPT
        {
            joined.clear();
            self.start = 0;
            return None;
        }
        self.replace(Data::Joined(Vec::new()))
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

    /// Of what is joined.
    fn capacity(buffer: &ReadBuffer<Vec<u8>>) -> usize {
        match &buffer.data {
            Data::Whole(_) => 0,
            Data::Joined(joined) => joined.capacity(),
        }
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
        assert!(capacity(&buffer) < 2000, "{}", capacity(&buffer));
        let _ = buffer.feed(&vec![7; 10 * KEPT], || None);
        let _ = buffer.advance(buffer.bytes().len());
        assert_eq!(capacity(&buffer), 0);
    }
}
