//! A jail with the runtime in it, waiting for code: asked for, put up, and its CPU time counted to its end.

use std::{io, path::Path, process::Stdio, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines, Take},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

use bento_jail::{Report, Scratch, Spec};
use bento_proto::Grant;

use crate::{
    cgroup::{Group, Groups},
    container::Container,
    image::Image,
    link::Link,
    share::{Held, used_in},
};

/// All that `bento-jail` ever says, in bytes. Three lines of some hundred.
const REPORT_BYTES_MAX: u64 = 16 * 1024;

/// How long the last report may take after the process has closed its socket; it is sent at once when the kernel has cleared up.
pub const ENDED_DEADLINE: Duration = Duration::from_secs(10);

/// What the kernel may keep on a function's behalf besides what it touches and writes: page tables, buffers of its sockets and pipes.
const KERNEL_BYTES: u64 = 16 << 20;

/// What the kernel keeps for each file in the scratch.
const INODE_BYTES: u64 = 1024;

/// Files and directories in a scratch: one for each 4 KiB, which is the least that a file with content takes.
const BYTES_PER_INODE: u64 = 4096;

/// Something of the node's own went wrong. It is logged, and the client learns only that the node failed.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// The system did not do what was asked.
    #[error("{0}")]
    System(&'static str, #[source] io::Error),
    /// A wall does not stand.
    #[error("the jail was not put up: {wall}: {reason}")]
    Wall {
        /// Which.
        wall: String,
        /// Why.
        reason: String,
    },
    /// Something took longer than it ever should.
    #[error("{0} took too long")]
    Late(&'static str),
}

/// A jail that is up.
#[derive(Debug)]
pub struct Ready {
    /// The node's end of its socket.
    pub link: Link,
    /// The process that keeps it.
    pub jail: Jail,
}

/// The child that puts up the walls, and its reports. Dropped, it is killed, and what is in the jail with it.
#[derive(Debug)]
pub struct Jail {
    /// Nothing, when it is being cleared away.
    child: Option<Child>,
    reports: Lines<BufReader<Take<ChildStdout>>>,
    /// The process inside, as seen from the node.
    pub pid: u32,
    /// Its control group, where there are any.
    group: Option<Group>,
    /// Whose CPU time it is that is still to be counted. However the process ends, its time is counted once.
    payer: Option<Arc<Container>>,
}

impl Ready {
    /// Puts up a jail as the spec, in JSON, has it.
    ///
    /// # Errors
    /// When a wall does not stand, or it takes longer than it may.
    pub async fn start(program: &Path, spec: &[u8], deadline: Duration, groups: &Arc<Groups>) -> Result<Self, Trouble> {
        let (link, theirs) = Link::pair().map_err(|error| Trouble::System("making a socket", error))?;
        let mut command = Command::new(program);
        command.stdin(theirs).stdout(Stdio::piped()).stderr(Stdio::null()).env_clear().process_group(0).kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| Trouble::System("starting bento-jail", error))?;
        // Dropped with the command: the function's end of the socket is then open in the jail alone, and its end is seen here.
        drop(command);
        let reports = child.stdout.take().ok_or(Trouble::Late("the jail's pipe"))?;
        let mut jail =
            Jail { child: Some(child), reports: BufReader::new(reports.take(REPORT_BYTES_MAX)).lines(), pid: 0, group: None, payer: None };
        let starting = async {
            link.send_bytes(spec, None).await.map_err(|error| Trouble::System("handing over the spec", io::Error::other(error)))?;
            match jail.report().await.map_err(|error| Trouble::System("reading the jail's report", error))? {
                Some(Report::Up { pid }) => Ok(pid),
                Some(Report::Refused { wall, reason }) => Err(Trouble::Wall { wall, reason }),
                _ => Err(Trouble::Wall { wall: "all".into(), reason: "bento-jail ended without a word".into() }),
            }
        };
        let pid = timeout(deadline, starting).await.map_err(|_| Trouble::Late("putting up a jail"))??;
        jail.pid = pid;
        let groups = Arc::clone(groups);
        // The kernel may take its time for it.
        let entering = tokio::task::spawn_blocking(move || groups.enter(pid)).await;
        jail.group = match entering.map_err(io::Error::other).flatten() {
            // Whoever loads its code finds that it has ended, and why.
            Err(error) if is_gone(&error) => None,
            group => group.map_err(|error| Trouble::System("making a control group", error))?,
        };
        Ok(Self { link, jail })
    }
}

