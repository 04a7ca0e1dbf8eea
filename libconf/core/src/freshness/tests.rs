//! The rule, with clocks as plain numbers.

use std::time::Duration;

use libconf::name::Sequence;

use crate::api::FreshnessEvent;
use crate::freshness::{Freshness, FreshnessState, KeptFreshness, Moment};
use crate::sign::{SigningKey, TrustedKeys, public_path, sign_freshness};

const LIMIT: i64 = 900;
const HOUR: i64 = 3600;
/// conf-master's time at the start of the machine.
const EPOCH: i64 = 1_800_000_000;

/// The statement of so many seconds after the start of the machine, by conf-master's clock.
fn at(second: i64) -> FreshnessEvent {
    FreshnessEvent {
        central: Sequence(9),
        datacenter: "lab/v1".parse().unwrap(),
        snapshot: Sequence(5),
        commit: [5; 20].into(),
        time: EPOCH + second,
        signature: String::new(),
    }
}

/// A moment so many seconds after the start of the machine, whose wall clock is ahead by `skew`.
fn moment(second: i64, skew: i64) -> Moment {
    Moment { since_boot: second * 1000, wall: (EPOCH + second + skew) * 1000 }
}

fn fresh() -> Freshness {
    Freshness::new(Duration::from_secs(900))
}

/// Takes a statement that counts.
fn hear(freshness: &mut Freshness, said: i64, now: Moment) {
    assert!(freshness.take(at(said), now), "{said} is no news");
    freshness.count(|_| true);
}

fn age(freshness: &Freshness, now: Moment) -> i64 {
    i64::try_from(freshness.age(now).unwrap().as_secs()).unwrap()
}

#[test]
fn nothing_is_stale_before_the_first_statement_and_silence_is_after_it() {
    let mut freshness = fresh();
    assert!(!freshness.is_stale(moment(10 * HOUR, 0)) && freshness.age(moment(0, 0)).is_none());
    assert_eq!(freshness.stale_in(moment(0, 0)), None);
    let state = FreshnessState::of(&freshness, moment(HOUR, 0));
    assert!(!state.stale && state.remark.is_some() && state.problem().is_none(), "{state:?}");
    hear(&mut freshness, 100, moment(100, 0));
    assert!(!freshness.is_stale(moment(100 + LIMIT, 0)));
    assert_eq!(freshness.stale_in(moment(100, 0)), Some(Duration::from_millis(900_001)));
    assert!(freshness.is_stale(moment(100 + LIMIT + 1, 0)));
    let state = FreshnessState::of(&freshness, moment(100 + 2 * LIMIT, 0));
    assert!(state.problem().is_some_and(|words| words.contains("more than 900 s ago")), "{state:?}");
    assert_eq!(state.age_seconds, Some(1800));
    hear(&mut freshness, 2000, moment(2001, 0));
    assert!(!freshness.is_stale(moment(2001, 0)));
    assert_eq!(FreshnessState::of(&freshness, moment(2001, 0)).remark, None);
}

#[test]
fn an_old_statement_refreshes_nobody() {
    let mut freshness = fresh();
    for minute in 0..10 {
        hear(&mut freshness, minute * 60, moment(minute * 60, 0));
    }
    // All again, for ever.
    for minute in 10..40 {
        let now = moment(minute * 60, 0);
        assert!(!freshness.take(at(minute % 10 * 60), now));
        freshness.count(|_| true);
        assert_eq!(freshness.is_stale(now), minute * 60 > 540 + LIMIT, "minute {minute}");
    }
}

#[test]
fn what_is_delayed_is_old_when_it_comes() {
    let mut freshness = fresh();
    hear(&mut freshness, 0, moment(0, 0));
    // Statements that this host has not seen yet, each ten seconds later than the one before.
    for number in 1..200 {
        let now = moment(number * 70, 0);
        hear(&mut freshness, number * 60, now);
        let late = number * 10;
        if late <= LIMIT {
            assert_eq!((age(&freshness, now), freshness.is_stale(now)), (late, false));
        } else if late <= LIMIT + 130 {
            assert_eq!((age(&freshness, now), freshness.is_stale(now)), (late, true));
        } else {
            // They have kept pace for a limit. What is wrong stays to be seen.
            assert!(FreshnessState::of(&freshness, now).problem().is_some(), "statement {number}");
        }
    }
}

