//! The CPU quota that Linux cgroups grant this process, as containers and services set it.

use std::fs::read_to_string;
use std::path::{Path, PathBuf};

/// A hierarchy of groups where it can be read: the group that is seen at the mount point, and that.
struct Mount<'a> {
    root: &'a Path,
    point: &'a Path,
}

/// The processor time that cgroups grant the process which `process` describes, as `/proc/self` does,
/// in cores. It is the least of what its own group and those above have as their quota, as far up as
/// they can be seen from within a container. `None`: none of them has one, or there are no cgroups.
#[must_use]
pub fn cpu_quota(process: &Path) -> Option<f64> {
    let groups = read_to_string(process.join("cgroup")).ok()?;
    let mounts = read_to_string(process.join("mountinfo")).ok()?;
    let of_line = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, group) = (fields.next()?, Path::new(fields.next()?));
        if controllers.is_empty() {
            least(group, &find(&mounts, "cgroup2", None)?, read_v2)
        } else if controllers.split(',').any(|each| each == "cpu") {
            least(group, &find(&mounts, "cgroup", Some("cpu"))?, read_v1)
        } else {
            None
        }
    };
    groups.lines().filter_map(of_line).min_by(f64::total_cmp)
}

/// Finds a hierarchy among lines like `36 25 0:30 ROOT POINT ... - KIND SOURCE OPTIONS`. In version 2
/// it is the files of a group that say what the hierarchy controls.
fn find<'a>(mounts: &'a str, kind: &str, controller: Option<&str>) -> Option<Mount<'a>> {
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut about = after.split(' ');
        let is_kind = about.next() == Some(kind);
        let mut controllers = about.next_back()?.split(',');
        let controls = controller.is_none_or(|one| controllers.any(|each| each == one));
        let mut places = before.split(' ').skip(3).map(Path::new);
        let (root, point) = (places.next()?, places.next()?);
        (is_kind && controls).then_some(Mount { root, point })
    })
}

/// The least quota of a group and of those above it.
fn least(group: &Path, mount: &Mount<'_>, read: fn(&Path) -> Option<f64>) -> Option<f64> {
    // What lies above the root of a container's own hierarchy begins with "/..".
    let is_seen = !group.iter().any(|part| part == "..");
    let below = group.strip_prefix(mount.root).ok().filter(|_| is_seen);
    let folder = below.map_or_else(|| PathBuf::from(mount.point), |below| mount.point.join(below));
    let seen = folder.ancestors().take_while(|each| each.starts_with(mount.point));
    seen.filter_map(read).min_by(f64::total_cmp)
}

/// A quota in its period. No number is no limit: "max".
fn cores(quota: &str, period: &str) -> Option<f64> {
    let (quota, period) = (quota.trim().parse::<f64>().ok()?, period.trim().parse::<f64>().ok()?);
    (quota >= 0.0 && period > 0.0).then_some(quota / period)
}

fn read_v2(group: &Path) -> Option<f64> {
    let limit = read_to_string(group.join("cpu.max")).ok()?;
    let (quota, period) = limit.split_once(' ')?;
    cores(quota, period)
}

fn read_v1(group: &Path) -> Option<f64> {
    let read = |name| read_to_string(group.join(name)).ok();
    cores(&read("cpu.cfs_quota_us")?, &read("cpu.cfs_period_us")?)
}
