//! How a turn reads a stream: into what, and how often.
//!
//! In: what the stream is, and what the last read brought. Out: the choice, which the caller acts on. Must
//! never: read.

use super::{CopyOf, Input, Stream};
use crate::config;
use crate::sys::socket::Channel;

/// How a turn reads a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum ReadChoice {
    /// Once, into a buffer of the protocol's.
    IntoBuffer,
    /// As often as a [`ReadBudget`] says, into memory of the loop's.
    Data,
    /// Once, by a call that may wait.
    Device,
    /// Not at all: that there is something to read means that the reader of what is written is gone.
    PeerGone,
}

/// The reads that a turn may still make of one stream: again while a read brings as much as it may, so that
/// what came together is answered together.
#[derive(Debug)]
pub struct ReadBudget(usize);

impl ReadBudget {
    /// Of a turn that has read nothing yet.
    #[inline(always)]
    #[must_use]
    pub const fn of_turn() -> Self {
        Self(config::READS_PER_TURN)
    }

    /// Whether the turn reads again, after a read that brought `count` bytes of `config::STREAM_READ_SIZE`;
    /// `more`: there may be more to read.
    #[inline(always)]
    pub const fn goes_on_after(&mut self, count: usize, more: bool) -> bool {
        // An end that was reported with the data is for another turn, after what the data began.
        if !more || count != config::STREAM_READ_SIZE {
            return false;
        }
        self.0 -= 1;
        self.0 > 0
    }
}

impl<B: CopyOf> Stream<B> {
    /// How a turn reads it. `is_buffered`: the protocol has a buffer of its own.
    #[inline]
    pub fn choose_read(&self, is_buffered: bool) -> ReadChoice {
        if is_buffered {
            ReadChoice::IntoBuffer
        } else if self.input() != Input::Data {
            ReadChoice::PeerGone
        } else if self.channel() == Channel::Device {
            ReadChoice::Device
        } else {
            ReadChoice::Data
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const WHOLE: usize = config::STREAM_READ_SIZE;

    #[test]
    fn a_turn_reads_on_while_reads_bring_as_much_as_they_may() {
        let mut budget = ReadBudget::of_turn();
        for _ in 1..config::READS_PER_TURN {
            assert!(budget.goes_on_after(WHOLE, true));
        }
        assert!(!budget.goes_on_after(WHOLE, true), "others have a turn");
    }

    #[test]
    fn a_turn_stops_after_a_short_read_or_the_last() {
        for (count, more) in [(WHOLE - 1, true), (WHOLE, false), (0, false)] {
            assert!(!ReadBudget::of_turn().goes_on_after(count, more), "{count}, {more}");
        }
    }

    #[test]
    fn a_stream_is_read_as_what_it_is() {
        for (channel, input, is_buffered, choice) in [
            (Channel::Socket, Input::Data, false, ReadChoice::Data),
            (Channel::Socket, Input::Data, true, ReadChoice::IntoBuffer),
            (Channel::Local, Input::Data, false, ReadChoice::Data),
            (Channel::Pipe, Input::Data, false, ReadChoice::Data),
            (Channel::Device, Input::Data, false, ReadChoice::Device),
            (Channel::Device, Input::Data, true, ReadChoice::IntoBuffer),
            (Channel::Pipe, Input::PeerGone, false, ReadChoice::PeerGone),
            (Channel::Device, Input::Nothing, false, ReadChoice::PeerGone),
        ] {
            let stream: Stream<Vec<u8>> = Stream::new(-1, channel, input);
            assert_eq!(stream.choose_read(is_buffered), choice, "{channel:?}, {input:?}");
        }
    }
}
