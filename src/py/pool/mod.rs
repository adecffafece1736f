//! `PoolCore`, `spawn`, and the tasks that it creates.
//!
//! In: coroutines. Out: a `PoolTask`, a future of every loop. Must never: cancel or end an asyncio task in
//! another thread than its loop's.

pub(crate) mod pool_core;
pub(crate) mod pool_task;
pub(crate) mod pool_task_cancel;
pub(crate) mod pool_task_class;
pub(crate) mod pool_task_end;
pub(crate) mod pool_task_methods;
pub(crate) mod pool_task_run;
pub(crate) mod pool_task_wait;
pub(crate) mod spawn;
pub(crate) mod spawned_tasks;
