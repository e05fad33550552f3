//! Daemons that end.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use bento_tor::{ControlError, Isolation, SocksError};
use tokio::time::timeout;

use crate::world::{Case, Outcome, STREAM_DEADLINE, World, case};

pub(crate) const CASES: &[Case] = &[case!("a_managed_tor_that_is_killed_is_noticed_at_once", killed)];

async fn killed(world: &World) -> Outcome {
    let tor = world.client("killed").await?;
    let (control, socks) = (tor.control(), tor.socks());
    assert!(control.bootstrap().await?.is_done());
    let pid = i32::try_from(tor.pid()).ok().and_then(rustix::process::Pid::from_raw).ok_or("no pid")?;
    rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
    let status = timeout(Duration::from_secs(5), tor.exited()).await?;
    assert_eq!(status.signal(), Some(9));
    assert!(matches!(control.get_info("version").await, Err(ControlError::Closed)));
    let error = socks.connect("127.0.0.1", 80, &Isolation::new("killed"), STREAM_DEADLINE).await.expect_err("nothing may answer");
    assert!(matches!(error, SocksError::NoTor { .. }), "{error:?}");
    Ok(())
}
