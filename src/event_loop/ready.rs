//! The ready queue: callbacks to run, in the order in which they became ready. Owner only.

use std::collections::VecDeque;

use crate::config;

/// A first-in, first-out queue that gives the memory of a burst back.
#[derive(Debug)]
pub struct ReadyQueue<C> {
    queue: VecDeque<C>,
    /// Callbacks taken so far.
    taken: u64,
    /// How many will have been taken when the last callback of a descriptor has.
    last_event: u64,
}

impl<C> Default for ReadyQueue<C> {
    fn default() -> Self {
        Self { queue: VecDeque::new(), taken: 0, last_event: 0 }
    }
}

impl<C> ReadyQueue<C> {
    /// Appends a callback.
    #[inline]
    pub fn push(&mut self, callback: C) {
        self.queue.push_back(callback);
    }

    /// Appends the callback of a descriptor that is ready.
    pub fn push_event(&mut self, callback: C) {
        self.queue.push_back(callback);
        self.last_event = self.taken + self.queue.len() as u64;
    }

    /// Puts a callback before all that wait.
    pub fn push_first(&mut self, callback: C) {
        self.last_event += u64::from(self.has_events());
        self.queue.push_front(callback);
    }

    /// Whether the callback of a descriptor still waits. Until it has run, its readiness would be
    /// reported again, and the callback run twice for it.
    #[must_use]
    #[inline]
    pub fn has_events(&self) -> bool {
        self.taken < self.last_event
    }

    /// Takes the callback that has been ready for the longest.
    #[inline]
    pub fn pop(&mut self) -> Option<C> {
        let callback = self.queue.pop_front();
        self.taken += u64::from(callback.is_some());
        callback
    }

    /// The callback before which so many others will be taken.
    #[must_use]
    #[inline]
    pub fn peek(&self, others: usize) -> Option<&C> {
        self.queue.get(others)
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
    fn an_event_is_waiting_until_it_is_taken() {
        let mut ready = ReadyQueue::default();
        ready.push(1);
        assert!(!ready.has_events());
        ready.push_event(2);
        ready.push(3);
        assert_eq!((ready.pop(), ready.has_events()), (Some(1), true));
        ready.push_first(0);
        assert_eq!((ready.pop(), ready.has_events()), (Some(0), true));
        assert_eq!((ready.pop(), ready.has_events()), (Some(2), false));
        ready.push_first(0);
        assert!(!ready.has_events());
        assert_eq!((ready.pop(), ready.pop(), ready.pop()), (Some(0), Some(3), None));
        assert!(!ready.has_events());
    }

    #[test]
    fn first_in_first_out_and_a_burst_is_given_back() {
        let burst = config::READY_KEEP * 2;
        let count = if cfg!(miri) { 100 } else { burst };
        let mut ready = ReadyQueue::default();
        ready.queue.reserve(burst);
        (0..count).for_each(|n| ready.push(n));
        assert_eq!((ready.len(), ready.iter().next()), (count, Some(&0)));
        let mut expected = 0;
        while let Some(n) = ready.pop() {
            assert_eq!(n, expected);
            expected += 1;
        }
        ready.trim();
        assert!(ready.is_empty() && ready.queue.capacity() <= config::READY_KEEP);
    }
}