impl Jail {
    /// From now on it is this function's: its bounds hold, and its CPU time, also that of its start, is counted.
    ///
    /// # Errors
    /// When the kernel does not take the bounds. The function is not to be let in then.
    pub fn charge(&mut self, container: &Arc<Container>) -> Result<Option<Held>, Trouble> {
        self.payer = Some(Arc::clone(container));
        container.cpu.runs(self.pid);
        let (grant, percent) = (&container.grant, container.grant.share().percent());
        if let Some(group) = &self.group {
            let scratch = grant.scratch().as_bytes();
            let memory = grant.memory().as_bytes() + scratch + inodes(scratch) * INODE_BYTES + KERNEL_BYTES;
            group.bound(memory, percent, grant.processes()).map_err(|error| Trouble::System("bounding a control group", error))?;
        }
        match container.node.shares.hold(self.pid, percent, self.group.as_ref()) {
            Ok(held) => Ok(Some(held)),
            // Its report says why.
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(Trouble::System("holding a function to its share", error)),
        }
    }

    /// Has the kernel killed in it for want of memory?
    pub fn out_of_memory(&self) -> bool {
        self.group.as_ref().is_some_and(Group::out_of_memory)
    }

    /// Is it still there?
    pub fn is_up(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Its next report.
    ///
    /// # Errors
    /// When it is none.
    pub async fn report(&mut self) -> io::Result<Option<Report>> {
        let Some(line) = self.reports.next_line().await? else { return Ok(None) };
        let report = serde_json::from_str(&line).map_err(io::Error::other)?;
        if let Report::Ended { cpu_ms, .. } = &report
            && let Some(container) = self.payer.take()
        {
            container.cpu.ended(Duration::from_millis(*cpu_ms));
        }
        Ok(Some(report))
    }

    /// Counts the CPU time of a process that is about to be killed, and so will not be reported.
    pub async fn settle(&mut self) {
        if !self.count() {
            // It has ended by itself, so its report is there or on its way.
            let _ = timeout(ENDED_DEADLINE, self.report()).await;
        }
    }

    /// Ends it, and waits for the end.
    pub async fn kill(&mut self) {
        if let Some(child) = &mut self.child {
            end(child).await;
        }
    }

    /// Counts its CPU time so far, if it is there to be counted.
    fn count(&mut self) -> bool {
        let Some(container) = &self.payer else { return true };
        let Some(cpu_ms) = cpu_of(self.pid) else { return false };
        container.cpu.ended(Duration::from_millis(cpu_ms));
        self.payer = None;
        true
    }
}

impl Drop for Jail {
    fn drop(&mut self) {
        // A client that leaves while code is loaded drops the loading, and must not get its CPU time for nothing.
        if !self.count()
            && let Some(container) = self.payer.take()
        {
            container.cpu.ended(Duration::ZERO);
        }
        // Waited for, so that nothing is left of it in the table of processes; `kill_on_drop` waits at some later time.
        if let (Some(mut child), Ok(runtime)) = (self.child.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move { end(&mut child).await });
        }
    }
}

/// Is the process gone?
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

async fn end(child: &mut Child) {
    let _ = child.start_kill();
    let _ = timeout(ENDED_DEADLINE, child.wait()).await;
}

fn inodes(scratch: u64) -> u64 {
    (scratch / BYTES_PER_INODE).max(16)
}

/// The jail that a grant asks for, with so many milliseconds of its CPU time left.
pub fn spec(grant: &Grant, image: &Image, cpu_left: u64) -> Spec {
    let text = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut environment = vec![
        text("PATH", "/usr/bin"),
        text("HOME", "/tmp"),
        text("LANG", "C.UTF-8"),
        // One arena for all threads: each further one reserves 64 MiB of the address space that the grant bounds.
        text("MALLOC_ARENA_MAX", "1"),
        text("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt"),
    ];
    if image.has_packages {
        environment.push(text("BENTO_PACKAGES", "/packages"));
    }
    let start = "import sys; sys.path.insert(0, '/bento'); from bento import runtime; runtime.main()";
    Spec {
        program: image.python.clone(),
        arguments: ["-I", "-S", "-B", "-c", start].map(str::to_owned).into(),
        environment,
        openings: image.openings.clone(),
        scratch: Scratch { bytes: grant.scratch().as_bytes(), inodes: inodes(grant.scratch().as_bytes()) },
        memory_bytes: grant.memory().as_bytes(),
        cpu_seconds: cpu_left.div_ceil(1000).max(1),
        processes: grant.processes().into(),
        descriptors: grant.descriptors().into(),
        syscalls: grant.syscalls().into_iter().map(str::to_owned).collect(),
    }
}

/// CPU time of a process so far, in milliseconds.
pub fn cpu_of(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    u64::try_from(used_in(&stat)?.as_millis()).ok()
}
