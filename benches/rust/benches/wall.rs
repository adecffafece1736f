//! How long the workloads take, by divan: `make bench-rust`.

use std::time::Duration;

use divan::counter::ItemsCount;
use divan::{Bencher, Divan};

/// For how long each workload is measured, at least.
const MIN_TIME: Duration = Duration::from_millis(200);

/// Measures one workload; throughput is in the operations that one call is made of.
fn measure(bencher: Bencher<'_, '_>, operations: usize, run: impl FnMut()) {
    bencher.counter(ItemsCount::new(operations)).bench_local(run);
}

fn main() {
    Divan::default().min_time(MIN_TIME).config_with_args().main();
}

mod scheduler {
    use super::{Bencher, measure};
    use micro::scheduler;

    #[divan::bench]
    fn push_pop(bencher: Bencher<'_, '_>) {
        measure(bencher, 1, scheduler::push_pop());
    }

    #[divan::bench]
    fn steal_half_of_64(bencher: Bencher<'_, '_>) {
        measure(bencher, scheduler::STOLEN as usize, scheduler::steal_half());
    }

    #[divan::bench]
    fn inject_find(bencher: Bencher<'_, '_>) {
        measure(bencher, 1, scheduler::inject_find());
    }

    #[divan::bench]
    fn find_nothing(bencher: Bencher<'_, '_>) {
        measure(bencher, 1, scheduler::find_nothing());
    }

    #[divan::bench]
    fn wake_nobody(bencher: Bencher<'_, '_>) {
        measure(bencher, 1, scheduler::wake_nobody());
    }

    #[divan::bench]
    fn park_posted(bencher: Bencher<'_, '_>) {
        measure(bencher, 1, scheduler::park_posted());
    }

    #[divan::bench]
    fn posted_awake(bencher: Bencher<'_, '_>) {
        measure(bencher, 1, scheduler::posted_awake());
    }

    #[divan::bench]
    fn summon_answer(bencher: Bencher<'_, '_>) {
        measure(bencher, 1, scheduler::summon_answer());
    }
}

mod event_loop {
    use super::{Bencher, measure};
    use micro::event_loop;

    #[divan::bench(args = [1, 64, 1000])]
    fn inbox(bencher: Bencher<'_, '_>, values: usize) {
        measure(bencher, values, event_loop::inbox(values));
    }

    #[divan::bench(args = [1, 4], sample_count = 50)]
    fn inbox_producers(bencher: Bencher<'_, '_>, producers: usize) {
        const EACH: usize = 20_000;
        measure(bencher, producers * EACH, event_loop::inbox_producers(producers, EACH));
    }

    #[divan::bench(args = [1, 64])]
    fn post(bencher: Bencher<'_, '_>, calls: usize) {
        measure(bencher, calls, event_loop::post(calls));
    }

    #[divan::bench]
    fn post_to_sleeper(bencher: Bencher<'_, '_>) {
        measure(bencher, 1, event_loop::post_to_sleeper());
    }

    #[divan::bench(args = [1, 16, 1000])]
    fn turn(bencher: Bencher<'_, '_>, callbacks: usize) {
        measure(bencher, callbacks, event_loop::turn(callbacks));
    }

    #[divan::bench]
    fn clock_and_ticks(bencher: Bencher<'_, '_>) {
        measure(bencher, 1, event_loop::clock());
    }

    #[divan::bench]
    fn enter_leave(bencher: Bencher<'_, '_>) {
        measure(bencher, 1, event_loop::enter_leave());
    }

    #[divan::bench]
    fn young_task(bencher: Bencher<'_, '_>) {
        measure(bencher, 1, event_loop::young_task());
    }

    #[divan::bench]
    fn read_current(bencher: Bencher<'_, '_>) {
        measure(bencher, 1, event_loop::read_current());
    }
}

mod timers {
    use super::{Bencher, measure};
    use micro::timers;

    const PENDING: [usize; 3] = [10, 10_000, 1_000_000];

    #[divan::bench(args = PENDING)]
    fn insert_cancel(bencher: Bencher<'_, '_>, pending: usize) {
        measure(bencher, 1, timers::insert_cancel(pending));
    }

    #[divan::bench(args = PENDING)]
    fn renew(bencher: Bencher<'_, '_>, pending: usize) {
        measure(bencher, 1, timers::renew(pending));
    }

