//! Runs one workload so many times, for callgrind to count its instructions; `tools/bench_check.py`
//! starts it.
//!
//! ```text
//! counts            the names of all workloads
//! counts NAME       one of them
//! ```
//!
//! Callgrind counts what happens within `measured`, and nothing that goes before it.

use std::env;
use std::hint::black_box;
use std::process::ExitCode;

use loop_pool::tls::Version;
use micro::{event_loop, http, reactor, registry, scheduler, timers, tls, transport};

/// Each workload with its name, and how often it is run: about half a million instructions each.
const WORKLOADS: &[(&str, fn())] = &[
    ("scheduler::push_pop", || count(10_000, scheduler::push_pop())),
    ("scheduler::steal_half", || count(100, scheduler::steal_half())),
    ("scheduler::inject_find", || count(5_000, scheduler::inject_find())),
    ("scheduler::find_nothing", || count(5_000, scheduler::find_nothing())),
    ("scheduler::wake_nobody", || count(10_000, scheduler::wake_nobody())),
    ("scheduler::park_posted", || count(20_000, scheduler::park_posted())),
    ("scheduler::posted_awake", || count(50_000, scheduler::posted_awake())),
    ("scheduler::summon_answer", || count(2_000, scheduler::summon_answer())),
    ("event_loop::inbox_1", || count(3_000, event_loop::inbox(1))),
    ("event_loop::inbox_64", || count(50, event_loop::inbox(64))),
    ("event_loop::post_64", || count(50, event_loop::post(64))),
    ("event_loop::turn_1", || count(10_000, event_loop::turn(1))),
    ("event_loop::turn_1000", || count(20, event_loop::turn(1000))),
    ("event_loop::enter_leave", || count(50_000, event_loop::enter_leave())),
    ("event_loop::young_task", || count(20_000, event_loop::young_task())),
    ("event_loop::read_current", || count(50_000, event_loop::read_current())),
    ("timers::insert_cancel_10", || count(5_000, timers::insert_cancel(10))),
    ("timers::insert_cancel_10000", || count(5_000, timers::insert_cancel(10_000))),
    ("timers::insert_cancel_1000000", || count(5_000, timers::insert_cancel(1_000_000))),
    ("timers::renew_10", || count(5_000, timers::renew(10))),
    ("timers::renew_10000", || count(2_000, timers::renew(10_000))),
    ("timers::renew_1000000", || count(2_000, timers::renew(1_000_000))),
    ("timers::expire_10", || count(5_000, timers::expire(10))),
    ("timers::expire_10000", || count(1_000, timers::expire(10_000))),
    ("timers::expire_1000000", || count(1_000, timers::expire(1_000_000))),
    ("registry::add_sweep", || count(2_000, registry::add_sweep())),
    ("registry::add_remove", || count(1_000, registry::add_remove())),
    ("registry::each_1000", || count(50, registry::each())),
    ("transport::write_1_64B", || count(1_000, transport::write(1, 64))),
    ("transport::write_1024_64B", || count(10, transport::write(1024, 64))),
    ("transport::write_4_256KiB", || count(20, transport::write(4, 256 * 1024))),
    ("tls::echo_1KiB", || count(100, tls::echo(Version::Tls13, 1024))),
    ("tls::echo_256KiB", || count(2, tls::echo(Version::Tls13, 256 * 1024))),
    ("http::get", || count(100, http::get(1))),
    ("http::get_16", || count(6, http::get(16))),
    ("http::post_16KiB_chunked", || count(100, http::post_chunked(16))),
    ("http::echo_1KiB", || count(500, http::echo(1024, false))),
    ("reactor::collect_1000", || count(20_000, reactor::collect(1000))),
];

/// Lets a workload make its memory, and then runs it.
fn count(times: usize, mut run: impl FnMut()) {
    const WARM_UP: usize = 16;
    (0..WARM_UP).for_each(|_| run());
    measured(&mut || (0..times).for_each(|_| run()));
}

/// What callgrind counts: it knows this function by its name, so it is not generic.
#[inline(never)]
fn measured(all: &mut dyn FnMut()) {
    all();
    // Keeps the call from becoming a jump, with which this function would end.
    black_box(all);
}

fn main() -> ExitCode {
    let Some(name) = env::args().nth(1) else {
        for (name, _) in WORKLOADS {
            println!("{name}");
        }
        return ExitCode::SUCCESS;
    };
    let Some((_, run)) = WORKLOADS.iter().find(|(known, _)| *known == name) else {
        eprintln!("no workload is called {name:?}; without an argument, all names are printed");
        return ExitCode::FAILURE;
    };
    run();
    ExitCode::SUCCESS
}
