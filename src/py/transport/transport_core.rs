//! What the native halves of all transports have besides their state machines: how they come to a loop,
//! are kept by it and leave it, and what a turn begins and ends with.

use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool,
    Ordering::{Acquire, Release},
};

use pyo3::ffi;
use pyo3::prelude::*;

use super::layout::start;
use crate::id::IoToken;
use crate::py::cpython::alloc;
use crate::py::cpython::attach::lock_attached;
use crate::py::cpython::error::{both, os_error};
use crate::py::cpython::names::intern;
use crate::py::cpython::object::Ref;
use crate::py::cpython::returned::Returned;
use crate::py::event_loop::callback::Callback;
use crate::py::event_loop::core::LoopCore;
use crate::py::event_loop::kept;
use crate::transport::{Abort, Descriptor, Link, Port, Schedule, Source, State, Turn};

/// The native half of a transport, of whichever kind.
pub(crate) trait NativeTransport {
    /// What it has whatever it is made of: its state, its flow control, its end.
    fn link(&self) -> &Link;

    /// Whether the loop keeps the transport weakly: see [`keep_as_needed`].
    fn kept_weakly(&self) -> &AtomicBool;
}

/// Registers a transport with its loop's reactor, and lets it begin in the next turn. Returns whether
/// the reactor watches it. With `unwatched` it may be of a kind that the kernel reports nothing of.
///
/// # Errors
/// `RuntimeError` if the loop is closed or the descriptor has a transport; `OSError` of the kernel.
pub(crate) fn register<P: Port + 'static>(
    port: &Arc<P>,
    loop_: &Bound<'_, LoopCore>,
    transport: Bound<'_, PyAny>,
    unwatched: bool,
) -> PyResult<bool> {
    let (py, core) = (loop_.py(), loop_.get());
    core.check_open()?;
    let shared = core.event_loop.shared();
    let fd = port.link().fd();
    let source: Arc<dyn Source> = port.clone();
    // The table's own reference, given back by `retire`.
    let cookie = kept::strongly(transport.clone());
    let inserted = insert(loop_, fd, &source, cookie);
    // SAFETY: the reference made above, which the table did not take.
    let give_back = || unsafe { kept::give_up(py, cookie) };
    let Some(token) = inserted else {
        give_back();
        let used = format!("File descriptor {fd} is used by another transport");
        return Err(alloc::runtime_error(py, used));
    };
    let registered = port.register(token, &**shared);
    let is_watched = registered.is_ok();
    if let Err(error) = registered
        && !(unwatched && error.kind() == std::io::ErrorKind::PermissionDenied)
    {
        drop(lock_attached(py, &shared.sources).remove(token));
        give_back();
        return Err(os_error(py, &error));
    }
    port.link().set_watched(is_watched);
    core.event_loop.metrics().transports.add_shared(1);
    core.schedule(Callback::from_native(transport.into()));
    Ok(is_watched)
}

/// Lets the loop keep a transport weakly while it waits for nothing that the loop could bring it, as
/// asyncio does: reading is paused, and nothing is to be written. Nobody else may keep such a
/// transport; it is then collected, and its connection closed. On the loop's thread, when that may
/// have changed.
#[inline(always)]
pub(crate) fn keep_as_needed<H: NativeTransport>(
    core: &H,
    loop_: &Bound<'_, LoopCore>,
    transport: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let weakly = core.link().state().bits().expects_nothing();
    if core.kept_weakly().load(Acquire) == weakly {
        Ok(())
    } else {
        keep(core, loop_, transport, weakly)
    }
}

#[cold]
fn keep<H: NativeTransport>(
    core: &H,
    loop_: &Bound<'_, LoopCore>,
    transport: &Bound<'_, PyAny>,
    weakly: bool,
) -> PyResult<()> {
    let py = loop_.py();
    let Some(token) = core.link().token() else { return Ok(()) };
    let cookie = if weakly { kept::weakly(transport)? } else { kept::strongly(transport.clone()) };
    let shared = loop_.get().event_loop.shared();
    let before = lock_attached(py, &shared.sources).replace(token, cookie);
    // SAFETY: the table took the one and gave the other away, or took none.
    unsafe { kept::give_up(py, before.unwrap_or(cookie)) };
    if before.is_some() {
        core.kept_weakly().store(weakly, Release);
        transport.call_method1(intern!(py, "_kept"), (!weakly,))?;
    }
    Ok(())
}

/// The turn of a native object, on its loop's thread. However it ends, also by a panic, there is an entry
/// for another one if there is more to do.
pub(crate) struct InTurn<'a, 'py, T: Fn() -> Option<IoToken>> {
    pub(crate) loop_: &'a Bound<'py, LoopCore>,
    /// The object, which is alive during the turn.
    pub(crate) object: *mut ffi::PyObject,
    pub(crate) state: &'a State,
    pub(crate) token: T,
}

impl<T: Fn() -> Option<IoToken>> Drop for InTurn<'_, '_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        if self.state.end_turn() == Schedule::Needed {
            make_entry(self.loop_, self.object, (self.token)());
        }
    }
}

