//! Unstarted coroutines: on which loop's run queue each is placed, and when another loop takes it over.
//!
//! In: spawned coroutines, and the load of each loop. Out: the loop with the fewest coroutines; for an idle
//! loop, coroutines of a loop that is held up.
//!
//! Must never: move a coroutine that has started.

// A coroutine is placed on the loop with the fewest: waiting ones count, started ones, and for a while
// ended ones. So a burst is distributed at once, whichever thread gets a CPU first, and long-lived
// coroutines as evenly as short ones. Creating them is work too: a loop that creates many short ones
// gets fewer. A coroutine that is awaited before it starts does not count once it has ended; if
// nothing was waiting here when it was created, it starts here. So a loop that spawns and awaits one
// short coroutine after another wakes nobody.
//
// Until it starts, an idle loop can take a coroutine over
//
// - if its home is continuously busy, has more than it will start soon and more than the taker, and
//   not every CPU is used by a loop; or
// - if its home is held up: it runs, or is blocked, and has started nothing for a while; or
// - if its home is not running.
//
// In the first two cases it takes no more than its share, unless the home is held up for long. The
// coroutines taken are distributed over the sleeping loops and the taker. A home whose thread only
// waits for a CPU keeps its coroutines: the taker, by going to sleep, gives it one.
// `src/scheduler/README.md`, *Run queues*, describes how one thread watches for all.

use std::time::Duration;

use super::PoolShared;
use super::detector::is_held_up;
use super::shared::STARTERS;
use crate::config;
use crate::event_loop::Shared;
use crate::scheduler::{Homes, LookOutcome, Sleepers, WorkerIndex};
use crate::sync::announce::Announced;
use crate::sys::clock;

/// The loops as they begin each other's coroutines.
pub(super) struct SpawnTargets<'a>(pub(super) &'a PoolShared);

impl Sleepers for SpawnTargets<'_> {
    fn is_parked(&self, worker_index: WorkerIndex) -> bool {
        self.0.is_parked(worker_index)
    }

    fn summon(&self, worker_index: WorkerIndex) -> bool {
        self.0.summon_for(worker_index, STARTERS)
    }
}

impl Homes for SpawnTargets<'_> {
    /// One that looks for a post before it sleeps is as good as on its way.
    fn is_awake(&self, worker_index: WorkerIndex) -> bool {
        self.0
            .home(worker_index)
            .is_some_and(|home| home.idle().is_awake() && !home.load.is_looking())
    }

    fn post(&self, worker_index: WorkerIndex, announced: &Announced) {
        if let Some(home) = self.0.home(worker_index) {
            home.posted(announced);
        }
    }
}

/// What was seen on another's queue, in order to tell how its home gets on with it.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// Counts what its home has begun, and what was placed there.
    activity: u64,
    since_ns: u64,
    /// The processor time that its thread had then.
    had: Option<Duration>,
}

/// Where a coroutine is placed.
pub(super) enum Choice {
    /// On the spawner's own loop.
    Own,
    /// There too, while others sleep: the spawner comes to it as its turn ends.
    Alone,
    Other(WorkerIndex),
}

/// One loop's part in this; its thread's.
#[derive(Debug)]
pub(super) struct SpawnPlacer {
    pub(super) worker_index: WorkerIndex,
    /// Where a coroutine was placed last.
    last: WorkerIndex,
    seen: Box<[Seen]>,
    /// One lies on the own queue for whose sake nobody was woken; unless it has been taken.
    pub(super) has_alone: bool,
    /// So many more are placed there, without a look at the others.
    in_a_row: u64,
    /// Counts the looks at the others. It wraps.
    looked: u32,
    /// When one of those was, of late.
    placed_ns: u64,
    /// Counts what was placed, since the last burst began.
    placed: u64,
}

impl SpawnPlacer {
    pub(super) fn new(worker_index: WorkerIndex, loops: usize) -> Self {
        Self {
            worker_index,
            last: worker_index,
            seen: vec![Seen::default(); loops].into(),
            has_alone: false,
            in_a_row: 0,
            looked: 0,
            placed_ns: 0,
            placed: 0,
        }
    }

    /// Whether those that began here of late took so short that to wake another costs more.
    fn begins_shortly(&self, pool_shared: &PoolShared) -> bool {
        let Some(own) = pool_shared.home(self.worker_index) else { return false };
        let took = &own.metrics.begin_ns;
        let is_short = Duration::from_nanos(took.get()) <= config::SHORT_BEGINNING;
        if !is_short {
            // Lest one that was long decides for ever.
            took.set(took.get() - took.get() / 16);
        }
        is_short
    }

