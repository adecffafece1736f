//! The turn of a stream transport whose bytes pass a filter: TLS, HTTP.
//!
//! As that of any stream, with some differences. The HTTP server is told when requests have come, and asks the filter for
//! them. The protocol is introduced when the filter has opened the connection, in
//! whichever thread that was; and what was read is delivered as what another thread has read ahead.

use std::collections::VecDeque;

use pyo3::prelude::*;

use super::layout::{call_protocol, fatal_error, in_its_context};
use super::stream::StreamCore;
use super::stream_turn::Turn;
use super::transport_core::{NativeTransport, schedule, take_turn};
use crate::config;
use crate::py::cpython::attach::lock_attached;
use crate::py::cpython::bytes_builder::{Built, BytesBuilder};
use crate::py::cpython::error::both;
use crate::py::cpython::names::intern;
use crate::py::cpython::payload::bytes_of;
use crate::py::event_loop::core::LoopCore;
use crate::sync::Mutex;
use crate::transport::{Ahead, Passage, ReadClaim, ReadOutcome, Source};

/// Does what there is to do for a transport with a filter, on its loop's thread.
///
/// # Errors
/// `SystemExit` and `KeyboardInterrupt` from a callback of the protocol, and what an exception
/// handler lets through.
pub(crate) fn run(
    loop_: &Bound<'_, LoopCore>,
    transport: &Bound<'_, PyAny>,
    core: &StreamCore,
) -> PyResult<()> {
    take_turn(loop_, transport, core, |begun| {
        let turn = Turn { loop_, transport, core };
        let has_news = begun.bits.has_news();
        let read = if let Some(claim) = begun.claim {
            read(&turn, claim, has_news)
        } else {
            // Before anything that comes behind it.
            let told = introduce(&turn).and_then(|()| tell_news(&turn, has_news));
            told.and_then(|()| deliver_ahead(&turn))
        };
        let done = both(loop_.py(), read, turn.write(has_news));
        regulate(&turn);
        done
    })
}

/// Has the HTTP server look at what has come.
#[inline]
fn tell_news(turn: &Turn<'_, '_>, has_news: bool) -> PyResult<()> {
    if !has_news || !turn.core.protocol.is_http() || !turn.core.stream.is_introduced() {
        return Ok(());
    }
    call_protocol(turn.transport, intern!(turn.transport.py(), "_news"), []).map(drop)
}

/// Reads no more while the filter is full; on, when it is not. Whoever empties it after this look has noted news, so
/// that another turn follows.
fn regulate(turn: &Turn<'_, '_>) {
    let (stream, core) = (&turn.core.stream, turn.core);
    if !core.protocol.is_http() || core.link().ending().is_closing() {
        return;
    }
    let is_paused = stream.state().bits().is_paused();
    if stream.is_full() && !is_paused {
        stream.state().pause();
    }
    if !stream.is_full() && stream.state().bits().is_paused() {
        schedule(turn.loop_, turn.transport.as_ptr(), core.link(), stream.state().resume());
    }
}

/// Reads, and hands on what came, as often as a turn may.
fn read<'a>(turn: &Turn<'a, '_>, mut claim: ReadClaim<'a>, mut has_news: bool) -> PyResult<()> {
    let (stream, metrics) = (&turn.core.stream, turn.loop_.get().event_loop.metrics());
    for _ in 0..config::READS_PER_TURN {
        let (passed, came) = read_once(turn, &claim);
        metrics.bytes_in.add(passed.bytes as u64);
        claim.release_in_turn(passed.more && passed.last.is_none());
        let is_failure = matches!(passed.last, Some(Ahead::Failed(_)));
        // It says to the peer why the connection ends.
        let said = if is_failure && passed.answers { turn.write(false) } else { Ok(()) };
        has_news |= passed.news;
        let known = introduce(turn).and_then(|()| tell_news(turn, has_news));
        has_news = false;
        let delivered = match both(turn.transport.py(), said, known) {
            Ok(()) => deliver(turn, &came, passed.last),
            Err(error) => {
                // The program may go on: nothing is lost.
                put_back(turn, bytes_in(&came), passed.last);
                Err(error)
            }
        };
        if let Built::Memory(plaintext) = came {
            Passage::give_back(plaintext);
        }
        delivered?;
        if stream.is_full() {
            return Ok(());
        }
        let goes_on = passed.more.then(|| stream.state().claim_read_in_turn()).flatten();
        let Some(again) = goes_on else { return Ok(()) };
        claim = again;
    }
    Ok(())
}

