//! Carries out the decisions: after every new snapshot, every change of the authoritative key, and
//! every minute.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use conf_core::retry::with_jitter;
use conf_core::{
    api::Pointer,
    consul::{Consul, ConsulError, Entry, Keys, Operation, Outcome, WatchIndex},
    daemon::{Metrics, chain, millis},
    retry::Backoff,
};
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use tokio::{sync::watch, time::Instant};

use crate::{
    mirror::{Judgement, Mirror, ServedSnapshot},
    problems::Problems,
    publish::{
        decide::{Authority, Batch, Decision, Desired, Guard, Observed, StoredValue, Write, decide},
        memory::Memory,
    },
};

/// The longest time between two readings of all keys; half of it is jitter. It bounds the life of
/// an edit by hand. A change that was published from memory does not put it off.
const RECONCILE: Duration = Duration::from_secs(40);
/// The longest time for judging a pointer. Nothing is written meanwhile.
const JUDGING: Duration = Duration::from_secs(10);
/// The longest wait of one blocking query; half of it is jitter.
const WAIT: Duration = Duration::from_secs(240);
/// Conflicts in a row before a pass gives up. Two slaves that write at once meet a few; more mean
/// another writer.
const MOST_CONFLICTS: u32 = 20;

/// The topic of problems with Consul itself.
const CONSUL: &str = "consul";
/// The topic of problems with the authoritative key.
const PUBLISHING: &str = "publishing";

/// The publisher of one datacenter's pointers.
#[derive(Debug)]
pub(crate) struct Publisher {
    consul: Arc<Consul>,
    keys: Keys,
    // The authoritative key.
    key: String,
    mirror: Arc<Mirror>,
    problems: Arc<Problems>,
    published: Mutex<Option<Pointer>>,
    transactions: Counter,
    conflicts: Counter,
}

/// The end of a pass.
enum Pass {
    /// Consul names the served snapshot.
    Done,
    /// Consul names another one, and this slave can do nothing about it now.
    Left,
}

impl Publisher {
    /// Makes a publisher of what `mirror` serves.
    pub(crate) fn new(
        consul: Arc<Consul>,
        keys: Keys,
        mirror: Arc<Mirror>,
        problems: Arc<Problems>,
        metrics: &Metrics,
    ) -> Arc<Self> {
        let transactions = metrics.counter("conf_slave_consul_transactions", "Transactions committed");
        let conflicts = metrics.counter("conf_slave_consul_conflicts", "Transactions that met a conflict");
        let (key, published) = (keys.snapshot(mirror.datacenter()), Mutex::default());
        Arc::new(Publisher { consul, keys, key, mirror, problems, published, transactions, conflicts })
    }

    /// Returns the pointer that Consul held after the last finished pass.
    pub(crate) fn published(&self) -> Option<Pointer> {
        *self.published.lock()
    }

    /// Publishes every snapshot that is served.
    ///
    /// Cancel: Consul may or may not commit the last transaction.
    pub(crate) async fn run(self: Arc<Self>) {
        let (heard_tx, heard) = watch::channel(None);
        tokio::join!(self.publish(heard), self.watch_authority(heard_tx));
    }

    async fn publish(&self, mut heard: watch::Receiver<Option<Entry>>) {
        let mut served = self.mirror.subscribe();
        served.mark_changed();
        let mut memory = Memory::default();
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        let mut next = Instant::now() + with_jitter(RECONCILE);
        loop {
            // Memory is good enough to publish a new snapshot at once: if it is wrong, the
            // transaction meets a conflict.
            let mut from_memory = false;
            tokio::select! {
                Ok(()) = served.changed() => from_memory = true,
                Ok(()) = heard.changed() => {
                    let entry = heard.borrow_and_update().clone();
                    if memory.knows(entry.as_ref()) { continue }
                },
                () = tokio::time::sleep_until(next) => {}
            }
            from_memory = from_memory && memory.0.is_some();
            if !from_memory {
                memory.0 = None;
            }
            let wait = match self.pass(&mut memory).await {
                Ok(Pass::Done) => {
                    backoff.reset();
                    self.problems.clear(CONSUL, "Consul answers again");
                    if from_memory {
                        continue;
                    }
                    with_jitter(RECONCILE)
                }
                Ok(Pass::Left) => Duration::from_millis(200) + backoff.next_wait(),
                Err(error) => {
                    self.problems.set(CONSUL, chain(&error));
                    memory.0 = None;
                    backoff.next_wait()
                }
            };
            next = Instant::now() + wait;
        }
    }

