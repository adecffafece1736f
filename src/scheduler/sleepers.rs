//! What a scheduler knows of its threads: their indexes, and how to wake one.

/// The place of one thread in its scheduler, counted from zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WorkerIndex(pub usize);

/// The sleep states of a scheduler's threads and the way to wake them: the caller's part of a wake.
pub trait Sleepers {
    /// [`Idle::is_parked`](super::Idle::is_parked) of the thread of this index; false if none is.
    fn is_parked(&self, worker_index: WorkerIndex) -> bool;

    /// Whether a thread that is parked is to be woken rather than others that are. No more than a
    /// preference: if there is none like this, another one is woken.
    fn is_preferred(&self, _: WorkerIndex) -> bool {
        true
    }

    /// [`Idle::summon`](super::Idle::summon) of the thread of this index, and its verdict; if that
    /// is true, the thread is also woken through the kernel. False if no thread has this index.
    #[must_use = "the scheduler counts the one who was summoned"]
    fn summon(&self, worker_index: WorkerIndex) -> bool;
}
