//! What all native transports share: where their Python halves keep what, and how a protocol is called.
//!
//! A transport that a program sees is an instance of a class of `python/loop_pool/_loop/transports.py` and its like,
//! which inherits asyncio's and keeps its Python references in slots; the native half is in one of
//! them. So asyncio's `isinstance` holds, and the collector sees every reference.

use std::sync::OnceLock;

use pyo3::exceptions::PyImportError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple, PyType};

use crate::py::asyncio::handle::Scheduled;
use crate::py::cpython::alloc;
use crate::py::cpython::context::Entered;
use crate::py::cpython::error::{both, ends_the_program};
use crate::py::cpython::names::intern;
use crate::py::cpython::object::{Ref, decref};
use crate::py::cpython::slots::{in_critical_section, slot, slot_offset};
use crate::py::event_loop::callback::Callback;
use crate::py::event_loop::core::LoopCore;
use crate::py::event_loop::report::report;
use crate::transport::{Schedule, State};

/// Where the Python half of a transport keeps what, in bytes from the start of the object.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    core: usize,
    loop_: usize,
    protocol: usize,
    context: usize,
}

static LAYOUT: OnceLock<Layout> = OnceLock::new();

#[inline(always)]
fn layout() -> &'static Layout {
    debug_assert!(LAYOUT.get().is_some());
    // SAFETY: the package learns the layout at import, before it makes a transport.
    unsafe { LAYOUT.get().unwrap_unchecked() }
}

/// Learns where the instances of a transport class keep their references. All classes agree.
///
/// # Errors
/// `ImportError` if they do not.
pub(crate) fn learn(class: &Bound<'_, PyType>) -> PyResult<()> {
    let found = Layout {
        core: slot_offset(class, "_core")?,
        loop_: slot_offset(class, "_loop")?,
        protocol: slot_offset(class, "_protocol")?,
        context: slot_offset(class, "_context")?,
    };
    if *LAYOUT.get_or_init(|| Layout { ..found }) == found {
        Ok(())
    } else {
        Err(alloc::error::<PyImportError>(
            class.py(),
            "loop_pool's transport classes are laid out differently",
        ))
    }
}

/// The native half.
///
/// # Safety
/// `transport` is alive and an instance of a class that was [`learn`]ed.
#[inline(always)]
pub(crate) unsafe fn core_of<'a>(
    transport: *mut ffi::PyObject,
) -> PyResult<&'a *mut ffi::PyObject> {
    // SAFETY: the slot is set once, before the transport is shared.
    let core = unsafe { &*slot(transport, layout().core) };
    if core.is_null() {
        // SAFETY: whoever looks into a live object is attached.
        let py = unsafe { Python::assume_attached() };
        return Err(alloc::runtime_error(py, "the transport was not initialised"));
    }
    Ok(core)
}

/// The loop, set once, before the transport is shared.
///
/// # Safety
/// As for [`core_of`], which has succeeded.
#[inline(always)]
pub(crate) unsafe fn loop_of(
    _py: Python<'_>,
    transport: *mut ffi::PyObject,
) -> &Bound<'_, LoopCore> {
    // SAFETY: `Bound` is laid out as its pointer; the slot holds a `LoopCore`, as the class sees to.
    unsafe { &*slot(transport, layout().loop_).cast() }
}

/// The protocol, which any thread may replace.
#[inline(always)]
pub(crate) fn protocol_of(transport: &Bound<'_, PyAny>) -> Option<Ref> {
    let at = transport.as_ptr();
    // SAFETY: a live transport; counting runs no Python. Who replaces a slot holds the section.
    unsafe {
        in_critical_section(at, || {
            let protocol = *slot(at, layout().protocol);
            (!protocol.is_null()).then(|| Ref::from_borrowed(protocol))
        })
    }
}

/// Calls a method of the protocol in the transport's context. `None` if it has no protocol any more.
///
/// # Errors
/// What the method raises.
#[inline(always)]
pub(crate) fn call_protocol<const N: usize>(
    transport: &Bound<'_, PyAny>,
    method: &Bound<'_, PyString>,
    arguments: [&Ref; N],
) -> PyResult<Option<Ref>> {
    const { assert!(N <= MOST_ARGUMENTS) };
    let Some(protocol) = protocol_of(transport) else { return Ok(None) };
    let mut argv = [std::ptr::null_mut(); 2 + MOST_ARGUMENTS];
    argv[1] = protocol.as_ptr();
    for (place, argument) in argv[2..].iter_mut().zip(arguments) {
        *place = argument.as_ptr();
    }
    in_its_context(transport, || {
        // SAFETY: every object is alive during the call. `argv[0]` may be overwritten by the callee, as
        // the flag says.
        unsafe {
            ffi::PyObject_VectorcallMethod(
                method.as_ptr(),
                argv.as_mut_ptr().add(1),
                (1 + N) | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET,
                std::ptr::null_mut(),
            )
        }
    })
    .map(Some)
}

