//! The inbox of a loop: an unbounded queue with many producers and one consumer.
//!
//! In: values, from any thread, without waiting. Out: all of them at once, in the order in which they were
//! pushed.
//!
//! Must never: drop a value by itself while it is shared.

// Protocol: a Treiber stack of `Link`s. A push stores the current head in its link and replaces the
// head by compare-exchange. A drain takes the whole stack with one swap and reverses it. Links leave
// only with the entire stack, so only the drainer follows them; a pusher compares the head as a
// number. So a drained link may be freed, or pushed again, while a pusher still has its address: if
// the exchange succeeds, the link at that address is the head at this moment, whether it stayed there
// or came back, and it is the right successor. There is no ABA problem.
//
// A link is part of a box that the queue allocates for a value (`Inbox::push`), or of an object that
// represents the value (`Inbox::push_link`) and needs no allocation. Memory that one thread allocates
// and another frees would be most of the cost of a push.
//
// The head is an `ExchangeWord`: after a push a thread may check whether the consumer sleeps without a
// fence, because the consumer makes its last look (`Inbox::has_come`) with an exchange too.

use std::marker::PhantomData;
use std::ptr::{self, NonNull};

use crate::sync::announce::{Announced, ExchangeWord};

type Take<T> = unsafe fn(NonNull<Link<T>>) -> T;
type Look<T> = unsafe fn(NonNull<Link<T>>, &mut dyn FnMut(&T));

/// How a value is got out of what its link is part of.
pub struct Carrier<T> {
    /// Moves the value out, and frees what the link is part of. Called once for each push.
    pub take: Take<T>,
    /// Shows the value, which stays.
    pub look: Look<T>,
}

/// A place in an [`Inbox`]. From the push until the value is taken it is the queue's.
#[derive(Debug)]
pub struct Link<T> {
    next: *mut Link<T>,
    /// Lives as long as the process.
    carrier: *const Carrier<T>,
}

impl<T: 'static> Link<T> {
    /// A link of what `carrier` knows, in no queue.
    #[must_use]
    pub fn new(carrier: &'static Carrier<T>) -> Self {
        Self { next: ptr::null_mut(), carrier }
    }
}

/// A box for one value. The link comes first, so that its address is that of the box.
#[repr(C)]
struct Boxed<T> {
    link: Link<T>,
    value: T,
}

impl<T> Boxed<T> {
    const CARRIER: *const Carrier<T> = &Carrier { take: Self::take, look: Self::look };

    fn link(value: T) -> NonNull<Link<T>> {
        let boxed =
            Box::new(Self { link: Link { next: ptr::null_mut(), carrier: Self::CARRIER }, value });
        NonNull::from(Box::leak(boxed)).cast()
    }

    /// # Safety
    /// `link` was made by [`link`](Self::link), and is used no more.
    unsafe fn take(link: NonNull<Link<T>>) -> T {
        // SAFETY: by our caller's word.
        unsafe { Box::from_raw(link.cast::<Self>().as_ptr()) }.value
    }

    /// # Safety
    /// `link` was made by [`link`](Self::link), and nobody takes the value meanwhile.
    unsafe fn look(link: NonNull<Link<T>>, f: &mut dyn FnMut(&T)) {
        // SAFETY: by our caller's word.
        f(unsafe { &link.cast::<Self>().as_ref().value });
    }
}

/// Values posted and not yet drained.
#[derive(Debug)]
pub struct Inbox<T> {
    head: ExchangeWord<Link<T>>,
    _values: PhantomData<T>,
}

// SAFETY: values are moved in by one thread and out by another, never shared.
unsafe impl<T: Send> Send for Inbox<T> {}
// SAFETY: as above; `&Inbox` gives no reference to a value but in `for_each`, which is unsafe.
unsafe impl<T: Send> Sync for Inbox<T> {}

impl<T> Default for Inbox<T> {
    fn default() -> Self {
        Self { head: ExchangeWord::default(), _values: PhantomData }
    }
}

impl<T> Inbox<T> {
    /// Appends a value. Any thread; lock-free.
    pub fn push(&self, value: T) -> Announced {
        // SAFETY: the box is in no queue, and is freed when its value is taken.
        unsafe { self.push_link(Boxed::link(value)) }
    }

    /// Appends the value that `link` is part of. Any thread; lock-free.
    ///
    /// # Safety
    /// The link is in no queue and the caller's alone. Its carrier may be used by any thread, and
    /// what it is part of stays where it is until the value is taken.
    #[inline]
    pub unsafe fn push_link(&self, link: NonNull<Link<T>>) -> Announced {
        let link = link.as_ptr();
        let mut head = self.head.peek();
        loop {
            // SAFETY: the link is ours alone until the exchange below succeeds.
            unsafe { (*link).next = head };
            match self.head.replace(head, link) {
                Ok(announced) => return announced,
                Err(actual) => head = actual,
            }
        }
    }

