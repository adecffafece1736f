//! How a response gets from any thread into a connection, and what the connection's loop is told of it.

use std::io;
use std::sync::Arc;

use pyo3::prelude::*;

use super::connection::HttpConnection;
use crate::event_loop::{Completion, Job};
use crate::http::HttpFilter;
use crate::py::cpython::attach::lock_attached;
use crate::py::cpython::names::intern;
use crate::py::event_loop::core::LoopCore;
use crate::py::transport::stream::StreamCore;
use crate::py::transport::stream_methods::send_queued;
use crate::py::transport::stream_turn::write_failed;
use crate::py::transport::transport_core::{NativeTransport, schedule};
use crate::transport::{Ciphertext, Filter, Passage, Schedule, Source};

/// Lets `make` work on the connection's HTTP, and sends what it wants sent: at once if the loop runs here; otherwise
/// it is queued, and this thread sends it. `None`: the connection is lost. Any thread.
///
/// # Errors
/// What ends the program, from a callback of the transport's.
pub(super) fn transmit<R>(
    py: Python<'_>,
    connection: &HttpConnection,
    make: impl FnOnce(&mut HttpFilter, &mut Ciphertext) -> io::Result<R>,
) -> PyResult<Option<R>> {
    let Some(parts) = connection.parts(py) else { return Ok(None) };
    let (core, loop_) = (parts.core.get(), connection.loop_(py));
    let (stream, event_loop) = (&core.stream, &loop_.get().event_loop);
    let Some(filter) = stream.filter() else { return Ok(None) };
    if core.link().ending().is_losing() || stream.state().bits().is_dead() {
        return Ok(None);
    }
    let is_owner = event_loop.local.is_owner();
    let sent = Passage::with(|passage| {
        let mut locked = lock_attached(py, filter);
        let to = &mut passage.ciphertext;
        stream.make_through(&mut locked, !is_owner, to, |filter: &mut HttpFilter, to| {
            make(filter, to).map(|result| (result, filter.has_news()))
        })
    });
    let transport = parts.transport.bind(py);
    let ((result, news), wrote, takes_again) = match sent {
        Ok(sent) => sent,
        Err(error) if is_owner && error.kind() != io::ErrorKind::NotConnected => {
            return write_failed(transport, &error).map(|()| None);
        }
        // Its owner hears of it when it reads, or writes what is queued.
        Err(_) => return Ok(None),
    };
    event_loop.metrics().bytes_out.add_shared(wrote.sent as u64);
    if !is_owner {
        from_elsewhere(py, loop_, core, wrote.queued || takes_again, news || takes_again);
        return Ok(Some(result));
    }
    if news || takes_again {
        schedule(loop_, transport.as_ptr(), core.link(), stream.state().note_news());
    }
    if wrote.queued {
        send_queued(py, transport.as_ptr(), core, loop_)?;
    }
    Ok(Some(result))
}

/// Lets `f` look at the connection's HTTP, also of a connection that is lost. If that makes room for more of what
/// comes, it is read on; what is answered on the way is queued, and sent. `None`: it is used by a thread that a fork has
/// left behind, or has failed.
pub(super) fn look_at<R>(
    py: Python<'_>,
    connection: &HttpConnection,
    core: &Py<StreamCore>,
    f: impl FnOnce(&mut HttpFilter, &mut Ciphertext) -> R,
) -> Option<R> {
    let (native, loop_) = (core.get(), connection.loop_(py));
    let was_queued = native.stream.state().bits().is_queued();
    let found = Passage::with(|passage| {
        let mut locked = native.filter(py)?;
        let to = &mut passage.ciphertext;
        let found =
            native.stream.make_through(&mut locked, true, to, |filter: &mut HttpFilter, to| {
                let had_news = filter.has_news();
                let found = f(filter, to);
                Ok((found, filter.has_news() && !had_news, to.len()))
            });
        let ((found, news, answers), wrote, takes_again) = found.ok()?;
        let are_unread = answers > 0 && locked.answers(answers, was_queued);
        Some((found, news || takes_again || wrote.queued, are_unread))
    });
    let (found, has_work, are_unread) = found?;
    if are_unread {
        give_up(py, connection, loop_);
        return Some(found);
    }
    if has_work {
        if loop_.get().event_loop.local.is_owner() {
            if let Some(parts) = connection.parts(py) {
                // Its turn sends what is queued, too.
                let news = native.stream.state().note_news();
                schedule(loop_, parts.transport.as_ptr(), native.link(), news);
            }
        } else {
            // Its loop may be stuck, and what is read wakes who waits for it.
            from_elsewhere(py, loop_, native, true, true);
        }
    }
    Some(found)
}

/// Ends the connection of a client that asks for answers, and does not read them.
#[cold]
fn give_up(py: Python<'_>, connection: &HttpConnection, loop_: &Bound<'_, LoopCore>) {
    let Some(parts) = connection.parts(py) else { return };
    let abort = parts.transport.bind(py).getattr(intern!(py, "abort"));
    // If its loop has closed, so has the connection.
    let _ =
        abort.and_then(|abort| loop_.call_method1(intern!(py, "call_soon_threadsafe"), (abort,)));
}

/// Lets the connection's loop have a look at it, if that is not the one that runs here.
pub(super) fn ask_owner(py: Python<'_>, connection: &HttpConnection) {
    let loop_ = connection.loop_(py);
    if let Some(parts) = connection.parts(py)
        && !loop_.get().event_loop.local.is_owner()
    {
        from_elsewhere(py, loop_, parts.core.get(), false, true);
    }
}

/// Does the transport's work as another thread than the loop's does, and tells the loop.
#[cold]
fn from_elsewhere(
    py: Python<'_>,
    loop_: &Bound<'_, LoopCore>,
    core: &StreamCore,
    works: bool,
    news: bool,
) {
    let Some(token) = core.link().token() else { return };
    let owner = Arc::clone(loop_.get().event_loop.shared());
    let source: Arc<dyn Source> = core.stream.clone();
    py.detach(|| {
        if news && source.state().note_news() == Schedule::Needed {
            owner.complete(Completion::Turn(token));
        }
        if works {
            // What it reads on the way is read ahead.
            let _ = Job { owner, token, source }.run(&mut [], true);
        }
    });
}
