//! The constants that tune a loop, each with its reason. They are not options, until a measurement shows
//! that one value does not suit everybody.
//!
//! Must never: hold state.

use std::time::Duration;

/// A poll younger than this is not repeated while callbacks are ready: the syscall costs more than
/// what it would find, and I/O waits no longer than this beyond the running batch.
pub const POLL_INTERVAL: Duration = Duration::from_micros(250);

/// While descriptors are watched, the kernel is asked in each third turn, however young the last poll
/// is: what is ready has its callback within four turns, by which programs wait for a peer in the same
/// loop.
pub const TURNS_PER_POLL: u32 = 3;

/// Descriptors that every loop watches from its start: the end of asyncio's own pipe to itself.
pub const OWN_DESCRIPTORS: usize = 1;

/// Polls that found nothing, since the loop last slept or found something, from which on the turns are
/// not counted any more: it computes, and the clock decides.
pub const POLLS_IN_VAIN: u32 = 256;

/// Then a poll younger than this is not repeated: asking costs some 2 % of the time.
pub const COMPUTING_POLL_INTERVAL: Duration = Duration::from_micros(75);

/// Callbacks run between two looks at the inbox and (by [`POLL_INTERVAL`]) at the reactor, however
/// many are ready. Bounds the delay that one long turn imposes on foreign posts and I/O.
pub const CALLBACK_BATCH: usize = 1024;

/// Callbacks that a turn may have left, and yet run for a while, when the loop's time is up.
pub const LEFT_AT_THE_END: usize = 16;

/// For how long, in nanoseconds.
pub const END_OF_RUN_NS: u64 = 300_000_000;

/// The longest wait in the kernel, in seconds: asyncio's own limit, for the sake of `epoll_wait`'s
/// 32-bit milliseconds. A loop that wakes at it simply parks again.
pub const MAX_WAIT: Duration = Duration::from_secs(24 * 3600);

/// Kernel events taken by one poll.
pub const EVENTS_PER_POLL: usize = 256;

/// Memory that an emptied ready queue may keep, in entries; above it, it is given back.
pub const READY_KEEP: usize = 64 * 1024;

/// Bytes that may be read ahead of a loop that does not get to its transport. A full transport is
/// left to the kernel's own flow control.
pub const READ_AHEAD: usize = 256 * 1024;

/// Bytes that one read may bring, as in asyncio: a datagram may be as long.
pub const READ_SIZE: usize = 256 * 1024;

/// Bytes that a loop reads of a stream at once: so few that they are still in the processor's cache
/// when they are copied into an object of Python's, and more than messages of 64 KiB.
pub const STREAM_READ_SIZE: usize = 96 * 1024;

/// Reads of one stream before others have a turn, while each brings as much as it may: enough for a message
/// of 1 MiB, which is then answered in one turn.
pub const READS_PER_TURN: usize = 11;

/// Bytes that are held back at most of what a protocol writes while its transport's turn keeps reading:
/// as much as the reads of one turn bring.
pub const HELD_BACK: usize = 1024 * 1024;

/// What was read ahead in shorter pieces than this is joined.
pub const READ_AHEAD_PIECE: usize = 64 * 1024;

/// What a piece counts for besides its bytes: its place in a queue that may be half empty, and what
/// the allocator takes.
pub const READ_AHEAD_OVERHEAD: usize = 96;

/// Bytes that a flush of the owner writes at most before others have a turn.
pub const WRITE_BUDGET: usize = 1024 * 1024;

/// Bytes that one job writes at most: some 100 microseconds, so that whoever does it for another loop
/// is soon back at its own.
pub const JOB_BUDGET: usize = 256 * 1024;

/// Connections that one job accepts at most, likewise.
pub const ACCEPTS_PER_JOB: usize = 16;

/// Datagrams that may be received ahead, and so be lost if the loop is never heard of again: as many
/// as a kernel's default buffer holds of middling ones.
pub const READ_AHEAD_DATAGRAMS: usize = 256;

/// Datagrams that one flush sends before others have a turn.
pub const DATAGRAM_BUDGET: usize = 64;

/// Connections accepted before others have a turn.
pub const ACCEPT_BUDGET: usize = 64;

/// Entries in a ready queue from which on its loop is called behind: so many take some 50
/// microseconds, more than it costs to wake an idle thread for a part of them.
pub const BEHIND: usize = 16;

/// Registered tasks looked at in one turn before the loop sleeps: some 10 microseconds.
pub const SWEEP_PER_TURN: usize = 256;

/// Callbacks that a loop has done for each of its registered tasks before it looks at all of them again, if
/// none was added: a look at one costs a tenth of a small request.
pub const CALLBACKS_PER_SWEEP: u64 = 8;

/// Coroutines of `spawn` that a loop begins in one turn, as far as they take less than
/// [`BEGIN_FOR`]: in between it asks the kernel.
pub const BEGUN_PER_TURN: usize = 64;

/// After this long in one turn a loop begins no further coroutine.
pub const BEGIN_FOR: Duration = Duration::from_micros(250);

/// What a loop is expected to begin within this time is left to it by loops that have nothing to do.
pub const BEGIN_SOON: Duration = Duration::from_millis(1);

/// A loop that has not slept for this long is busy.
pub const BUSY_AFTER: Duration = Duration::from_millis(2);

/// How many coroutines more than the others a loop keeps while all are busy: those that live shortly
/// are cheapest where they were made.
pub const BUSY_SLACK: u64 = 8;

