//! Coroutines that have not begun: on which loop's run queue each is placed, and when another loop
//! takes it from there.
//!
//! A coroutine is placed on the loop that has the fewest: each that waits there counts, each that has
//! begun, and for a while each that has ended. So a burst is spread at once, whoever gets a processor
//! first, and what lives long as evenly as what is short. To make them is work as well: whoever makes many
//! short ones gets fewer of them. One that is awaited before it begins counts
//! no more once it has ended, and if it was made while nothing waited here it begins here: who spawns and
//! awaits one after another, each of them short, wakes nobody.
//!
//! Until it begins, a coroutine can be taken by a loop that has nothing to do; which it is only
//!
//! - if its home works without a pause, has more than it will begin soon, and more than the taker, and
//!   not every processor has a loop at work already; or
//! - if its home is held up: it runs, or is blocked, and has begun nothing for a while; or
//! - if nobody runs its home.
//!
//! In the first two cases it takes no more than is fair, unless the home is held up for long.
//!
//! What is taken is spread over the loops that sleep, and the taker. A home whose thread merely waits
//! for a processor is left alone: the taker, by going to sleep, gives it one. How one thread keeps the
//! watch for all is in `src/scheduler/README.md`, *Run queues*.

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
    fn is_parked(&self, seat: WorkerIndex) -> bool {
        self.0.is_parked(seat)
    }

    fn summon(&self, seat: WorkerIndex) -> bool {
        self.0.summon_for(seat, STARTERS)
    }
}

