//! Newtype identities. A bare `usize` or descriptor is never an identity: descriptors and slots are reused,
//! so each token carries the generation of what it identifies.
//!
//! Must never: depend on another module.

use std::fmt;

/// Names one loop of a pool, counted from zero; loop 0 runs in the thread that called `run`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LoopId(pub u32);

impl fmt::Display for LoopId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "loop-pool-{}", self.0)
    }
}

/// Names one registration of a descriptor with a reactor: its slot in the table of such, and the
/// generation of what is in the slot, so that an event which was under way when the descriptor was
/// closed is told apart from one of the slot's next use.
///
/// ```
/// use loop_pool::id::IoToken;
/// let token = IoToken::new(7, 3);
/// assert_eq!(IoToken::from_bits(token.to_bits()), Some(token));
/// assert_eq!((token.slot(), token.generation()), (7, 3));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IoToken {
    slot: u32,
    generation: u32,
}

impl IoToken {
    /// The bits under which the reactor's own waker is registered; no table is that large.
    pub const WAKER_BITS: usize = usize::MAX;

    /// The token of what callbacks are registered for, in this slot.
    #[must_use]
    pub const fn new(slot: u32, generation: u32) -> Self {
        Self { slot, generation: generation & !Self::SOURCE }
    }

    /// The token of a transport in this slot, unlike those of callbacks.
    #[must_use]
    pub const fn of_source(slot: u32, generation: u32) -> Self {
        Self { slot, generation: generation | Self::SOURCE }
    }

    /// Whether a transport was registered under it, and not a callback.
    #[must_use]
    pub const fn is_source(self) -> bool {
        self.generation & Self::SOURCE != 0
    }

    /// Marks the generations of transports.
    const SOURCE: u32 = 1 << 31;

    /// The slot.
    #[must_use]
    pub const fn slot(self) -> u32 {
        self.slot
    }

    /// Which use of the slot is meant.
    #[must_use]
    pub const fn generation(self) -> u32 {
        self.generation
    }

    /// The token as the kernel carries it: generation above, slot below.
    #[must_use]
    pub const fn to_bits(self) -> usize {
        ((self.generation as usize) << 32) | (self.slot as usize)
    }

    /// The reverse of [`to_bits`](Self::to_bits); `None` for [`WAKER_BITS`](Self::WAKER_BITS).
    #[must_use]
    #[allow(clippy::cast_possible_truncation)]
    pub const fn from_bits(bits: usize) -> Option<Self> {
        if bits == Self::WAKER_BITS {
            return None;
        }
        Some(Self { slot: bits as u32, generation: (bits >> 32) as u32 })
    }

    /// A transport's token as an atomic keeps it; never zero, so that zero can stand for "none".
    #[must_use]
    pub const fn to_word(self) -> u64 {
        self.to_bits() as u64
    }

    /// The reverse of [`to_word`](Self::to_word); `None` for zero.
    #[must_use]
    #[allow(clippy::cast_possible_truncation)]
    pub const fn from_word(word: u64) -> Option<Self> {
        if word == 0 { None } else { Self::from_bits(word as usize) }
    }
}

/// Names one timer of a loop: its slot in the heap's slab, and the slot's generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimerKey {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

impl TimerKey {
    /// The key as one word; never zero, so that zero can stand for "no timer".
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        ((self.generation as u64) << 32) | (self.slot as u64 + 1)
    }

    /// The reverse of [`to_bits`](Self::to_bits); `None` for zero.
    #[must_use]
    #[allow(clippy::cast_possible_truncation)]
    pub const fn from_bits(bits: u64) -> Option<Self> {
        match (bits as u32).checked_sub(1) {
            None => None,
            Some(slot) => Some(Self { slot, generation: (bits >> 32) as u32 }),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn io_token_survives_the_kernel_and_never_equals_the_waker() {
        for token in
            [IoToken::new(0, 0), IoToken::of_source(u32::MAX - 1, u32::MAX), IoToken::new(3, 1)]
        {
            assert_ne!(token.to_bits(), IoToken::WAKER_BITS);
            assert_eq!(IoToken::from_bits(token.to_bits()), Some(token));
        }
        assert_eq!(IoToken::from_bits(IoToken::WAKER_BITS), None);
    }

    #[test]
    fn a_transport_s_token_is_never_zero() {
        let token = IoToken::of_source(0, 0);
        assert_ne!(token.to_word(), 0);
        assert_eq!(IoToken::from_word(token.to_word()), Some(token));
        assert_eq!(IoToken::from_word(0), None);
    }

    #[test]
    fn timer_key_is_never_zero() {
        let key = TimerKey { slot: 0, generation: 0 };
        assert_ne!(key.to_bits(), 0);
        assert_eq!(TimerKey::from_bits(key.to_bits()), Some(key));
        assert_eq!(TimerKey::from_bits(0), None);
    }

    #[test]
    fn a_loop_is_named_like_its_thread() {
        assert_eq!(LoopId(3).to_string(), "loop-pool-3");
    }
}