/// Coroutines whose first steps take no longer than this are begun by whoever makes and awaits them one
/// after another: to wake another loop, and to be woken by it, takes as long.
pub const SHORT_BEGINNING: Duration = Duration::from_micros(50);

/// Of the coroutines that have ended on a loop, half are forgotten after this, when the next is placed:
/// until then they count as if they lived, so that a burst is spread evenly, however quickly some of
/// its loops get on with theirs.
pub const ENDED_MEMORY: Duration = Duration::from_millis(50);

/// Who has made so many coroutines, and makes the next after [`BURST_PAUSE`], begins a new burst if all
/// have begun.
pub const BURST: u64 = 64;

/// See [`BURST`].
pub const BURST_PAUSE: Duration = Duration::from_micros(500);

/// A loop that has begun nothing for as long as so many take it on the average, at most for
/// [`HELD_UP_AFTER`], is not held up yet.
pub const BEGINNINGS_MISSED: u64 = 4;

/// See [`BEGINNINGS_MISSED`].
pub const HELD_UP_AFTER: Duration = Duration::from_millis(8);

/// What lies on the queue of a loop that is held up for longer begins elsewhere, however many others
/// have had of late.
pub const HELD_UP_LONG: Duration = Duration::from_millis(16);

/// So many more are placed on a loop in a row, as far as they are an eighth of what each has to do: it is
/// woken for the first, and finds the others; and who places them looks once.
pub const PLACED_IN_A_ROW: u64 = 4;

/// So many short coroutines that a loop has made count there as one that it has to run, on two loops; on
/// more of them as much less as there are more others to make up for it.
pub const MADE_FOR_ONE_BEGUN: u64 = 5;

/// Loops that are looked at for the one with the least to do, each time that a coroutine is placed.
pub const LOOKED_AT: usize = 8;

/// A sleep that another thread's post ends so soon is short: two wakes of the kernel take as long.
pub const SHORT_SLEEP: Duration = Duration::from_micros(150);

/// For how long a loop of a pool that expects a post looks for it before it sleeps. About a wake of
/// the kernel: longer looks would cost more than they save.
pub const LOOK_FOR: Duration = Duration::from_micros(40);

/// Looks in vain from which on a loop lets no more short sleeps pass between two of them: 2 to the
/// power of this.
pub const LOOKS_IN_VAIN: u32 = 7;

/// For how long, at least, a loop keeps a task that another thread was handed: who only looks at it
/// has let go of it by then.
pub const BORROWED_FOR: Duration = Duration::from_millis(250);

/// A sleeping loop that has done nothing of its own for this long is free to work for others: jobs are
/// offered only while one is, and it is woken for them before another. The loops of a pool under
/// balanced load sleep often and shortly; stealing from each other then costs more than it brings
/// (measured: 15 % more CPU per request).
pub const FREE_AFTER: Duration = Duration::from_millis(1);

/// A loop that has been inside one callback for this long is called stuck.
pub const STUCK_AFTER: Duration = Duration::from_millis(1);

/// Seconds from which on a callback is called slow, unless the program says otherwise: asyncio's.
pub const SLOW_AFTER: f64 = 0.1;

/// How soon the pool forgets that a loop was stuck: after this time it counts a third.
pub const STUCK_MEMORY: Duration = Duration::from_secs(1);

/// Recent time of being stuck that outweighs any number of connections when a new one is placed.
/// Less of it happens to any loop, by an import or a wait for a core.
pub const STUCK_STEP: Duration = Duration::from_millis(16);

/// So many connections does whatever else a loop does weigh like, when a new one is placed: of two that
/// hold few or none, the one that is not busy gets the first.
pub const OWN_WORK: u64 = 32;

/// How soon the monitor looks again at a loop that it has seen inside a callback.
pub const MONITOR_TICK: Duration = Duration::from_millis(1);

/// How soon it looks again while loops are awake and none of them could be found stuck, unless this time
/// adds to it: a look takes a processor for some 5 microseconds, as much as a third of a request.
pub const MONITOR_REST: Duration = Duration::from_millis(4);

/// Incidents that may wait to be reported, from which on no further one begins: some seconds' worth of
/// them, for a reporter that a program's callback holds up.
pub const INCIDENTS_WAITING: usize = 1024;

/// Looks at a pool whose loops all sleep after which the monitor sleeps too, until one wakes.
pub const QUIET_LOOKS: u32 = 4;

/// Jobs a thief takes at most at one time (it takes half of what its victim has): more would only
/// be stolen from it again, and a batch this long pays for the misses on the victim's cache lines.
pub const STEAL_LIMIT: usize = 32;

/// For how long a thread does jobs before it looks at its own loop: at its timers and what the kernel
/// has for it. At what was posted to it, and at when the next timer is due, it looks after each job.
pub const JOBS_FOR: Duration = Duration::from_micros(250);

/// How many jobs it does before that at most: two batches of a thief's.
pub const JOBS_PER_TURN: usize = 64;

/// Jobs after which the injector is looked at before the thread's own deque, so that a thread which
/// never runs out of jobs of its own does not starve what was injected: some 2 milliseconds' worth
/// of the longest ones. Prime, lest it beat in time with the jobs.
pub const INJECTOR_INTERVAL: u32 = 13;

/// The most bytes that one `recv` copies while its thread stays attached: some microseconds.
pub const RECEIVE_ATTACHED: usize = 64 * 1024;
