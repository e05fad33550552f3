//! `bento cover`.

mod door;

use std::time::{Duration, Instant};

use bento::{Browse, CoverPlan, CoverTraffic, Flow, FlowProgress, Page, PlanError, Shape, Standard, connecting_to};
use bento_proto::{Rate, Span, bundle::Bundle};
use serde_json::json;
use tokio::sync::watch;

use super::{
    args,
    context::Context,
    failure::{FUNCTION, Failure, NODE, REFUSED},
    function::time,
    table::table,
};
pub(crate) use door::Told;
use door::{Door, Knock};

/// What comes from the node each second if nothing else is said: a page of a megabyte in 20 s.
const RATE: &str = "50 KiB/s";

/// The low-data profile.
const LOW: (&str, &str) = ("2 KiB/s", "256 B/s");

/// The slowest rate to the node that is taken where only the other one is given.
const UP_MIN: u64 = 256;

/// What pages may take if nothing else is said.
const FETCH: u64 = 64 << 20;

pub(crate) async fn run(context: &Context, command: args::Cover) -> Result<(), Failure> {
    match command {
        args::Cover::Run(args) => keep(context, args).await,
        args::Cover::Send(args) => send(context, args).await,
        args::Cover::Status => status(context).await,
    }
}

/// Keeps a flow to its end.
async fn keep(context: &Context, args: args::CoverRun) -> Result<(), Failure> {
    let plan = plan(&args)?;
    let bundle = bundle(&args, &plan)?;
    let (name, node) = context.node(&args.node)?;
    let browser = match &args.browser {
        Some(browser) => Some(context.node(browser)?.1),
        None => (!args.no_pages).then(|| node.clone()),
    };
    let door = Door::open(&args.name).await?;
    let client = context.client(&node).await?;
    let (flow, asker) = Flow::start(&client, &node, &bundle, &plan, browser.as_ref()).await.map_err(|error| {
        let mut failure = Failure::about(error, "cover", None);
        if failure.status == REFUSED {
            failure.hint =
                Some(format!("`bento policy {name}` shows what it allows; a slower or shorter flow needs less, and so does `--no-pages`"));
        }
        failure
    })?;
    let length = plan.duration();
    let begun = Instant::now();
    let left = move || Span::seconds(length.saturating_sub(begun.elapsed()).as_secs());
    let rate = of_second(plan.down.bytes as u64, plan.down.interval);
    let up = of_second(plan.up.bytes as u64, plan.up.interval);
    context
        .show
        .step(&format!("the flow with {name} runs: {rate} B/s from it, {up} B/s to it, for {}", time(Span::seconds(length.as_secs()))));
    context.take_leave(format!(
        "The flow `{}` goes on to its end, which was fixed when it started: an end now would be seen on the line, and say that you had enough. Again to end it all the same.",
        args.name
    ));
    let (tell, told) = watch::channel(Told { name: args.name.clone(), node: name.clone(), rate, up, ..Told::default() });
    let mut warned = false;
    let flowing = flow.run(|progress| {
        tell.send_modify(|told| {
            (told.left, told.received, told.carried, told.open) =
                (left().duration().as_secs(), progress.received, progress.carried, progress.open);
        });
        if progress.late > LATE && !warned {
            warned = true;
            context.show.step("the flow is late: its way does not carry its rate just now. Pages wait until it has caught up");
        }
        context.show.received(progress.received, Some(progress.total));
    });
    let ended = tokio::select! {
        ended = flowing => ended,
        // It serves as long as it is driven.
        never = door.serve(&asker, told) => match never {},
    };
    let FlowProgress { received, carried, latest, .. } = ended?;
    let mut text = format!("The flow with {name} has ended as planned: {received} bytes came, {carried} of them carried something.\n");
    if latest > LATE {
        text += &format!(
            "It was up to {:.1} s late, so that its way did not carry {rate} B/s all the time; a lower --rate is kept.\n",
            seconds(latest)
        );
    }
    let told = json!({
        "name": args.name, "node": node.to_string(), "received": received, "sent": plan.up.total(), "carried": carried, "late": seconds(latest),
    });
    context.say(&text, &told)
}

/// Lateness of a flow that is worth a word: pages wait from then on.
const LATE: Duration = Duration::from_secs(1);

/// To a hundredth.
fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 100.0).round() / 100.0
}

fn plan(args: &args::CoverRun) -> Result<CoverPlan, Failure> {
    let read = |text: &str| text.parse::<Rate>().map_err(|error| Failure::input(error.to_string()));
    let (down, up) = if args.low_data {
        (read(LOW.0)?, read(LOW.1)?)
    } else {
        let down = args.rate.map_or_else(|| read(RATE), Ok)?;
        let eighth = || read(&format!("{} B/s", (down.bytes_per_second() / 8).max(UP_MIN)));
        (down, args.up.map_or_else(eighth, Ok)?)
    };
    let wrong =
        |error: PlanError| Failure::input(error.to_string()).with_hint("for example `bento cover run NODE --rate 50KiB/s --for 30min`");
    let plan = CoverPlan::new(down, up, args.run, args.ramp, chance()?).map_err(wrong)?;
    Ok(if args.no_pages { plan } else { plan.with_fetch(args.fetch.unwrap_or(FETCH)) })
}

