//! All of pyo3: thin frozen classes over the layers below.
//!
//! In: calls from Python, on any thread. Out: callbacks run on their loop's own thread, attached.
//!
//! Free-threading rules that hold here (`CONTRIBUTING.md`): no lock is waited for while attached; no
//! Python code runs and no Python object is dropped under a lock or while a loop's owner state is
//! borrowed; every class that holds Python objects is traversed without a lock.
//!
//! Must never: hold state that the layers below could hold.

mod address;
mod affinity;
mod alloc;
mod arguments;
mod callback;
mod clock_watch;
mod closing;
mod core;
mod create_task;
mod cross_loop;
mod datagram;
mod datagram_methods;
mod datagram_turn;
mod eager;
mod fork;
mod future;
mod gil;
mod handle;
mod handle_types;
mod holder;
mod hot;
mod io;
mod kept;
mod lent;
mod listener;
mod names;
mod native;
mod object;
mod owner_cell;
mod payload;
mod poll;
mod pool;
mod pool_task;
mod pool_task_cancel;
mod pool_task_run;
mod pool_task_wait;
mod program_clock;
mod reader;
mod reader_methods;
mod registry;
mod returned;
mod run;
mod scheduling;
mod sock;
mod sock_receive;
mod sock_work;
mod spawn;
mod stack;
mod stale;
mod state;
mod stats;
mod stream;
mod stream_feed;
mod stream_look;
mod stream_methods;
mod stream_phase;
mod stream_read;
mod stream_turn;
mod stream_waiter;
mod tls;
mod tls_receive;
mod transport;
mod transport_core;
mod transport_methods;
mod unrun;
mod watch;
mod writer;

use pyo3::prelude::*;

/// The native half of `loop_pool`.
#[pymodule(gil_used = false)]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    names::initialise(module.py())?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<core::LoopCore>()?;
    module.add_class::<pool::PoolCore>()?;
    module.add_class::<unrun::Unrun>()?;
    module.add_class::<pool::ServerCore>()?;
    module.add_class::<sock::SocketOperation>()?;
    module.add_class::<pool_task::PoolTaskCore>()?;
    module.add_class::<pool_task_wait::PoolTaskWait>()?;
    module.add_function(wrap_pyfunction!(pool_task_run::set_class, module)?)?;
    module.add_function(wrap_pyfunction!(spawn::spawn, module)?)?;
    module.add_function(wrap_pyfunction!(spawn::spawn_on, module)?)?;
    module.add_function(wrap_pyfunction!(pool::cores, module)?)?;
    module.add_function(wrap_pyfunction!(pool::loop_count, module)?)?;
    module.add_function(wrap_pyfunction!(state::learn_task_callbacks, module)?)?;
    module.add_function(wrap_pyfunction!(state::stop_counting, module)?)?;
    module.add_function(wrap_pyfunction!(fork::after_fork, module)?)?;
    module.add_function(wrap_pyfunction!(gil::needs_gil, module)?)?;
    module.add_class::<stream::StreamCore>()?;
    module.add_class::<listener::ListenerCore>()?;
    module.add_class::<reader::StreamReaderCore>()?;
    module.add_class::<stream_read::StreamRead>()?;
    module.add_class::<writer::StreamReady>()?;
    module.add_class::<datagram::DatagramCore>()?;
    module.add_function(wrap_pyfunction!(hot::install, module)?)?;
    module.add_function(wrap_pyfunction!(program_clock::set, module)?)?;
    module.add_function(wrap_pyfunction!(clock_watch::watch, module)?)?;
    module.add_function(wrap_pyfunction!(registry::tasks, module)?)?;
    module.add_function(wrap_pyfunction!(registry::current_task, module)?)?;
    module.add_function(wrap_pyfunction!(registry::register, module)?)?;
    module.add_function(wrap_pyfunction!(registry::unregister, module)?)?;
    module.add_function(wrap_pyfunction!(registry::enter, module)?)?;
    module.add_function(wrap_pyfunction!(registry::leave, module)?)?;
    module.add_function(wrap_pyfunction!(run::end_run_at, module)?)?;
    module.add_function(wrap_pyfunction!(run::was_cut_short, module)?)?;
    module.add_function(wrap_pyfunction!(stack::is_blocked, module)?)?;
    module.add_function(wrap_pyfunction!(stack::stack, module)?)?;
    module.add_function(wrap_pyfunction!(stream_methods::install, module)?)?;
    module.add_function(wrap_pyfunction!(stream_feed::learn, module)?)?;
    module.add_function(wrap_pyfunction!(datagram_methods::install, module)?)?;
    module.add_function(wrap_pyfunction!(reader::install, module)?)?;
    module.add_function(wrap_pyfunction!(writer::install, module)?)?;
    module.add_function(wrap_pyfunction!(tls::install, module)?)?;
    module.add_function(wrap_pyfunction!(affinity::is_owner, module)?)?;
    module.add_function(wrap_pyfunction!(affinity::call_as_owner, module)?)?;
    closing::initialise();
    state::initialise(module)?;
    clock_watch::initialise(module.py())?;
    Ok(())
}
