//! What becomes of a write: refused, or sent at once, queued, or left to a helper.
//!
//! In: what a transport's words say, and whether its loop is behind. Out: the choice, which the caller
//! acts on. Must never: write.

use super::{Link, Refusal, WriteGate};
use crate::config;

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
    /// It is queued, and sent with more when the turn has read.
    HoldBack,
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

/// A turn that keeps reading: what is written meanwhile is sent together, by whoever drops this.
#[derive(Debug)]
#[must_use = "what is written is held back while it lives"]
pub struct Corked<'a>(&'a Link);

impl Drop for Corked<'_> {
    fn drop(&mut self) {
        self.0.ending().set_corked(false);
    }
}

impl Link {
    /// Holds back what is written, up to a bound. Owner only.
    pub fn cork(&self) -> Corked<'_> {
        self.ending().set_corked(true);
        Corked(self)
    }

    /// What becomes of a call of `write` with so many bytes. One load of each word. Owner only.
    #[inline(always)]
    pub fn choose_write(&self, bytes: usize, is_behind: impl FnOnce() -> bool) -> WriteChoice {
        match self.ending().write_gate() {
            WriteGate::Open if bytes > 0 => WriteChoice::Send(self.choose_send(is_behind())),
            WriteGate::Refused(refusal) if bytes > 0 || refusal != Refusal::Dropped => {
                WriteChoice::Refuse(refusal)
            }
            _ if bytes == 0 => WriteChoice::Nothing,
            _ if self.queued() + bytes <= config::HELD_BACK => WriteChoice::HoldBack,
            _ => WriteChoice::Send(self.choose_send(is_behind())),
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
            assert_eq!(link.choose_write(1, || is_behind), WriteChoice::Send(choice));
            assert_eq!(link.choose_write(0, || unreachable!()), WriteChoice::Nothing);
        }
    }

    #[test]
    fn what_is_refused_asks_nothing_more() {
        let link = Link::new(-1, false);
        assert_eq!(link.ending().shut_write(), ShutWrite::Shut);
        for bytes in [1, 0] {
            let choice = link.choose_write(bytes, || unreachable!());
            assert_eq!(choice, WriteChoice::Refuse(Refusal::AfterEof), "an error, of nothing too");
        }
    }

    #[test]
    fn nothing_is_no_write_to_a_connection_that_is_gone() {
        let link = Link::new(-1, false);
        assert_eq!(link.ending().abort(), Abort::LoseSoon);
        assert_eq!(link.choose_write(0, || unreachable!()), WriteChoice::Nothing);
        let dropped = WriteChoice::Refuse(Refusal::Dropped);
        assert_eq!(link.choose_write(1, || unreachable!()), dropped);
    }

    #[test]
    fn what_is_written_to_a_closing_connection_is_queued_as_asyncio_does() {
        let link = queued();
        assert_eq!(link.close(), Close::WaitForQueue);
        assert_eq!(link.choose_write(1, || false), WriteChoice::Send(SendChoice::Queue));
    }

    #[test]
    fn what_is_written_while_the_turn_keeps_reading_is_held_back_up_to_a_bound() {
        let link = Link::new(-1, false);
        let corked = link.cork();
        let held = WriteChoice::HoldBack;
        let at_once = WriteChoice::Send(SendChoice::Now);
        assert_eq!(link.choose_write(config::HELD_BACK, || unreachable!()), held);
        assert_eq!(link.choose_write(config::HELD_BACK + 1, || false), at_once, "too much");
        link.set_queued(1);
        assert_eq!(link.choose_write(config::HELD_BACK - 1, || unreachable!()), held);
        assert_eq!(link.choose_write(config::HELD_BACK, || false), at_once, "with what is queued");
        assert_eq!(link.choose_write(0, || unreachable!()), WriteChoice::Nothing);
        drop(corked);
        assert_eq!(link.choose_write(1, || false), at_once);
    }
}
