//! Discovery on demand: requests that wait for a route, a virtual host or a cluster, and the way of the question to the
//! control thread and of the answer back.
//!
//! The answer says only that there is news: the request looks again. How many wait is limited, and each has its
//! deadline; what is over the limit goes on without.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use outrider_config::model::ConfigSource;
use tokio::sync::{mpsc, oneshot};

use crate::routing::RouteSlot;

/// Requests that may wait at the same time, over all workers.
const MOST_WAITING: usize = 4096;
/// Questions that may be on their way to the control thread.
const QUEUE: usize = 256;

/// A question to the control thread. Dropped, it is answered.
#[derive(Debug)]
pub struct Ask {
    /// What is asked for.
    pub wanted: Wanted,
    /// Is told when it is there, or is known not to be.
    pub answer: oneshot::Sender<()>,
}

/// What a request needs.
#[derive(Debug, Clone)]
pub enum Wanted {
    /// The table of a scope that loads it on demand.
    Routes(Arc<RouteSlot>),
    /// The virtual host for a host (lower case) in the table of this place (VHDS).
    VirtualHost(Arc<RouteSlot>, Box<str>),
    /// A cluster from this source (ODCDS).
    Cluster(ConfigSource, Box<str>),
}

/// Asks the control thread. Cloning gives another handle.
#[derive(Debug, Clone)]
pub struct Asker {
    questions: mpsc::Sender<Ask>,
    waiting: Arc<AtomicUsize>,
}

/// A way for questions: who asks, and where they arrive.
pub fn channel() -> (Asker, mpsc::Receiver<Ask>) {
    let (questions, arriving) = mpsc::channel(QUEUE);
    (Asker { questions, waiting: Arc::default() }, arriving)
}

/// Counts one who waits for as long as it is there.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Asker {
    /// Asks for `wanted` and waits until there is news of it, `timeout` at most (`None`: as long as it takes).
    pub(crate) async fn ask(&self, wanted: Wanted, timeout: Option<Duration>) {
        if self.waiting.fetch_add(1, Relaxed) >= MOST_WAITING {
            self.waiting.fetch_sub(1, Relaxed);
            return;
        }
        let _counted = Waiting(&self.waiting);
        let (answer, answered) = oneshot::channel();
        if self.questions.try_send(Ask { wanted, answer }).is_err() {
            return;
        }
        // Rare enough for a timer of its own. Whether there is an answer or the question was dropped: look again.
        match timeout {
            Some(timeout) => drop(tokio::time::timeout(timeout, answered).await),
            None => drop(answered.await),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Wanted {
        Wanted::Routes(Arc::default())
    }

    #[tokio::test]
    async fn an_answer_a_dropped_question_and_the_deadline_end_the_wait() {
        let (asker, mut arriving) = channel();
        let answering = async {
            let ask = arriving.recv().await.unwrap();
            ask.answer.send(()).unwrap();
            drop(arriving.recv().await.unwrap());
            arriving.recv().await.unwrap()
        };
        let asking = async {
            asker.ask(wanted(), None).await;
            asker.ask(wanted(), None).await;
            asker.ask(wanted(), Some(Duration::from_millis(5))).await;
        };
        let (unanswered, ()) = tokio::join!(answering, asking);
        assert!(unanswered.answer.is_closed(), "the control thread sees that nobody waits");
        assert_eq!(asker.waiting.load(Relaxed), 0);
    }

    #[tokio::test]
    async fn what_is_too_much_is_not_asked() {
        let (asker, mut arriving) = channel();
        asker.waiting.store(MOST_WAITING, Relaxed);
        asker.ask(wanted(), None).await;
        assert!(arriving.try_recv().is_err());
        assert_eq!(asker.waiting.load(Relaxed), MOST_WAITING);
    }
}
