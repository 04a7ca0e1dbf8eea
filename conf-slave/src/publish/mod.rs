//! Does what [`crate::publish::plan`] decides, at every event, at every change of the authoritative key, and every minute.

pub mod plan;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use conf_core::{
    api::Pointer,
    consul::{Consul, ConsulError, Entry, Keys, Operation, Outcome, Seen},
    daemon::{Metrics, chain},
    retry::Backoff,
};
use prometheus_client::metrics::counter::Counter;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    central::raise,
    mirror::{Judgement, Mirror, Serving},
    problems::Problems,
    publish::plan::{Authority, Batch, Guard, Held, Observed, Plan, Wanted, Write, plan},
};

/// One reading of everything at least so often, whatever was heard meanwhile; half of it is jitter. Edits by hand stand for
/// no longer.
const RECONCILE: Duration = Duration::from_secs(40);
/// After a change that was published from memory, everything is read again this soon, when hosts have done their part.
const READ_AGAIN: Duration = Duration::from_millis(250);
/// The longest that judging a pointer may take: until then nothing is written.
const JUDGING: Duration = Duration::from_secs(10);
/// How long one blocking query waits; half of it is jitter.
const WAIT: Duration = Duration::from_secs(240);
/// Two slaves that write at once meet a few conflicts; more mean that somebody else keeps writing.
const MOST_CONFLICTS: usize = 20;

/// The publisher of one datacenter's pointers.
#[derive(Debug)]
pub struct Publisher {
    consul: Arc<Consul>,
    keys: Keys,
    mirror: Arc<Mirror>,
    problems: Arc<Problems>,
    wanted: watch::Sender<Option<Pointer>>,
    published: Mutex<Option<Pointer>>,
    transactions: Counter,
    conflicts: Counter,
}

/// What the publisher remembers from one pass to the next.
#[derive(Debug, Default)]
struct Memory {
    // As of the last reading, with what was written since; nothing after an error or a conflict.
    observed: Option<Observed>,
}

/// How a pass ended.
enum Pass {
    /// Consul says what this slave serves.
    Done,
    /// It does not, and nothing can be done about it now.
    Left,
}

impl Publisher {
    /// Makes one; `wanted` is told of snapshots that others published first.
    pub fn new(
        consul: Arc<Consul>,
        keys: Keys,
        mirror: Arc<Mirror>,
        problems: Arc<Problems>,
        wanted: watch::Sender<Option<Pointer>>,
        metrics: &Metrics,
    ) -> Arc<Self> {
        let transactions = metrics.counter("conf_slave_consul_transactions", "Transactions committed");
        let conflicts = metrics.counter("conf_slave_consul_conflicts", "Transactions that met a conflict");
        let published = Mutex::default();
        Arc::new(Publisher { consul, keys, mirror, problems, wanted, published, transactions, conflicts })
    }

    /// What Consul was last seen to say, where it was this slave's.
    pub fn published(&self) -> Option<Pointer> {
        *self.published.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let (heard_tx, mut heard) = watch::channel(None);
        let watcher = tokio::spawn(Arc::clone(&self).watch_authority(heard_tx, stop.clone()));
        let mut serving = self.mirror.subscribe();
        serving.mark_changed();
        let mut memory = Memory::default();
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        let mut next = Instant::now() + with_jitter(RECONCILE);
        loop {
            // What is remembered is good enough to publish a new snapshot at once: where it is not, there is a conflict.
            let mut from_memory = false;
            tokio::select! {
                () = stop.cancelled() => break,
                changed = serving.changed() => match changed {
                    Ok(()) => from_memory = true,
                    Err(_) => break,
                },
                changed = heard.changed() => {
                    let entry: Option<Entry> = heard.borrow_and_update().clone();
                    if changed.is_err() { break }
                    if memory.knows(entry.as_ref()) { continue }
                },
                () = tokio::time::sleep_until(next) => {}
            }
            from_memory = from_memory && memory.observed.is_some();
            if !from_memory {
                memory.observed = None;
            }
            let outcome = tokio::select! {
                () = stop.cancelled() => break,
                outcome = self.pass(&mut memory) => outcome,
            };
            next = Instant::now();
            match outcome {
                Ok(Pass::Done) => {
                    backoff.reset();
                    next += with_jitter(if from_memory { READ_AGAIN } else { RECONCILE });
                    self.problems.clear("consul", "Consul answers again");
                }
                Ok(Pass::Left) => next += Duration::from_millis(200) + backoff.next_wait(),
                Err(error) => {
                    self.problems.set("consul", chain(&error));
                    memory.observed = None;
                    next += backoff.next_wait();
                }
            }
        }
        let _ = watcher.await;
    }

