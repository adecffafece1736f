//! Coroutines that have not begun: on which loop's run queue each is placed, and when another loop
//! takes it from there.
//!
//! A coroutine is placed on the loop that has the fewest to do: each that waits there, and each that
//! has begun and not ended, counts. So a burst is spread at once, whoever gets a processor first, and
//! what lives long as evenly as what is short. Until it begins it can be taken by a loop that has
//! nothing to do; which it is only
//!
//! - if its home works without a pause, has more than it will begin soon, and more than the taker, and
//!   not every processor has a loop at work already; or
//! - if its home is held up: it runs, or is blocked, and has begun nothing for a while; or
//! - if nobody runs its home.
//!
//! A home whose thread merely waits for a processor is left alone: the taker, by going to sleep, gives
//! it one. How one thread keeps the watch for all is in `src/scheduler/README.md`, *Run queues*.

use std::time::Duration;

use super::detector::is_held_up;
use super::team::summon;
use super::{Hand, Team};
use crate::config;
use crate::event_loop::Shared;
use crate::scheduler::{CrewId, Homes, Outlook, RunQueues, Seat, Sleepers, Summons, Watch};
use crate::sync::announce::Announced;
use crate::sys::clock;

/// By this number a summons says that it is for these.
pub(super) const STARTERS: CrewId = CrewId(1);

/// A coroutine that has not begun: a reference that the layer above has given away, which it gets
/// back as it is.
#[derive(Debug)]
#[must_use = "a coroutine that is dropped here is lost"]
pub struct Errand(usize);

impl Errand {
    /// Of a reference that is given away.
    pub fn new(reference: usize) -> Self {
        Self(reference)
    }

    /// The reference, to be owned again.
    #[must_use]
    pub fn into_reference(self) -> usize {
        let reference = self.0;
        std::mem::forget(self);
        reference
    }
}

impl Drop for Errand {
    fn drop(&mut self) {
        debug_assert!(false, "a coroutine was lost");
    }
}

/// The run queues of a team's loops.
pub(super) fn new_queues(loops: usize) -> RunQueues<Errand> {
    RunQueues::new(loops, STARTERS)
}

/// The loops as they begin each other's coroutines.
struct Starters<'a>(&'a Team);

impl Starters<'_> {
    fn home(&self, seat: Seat) -> Option<&Shared> {
        self.0.loops[seat.0].get().map(|shared| &**shared)
    }
}

impl Sleepers for Starters<'_> {
    fn is_parked(&self, seat: Seat) -> bool {
        self.home(seat).is_some_and(|home| home.idle().is_parked())
    }

    fn summon(&self, seat: Seat) -> bool {
        self.home(seat).is_some_and(|home| summon(home, STARTERS))
    }
}

