//! Measures how long a jail takes to start: from the spawn of `bento-jail` to Python's first byte, beside Python alone.
//!
//! ```text
//! cargo build -p bento-jail && cargo run -p bento-jail --example start -- target/debug/bento-jail [TIMES]
//! ```

use std::error::Error;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use bento_jail::{Scratch, Spec, default_syscalls, python_openings};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};

const PYTHON: &str = "/usr/bin/python3.11";
const SAY: &str = "import posix; posix.write(3, b'!')";

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let program = arguments.next().ok_or("which bento-jail?")?;
    let times = arguments.next().map_or(Ok(100), |times| times.parse())?;
    let spec = Spec {
        program: PYTHON.into(),
        arguments: ["-I", "-S", "-B", "-c", SAY].map(String::from).to_vec(),
        environment: vec![("LANG".into(), "C.UTF-8".into())],
        openings: python_openings(Path::new(PYTHON), &[])?,
        scratch: Scratch { bytes: 64 << 20, inodes: 4096 },
        memory_bytes: 256 << 20,
        cpu_seconds: 10,
        processes: 16,
        descriptors: 128,
        syscalls: default_syscalls().iter().map(|name| (*name).to_owned()).collect(),
    };
    let message = serde_json::to_vec(&spec)?;

    // Taken in turn, so that whatever else the machine does befalls all alike.
    let (mut alone, mut jailed, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..times {
        let started = Instant::now();
        let mut python =
            Command::new(PYTHON).args(["-I", "-S", "-B", "-c", "import posix; posix.write(1, b'!')"]).stdout(Stdio::piped()).spawn()?;
        python.stdout.take().ok_or("no pipe")?.read_exact(&mut [0])?;
        alone.push(started.elapsed());
        python.wait()?;

        let started = Instant::now();
        jailed.push(run(&program, &message, started)?);

        let started = Instant::now();
        Command::new(&program).arg("--no-such-argument").stderr(Stdio::null()).status()?;
        bare.push(started.elapsed());
    }
    let mut output = std::io::stdout();
    for (what, mut taken) in [
        ("Python alone, to its first byte", alone),
        ("Python in a jail, to its first byte", jailed),
        ("bento-jail doing nothing, to its end", bare),
    ] {
        taken.sort();
        let ms = |part: usize| taken[taken.len() * part / 100].as_secs_f64() * 1000.0;
        writeln!(output, "{what:40} median {:6.2} ms, tenth {:6.2} ms, ninetieth {:6.2} ms", ms(50), ms(10), ms(90))?;
    }
    writeln!(output, "{} openings", spec.openings.len())?;
    Ok(())
}

fn run(program: &str, spec: &[u8], started: Instant) -> Result<std::time::Duration, Box<dyn Error>> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let mut jail = Command::new(program).stdin::<OwnedFd>(theirs).stdout(Stdio::piped()).spawn()?;
    send(&ours, spec, SendFlags::empty())?;
    let mut byte = [0];
    let (_, length) = recv(&ours, &mut byte[..], RecvFlags::empty())?;
    let taken = started.elapsed();
    if length == 1 {
        jail.wait()?;
        return Ok(taken);
    }
    let mut reports = String::new();
    jail.stdout.take().ok_or("no pipe")?.read_to_string(&mut reports)?;
    Err(reports.into())
}
