//! `loop_pool` gives an unmodified asyncio program all cores of a free-threaded CPython.
//!
//! Each thread of a pool owns a reactor and hosts one event loop. Data travels up as values,
//! imports point down, and a lower layer never calls up:
//!
//! ```text
//!  sys         syscalls: sockets, the clock, level-triggered registration
//!   ^
//!  reactor     mio: Driver (waits), Handle (registers, wakes), IoTable, TimerHeap
//!   ^
//!  scheduler   who sleeps, who is woken, who works for whom
//!   ^
//!  transport   sockets and pipes as state machines: read, write, accept, by any thread
//!   ^
//!  tls         TLS as a filter on bytes: handshake, records, by rustls
//!   ^
//!  http        HTTP/1 and WebSocket as a filter on bytes: requests and messages as values
//!   ^
//!  event_loop  one loop without Python: ready queue, inbox, turn, ownership
//!   ^
//!  pool        how many loops, and where new work goes
//!   ^
//!  py          all of pyo3: thin frozen classes over the layers below (feature `python`)
//! ```
//!
//! `sync`, `id`, `error`, `config` and `metrics` serve every layer. `tests/layering.rs` holds the
//! imports true. Everything below `py` is built and tested without Python:
//! `cargo test --no-default-features`.

mod sync;

pub mod config;
pub mod error;
pub mod id;
pub mod metrics;

pub mod sys;

pub mod reactor;

pub mod scheduler;

pub mod transport;

#[cfg(feature = "tls")]
pub mod tls;

#[cfg(feature = "http")]
pub mod http;

pub mod event_loop;

pub mod pool;

#[cfg(feature = "python")]
mod py;