/// Runs `f` in the transport's context; it returns a new reference, or null with an exception set.
///
/// # Errors
/// That exception.
#[inline(always)]
pub(crate) fn in_its_context(
    transport: &Bound<'_, PyAny>,
    f: impl FnOnce() -> *mut ffi::PyObject,
) -> PyResult<Ref> {
    let py = transport.py();
    // SAFETY: the transport is alive; its context is set once.
    unsafe {
        let context = *slot(transport.as_ptr(), layout().context);
        let Some(entered) = Entered::new(context) else { return Err(alloc::raised(py)) };
        let result = f();
        if !entered.leave() {
            if !result.is_null() {
                decref(result);
            }
            return Err(alloc::raised(py));
        }
        Ref::from_owned_or_err(py, result)
    }
}

/// Arguments of a protocol's method: those of `datagram_received`.
const MOST_ARGUMENTS: usize = 2;

/// As [`call_protocol`]; an exception is reported as that of a callback, and ends nothing.
///
/// # Errors
/// `SystemExit`, `KeyboardInterrupt`, and what the exception handler lets through.
pub(crate) fn tell_protocol<const N: usize>(
    loop_: &Bound<'_, LoopCore>,
    transport: &Bound<'_, PyAny>,
    method: &Bound<'_, PyString>,
    arguments: [&Ref; N],
) -> PyResult<()> {
    let Err(error) = call_protocol(transport, method, arguments) else { return Ok(()) };
    let py = transport.py();
    let args = alloc::tuple(py, arguments)?;
    let protocol = transport.getattr(intern!(py, "_protocol"))?;
    let (callback, args) = match protocol.getattr(method) {
        Ok(callback) => (callback, args),
        Err(_) => missing(&protocol, method, &args)?,
    };
    let context = transport.getattr(intern!(py, "_context"))?;
    error.restore(py);
    let scheduled = Scheduled {
        callback: callback.into(),
        args: args.into_any().into(),
        context: context.into(),
    };
    report(loop_, None, scheduled)
}

/// A call of a method that the protocol does not have, as a callback and its arguments, so that the
/// report of it names the method.
#[cold]
fn missing<'py>(
    protocol: &Bound<'py, PyAny>,
    method: &Bound<'py, PyString>,
    args: &Bound<'py, PyTuple>,
) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
    let py = protocol.py();
    let caller = py.import(intern!(py, "operator"))?.getattr(intern!(py, "methodcaller"))?;
    let all: Vec<_> = std::iter::once(method.clone().into_any()).chain(args.iter()).collect();
    let callback = caller.call1(alloc::tuple_of(py, &all)?)?;
    Ok((callback, alloc::tuple(py, [protocol])?))
}

/// Introduces the transport to its protocol, and lets it begin.
///
/// # Errors
/// As [`tell_protocol`].
#[cold]
pub(crate) fn start(
    loop_: &Bound<'_, LoopCore>,
    transport: &Bound<'_, PyAny>,
    state: &State,
) -> PyResult<()> {
    let py = transport.py();
    let argument = Ref::from(transport.clone());
    let told = tell_protocol(loop_, transport, intern!(py, "connection_made"), [&argument]);
    // What else began with it is the same whether the protocol liked it or not, as in asyncio. Whoever
    // waits for the connection goes on before data come.
    let woken = transport.call_method0(intern!(py, "_wake_waiter"));
    if state.start() == Schedule::Needed {
        loop_.get().schedule(Callback::from_native(transport.clone().into()));
    }
    both(py, told, woken.map(drop))
}

/// Ends the connection by an error, as asyncio's `_fatal_error`.
///
/// # Errors
/// The error itself if it ends the program, and what the exception handler lets through.
#[cold]
pub(crate) fn fatal_error(
    transport: &Bound<'_, PyAny>,
    error: PyErr,
    message: &str,
) -> PyResult<()> {
    let py = transport.py();
    if ends_the_program(py, &error) {
        return Err(error);
    }
    transport.call_method1(
        intern!(py, "_fatal_error"),
        (error.into_value(py), alloc::text(py, message)?),
    )?;
    Ok(())
}

/// The native half of a transport of a known kind.
///
/// # Safety
/// `core` comes from the slot of a transport of that kind, which is alive as long as the result is
/// used.
#[inline(always)]
pub(crate) unsafe fn cast<'a, C>(core: &'a *mut ffi::PyObject) -> &'a C
where
    C: pyo3::PyClass<Frozen = pyo3::pyclass::boolean_struct::True> + Sync,
{
    // SAFETY: the class puts a `C` there; `Bound` is laid out as its pointer.
    unsafe { (*std::ptr::from_ref(core).cast::<Bound<'a, C>>()).get() }
}
