//! A running flow: what is asked goes out in its frames, and answers come in them.

use std::{
    collections::{HashMap, VecDeque},
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bento_proto::{Outcome, bundle::Bundle};
use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, ReadBuf},
    sync::{
        Notify,
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    },
    time::{Instant, Sleep, sleep_until, timeout},
};

use super::{
    frame::{self, Kind, Message},
    plan::{CoverPlan, Pace},
};
use crate::{Client, ClientError, Input, NodeAddress, Output, Part, text};

/// Questions at the same time: as many as the function takes.
const QUESTIONS_MAX: usize = 4;

/// Longest question, in bytes: as the function takes them.
const QUESTION_BYTES_MAX: usize = 12 * 1024;

/// Longest silence of a flow. It never has any of its own but while its rate rises or falls.
const SILENCE: Duration = Duration::from_secs(60);

/// How late a flow's frames are made up for; of what is later its schedule is moved. As `schedule.py` has it.
const LATE_MAX: Duration = Duration::from_secs(5);

/// How late a flow may be for a question to be sent in it. A flow that is later has a way that does not carry its rate just now; what fetching a page
/// costs there would slow it further, and that could be seen.
const LATE_FOR_QUESTIONS: Duration = Duration::from_secs(1);

/// How long a question waits for a flow that is late.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why a question has no answer.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CoverError {
    /// Too many at once.
    #[error("{QUESTIONS_MAX} requests are on their way in this flow already")]
    Busy,
    /// Longer than the function takes.
    #[error("the request has more than {QUESTION_BYTES_MAX} bytes")]
    TooLong,
    /// The flow is later than it may be for a question.
    #[error(
        "the flow is {:.1} s late: its way does not carry its rate just now, and what a page costs would be seen; a flow of a lower rate is kept",
        .0.as_secs_f64()
    )]
    Late(Duration),
    /// The flow has come to its end.
    #[error("the flow ended before the answer was whole")]
    Ended,
    /// The answer is longer than was to be taken.
    #[error("the answer has more bytes than can be expected")]
    TooMuch,
    /// The function says why.
    #[error("{0}")]
    Failed(String),
}

/// How far a flow is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct FlowProgress {
    /// Bytes that have come.
    pub received: u64,
    /// Of how many.
    pub total: u64,
    /// Of these, bytes of answers.
    pub carried: u64,
    /// Questions that are on their way.
    pub open: usize,
    /// How late it is.
    pub late: Duration,
    /// How late it was at most.
    pub latest: Duration,
}

/// A running flow.
#[derive(Debug)]
pub struct Flow {
    output: Output,
    pace: Pace,
    /// Frames that have come.
    frames: u64,
    desk: Arc<Desk>,
    buffer: BytesMut,
}

/// Asks questions in a flow. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Asker(Arc<Desk>);

/// An answer, as it comes. Dropping it gives it up.
#[derive(Debug)]
pub struct Reply {
    desk: Arc<Desk>,
    number: u32,
    events: UnboundedReceiver<Event>,
}

#[derive(Debug)]
enum Event {
    Data(Bytes),
    End(Result<(), CoverError>),
}

#[derive(Debug, Default)]
struct Desk {
    state: Mutex<State>,
    /// A frame came, or the flow has ended.
    came: Notify,
}

#[derive(Debug, Default)]
struct State {
    last: u32,
    /// What is still to be sent.
    outgoing: VecDeque<Message>,
    answers: HashMap<u32, Expected>,
    carried: u64,
    timing: Timing,
    ended: bool,
}

/// When frames come, against when they are due.
#[derive(Clone, Copy, Debug, Default)]
struct Timing {
    /// When the flow began, by the frame that came earliest for its time.
    start: Option<Instant>,
    /// When the next frame is due.
    next: Option<Instant>,
    late: Duration,
    latest: Duration,
}

#[derive(Debug)]
struct Expected {
    events: UnboundedSender<Event>,
    left: u64,
}