    /// Where the next coroutine is to be placed. `alone`: it may be the only one.
    pub(super) fn choose(&mut self, pool_shared: &PoolShared, alone: bool) -> Choice {
        if self.in_a_row > 0
            && !pool_shared.starts.is_empty(self.last)
            && pool_shared.takes_more(self.last)
        {
            self.in_a_row -= 1;
            return self.place_at(pool_shared, self.last);
        }
        let count = pool_shared.loops.len();
        self.looked = self.looked.wrapping_add(1);
        // The clock costs as much as all the rest.
        if self.looked.is_multiple_of(16) || pool_shared.starts.is_empty(self.worker_index) {
            self.forget(pool_shared, clock::monotonic_ns());
        }
        // Beginning with the last one: equal loops are filled one after another.
        let before = WorkerIndex((self.last.0 + count - 1) % count);
        let others = pool_shared.starts.all_after(before).take(config::LOOKED_AT);
        let best = others
            .filter(|worker_index| {
                *worker_index != self.worker_index && pool_shared.takes_more(*worker_index)
            })
            .map(|worker_index| {
                let works =
                    pool_shared.home(worker_index).is_some_and(|home| home.idle().is_awake());
                (pool_shared.has_to_do(worker_index) + u64::from(works), works, worker_index)
            })
            .min_by_key(|(load, works, _)| (*load, *works));
        let Some((least, works, other)) = best else { return Choice::Own };
        // This loop works, for whoever makes the coroutine.
        let own = pool_shared.has_to_do(self.worker_index) + 1;
        // To leave it with another that works, or has just ended something, costs more than it brings
        // if they have about as much to do.
        let close = least + 1 + least / 16;
        let stays = if works {
            own <= close || (own <= close + config::BUSY_SLACK && self.are_all_busy(pool_shared))
        } else {
            own < least
        };
        let run = (least.min(own) / 8).min(config::PLACED_IN_A_ROW);
        if alone
            && pool_shared.steals()
            && !works
            && own <= least + 2 + run
            && pool_shared.starts.is_empty(self.worker_index)
            && self.begins_shortly(pool_shared)
        {
            return Choice::Alone;
        }
        self.in_a_row = run;
        self.place_at(pool_shared, if stays { self.worker_index } else { other })
    }

    /// Forgets what has ended of late: bit by bit, or all of it if this is the first of a new burst, lest
    /// what one burst had too much of is made up for by the next.
    fn forget(&mut self, pool_shared: &PoolShared, now_ns: u64) {
        let paused = Duration::from_nanos(now_ns.saturating_sub(self.placed_ns));
        self.placed_ns = now_ns;
        if paused > config::BURST_PAUSE
            && self.placed >= config::BURST
            && pool_shared.all_have_begun()
        {
            self.placed = 0;
            pool_shared.forget_all(now_ns);
        } else {
            pool_shared.forget(now_ns);
        }
    }

    /// Says where, and counts what it takes to make one, unless to run it takes far longer.
    fn place_at(&mut self, pool_shared: &PoolShared, worker_index: WorkerIndex) -> Choice {
        if let Some(own) = pool_shared.home(self.worker_index) {
            let took = Duration::from_nanos(own.metrics.begin_ns.get());
            if !took.is_zero() && took <= config::SHORT_BEGINNING {
                own.load.made.add(1);
            }
        }
        self.last = worker_index;
        self.placed += 1;
        if worker_index == self.worker_index { Choice::Own } else { Choice::Other(worker_index) }
    }

    /// Whom what is taken from a queue may be given to: this loop, or one that sleeps. One that is awake
    /// may be held up itself.
    fn takers(
        &self,
        pool_shared: &PoolShared,
        from: WorkerIndex,
    ) -> impl Iterator<Item = WorkerIndex> {
        let own = self.worker_index;
        let others = pool_shared.starts.all_after(own).take(config::LOOKED_AT);
        others
            .filter(move |worker_index| {
                *worker_index != from
                    && *worker_index != own
                    && !pool_shared.starts.is_closed(*worker_index)
            })
            .filter(|worker_index| {
                pool_shared
                    .home(*worker_index)
                    .is_some_and(|home| home.is_running() && !home.idle().is_awake())
            })
            .chain([own])
    }

    /// Which of these gets the next: the one that has had the fewest.
    pub(super) fn choose_taker(&self, pool_shared: &PoolShared, from: WorkerIndex) -> WorkerIndex {
        let own = self.worker_index;
        self.takers(pool_shared, from)
            // Of two that have had as many, one that does not give.
            .min_by_key(|worker_index| {
                (pool_shared.had(*worker_index), (*worker_index == own) == (from == own))
            })
            .unwrap_or(own)
    }

