//! What becomes of a write: refused, or sent at once, queued, or left to a helper.
//!
//! In: what a transport's words say, and whether its loop is behind. Out: the choice, which the caller
//! acts on. Must never: write.

use super::{Batch, Link, Refusal, WriteGate};
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
    /// It is the first that is held back in this batch: it is queued, and sent with more at its end.
    Cork,
    /// It is queued, and sent with more when the turn has read, or the batch has ended.
    HoldBack,
    /// What is held back is sent first. If the kernel takes it, this is held back.
    SendHeldFirst,
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

    /// Holds back what is written until [`uncork`](Self::uncork): at the end of the batch. Owner only.
    pub fn cork_batch(&self) {
        self.ending().set_corked(true);
    }

    /// Ends [`cork_batch`](Self::cork_batch). Owner only.
    pub fn uncork(&self) {
        self.ending().set_corked(false);
    }

    /// What becomes of a call of `write` with so many bytes, in a batch. One load of each word. Owner only.
    #[inline(always)]
    pub fn choose_write(
        &self,
        bytes: usize,
        batch: Batch,
        is_behind: impl FnOnce() -> bool,
    ) -> WriteChoice {
        match self.ending().write_gate() {
            WriteGate::Open if bytes > 0 => match self.choose_send(is_behind()) {
                SendChoice::Now if self.writes().are_many(batch) && bytes <= self.hold_limit() => {
                    WriteChoice::Cork
                }
                choice => WriteChoice::Send(choice),
            },
            WriteGate::Refused(refusal) if bytes > 0 || refusal != Refusal::Dropped => {
                WriteChoice::Refuse(refusal)
            }
            _ if bytes == 0 => WriteChoice::Nothing,
            _ if self.queued() + bytes <= self.hold_limit() => WriteChoice::HoldBack,
            _ if bytes <= self.hold_limit() => WriteChoice::SendHeldFirst,
            _ => WriteChoice::Send(self.choose_send(is_behind())),
        }
    }

    /// Bytes that are held back at most. A protocol that is to be paused early has less kept from it.
    fn hold_limit(&self) -> usize {
        config::HELD_BACK.min(self.flow().limits().1.saturating_mul(config::HELD_BACK_MARKS))
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
            assert_eq!(link.choose_write(1, Batch::NONE, || is_behind), WriteChoice::Send(choice));
            assert_eq!(link.choose_write(0, Batch::NONE, || unreachable!()), WriteChoice::Nothing);
        }
    }

    #[test]
    fn what_is_refused_asks_nothing_more() {
        let link = Link::new(-1, false);
        assert_eq!(link.ending().shut_write(), ShutWrite::Shut);
        for bytes in [1, 0] {
            let choice = link.choose_write(bytes, Batch::NONE, || unreachable!());
            assert_eq!(choice, WriteChoice::Refuse(Refusal::AfterEof), "an error, of nothing too");
        }
    }

    #[test]
    fn nothing_is_no_write_to_a_connection_that_is_gone() {
        let link = Link::new(-1, false);
        assert_eq!(link.ending().abort(), Abort::LoseSoon);
        assert_eq!(link.choose_write(0, Batch::NONE, || unreachable!()), WriteChoice::Nothing);
        let dropped = WriteChoice::Refuse(Refusal::Dropped);
        assert_eq!(link.choose_write(1, Batch::NONE, || unreachable!()), dropped);
    }

    #[test]
    fn what_is_written_to_a_closing_connection_is_queued_as_asyncio_does() {
        let link = queued();
        assert_eq!(link.close(), Close::WaitForQueue);
        assert_eq!(
            link.choose_write(1, Batch::NONE, || false),
            WriteChoice::Send(SendChoice::Queue)
        );
    }

    /// As `choose_write`, between batches, of a loop that is not behind.
    fn choice(link: &Link, bytes: usize) -> WriteChoice {
        link.choose_write(bytes, Batch::NONE, || false)
    }

    #[test]
    fn what_is_written_while_the_turn_keeps_reading_is_held_back_up_to_a_bound() {
        let link = Link::new(-1, false);
        let corked = link.cork();
        assert_eq!(choice(&link, config::HELD_BACK), WriteChoice::HoldBack);
        let at_once = WriteChoice::Send(SendChoice::Now);
        assert_eq!(choice(&link, config::HELD_BACK + 1), at_once, "too much");
        link.set_queued(1);
        assert_eq!(choice(&link, config::HELD_BACK - 1), WriteChoice::HoldBack);
        assert_eq!(choice(&link, config::HELD_BACK), WriteChoice::SendHeldFirst);
        assert_eq!(choice(&link, 0), WriteChoice::Nothing);
        drop(corked);
        assert_eq!(choice(&link, 1), at_once);
    }

    #[test]
    fn the_third_write_of_a_batch_is_held_back() {
        let link = Link::new(-1, false);
        let at_once = WriteChoice::Send(SendChoice::Now);
        let mut batch = Batch::NONE;
        for _ in 0..2 {
            batch = batch.next();
            for expected in [at_once, at_once, WriteChoice::Cork, WriteChoice::Cork] {
                assert_eq!(link.choose_write(1, batch, || false), expected);
                assert_eq!(link.choose_write(0, batch, || false), WriteChoice::Nothing);
            }
            let behind = WriteChoice::Send(SendChoice::QueueForHelper);
            assert_eq!(link.choose_write(1, batch, || true), behind, "a helper sends it sooner");
            let large = config::HELD_BACK + 1;
            assert_eq!(link.choose_write(large, batch, || false), at_once, "it has no bound");
            for _ in 0..3 {
                assert_eq!(link.choose_write(1, batch.ended(), || false), at_once, "between them");
            }
        }
    }

    #[test]
    fn who_wants_nothing_queued_has_nothing_held_back() {
        let link = Link::new(-1, false);
        let batch = Batch::NONE.next();
        let at_once = WriteChoice::Send(SendChoice::Now);
        let _ = link.flow().set_limits((0, 0));
        for _ in 0..4 {
            assert_eq!(link.choose_write(1, batch, || false), at_once);
        }
        let _ = link.flow().set_limits((0, 1));
        assert_eq!(link.choose_write(17, batch, || false), at_once);
        assert_eq!(link.choose_write(16, batch, || false), WriteChoice::Cork);
    }

    #[test]
    fn once_held_back_the_batch_holds_back_what_follows() {
        let link = Link::new(-1, false);
        link.cork_batch();
        assert_eq!(choice(&link, 1), WriteChoice::HoldBack);
        link.uncork();
        assert_eq!(choice(&link, 1), WriteChoice::Send(SendChoice::Now));
    }
}
