//! The shared state of a pool, for `python/loop_pool/_pool/pool.py`.

use std::path::PathBuf;
use std::sync::Arc;

use pyo3::exceptions::PyOverflowError;
use pyo3::prelude::*;

use crate::pool::{self, Cores, Limit, Monitor, PoolAcceptor, PoolShared, StuckReport};
use crate::py::cpython::alloc;
use crate::py::cpython::attach::lock_attached;
use crate::py::cpython::error::os_error;
use crate::py::cpython::names::intern;
use crate::py::cpython::returned::Returned;
use crate::py::transport::server::ServerCore;
use crate::sync::Mutex;

/// The number of loops for what was asked; `None`: one for each core to make use of.
///
/// # Errors
/// `ValueError` below 1 or above 4096; `TypeError` for what is no integer.
#[pyfunction]
#[pyo3(name = "_loop_count", signature = (loops, /))]
pub(crate) fn loop_count(
    py: Python<'_>,
    loops: Option<&Bound<'_, PyAny>>,
) -> PyResult<Returned<usize>> {
    let Some(loops) = loops else {
        return Ok(Returned(pool::default_loop_count(core_count(py)?)));
    };
    let asked = loops.extract::<i64>().map_err(|error| {
        if error.is_instance_of::<PyOverflowError>(py) {
            alloc::value_error(py, format!("loops must be between 1 and 4096, not {loops}"))
        } else {
            alloc::type_error(py, format!("loops must be an integer or None, not {loops:?}"))
        }
    })?;
    pool::loop_count(asked).map(Returned).map_err(|error| alloc::value_error(py, error.to_string()))
}

/// Where Linux describes this process.
const PROCESS: &str = "/proc/self";

/// The cores that this process may use, by the files of `process`: by affinity, by cgroups, what both
/// leave, and the number to make use of.
#[pyfunction]
#[pyo3(name = "_cores", signature = (process = PROCESS.into(), /))]
pub(crate) fn cores(
    py: Python<'_>,
    process: PathBuf,
) -> PyResult<(Option<usize>, Option<f64>, f64, usize)> {
    let cores = py.detach(move || Cores::of(&process));
    Ok((cores.affinity, cores.quota, cores.usable(), cores.count(told_cores(py)?)))
}

/// How many cores this process is to make use of.
fn core_count(py: Python<'_>) -> PyResult<usize> {
    let told = told_cores(py)?;
    Ok(py.detach(|| Cores::of(PROCESS.as_ref()).count(told)))
}

/// The number that Python was told, by `PYTHON_CPU_COUNT` or `-X cpu_count`.
fn told_cores(py: Python<'_>) -> PyResult<Option<usize>> {
    let config = py.import(intern!(py, "sys"))?.getattr(intern!(py, "_get_cpu_count_config"));
    let Ok(config) = config else { return Ok(None) };
    let told = config.call0()?.extract::<i64>()?;
    Ok(usize::try_from(told).ok().filter(|told| *told > 0))
}

/// The shared part of a pool. Use `loop_pool.Pool`.
#[pyclass(frozen, module = "loop_pool._core")]
pub(crate) struct PoolCore {
    /// How the loops see each other.
    pool_shared: Arc<PoolShared>,
    monitor: Mutex<Option<Monitor>>,
    loops: u32,
    /// The process that made the pool; its threads do not exist in a forked child.
    process: u32,
}

/// What `wait_incidents` says of each: the loop's index, the callback's number, for how many seconds
/// it has been under way, and whether that is all.
type Told = (usize, u64, f64, bool);

#[pymethods]
impl PoolCore {
    #[new]
    #[pyo3(signature = (loops, *, steal))]
    fn new(py: Python<'_>, loops: u32, steal: bool) -> PyResult<Self> {
        let cores = core_count(py)?;
        Ok(Self {
            // With one loop there is nobody to work for it.
            pool_shared: PoolShared::new(loops.max(1) as usize, steal && loops > 1, cores),
            monitor: Mutex::new(None),
            loops,
            process: std::process::id(),
        })
    }

    /// Starts the monitor, if the loops work for each other.
    fn start_monitor(&self, py: Python<'_>) -> PyResult<()> {
        if self.pool_shared.steals() { self.need_monitor(py) } else { Ok(()) }
    }

    /// Ends the monitor's thread and waits for it. Nothing if there is none. Then nothing is told any
    /// more.
    fn stop_monitor(&self, py: Python<'_>) {
        let monitor = lock_attached(py, &self.monitor).take();
        if self.forked() {
            return;
        }
        if let Some(monitor) = monitor {
            py.detach(|| monitor.stop());
        }
        if let Some(stuck_reports) = self.pool_shared.stuck_reports() {
            stuck_reports.end();
        }
    }

    /// Has the monitor, started if need be, tell of callbacks that last for longer than so many
    /// seconds, or with `None` than each loop's `slow_callback_duration`. Before the pool ends.
    fn watch(&self, py: Python<'_>, limit: Option<f64>) -> PyResult<()> {
        self.pool_shared.make_stuck_reports().map_err(|error| os_error(py, &error))?;
        self.need_monitor(py)?;
        self.pool_shared.set_limit(limit.map_or(Limit::Own, Limit::Seconds));
        Ok(())
    }

    /// Undoes `watch`, but for the end of what has been told. Any thread.
    fn unwatch(&self) {
        if !self.forked() {
            self.pool_shared.set_limit(Limit::Off);
        }
    }

    /// Waits until the monitor tells something, and returns it, oldest first; nothing: the pool has
    /// ended. One thread, after `watch`.
    fn wait_incidents(&self, py: Python<'_>) -> Returned<Vec<Told>> {
        let Some(stuck_reports) = self.pool_shared.stuck_reports() else {
            return Returned(Vec::new());
        };
        let told = py.detach(|| stuck_reports.wait()).unwrap_or_default();
        let as_tuple = |each: StuckReport| {
            (each.worker_index, each.epoch.number(), each.lasted.as_secs_f64(), each.ended)
        };
        Returned(told.into_iter().map(as_tuple).collect())
    }

    /// What the listeners of one server of the pool share. Any thread.
    ///
    /// # Errors
    /// `ValueError` if the pool has one loop only.
    fn new_server(&self, py: Python<'_>) -> PyResult<ServerCore> {
        if self.loops < 2 {
            let text = format!("a pool of {} loop places nothing", self.loops);
            return Err(alloc::value_error(py, text));
        }
        Ok(ServerCore::new(PoolAcceptor::new(Arc::clone(&self.pool_shared))))
    }

    /// Whether this process is a fork of the one that made the pool.
    fn forked(&self) -> bool {
        self.process != std::process::id()
    }
}

impl PoolCore {
    pub(crate) fn pool_shared(&self) -> &Arc<PoolShared> {
        &self.pool_shared
    }

    /// Starts the monitor unless there is one.
    fn need_monitor(&self, py: Python<'_>) -> PyResult<()> {
        let started = py.detach(|| {
            let mut monitor = self.monitor.lock();
            if monitor.is_none() {
                *monitor = Some(Monitor::start(Arc::clone(&self.pool_shared))?);
            }
            Ok(())
        });
        started.map_err(|error: std::io::Error| os_error(py, &error))
    }
}