    #[divan::bench(args = PENDING)]
    fn expire(bencher: Bencher<'_, '_>, pending: usize) {
        measure(bencher, 1, timers::expire(pending));
    }
}

mod registry {
    use super::{Bencher, measure};
    use micro::registry;

    #[divan::bench]
    fn add_sweep(bencher: Bencher<'_, '_>) {
        measure(bencher, 1, registry::add_sweep());
    }

    #[divan::bench]
    fn add_remove(bencher: Bencher<'_, '_>) {
        measure(bencher, 1, registry::add_remove());
    }

    #[divan::bench]
    fn each_1000(bencher: Bencher<'_, '_>) {
        measure(bencher, registry::ALIVE, registry::each());
    }
}

mod transport {
    use super::{Bencher, measure};
    use micro::transport;

    #[divan::bench(args = [1, 64, 1024])]
    fn write_64_bytes(bencher: Bencher<'_, '_>, chunks: usize) {
        measure(bencher, chunks, transport::write(chunks, 64));
    }

    #[divan::bench(args = [1, 4])]
    fn write_256_kib(bencher: Bencher<'_, '_>, chunks: usize) {
        measure(bencher, chunks, transport::write(chunks, 256 * 1024));
    }

    #[divan::bench]
    fn read_1_kib(bencher: Bencher<'_, '_>) {
        measure(bencher, 1, transport::read());
    }

    #[divan::bench]
    fn read_1_kib_system_calls_alone(bencher: Bencher<'_, '_>) {
        measure(bencher, 1, transport::read_bare());
    }
}

mod reactor {
    use super::{Bencher, measure};
    use micro::reactor;

    #[divan::bench(args = [0, 1, 16, 256])]
    fn poll(bencher: Bencher<'_, '_>, ready: usize) {
        measure(bencher, ready.max(1), reactor::poll(ready));
    }

    #[divan::bench]
    fn wake(bencher: Bencher<'_, '_>) {
        measure(bencher, 1, reactor::wake());
    }

    #[divan::bench]
    fn collect_1000(bencher: Bencher<'_, '_>) {
        measure(bencher, 1, reactor::collect(1000));
    }
}

mod http {
    use super::{Bencher, measure};
    use micro::http;

    #[divan::bench(args = [1, 16])]
    fn get(bencher: Bencher<'_, '_>, pipelined: usize) {
        measure(bencher, pipelined, http::get(pipelined));
    }

    #[divan::bench]
    fn post_16_kib_chunked(bencher: Bencher<'_, '_>) {
        measure(bencher, 1, http::post_chunked(16));
    }

    #[divan::bench(args = [false, true])]
    fn echo_1_kib(bencher: Bencher<'_, '_>, compressed: bool) {
        measure(bencher, 1, http::echo(1024, compressed));
    }
}

mod tls {
    use super::{Bencher, measure};
    use loop_pool::tls::Version::{Tls12, Tls13};
    use micro::tls::{self, Key};

    #[divan::bench(args = [Tls12, Tls13])]
    fn handshake_ecdsa(bencher: Bencher<'_, '_>, version: loop_pool::tls::Version) {
        measure(bencher, 1, tls::handshake(Key::Ecdsa, version, false));
    }

    #[divan::bench(args = [Tls12, Tls13])]
    fn handshake_rsa(bencher: Bencher<'_, '_>, version: loop_pool::tls::Version) {
        measure(bencher, 1, tls::handshake(Key::Rsa, version, false));
    }

    #[divan::bench(args = [Tls12, Tls13])]
    fn handshake_resumed(bencher: Bencher<'_, '_>, version: loop_pool::tls::Version) {
        measure(bencher, 1, tls::handshake(Key::Ecdsa, version, true));
    }

    #[divan::bench(args = [Tls12, Tls13])]
    fn echo_1_kib(bencher: Bencher<'_, '_>, version: loop_pool::tls::Version) {
        measure(bencher, 1, tls::echo(version, 1024));
    }

    #[divan::bench(args = [Tls12, Tls13])]
    fn echo_1_mib(bencher: Bencher<'_, '_>, version: loop_pool::tls::Version) {
        measure(bencher, 1, tls::echo(version, 1024 * 1024));
    }
}
