//! A worker's end of the channel: orders come in, reports go out, questions on behalf of clients wait for answers.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Mutex as AsyncMutex, oneshot};
use tokio::time::{Instant, timeout};

use super::{Answer, Ask, MessageReader, MessageWriter, Order, Overview, Report, split};
use crate::exchange::{Change, Changed, ControlError};
use crate::recent::Since;

/// How long the supervisor may take to tell how all workers are; it waits for each of them a shorter time.
const OVERVIEW_LIMIT: Duration = Duration::from_secs(5);

enum Outgoing {
    Report(Box<Report>),
    /// To be answered when everything before it has been sent.
    Flush(oneshot::Sender<()>),
}

/// Says things to the supervisor. Clones share it.
#[derive(Debug, Clone)]
pub struct Link {
    outgoing: UnboundedSender<Outgoing>,
    waiting: Arc<Mutex<HashMap<u64, oneshot::Sender<Answer>>>>,
    next_ticket: Arc<AtomicU64>,
    last_overview: Arc<AsyncMutex<Option<TimedOverview>>>,
}

/// An overview, and when it was asked for.
type TimedOverview = (Instant, Option<Arc<Overview>>);

impl Link {
    /// Takes the channel over. The receiver gets every order but answers, and closes when the supervisor has gone.
    /// Needs a tokio runtime.
    pub fn open(channel: UnixStream) -> io::Result<(Self, UnboundedReceiver<Order>)> {
        let (reader, writer) = split(channel)?;
        let (outgoing, to_send) = unbounded_channel();
        let (orders, incoming) = unbounded_channel();
        let link =
            Self { outgoing, waiting: Arc::default(), next_ticket: Arc::default(), last_overview: Arc::default() };
        tokio::spawn(send_all(writer, to_send));
        tokio::spawn(link.clone().receive_all(reader, orders));
        Ok((link, incoming))
    }

    /// Tells the supervisor something. One that has gone is told nothing.
    pub fn report(&self, report: Report) {
        let _ = self.outgoing.send(Outgoing::Report(Box::new(report)));
    }

    /// Has all workers do something.
    pub async fn change(&self, change: Change) -> Result<Changed, ControlError> {
        match self.ask(Ask::Change(change)).await {
            Some(Answer::Changed(result)) => result,
            _ => Err(ControlError::Interrupted("the supervisor does not answer".to_owned())),
        }
    }

    /// How all workers are; `None` when the supervisor does not answer. One question is under way at a time, and all
    /// who came before it was asked share its answer: clients who ask as fast as they can must not keep the supervisor
    /// from its other work.
    pub async fn overview(&self) -> Option<Arc<Overview>> {
        let wanted = Instant::now();
        let mut last = self.last_overview.lock().await;
        if let Some((_, overview)) = last.as_ref().filter(|(asked, _)| *asked > wanted) {
            return overview.clone();
        }
        let asked = Instant::now();
        let overview = match timeout(OVERVIEW_LIMIT, self.ask(Ask::Overview)).await {
            Ok(Some(Answer::Overview(overview))) => Some(Arc::from(overview)),
            _ => None,
        };
        *last = Some((asked, overview.clone()));
        overview
    }

    /// How all workers are and what they have seen since; `None` when the supervisor does not answer.
    pub async fn news(&self, since: BTreeMap<u32, Since>) -> Option<Overview> {
        match timeout(OVERVIEW_LIMIT, self.ask(Ask::News(since))).await {
            Ok(Some(Answer::Overview(overview))) => Some(*overview),
            _ => None,
        }
    }

    /// What any worker has told those who watch, in the last minutes; nothing when the supervisor does not answer.
    pub async fn pulses(&self) -> String {
        match timeout(OVERVIEW_LIMIT, self.ask(Ask::Pulses)).await {
            Ok(Some(Answer::Pulses(pulses))) => pulses,
            _ => String::new(),
        }
    }

    async fn ask(&self, ask: Ask) -> Option<Answer> {
        let ticket = self.next_ticket.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        self.waiting().insert(ticket, sender);
        self.report(Report::Ask { ticket, ask });
        receiver.await.ok()
    }

    /// Waits until everything said so far is on its way: the supervisor reads it even when this process has ended.
    pub async fn flush(&self) {
        let (sender, receiver) = oneshot::channel();
        let _ = self.outgoing.send(Outgoing::Flush(sender));
        let _ = receiver.await;
    }

    async fn receive_all(self, mut reader: MessageReader, orders: UnboundedSender<Order>) {
        while let Some(order) = reader.next::<Order>().await {
            match order {
                Order::Answer { ticket, answer } => {
                    if let Some(sender) = self.waiting().remove(&ticket) {
                        let _ = sender.send(answer);
                    }
                }
                other => drop(orders.send(other)),
            }
        }
        // Whoever still waits for an answer learns that none will come.
        self.waiting().clear();
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Answer>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn send_all(mut writer: MessageWriter, mut to_send: UnboundedReceiver<Outgoing>) {
    while let Some(next) = to_send.recv().await {
        match next {
            Outgoing::Report(report) => {
                if writer.send(&*report).await.is_err() {
                    return;
                }
            }
            Outgoing::Flush(done) => drop(done.send(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn those_who_ask_at_the_same_time_share_an_overview() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let (link, _orders) = Link::open(theirs).expect("a link");
        let (mut reader, mut writer) = split(ours).expect("a channel");
        let clients: Vec<_> = (0..100)
            .map(|_| {
                let link = link.clone();
                tokio::spawn(async move { link.overview().await })
            })
            .collect();
        let supervisor = tokio::spawn(async move {
            let mut asked = 0;
            while let Some(report) = reader.next::<Report>().await {
                let Report::Ask { ticket, ask: Ask::Overview } = report else { continue };
                asked += 1;
                // Whoever had not come yet has come when this is answered.
                tokio::time::sleep(Duration::from_millis(20)).await;
                let overview = Box::new(Overview { started: f64::from(asked), ..Overview::default() });
                writer.send(&Order::Answer { ticket, answer: Answer::Overview(overview) }).await.expect("sent");
                if asked == 3 {
                    break;
                }
            }
            asked
        });
        for client in clients {
            let overview = client.await.expect("no panic").expect("an answer");
            assert!(overview.started <= 2.0, "{}", overview.started);
        }
        assert!(link.overview().await.expect("an answer").started > 1.0, "a later one is asked for afresh");
        supervisor.abort();
    }
}
