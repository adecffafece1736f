//! The Python names that are looked up here: strings created once, at import.
//!
//! pyo3's own `intern!` creates each at its first use, and panics if the allocation fails then.

use pyo3::ffi;
use std::sync::OnceLock;

use pyo3::prelude::*;
use pyo3::types::PyString;

use super::alloc;

/// All of them, in order.
const NAMES: [&str; 241] = [
    "%r pauses reading",
    "%r resumes reading",
    "BaseSelectorEventLoop",
    "CancelledError",
    "FileIO",
    "Future",
    "Handle",
    "IncompleteReadError",
    "InvalidStateError",
    "LimitOverrunError",
    "SEEK_SET",
    "SOL_SOCKET",
    "SO_ERROR",
    "SendfileNotAvailableError",
    "Task",
    "TimerHandle",
    "_ThreadSafeHandle",
    "__basicsize__",
    "__dict__",
    "__new__",
    "__self__",
    "__slots__",
    "_asyncio_future_blocking",
    "_callback",
    "_cancelled",
    "_certificates",
    "_check_address",
    "_check_callback",
    "_check_thread",
    "_connected",
    "_context",
    "_core",
    "_describe_certificate",
    "_drain_later",
    "_drained",
    "_elsewhere",
    "_end",
    "_ended",
    "_ensure_fd_no_transport",
    "_evict",
    "_fail",
    "_failed",
    "_fatal_error",
    "_get_cpu_count_config",
    "_get_running_loop",
    "_give_up",
    "_io",
    "_kept",
    "_later",
    "_log",
    "_log_destroy_pending",
    "_log_end",
    "_log_traceback",
    "_look_at_clock",
    "_lost_write",
    "_name",
    "_news",
    "_opened",
    "_pause_protocol",
    "_peer_gone",
    "_ping",
    "_pong_due",
    "_process_outgoing_otherwise",
    "_protocol",
    "_read_again",
    "_read_end",
    "_read_error",
    "_receive",
    "_report_callback",
    "_report_callback_exception",
    "_report_native_exception",
    "_report_slow",
    "_report_unfetched",
    "_repr",
    "_request_timed_out",
    "_resume_protocol",
    "_retry_later",
    "_run",
    "_run_handle_in_debug_mode",
    "_say_end",
    "_scheduled",
    "_select",
    "_send_failed",
    "_send_itself",
    "_send_next",
    "_settle",
    "_shut_down",
    "_socket",
    "_source_traceback",
    "_task_factory",
    "_thread_id",
    "_time_of_base",
    "_timed_out",
    "_transport",
    "_transports",
    "_wait",
    "_wake_waiter",
    "_wakeup_waiter",
    "_write_failed",
    "_write_otherwise",
    "abort",
    "accept",
    "add_done_callback",
    "args",
    "asgi",
    "asyncio",
    "asyncio.events",
    "asyncio.exceptions",
    "asyncio.selector_events",
    "body",
    "buffer",
    "buffer_updated",
    "builtins",
    "bytes",
    "call_at",
    "call_exception_handler",
    "call_later",
    "call_soon",
    "call_soon_threadsafe",
    "cancel",
    "cancelled",
    "client",
    "close",
    "code",
    "connect",
    "connection_made",
    "context",
    "coro",
    "create_future",
    "create_task",
    "current_task",
    "data",
    "data_received",
    "datagram_received",
    "devnull",
    "done",
    "eager_start",
    "eof",
    "errno",
    "error_received",
    "exception",
    "explain_step",
    "extensions",
    "feed_data",
    "fileno",
    "future",
    "futures",
    "get",
    "get_buffer",
    "get_coro",
    "get_extra_info",
    "get_loop",
    "get_name",
    "getsockopt",
    "gettimeout",
    "headers",
    "http",
    "http.disconnect",
    "http.request",
    "http.response.body",
    "http.response.early_hint",
    "http.response.pathsend",
    "http.response.start",
    "http.response.trailers",
    "http.response.zerocopysend",
    "http_version",
    "https",
    "is_closed",
    "is_closing",
    "iscoroutine",
    "join",
    "library",
    "links",
    "loop",
    "lseek",
    "message",
    "method",
    "methodcaller",
    "monotonic",
    "more_body",
    "more_trailers",
    "name",
    "object",
    "operator",
    "os",
    "partial",
    "path",
    "pause_reading",
    "peername",
    "pending",
    "pop",
    "pread",
    "query_string",
    "raw",
    "raw_path",
    "read",
    "reason",
    "receive",
    "recv",
    "recv_into",
    "result",
    "resume_reading",
    "root_path",
    "run",
    "scheme",
    "send",
    "sendfile",
    "sendto",
    "server",
    "set_exception",
    "set_name",
    "set_result",
    "setblocking",
    "socket",
    "sockname",
    "spec_version",
    "ssl",
    "state",
    "status",
    "strerror",
    "subprotocol",
    "subprotocols",
    "sys",
    "tasks",
    "text",
    "throw",
    "time",
    "tls",
    "trailers",
    "type",
    "verify_code",
    "verify_message",
    "version",
    "wake",
    "websocket",
    "websocket.connect",
    "websocket.disconnect",
    "websocket.receive",
    "write",
    "ws",
    "wss",
];

static STRINGS: OnceLock<[Py<PyString>; NAMES.len()]> = OnceLock::new();

/// The interned string of a name, which has to be in `NAMES`: the compiler says so otherwise.
macro_rules! intern {
    ($py:expr, $name:literal) => {{
        const PLACE: usize = $crate::py::cpython::names::place($name);
        $crate::py::cpython::names::at($py, PLACE)
    }};
}
pub(crate) use intern;

/// Makes the strings.
///
/// # Errors
/// `MemoryError`.
pub(crate) fn initialise(py: Python<'_>) -> PyResult<()> {
    let mut made = Vec::with_capacity(NAMES.len());
    for name in NAMES {
        made.push(alloc::interned(py, name)?.unbind());
    }
    if let Ok(made) = made.try_into() {
        STRINGS.get_or_init(|| made);
    }
    Ok(())
}

/// Where a name is.
pub(crate) const fn place(name: &str) -> usize {
    let mut place = 0;
    while place < NAMES.len() {
        if is_same(NAMES[place].as_bytes(), name.as_bytes()) {
            return place;
        }
        place += 1;
    }
    panic!("add the name to NAMES in src/py/cpython/names.rs")
}

const fn is_same(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let mut at = 0;
    while at < one.len() {
        if one[at] != other[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// The string of the name in that place.
#[inline(always)]
pub(crate) fn at(py: Python<'_>, place: usize) -> &Bound<'_, PyString> {
    debug_assert!(STRINGS.get().is_some());
    // SAFETY: `initialise` ran before any class of this module could be used, and the place is one of
    // `place`'s.
    unsafe { STRINGS.get().unwrap_unchecked().get_unchecked(place).bind(py) }
}

/// Whether two strings are equal. The names of keywords are interned, nearly always.
///
/// # Safety
/// Both are live strings; the thread is attached.
#[inline(always)]
pub(crate) unsafe fn is_named(name: *mut ffi::PyObject, known: *mut ffi::PyObject) -> bool {
    // SAFETY: handed on to our caller.
    std::ptr::eq(name, known) || unsafe { ffi::PyUnicode_Compare(name, known) == 0 }
}
