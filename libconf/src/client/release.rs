//! The two moments at which libconf runs code of the program: waking its tasks, and dropping its
//! values. That code may use the client or panic, so both happen under no lock, and a panic ends
//! here. The program's hook has reported it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use event_listener::Event;

/// Wakes every listener.
pub(crate) fn wake(event: &Event) {
    let _ = catch_unwind(AssertUnwindSafe(|| event.notify(usize::MAX)));
}

/// Drops something that may hold values of the program.
pub(crate) fn let_go<T>(released: T) {
    let _ = catch_unwind(AssertUnwindSafe(|| drop(released)));
}
