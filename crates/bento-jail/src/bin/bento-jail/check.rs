//! `bento-jail --check`: which walls hold on this machine, by really putting up a jail and looking at it from both sides.
//!
//! Prints one JSON object a line, `{"wall":"landlock","holds":true,"detail":"ABI 7: …"}`, and exits with 0 if every wall holds.

use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use bento_jail::{Opening, Report, Spec, default_syscalls, library_openings};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, socketpair};

use crate::probe::{self, Breaches, Finding};
use crate::rights;

/// Where the probe is inside.
const INSIDE: &str = "/bento-jail";

/// Longest wait for anything. All of it together takes little more than the one second of CPU time that is spent on purpose.
const PATIENCE: Duration = Duration::from_secs(20);

/// Checks all walls and prints what holds.
pub(crate) fn run() -> ExitCode {
    let findings = look().unwrap_or_else(|finding| vec![finding]);
    let mut output = io::stdout().lock();
    for finding in &findings {
        let printed = serde_json::to_writer(&mut output, finding).map_err(io::Error::from).and_then(|()| output.write_all(b"\n"));
        if printed.is_err() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::from(u8::from(!findings.iter().all(|finding| finding.holds)))
}

fn look() -> Result<Vec<Finding>, Finding> {
    let program = std::env::current_exe().map_err(trouble)?;
    let mut jail = Jail::put_up(&program, "PROBE")?;
    let mut findings = jail.findings()?;
    let abi = rights::landlock_abi().unwrap_or(0);
    let also = match abi {
        ..4 => "files",
        4..6 => "files, TCP",
        6.. => "files, TCP, abstract sockets, signals",
    };
    for finding in findings.iter_mut().filter(|finding| finding.wall == "landlock" && finding.holds) {
        finding.detail = format!("ABI {abi}: {also}");
    }
    findings.insert(0, namespaces(jail.pid));
    findings.insert(1, rights_of(jail.pid));
    findings.push(life(jail)?);
    findings.push(cpu(&program)?);
    Ok(findings)
}

/// Compares the namespaces of the jail with our own.
fn namespaces(pid: u32) -> Finding {
    let mut breaches = Breaches::default();
    for name in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        let of = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/{name}"));
        let differ = matches!((of("self"), of(&pid.to_string())), (Ok(ours), Ok(its)) if ours != its);
        breaches.unless(differ, format!("{name} is not its own"));
    }
    breaches.finding("namespaces", "user, mount, pid, net, ipc, uts and cgroup of its own")
}

/// Reads what the kernel says of the jailed process.
///
/// ```text
/// Uid:    65534   65534   65534   65534
/// CapEff: 0000000000000000
/// NoNewPrivs:     1
/// Seccomp:        2
/// Seccomp_filters:        3
/// ```
fn rights_of(pid: u32) -> Finding {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim).unwrap_or("?");
    let mut breaches = Breaches::default();
    let is_ordinary = field("Uid").split_whitespace().all(|id| id != "0" && id != "?");
    breaches.unless(is_ordinary, format!("the user is {}", field("Uid")));
    for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        breaches.unless(field(name).bytes().all(|byte| byte == b'0'), format!("{name} is {}", field(name)));
    }
    breaches.unless(field("NoNewPrivs") == "1", "new privileges can be had");
    breaches.unless(field("Seccomp") == "2" && field("Seccomp_filters") == "3", "the filters are not all there");
    breaches.finding("rights", "an ordinary user outside, no capabilities, no new privileges, three filters")
}

/// Kills the process outside, and sees whether the one inside goes with it.
fn life(mut jail: Jail) -> Result<Finding, Finding> {
    jail.keeper.kill().and_then(|()| jail.keeper.wait()).map_err(trouble)?;
    // The probe never closes its socket while it lives.
    let is_gone = wait_for(&jail.socket) && matches!(receive(&jail.socket), Ok(message) if message.is_empty());
    let detail = if is_gone { "ends when bento-jail is killed" } else { "outlives bento-jail" };
    Ok(Finding::new("life", is_gone, detail))
}

