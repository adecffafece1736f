//! How data reach asyncio's own streams without a Python frame: what `data_received` of a
//! `StreamReaderProtocol` and `feed_data` of its `StreamReader` do is done natively.
//!
//! In: a protocol, and the data that came for it. Out: whether they were taken. Whenever anything is
//! not as the two classes themselves make it, they are not, and the caller calls `data_received`: a
//! subclass, a method replaced on the class or on the instance, a reader that is gone, at its end or
//! without room, a waiter that is no C future, an attribute of another type, a tool of
//! `sys.monitoring`, a trace or a profile function that would miss the calls.
//!
//! Attributes are read where the interpreter keeps them inside of an instance, as its own specialised
//! bytecode does: in an array behind the object, valid as long as nobody asked for its `__dict__`,
//! at a place that never changes for a class. The places are found at import by looking where a
//! marked value lands ([`learn`]). What is written about a class holds as long as its version, which
//! every change of the class or of one of its bases takes away.
//!
//! Must never: run Python between the look at a reader and the last use of what was seen there; nor
//! use in one critical section what was seen in another, as other threads may have changed it.

use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering::Release};

use crate::py::cpython::alloc;
use crate::py::cpython::names::intern;
use crate::py::cpython::object::{Ref, decref};
use crate::py::cpython::slots::{in_critical_section, slot};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;

/// Where the instances of a class keep their attributes.
#[derive(Debug)]
struct Class {
    kind: *mut ffi::PyTypeObject,
    /// `tp_version_tag` at import.
    version: u32,
    /// Bytes from the start of an instance to the interpreter's header of its attributes.
    header: usize,
}

/// Bytes from the start of an instance to an attribute of it.
#[derive(Debug, Clone, Copy)]
struct Place(usize);

/// What was learned at import.
#[derive(Debug)]
struct Streams {
    protocol: Class,
    /// Filled if the method is replaced on the instance; so are the other methods.
    data_received: Place,
    stream_reader_wr: Place,
    reader: Class,
    feed_data: Place,
    wakeup_waiter: Place,
    buffer: Place,
    eof: Place,
    limit: Place,
    paused: Place,
    transport: Place,
    waiter: Place,
    future: *mut ffi::PyTypeObject,
}

// SAFETY: the pointers are to types that are never freed.
unsafe impl Send for Streams {}
// SAFETY: as above; nothing is changed.
unsafe impl Sync for Streams {}

static STREAMS: OnceLock<Streams> = OnceLock::new();

/// `Py_TPFLAGS_INLINE_VALUES`.
const INLINE_VALUES: std::ffi::c_ulong = 1 << 2;
/// The header of the attributes: how many there is room for, how many there are, two flags.
const VALID: usize = 3;
/// The attributes themselves begin behind it.
const VALUES: usize = 8;
/// `SHARED_KEYS_MAX_SIZE`: no instance has room for more.
const MOST_VALUES: usize = 30;
/// From the start of an instance to its `__dict__`, which is null until somebody asks for it.
const DICT: isize = if cfg!(Py_GIL_DISABLED) { -1 } else { -3 };
/// In a thread's state: bits that ask for attention, and above them the version of what tools
/// (`sys.settrace`, `sys.setprofile`, `sys.monitoring`) want to be told; zero before the first.
const EVAL_BREAKER: usize = 3;
const EVAL_BREAKER_BITS: u32 = 8;

// Public C API since 3.12; pyo3 does not bind it.
unsafe extern "C" {
    fn PyUnstable_Type_AssignVersionTag(kind: *mut ffi::PyTypeObject) -> std::ffi::c_int;
}

impl Class {
    /// Of a class whose instances keep attributes as expected. `None` if they do not.
    fn of(class: &Bound<'_, PyType>) -> PyResult<Option<Self>> {
        let kind = class.as_type_ptr();
        // SAFETY: a live type, and attached.
        let (flags, header, version) = unsafe {
            PyUnstable_Type_AssignVersionTag(kind);
            let header = (*kind).tp_basicsize.unsigned_abs();
            (ffi::PyType_GetFlags(kind), header, version_of(kind))
        };
        let inline = INLINE_VALUES | ffi::Py_TPFLAGS_MANAGED_DICT;
        if flags & inline != inline || version == 0 {
            return Ok(None);
        }
        let found = Self { kind, version, header };
        // What the places are told apart by is looked at as it changes.
        let sample = blank(class)?;
        let object = sample.as_ptr();
        // SAFETY: the flags say that an instance has the header, and a word for its dict.
        let fits = unsafe {
            let is_fresh = dict_of(object).is_null() && found.is_valid(object);
            let dict = sample.getattr(intern!(class.py(), "__dict__"))?;
            let is_dict = ptr::eq(dict_of(object), dict.as_ptr());
            sample.setattr(intern!(class.py(), "__dict__"), alloc::dict(class.py())?)?;
            is_fresh && is_dict && !found.is_valid(object)
        };
        Ok(fits.then_some(found))
    }

