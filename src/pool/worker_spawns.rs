//! What a loop's thread does about coroutines that have not begun: it leaves them to others, begins those
//! that lie on its own queue, and keeps an eye on the others' queues before it sleeps.

use super::LoopWorker;
use super::shared::STARTERS;
use super::spawns::{Choice, SpawnTargets};
use super::unstarted::Unstarted;
use crate::config;
use crate::event_loop::Shared;
use crate::scheduler::{LookOutcome, SearchPermit, Watch, WorkerIndex};

impl LoopWorker {
    /// Leaves a coroutine to the loop that has the least to do. Returns what no loop will begin, if
    /// that one has ended meanwhile.
    #[must_use = "what no loop will begin is lost"]
    pub fn leave_to_all(&mut self, unstarted: Unstarted) -> Vec<Unstarted> {
        if !self.was_alone() {
            return self.place(unstarted, true);
        }
        // It was the first of several: they are spread.
        let first = self.next_unstarted();
        let mut refused = first.map_or_else(Vec::new, |first| self.place(first, false));
        refused.append(&mut self.place(unstarted, false));
        refused
    }

    fn place(&mut self, unstarted: Unstarted, alone: bool) -> Vec<Unstarted> {
        let Self { team, starter, .. } = self;
        let homes = SpawnTargets(team);
        match starter.choose(team, alone) {
            Choice::Other(home) => return team.starts.push(home, unstarted, &homes),
            Choice::Own => team.starts.push_own(starter.seat, unstarted, &homes),
            Choice::Alone => {
                starter.has_alone = true;
                team.starts.push_alone(starter.seat, unstarted);
            }
        }
        Vec::new()
    }

    /// The coroutine to begin next.
    #[inline]
    pub fn next_unstarted(&mut self) -> Option<Unstarted> {
        if !self.has_unstarted() {
            return None;
        }
        self.team.starts.pop(self.starter.seat)
    }

    /// Whether nobody was woken for the sake of the one that `next_unstarted` has returned: another loop is
    /// to have it if its maker does not wait for it.
    #[inline]
    pub fn was_alone(&mut self) -> bool {
        std::mem::take(&mut self.starter.has_alone)
    }

    /// Leaves to a loop that sleeps what `next_unstarted` has returned; if none does, it is returned.
    pub fn pass_on(&mut self, unstarted: Unstarted) -> Option<Unstarted> {
        let team = &*self.team;
        let own = self.starter.seat;
        let other = self.starter.choose_taker(team, own);
        if other == own {
            return Some(unstarted);
        }
        // One that has left gives it back; and nothing else, as nothing lay there.
        let mut refused = team.starts.push(other, unstarted, &SpawnTargets(team));
        let back = refused.pop();
        for unstarted in refused {
            team.starts.push_own(own, unstarted, &SpawnTargets(team));
        }
        back
    }

    /// Whether coroutines wait for this loop to begin them.
    #[inline]
    pub fn has_unstarted(&self) -> bool {
        !self.team.starts.is_empty(self.starter.seat)
    }

    /// Takes all out that wait here.
    pub fn take_unstarted(&mut self) -> Vec<Unstarted> {
        self.team.starts.take_all(self.starter.seat)
    }

    /// As [`take_unstarted`](Self::take_errands), as the loop ends.
    pub(super) fn close_unstarted(&mut self) -> Vec<Unstarted> {
        self.team.starts.close(self.starter.seat)
    }

    /// To be called before the loop runs anything else while coroutines wait for it: somebody who would
    /// sleep is to keep an eye on them.
    pub fn guard_unstarted(&self) {
        if self.has_unstarted() {
            self.team.starts.see_to_it(&SpawnTargets(&self.team));
        }
    }

    /// Looks at all queues, on the last look before a sleep; begins and ends the watch as needed.
    pub fn look_out(&mut self, watch: &mut Option<Watch>) -> LookOutcome {
        let Self { team, starter, .. } = self;
        team.starts.look_out(starter.seat, watch, || starter.look(team))
    }

    /// Takes a summons, if there is one, after a wait; one for the watch goes there.
    pub fn hear(&mut self, own: &Shared, watch: &mut Option<Watch>) -> Option<SearchPermit> {
        let summons = own.idle().take_summons()?;
        if summons.crew() != STARTERS {
            return Some(summons);
        }
        *watch = Some(Watch::from_summons(summons));
        None
    }

    /// Takes some of what lies on another's queue, so that the two have as many left, and nobody has had
    /// more than is fair; and leaves it to this loop and those that sleep.
    pub fn take_over(&mut self, own: &Shared, from: WorkerIndex) {
        let Self { team, starter, .. } = self;
        let more = team.spawned(from).saturating_sub(team.spawned(starter.seat));
        let room = starter.room(team, from);
        let half = team.starts.len(from).div_ceil(2);
        let count = usize::try_from(more.div_ceil(2).min(room)).unwrap_or(half);
        let count = count.min(half).clamp(1, config::STEAL_LIMIT);
        let place = || starter.choose_taker(team, from);
        let taken = team.starts.take_over(from, starter.seat, count, &SpawnTargets(team), place);
        own.metrics.errands_stolen.add(taken as u64);
    }

    /// Ends the watch before the loop does anything else, and sees to it that somebody keeps it if
    /// there is need. After each wait.
    pub fn stand_down(&self, watch: Option<Watch>) {
        self.team.starts.stand_down(self.starter.seat, watch, &SpawnTargets(&self.team));
    }
}
