//! The methods of `LoopCore` that are called rarely; the hot ones are in `hot`.

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};

use crate::error::LoopError;
use crate::event_loop::{EventLoop, Post};
use crate::id::LoopId;
use crate::py::cpython::alloc;
use crate::py::cpython::attach::lock_attached;
use crate::py::cpython::returned::Returned;
use crate::py::event_loop::callback::Callback;
use crate::py::event_loop::core::{LoopCore, OwnerExtension, OwnerState};
use crate::py::event_loop::flags::LoopFlags;
use crate::py::event_loop::kept;
use crate::py::event_loop::loop_tasks::LoopTasks;
use crate::py::event_loop::owner_thread::OwnerThread;
use crate::py::event_loop::registry;
use crate::py::event_loop::run;
use crate::py::event_loop::scheduling;
use crate::py::event_loop::stats;
use crate::py::event_loop::unrun::Unrun;
use crate::py::pool::pool_core::PoolCore;
use crate::py::pool::spawn;
use crate::py::pool::spawned_tasks;
use crate::py::socket_ops::readers;
use crate::py::socket_ops::sock;
use crate::py::socket_ops::sock_work::Sendfile;
use crate::reactor::Direction;
use crate::sync::yield_now;
use crate::sys::clock;

type Objects = Vec<Py<PyAny>>;

