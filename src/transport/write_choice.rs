//! What becomes of a write: refused, or sent at once, queued, or left to a helper.
//!
//! In: what a transport's words say, and whether its loop is behind. Out: the choice, which the caller
//! acts on. Must never: write.

use super::{Link, Refusal};

/// What becomes of a call of `write`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum WriteChoice {
    /// It is refused.
    Refuse(Refusal),
    /// There is nothing to write.
    Nothing,
    /// It is sent.
    Send(SendChoice),
}

/// How data are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum SendChoice {
    /// At once; what the kernel does not take is queued.
    Now,
    /// Behind what is queued.
    Queue,
    /// Queued, for an idle thread to send: the loop is behind.
    QueueForHelper,
}

impl Link {
    /// What becomes of a call of `write`. One load of each word. Owner only.
    #[inline(always)]
    pub fn choose_write(&self, is_empty: bool, is_behind: impl FnOnce() -> bool) -> WriteChoice {
        match self.ending().refusal() {
            None | Some(Refusal::Dropped) if is_empty => WriteChoice::Nothing,
            None => WriteChoice::Send(self.choose_send(is_behind())),
            Some(refusal) => WriteChoice::Refuse(refusal),
        }
    }

    /// How data that may be sent are sent. Owner only.
    #[inline(always)]
    pub fn choose_send(&self, is_behind: bool) -> SendChoice {
        if is_behind {
            SendChoice::QueueForHelper
        } else if self.state().bits().is_queued() {
            SendChoice::Queue
        } else {
            SendChoice::Now
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::transport::{Abort, Close, ShutWrite};

    fn queued() -> Link {
        let link = Link::new(-1, false);
        link.state().set_queued(true);
        link
    }

    #[test]
    fn data_are_sent_at_once_unless_others_wait_or_the_loop_is_behind() {
        for (link, is_behind, choice) in [
            (Link::new(-1, false), false, SendChoice::Now),
            (Link::new(-1, false), true, SendChoice::QueueForHelper),
            (queued(), false, SendChoice::Queue),
            (queued(), true, SendChoice::QueueForHelper),
        ] {
            assert_eq!(link.choose_write(false, || is_behind), WriteChoice::Send(choice));
            assert_eq!(link.choose_write(true, || unreachable!()), WriteChoice::Nothing);
        }
    }

    #[test]
    fn what_is_refused_asks_nothing_more() {
        let link = Link::new(-1, false);
        assert_eq!(link.ending().shut_write(), ShutWrite::Shut);
        for is_empty in [false, true] {
            let choice = link.choose_write(is_empty, || unreachable!());
            assert_eq!(choice, WriteChoice::Refuse(Refusal::AfterEof), "an error, of nothing too");
        }
    }

    #[test]
    fn nothing_is_no_write_to_a_connection_that_is_gone() {
        let link = Link::new(-1, false);
        assert_eq!(link.ending().abort(), Abort::LoseSoon);
        assert_eq!(link.choose_write(true, || unreachable!()), WriteChoice::Nothing);
        let dropped = WriteChoice::Refuse(Refusal::Dropped);
        assert_eq!(link.choose_write(false, || unreachable!()), dropped);
    }

    #[test]
    fn what_is_written_to_a_closing_connection_is_queued_as_asyncio_does() {
        let link = queued();
        assert_eq!(link.close(), Close::WaitForQueue);
        assert_eq!(link.choose_write(false, || false), WriteChoice::Send(SendChoice::Queue));
    }
}
