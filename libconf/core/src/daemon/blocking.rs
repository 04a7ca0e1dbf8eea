//! Work that blocks, off the runtime's threads.

use std::{future::pending, panic::resume_unwind};

use tokio::task::spawn_blocking;

/// Starts work that blocks, and returns its result. A panic in it goes on here.
///
/// A runtime that ends does not begin such work any more. Then the result never comes: nobody waits
/// for it either, and a program that stops must not panic for that.
///
/// Cancel: work that has begun goes on.
pub fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = T> + Send + Unpin + 'static {
    let running = spawn_blocking(work);
    Box::pin(async move {
        match running.await {
            Ok(done) => done,
            Err(ended) => match ended.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                Err(_) => pending().await,
            },
        }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tokio::runtime::Builder;

    use super::*;

    /// Tells how the task that has it ended: true for a panic.
    struct End(mpsc::Sender<bool>);

    impl Drop for End {
        fn drop(&mut self) {
            self.0.send(std::thread::panicking()).unwrap();
        }
    }

    #[test]
    fn a_runtime_that_ends_leaves_work_that_has_not_begun_without_a_panic() {
        let runtime = Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let (end, ended) = mpsc::channel();
        let (begun, is_begun) = mpsc::channel();
        let (go, wait) = mpsc::channel();
        runtime.spawn(async move {
            let _end = End(end);
            begun.send(()).unwrap();
            // On the runtime's own thread: the runtime ends meanwhile.
            wait.recv().unwrap();
            blocking(|| ()).await;
        });
        is_begun.recv().unwrap();
        runtime.shutdown_background();
        go.send(()).unwrap();
        assert_eq!(ended.recv(), Ok(false));
    }

    #[tokio::test]
    async fn a_result_comes_and_a_panic_goes_on() {
        assert_eq!(blocking(|| 7).await, 7);
        let panic = tokio::spawn(blocking(|| panic!("words"))).await;
        assert!(panic.unwrap_err().is_panic());
    }
}