/// Uses up the CPU time of a jail.
fn cpu(program: &Path) -> Result<Finding, Finding> {
    let mut jail = Jail::put_up(program, probe::SPIN)?;
    let started = Instant::now();
    match jail.report()? {
        Report::Ended { signal: Some(libc::SIGKILL), out_of_cpu: true, cpu_ms, .. } => {
            Ok(Finding::new("cpu", true, format!("killed after {cpu_ms} ms of {} s", probe::CPU_SECONDS)))
        }
        other => Ok(Finding::new("cpu", false, format!("after {} ms: {other:?}", started.elapsed().as_millis()))),
    }
}

/// A jail with a probe in it. Dropped, it ends.
struct Jail {
    keeper: Child,
    reports: BufReader<ChildStdout>,
    socket: OwnedFd,
    pid: u32,
}

impl Jail {
    fn put_up(program: &Path, variable: &str) -> Result<Self, Finding> {
        let mut openings = library_openings(program).map_err(trouble)?;
        openings.push(Opening { outside: program.to_owned(), inside: PathBuf::from(INSIDE) });
        let spec = Spec {
            program: PathBuf::from(INSIDE),
            arguments: vec![probe::ARGUMENT.to_owned()],
            environment: vec![(variable.to_owned(), "1".to_owned())],
            openings,
            scratch: probe::SCRATCH_BOUNDS,
            memory_bytes: probe::MEMORY_BYTES,
            cpu_seconds: probe::CPU_SECONDS,
            processes: probe::PROCESSES,
            descriptors: probe::DESCRIPTORS,
            syscalls: default_syscalls().iter().map(|name| (*name).to_owned()).collect(),
        };
        let (socket, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).map_err(trouble)?;
        let mut keeper = Command::new(program).stdin(theirs).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().map_err(trouble)?;
        let reports = BufReader::new(keeper.stdout.take().ok_or_else(|| trouble("no pipe"))?);
        let mut jail = Self { keeper, reports, socket, pid: 0 };
        let message = serde_json::to_vec(&spec).map_err(trouble)?;
        rustix::net::send(&jail.socket, &message, SendFlags::empty()).map_err(trouble)?;
        match jail.report()? {
            Report::Up { pid } => jail.pid = pid,
            Report::Refused { wall, reason } => return Err(Finding::new(&wall, false, reason)),
            Report::Ended { .. } => return Err(trouble("it ended before it was up")),
        }
        Ok(jail)
    }

    fn report(&mut self) -> Result<Report, Finding> {
        let mut line = String::new();
        if !wait_for(self.reports.get_ref()) || self.reports.read_line(&mut line).map_err(trouble)? == 0 {
            return Err(trouble("bento-jail says nothing"));
        }
        serde_json::from_str(&line).map_err(trouble)
    }

    fn findings(&mut self) -> Result<Vec<Finding>, Finding> {
        let mut findings = Vec::new();
        for _ in 0..probe::COUNT {
            let message = if wait_for(&self.socket) { receive(&self.socket).map_err(trouble)? } else { Vec::new() };
            if message.is_empty() {
                let found: Vec<_> = findings.iter().map(|finding: &Finding| finding.wall.as_str()).collect();
                return Err(trouble(format!("the probe ended after {found:?}")));
            }
            findings.push(serde_json::from_slice(&message).map_err(trouble)?);
        }
        Ok(findings)
    }
}

impl Drop for Jail {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

/// Waits until there is something to read, or the end.
fn wait_for(descriptor: impl AsFd) -> bool {
    let mut polled = [PollFd::new(&descriptor, PollFlags::IN)];
    let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    matches!(rustix::event::poll(&mut polled, Some(&patience)), Ok(1..))
}

fn receive(socket: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut message = vec![0; 64 * 1024];
    let (_, length) = rustix::net::recv(socket, &mut message[..], RecvFlags::empty())?;
    message.truncate(length);
    Ok(message)
}

fn trouble(error: impl std::fmt::Display) -> Finding {
    Finding::new("check", false, error.to_string())
}