impl Flow {
    /// Starts a flow on a node. It then has to be driven with [`run`](Self::run), without a pause, to its end.
    ///
    /// # Errors
    /// When the node refuses, or does not begin.
    pub async fn start(
        client: &Client,
        node: &NodeAddress,
        bundle: &Bundle,
        plan: &CoverPlan,
        browser: Option<&NodeAddress>,
    ) -> Result<(Self, Asker), ClientError> {
        let desk = Arc::<Desk>::default();
        let input = Input::exact(plan.up.total(), Sending::new(plan.up, Arc::clone(&desk)));
        let begun = client.run(node, bundle, plan.call(browser, input));
        // Since we send all the time, the client's own bound on silence would not see a node that never answers.
        let late = |_| ClientError::Late { what: "the flow's first byte", bound: client.bounds().answer };
        let output = timeout(client.bounds().answer, begun).await.map_err(late)??;
        if let Some(other) = output.length().filter(|length| *length != plan.down.total()) {
            return Err(ClientError::Violation(format!("its flow has {other} bytes, and not those that were planned")));
        }
        let flow = Self { output, pace: plan.down, frames: 0, desk: Arc::clone(&desk), buffer: BytesMut::new() };
        Ok((flow, Asker(desk)))
    }

    /// Takes the flow to its end.
    ///
    /// # Errors
    /// When it breaks off, or is none.
    pub async fn run(mut self, mut progress: impl FnMut(FlowProgress)) -> Result<FlowProgress, ClientError> {
        let ended = self.take(&mut progress).await;
        // Who still waits is told.
        self.desk.end();
        ended.map(|()| self.progress())
    }

    async fn take(&mut self, progress: &mut impl FnMut(FlowProgress)) -> Result<(), ClientError> {
        let silence = SILENCE.max(self.pace.due(1) * 2);
        loop {
            let part = timeout(silence, self.output.next()).await;
            match part.map_err(|_| ClientError::Late { what: "the next bytes of the flow", bound: silence })?? {
                Part::Bytes(bytes) => self.buffer.extend_from_slice(&bytes),
                Part::End(Outcome::Returned) if self.output.length().is_some() => return Ok(()),
                Part::End(Outcome::Returned) => return Err(ClientError::Violation("its flow came without a length".into())),
                Part::End(outcome) => return Err(ClientError::Ended(outcome)),
            }
            while self.buffer.len() >= self.pace.bytes {
                let frame = self.buffer.split_to(self.pace.bytes).freeze();
                let messages = frame::read(&frame).ok_or_else(|| ClientError::Violation("its flow has a frame that is none".into()))?;
                messages.into_iter().for_each(|message| self.desk.take(message));
                self.desk.state().timing.came(Instant::now(), self.frames, &self.pace);
                self.frames += 1;
                self.desk.came.notify_waiters();
            }
            progress(self.progress());
        }
    }

    fn progress(&self) -> FlowProgress {
        let state = self.desk.state();
        FlowProgress {
            received: self.output.received(),
            total: self.pace.total(),
            carried: state.carried,
            open: state.answers.len(),
            late: state.timing.late,
            latest: state.timing.latest,
        }
    }
}

impl Asker {
    /// Asks for a method's output, of at most `max` bytes. The question waits for its turn in the flow, and for a flow that is late.
    ///
    /// # Errors
    /// When there are too many, it is too long, or the flow stays late.
    pub async fn ask(&self, method: &str, arguments: &serde_json::Map<String, serde_json::Value>, max: u64) -> Result<Reply, CoverError> {
        let question = serde_json::json!({"method": method, "arguments": arguments}).to_string();
        if question.len() > QUESTION_BYTES_MAX {
            return Err(CoverError::TooLong);
        }
        timeout(PATIENCE, self.on_time()).await.map_err(|_| CoverError::Late(self.0.state().timing.now()))?;
        let mut state = self.0.state();
        if state.ended {
            return Err(CoverError::Ended);
        }
        if state.answers.len() >= QUESTIONS_MAX {
            return Err(CoverError::Busy);
        }
        state.last += 1;
        let (number, (sender, events)) = (state.last, unbounded_channel());
        state.answers.insert(number, Expected { events: sender, left: max });
        state.outgoing.push_back(Message { kind: Kind::Data, number, data: question.into() });
        state.outgoing.push_back(Message { kind: Kind::End, number, data: Bytes::new() });
        Ok(Reply { desk: Arc::clone(&self.0), number, events })
    }