#[test]
fn a_wall_clock_an_hour_off_counts_as_old_at_first_and_not_for_good() {
    for skew in [HOUR, -HOUR, -5 * 365 * 24 * HOUR] {
        let mut freshness = fresh();
        let mut was_fresh_after = None;
        for minute in 1..60 {
            let now = moment(minute * 60, skew);
            hear(&mut freshness, minute * 60, now);
            if !freshness.is_stale(now) && was_fresh_after.is_none() {
                was_fresh_after = Some(minute);
            }
        }
        assert_eq!(was_fresh_after, Some(1 + LIMIT / 60), "skew {skew}");
        let now = moment(59 * 60, skew);
        assert_eq!(freshness.skew_seconds(now), Some(-skew));
        let state = FreshnessState::of(&freshness, now);
        let side = if skew > 0 { "behind" } else { "ahead of" };
        assert!(!state.stale && state.problem().is_some_and(|words| words.contains(side)), "{state:?}");
        // From then on silence is noticed as with a right clock.
        assert!(!freshness.is_stale(moment(59 * 60 + LIMIT, skew)));
        assert!(freshness.is_stale(moment(59 * 60 + LIMIT + 1, skew)));
    }
}

#[test]
fn old_statements_at_the_first_start_are_old() {
    // Kept by somebody for a day, and sent in a minute.
    let mut freshness = fresh();
    for second in 0..60 {
        let now = moment(24 * HOUR + second, 0);
        hear(&mut freshness, second * 60, now);
        assert!(freshness.is_stale(now), "second {second}");
    }
    // Faster or slower than time goes by, they never become new.
    for pace in [10, 200] {
        let mut freshness = fresh();
        for minute in 0..100 {
            let now = moment(24 * HOUR + minute * 60, 0);
            hear(&mut freshness, minute * pace, now);
            assert!(freshness.is_stale(now), "pace {pace}, minute {minute}");
        }
    }
}

#[test]
fn a_wall_clock_that_jumps_changes_nothing_in_the_run() {
    let mut freshness = fresh();
    hear(&mut freshness, 0, moment(0, 0));
    for (minute, skew) in [0, HOUR, -HOUR, -5 * 365 * 24 * HOUR, 30].into_iter().enumerate() {
        let second = (1 + i64::try_from(minute).unwrap()) * 60;
        hear(&mut freshness, second, moment(second, skew));
        assert_eq!(age(&freshness, moment(second + 7, skew)), 7, "skew {skew}");
        assert_eq!(freshness.is_skewed(moment(second, skew)), skew.abs() > LIMIT);
    }
    // Nor does it revive what is stale: here the clock is set to the time of the last statement.
    let late = 300 + 2 * LIMIT;
    assert!(freshness.is_stale(moment(late, 0)));
    let back = moment(late, 300 - late);
    assert!(freshness.is_stale(back));
    assert!(!freshness.take(at(300), back) && freshness.is_stale(back));
}

#[test]
fn a_clock_of_conf_master_that_was_set_back_counts_again_after_a_limit() {
    let mut freshness = fresh();
    // It was an hour ahead, and is right since it was started again.
    hear(&mut freshness, HOUR, moment(0, 0));
    assert!(freshness.is_stale(moment(0, 0)), "the first one is an hour off");
    for minute in 1..=20 {
        hear(&mut freshness, HOUR + minute * 60, moment(minute * 60, 0));
    }
    assert!(!freshness.is_stale(moment(20 * 60, 0)));
    // What it says is below the newest time, until that has passed.
    assert!(!freshness.take(at(25 * 60), moment(25 * 60, 0)));
    let mut recovered = None;
    for minute in 81..120 {
        let now = moment(minute * 60, 0);
        hear(&mut freshness, minute * 60, now);
        if !freshness.is_stale(now) && recovered.is_none() {
            recovered = Some(minute);
        }
    }
    assert_eq!(recovered, Some(81 + LIMIT / 60));
}

#[test]
fn a_statement_refreshes_who_knows_its_snapshot() {
    let mut freshness = fresh();
    hear(&mut freshness, 0, moment(0, 0));
    for minute in 1..=20 {
        let now = moment(minute * 60, 0);
        assert!(freshness.take(at(minute * 60), now));
        freshness.count(|newest| newest.sequence < Sequence(5));
        assert_eq!(age(&freshness, now), minute * 60);
        assert_eq!(freshness.is_stale(now), minute * 60 > LIMIT);
    }
    let now = moment(1200, 0);
    let state = FreshnessState::of(&freshness, now);
    assert!(state.remark.is_some_and(|words| words.contains("change 5 is the newest snapshot")));
    // The snapshot arrives.
    freshness.count(|newest| newest.sequence == Sequence(5));
    assert!(!freshness.is_stale(now) && age(&freshness, now) == 0);
}

