//! What the programs of this demonstration share: children that never outlive them, and how a job tells what it saw.

use std::{
    io::{self, Write as _},
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

pub mod tether;

/// One line on a job's standard output: when, why, at which change, by which process, and what it read.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// When it noticed.
    pub at: SystemTime,
    /// What made it look: `start`, `SIGHUP`, `libconf`, or of the job manager `woken` and `late`.
    pub reason: String,
    /// Which change it then read; 0 where that is not known.
    pub sequence: u64,
    /// The process that looked.
    pub pid: u32,
    /// What it read.
    pub words: String,
}

impl Report {
    /// Says it to whoever started this process.
    pub fn say(at: SystemTime, reason: &str, sequence: u64, words: &str) {
        let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let mut out = io::stdout().lock();
        // Nobody listens any more: this process is about to end as well.
        let _ =
            writeln!(out, "{seconds:.6} {reason} {sequence} {} {words}", std::process::id()).and_then(|()| out.flush());
    }
}

impl FromStr for Report {
    type Err = NotAReport;

    fn from_str(line: &str) -> Result<Self, NotAReport> {
        let mut parts = line.splitn(5, ' ');
        let mut part = || parts.next().ok_or(NotAReport);
        // Some languages print the decimal separator of the user's country.
        let seconds: f64 = part()?.replace(',', ".").parse().map_err(|_| NotAReport)?;
        let at = Duration::try_from_secs_f64(seconds).map_err(|_| NotAReport)?;
        Ok(Report {
            at: UNIX_EPOCH + at,
            reason: part()?.to_owned(),
            sequence: part()?.parse().map_err(|_| NotAReport)?,
            pid: part()?.parse().map_err(|_| NotAReport)?,
            words: part()?.to_owned(),
        })
    }
}

/// A line that is something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAReport;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_job_is_read() {
        let report: Report = "1764.250000 SIGHUP 7 12 release 3, greeting Good day".parse().unwrap();
        assert_eq!(report.at, UNIX_EPOCH + Duration::from_millis(1_764_250));
        assert_eq!((report.reason.as_str(), report.sequence, report.pid), ("SIGHUP", 7, 12));
        assert_eq!(report.words, "release 3, greeting Good day");
        assert_eq!("1764,25 start 7 12 x".parse::<Report>().unwrap().at, report.at);
        for line in ["", "x start 7 12 x", "1 start", "1 start x 12 y", "-1 start 7 12 x", "inf start 7 12 x"] {
            assert_eq!(line.parse::<Report>(), Err(NotAReport), "{line:?}");
        }
    }
}