/// A transport's turn: it is introduced to its protocol, or if it has been, does `work`.
///
/// # Errors
/// `SystemExit` and `KeyboardInterrupt` from a callback of the protocol, and what an exception
/// handler lets through.
#[inline(always)]
pub(crate) fn take_turn<'a, H: NativeTransport>(
    loop_: &Bound<'_, LoopCore>,
    transport: &Bound<'_, PyAny>,
    core: &'a H,
    work: impl FnOnce(Turn<'a>) -> PyResult<()>,
) -> PyResult<()> {
    let (link, state) = (core.link(), core.link().state());
    let begun = state.begin_turn();
    let unstarted = begun.bits.is_unstarted();
    // Of a connection aborted this early the protocol hears as of any other: it was made, and lost.
    if begun.bits.is_dead() && !(unstarted && link.ending().is_losing()) {
        return Ok(());
    }
    let in_turn = InTurn { loop_, object: transport.as_ptr(), state, token: || link.token() };
    let result = if unstarted { start(loop_, transport, state) } else { work(begun) };
    drop(in_turn);
    both(loop_.py(), result, keep_as_needed(core, loop_, transport))
}

/// Makes the entry for a transport's next turn, if one is needed.
///
/// `slf`: the transport, which is alive during the call.
#[inline(always)]
pub(crate) fn schedule(
    loop_: &Bound<'_, LoopCore>,
    slf: *mut ffi::PyObject,
    link: &Link,
    needed: Schedule,
) {
    if needed == Schedule::Needed {
        make_entry(loop_, slf, link.token());
    }
}

/// Notes that a source of the loop may have work: if the loop gets stuck, others do it.
pub(crate) fn note_work(loop_: &Bound<'_, LoopCore>, token: IoToken) {
    lock_attached(loop_.py(), &loop_.get().event_loop.shared().sources).note_work(token);
}

/// Makes an entry for a native object, and notes that it may have work: if the loop is stuck before its
/// turn comes, others do it.
///
/// `slf`: the object, which is alive during the call.
pub(crate) fn make_entry(
    loop_: &Bound<'_, LoopCore>,
    slf: *mut ffi::PyObject,
    token: Option<IoToken>,
) {
    if let Some(token) = token {
        note_work(loop_, token);
    }
    // SAFETY: by our caller's word.
    loop_.get().schedule(Callback::from_native(unsafe { Ref::from_borrowed(slf) }));
}

/// Ends the connection at once, unless that has begun: what is queued is forgotten.
pub(crate) fn abort<P: Port>(py: Python<'_>, port: &Arc<P>) -> Abort {
    let aborted = port.link().ending().abort();
    if aborted == Abort::LoseSoon {
        give_up(py, port);
    }
    aborted
}

/// Ends all work on the descriptor, and takes the transport from its loop. Afterwards the descriptor
/// may be closed. Says whether it was with its loop.
pub(crate) fn retire<P: Port>(port: &Arc<P>, loop_: &Bound<'_, LoopCore>) -> bool {
    give_up(loop_.py(), port);
    leave(port, loop_)
}

/// Takes the transport from its loop; false if it has left already. Of one that nothing will come to
/// and nothing has to leave any more: its descriptor's number is then free for another transport.
pub(crate) fn leave<P: Port>(port: &Arc<P>, loop_: &Bound<'_, LoopCore>) -> bool {
    let (py, shared) = (loop_.py(), loop_.get().event_loop.shared());
    let Some(token) = port.link().token() else { return false };
    let entry = lock_attached(py, &shared.sources).remove(token);
    let left = entry.is_some();
    if let Some(entry) = entry {
        loop_.get().event_loop.metrics().transports.sub_shared(1);
        deregister(loop_, port.link().descriptor());
        // SAFETY: the table's own reference.
        unsafe { kept::give_up(py, entry.cookie) };
    }
    left
}

/// Forbids further work and waits, detached, for a job under way on another thread: at most a few
/// system calls that do not wait. Then drops what was queued.
fn give_up<P: Port>(py: Python<'_>, port: &Arc<P>) {
    let state = port.link().state();
    if state.retire() {
        py.detach(|| wait_until_unclaimed(state));
    }
    port.forget();
}

/// Waits for a job that is under way on another thread. It may be called attached: a job waits for
/// nothing.
pub(crate) fn wait_until_unclaimed(state: &State) {
    while state.bits().is_claimed() {
        std::thread::yield_now();
    }
}

/// Lets no thread use the descriptor any more, of a transport that is freed.
pub(crate) fn wait_for_helpers(link: &Link) {
    if link.state().retire() {
        wait_until_unclaimed(link.state());
    }
}

/// Puts a source into the table. `None` if its descriptor has one: what has lost its own to the program,
/// so that its number was given again, makes room.
pub(crate) fn insert(
    loop_: &Bound<'_, LoopCore>,
    fd: RawFd,
    source: &Arc<dyn Source>,
    cookie: usize,
) -> Option<IoToken> {
    let (py, shared) = (loop_.py(), loop_.get().event_loop.shared());
    let inserted = lock_attached(py, &shared.sources).insert(fd, Arc::clone(source), cookie);
    if inserted.is_some() {
        return inserted;
    }
    let evicted = loop_
        .call_method1(intern!(py, "_evict"), (Returned(fd),))
        .and_then(|done| done.is_truthy());
    if !evicted.unwrap_or(false) {
        return None;
    }
    lock_attached(py, &shared.sources).insert(fd, Arc::clone(source), cookie)
}

/// Lets the kernel report nothing more of what has left the table. Once the program has closed the
/// descriptor, its number may be that of another registration of the loop, which is left alone.
pub(crate) fn deregister(loop_: &Bound<'_, LoopCore>, descriptor: &Descriptor) {
    let (py, core) = (loop_.py(), loop_.get());
    let is_ours = descriptor.is_held()
        || lock_attached(py, &core.event_loop.io).get(descriptor.number()).is_none();
    if is_ours {
        let _ =
            core.event_loop.shared().with_handle(|handle| handle.deregister(descriptor.number()));
    }
}