#[pymethods]
impl LoopCore {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        let event_loop = EventLoop::with_extension(OwnerExtension::default())
            .map_err(|error| LoopError::Io("epoll", error))?;
        Ok(Self {
            event_loop,
            flags: LoopFlags::default(),
            tasks: LoopTasks::new(),
            thread: OwnerThread::default(),
        })
    }

    /// Runs turns until the loop is asked to stop. Called by `run_forever`, attached.
    fn _run(slf: &Bound<'_, Self>) -> PyResult<()> {
        run::run(slf)
    }

    /// Appends a handle to the ready queue, or posts it from another thread.
    fn _push_handle(slf: &Bound<'_, Self>, handle: Bound<'_, PyAny>) {
        slf.get().schedule(Callback::from_handle(handle.into()));
    }

    /// Ends the loop's present wait. Any thread.
    fn _write_to_self(&self) {
        self.event_loop.shared().wake();
    }

    /// As `BaseSelectorEventLoop._add_reader`: watches `fd`, level-triggered, replaces and cancels
    /// an earlier callback, and returns the handle. Any thread. (`context`: since Python 3.15.)
    #[pyo3(signature = (fd, callback, *args, context=None))]
    fn _add_reader<'py>(
        slf: &Bound<'py, Self>,
        fd: &Bound<'py, PyAny>,
        callback: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        context: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        readers::add(slf, Direction::Read, fd, callback, args, context)
    }

    /// As `BaseSelectorEventLoop._add_writer`. Any thread.
    #[pyo3(signature = (fd, callback, *args, context=None))]
    fn _add_writer<'py>(
        slf: &Bound<'py, Self>,
        fd: &Bound<'py, PyAny>,
        callback: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        context: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        readers::add(slf, Direction::Write, fd, callback, args, context)
    }

    /// As `BaseSelectorEventLoop._remove_reader`: cancels the callback and says whether there was
    /// one. Any thread.
    fn _remove_reader(slf: &Bound<'_, Self>, fd: &Bound<'_, PyAny>) -> PyResult<bool> {
        readers::remove(slf, Direction::Read, fd)
    }

    /// As `BaseSelectorEventLoop._remove_writer`. Any thread.
    fn _remove_writer(slf: &Bound<'_, Self>, fd: &Bound<'_, PyAny>) -> PyResult<bool> {
        readers::remove(slf, Direction::Write, fd)
    }

    /// The handles that wait for a descriptor, as (reader, writer), or `None`. Any thread.
    fn _registered(
        slf: &Bound<'_, Self>,
        fd: &Bound<'_, PyAny>,
    ) -> PyResult<Option<[Option<Py<PyAny>>; 2]>> {
        readers::registered(slf, fd)
    }

    /// Takes a place among the loops of a pool. Before the loop runs.
    fn _join(&self, pool: &Bound<'_, PoolCore>, index: u32) -> PyResult<()> {
        let pool_shared = pool.get().pool_shared();
        let claim = self.event_loop.claim()?;
        let loop_worker =
            pool_shared.join(LoopId(index), self.event_loop.shared()).ok_or_else(|| {
                alloc::runtime_error(pool.py(), format!("loop {index} has joined already"))
            })?;
        let loop_worker = Some(Box::new(loop_worker));
        // SAFETY: runs no Python.
        unsafe { claim.local(|local| local.extension.loop_worker = loop_worker) };
        Ok(())
    }

    /// Lets no further task of `spawn` in but those of the shutdown. Any thread.
    fn _refuse_spawned(&self, py: Python<'_>) {
        spawned_tasks::refuse(py, self);
    }

    /// Lets nobody in any more, and returns the tasks of `spawn` that have not ended.
    fn _shut_spawned(&self, py: Python<'_>) -> Returned<Objects> {
        Returned(spawned_tasks::shut(py, self))
    }

    /// Cancels what was left to all loops and waits on this one. On its thread.
    fn _cancel_unstarted(&self, py: Python<'_>) {
        spawn::cancel_unstarted(py, self);
    }

    /// The `asyncio` tasks that `spawn` has begun here and that have not ended. Any thread.
    fn _spawned(&self, py: Python<'_>) -> Returned<Objects> {
        Returned(spawned_tasks::running(py, self))
    }

    /// The transport on a descriptor, or `None`. Any thread.
    fn _transport_at(&self, py: Python<'_>, fd: i32) -> Option<Py<PyAny>> {
        let sources = lock_attached(py, &self.event_loop.shared().sources);
        // SAFETY: the table holds the reference, and we hold the table.
        let object = unsafe { kept::object(py, sources.at(fd)?.cookie)? };
        drop(sources);
        Some(object.as_py().clone_ref(py))
    }

    /// Calls `sock.method(argument)`, or with both arguments; returns what it returns, or the
    /// operation to await if it would block, which calls again when `sock` is readable.
    #[pyo3(signature = (sock, method, argument, second=None, /))]
    fn _start_read<'py>(
        slf: &Bound<'py, Self>,
        sock: &Bound<'py, PyAny>,
        method: &Bound<'py, PyString>,
        argument: Bound<'py, PyAny>,
        second: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        sock::start_call(slf, Direction::Read, sock, method, argument, second)
    }

    /// As `_start_read`, waiting until `sock` is writable.
    #[pyo3(signature = (sock, method, argument, second=None, /))]
    fn _start_write<'py>(
        slf: &Bound<'py, Self>,
        sock: &Bound<'py, PyAny>,
        method: &Bound<'py, PyString>,
        argument: Bound<'py, PyAny>,
        second: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        sock::start_call(slf, Direction::Write, sock, method, argument, second)
    }

    /// Sends `data`; returns `None`, or the operation to await which sends the rest.
    #[pyo3(signature = (sock, data, /))]
    fn _start_send_all<'py>(
        slf: &Bound<'py, Self>,
        sock: &Bound<'py, PyAny>,
        data: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        sock::start_send_all(slf, sock, data)
    }

    /// Connects; returns `None`, or the operation to await.
    #[pyo3(signature = (sock, address, /))]
    fn _start_connect<'py>(
        slf: &Bound<'py, Self>,
        sock: &Bound<'py, PyAny>,
        address: Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        sock::start_connect(slf, sock, address)
    }

    /// Accepts; returns `(connection, address)`, or the operation to await.
    #[pyo3(signature = (sock, /))]
    fn _start_accept<'py>(
        slf: &Bound<'py, Self>,
        sock: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        sock::start_accept(slf, sock)
    }

    /// Begins to send a file; what comes of it is settled in `future`.
    #[pyo3(signature = (future, sock, file, offset, count, block, /))]
    fn _start_sendfile<'py>(
        slf: &Bound<'py, Self>,
        future: &Bound<'py, PyAny>,
        sock: &Bound<'py, PyAny>,
        file: Bound<'py, PyAny>,
        offset: u64,
        count: Option<u64>,
        block: u64,
    ) -> PyResult<()> {
        sock::start_sendfile(slf, future, sock, Sendfile::new(file.into(), offset, count, block))
    }

    /// Takes everything out of a loop that does not run, and gives its descriptors back. Callbacks are
    /// returned, for the caller to drop, if its run had to end before it got to them.
    #[pyo3(name = "_close_core")]
    fn close_core(&self, py: Python<'_>) -> PyResult<Option<Unrun>> {
        let mut unstarted = Vec::new();
        let (mut held, entered, contexts) = {
            let claim = self
                .event_loop
                .claim()
                .map_err(|_| alloc::runtime_error(py, "Cannot close a running event loop"))?;
            self.event_loop.set_closed(true);
            // SAFETY: runs no Python.
            let loop_worker = unsafe { claim.local(|local| local.extension.loop_worker.take()) };
            if let Some(loop_worker) = loop_worker {
                unstarted = loop_worker.leave(self.event_loop.shared());
            }
            self.event_loop.close_reactor(&claim);
            let current = &self.event_loop.shared().current;
            current.clear_young();
            // SAFETY: moving callbacks and references out runs no Python.
            let (mut held, entered, contexts) = unsafe {
                claim.local(|local| {
                    let mut held = std::mem::take(&mut local.aside);
                    held.extend(std::iter::from_fn(|| local.ready.pop()));
                    held.extend(std::iter::from_fn(|| local.timers.pop_any()));
                    let extension = &mut local.extension;
                    let shared = std::mem::take(&mut extension.shared_context);
                    let contexts = (shared, extension.empty_context.take());
                    (held, std::mem::take(&mut extension.entered), contexts)
                })
            };
            held.extend(self.event_loop.drain_posts().map(Post::into_callback));
            held.extend(self.event_loop.drain_urgent());
            let table = std::mem::take(&mut *lock_attached(py, &self.event_loop.io));
            held.extend(table.into_callbacks());
            (held, entered, contexts)
        };
        drop(contexts);
        // Their first steps, which kept them alive, are among what is dropped.
        let current = &self.event_loop.shared().current;
        while !current.is_unread() {
            // A reader is a few instructions long, and waits for nobody.
            yield_now();
        }
        let late = self.event_loop.is_past_end_of_run(clock::monotonic_ns());
        let unrun = (late && !held.is_empty()).then(|| Unrun::new(std::mem::take(&mut held)));
        drop((held, entered));
        spawn::cancel(py, unstarted);
        let shared = self.event_loop.shared();
        drop(shared.drain_connections()); // to close one may take long
        let sources = lock_attached(py, &shared.sources).drain();
        registry::forget(py, self);
        self.tasks.borrowed.clear(py);
        drop(spawned_tasks::shut(py, self));
        for entry in sources {
            // SAFETY: the table's own reference. The transport is closed by its finalizer, if
            // nobody else does it.
            unsafe { kept::give_up(py, entry.cookie) };
        }
        Ok(unrun)
    }

    /// The counters and gauges of this loop by name, for `pool.stats()`. Any thread.
    fn _stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        stats::of_loop(self, py)
    }

    /// The handles that are ready and pending, for `_ready` and `_scheduled` as tools read them.
    /// Empty while another thread runs the loop.
    fn _queues(slf: &Bound<'_, Self>) -> Returned<(Objects, Objects)> {
        let core = slf.get();
        let py = slf.py();
        let look = |local: &mut OwnerState| {
            let object =
                |callback: &Callback| callback.objects().next().map(|object| object.clone_ref(py));
            (
                local.ready.iter().filter_map(object).collect(),
                local.timers.iter().filter_map(|(_, callback)| object(callback)).collect(),
            )
        };
        // SAFETY: counting references runs no Python.
        let found = unsafe { core.event_loop.local.if_owner(look) }
            .or_else(|| scheduling::look_at_idle_loop(core, look));
        Returned(found.unwrap_or_default())
    }

    /// As `BaseEventLoop._debug`.
    #[getter(_debug)]
    fn debug(&self) -> bool {
        self.flags.is_debug()
    }

    #[setter(_debug)]
    fn set_debug(&self, enabled: &Bound<'_, PyAny>) -> PyResult<()> {
        self.flags.set_debug(enabled.is_truthy()?);
        Ok(())
    }

    /// As `BaseEventLoop.slow_callback_duration`, in seconds; the pool's monitor reads it too.
    #[getter(slow_callback_duration)]
    fn slow_after(&self) -> Returned<f64> {
        Returned(self.event_loop.shared().slow_after())
    }

    #[setter(slow_callback_duration)]
    fn set_slow_after(&self, seconds: f64) {
        self.event_loop.shared().set_slow_after(seconds);
    }

    /// As `BaseEventLoop._stopping`; setting it wakes a loop that sleeps.
    #[getter(_stopping)]
    fn stopping(&self) -> bool {
        self.event_loop.is_stopping()
    }

    #[setter(_stopping)]
    fn set_stopping(&self, stopping: bool) {
        self.event_loop.set_stopping(stopping);
    }

    /// As `BaseEventLoop._closed`.
    #[getter(_closed)]
    fn closed(&self) -> bool {
        self.event_loop.is_closed()
    }

    #[setter(_closed)]
    fn set_closed(&self, closed: bool) {
        self.event_loop.set_closed(closed);
    }

    /// Whether `create_task` starts tasks at once.
    #[setter(_eager)]
    fn set_eager(&self, eager: bool) {
        self.flags.set_starts_eagerly(eager);
    }

    /// Whether `create_task` has to call the attribute `_task_factory`.
    #[setter(_has_task_factory)]
    fn set_has_task_factory(&self, has: bool) {
        self.flags.set_task_factory(has);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // Other threads look into the table without Python; see `EventLoop::for_each_local`.
        if let Some(sources) = self.event_loop.shared().sources.lock_for_collector() {
            for entry in sources.iter() {
                // SAFETY: the table holds the reference, which it does not give away meanwhile.
                unsafe { kept::visit(entry.cookie, &visit)? };
            }
        }
        self.tasks.borrowed.traverse(&visit)?;
        if let Some(tasks) = self.tasks.spawned.lock_for_collector() {
            tasks.iter().try_for_each(|task| visit.call(task.as_py()))?;
        }
        let mut result = Ok(());
        let mut each = |callback: &Callback| {
            for object in callback.objects() {
                if result.is_ok() {
                    result = visit.call(object);
                }
            }
        };
        // SAFETY: the collector has stopped every attached thread, and all of these are changed by
        // attached threads only. A detached owner is in the kernel's wait.
        unsafe {
            self.event_loop.for_each_local(&mut each);
            self.event_loop.for_each_post(&mut each);
            self.event_loop.inspect_extension(|extension| {
                let tasks = extension.entered.iter().map(|(_, task)| task);
                let contexts = extension.shared_context.objects().chain(&extension.empty_context);
                for object in tasks.chain(contexts) {
                    if result.is_ok() {
                        result = visit.call(object.as_py());
                    }
                }
            });
        }
        result
    }

    fn __clear__(&self) {
        // SAFETY: the collector calls this attached.
        let py = unsafe { Python::assume_attached() };
        // A loop that is garbage has no owner; were it running, its owner would hold it.
        let _ = self.close_core(py);
    }
}