    /// How late the flow is by now.
    pub fn late(&self) -> Duration {
        self.0.state().timing.now()
    }

    /// Waits until the flow is on time, or has ended.
    async fn on_time(&self) {
        loop {
            let mut came = std::pin::pin!(self.0.came.notified());
            // From here on none is missed.
            came.as_mut().enable();
            {
                let state = self.0.state();
                if state.ended || state.timing.now() <= LATE_FOR_QUESTIONS {
                    return;
                }
            }
            came.await;
        }
    }
}

impl Timing {
    /// A frame came, the one of this number.
    fn came(&mut self, now: Instant, number: u64, pace: &Pace) {
        let begun = now.checked_sub(pace.due(number)).unwrap_or(now);
        let start = self.start.map_or(begun, |start| start.min(begun));
        self.late = begun.saturating_duration_since(start);
        self.latest = self.latest.max(self.late);
        // The function does so as well.
        let start = start + self.late.saturating_sub(LATE_MAX);
        (self.start, self.next) = (Some(start), Some(start + pace.due(number + 1)));
    }

    /// How late the flow is by now, also if nothing comes.
    fn now(&self) -> Duration {
        self.next.map_or(Duration::ZERO, |next| next.elapsed()).max(self.late)
    }
}

impl Reply {
    /// The next piece; none at the end of the whole answer.
    ///
    /// # Errors
    /// When there is no whole answer, and why.
    pub async fn next(&mut self) -> Result<Option<Bytes>, CoverError> {
        match self.events.recv().await {
            Some(Event::Data(data)) => Ok(Some(data)),
            Some(Event::End(end)) => end.map(|()| None),
            None => Err(CoverError::Ended),
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        let mut state = self.desk.state();
        if state.answers.remove(&self.number).is_some() {
            state.give_up(self.number);
        }
    }
}

/// How an answer ended, as the function tells it.
#[derive(Deserialize)]
struct End {
    outcome: String,
    #[serde(default)]
    text: String,
}

impl Desk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        let mut state = self.state();
        state.ended = true;
        state.answers.clear();
        drop(state);
        self.came.notify_waiters();
    }

    /// One message of the function. What nobody waits for any more is dropped: it was given up while it was on its way.
    fn take(&self, message: Message) {
        let mut state = self.state();
        let state = &mut *state;
        state.carried += message.data.len() as u64;
        let Some(expected) = state.answers.get_mut(&message.number) else { return };
        // Never a wait here, whatever whoever asked does: the flow is read at its rate. So what it holds has a bound of its own.
        let end = match (message.kind, expected.left.checked_sub(message.data.len() as u64)) {
            (Kind::Data, Some(left)) => {
                expected.left = left;
                let _ = expected.events.send(Event::Data(message.data));
                return;
            }
            (Kind::Data, None) => {
                state.give_up(message.number);
                Err(CoverError::TooMuch)
            }
            (Kind::End | Kind::GiveUp, _) => match serde_json::from_slice::<End>(&message.data) {
                Ok(end) if end.outcome == "returned" => Ok(()),
                Ok(end) => Err(CoverError::Failed(text::line(&end.text))),
                Err(_) => Err(CoverError::Failed("the function does not say why".into())),
            },
        };
        if let Some(expected) = state.answers.remove(&message.number) {
            let _ = expected.events.send(Event::End(end));
        }
    }
}

impl State {
    fn give_up(&mut self, number: u32) {
        // What of the question is not under way yet need not be sent; of what is, the function has to hear.
        self.outgoing.retain(|message| message.number != number);
        self.outgoing.push_back(Message { kind: Kind::GiveUp, number, data: Bytes::new() });
    }

