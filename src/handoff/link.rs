//! A worker's end of the channel: orders come in, reports go out, questions on behalf of clients wait for answers.

use std::collections::HashMap;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use super::{Answer, Ask, MessageReader, MessageWriter, Order, Overview, Report, split};
use crate::exchange::{Change, Changed, ControlError};

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
}

impl Link {
    /// Takes the channel over. The receiver gets every order but answers, and closes when the supervisor has gone.
    /// Needs a tokio runtime.
    pub fn open(channel: UnixStream) -> io::Result<(Self, UnboundedReceiver<Order>)> {
        let (reader, writer) = split(channel)?;
        let (outgoing, to_send) = unbounded_channel();
        let (orders, incoming) = unbounded_channel();
        let link = Self { outgoing, waiting: Arc::default(), next_ticket: Arc::default() };
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

    /// How all workers are; `None` when the supervisor does not answer.
    pub async fn overview(&self) -> Option<Overview> {
        match self.ask(Ask::Overview).await {
            Some(Answer::Overview(overview)) => Some(*overview),
            _ => None,
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
