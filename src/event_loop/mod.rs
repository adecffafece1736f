//! One event loop, without Python: what is ready, what was posted, when to wait and for how long.
//! Generic over the callback type `C`, so that all of it is tested with plain numbers.
//!
//! In: callbacks, by the owner ([`Local`]) or any thread ([`EventLoop::post`]). Out: the callbacks
//! to run, taken one by one by the layer that can run them.
//!
//! ```text
//!   any thread --post--> Inbox --drain--.
//!   reactor events --> IoTable ---------+--> ready queue --> py runs them, owner only
//!   TimerHeap --due---------------------'
//! ```
//!
//! Who may touch what: [`Local`] belongs to the thread that holds the [`Claim`]; everything else in
//! [`EventLoop`] is shared; the part that knows no callback, [`Shared`], may outlive it in the hands
//! of threads that work for the loop. A callback is never run and never dropped in this layer.
//!
//! Must never: call up, or hold a lock while the caller's code runs.

mod current;
mod eager_start;
mod generations;
mod inbox;
mod lifecycle;
mod owner_cell;
mod progress;
mod ready;
mod shared;
mod turn;

#[cfg(all(test, loom))]
mod loom_tests;

pub use current::{Current, LeaveOutcome, Shown, Step};
pub use eager_start::{Asker, EagerStarts, Starting};
pub use generations::Generations;
pub use inbox::{Carrier, Drain, Inbox, Link};
pub use lifecycle::EventLoop;
pub use owner_cell::{Claim, OwnerCell};
pub use progress::{Busy, CallbackEpoch, LoopProgress, Phase};
pub use ready::ReadyQueue;
pub use shared::{Completion, Job, Load, Looking, Poller, Shared};
pub use turn::{Local, Plan, Post, Turned};