    /// The next frame: what there is, and nothing for the rest.
    fn frame(&mut self, size: usize) -> Vec<u8> {
        let mut frame = Vec::with_capacity(size);
        while let Some(message) = self.outgoing.front_mut() {
            let Some(written) = frame::write(&mut frame, size, message.kind, message.number, &message.data) else { break };
            let _ = message.data.split_to(written);
            if !message.data.is_empty() {
                break;
            }
            self.outgoing.pop_front();
        }
        frame.resize(size, 0);
        frame
    }
}

/// The client's own frames, each at its time.
struct Sending {
    pace: Pace,
    desk: Arc<Desk>,
    next: u64,
    /// When the first was due, once it was asked for.
    start: Option<Instant>,
    timer: Pin<Box<Sleep>>,
    /// The rest of the frame whose time has come, or all of one whose time has not.
    frame: Bytes,
    is_due: bool,
}

impl Sending {
    fn new(pace: Pace, desk: Arc<Desk>) -> Self {
        Self { pace, desk, next: 0, start: None, timer: Box::pin(sleep_until(Instant::now())), frame: Bytes::new(), is_due: false }
    }

    /// Fills the next frame before its time has come, so that filling takes none of it.
    fn prepare(&mut self) {
        let now = Instant::now();
        // After a delay, frames whose time is over come at twice the rate: what makes them late is the network, and how they catch up must say
        // no more than that.
        let (start, free) = match self.start {
            None => (now, now),
            Some(start) => {
                let late = now.saturating_duration_since(start + self.pace.due(self.next));
                (start + late.saturating_sub(LATE_MAX), now + self.pace.interval / 2)
            }
        };
        self.start = Some(start);
        self.timer.as_mut().reset((start + self.pace.due(self.next)).max(free));
        self.frame = self.desk.state().frame(self.pace.bytes).into();
        self.is_due = false;
        self.next += 1;
    }
}

impl AsyncRead for Sending {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.frame.is_empty() {
            if self.next == self.pace.frames {
                return Poll::Ready(Ok(()));
            }
            self.prepare();
        }
        if !self.is_due {
            ready!(self.timer.as_mut().poll(context));
            self.is_due = true;
        }
        let count = buffer.remaining().min(self.frame.len());
        let piece = self.frame.split_to(count);
        buffer.put_slice(&piece);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    fn pace(frames: u64) -> Pace {
        Pace { frames, bytes: 100, interval: Duration::from_millis(100), ramp: Duration::ZERO }
    }

    fn end(number: u32, text: &str) -> Message {
        Message { kind: Kind::End, number, data: Bytes::copy_from_slice(text.as_bytes()) }
    }

    fn data(number: u32, bytes: usize) -> Message {
        Message { kind: Kind::Data, number, data: vec![b'.'; bytes].into() }
    }