fn bundle(args: &args::CoverRun, plan: &CoverPlan) -> Result<Bundle, Failure> {
    let wrong = |error: bento_proto::bundle::BundleError| Failure::input(format!("the functions that came with this program: {error}"));
    let browser = match args.no_pages {
        true => None,
        false => {
            let browser = Standard::Browser.bundle().map_err(wrong)?;
            Some(
                connecting_to(browser, &args.connect)
                    .map_err(|error| Failure::input(format!("adding to where pages may come from: {error}")))?,
            )
        }
    };
    plan.bundle(browser).map_err(wrong)
}

/// A number from 0 to 1 that nobody can foresee.
fn chance() -> Result<f64, Failure> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_err(|error| Failure::input(format!("the system gives no random numbers: {error}")))?;
    Ok(f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX))
}

fn of_second(bytes: u64, interval: Duration) -> u64 {
    (bytes as f64 / interval.as_secs_f64()).round() as u64
}

/// What machines may send if nothing else is said.
const BUDGET: u64 = 16 << 20;

/// Most machines, and most sinks.
const MANY_MAX: usize = 4;

/// Has a node send cover traffic.
async fn send(context: &Context, args: args::CoverSend) -> Result<(), Failure> {
    if args.machine.len() > MANY_MAX || args.sink.len() > MANY_MAX {
        return Err(Failure::input(format!("there are at most {MANY_MAX} machines, and {MANY_MAX} sinks")));
    }
    let shape = match (args.machine.is_empty(), args.shape) {
        (false, _) => Shape::Maybenot(args.machine, args.budget.unwrap_or(BUDGET)),
        (true, args::CoverShape::Constant) => Shape::Constant(args.frames),
        (true, args::CoverShape::Poisson) => Shape::Poisson(args.frames),
    };
    let sinks = args.sink.iter().map(|sink| Ok(context.node(sink)?.1)).collect::<Result<_, Failure>>()?;
    let traffic = CoverTraffic { circuits: args.circuits, shape, run: args.run, sinks, to: args.to, back: args.back };
    let bundle = traffic.bundle().map_err(|error| Failure::input(error.to_string()))?;
    let (name, node) = context.node(&args.node)?;
    let client = context.client(&node).await?;
    let sending = traffic.send(&client, &node, &bundle, |sent| {
        let open = sent.open;
        context.show.now(&format!(
            "{:.0} s: {open} circuits, {} frames sent, {} left out, {} bytes back",
            sent.elapsed, sent.sent, sent.held, sent.received
        ));
    });
    let sent = sending.await.map_err(|error| {
        let mut failure = Failure::about(error, "cover", None);
        if failure.status == REFUSED {
            failure.hint = Some(format!(
                "`bento policy {name}` shows what it allows: this needs some of `tor.*`, and fewer circuits or frames need less"
            ));
        }
        failure
    })?;
    let text = format!(
        "{name} sent {} of {} frames through {} circuits in {:.0} s; {} were left out, {} circuits broke, {} bytes came back.\n",
        sent.sent, sent.due, args.circuits, sent.elapsed, sent.held, sent.lost, sent.received
    );
    context.say(&text, &json!(sent))
}

/// Shows the flows that run here.
async fn status(context: &Context) -> Result<(), Failure> {
    let flows = door::all().await?;
    let mut rows: Vec<Vec<String>> = flows
        .iter()
        .map(|told| {
            vec![
                told.name.clone(),
                told.node.clone(),
                format!("{} B/s", told.rate),
                format!("{} left", time(Span::seconds(told.left))),
                format!("{} of {} bytes carried something", told.carried, told.received),
                if told.late > seconds(LATE) { format!("{:.1} s late: pages wait", told.late) } else { "on time".into() },
            ]
        })
        .collect();
    if rows.is_empty() {
        rows.push(vec!["No flow runs here; `bento cover run NODE` starts one.".into()]);
    }
    context.say(&table(&rows), &json!({ "flows": flows }))
}

/// Fetches a page in a flow that runs here. Nothing is sent but what the flow sends anyway.
pub(crate) async fn fetch(context: &Context, name: &str, browse: &Browse, bundle: &Bundle) -> Result<(String, Page), Failure> {
    let call = browse.call(bundle);
    let mut knock = Knock::at(name).await?;
    context.show.now(&format!("asking in the flow `{name}`"));
    let padded = knock.ask(&call.method, &call.arguments, |bytes| context.show.received(bytes, None)).await?;
    let page = browse.read(&padded).map_err(|error| Failure::new(NODE, error.to_string()))?;
    Ok((name.to_owned(), page))
}

/// What the function or the flow said of a request.
fn refused(text: &str) -> Failure {
    Failure::new(FUNCTION, format!("the page did not come: {}", bento::line(text)))
        .with_hint("`bento cover status` shows what the flow does")
}
