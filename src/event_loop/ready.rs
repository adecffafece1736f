//! The callbacks that are to run, in the order in which they became ready. Owner only.

use std::collections::VecDeque;

use crate::config;

/// A first-in, first-out queue that gives the memory of a burst back.
#[derive(Debug)]
pub struct ReadyQueue<C> {
    queue: VecDeque<C>,
}

impl<C> Default for ReadyQueue<C> {
    fn default() -> Self {
        Self { queue: VecDeque::new() }
    }
}

impl<C> ReadyQueue<C> {
    /// Appends a callback.
    #[inline]
    pub fn push(&mut self, callback: C) {
        self.queue.push_back(callback);
    }

    /// Takes the callback that has been ready for the longest.
    #[inline]
    pub fn pop(&mut self) -> Option<C> {
        self.queue.pop_front()
    }

    /// Callbacks waiting.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether nothing waits.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Gives memory back if the queue is empty and a burst had made it large.
    #[inline]
    pub fn trim(&mut self) {
        if self.queue.is_empty() && self.queue.capacity() > config::READY_KEEP {
            self.queue.shrink_to(config::READY_KEEP);
        }
    }

    /// Every callback that waits, for the garbage collector.
    pub fn iter(&self) -> impl Iterator<Item = &C> {
        self.queue.iter()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn first_in_first_out_and_a_burst_is_given_back() {
        let mut ready = ReadyQueue::default();
        for n in 0..config::READY_KEEP * 2 {
            ready.push(n);
        }
        assert_eq!((ready.len(), ready.iter().next()), (config::READY_KEEP * 2, Some(&0)));
        let mut expected = 0;
        while let Some(n) = ready.pop() {
            assert_eq!(n, expected);
            expected += 1;
        }
        ready.trim();
        assert!(ready.is_empty() && ready.queue.capacity() <= config::READY_KEEP);
    }
}
