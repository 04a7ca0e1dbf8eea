//! The part that the programs of this demonstration share: children that never outlive them, and
//! the reports of jobs.

use std::{
    io::{self, Write as _},
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Children that end with their parent. Relies on no other module.
pub mod tether;

/// One line on a job's standard output: time, reason, change, process, and the words that it read.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The time when the job noticed the change.
    pub at: SystemTime,
    /// The reason to read: `start`, `SIGHUP`, `libconf`, or for the job manager `woken` and `late`.
    pub reason: String,
    /// The change that it read; 0 if that is not known.
    pub sequence: u64,
    /// The process that read.
    pub pid: u32,
    /// The words that it read.
    pub words: String,
}

impl Report {
    /// Prints a report for the program that started this process.
    pub fn say(at: SystemTime, reason: &str, sequence: u64, words: &str) {
        let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let mut out = io::stdout().lock();
        // Without a reader of the output, this process is about to end as well.
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

/// A line that is no report.
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
