//! How a loop's thread handles unstarted coroutines: it offers them to other loops, starts those in its own
//! queue, and watches the other queues before it sleeps.

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
        let Self { pool_shared, placer, .. } = self;
        let homes = SpawnTargets(pool_shared);
        match placer.choose(pool_shared, alone) {
            Choice::Other(home) => return pool_shared.starts.push(home, unstarted, &homes),
            Choice::Own => pool_shared.starts.push_own(placer.worker_index, unstarted, &homes),
            Choice::Alone => {
                placer.has_alone = true;
                pool_shared.starts.push_alone(placer.worker_index, unstarted);
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
        self.pool_shared.starts.pop(self.placer.worker_index)
    }

    /// Whether nobody was woken for the sake of the one that `next_unstarted` has returned: another loop is
    /// to have it if its maker does not wait for it.
    #[inline]
    pub fn was_alone(&mut self) -> bool {
        std::mem::take(&mut self.placer.has_alone)
    }

    /// Leaves to a loop that sleeps what `next_unstarted` has returned; if none does, it is returned.
    pub fn pass_on(&mut self, unstarted: Unstarted) -> Option<Unstarted> {
        let pool_shared = &*self.pool_shared;
        let own = self.placer.worker_index;
        let other = self.placer.choose_taker(pool_shared, own);
        if other == own {
            return Some(unstarted);
        }
        // One that has left gives it back; and nothing else, as nothing lay there.
        let mut refused = pool_shared.starts.push(other, unstarted, &SpawnTargets(pool_shared));
        let back = refused.pop();
        for unstarted in refused {
            pool_shared.starts.push_own(own, unstarted, &SpawnTargets(pool_shared));
        }
        back
    }

    /// Whether coroutines wait for this loop to begin them.
    #[inline]
    pub fn has_unstarted(&self) -> bool {
        !self.pool_shared.starts.is_empty(self.placer.worker_index)
    }

    /// Takes all out that wait here.
    pub fn take_unstarted(&mut self) -> Vec<Unstarted> {
        self.pool_shared.starts.take_all(self.placer.worker_index)
    }

    /// As [`take_unstarted`](Self::take_unstarted), as the loop ends.
    pub(super) fn close_unstarted(&mut self) -> Vec<Unstarted> {
        self.pool_shared.starts.close(self.placer.worker_index)
    }

    /// To be called before the loop runs anything else while coroutines wait for it: somebody who would
    /// sleep is to keep an eye on them.
    pub fn guard_unstarted(&self) {
        if self.has_unstarted() {
            self.pool_shared.starts.see_to_it(&SpawnTargets(&self.pool_shared));
        }
    }

    /// Looks at all queues, on the last look before a sleep; begins and ends the watch as needed.
    pub fn look_out(&mut self, watch: &mut Option<Watch>) -> LookOutcome {
        let Self { pool_shared, placer, .. } = self;
        pool_shared.starts.look_out(placer.worker_index, watch, || placer.look(pool_shared))
    }

    /// Takes a search permit, if there is one, after a wait; one for the watch goes there.
    pub fn hear(&mut self, own: &Shared, watch: &mut Option<Watch>) -> Option<SearchPermit> {
        let permit = own.idle().take_permit()?;
        if permit.kind() != STARTERS {
            return Some(permit);
        }
        *watch = Some(Watch::from_summons(permit));
        None
    }

    /// Takes some of what lies on another's queue, so that the two have as many left, and nobody has had
    /// more than is fair; and leaves it to this loop and those that sleep.
    pub fn take_over(&mut self, own: &Shared, from: WorkerIndex) {
        let Self { pool_shared, placer, .. } = self;
        let more =
            pool_shared.spawned(from).saturating_sub(pool_shared.spawned(placer.worker_index));
        let room = placer.room(pool_shared, from);
        let half = pool_shared.starts.len(from).div_ceil(2);
        let count = usize::try_from(more.div_ceil(2).min(room)).unwrap_or(half);
        let count = count.min(half).clamp(1, config::STEAL_LIMIT);
        let place = || placer.choose_taker(pool_shared, from);
        let taken = pool_shared.starts.take_over(
            from,
            placer.worker_index,
            count,
            &SpawnTargets(pool_shared),
            place,
        );
        own.metrics.spawned_stolen.add(taken as u64);
    }

    /// Ends the watch before the loop does anything else, and sees to it that somebody keeps it if
    /// there is need. After each wait.
    pub fn stand_down(&self, watch: Option<Watch>) {
        self.pool_shared.starts.stand_down(
            self.placer.worker_index,
            watch,
            &SpawnTargets(&self.pool_shared),
        );
    }
}
