//! Wakes futures at their deadlines, without a runtime: one thread, which exists while any waits.

use std::{
    collections::BTreeMap,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Instant,
};

use event_listener::Event;

use super::super::follow::wake;

#[derive(Clone, Debug, Default)]
pub(super) struct Clock {
    face: Arc<Face>,
}

#[derive(Debug, Default)]
struct Face {
    alarms: Mutex<Alarms>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Alarms {
    set: BTreeMap<(Instant, u64), Arc<Event>>,
    last: u64,
    running: bool,
}

/// Off when dropped: there are never more alarms than futures that wait.
#[derive(Debug)]
pub(super) struct Alarm {
    face: Arc<Face>,
    key: (Instant, u64),
}

impl Clock {
    /// Tells all who listen to `event` once it is `at`.
    pub(super) fn wake_at(&self, at: Instant, event: Arc<Event>) -> Alarm {
        let mut alarms = self.face.alarms();
        alarms.last += 1;
        let key = (at, alarms.last);
        alarms.set.insert(key, event);
        if alarms.running {
            self.face.changed.notify_one();
        } else {
            let clock = thread::Builder::new().name("libconf-clock".to_owned());
            let face = Arc::clone(&self.face);
            alarms.running = clock.spawn(move || face.run()).is_ok();
            if !alarms.running {
                // Without a thread nobody would be woken: then at once, and the deadline is looked at in a loop.
                let event = alarms.set.remove(&key);
                drop(alarms);
                event.as_deref().into_iter().for_each(wake);
            }
        }
        Alarm { face: Arc::clone(&self.face), key }
    }
}

impl Face {
    fn alarms(&self) -> MutexGuard<'_, Alarms> {
        self.alarms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut alarms = self.alarms();
        while let Some((&(at, _), _)) = alarms.set.first_key_value() {
            let left = at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let due = alarms.set.pop_first();
                drop(alarms);
                due.iter().for_each(|(_, event)| wake(event));
                alarms = self.alarms();
            } else {
                alarms = self.changed.wait_timeout(alarms, left).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        alarms.running = false;
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // The thread finds out at the time of this alarm, or of an earlier one, or with the next.
        if self.face.alarms().set.remove(&self.key).is_some() {
            self.face.changed.notify_one();
        }
    }
}