    /// Compares and writes until nothing is left to write.
    async fn pass(&self, memory: &mut Memory) -> Result<Pass, ConsulError> {
        for attempt in 1..=MOST_CONFLICTS {
            let Some(served) = self.mirror.served() else { return Ok(Pass::Left) };
            let observed = match &mut memory.0 {
                Some(observed) => observed,
                empty => empty.insert(self.observe(&served).await?),
            };
            let desired =
                Desired { datacenter: self.mirror.datacenter(), pointer: served.pointer(), pins: &served.pins };
            let decision = decide(&self.keys, &desired, observed);
            let is_all = matches!(decision, Decision::Write { projection_of: None, spared: 0, .. });
            let Some(batches) = self.report(decision, &served) else { return Ok(Pass::Left) };
            if self.commit_all(batches, &served, memory).await? {
                memory.agree(is_all.then(|| Arc::clone(&served.pins)));
                *self.published.lock() = Some(served.pointer());
                return Ok(Pass::Done);
            }
            memory.0 = None;
            // Two slaves that met once should not meet again at once.
            let most = Duration::from_millis(5) * attempt;
            tokio::time::sleep(most.mul_f64(rand::random())).await;
        }
        self.problems
            .set(PUBLISHING, format!("{MOST_CONFLICTS} conflicts in a row; does someone else write these keys?"));
        Ok(Pass::Left)
    }

    /// Reports problems, and returns the transactions to commit.
    fn report(&self, decision: Decision, served: &ServedSnapshot) -> Option<Vec<Batch>> {
        let problem = match decision {
            Decision::Write { batches, projection_of, spared } => {
                self.problems.clear(PUBLISHING, "publishing goes on");
                let foreign = projection_of.map(|other| {
                    format!(
                        "the component keys here are those of {other}, so only the snapshot's own key is published; \
                         give this datacenter a --pointer-prefix of its own, or delete the key {}",
                        self.keys.projection()
                    )
                });
                self.problems.report("projection", foreign, "the component keys are this datacenter's");
                let spared =
                    (spared > 0).then(|| format!("{spared} keys that no snapshot lists are left for the next passes"));
                self.problems.report("deletions", spared, "no key is left that should go");
                return Some(batches);
            }
            Decision::CatchUp(pointer) => {
                // Another slave published it. It is here already, since judging it fetched it.
                self.mirror.want(pointer);
                self.problems.clear(PUBLISHING, "publishing goes on");
                return None;
            }
            Decision::Fork(pointer) => format!(
                "Consul names {pointer}, this slave serves {}: two snapshots of one sequence, both signed; nothing is \
                 written. Which central repository is the right one?",
                served.pointer()
            ),
            Decision::Wait(pointer) => format!(
                "Consul names {pointer}, which is not here, and no central server can be asked about it; nothing is \
                 written until then"
            ),
        };
        self.problems.set(PUBLISHING, problem);
        None
    }

    /// Reads all keys at one moment and judges the authoritative one.
    async fn observe(&self, served: &ServedSnapshot) -> Result<Observed, ConsulError> {
        let projection = self.keys.projection();
        let mut observed = Observed {
            authority: Authority::Absent { index: 0 },
            projection: None,
            components: BTreeMap::new(),
            agreed: None,
        };
        let mut authority = None;
        for entry in self.consul.list(self.keys.root()).await? {
            let stored = StoredValue { value: entry.value, index: entry.index };
            if entry.key == self.key {
                authority = Some(stored);
            } else if entry.key == projection {
                observed.projection = Some(stored);
            } else if self.keys.is_projected(&entry.key) {
                observed.components.insert(entry.key, stored);
            }
        }
        if let Some(stored) = authority {
            observed.authority = self.judge(&stored, served).await;
        }
        Ok(observed)
    }