    /// Compares and writes until there is nothing more to write.
    async fn pass(&self, memory: &mut Memory) -> Result<Pass, ConsulError> {
        for attempt in 0..MOST_CONFLICTS {
            let Some(serving) = self.mirror.serving() else { return Ok(Pass::Left) };
            if memory.observed.is_none() {
                memory.observed = Some(self.observe(&serving).await?);
            }
            let Some(observed) = &memory.observed else { continue };
            let wanted =
                Wanted { datacenter: self.mirror.datacenter(), pointer: serving.pointer(), pins: &serving.pins };
            let decided = plan(&self.keys, &wanted, observed);
            let Some(batches) = self.say(decided, &serving) else { return Ok(Pass::Left) };
            if self.commit_all(batches, &serving, memory).await? {
                *self.published.lock().unwrap_or_else(PoisonError::into_inner) = Some(serving.pointer());
                return Ok(Pass::Done);
            }
            memory.observed = None;
            // Two who meet should not meet again at once.
            let most = Duration::from_millis(5) * u32::try_from(attempt + 1).unwrap_or(1);
            tokio::time::sleep(most.mul_f64(rand::random())).await;
        }
        self.problems
            .set("publishing", format!("{MOST_CONFLICTS} conflicts in a row; does someone else write these keys?"));
        Ok(Pass::Left)
    }

    /// Says what is wrong; answers what is to be written.
    fn say(&self, decided: Plan, serving: &Serving) -> Option<Vec<Batch>> {
        const TOPIC: &str = "publishing";
        match decided {
            Plan::Write { batches, projection_of, spared } => {
                self.problems.clear(TOPIC, "publishing goes on");
                match projection_of {
                    Some(other) => self.problems.set(
                        "projection",
                        format!(
                            "the component keys here are those of {other}, so only the snapshot's own key is published; \
                             give this datacenter a --pointer-prefix of its own, or delete the key {}",
                            self.keys.projection()
                        ),
                    ),
                    None => self.problems.clear("projection", "the component keys are this datacenter's"),
                }
                match spared {
                    0 => self.problems.clear("deletions", "no key is left that should go"),
                    _ => self
                        .problems
                        .set("deletions", format!("{spared} keys that no snapshot lists are left for the next passes")),
                }
                return Some(batches);
            }
            Plan::CatchUp(pointer) => {
                // Published by another slave, and here already: judging it brought it.
                raise(&self.wanted, pointer);
                self.problems.clear(TOPIC, "publishing goes on");
            }
            Plan::Fork(pointer) => self.problems.set(
                TOPIC,
                format!(
                    "Consul names {pointer}, this slave serves {}: two snapshots of one sequence, both signed; \
                         nothing is written. Which central repository is the right one?",
                    serving.pointer()
                ),
            ),
            Plan::Wait(pointer) => self.problems.set(
                TOPIC,
                format!(
                    "Consul names {pointer}, which is not here, and no central server can be asked what it is; \
                         nothing is written until then"
                ),
            ),
        }
        None
    }

    /// Reads all keys at one moment and judges the authoritative one.
    async fn observe(&self, serving: &Serving) -> Result<Observed, ConsulError> {
        let (authoritative, projection) = (self.keys.snapshot(self.mirror.datacenter()), self.keys.projection());
        let mut observed =
            Observed { authority: Authority::Absent { index: 0 }, projection: None, components: BTreeMap::new() };
        let mut authority = None;
        for entry in self.consul.list(self.keys.root()).await? {
            let held = Held { value: entry.value, index: entry.index };
            if entry.key == authoritative {
                authority = Some(held);
            } else if entry.key == projection {
                observed.projection = Some(held);
            } else if self.keys.is_projected(&entry.key) {
                observed.components.insert(entry.key, held);
            }
        }
        if let Some(held) = authority {
            observed.authority = self.judge(&held, serving).await;
        }
        Ok(observed)
    }

    async fn judge(&self, held: &Held, serving: &Serving) -> Authority {
        let index = held.index;
        let damage = |words: &str| {
            let value = String::from_utf8_lossy(&held.value).chars().take(100).collect::<String>();
            tracing::warn!(value, "{words}; it counts as absent");
            Authority::Absent { index }
        };
        let Some(pointer) = str::from_utf8(&held.value).ok().and_then(|text| text.parse::<Pointer>().ok()) else {
            return damage("the authoritative key holds no pointer");
        };
        if pointer == serving.pointer() {
            return Authority::Names { pointer, index };
        }
        let judged = tokio::time::timeout(JUDGING, self.mirror.judge(pointer)).await;
        match judged.unwrap_or(Judgement::Unknown) {
            Judgement::Signed => Authority::Names { pointer, index },
            Judgement::Unknown => Authority::Unknown { pointer },
            Judgement::Damage => damage("the authoritative key names no snapshot that was signed for this datacenter"),
        }
    }

