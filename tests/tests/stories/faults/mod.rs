//! Random faults, one or two at a time: whatever fails, no promise is broken meanwhile, and everything
//! heals by itself, and soon.
//!
//! A run is its seed: the same faults come in the same order and last as long. `FAULT_SEED=N` makes
//! those of another run again, and `FAULT_SECONDS` says how long they go on.

mod engineer;
mod fault;
mod scene;
mod usage;
mod watch;

use std::env;
use std::time::{Duration, Instant};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tests::{Network, eventually_within, stalled_since};

use crate::faults::engineer::Engineer;
use crate::faults::fault::Fault;
use crate::faults::scene::Scene;
use crate::faults::usage::Usage;
use crate::faults::watch::Watch;

/// How long a healed site may take until all hosts run the newest change, at the 99th percentile.
const CONVERGED: Duration = Duration::from_secs(5);

/// How long damage to the files of a host or of a cache may last.
const MENDED: Duration = Duration::from_secs(60);

/// How long nobody may lead once everything is back.
const LED: Duration = Duration::from_secs(10);

/// The times that something took, each with the fault before it.
#[derive(Default)]
struct Times {
    all: Vec<(Duration, String)>,
}

impl Times {
    /// The time within which this share of them ended.
    fn at(&self, share: f64) -> Duration {
        // The shares are between 0 and 1, and the list is short.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let index = (self.all.len().saturating_sub(1) as f64 * share).ceil() as usize;
        self.all.get(index).map_or(Duration::ZERO, |(took, _)| *took)
    }

    fn expect(&mut self, what: &str, share: f64, limit: Duration) {
        self.all.sort();
        let (half, most) = (self.at(0.5), self.at(share));
        println!("{what}: {} times, half within {half:.2?}, {:.0} % within {most:.2?}", self.all.len(), share * 100.0);
        for (took, fault) in self.all.iter().rev().take(5) {
            println!("  {took:.2?} after {fault}");
        }
        assert!(most <= limit, "{what}: {most:.2?}, and may take {limit:?}");
    }
}

/// Makes random faults for so long, unless `FAULT_SECONDS` says another time.
fn random_faults(test: &str, hosts: usize, seconds: u64) {
    let Some(network) = Network::own(test) else { return };
    let set = |name: &str| env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seed = set("FAULT_SEED").unwrap_or_else(rand::random);
    let length = Duration::from_secs(set("FAULT_SECONDS").unwrap_or(seconds));
    println!("FAULT_SEED={seed} makes the same faults again");
    let mut random = StdRng::seed_from_u64(seed);
    let mut scene = Scene::start(hosts, network);
    let watch = Watch::start(&scene.exports());
    let engineer = Engineer::start(&scene);
    let mut usage = Usage::default();
    let (mut led, mut healed, mut mended) = (Times::default(), Times::default(), Times::default());
    let (start, mut number, mut told) = (Instant::now(), 0, 0);
    while start.elapsed() < length {
        number += 1;
        usage.see(&scene, start.elapsed(), length);
        let faults = Fault::some(&mut random, &scene);
        let words = format!("fault {number} of FAULT_SEED={seed}: {faults:?}");
        println!("{:6.1} s {words}", start.elapsed().as_secs_f64());
        let harmed: Vec<usize> = faults.iter().filter_map(|fault| fault.harms_host()).collect();
        harmed.iter().for_each(|host| watch.excuse(*host, true));
        let begun: Vec<_> = faults.iter().map(|fault| fault.begin(&mut scene)).collect();
        if faults.iter().any(|fault| !fault.is_damage()) {
            // Some faults end before anybody notices.
            let until = Instant::now() + Duration::from_millis(random.random_range(200..8_000));
            engineer.push_until(&scene, until);
        }
        scene.network.mend();
        let ended = faults.iter().zip(begun).map(|(fault, begun)| fault.end(&mut scene, begun)).collect::<Vec<_>>();
        ended.into_iter().flatten().for_each(|who| scene.start_again(who));
        scene.expect_all_running(&words);

        let healing = Instant::now();
        let (text, sequence) = engineer.push_until_accepted(&scene, &words);
        led.all.push((healing.elapsed().saturating_sub(stalled_since(healing)), words.clone()));
        let pushed = Instant::now();
        converge(&scene, &text, &words);
        let took = pushed.elapsed().saturating_sub(stalled_since(pushed));
        let times = if faults.iter().any(|fault| fault.is_damage()) { &mut mended } else { &mut healed };
        times.all.push((took, words));
        harmed.iter().for_each(|host| watch.excuse(*host, false));
        if let Some(sequence) = sequence {
            told += 1;
            scene.expect_told(sequence);
        }
    }
    println!(
        "{number} times something failed; after {told} of them the processes were told of the change by its number"
    );
    assert!(told > number / 2, "{told} of {number}");
    scene.expect_well();
    engineer.expect_kept(&scene);
    watch.expect_unharmed();
    usage.see(&scene, length, length);
    usage.expect_flat(engineer.answered());
    led.expect("somebody led after a fault", 0.99, LED);
    healed.expect("all hosts ran the newest change after a fault", 0.99, CONVERGED);
    mended.expect("all hosts ran the newest change after damage", 1.0, MENDED);
    scene.expect_whole();
}

/// Waits until every host runs this content, whole.
fn converge(scene: &Scene, text: &str, after: &str) {
    for host in &scene.room.site.hosts {
        eventually_within(MENDED, &format!("{} to run {text:?} after {after}", host.name), || {
            for component in engineer::COMPONENTS {
                let found = host.read(&format!("{component}/latest/round"))?;
                if found != text {
                    return Err(format!("{component} has {found:?}; {:?}", host.status()));
                }
            }
            Ok(())
        });
    }
}

#[test]
fn whatever_fails_for_a_while_all_hosts_run_the_newest_change_soon_after() {
    random_faults("faults::whatever_fails_for_a_while_all_hosts_run_the_newest_change_soon_after", 8, 60);
}

#[test]
#[ignore = "long: fifty hosts under random faults for twenty minutes"]
fn fifty_hosts_under_random_faults_for_twenty_minutes() {
    random_faults("faults::fifty_hosts_under_random_faults_for_twenty_minutes", 50, 20 * 60);
}