    /// Where an attribute is kept. `None` if it is not kept in the instance.
    fn place(&self, class: &Bound<'_, PyType>, name: &str) -> PyResult<Option<Place>> {
        let sample = blank(class)?;
        let marker = class
            .py()
            .import(intern!(class.py(), "builtins"))?
            .getattr(intern!(class.py(), "object"))?
            .call0()?;
        sample.setattr(alloc::text(class.py(), name)?, &marker)?;
        let object = sample.as_ptr();
        // SAFETY: as in `of`; the first byte of the header says how many attributes there is room for.
        let found: Vec<usize> = unsafe {
            if !self.is_plain(object) {
                return Ok(None);
            }
            let room = usize::from(*object.byte_add(self.header).cast::<u8>()).min(MOST_VALUES);
            (0..room)
                .map(|index| self.header + VALUES + index * size_of::<*mut ffi::PyObject>())
                .filter(|at| ptr::eq(*slot(object, *at), marker.as_ptr()))
                .collect()
        };
        sample.delattr(name)?;
        Ok(if let [at] = found[..] { Some(Place(at)) } else { None })
    }

    /// Whether `object` is an instance of the class itself, and the class as it was at import.
    ///
    /// # Safety
    /// `object` is alive, and the thread attached.
    #[inline(always)]
    unsafe fn is_of(&self, object: *mut ffi::PyObject) -> bool {
        // SAFETY: by the caller's word.
        unsafe { ptr::eq(ffi::Py_TYPE(object), self.kind) && version_of(self.kind) == self.version }
    }

    /// Whether the attributes of an instance are in the instance, and nowhere else.
    ///
    /// # Safety
    /// `object` is a live instance, and in its critical section.
    #[inline(always)]
    unsafe fn is_plain(&self, object: *mut ffi::PyObject) -> bool {
        // SAFETY: by the caller's word.
        unsafe { dict_of(object).is_null() && self.is_valid(object) }
    }

    /// # Safety
    /// `object` is a live instance.
    #[inline(always)]
    unsafe fn is_valid(&self, object: *mut ffi::PyObject) -> bool {
        // SAFETY: by the caller's word.
        unsafe { object.byte_add(self.header + VALID).cast::<u8>().read_volatile() == 1 }
    }
}

/// An instance without attributes.
fn blank<'py>(class: &Bound<'py, PyType>) -> PyResult<Bound<'py, PyAny>> {
    class.call_method1(intern!(class.py(), "__new__"), (class,))
}

/// # Safety
/// `kind` is a live type.
#[inline(always)]
unsafe fn version_of(kind: *mut ffi::PyTypeObject) -> u32 {
    // SAFETY: by the caller's word. Another thread may take the version away.
    unsafe { (&raw const (*kind).tp_version_tag).read_volatile() }
}

/// # Safety
/// `object` is a live instance of a class whose instances have a managed dict.
#[inline(always)]
unsafe fn dict_of(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: by the caller's word.
    unsafe { object.cast::<*mut ffi::PyObject>().offset(DICT).read_volatile() }
}

impl Place {
    /// What stands there: borrowed, or null.
    ///
    /// # Safety
    /// `object` is a live instance of the class that the place is of, plain, and in its section.
    #[inline(always)]
    unsafe fn get(self, object: *mut ffi::PyObject) -> *mut ffi::PyObject {
        // SAFETY: by the caller's word.
        unsafe { *slot(object, self.0) }
    }
}

/// Whether tools were ever asked to watch Python code in this process: they would miss our calls.
///
/// # Safety
/// The thread is attached.
#[inline(always)]
unsafe fn is_watched() -> bool {
    // SAFETY: a live thread's state, which is much larger.
    let word = unsafe { *ffi::PyThreadState_Get().cast::<usize>().add(EVAL_BREAKER) };
    word >> EVAL_BREAKER_BITS != 0
}

/// Learns how the instances of asyncio's two classes keep their attributes; returns whether that is
/// known. `future`: the class of the futures that wait.
#[pyfunction]
#[pyo3(name = "_learn_streams", signature = (protocol, reader, future, /))]
pub(crate) fn learn(
    protocol: &Bound<'_, PyType>,
    reader: &Bound<'_, PyType>,
    future: &Bound<'_, PyType>,
) -> PyResult<bool> {
    let found = look(protocol, reader, future)?;
    Ok(found.is_some_and(|found| STREAMS.set(found).is_ok()))
}

