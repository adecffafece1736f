//! What other threads hand to a loop: an unbounded queue of many producers and one consumer.
//!
//! In: values, from any thread, without waiting. Out: all of them at once, in the order in which
//! they were pushed.
//!
//! Protocol: a Treiber stack. A push links a node before the head by compare-exchange (release). A
//! drain takes the whole stack by one swap (acquire) and reverses it. As nodes leave only by the
//! swap of the entire stack, no node is freed while a pusher may look at it, so there is no ABA: a
//! pusher compares the head as a number and never follows it.
//!
//! Must never: drop a value by itself while it is shared.

use std::ptr;

use crate::sync::atomic::{
    AtomicPtr,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

struct Node<T> {
    value: T,
    next: *mut Node<T>,
}

/// Values posted and not yet drained.
#[derive(Debug)]
pub struct Inbox<T> {
    head: AtomicPtr<Node<T>>,
}

// SAFETY: values are moved in by one thread and out by another, never shared.
unsafe impl<T: Send> Send for Inbox<T> {}
// SAFETY: as above; `&Inbox` gives no reference to a value but in `for_each`, which is unsafe.
unsafe impl<T: Send> Sync for Inbox<T> {}

impl<T> Default for Inbox<T> {
    fn default() -> Self {
        Self { head: AtomicPtr::new(ptr::null_mut()) }
    }
}

impl<T> Inbox<T> {
    /// Appends a value. Any thread; lock-free.
    pub fn push(&self, value: T) {
        let node = Box::into_raw(Box::new(Node { value, next: ptr::null_mut() }));
        let mut head = self.head.load(Relaxed);
        loop {
            // SAFETY: the node is ours alone until the exchange below succeeds.
            unsafe { (*node).next = head };
            match self.head.compare_exchange_weak(head, node, Release, Relaxed) {
                Ok(_) => return,
                Err(actual) => head = actual,
            }
        }
    }

    /// Whether nothing waits. A push that is under way may or may not be seen.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.head.load(Acquire).is_null()
    }

    /// Takes out everything pushed so far, oldest first.
    #[inline]
    pub fn drain(&self) -> Drain<T> {
        if self.head.load(Relaxed).is_null() {
            return Drain { next: ptr::null_mut() };
        }
        let mut newest_first = self.head.swap(ptr::null_mut(), AcqRel);
        let mut oldest_first = ptr::null_mut();
        while !newest_first.is_null() {
            // SAFETY: the swap made us the only owner of every node in the chain.
            let next = unsafe { std::mem::replace(&mut (*newest_first).next, oldest_first) };
            oldest_first = newest_first;
            newest_first = next;
        }
        Drain { next: oldest_first }
    }

    /// Calls `f` with every value that waits, newest first.
    ///
    /// # Safety
    /// No other thread may push or drain meanwhile (the garbage collector has stopped them all).
    pub unsafe fn for_each(&self, mut f: impl FnMut(&T)) {
        let mut node = self.head.load(Acquire);
        // SAFETY: the caller vouches that the chain does not change; nodes in it are alive.
        while let Some(present) = unsafe { node.as_ref() } {
            f(&present.value);
            node = present.next;
        }
    }
}

impl<T> Drop for Inbox<T> {
    fn drop(&mut self) {
        drop(self.drain());
    }
}

/// The values taken out by [`Inbox::drain`], oldest first. What is not iterated is dropped.
#[derive(Debug)]
pub struct Drain<T> {
    next: *mut Node<T>,
}

impl<T> Iterator for Drain<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        if self.next.is_null() {
            return None;
        }
        // SAFETY: the chain is ours alone, and each node was made by `Box::into_raw`.
        let node = *unsafe { Box::from_raw(self.next) };
        self.next = node.next;
        Some(node.value)
    }
}

impl<T> Drop for Drain<T> {
    fn drop(&mut self) {
        self.for_each(drop);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sync::{Arc, thread};

    #[test]
    fn values_come_out_in_the_order_they_went_in() {
        let inbox = Inbox::default();
        assert!(inbox.is_empty());
        for value in 0..5 {
            inbox.push(value);
        }
        assert_eq!(inbox.drain().collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        assert!(inbox.is_empty());
        assert_eq!(inbox.drain().next(), None);
    }

    #[test]
    fn what_is_never_drained_is_dropped_once() {
        let value = Arc::new(());
        let inbox = Inbox::default();
        inbox.push(Arc::clone(&value));
        inbox.push(Arc::clone(&value));
        let mut drain = inbox.drain();
        drop(drain.next());
        assert_eq!(Arc::strong_count(&value), 2);
        inbox.push(Arc::clone(&value));
        drop((drain, inbox));
        assert_eq!(Arc::strong_count(&value), 1);
    }

    #[test]
    fn no_value_is_lost_between_threads_and_each_producer_keeps_its_order() {
        const PRODUCERS: usize = 4;
        const EACH: usize = 20_000;
        let inbox = Arc::new(Inbox::default());
        let threads: Vec<_> = (0..PRODUCERS)
            .map(|producer| {
                let inbox = Arc::clone(&inbox);
                #[allow(clippy::disallowed_methods, reason = "sync::thread is std's here")]
                thread::spawn(move || (0..EACH).for_each(|n| inbox.push((producer, n))))
            })
            .collect();
        let mut next = [0; PRODUCERS];
        while next.iter().sum::<usize>() < PRODUCERS * EACH {
            for (producer, n) in inbox.drain() {
                assert_eq!(n, next[producer]);
                next[producer] += 1;
            }
            thread::yield_now();
        }
        for thread in threads {
            thread.join().unwrap();
        }
        assert!(inbox.is_empty());
    }
}
