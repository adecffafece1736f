//! All of pyo3: thin frozen classes over the layers below.
//!
//! In: calls from Python, in any thread. Out: callbacks, run in their loop's own thread, attached. Rules of
//! free threading (`CONTRIBUTING.md`): no lock is waited for while attached; no Python code runs and no
//! Python object is dropped under a lock or while a loop's owner state is borrowed; every class that holds
//! Python objects is traversed without a lock.
//!
//! Must never: hold state that the layers below could hold.

mod asyncio;
mod cpython;
mod event_loop;
#[cfg(feature = "http")]
mod http;
mod module;
mod pool;
mod socket_ops;
mod streams;
mod tls;
mod transport;

use pyo3::prelude::*;
use pyo3::types::PyType;

/// The native half of `loop_pool`.
#[pymodule(gil_used = false)]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    cpython::names::initialise(module.py())?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<event_loop::core::LoopCore>()?;
    module.add_class::<pool::pool_core::PoolCore>()?;
    module.add_class::<event_loop::unrun::Unrun>()?;
    module.add_class::<transport::server::ServerCore>()?;
    module.add_class::<socket_ops::sock::SocketOperation>()?;
    module.add_class::<pool::pool_task::PoolTaskCore>()?;
    module.add_class::<pool::pool_task_wait::PoolTaskWait>()?;
    module.add_function(wrap_pyfunction!(pool::pool_task_class::set_class, module)?)?;
    module.add_function(wrap_pyfunction!(pool::spawn::spawn, module)?)?;
    module.add_function(wrap_pyfunction!(pool::spawn::spawn_on, module)?)?;
    module.add_function(wrap_pyfunction!(pool::pool_core::cores, module)?)?;
    module.add_function(wrap_pyfunction!(pool::pool_core::loop_count, module)?)?;
    module.add_function(wrap_pyfunction!(asyncio::learn::learn_task_callbacks, module)?)?;
    module.add_function(wrap_pyfunction!(asyncio::state::stop_counting, module)?)?;
    module.add_function(wrap_pyfunction!(module::fork::after_fork, module)?)?;
    module.add_function(wrap_pyfunction!(cpython::gil::needs_gil, module)?)?;
    module.add_class::<transport::stream::StreamCore>()?;
    module.add_class::<transport::listener::ListenerCore>()?;
    module.add_class::<streams::reader_state::StreamReaderCore>()?;
    module.add_class::<streams::stream_read::StreamRead>()?;
    module.add_class::<streams::writer::StreamReady>()?;
    module.add_class::<transport::datagram::DatagramCore>()?;
    module.add_function(wrap_pyfunction!(module::hot::install, module)?)?;
    module.add_function(wrap_pyfunction!(event_loop::program_clock::set, module)?)?;
    module.add_function(wrap_pyfunction!(event_loop::clock_watch::watch, module)?)?;
    module.add_function(wrap_pyfunction!(event_loop::registry::tasks, module)?)?;
    module.add_function(wrap_pyfunction!(event_loop::registry::current_task, module)?)?;
    module.add_function(wrap_pyfunction!(event_loop::registry::register, module)?)?;
    module.add_function(wrap_pyfunction!(event_loop::registry::unregister, module)?)?;
    module.add_function(wrap_pyfunction!(event_loop::registry::enter, module)?)?;
    module.add_function(wrap_pyfunction!(event_loop::registry::leave, module)?)?;
    module.add_function(wrap_pyfunction!(event_loop::run::end_run_at, module)?)?;
    module.add_function(wrap_pyfunction!(event_loop::run::was_cut_short, module)?)?;
    module.add_function(wrap_pyfunction!(event_loop::stack::is_blocked, module)?)?;
    module.add_function(wrap_pyfunction!(event_loop::stack::stack, module)?)?;
    module.add_function(wrap_pyfunction!(transport::stream_methods::install, module)?)?;
    module.add_function(wrap_pyfunction!(transport::filtered_methods::install, module)?)?;
    module.add_function(wrap_pyfunction!(asyncio::stream_layout::learn, module)?)?;
    module.add_function(wrap_pyfunction!(transport::datagram_methods::install, module)?)?;
    module.add_function(wrap_pyfunction!(streams::reader::install, module)?)?;
    module.add_function(wrap_pyfunction!(streams::writer::install, module)?)?;
    tls::export(module)?;
    #[cfg(feature = "http")]
    http::export(module)?;
    module.add_function(wrap_pyfunction!(event_loop::affinity::is_owner, module)?)?;
    module.add_function(wrap_pyfunction!(event_loop::affinity::call_as_owner, module)?)?;
    cpython::closing::initialise();
    initialise(module)?;
    Ok(())
}

/// Gives the lower rooms what the upper ones have made.
fn initialise(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    event_loop::hooks::initialise(event_loop::hooks::Hooks {
        run_native: module::native::run,
        begins: module::native::begins,
        is_cancelled: module::native::is_cancelled,
        holds: module::native::holds,
        begin: pool::spawn::begin,
        is_awaited: pool::spawn::is_awaited,
    });
    let events = py.import("asyncio.events")?;
    let class = |name| events.getattr(name)?.cast_into::<PyType>().map_err(PyErr::from);
    let soon = event_loop::handle_types::soon_type(&class("Handle")?)?;
    let timer = event_loop::handle_types::timer_type(&class("TimerHandle")?)?;
    let threadsafe = event_loop::handle_types::threadsafe_type(&class("_ThreadSafeHandle")?)?;
    module.add("Handle", &soon.class)?;
    module.add("TimerHandle", &timer.class)?;
    module.add("_ThreadSafeHandle", &threadsafe.class)?;
    let loop_type = py.get_type::<event_loop::core::LoopCore>();
    let types = asyncio::state::NativeTypes { loop_type, soon, timer, threadsafe };
    asyncio::state::initialise(py, types)?;
    event_loop::clock_watch::initialise(py)?;
    let future = py.import("asyncio")?.getattr("futures")?.getattr("Future")?;
    asyncio::future::learn(&future.cast_into::<PyType>()?);
    Ok(())
}
