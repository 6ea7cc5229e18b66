//! Resources used by this process: processor time, memory, bytes written.
//!
//! Must always hold: a number that the system does not report is absent, not zero.

use std::{fs, time::Duration};

use rustix::time::{ClockId, clock_gettime};

/// Usage since the process started.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    /// Processor time of all threads.
    pub(super) cpu: Duration,
    /// Bytes passed to `write` calls of any kind.
    written: Option<u64>,
    /// Bytes of pages written to the disk.
    disk: Option<u64>,
}

/// Usage between two points.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Used {
    /// Processor time of all threads.
    pub(super) cpu: Duration,
    /// Bytes passed to `write` calls.
    pub(super) written: Option<u64>,
    /// Bytes of pages written to the disk.
    pub(super) disk: Option<u64>,
}

impl Usage {
    /// Usage until now.
    pub(super) fn now() -> Self {
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let seconds = u64::try_from(cpu.tv_sec).unwrap_or(0);
        let nanoseconds = u32::try_from(cpu.tv_nsec).unwrap_or(0);
        let io = fs::read_to_string("/proc/self/io").unwrap_or_default();
        Self {
            cpu: Duration::new(seconds, nanoseconds),
            written: number(&io, "wchar:"),
            disk: number(&io, "write_bytes:"),
        }
    }

    /// Usage from an earlier point to this one.
    pub(super) fn since(&self, before: &Self) -> Used {
        let less = |now: Option<u64>, before: Option<u64>| Some(now?.saturating_sub(before?));
        Used {
            cpu: self.cpu.saturating_sub(before.cpu),
            written: less(self.written, before.written),
            disk: less(self.disk, before.disk),
        }
    }
}

impl Used {
    /// Adds the usage of another period.
    pub(super) fn add(&mut self, other: &Self) {
        self.cpu += other.cpu;
        let sum = |one: Option<u64>, other: Option<u64>| match (one, other) {
            (Some(one), Some(other)) => Some(one + other),
            (one, other) => one.or(other),
        };
        self.written = sum(self.written, other.written);
        self.disk = sum(self.disk, other.disk);
    }
}

/// Resident memory now and at its peak, in MiB.
pub(super) fn resident_mib() -> (Option<f64>, Option<f64>) {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mib = |name| number(&status, name).map(|kib| kib as f64 / 1024.0);
    (mib("VmRSS:"), mib("VmHWM:"))
}

/// The number after a name, in a file of `name: number` lines.
fn number(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_by_name() {
        let text = "rchar: 1\nwchar: 22\nVmHWM:\t  333 kB\n";
        assert_eq!(number(text, "wchar:"), Some(22));
        assert_eq!(number(text, "VmHWM:"), Some(333));
        assert_eq!(number(text, "absent:"), None);
    }

    #[test]
    fn unreported_numbers_are_absent() {
        let mut sum = Used::default();
        sum.add(&Used { cpu: Duration::from_secs(1), written: None, disk: Some(2) });
        sum.add(&Used { cpu: Duration::from_secs(2), written: None, disk: Some(3) });
        assert_eq!((sum.cpu.as_secs(), sum.written, sum.disk), (3, None, Some(5)));
    }
}