impl Homes for SpawnTargets<'_> {
    /// One that looks for a post before it sleeps is as good as on its way.
    fn is_awake(&self, seat: WorkerIndex) -> bool {
        self.0.home(seat).is_some_and(|home| home.idle().is_awake() && !home.load.is_looking())
    }

    fn post(&self, seat: WorkerIndex, announced: &Announced) {
        if let Some(home) = self.0.home(seat) {
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
    pub(super) seat: WorkerIndex,
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
    pub(super) fn new(seat: WorkerIndex, loops: usize) -> Self {
        Self {
            seat,
            last: seat,
            seen: vec![Seen::default(); loops].into(),
            has_alone: false,
            in_a_row: 0,
            looked: 0,
            placed_ns: 0,
            placed: 0,
        }
    }

    /// Whether those that began here of late took so short that to wake another costs more.
    fn begins_shortly(&self, team: &PoolShared) -> bool {
        let Some(own) = team.home(self.seat) else { return false };
        let took = &own.metrics.begin_ns;
        let is_short = Duration::from_nanos(took.get()) <= config::SHORT_BEGINNING;
        if !is_short {
            // Lest one that was long decides for ever.
            took.set(took.get() - took.get() / 16);
        }
        is_short
    }

    /// Where the next coroutine is to be placed. `alone`: it may be the only one.
    pub(super) fn choose(&mut self, team: &PoolShared, alone: bool) -> Choice {
        if self.in_a_row > 0 && !team.starts.is_empty(self.last) && team.takes_more(self.last) {
            self.in_a_row -= 1;
            return self.place_at(team, self.last);
        }
        let count = team.loops.len();
        self.looked = self.looked.wrapping_add(1);
        // The clock costs as much as all the rest.
        if self.looked.is_multiple_of(16) || team.starts.is_empty(self.seat) {
            self.forget(team, clock::monotonic_ns());
        }
        // Beginning with the last one: equal loops are filled one after another.
        let before = WorkerIndex((self.last.0 + count - 1) % count);
        let others = team.starts.seats_behind(before).take(config::LOOKED_AT);
        let best = others
            .filter(|seat| *seat != self.seat && team.takes_more(*seat))
            .map(|seat| {
                let works = team.home(seat).is_some_and(|home| home.idle().is_awake());
                (team.has_to_do(seat) + u64::from(works), works, seat)
            })
            .min_by_key(|(load, works, _)| (*load, *works));
        let Some((least, works, other)) = best else { return Choice::Own };
        // This loop works, for whoever makes the coroutine.
        let own = team.has_to_do(self.seat) + 1;
        // To leave it with another that works, or has just ended something, costs more than it brings
        // if they have about as much to do.
        let close = least + 1 + least / 16;
        let stays = if works {
            own <= close || (own <= close + config::BUSY_SLACK && self.are_all_busy(team))
        } else {
            own < least
        };
        let run = (least.min(own) / 8).min(config::PLACED_IN_A_ROW);
        if alone
            && team.steals()
            && !works
            && own <= least + 2 + run
            && team.starts.is_empty(self.seat)
            && self.begins_shortly(team)
        {
            return Choice::Alone;
        }
        self.in_a_row = run;
        self.place_at(team, if stays { self.seat } else { other })
    }

    /// Forgets what has ended of late: bit by bit, or all of it if this is the first of a new burst, lest
    /// what one burst had too much of is made up for by the next.
    fn forget(&mut self, team: &PoolShared, now_ns: u64) {
        let paused = Duration::from_nanos(now_ns.saturating_sub(self.placed_ns));
        self.placed_ns = now_ns;
        if paused > config::BURST_PAUSE && self.placed >= config::BURST && team.all_have_begun() {
            self.placed = 0;
            team.forget_all(now_ns);
        } else {
            team.forget(now_ns);
        }
    }

    /// Says where, and counts what it takes to make one, unless to run it takes far longer.
    fn place_at(&mut self, team: &PoolShared, seat: WorkerIndex) -> Choice {
        if let Some(own) = team.home(self.seat) {
            let took = Duration::from_nanos(own.metrics.begin_ns.get());
            if !took.is_zero() && took <= config::SHORT_BEGINNING {
                own.load.made.add(1);
            }
        }
        self.last = seat;
        self.placed += 1;
        if seat == self.seat { Choice::Own } else { Choice::Other(seat) }
    }

    /// Whom what is taken from a queue may be given to: this loop, or one that sleeps. One that is awake
    /// may be held up itself.
    fn takers(&self, team: &PoolShared, from: WorkerIndex) -> impl Iterator<Item = WorkerIndex> {
        let own = self.seat;
        let others = team.starts.seats_behind(own).take(config::LOOKED_AT);
        others
            .filter(move |seat| *seat != from && *seat != own && !team.starts.is_closed(*seat))
            .filter(|seat| {
                team.home(*seat).is_some_and(|home| home.is_running() && !home.idle().is_awake())
            })
            .chain([own])
    }

    /// Which of these gets the next: the one that has had the fewest.
    pub(super) fn choose_taker(&self, team: &PoolShared, from: WorkerIndex) -> WorkerIndex {
        let own = self.seat;
        self.takers(team, from)
            // Of two that have had as many, one that does not give.
            .min_by_key(|seat| (team.had(*seat), (*seat == own) == (from == own)))
            .unwrap_or(own)
    }

    /// How many can be taken from a queue so that nobody has had more than is fair.
    pub(super) fn room(&self, team: &PoolShared, from: WorkerIndex) -> u64 {
        let fair = team.fair_share();
        self.takers(team, from).map(|seat| fair.saturating_sub(team.had(seat))).sum()
    }

    /// Whether all others work, and have done so for a while: what is left to them has to wait.
    fn are_all_busy(&self, team: &PoolShared) -> bool {
        let now_ns = clock::monotonic_ns();
        let is_busy = |home: &Shared| {
            let since = Duration::from_nanos(now_ns.saturating_sub(home.load.slept_ns.get()));
            home.idle().is_awake() && since > config::BUSY_AFTER
        };
        let others = team.loops().filter(|(seat, _)| *seat != self.seat.0);
        others.into_iter().all(|(_, home)| is_busy(home))
    }

    /// Looks at the queues of the others.
    pub(super) fn look(&mut self, team: &PoolShared) -> LookOutcome {
        let mut outlook = LookOutcome::Clear;
        let own = self.seat;
        let mut now_ns = 0;
        for seat in team.starts.seats_behind(own).filter(|seat| *seat != own) {
            if team.starts.is_empty(seat) || !SpawnTargets(team).is_awake(seat) {
                continue;
            }
            let Some(home) = team.home(seat) else { continue };
            if now_ns == 0 {
                now_ns = clock::monotonic_ns();
                team.forget(now_ns);
            }
            if self.is_due(team, seat, home, now_ns) {
                return LookOutcome::Due(seat);
            }
            outlook = LookOutcome::Waiting;
        }
        outlook
    }

    /// Whether what lies on the queue of a loop that is awake is to be taken from it now.
    fn is_due(&mut self, team: &PoolShared, seat: WorkerIndex, home: &Shared, now_ns: u64) -> bool {
        if !home.is_running() {
            return true;
        }
        let Some(runner) = home.awake_runner() else { return false };
        let activity = (team.starts.pushed(seat) as u64).wrapping_add(home.metrics.unstarted.get());
        let seen = &mut self.seen[seat.0];
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
                && (since > config::HELD_UP_LONG || self.room(team, seat) > 0);
        }
        let ran = had.zip(seen.had).map_or(since, |(had, before)| had.saturating_sub(before));
        let is_running = seen.since_ns != 0 && 4 * ran >= 3 * since;
        *seen = Seen { activity, since_ns: now_ns, had };
        let begins_in = begin_ns.saturating_mul(team.starts.len(seat) as u64);
        is_running
            && Duration::from_nanos(begins_in) > config::BEGIN_SOON
            && team.spawned(self.seat) < team.spawned(seat)
            && team.had(self.seat) < team.fair_share()
            && team.working() < team.cores
    }
}

impl PoolShared {
    /// Whether a loop begins what is placed there from now on.
    fn takes_more(&self, seat: WorkerIndex) -> bool {
        !self.starts.is_closed(seat) && self.home(seat).is_some_and(|home| home.is_running())
    }

    /// How many loops are at work.
    fn working(&self) -> usize {
        (0..self.loops.len()).filter(|seat| SpawnTargets(self).is_awake(WorkerIndex(*seat))).count()
    }

    /// Has somebody keep an eye on what lies on a loop's queue, as the loop has not come to it yet. The
    /// monitor's part.
    pub(super) fn see_to_unstarted(&self, seat: usize) {
        if !self.starts.is_empty(WorkerIndex(seat)) {
            self.starts.see_to_it(&SpawnTargets(self));
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
