//! The number of cores that this process may use, the default of the whole package.

use std::path::Path;

use crate::sys::cgroup::cpu_quota;
use crate::sys::thread::affinity;

/// What limits the cores that a process may use.
#[derive(Clone, Copy, Debug)]
pub struct Cores {
    /// Cores that it is allowed on; `None`: the system does not say.
    pub affinity: Option<usize>,
    /// The processor time that cgroups grant it, in cores; `None`: no limit, or no cgroups.
    pub quota: Option<f64>,
}

impl Cores {
    /// Of the process that `process` describes, as `/proc/self` does.
    #[must_use]
    pub fn of(process: &Path) -> Self {
        Self { affinity: affinity(), quota: cpu_quota(process) }
    }

    /// The cores that the process can keep busy.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "no machine has as many")]
    pub fn usable(&self) -> f64 {
        let cores = self.affinity.unwrap_or_else(num_cpus::get) as f64;
        self.quota.map_or(cores, |quota| cores.min(quota))
    }

    /// The number of cores to make use of: the one that Python was told, else the usable ones. A part
    /// of a core counts as one.
    #[must_use]
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "few, and not below 0"
    )]
    pub fn count(&self, told: Option<usize>) -> usize {
        told.unwrap_or_else(|| self.usable().ceil() as usize).max(1)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_python_was_told_counts_before_the_least_of_affinity_and_quota() {
        let count = |affinity, quota, told| Cores { affinity, quota }.count(told);
        assert_eq!(count(Some(8), None, None), 8);
        assert_eq!(count(Some(8), Some(9.5), None), 8);
        assert_eq!(count(Some(8), Some(1.5), None), 2);
        assert_eq!(count(Some(8), Some(0.01), None), 1);
        assert_eq!(count(Some(8), Some(0.0), None), 1);
        assert_eq!(count(None, None, None), num_cpus::get());
        assert_eq!(count(Some(2), Some(1.5), Some(64)), 64);
        // No process is described there.
        assert!(Cores::of(Path::new("/nowhere")).quota.is_none());
    }
}
