//! The wait of a read, which is a future to the task that awaits it: whether it is pending, how it has ended, and who
//! is called then.
//!
//! In: a wait that begins, an outcome, callbacks. Out: who is to be called, and all that is given up. Must never: call
//! or drop anything that it was given, or be touched by two threads at once: it is under its reader's lock.

/// Where a wait stands.
#[derive(Debug, Default, PartialEq, Eq)]
pub enum WaitPhase<O> {
    /// There is none.
    #[default]
    Idle,
    /// Nothing has ended it.
    Pending,
    /// It has ended, and the read does not know it yet.
    Settled(O),
}

/// Who is called when a wait ends: the task that waits, and seldom others.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "they are to be called, or dropped outside of the lock"]
pub struct Callbacks<C> {
    first: Option<C>,
    #[allow(clippy::box_collection, reason = "few waits have any, and each connection has a wait")]
    more: Option<Box<Vec<C>>>,
}

impl<C> Default for Callbacks<C> {
    fn default() -> Self {
        Self { first: None, more: None }
    }
}

impl<C> Callbacks<C> {
    /// Them, in the order in which they came.
    fn iter(&self) -> impl Iterator<Item = &C> {
        self.first.iter().chain(self.more.iter().flat_map(|more| more.iter()))
    }
}

impl<C> IntoIterator for Callbacks<C> {
    type Item = C;
    type IntoIter = std::iter::Chain<std::option::IntoIter<C>, std::vec::IntoIter<C>>;

    fn into_iter(self) -> Self::IntoIter {
        self.first.into_iter().chain(self.more.map_or_else(Vec::new, |more| *more))
    }
}

/// A wait. `O`: how it ends; `C`: who is called then.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "what it holds is dropped outside of the lock"]
pub struct ReadWait<O, C> {
    phase: WaitPhase<O>,
    callbacks: Callbacks<C>,
}

impl<O, C> Default for ReadWait<O, C> {
    fn default() -> Self {
        Self { phase: WaitPhase::Idle, callbacks: Callbacks::default() }
    }
}

impl<O, C> ReadWait<O, C> {
    /// Where it stands.
    #[must_use]
    pub const fn phase(&self) -> &WaitPhase<O> {
        &self.phase
    }

    /// How it has ended, if it has.
    #[must_use]
    pub fn into_phase(self) -> WaitPhase<O> {
        self.phase
    }

    /// Who is called when it ends.
    pub fn callbacks(&self) -> impl Iterator<Item = &C> {
        self.callbacks.iter()
    }

    /// Begins one, where there is none.
    #[inline]
    pub fn begin(&mut self) {
        debug_assert!(matches!(self.phase, WaitPhase::Idle));
        self.phase = WaitPhase::Pending;
    }

    /// Gives a pending one its outcome; returns who is to be called.
    ///
    /// # Errors
    /// None is pending: the outcome comes back.
    #[inline]
    pub fn settle(&mut self, outcome: O) -> Result<Callbacks<C>, O> {
        if !matches!(self.phase, WaitPhase::Pending) {
            return Err(outcome);
        }
        self.phase = WaitPhase::Settled(outcome);
        Ok(std::mem::take(&mut self.callbacks))
    }

    /// Ends the wait for the read, which goes on or gives up; returns what it had come to.
    #[inline]
    pub fn end(&mut self) -> Self {
        std::mem::take(self)
    }

    /// Adds one that is called when a pending one ends.
    ///
    /// # Errors
    /// None is pending: the callback comes back, to be called now.
    #[inline]
    pub fn watch(&mut self, callback: C) -> Result<(), C> {
        if !matches!(self.phase, WaitPhase::Pending) {
            return Err(callback);
        }
        if self.callbacks.first.is_none() {
            self.callbacks.first = Some(callback);
        } else {
            self.callbacks.more.get_or_insert_default().push(callback);
        }
        Ok(())
    }

    /// Takes back the callbacks that `is_one` picks out.
    #[must_use]
    pub fn unwatch(&mut self, is_one: impl FnMut(&C) -> bool) -> Vec<C> {
        let all = std::mem::take(&mut self.callbacks).into_iter();
        let (removed, kept): (Vec<_>, Vec<_>) = all.partition(is_one);
        let mut kept = kept.into_iter();
        let first = kept.next();
        let more: Vec<_> = kept.collect();
        let more = (!more.is_empty()).then(|| Box::new(more));
        self.callbacks = Callbacks { first, more };
        removed
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    type Wait = ReadWait<&'static str, u32>;

    fn pending(callbacks: &[u32]) -> Wait {
        let mut wait = Wait::default();
        wait.begin();
        for callback in callbacks {
            assert_eq!(wait.watch(*callback), Ok(()));
        }
        wait
    }

    #[test]
    fn a_wait_begins_is_settled_and_ends() {
        let mut wait = pending(&[1, 2, 3]);
        assert_eq!(wait.phase(), &WaitPhase::Pending);
        let callbacks = wait.settle("woken").unwrap_or_default();
        assert_eq!(callbacks.into_iter().collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(wait.callbacks().count(), 0, "each is called once");
        assert_eq!(wait.end().into_phase(), WaitPhase::Settled("woken"));
        assert_eq!(wait, Wait::default());
        wait.begin();
        assert_eq!(wait.phase(), &WaitPhase::Pending, "it may wait again");
    }

    #[test]
    fn the_first_outcome_counts() {
        let mut wait = pending(&[1]);
        assert!(wait.settle("cancelled").is_ok());
        assert_eq!(wait.settle("woken"), Err("woken"));
        assert_eq!(wait.phase(), &WaitPhase::Settled("cancelled"));
    }

    #[test]
    fn what_does_not_wait_is_not_settled_and_calls_at_once() {
        let mut wait = Wait::default();
        assert_eq!(wait.settle("woken"), Err("woken"));
        assert_eq!(wait.watch(1), Err(1));
        let mut wait = pending(&[]);
        assert!(wait.settle("woken").is_ok());
        assert_eq!(wait.watch(1), Err(1));
    }

    #[test]
    fn a_read_that_gives_up_takes_its_callbacks_along() {
        let mut wait = pending(&[1, 2]);
        let ended = wait.end();
        assert_eq!((ended.phase(), ended.callbacks().count()), (&WaitPhase::Pending, 2));
        assert_eq!(wait.settle("woken"), Err("woken"), "nobody waits");
    }

    #[test]
    fn callbacks_are_taken_back_and_the_others_keep_their_order() {
        let mut wait = pending(&[1, 2, 1, 3]);
        assert_eq!(wait.unwatch(|callback| *callback == 1), [1, 1]);
        assert_eq!(wait.callbacks().collect::<Vec<_>>(), [&2, &3]);
        assert_eq!(wait.unwatch(|_| false), [0; 0]);
        assert_eq!(wait.unwatch(|_| true), [2, 3]);
        assert_eq!(wait.watch(4), Ok(()));
        assert_eq!(wait.callbacks().collect::<Vec<_>>(), [&4]);
    }

    #[test]
    fn nothing_is_dropped_but_by_the_caller() {
        use std::rc::Rc;
        let object = Rc::new(());
        let holds = || Rc::clone(&object);
        let mut wait = ReadWait::default();
        wait.begin();
        let watched = [wait.watch(holds()), wait.watch(holds())];
        let settled = [wait.settle(holds()), wait.settle(holds())];
        let late = wait.watch(holds());
        let ended = wait.end();
        assert_eq!(Rc::strong_count(&object), 6);
        drop((watched, settled, late, ended));
        assert_eq!(Rc::strong_count(&object), 1);
    }
}