fn look(
    protocol: &Bound<'_, PyType>,
    reader: &Bound<'_, PyType>,
    future: &Bound<'_, PyType>,
) -> PyResult<Option<Streams>> {
    let (Some(of_protocol), Some(of_reader)) = (Class::of(protocol)?, Class::of(reader)?) else {
        return Ok(None);
    };
    let in_protocol = |name| of_protocol.place(protocol, name);
    let in_reader = |name| of_reader.place(reader, name);
    let places = (
        [in_protocol("data_received")?, in_protocol("_stream_reader_wr")?],
        [in_reader("feed_data")?, in_reader("_wakeup_waiter")?, in_reader("_buffer")?],
        [in_reader("_eof")?, in_reader("_limit")?, in_reader("_paused")?],
        [in_reader("_transport")?, in_reader("_waiter")?],
    );
    let (
        [Some(data_received), Some(stream_reader_wr)],
        [Some(feed_data), Some(wakeup_waiter), Some(buffer)],
        [Some(eof), Some(limit), Some(paused)],
        [Some(transport), Some(waiter)],
    ) = places
    else {
        return Ok(None);
    };
    // The references that make the classes live as long as the process.
    for class in [protocol, reader, future] {
        let _ = class.clone().into_ptr();
    }
    Ok(Some(Streams {
        protocol: of_protocol,
        data_received,
        stream_reader_wr,
        reader: of_reader,
        feed_data,
        wakeup_waiter,
        buffer,
        eof,
        limit,
        paused,
        transport,
        waiter,
        future: future.as_type_ptr(),
    }))
}

/// A reader that takes data.
#[derive(Debug)]
pub(crate) struct Feed {
    streams: &'static Streams,
    reader: Ref,
    buffer: Ref,
    /// Bytes that its buffer may hold before the reader wants to pause its transport.
    room: usize,
}

impl Feed {
    /// The reader behind a protocol, if data can be given to it natively.
    #[inline]
    pub(crate) fn of(protocol: &Ref) -> Option<Self> {
        let streams = STREAMS.get()?;
        // SAFETY: the objects are alive, and we are attached.
        unsafe {
            if is_watched() {
                return None;
            }
            let reader = streams.reader_of(protocol)?;
            streams.look_at(reader)
        }
    }

    /// Adds data to the buffer; whether they were taken. Runs no Python.
    #[inline]
    pub(crate) fn take(&self, data: &[u8]) -> bool {
        let buffer = self.buffer.as_ptr();
        // SAFETY: the buffer is a bytearray, which we hold, and nobody changes it in its section.
        // Making it larger runs no Python: at most it sets an exception.
        unsafe {
            in_critical_section(buffer, || {
                let before = ffi::PyByteArray_Size(buffer).unsigned_abs();
                let after = before.saturating_add(data.len());
                if after > self.room {
                    return false;
                }
                if ffi::PyByteArray_Resize(buffer, after.cast_signed()) != 0 {
                    // Somebody holds a view of it: `feed_data` says so.
                    ffi::PyErr_Clear();
                    return false;
                }
                let end = ffi::PyByteArray_AsString(buffer).cast::<u8>().add(before);
                ptr::copy_nonoverlapping(data.as_ptr(), end, data.len());
                true
            })
        }
    }

    /// Takes whoever waits for data from the reader, to be [`wake`]d. What `of` saw is looked at again
    /// in the section in which it is used: other threads may have had the dict, or added to it.
    #[inline]
    pub(crate) fn take_waiter(&self) -> Waiter {
        let (streams, reader) = (self.streams, self.reader.as_ptr());
        // SAFETY: we are attached, and hold the reader. It is plain when the slot is read, so that the
        // slot is the attribute, and its reference ours once `None` stands there; others look at it as
        // at any attribute that is replaced.
        unsafe {
            in_critical_section(reader, || {
                if !streams.wakes_natively(reader) {
                    return Waiter::Otherwise;
                }
                let waiter = streams.waiter.get(reader);
                if ptr::eq(waiter, ffi::Py_None()) {
                    return Waiter::Nobody;
                }
                AtomicPtr::from_ptr(slot(reader, streams.waiter.0)).store(ffi::Py_None(), Release);
                Waiter::Future(Ref::from_owned(ptr::NonNull::new_unchecked(waiter)))
            })
        }
    }

    /// Wakes whoever waits as `feed_data` does it: by the reader's own method. A new reference, or null
    /// with an exception set.
    #[cold]
    pub(crate) fn wake_otherwise(&self, py: Python<'_>) -> *mut ffi::PyObject {
        let method = intern!(py, "_wakeup_waiter").as_ptr();
        // SAFETY: we hold the reader, and are attached.
        unsafe { ffi::PyObject_CallMethodNoArgs(self.reader.as_ptr(), method) }
    }
}

