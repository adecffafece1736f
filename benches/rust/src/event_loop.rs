//! A loop without Python: what is posted to it, what is ready in it, and which task it shows.

use std::hint::black_box;
use std::thread;
use std::time::Duration;

use loop_pool::event_loop::{Current, EventLoop, Inbox, Plan, Post, Shared, Shown};
use loop_pool::scheduler::Park;
use loop_pool::sys::clock;

/// Stands for a callback: as large as the entry of a Python loop's ready queue.
type Callback = [usize; 2];

const CALLBACK: Callback = [7; 2];

/// A loop that lives as long as the process, owned by the calling thread.
fn owned_loop() -> &'static EventLoop<Callback> {
    let event_loop: &EventLoop<_> = Box::leak(Box::new(EventLoop::new().expect("descriptors")));
    Box::leak(Box::new(event_loop.claim().expect("a new loop is nobody's")));
    event_loop
}

/// Pushes so many values, and takes them out at once.
pub fn inbox(values: usize) -> impl FnMut() {
    let inbox = Inbox::default();
    move || {
        for _ in 0..values {
            let _ = inbox.push(black_box(CALLBACK));
        }
        for value in inbox.drain() {
            black_box(value);
        }
    }
}

/// So many threads push `each` values at the same time, while the calling thread takes them out.
pub fn inbox_producers(producers: usize, each: usize) -> impl FnMut() {
    let inbox = Inbox::default();
    move || {
        let inbox = &inbox;
        thread::scope(|scope| {
            for _ in 0..producers {
                scope.spawn(|| (0..each).for_each(|_| drop(inbox.push(black_box(CALLBACK)))));
            }
            let mut left = producers * each;
            while left > 0 {
                left -= inbox.drain().map(black_box).count();
            }
        });
    }
}

/// Posts so many calls to a loop that is awake, which then takes them over.
pub fn post(calls: usize) -> impl FnMut() {
    let event_loop = owned_loop();
    move || {
        for _ in 0..calls {
            event_loop.post(Post::Call(black_box(CALLBACK)));
        }
        for post in event_loop.drain_posts() {
            black_box(post.into_callback());
        }
    }
}

/// Posts a call to a loop that sleeps as far as anybody can tell: the kernel is told to wake it, and
/// its poll comes back at once.
///
/// # Panics
/// When the loop may not sleep or cannot poll, which is a bug.
pub fn post_to_sleeper() -> impl FnMut() {
    let event_loop = owned_loop();
    let mut found = Vec::new();
    move || {
        let mut poller = event_loop.shared().poller();
        let Park::Sleep(parked) = event_loop.park(&poller, || false) else { panic!("no post") };
        event_loop.post(Post::Call(black_box(CALLBACK)));
        let turned = poller.poll(Duration::from_secs(60), &mut found).expect("the loop is open");
        drop(parked);
        let _ = black_box((turned, event_loop.drain_posts().count()));
    }
}

/// One turn of a loop: so many callbacks are made ready by the owner, the poll is planned and left
/// out, and each callback is taken.
///
/// # Panics
/// When the owner does not own its loop, which is a bug.
pub fn turn(callbacks: usize) -> impl FnMut() {
    let event_loop = owned_loop();
    move || {
        for _ in 0..callbacks {
            // SAFETY: the closure does not reach the loop.
            let given = unsafe {
                event_loop.local.give_owner(black_box(CALLBACK), |local, callback| {
                    local.ready.push(callback);
                })
            };
            given.expect("this thread owns the loop");
        }
        // SAFETY: as above.
        let planned = unsafe {
            event_loop
                .local
                .if_owner(|local| local.plan(black_box(local.last_poll_ns() + 1), false))
        };
        assert_eq!(planned, Some(Plan::Skip));
        for _ in 0..callbacks {
            // SAFETY: as above.
            black_box(unsafe { event_loop.local.if_owner(|local| local.ready.pop()) });
        }
        // SAFETY: as above.
        black_box(unsafe { event_loop.local.if_owner(|local| local.ready.trim()) });
    }
}

/// The two readings of time that a turn may make: the clock and the counter.
pub fn clock() -> impl FnMut() {
    || {
        black_box((clock::monotonic_ns(), clock::ticks()));
    }
}

fn shown(shared: &Shared) -> &Current {
    black_box(&shared.current)
}

/// A task's step: shown as running, and no more.
pub fn enter_leave() -> impl FnMut() {
    let shared = owned_loop().shared();
    move || {
        let step = shown(shared).enter(black_box(0x1000));
        let _ = black_box(step.leave());
    }
}

/// A new task: shown while it waits for its first step, and no more.
pub fn young_task() -> impl FnMut() {
    let shared = owned_loop().shared();
    move || {
        let current = shown(shared);
        black_box(current.add_young(black_box(0x1000), 1));
        black_box(current.remove_young(black_box(0x1000), |created_ns| created_ns));
    }
}

/// Another thread's look at the running task, as far as one thread can show it.
pub fn read_current() -> impl FnMut() {
    let shared = owned_loop().shared();
    let _ = shared.current.enter(0x1000).keep_on();
    move || {
        black_box(shown(shared).read(Shown::running));
    }
}