/// Reads once. During the handshake it is detached: a signature takes long.
fn read_once(turn: &Turn<'_, '_>, claim: &ReadClaim<'_>) -> (ReadOutcome, Built) {
    let (py, stream, protocol) = (turn.transport.py(), &turn.core.stream, &turn.core.protocol);
    let taken = |passage: &mut Passage, passed| (passed, Built::Memory(passage.take_plaintext()));
    if stream.is_open() && !protocol.is_buffered() && !protocol.is_streams() && !protocol.is_http()
    {
        let mut plaintext = BytesBuilder::new(py);
        let passed = Passage::with(|passage| {
            let lock = |filter| lock_attached(py, filter);
            stream.read_through_into(claim, passage, &mut plaintext, lock)
        });
        (passed, plaintext.finish())
    } else if stream.is_open() {
        Passage::with(|passage| {
            let passed = stream.read_through(claim, passage, |filter| lock_attached(py, filter));
            taken(passage, passed)
        })
    } else {
        py.detach(|| {
            Passage::with(|passage| {
                let passed = stream.read_through(claim, passage, Mutex::lock);
                taken(passage, passed)
            })
        })
    }
}

/// Introduces the transport to its protocol, once the connection is open.
#[inline]
fn introduce(turn: &Turn<'_, '_>) -> PyResult<()> {
    let stream = &turn.core.stream;
    if stream.is_introduced() || !stream.is_open() || turn.core.link().ending().is_losing() {
        return Ok(());
    }
    introduce_now(turn)
}

#[cold]
fn introduce_now(turn: &Turn<'_, '_>) -> PyResult<()> {
    let py = turn.transport.py();
    turn.core.stream.introduce();
    turn.loop_.get().event_loop.shared().load.opening.sub_shared(1);
    let told = in_its_context(turn.transport, || {
        let told = turn.transport.call_method0(intern!(py, "_opened"));
        told.map_or_else(
            |error| {
                error.restore(py);
                std::ptr::null_mut()
            },
            Bound::into_ptr,
        )
    });
    told.map(drop).or_else(|error| {
        let message = "Fatal error: protocol.connection_made() call failed.";
        fatal_error(turn.transport, error, message)
    })
}

/// Delivers what this thread has read, and what comes behind it.
fn deliver(turn: &Turn<'_, '_>, came: &Built, last: Option<Ahead>) -> PyResult<()> {
    let (state, protocol) = (turn.core.stream.state(), &turn.core.protocol);
    let mut rest = bytes_in(came);
    if last.is_none() && rest.is_empty() {
        return Ok(());
    }
    let mut result = Ok(());
    if !rest.is_empty() && !state.bits().is_paused() && !state.bits().is_read_closed() {
        let is_plain = !protocol.is_buffered() && !protocol.is_streams();
        (rest, result) = match came {
            Built::Bytes(object) if is_plain && !turn.core.link().ending().is_shut() => {
                (&[][..], turn.received(object))
            }
            _ => turn.deliver(rest),
        };
    }
    // The protocol has paused, or it is not the data's turn yet.
    put_back(turn, rest, last);
    if result.is_err() { result } else { deliver_ahead(turn) }
}

fn bytes_in(came: &Built) -> &[u8] {
    match came {
        Built::Memory(bytes) => bytes,
        // SAFETY: the object lives as long as it is borrowed.
        Built::Bytes(object) => unsafe { bytes_of(object.as_ptr()) },
    }
}

/// Lets what was read wait for another turn.
fn put_back(turn: &Turn<'_, '_>, rest: &[u8], last: Option<Ahead>) {
    let stream = &turn.core.stream;
    if stream.state().bits().is_read_closed() || (rest.is_empty() && last.is_none()) {
        return;
    }
    let mut waiting = VecDeque::new();
    if !rest.is_empty() {
        waiting.push_back(Ahead::Data(rest.to_vec()));
    }
    waiting.extend(last);
    stream.put_back_ahead(waiting);
}

fn deliver_ahead(turn: &Turn<'_, '_>) -> PyResult<()> {
    if turn.core.stream.state().bits().is_ahead() { turn.deliver_ahead() } else { Ok(()) }
}