    /// How many can be taken from a queue so that nobody has had more than is fair.
    pub(super) fn room(&self, pool_shared: &PoolShared, from: WorkerIndex) -> u64 {
        let fair = pool_shared.fair_share();
        self.takers(pool_shared, from)
            .map(|worker_index| fair.saturating_sub(pool_shared.had(worker_index)))
            .sum()
    }

    /// Whether all others work, and have done so for a while: what is left to them has to wait.
    fn are_all_busy(&self, pool_shared: &PoolShared) -> bool {
        let now_ns = clock::monotonic_ns();
        let is_busy = |home: &Shared| {
            let since = Duration::from_nanos(now_ns.saturating_sub(home.load.slept_ns.get()));
            home.idle().is_awake() && since > config::BUSY_AFTER
        };
        let others =
            pool_shared.loops().filter(|(worker_index, _)| *worker_index != self.worker_index.0);
        others.into_iter().all(|(_, home)| is_busy(home))
    }

    /// Looks at the queues of the others.
    pub(super) fn look(&mut self, pool_shared: &PoolShared) -> LookOutcome {
        let mut outlook = LookOutcome::Clear;
        let own = self.worker_index;
        let mut now_ns = 0;
        for worker_index in
            pool_shared.starts.all_after(own).filter(|worker_index| *worker_index != own)
        {
            if pool_shared.starts.is_empty(worker_index)
                || !SpawnTargets(pool_shared).is_awake(worker_index)
            {
                continue;
            }
            let Some(home) = pool_shared.home(worker_index) else { continue };
            if now_ns == 0 {
                now_ns = clock::monotonic_ns();
                pool_shared.forget(now_ns);
            }
            if self.is_due(pool_shared, worker_index, home, now_ns) {
                return LookOutcome::Due(worker_index);
            }
            outlook = LookOutcome::Waiting;
        }
        outlook
    }

    /// Whether what lies on the queue of a loop that is awake is to be taken from it now.
    fn is_due(
        &mut self,
        pool_shared: &PoolShared,
        worker_index: WorkerIndex,
        home: &Shared,
        now_ns: u64,
    ) -> bool {
        if !home.is_running() {
            return true;
        }
        let Some(runner) = home.awake_runner() else { return false };
        let activity =
            (pool_shared.starts.pushed(worker_index) as u64).wrapping_add(home.metrics.begun.get());
        let seen = &mut self.seen[worker_index.0];
        let since = Duration::from_nanos(now_ns.saturating_sub(seen.since_ns));
        if seen.since_ns != 0 && since < config::BEGIN_SOON {
            return false;
        }
        let had = runner.processor_time();
        let begin_ns = home.metrics.begin_ns.get();
        if seen.since_ns != 0 && seen.activity == activity {
            let usual = Duration::from_nanos(begin_ns.saturating_mul(config::BEGINNINGS_MISSED));
            let limit = usual.clamp(config::BEGIN_SOON, config::HELD_UP_AFTER);
            return since > limit
                && is_held_up(runner, seen.had, had, since, limit)
                && (since > config::HELD_UP_LONG || self.room(pool_shared, worker_index) > 0);
        }
        let ran = had.zip(seen.had).map_or(since, |(had, before)| had.saturating_sub(before));
        let is_running = seen.since_ns != 0 && 4 * ran >= 3 * since;
        *seen = Seen { activity, since_ns: now_ns, had };
        let begins_in = begin_ns.saturating_mul(pool_shared.starts.len(worker_index) as u64);
        is_running
            && Duration::from_nanos(begins_in) > config::BEGIN_SOON
            && pool_shared.spawned(self.worker_index) < pool_shared.spawned(worker_index)
            && pool_shared.had(self.worker_index) < pool_shared.fair_share()
            && pool_shared.working() < pool_shared.cores
    }
}

impl PoolShared {
    /// Whether a loop begins what is placed there from now on.
    fn takes_more(&self, worker_index: WorkerIndex) -> bool {
        !self.starts.is_closed(worker_index)
            && self.home(worker_index).is_some_and(|home| home.is_running())
    }

    /// How many loops are at work.
    fn working(&self) -> usize {
        (0..self.loops.len())
            .filter(|worker_index| SpawnTargets(self).is_awake(WorkerIndex(*worker_index)))
            .count()
    }

    /// Has somebody keep an eye on what lies on a loop's queue, as the loop has not come to it yet. The
    /// monitor's part. Returns whether anything lies there.
    pub(super) fn see_to_unstarted(&self, worker_index: usize) -> bool {
        let has_unstarted = !self.starts.is_empty(WorkerIndex(worker_index));
        if has_unstarted {
            self.starts.see_to_it(&SpawnTargets(self));
        }
        has_unstarted
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