    #[tokio::test(start_paused = true)]
    async fn frames_leave_at_their_times_and_full_whether_something_is_asked_or_not() {
        for asks in [false, true] {
            let desk = Arc::<Desk>::default();
            let asker = Asker(Arc::clone(&desk));
            let mut replies = Vec::new();
            for _ in 0..if asks { 3 } else { 0 } {
                replies.push(asker.ask("page", &Default::default(), 10).await.unwrap());
            }
            let mut sending = Sending::new(pace(20), desk);
            let (begin, mut frame, mut said) = (Instant::now(), [0; 100], 0);
            for number in 0..20 {
                sending.read_exact(&mut frame).await.unwrap();
                assert_eq!(begin.elapsed().as_millis(), number * 100);
                said += frame::read(&Bytes::copy_from_slice(&frame)).unwrap().len();
            }
            assert_eq!(sending.read(&mut frame).await.unwrap(), 0);
            assert_eq!(said > 0, asks);
            drop(replies);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_standstill_frames_catch_up_at_twice_the_rate() {
        let mut sending = Sending::new(pace(100), Arc::default());
        let (begin, mut frame, mut times) = (Instant::now(), [0; 100], Vec::new());
        for number in 0..100 {
            if number == 10 {
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
            sending.read_exact(&mut frame).await.unwrap();
            times.push(begin.elapsed().as_millis());
        }
        assert_eq!((times[9], times[10], times[11]), (900, 2950, 3000));
        assert_eq!(*times.last().unwrap(), 9900);
    }

    #[tokio::test]
    async fn answers_find_who_asked_and_too_many_or_too_long_ones_are_refused() {
        let desk = Arc::<Desk>::default();
        let asker = Asker(Arc::clone(&desk));
        let mut replies = Vec::new();
        for _ in 0..4 {
            replies.push(asker.ask("page", &Default::default(), 10).await.unwrap());
        }
        assert_eq!(asker.ask("page", &Default::default(), 10).await.unwrap_err(), CoverError::Busy);
        for message in
            [data(2, 10), data(1, 3), end(1, "{\"outcome\":\"returned\"}"), end(2, "{\"outcome\":\"failed\",\"text\":\"no\\u0007\"}")]
        {
            desk.take(message);
        }
        assert_eq!(replies[0].next().await, Ok(Some(Bytes::from_static(b"..."))));
        assert_eq!(replies[0].next().await, Ok(None));
        assert!(replies[1].next().await.unwrap().is_some());
        assert_eq!(replies[1].next().await, Err(CoverError::Failed("no".into())));
        // One byte more than was to be taken ends that answer, and the function hears of it.
        desk.take(data(3, 11));
        assert_eq!(replies[2].next().await, Err(CoverError::TooMuch));
        let given_up = |number| desk.state().outgoing.iter().filter(|one| one.number == number).map(|one| one.kind).collect::<Vec<_>>();
        assert_eq!(given_up(3), [Kind::GiveUp]);
        drop(replies.remove(3));
        assert_eq!(given_up(4), [Kind::GiveUp]);
        let long = [("url".to_owned(), "x".repeat(QUESTION_BYTES_MAX).into())].into_iter().collect();
        assert_eq!(asker.ask("page", &long, 10).await.unwrap_err(), CoverError::TooLong);
        let mut last = asker.ask("page", &Default::default(), 10).await.unwrap();
        desk.end();
        assert_eq!(last.next().await, Err(CoverError::Ended));
        assert_eq!(asker.ask("page", &Default::default(), 10).await.unwrap_err(), CoverError::Ended);
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_waits_while_the_flow_is_late_and_is_refused_when_it_stays_so() {
        let desk = Arc::<Desk>::default();
        let (asker, pace) = (Asker(Arc::clone(&desk)), pace(1000));
        let begin = Instant::now();
        let come = async |number: u64, seconds: f64| {
            tokio::time::sleep_until(begin + Duration::from_secs_f64(seconds)).await;
            desk.state().timing.came(Instant::now(), number, &pace);
            desk.came.notify_waiters();
        };
        // The first is no measure: the one that comes earliest for its time is.
        come(0, 0.3).await;
        come(1, 0.1 + 0.3).await;
        come(2, 0.4).await;
        assert!(asker.ask("page", &Default::default(), 10).await.is_ok());
        // Nothing comes for two seconds, which is late without a frame that says so; then all of it does.
        tokio::time::sleep_until(begin + Duration::from_secs_f64(2.4)).await;
        let asked = async { (asker.ask("page", &Default::default(), 10).await.map(drop), begin.elapsed().as_secs_f64()) };
        let caught_up = async {
            for number in 3..50 {
                come(number, 3.0 + 0.05 * (number - 3) as f64).await;
            }
        };
        let ((asked, at), ()) = tokio::join!(asked, caught_up);
        // Frame 33 comes at 4.5 s, and was due at 3.5.
        assert!(asked.is_ok() && (4.2..4.8).contains(&at), "{asked:?} {at}");
        assert!((desk.state().timing.latest.as_secs_f64() - 2.5).abs() < 0.2, "{:?}", desk.state().timing);
        // One that never catches up.
        let waited = Instant::now();
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(matches!(asker.ask("page", &Default::default(), 10).await, Err(CoverError::Late(late)) if late > Duration::from_secs(30)));
        assert_eq!(waited.elapsed().as_secs(), 40);
    }
}