/// What a run of the program keeps for the next one, as text and back.
fn over_a_restart(freshness: &Freshness, (boot, now): (&str, Moment), (next, then): (&str, Moment)) -> Freshness {
    let text = serde_json::to_string(&freshness.kept(Some(boot), now).unwrap()).unwrap();
    let kept: KeptFreshness = serde_json::from_str(&text).unwrap();
    fresh().recalling(kept, Some(next), then)
}

#[test]
fn a_restart_of_the_program_forgets_nothing() {
    let mut freshness = fresh();
    assert_eq!(freshness.kept(Some("a"), moment(0, 0)), None);
    hear(&mut freshness, 100, moment(100, HOUR));
    for minute in 2..=20 {
        hear(&mut freshness, minute * 60, moment(minute * 60, HOUR));
    }
    let now = moment(1260, HOUR);
    // Five minutes later, and the wall clock was set.
    let then = moment(1560, -HOUR);
    let mut later = over_a_restart(&freshness, ("a", now), ("a", then));
    assert_eq!((age(&later, then), later.is_stale(then)), (360, false));
    assert!(!later.take(at(1200), then), "it was heard before the restart");
    assert!(later.is_stale(moment(1200 + LIMIT + 1, 0)));
    hear(&mut later, 2400, moment(2400, -HOUR));
    assert!(!later.is_stale(moment(2400, -HOUR)));
}

#[test]
fn a_restart_of_the_machine_makes_nothing_younger() {
    let mut freshness = fresh();
    hear(&mut freshness, 100, moment(100, 0));
    let now = moment(100 + 2 * LIMIT, 0);
    assert!(freshness.is_stale(now));
    // The machine's clock begins anew, and the wall clock was set to the time of the statement.
    let then = |second: i64| Moment { since_boot: second * 1000, wall: (EPOCH + 100 + second) * 1000 };
    let later = over_a_restart(&freshness, ("a", now), ("b", then(10)));
    assert!(later.is_stale(then(10)) && later.is_stale(then(60)));
    // A young one, by a right clock, stays young for the rest of its time.
    let mut freshness = fresh();
    hear(&mut freshness, 100, moment(100, 0));
    let mut later = over_a_restart(&freshness, ("a", moment(130, 0)), ("b", then(30)));
    assert!(!later.is_stale(then(30)) && later.is_stale(then(LIMIT + 31)));
    // A new one counts at once by the wall clock, or else after a limit.
    let mut other = later.clone();
    let boot = |second: i64, skew: i64| Moment { wall: (EPOCH + 100 + second + skew) * 1000, ..then(second) };
    hear(&mut later, 100 + LIMIT + 60, boot(LIMIT + 60, 0));
    assert!(!later.is_stale(boot(LIMIT + 60, 0)));
    hear(&mut other, 100 + LIMIT + 60, boot(LIMIT + 60, HOUR));
    assert!(other.is_stale(boot(LIMIT + 60, HOUR)));
}

#[test]
fn a_kept_statement_counts_if_it_is_signed_for_this_datacenter() {
    let folder = tempfile::tempdir().unwrap();
    let key = SigningKey::generate(&folder.path().join("key"), "test").unwrap();
    let keys = TrustedKeys::load(&public_path(&folder.path().join("key"))).unwrap();
    let datacenter = "lab/v1".parse().unwrap();
    let kept = |statement: FreshnessEvent| {
        let mut freshness = fresh();
        hear(&mut freshness, 0, moment(0, 0));
        KeptFreshness { statement, ..freshness.kept(None, moment(0, 0)).unwrap() }
    };
    let signed = sign_freshness(Sequence(9), &datacenter, at(0).newest(), EPOCH, &key).unwrap();
    kept(signed.clone()).verified(&datacenter, &keys).unwrap();
    kept(signed).verified(&"lab/v2".parse().unwrap(), &keys).unwrap_err();
    kept(at(0)).verified(&datacenter, &keys).unwrap_err();
}