/// Who waits for a reader's data.
#[derive(Debug)]
pub(crate) enum Waiter {
    Nobody,
    /// To be [`wake`]d; the reader has it no more.
    Future(Ref),
    /// The reader is not as it was: [`Feed::wake_otherwise`].
    Otherwise,
}

/// Wakes the waiter of a reader, unless it was cancelled: in the transport's context. A new reference,
/// or null with an exception set.
pub(crate) fn wake(py: Python<'_>, waiter: &Ref) -> *mut ffi::PyObject {
    // SAFETY: the waiter is alive, and we are attached.
    unsafe {
        let cancelled = intern!(py, "cancelled").as_ptr();
        let answer = ffi::PyObject_CallMethodNoArgs(waiter.as_ptr(), cancelled);
        if answer.is_null() || ptr::eq(answer, ffi::Py_True()) {
            return answer;
        }
        decref(answer);
        let set_result = intern!(py, "set_result").as_ptr();
        ffi::PyObject_CallMethodOneArg(waiter.as_ptr(), set_result, ffi::Py_None())
    }
}

impl Streams {
    /// # Safety
    /// The thread is attached.
    #[inline(always)]
    unsafe fn reader_of(&self, protocol: &Ref) -> Option<Ref> {
        let protocol = protocol.as_ptr();
        // SAFETY: the caller holds the protocol; its class is checked before its attributes are
        // looked at. What they refer to is counted in the section.
        unsafe {
            if !self.protocol.is_of(protocol) {
                return None;
            }
            let weak = in_critical_section(protocol, || {
                if !self.protocol.is_plain(protocol) || !self.data_received.get(protocol).is_null()
                {
                    return None;
                }
                let weak = self.stream_reader_wr.get(protocol);
                let is_weak = !weak.is_null() && ffi::PyWeakref_CheckRefExact(weak) != 0;
                is_weak.then(|| Ref::from_borrowed(weak))
            })?;
            let mut reader = ptr::null_mut();
            ffi::compat::PyWeakref_GetRef(weak.as_ptr(), &raw mut reader);
            ptr::NonNull::new(reader).map(|reader| Ref::from_owned(reader))
        }
    }

    /// # Safety
    /// The thread is attached.
    #[inline(always)]
    unsafe fn look_at(&'static self, reader: Ref) -> Option<Feed> {
        let object = reader.as_ptr();
        // SAFETY: as above.
        let (buffer, room) = unsafe {
            if !self.reader.is_of(object) {
                return None;
            }
            in_critical_section(object, || {
                if !self.wakes_natively(object)
                    || !self.feed_data.get(object).is_null()
                    || !ptr::eq(self.eof.get(object), ffi::Py_False())
                {
                    return None;
                }
                let buffer = self.buffer.get(object);
                if buffer.is_null() || ffi::PyByteArray_CheckExact(buffer) == 0 {
                    return None;
                }
                let room = self.room_of(object)?;
                Some((Ref::from_borrowed(buffer), room))
            })?
        };
        Some(Feed { streams: self, reader, buffer, room })
    }

    /// Whether the reader is plain, and who waits is known, and woken as the class has it.
    ///
    /// # Safety
    /// `reader` is a live instance of the class, and in its section.
    #[inline(always)]
    unsafe fn wakes_natively(&self, reader: *mut ffi::PyObject) -> bool {
        // SAFETY: by the caller's word.
        unsafe {
            if !self.reader.is_plain(reader) || !self.wakeup_waiter.get(reader).is_null() {
                return false;
            }
            let waiter = self.waiter.get(reader);
            !waiter.is_null()
                && (ptr::eq(waiter, ffi::Py_None()) || ptr::eq(ffi::Py_TYPE(waiter), self.future))
        }
    }

    /// # Safety
    /// `reader` is plain, and in its section.
    #[inline(always)]
    unsafe fn room_of(&self, reader: *mut ffi::PyObject) -> Option<usize> {
        // SAFETY: by the caller's word; reading an int runs no Python.
        unsafe {
            let (transport, paused) = (self.transport.get(reader), self.paused.get(reader));
            let limit = self.limit.get(reader);
            if transport.is_null() || limit.is_null() || ffi::PyLong_CheckExact(limit) == 0 {
                return None;
            }
            if ptr::eq(paused, ffi::Py_True()) || ptr::eq(transport, ffi::Py_None()) {
                return Some(usize::MAX >> 1);
            }
            if !ptr::eq(paused, ffi::Py_False()) {
                return None;
            }
            let limit = ffi::PyLong_AsSsize_t(limit);
            if limit == -1 {
                // Too large, perhaps.
                ffi::PyErr_Clear();
            }
            usize::try_from(limit).ok().map(|limit| limit.saturating_mul(2).min(usize::MAX >> 1))
        }
    }
}
