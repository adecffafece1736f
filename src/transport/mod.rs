//! Sockets and pipes as state machines, without Python.
//!
//! In: readiness from the reactor, bytes to write. Out: bytes read, and how a write ended. At each moment
//! at most one thread reads a transport and at most one writes it: the loop's own thread, or any other
//! through [`Source::run`], whose results wait for the owner. `README.md` beside this file shows that no
//! edge, byte or end is lost.
//!
//! Must never: run a callback, drop a buffer in another thread than the owner's, or wait.

mod ciphertext;
mod datagram;
mod descriptor;
mod ending;
mod filter;
mod filtered;
mod flow;
mod framing;
mod link;
mod listener;
mod plaintext;
mod read_ahead;
mod read_buffer;
mod read_choice;
mod read_steps;
mod read_wait;
mod reader;
mod source;
mod state;
mod stream;
mod write_choice;
mod write_queue;

pub use ciphertext::Ciphertext;
pub use datagram::{DatagramOutcome, Datagrams, Delivered, Target};
pub use descriptor::Descriptor;
pub use ending::{Abort, Close, Drained, Ending, Refusal, ShutWrite, WriteGate};
pub use filter::{FILTER_MEMORY, Filter, FilterGuard, LockedFilter, Passage};
pub use filtered::{ReadOutcome, WriteOutcome};
pub use flow::Flow;
pub use framing::{Frame, NoSeparator, Separators, look_for_line};
pub use link::{Link, Port};
pub use listener::Listener;
pub use plaintext::Plaintext;
pub use read_ahead::Ahead;
pub use read_buffer::ReadBuffer;
pub use read_choice::{ReadBudget, ReadChoice};
pub use read_steps::{ReadPhase, ReadSteps, Step, StepRefusal};
pub use read_wait::{Callbacks, ReadWait, WaitPhase};
pub use reader::{
    Answer, BeforeWait, FeedOutcome, FirstStep, LookOutcome, Overrun, ReadProgress, ReaderState,
    TakeOutcome, WaitOutcome, Wanted,
};
pub use source::{
    AcceptSink, Connection, Entry, JobContext, Registrar, Report, Responder, Scratch, Source,
    SourceTable,
};
pub use state::{Bits, ReadClaim, Schedule, State, Turn, WriteClaim};
pub use stream::{Flushed, Input, Stream};
pub use write_choice::{Corked, SendChoice, WriteChoice};
pub use write_queue::{Buffer, CopyOf};

#[cfg(all(test, loom))]
mod loom_reads;
#[cfg(all(test, loom))]
mod loom_records;
#[cfg(all(test, loom))]
mod loom_tests;
