//! Wakes futures at their deadlines, without a runtime: one thread, which exists while any future
//! waits.

use std::{
    collections::BTreeMap,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::Instant,
};

use event_listener::Event;

use crate::client::{lock::lock, release::wake};

#[derive(Debug, Default)]
pub(crate) struct Clock {
    alarms: Mutex<Alarms>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Alarms {
    by_time: BTreeMap<(Instant, u64), Arc<Event>>,
    last: u64,
    running: bool,
}

/// An alarm that dropping cancels, so that there are never more alarms than waiting futures.
#[derive(Debug)]
pub(crate) struct Alarm {
    clock: Arc<Clock>,
    key: (Instant, u64),
}

impl Clock {
    /// Wakes the listeners of `event` at the time `at`.
    pub(crate) fn wake_at(self: &Arc<Self>, at: Instant, event: Arc<Event>) -> Alarm {
        let mut alarms = lock(&self.alarms);
        alarms.last += 1;
        let key = (at, alarms.last);
        alarms.by_time.insert(key, event);
        if alarms.running {
            self.changed.notify_one();
        } else {
            let clock = Arc::clone(self);
            let thread = thread::Builder::new().name("libconf-clock".to_owned());
            alarms.running = thread.spawn(move || clock.run()).is_ok();
            if !alarms.running {
                // Nothing would wake the future later, so it is woken now, and looks at its
                // deadline in a loop.
                let event = alarms.by_time.remove(&key);
                drop(alarms);
                event.as_deref().into_iter().for_each(wake);
            }
        }
        Alarm { clock: Arc::clone(self), key }
    }

    fn run(&self) {
        let mut alarms = lock(&self.alarms);
        while let Some((&(at, _), _)) = alarms.by_time.first_key_value() {
            let left = at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let due = alarms.by_time.pop_first();
                drop(alarms);
                due.iter().for_each(|(_, event)| wake(event));
                alarms = lock(&self.alarms);
            } else {
                alarms = self.changed.wait_timeout(alarms, left).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        alarms.running = false;
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // The thread ends by itself once it finds no alarm left.
        if lock(&self.clock.alarms).by_time.remove(&self.key).is_some() {
            self.clock.changed.notify_one();
        }
    }
}