    /// Commits one batch after the other; false when one met a conflict.
    async fn commit_all(
        &self,
        batches: Vec<Batch>,
        serving: &Serving,
        memory: &mut Memory,
    ) -> Result<bool, ConsulError> {
        let started = std::time::Instant::now();
        let (mut keys, transactions) = (0, batches.len());
        for batch in batches {
            let Some(operations) = self.operations(&batch, serving, memory) else { return Ok(false) };
            match self.consul.transaction(&operations).await? {
                Outcome::Committed(entries) => {
                    self.transactions.inc();
                    keys += batch.writes.len() + usize::from(batch.guard != Guard::Hold);
                    self.remember(&batch, &entries, serving, memory);
                }
                Outcome::Conflict(words) => {
                    self.conflicts.inc();
                    tracing::debug!(%words, "a conflict: reading again");
                    return Ok(false);
                }
            }
        }
        if transactions > 0 {
            let took_ms = started.elapsed().as_millis();
            tracing::info!(sequence = %serving.snapshot.sequence, keys, transactions, took_ms, "published");
        }
        Ok(true)
    }

    fn operations(&self, batch: &Batch, serving: &Serving, memory: &Memory) -> Option<Vec<Operation>> {
        let key = self.keys.snapshot(self.mirror.datacenter());
        let flags = serving.snapshot.sequence.0;
        let guard = match (batch.guard, memory.observed.as_ref()?.authority) {
            (Guard::Move { from }, _) => {
                Operation::Cas { key, value: serving.pointer().to_string().into_bytes(), flags, index: from }
            }
            (Guard::Hold, Authority::Names { index, .. }) => Operation::CheckIndex { key, index },
            (Guard::Hold, _) => return None,
        };
        let writes = batch.writes.iter().map(|write| match write.clone() {
            Write::Put { key, value, index } => Operation::Cas { key, value: value.into_bytes(), flags, index },
            Write::Delete { key, index } => Operation::DeleteCas { key, index },
        });
        Some(std::iter::once(guard).chain(writes).collect())
    }

    /// Keeps what is remembered equal to what was just written.
    fn remember(&self, batch: &Batch, entries: &[Entry], serving: &Serving, memory: &mut Memory) {
        let Some(observed) = memory.observed.as_mut() else { return };
        let index_of = |key: &str| entries.iter().find(|entry| entry.key == key).map_or(0, |entry| entry.index);
        if let Guard::Move { .. } = batch.guard {
            let index = index_of(&self.keys.snapshot(self.mirror.datacenter()));
            observed.authority = Authority::Names { pointer: serving.pointer(), index };
        }
        for write in &batch.writes {
            match write {
                Write::Put { key, value, .. } => {
                    let held = Held { value: value.clone().into_bytes(), index: index_of(key) };
                    if *key == self.keys.projection() {
                        observed.projection = Some(held);
                    } else {
                        observed.components.insert(key.clone(), held);
                    }
                }
                Write::Delete { key, .. } => {
                    observed.components.remove(key);
                }
            }
        }
    }

    /// Tells `heard` of every value that the authoritative key takes on.
    async fn watch_authority(self: Arc<Self>, heard: watch::Sender<Option<Entry>>, stop: CancellationToken) {
        let key = self.keys.snapshot(self.mirror.datacenter());
        let (mut seen, mut failed) = (Seen::default(), false);
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        loop {
            let answer = tokio::select! {
                () = stop.cancelled() => return,
                answer = self.consul.watch(&key, &mut seen, with_jitter(WAIT)) => answer,
            };
            let pause = match answer {
                Ok(entry) => {
                    if std::mem::take(&mut failed) {
                        self.problems.clear("consul", "Consul answers again");
                    }
                    let absent = entry.is_none();
                    heard.send_if_modified(|last| {
                        // An absent key is told of each time: whoever heard it may not have been able to act on it.
                        let differs = *last != entry || absent;
                        last.clone_from(&entry);
                        differs
                    });
                    // Any write anywhere answers the query for an absent key.
                    if !absent {
                        backoff.reset();
                        continue;
                    }
                    Duration::from_millis(100) + backoff.next_wait()
                }
                Err(error) => {
                    failed = true;
                    self.problems.set("consul", chain(&error));
                    backoff.next_wait()
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}

impl Memory {
    /// True when this reading of the authoritative key is nothing new.
    fn knows(&self, entry: Option<&Entry>) -> bool {
        match (&self.observed, entry) {
            (Some(Observed { authority: Authority::Names { pointer, index }, .. }), Some(entry)) => {
                entry.index == *index && entry.value == pointer.to_string().as_bytes()
            }
            _ => false,
        }
    }
}

/// Between half of it and all of it, so that many do not come at once.
pub fn with_jitter(period: Duration) -> Duration {
    period.mul_f64(rand::random_range(0.5..1.0))
}