impl Homes for Starters<'_> {
    /// One that looks for a post before it sleeps is as good as on its way.
    fn is_awake(&self, seat: Seat) -> bool {
        self.home(seat).is_some_and(|home| home.idle().is_awake() && !home.load.is_looking())
    }

    fn post(&self, seat: Seat, announced: &Announced) {
        if let Some(home) = self.home(seat) {
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

/// One loop's part in this; its thread's.
#[derive(Debug)]
pub(super) struct Starter {
    seat: Seat,
    /// Where a coroutine was placed last.
    last: Seat,
    seen: Box<[Seen]>,
}

impl Starter {
    pub(super) fn new(seat: Seat, loops: usize) -> Self {
        Self { seat, last: seat, seen: vec![Seen::default(); loops].into() }
    }

    /// The loop for the next coroutine.
    fn choose(&mut self, team: &Team) -> Seat {
        let count = team.loops.len();
        // Beginning with the last one: equal loops are filled one after another.
        let before = Seat((self.last.0 + count - 1) % count);
        let others = team.starts.seats_behind(before).take(config::LOOKED_AT);
        let best = others
            .filter(|seat| *seat != self.seat && !team.starts.is_closed(*seat))
            .filter_map(|seat| {
                let home = team.loops[seat.0].get().filter(|home| home.is_running())?;
                let works = home.idle().is_awake();
                Some((team.spawned(seat) + u64::from(works), works, seat))
            })
            .min_by_key(|(load, works, _)| (*load, *works));
        let Some((least, works, other)) = best else { return self.seat };
        // This loop works, for whoever makes the coroutine.
        let own = team.spawned(self.seat) + 1;
        // To leave it with another that works, or has just ended something, costs more than it brings
        // if they have about as much to do.
        let close = least + 1 + least / 16;
        let stays = if works {
            own <= close || (own <= close + config::BUSY_SLACK && self.are_all_busy(team))
        } else {
            own < least
        };
        if stays {
            return self.seat;
        }
        self.last = other;
        other
    }

    /// Whether all others work, and have done so for a while: what is left to them has to wait.
    fn are_all_busy(&self, team: &Team) -> bool {
        let now_ns = clock::monotonic_ns();
        let is_busy = |home: &Shared| {
            let since = Duration::from_nanos(now_ns.saturating_sub(home.load.slept_ns()));
            home.idle().is_awake() && since > config::BUSY_AFTER
        };
        let others = team.loops().filter(|(seat, _)| *seat != self.seat.0);
        others.into_iter().all(|(_, home)| is_busy(home))
    }

    /// Looks at the queues of the others.
    fn look(&mut self, team: &Team) -> Outlook {
        let mut outlook = Outlook::Clear;
        let own = self.seat;
        for seat in team.starts.seats_behind(own).filter(|seat| *seat != own) {
            if team.starts.is_empty(seat) || !Starters(team).is_awake(seat) {
                continue;
            }
            let Some(home) = team.loops[seat.0].get() else { continue };
            if self.is_due(team, seat, home) {
                return Outlook::Due(seat);
            }
            outlook = Outlook::Waiting;
        }
        outlook
    }

    /// Whether what lies on the queue of a loop that is awake is to be taken from it now.
    fn is_due(&mut self, team: &Team, seat: Seat, home: &Shared) -> bool {
        if !home.is_running() {
            return true;
        }
        let Some(runner) = home.awake_runner() else { return false };
        let now_ns = clock::monotonic_ns();
        let activity = (team.starts.pushed(seat) as u64).wrapping_add(home.metrics.errands.get());
        let seen = &mut self.seen[seat.0];
        let since = Duration::from_nanos(now_ns.saturating_sub(seen.since_ns));
        if seen.since_ns != 0 && since < config::BEGIN_SOON {
            return false;
        }
        let had = runner.processor_time();
        if seen.since_ns != 0 && seen.activity == activity {
            return is_held_up(runner, seen.had, had, since);
        }
        let ran = had.zip(seen.had).map_or(since, |(had, before)| had.saturating_sub(before));
        let is_running = seen.since_ns != 0 && 4 * ran >= 3 * since;
        *seen = Seen { activity, since_ns: now_ns, had };
        let begins_in = home.metrics.begin_ns.get().saturating_mul(team.starts.len(seat) as u64);
        is_running
            && Duration::from_nanos(begins_in) > config::BEGIN_SOON
            && team.spawned(self.seat) < team.spawned(seat)
            && team.working() < team.cores
    }
}

impl Team {
    /// How many loops are at work.
    fn working(&self) -> usize {
        (0..self.loops.len()).filter(|seat| Starters(self).is_awake(Seat(*seat))).count()
    }

    /// How many coroutines of `spawn` a loop has: begun, or waiting on its queue.
    fn spawned(&self, seat: Seat) -> u64 {
        let begun = self.loops[seat.0].get().map_or(0, |home| home.load.spawned());
        begun + self.starts.len(seat) as u64
    }
}

impl Hand {
    /// Leaves a coroutine to the loop that has the least to do. Returns what no loop will begin, if
    /// that one has ended meanwhile.
    #[must_use = "what no loop will begin is lost"]
    pub fn leave_to_all(&mut self, errand: Errand) -> Vec<Errand> {
        let team = &*self.team;
        let home = self.starter.choose(team);
        if home == self.starter.seat {
            team.starts.push_own(home, errand, &Starters(team));
            return Vec::new();
        }
        team.starts.push(home, errand, &Starters(team))
    }

    /// The coroutine to begin next.
    #[inline]
    pub fn next_errand(&mut self) -> Option<Errand> {
        if !self.has_errands() {
            return None;
        }
        self.team.starts.pop(self.starter.seat)
    }

    /// Whether coroutines wait for this loop to begin them.
    #[inline]
    pub fn has_errands(&self) -> bool {
        !self.team.starts.is_empty(self.starter.seat)
    }

    /// Takes all out that wait here.
    pub fn take_errands(&mut self) -> Vec<Errand> {
        self.team.starts.take_all(self.starter.seat)
    }

    /// As [`take_errands`](Self::take_errands), as the loop ends.
    pub(super) fn close_errands(&mut self) -> Vec<Errand> {
        self.team.starts.close(self.starter.seat)
    }

    /// To be called before the loop runs anything else while coroutines wait for it: somebody who would
    /// sleep is to keep an eye on them.
    pub fn guard_errands(&self) {
        if self.has_errands() {
            self.team.starts.see_to_it(&Starters(&self.team));
        }
    }

    /// Looks at all queues, on the last look before a sleep; begins and ends the watch as needed.
    pub fn look_out(&mut self, watch: &mut Option<Watch>) -> Outlook {
        let Self { team, starter, .. } = self;
        team.starts.look_out(starter.seat, watch, || starter.look(team))
    }

    /// Takes a summons, if there is one, after a wait; one for the watch goes there.
    pub fn hear(&mut self, own: &Shared, watch: &mut Option<Watch>) -> Option<Summons> {
        let summons = own.idle().take_summons()?;
        if summons.crew() != STARTERS {
            return Some(summons);
        }
        *watch = Some(Watch::from_summons(summons));
        None
    }

    /// Takes some of what lies on another's queue, so that the two have as much.
    pub fn take_over(&mut self, own: &Shared, from: Seat) {
        let Self { team, starter, .. } = self;
        let more = team.spawned(from).saturating_sub(team.spawned(starter.seat));
        let half = team.starts.len(from).div_ceil(2);
        let count = usize::try_from(more.div_ceil(2)).unwrap_or(half);
        let count = count.min(half).clamp(1, config::STEAL_LIMIT);
        let taken = team.starts.take_over(from, starter.seat, count);
        own.metrics.errands_stolen.add(taken as u64);
    }

    /// Ends the watch before the loop does anything else, and sees to it that somebody keeps it if
    /// there is need. After each wait.
    pub fn stand_down(&self, watch: Option<Watch>) {
        self.team.starts.stand_down(self.starter.seat, watch, &Starters(&self.team));
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
