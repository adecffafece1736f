//! The write queue of a transport: whole buffers, kept by reference, and how much of the first has been
//! written.

use std::collections::VecDeque;
use std::io::IoSlice;

/// Bytes whose address does not change when the value that keeps them moves.
///
/// # Safety
/// `bytes` returns the same, unchanging memory for as long as the value lives, wherever it is moved.
pub unsafe trait Buffer: Send + std::fmt::Debug {
    /// The bytes.
    fn bytes(&self) -> &[u8];
}

/// A buffer that any thread may make, and drop what it has made.
pub trait CopyOf: Buffer {
    /// One that keeps a copy of these bytes.
    fn copy_of(bytes: &[u8]) -> Self;

    /// One that keeps this memory.
    fn keep(bytes: Vec<u8>) -> Self;
}

// SAFETY: a vector's memory is on the heap, and nobody reaches it mutably while it is queued.
unsafe impl Buffer for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }
}

impl CopyOf for Vec<u8> {
    fn copy_of(bytes: &[u8]) -> Self {
        bytes.to_vec()
    }

    fn keep(bytes: Vec<u8>) -> Self {
        bytes
    }
}

/// Parts that one system call may take; more than the kernel's own limit (1024) is never sent.
pub(super) const PARTS: usize = 64;

/// Buffers in the order in which they were written.
#[derive(Debug)]
pub(super) struct WriteQueue<B> {
    buffers: VecDeque<B>,
    /// Bytes of the first buffer that have been written.
    offset: usize,
    /// Written to the end; the owner drops them, since their memory may be Python's.
    spent: Vec<B>,
}

impl<B> Default for WriteQueue<B> {
    fn default() -> Self {
        Self { buffers: VecDeque::new(), offset: 0, spent: Vec::new() }
    }
}

impl<B: Buffer> WriteQueue<B> {
    pub(super) fn is_empty(&self) -> bool {
        self.buffers.is_empty()
    }

    /// Appends a buffer of which `offset` bytes have been written; only the first may have any.
    pub(super) fn push(&mut self, buffer: B, offset: usize) {
        debug_assert!(offset < buffer.bytes().len());
        debug_assert!(offset == 0 || self.buffers.is_empty());
        if self.buffers.is_empty() {
            self.offset = offset;
        }
        self.buffers.push_back(buffer);
    }

    /// Points `parts` to what comes next, `limit` bytes at most; returns how many it needed.
    ///
    /// # Safety
    /// The slices live as long as the buffers, not as long as `self` is borrowed: they must not be
    /// used after `advance` or `take_all`.
    pub(super) unsafe fn parts(&self, parts: &mut [IoSlice<'_>; PARTS], limit: usize) -> usize {
        let mut offset = self.offset;
        let mut count = 0;
        let mut left = limit;
        for (part, buffer) in parts.iter_mut().zip(&self.buffers) {
            if left == 0 {
                break;
            }
            let bytes = &buffer.bytes()[offset..];
            let bytes = &bytes[..left.min(bytes.len())];
            left -= bytes.len();
            // SAFETY: the memory stays where it is while the buffer lives, by the trait's contract.
            *part =
                IoSlice::new(unsafe { std::slice::from_raw_parts(bytes.as_ptr(), bytes.len()) });
            offset = 0;
            count += 1;
        }
        count
    }

    /// Notes that `count` bytes have been written.
    pub(super) fn advance(&mut self, count: usize) {
        let mut end = self.offset + count;
        while let Some(first) = self.buffers.front() {
            let length = first.bytes().len();
            if end < length {
                break;
            }
            end -= length;
            self.spent.extend(self.buffers.pop_front());
        }
        debug_assert!(end == 0 || !self.buffers.is_empty());
        self.offset = end;
    }

    /// Takes out what has been written, to be dropped by the owner.
    pub(super) fn take_spent(&mut self) -> Vec<B> {
        std::mem::take(&mut self.spent)
    }

    /// Takes out everything, written or not.
    pub(super) fn take_all(&mut self) -> Vec<B> {
        self.offset = 0;
        let mut all = self.take_spent();
        all.extend(self.buffers.drain(..));
        all
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn next(queue: &WriteQueue<Vec<u8>>) -> Vec<Vec<u8>> {
        let mut parts = [IoSlice::new(&[]); PARTS];
        // SAFETY: the slices are copied before the queue changes.
        let count = unsafe { queue.parts(&mut parts, usize::MAX) };
        parts[..count].iter().map(|part| part.to_vec()).collect()
    }

    #[test]
    fn what_has_gone_is_not_sent_again() {
        let mut queue = WriteQueue::default();
        queue.push(b"abc".to_vec(), 1);
        queue.push(b"de".to_vec(), 0);
        queue.push(b"f".to_vec(), 0);
        assert_eq!(next(&queue), [&b"bc"[..], b"de", b"f"]);
        queue.advance(1);
        assert_eq!(next(&queue), [&b"c"[..], b"de", b"f"]);
        queue.advance(2);
        assert_eq!(next(&queue), [&b"e"[..], b"f"]);
        assert_eq!(queue.take_spent(), [b"abc"]);
        queue.advance(2);
        assert!(queue.is_empty() && next(&queue).is_empty());
        assert_eq!(queue.take_spent(), [&b"de"[..], b"f"]);
    }

    #[test]
    fn no_more_than_the_limit_is_offered() {
        let mut queue = WriteQueue::default();
        queue.push(b"abc".to_vec(), 1);
        queue.push(b"de".to_vec(), 0);
        queue.push(b"f".to_vec(), 0);
        for (limit, offered) in [(1, &["b"][..]), (2, &["bc"]), (3, &["bc", "d"])] {
            let mut parts = [IoSlice::new(&[]); PARTS];
            // SAFETY: the queue does not change meanwhile.
            let count = unsafe { queue.parts(&mut parts, limit) };
            let found: Vec<_> = parts[..count].iter().map(|part| &**part).collect();
            assert_eq!(found, offered.iter().map(|part| part.as_bytes()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn more_parts_than_fit_wait_for_the_next_call() {
        let mut queue = WriteQueue::default();
        for n in 0..=PARTS {
            queue.push(vec![u8::try_from(n).unwrap()], 0);
        }
        assert_eq!(next(&queue).len(), PARTS);
        queue.advance(PARTS);
        assert_eq!(next(&queue), [[u8::try_from(PARTS).unwrap()]]);
        assert_eq!(queue.take_all().len(), PARTS + 1);
    }
}
