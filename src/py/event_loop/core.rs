//! `LoopCore`: the native base class of `loop_pool.EventLoop`, its fields and who may access them.
//!
//! `EventLoop` inherits from it before `asyncio.SelectorEventLoop`, so its methods override asyncio's. They
//! are in the room `module`; the turn is in `run`.

use std::collections::HashSet;
use std::os::fd::RawFd;

use pyo3::ffi;
use pyo3::prelude::*;

use super::callback::Callback;
use super::flags::LoopFlags;
use super::loop_tasks::LoopTasks;
use super::owner_thread::OwnerThread;
use super::shared_context::SharedContext;
use crate::error::LoopError;
use crate::event_loop::{Claim, EventLoop, Local};
use crate::id::IoToken;
use crate::pool::LoopWorker;
use crate::py::cpython::object::Ref;
use crate::sys::clock;
use crate::sys::level_trigger::Watch;

/// The native half of an event loop. Use `loop_pool.EventLoop`.
///
/// | who | what |
/// |---|---|
/// | the owner | `event_loop.local`, an [`OwnerState`] |
/// | any thread | the rest of `event_loop`, `flags` |
/// | any thread, each part under its lock | `tasks` |
/// | any thread, while the loop is inside a callback | `thread` |
#[pyclass(frozen, subclass, weakref, module = "loop_pool._core")]
pub(crate) struct LoopCore {
    pub(crate) event_loop: EventLoop<Callback, OwnerExtension>,
    pub(crate) flags: LoopFlags,
    pub(crate) tasks: LoopTasks,
    pub(crate) thread: OwnerThread,
}

/// What the loop's owner touches, and nobody else: through its claim, or after a look at who it is.
pub(crate) type OwnerState = Local<Callback, OwnerExtension>;

/// Proof that the calling thread owns a loop.
pub(crate) type OwnerClaim<'a> = Claim<'a, OwnerState>;

/// What is here in a loop's [`OwnerState`].
#[derive(Default)]
pub(crate) struct OwnerExtension {
    /// What the loop does for others, and they for it; `None` outside of a pool, and while it polls.
    pub(crate) loop_worker: Option<Box<LoopWorker>>,
    /// The keywords of its futures and tasks, while it runs: they refer to the loop.
    pub(crate) keywords: Option<Ref>,
    /// What callbacks that are scheduled in a row share, while it runs.
    pub(crate) shared_context: SharedContext,
    /// A context without variables for callbacks to run in, while none does.
    pub(crate) empty_context: Option<Ref>,
    /// The tasks that `_enter_task` has made current, each with what was shown before.
    pub(crate) entered: Vec<(usize, Ref)>,
    /// Tasks that do not end the program, whatever they raise: by address, as long as somebody holds them.
    pub(crate) contained: HashSet<usize>,
}

impl LoopCore {
    /// When a task is made that is made now: of the loop's present turn, which saves a look at the clock.
    #[inline(always)]
    pub(crate) fn now_ns(&self) -> u64 {
        match self.event_loop.metrics().polled_ns.get() {
            0 => clock::monotonic_ns(),
            polled => polled,
        }
    }

    /// Whether it is one of a pool's loops. On its thread, in a turn.
    pub(crate) fn is_in_pool(&self) -> bool {
        // SAFETY: runs no Python.
        unsafe { self.event_loop.local.if_owner(|local| local.extension.loop_worker.is_some()) }
            .unwrap_or(false)
    }

    /// Says whether this task may end the program, as any does at first, by `SystemExit` or `KeyboardInterrupt`. Whoever
    /// says that it may not waits for its end, deals with what it has raised, and takes it back. On the loop's thread.
    #[cfg(feature = "http")]
    pub(crate) fn contain(&self, task: *mut ffi::PyObject, contained: bool) {
        let change = |local: &mut OwnerState| {
            let all = &mut local.extension.contained;
            if contained { all.insert(task as usize) } else { all.remove(&(task as usize)) }
        };
        // SAFETY: runs no Python.
        let _ = unsafe { self.event_loop.local.if_owner(change) };
    }

    /// Whether this task does not end the program. On the loop's thread.
    pub(crate) fn contains(&self, task: *mut ffi::PyObject) -> bool {
        let look = |local: &mut OwnerState| local.extension.contained.contains(&(task as usize));
        // SAFETY: runs no Python.
        unsafe { self.event_loop.local.if_owner(look) }.unwrap_or(false)
    }

    /// The keywords of its futures and tasks, for the thread that runs it. They stay as long as it does.
    #[inline(always)]
    pub(crate) fn keywords(&self) -> Option<*mut ffi::PyObject> {
        let keywords = |local: &mut OwnerState| local.extension.keywords.as_ref().map(Ref::as_ptr);
        // SAFETY: runs no Python.
        unsafe { self.event_loop.local.if_owner(keywords) }.flatten()
    }

    /// # Errors
    /// `RuntimeError`, as asyncio's, after `close`.
    #[inline(always)]
    pub(crate) fn check_open(&self) -> PyResult<()> {
        if self.event_loop.is_closed() { Err(LoopError::Closed.into()) } else { Ok(()) }
    }
}

impl LoopCore {
    pub(crate) fn watch(
        &self,
        fd: RawFd,
        token: IoToken,
        old: Watch,
        new: Watch,
    ) -> std::io::Result<()> {
        self.event_loop
            .shared()
            .with_handle(|handle| handle.watch(fd, token, old, new))
            .unwrap_or_else(|_| Err(std::io::Error::from_raw_os_error(libc::EBADF)))
    }

    /// As [`watch`](Self::watch), but if `quiet` the kernel is not told that nothing is watched any
    /// more: the number is that of another registration.
    pub(crate) fn watch_unless(
        &self,
        quiet: bool,
        fd: RawFd,
        token: IoToken,
        old: Watch,
        new: Watch,
    ) -> std::io::Result<()> {
        if quiet && new.is_none() { Ok(()) } else { self.watch(fd, token, old, new) }
    }
}