    async fn judge(&self, stored: &StoredValue, served: &ServedSnapshot) -> Authority {
        let index = stored.index;
        let damage = |words: &str| {
            let value = String::from_utf8_lossy(&stored.value).chars().take(100).collect::<String>();
            tracing::warn!(value, "{words}; it counts as absent");
            Authority::Absent { index }
        };
        let Some(pointer) = str::from_utf8(&stored.value).ok().and_then(|text| text.parse::<Pointer>().ok()) else {
            return damage("the authoritative key holds no pointer");
        };
        if pointer == served.pointer() {
            return Authority::Names { pointer, index };
        }
        let judged = tokio::time::timeout(JUDGING, self.mirror.judge(pointer)).await;
        match judged.unwrap_or(Judgement::Unknown) {
            Judgement::Signed => Authority::Names { pointer, index },
            Judgement::Unknown => Authority::Unknown { pointer },
            Judgement::Damage => damage("the authoritative key names no snapshot that was signed for this datacenter"),
        }
    }

    /// Commits one transaction after the other. Returns false after a conflict.
    async fn commit_all(
        &self,
        batches: Vec<Batch>,
        served: &ServedSnapshot,
        memory: &mut Memory,
    ) -> Result<bool, ConsulError> {
        let started = Instant::now();
        let (mut keys, transactions) = (0, batches.len());
        for batch in batches {
            let Some(operations) = self.operations(&batch, served, memory) else { return Ok(false) };
            match self.consul.transaction(&operations).await? {
                Outcome::Committed(entries) => {
                    self.transactions.inc();
                    keys += batch.writes.len() + usize::from(batch.guard != Guard::Hold);
                    memory.remember(batch, &entries, &self.keys, &self.key, served.pointer());
                }
                Outcome::Conflict(words) => {
                    self.conflicts.inc();
                    tracing::debug!(%words, "a conflict: reading again");
                    return Ok(false);
                }
            }
        }
        if transactions > 0 {
            let took_ms = millis(started.elapsed());
            tracing::info!(sequence = served.snapshot.sequence.0, keys, transactions, took_ms, "published");
        }
        Ok(true)
    }

    fn operations(&self, batch: &Batch, served: &ServedSnapshot, memory: &Memory) -> Option<Vec<Operation>> {
        let (key, flags) = (self.key.clone(), served.snapshot.sequence.0);
        let guard = match batch.guard {
            Guard::Move { from } => {
                Operation::Cas { key, value: served.pointer().to_string().into_bytes(), flags, index: from }
            }
            Guard::Hold => Operation::CheckIndex { key, index: memory.authority_index()? },
        };
        let writes = batch.writes.iter().map(|write| match write.clone() {
            Write::Put { key, value, index } => Operation::Cas { key, value: value.into_bytes(), flags, index },
            Write::Delete { key, index } => Operation::DeleteCas { key, index },
        });
        Some(std::iter::once(guard).chain(writes).collect())
    }

    /// Sends every new value of the authoritative key to `heard`.
    async fn watch_authority(&self, heard: watch::Sender<Option<Entry>>) {
        let (mut seen, mut failed) = (WatchIndex::default(), false);
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        loop {
            let pause = match self.consul.watch(&self.key, &mut seen, with_jitter(WAIT)).await {
                Ok(entry) => {
                    if std::mem::take(&mut failed) {
                        self.problems.clear(CONSUL, "Consul answers again");
                    }
                    let absent = entry.is_none();
                    heard.send_if_modified(|last| {
                        // An absent key is sent each time, since the last pass may not have been
                        // able to write it.
                        let differs = *last != entry || absent;
                        last.clone_from(&entry);
                        differs
                    });
                    if !absent {
                        backoff.reset();
                        continue;
                    }
                    // Any write to any key answers the query for an absent key.
                    Duration::from_millis(100) + backoff.next_wait()
                }
                Err(error) => {
                    failed = true;
                    self.problems.set(CONSUL, chain(&error));
                    backoff.next_wait()
                }
            };
            tokio::time::sleep(pause).await;
        }
    }
}
