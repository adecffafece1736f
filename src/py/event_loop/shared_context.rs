//! What a loop keeps of the contexts that its callbacks share: see `context_sharing`.
//!
//! In: contexts, and the map of one. Out: the one that is shared. Must never: run Python.

use pyo3::ffi;

use crate::py::cpython::object::Ref;

/// What callbacks that are scheduled in a row share. Owner only, and dropped where Python may run.
#[derive(Debug, Default)]
pub(crate) struct SharedContext {
    /// The map of the context that was current when a callback was last scheduled.
    pub(super) map: Option<Ref>,
    /// How many callbacks in a row have got a copy of their own.
    pub(super) alone: u32,
    /// The copy for those that follow; nobody enters it.
    pub(super) copy: Option<Ref>,
    /// A copy of that for them to run in, while none does.
    pub(super) to_run_in: Option<Ref>,
}

impl SharedContext {
    /// So many copies in a row are made for one callback each: two more are made for those that share.
    pub(super) const ALONE: u32 = 4;

    /// What is shared by those that are scheduled from a context with that map.
    #[inline(always)]
    pub(super) fn of(&self, map: *mut ffi::PyObject) -> Option<&Ref> {
        if self.is_map(map) { self.copy.as_ref() } else { None }
    }

    /// All that it refers to, for the collector.
    pub(crate) fn objects(&self) -> impl Iterator<Item = &Ref> {
        self.map.iter().chain(&self.copy).chain(&self.to_run_in)
    }

    #[inline(always)]
    pub(super) fn is_map(&self, map: *mut ffi::PyObject) -> bool {
        self.map.as_ref().is_some_and(|known| std::ptr::eq(known.as_ptr(), map))
    }

    #[inline(always)]
    pub(super) fn is_copy(&self, copy: &Ref) -> bool {
        self.copy.as_ref().is_some_and(|known| std::ptr::eq(known.as_ptr(), copy.as_ptr()))
    }
}
