//! `LoopCore`: its callbacks, its turn, and the tasks that it publishes to other threads.
//!
//! In: callbacks, timers and events. Out: each of them run, attached, in the loop's own thread. Functions
//! of higher rooms are set at import (`hooks`). Must never: drop an object or run Python while the owner's
//! state is borrowed.

pub(crate) mod affinity;
pub(crate) mod borrowed_tasks;
pub(crate) mod callback;
pub(crate) mod clock_watch;
pub(crate) mod context_sharing;
pub(crate) mod core;
pub(crate) mod create_task;
pub(crate) mod cross_loop;
pub(crate) mod eager;
pub(crate) mod flags;
pub(crate) mod handle_slots;
pub(crate) mod handle_types;
pub(crate) mod hooks;
pub(crate) mod io;
pub(crate) mod kept;
pub(crate) mod loop_tasks;
pub(crate) mod offers;
pub(crate) mod owner_thread;
pub(crate) mod poll;
pub(crate) mod program_clock;
pub(crate) mod registry;
pub(crate) mod report;
pub(crate) mod run;
pub(crate) mod run_callback;
pub(crate) mod scheduling;
pub(crate) mod shared_context;
pub(crate) mod stack;
pub(crate) mod stats;
pub(crate) mod unrun;
