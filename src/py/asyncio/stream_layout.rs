//! Where the instances of asyncio's own stream classes keep their attributes: facts, learned once at import.
//!
//! In: the two classes. Out: [`Streams`], or nothing if an instance is not laid out as expected. Attributes are where
//! the interpreter keeps them inside of an instance, as its own specialised bytecode has it: in an array behind the
//! object, valid as long as nobody asked for its `__dict__`, at an offset that never changes for a class. An offset is
//! found by looking where a marked value lands; what is known of a class holds as long as its version, which every
//! change of the class or of a base takes away. Must never: touch an attribute without a [`Plain`], which is to be
//! had in the critical section of the instance alone.

use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering::Release};

use crate::py::cpython::alloc;
use crate::py::cpython::names::intern;
use crate::py::cpython::object::Ref;
use crate::py::cpython::slots::{in_critical_section, in_critical_sections, slot};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;

/// Where the instances of a class keep their attributes.
#[derive(Debug)]
pub(super) struct Class {
    kind: *mut ffi::PyTypeObject,
    /// `tp_version_tag` at import.
    version: u32,
    /// Bytes from the start of an instance to the interpreter's header of its attributes.
    header: usize,
}

/// Bytes from the start of an instance to an attribute of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offset(usize);

/// What was learned at import.
#[derive(Debug)]
pub(super) struct Streams {
    pub(super) protocol: Class,
    /// Filled if the method is replaced on the instance; so are the other methods.
    pub(super) data_received: Offset,
    pub(super) stream_reader_wr: Offset,
    pub(super) reader: Class,
    pub(super) feed_data: Offset,
    pub(super) wakeup_waiter: Offset,
    pub(super) buffer: Offset,
    pub(super) eof: Offset,
    pub(super) limit: Offset,
    pub(super) paused: Offset,
    pub(super) transport: Offset,
    pub(super) waiter: Offset,
    pub(super) future: *mut ffi::PyTypeObject,
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

/// What was learned, if the classes are as expected.
#[inline(always)]
pub(super) fn streams() -> Option<&'static Streams> {
    STREAMS.get()
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
        // What the offsets are told apart by is looked at as it changes.
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
    fn offset(&self, class: &Bound<'_, PyType>, name: &str) -> PyResult<Option<Offset>> {
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
        Ok(if let [at] = found[..] { Some(Offset(at)) } else { None })
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

    /// Calls `f` with an instance, in its critical section. `None` if it is none of the class itself and as the
    /// class was at import, or keeps an attribute elsewhere.
    ///
    /// # Safety
    /// `object` is alive, the thread attached, and `f` runs no Python and drops no reference.
    #[inline(always)]
    pub(super) unsafe fn look_at<R>(
        &self,
        object: *mut ffi::PyObject,
        f: impl FnOnce(&mut Plain<'_>) -> Option<R>,
    ) -> Option<R> {
        // SAFETY: by the caller's word. The class is checked before the layout is used.
        unsafe {
            if !self.is_of(object) {
                return None;
            }
            in_critical_section(object, || f(&mut self.plain(object)?))
        }
    }

    /// As [`Class::look_at`], in the critical section of `other` too.
    ///
    /// # Safety
    /// As there; `other` is alive.
    #[inline(always)]
    pub(super) unsafe fn look_at_with<R>(
        &self,
        object: *mut ffi::PyObject,
        other: *mut ffi::PyObject,
        f: impl FnOnce(&mut Plain<'_>) -> Option<R>,
    ) -> Option<R> {
        // SAFETY: as there.
        unsafe {
            if !self.is_of(object) {
                return None;
            }
            in_critical_sections(object, other, || f(&mut self.plain(object)?))
        }
    }

    /// # Safety
    /// `object` is a live instance, and in its critical section, which the result does not outlive.
    #[inline(always)]
    unsafe fn plain<'s>(&self, object: *mut ffi::PyObject) -> Option<Plain<'s>> {
        // SAFETY: by the caller's word.
        unsafe { self.is_plain(object).then_some(Plain { object, section: PhantomData }) }
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

/// An instance in whose critical section this thread is, and whose attributes are all inside of it: so an offset is the
/// attribute, until the section ends.
pub(super) struct Plain<'s> {
    object: *mut ffi::PyObject,
    section: PhantomData<&'s ()>,
}

impl Plain<'_> {
    /// What an attribute of the instance's class is: borrowed from the section, or null.
    #[inline(always)]
    pub(super) fn get(&self, offset: Offset) -> *mut ffi::PyObject {
        // SAFETY: within the instance, as its class has it, and nobody else writes it now.
        unsafe { *slot(self.object, offset.0) }
    }

    /// Puts `None` in the place of an attribute, and returns what stood there.
    #[inline(always)]
    pub(super) fn take(&mut self, offset: Offset) -> Option<Ref> {
        let before = NonNull::new(self.get(offset))?;
        // SAFETY: as above. Others look at it without the section, as at any attribute that is replaced. `None`
        // is not counted; what stood there is ours now.
        unsafe {
            AtomicPtr::from_ptr(slot(self.object, offset.0)).store(ffi::Py_None(), Release);
            Some(Ref::from_owned(before))
        }
    }
}

/// Whether tools were ever asked to watch Python code in this process: they would miss our calls.
///
/// # Safety
/// The thread is attached.
#[inline(always)]
pub(super) unsafe fn is_watched() -> bool {
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
    let found = find(protocol, reader, future)?;
    Ok(found.is_some_and(|found| STREAMS.set(found).is_ok()))
}

fn find(
    protocol: &Bound<'_, PyType>,
    reader: &Bound<'_, PyType>,
    future: &Bound<'_, PyType>,
) -> PyResult<Option<Streams>> {
    let (Some(of_protocol), Some(of_reader)) = (Class::of(protocol)?, Class::of(reader)?) else {
        return Ok(None);
    };
    let in_protocol = |name| of_protocol.offset(protocol, name);
    let in_reader = |name| of_reader.offset(reader, name);
    let offsets = (
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
    ) = offsets
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