    /// Whether nothing waits. A push that is under way may or may not be seen.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.head.peek().is_null()
    }

    /// Whether anything waits, on the consumer's last look before a sleep that it has announced:
    /// whoever pushes after it sees the announcement.
    #[inline]
    pub fn has_come(&self, announced: &Announced) -> bool {
        !self.head.is_null(announced)
    }

    /// Takes out everything pushed so far, oldest first.
    #[inline]
    pub fn drain(&self) -> Drain<T> {
        if self.is_empty() {
            return Drain::of(ptr::null_mut());
        }
        let mut newest_first = self.head.take();
        let mut oldest_first = ptr::null_mut();
        while !newest_first.is_null() {
            // SAFETY: the swap made us the only owner of every link in the chain.
            let next = unsafe { std::mem::replace(&mut (*newest_first).next, oldest_first) };
            oldest_first = newest_first;
            newest_first = next;
        }
        Drain::of(oldest_first)
    }

    /// Calls `f` with every value that waits, newest first.
    ///
    /// # Safety
    /// No other thread may push or drain meanwhile (the garbage collector has stopped them all).
    pub unsafe fn for_each(&self, mut f: impl FnMut(&T)) {
        let mut next = self.head.peek();
        while let Some(link) = NonNull::new(next) {
            // SAFETY: the caller vouches that the chain does not change; links in it are alive.
            unsafe {
                ((*link.as_ref().carrier).look)(link, &mut f);
                next = link.as_ref().next;
            }
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
    next: *mut Link<T>,
    _values: PhantomData<T>,
}

impl<T> Drain<T> {
    fn of(next: *mut Link<T>) -> Self {
        Self { next, _values: PhantomData }
    }
}

impl<T> Iterator for Drain<T> {
    type Item = T;

    #[inline]
    fn next(&mut self) -> Option<T> {
        let link = NonNull::new(self.next)?;
        // SAFETY: the chain is ours alone; what the link is part of is alive until `take`, which is
        // called once, as we go on to the next first.
        unsafe {
            self.next = link.as_ref().next;
            Some(((*link.as_ref().carrier).take)(link))
        }
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
            let _ = inbox.push(value);
        }
        assert_eq!(inbox.drain().collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        assert!(inbox.is_empty());
        assert_eq!(inbox.drain().next(), None);
    }

    #[test]
    fn what_is_never_drained_is_dropped_once() {
        let value = Arc::new(());
        let inbox = Inbox::default();
        let _ = inbox.push(Arc::clone(&value));
        let _ = inbox.push(Arc::clone(&value));
        let mut drain = inbox.drain();
        drop(drain.next());
        assert_eq!(Arc::strong_count(&value), 2);
        let _ = inbox.push(Arc::clone(&value));
        drop((drain, inbox));
        assert_eq!(Arc::strong_count(&value), 1);
    }

    #[test]
    fn no_value_is_lost_between_threads_and_each_producer_keeps_its_order() {
        const PRODUCERS: usize = 4;
        const EACH: usize = if cfg!(miri) { 100 } else { 20_000 };
        let inbox = Arc::new(Inbox::default());
        let threads: Vec<_> = (0..PRODUCERS)
            .map(|producer| {
                let inbox = Arc::clone(&inbox);
                #[allow(clippy::disallowed_methods, reason = "sync::thread is std's here")]
                thread::spawn(move || (0..EACH).for_each(|n| drop(inbox.push((producer, n)))))
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

    /// An object that stands for a value and has the link in it; freed by the test.
    #[repr(C)]
    struct Embedding {
        link: Link<u32>,
        value: u32,
        taken: u32,
    }

    impl Embedding {
        const CARRIER: &'static Carrier<u32> = &Carrier { take: Self::take, look: Self::look };

        fn new(value: u32) -> Self {
            Self { link: Link::new(Self::CARRIER), value, taken: 0 }
        }

        unsafe fn take(link: NonNull<Link<u32>>) -> u32 {
            // SAFETY: the link is the first field of an `Embedding`.
            let this = unsafe { link.cast::<Self>().as_mut() };
            this.taken += 1;
            this.value
        }

        unsafe fn look(link: NonNull<Link<u32>>, f: &mut dyn FnMut(&u32)) {
            // SAFETY: as above.
            f(unsafe { &link.cast::<Self>().as_ref().value });
        }
    }

    #[test]
    fn links_and_boxes_come_out_in_one_order_and_each_is_taken_once() {
        let inbox = Inbox::<u32>::default();
        let object = NonNull::from(Box::leak(Box::new(Embedding::new(2))));
        let _ = inbox.push(1);
        // SAFETY: in no queue, and alive until the end of the test.
        let _ = unsafe { inbox.push_link(object.cast()) };
        let _ = inbox.push(3);
        let mut seen = Vec::new();
        // SAFETY: no other thread.
        unsafe { inbox.for_each(|value| seen.push(*value)) };
        assert_eq!(seen, [3, 2, 1]);
        assert_eq!(inbox.drain().collect::<Vec<_>>(), [1, 2, 3]);
        // SAFETY: it is in no queue any more.
        let _ = unsafe { inbox.push_link(object.cast()) };
        drop(inbox);
        // SAFETY: made by `Box`, and in no queue.
        assert_eq!(unsafe { Box::from_raw(object.as_ptr()) }.taken, 2);
    }
}
