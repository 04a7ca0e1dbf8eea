//! Several measurements of one thing.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The median of several measurements, and where the middle four fifths of them are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The number of measurements.
    pub runs: usize,
    /// A tenth of them are smaller.
    pub p10: f64,
    /// Half of them are smaller.
    pub median: f64,
    /// A tenth of them are greater.
    pub p90: f64,
}

impl Spread {
    /// Sorts measurements. At least one is needed.
    #[track_caller]
    pub fn of(mut values: Vec<f64>) -> Self {
        assert!(!values.is_empty(), "nothing was measured");
        values.sort_by(f64::total_cmp);
        let at = |tenths: usize| three(values[(values.len() - 1) * tenths / 10]);
        let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
        // The nearest rank from above: with few runs it is the greatest.
        let p90 = three(values[((values.len() - 1) * 9).div_ceil(10)]);
        Spread { runs: values.len(), p10: at(1), median: three(f64::midpoint(low, high)), p90 }
    }

    /// As [`Spread::of`], of durations in milliseconds.
    #[track_caller]
    pub fn of_times(times: &[Duration]) -> Self {
        Self::of(times.iter().map(|time| time.as_secs_f64() * 1e3).collect())
    }

    /// One measurement, or a sum over many that has no spread of its own.
    pub fn one(value: f64) -> Self {
        Self::of(vec![value])
    }
}

/// Rounds to three significant digits: no measurement here is better than that.
pub fn three(value: f64) -> f64 {
    format!("{value:.2e}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_its_median_between_its_ends() {
        let check = |values: &[f64], expected: (f64, f64, f64)| {
            let Spread { runs, p10, median, p90 } = Spread::of(values.to_vec());
            assert_eq!((runs, (p10, median, p90)), (values.len(), expected), "{values:?}");
        };
        check(&[7.0], (7.0, 7.0, 7.0));
        check(&[3.0, 1.0, 2.0], (1.0, 2.0, 3.0));
        check(&[1.0, 2.0, 4.0, 8.0], (1.0, 3.0, 8.0));
        check(&(0..=100).map(f64::from).collect::<Vec<_>>(), (10.0, 50.0, 90.0));
        assert_eq!(Spread::of_times(&[Duration::from_micros(1500)]), Spread::one(1.5));
    }

    #[test]
    fn three_significant_digits_stay() {
        let check = |value: f64, expected: f64| assert_eq!(three(value).to_string(), expected.to_string(), "{value}");
        check(123_456.0, 123_000.0);
        check(0.012_345_6, 0.0123);
        check(9.999, 10.0);
        check(0.0, 0.0);
    }
}
