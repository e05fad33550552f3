//! A function's code, sent to its process before anything else.

use std::os::fd::AsFd;

use tokio::{io::AsyncWriteExt, time::timeout};

use bento_proto::{Outcome, Refusal, limits};

use super::{Pace, Process, StartError, answer_call, clip, ended};
use crate::{
    container::Container,
    jail::{ENDED_DEADLINE, Jail, Trouble},
    link::{CallError, CallErrorKind, FRAME_BYTES_MAX, FromFunction, Load, ToFunction, Violation, stream_pair},
};

impl Process {
    /// Sends the code and waits for the runtime's word.
    pub(super) async fn load(&self, container: &Container, jail: &mut Jail) -> Result<(), StartError> {
        let manifest = &container.bundle.manifest;
        let files = container.bundle.files.iter();
        let frame = ToFunction::Load {
            load: Load {
                code: &manifest.code,
                methods: &manifest.methods,
                files: files.clone().map(|(name, content)| (name.as_str(), content.len())).collect(),
            },
        };
        let (mut ours, theirs) = stream_pair().map_err(|error| StartError::Trouble(Trouble::System("making a stream", error)))?;
        let broken = |violation: Violation| StartError::Refused(unloadable(violation.to_string()));
        if let Err(violation) = self.link.send(&frame, Some(theirs.as_fd())).await {
            // A process that ended explains more than the socket it left.
            return Err(self.ended_while_loading(container, jail).await.unwrap_or_else(|| broken(violation)));
        }
        drop(theirs);
        let sending = async {
            for (_, content) in files {
                ours.write_all(content).await?;
            }
            ours.shutdown().await
        };
        let mut buffer = vec![0; FRAME_BYTES_MAX];
        let mut pace = Pace::new();
        let receiving = async {
            loop {
                match self.link.receive(&mut buffer).await {
                    // What a function prints or asks while it is imported has no invocation to belong to.
                    Ok(Some((FromFunction::Call(call), bytes))) => {
                        pace.wait(bytes).await;
                        let answer = match call.name.as_str() {
                            "log" => container.log(&call).await,
                            _ => Err(CallError::new(CallErrorKind::BadCall, "while it is loaded, a function may only log")),
                        };
                        answer_call(&self.link, call.number, answer, None).await.map_err(broken)?;
                    }
                    other => return Ok(other),
                }
            }
        };
        // The sending fails when the process ends; what the receiving then says is the better reason.
        let (_, received) = tokio::join!(sending, receiving);
        match received? {
            Ok(Some((FromFunction::Loaded, _))) => Ok(()),
            Ok(Some((FromFunction::Unloadable(unloadable), _))) => Err(StartError::Refused(Refusal::Unloadable {
                error: clip(&unloadable.error, limits::ERROR_CHARS_MAX),
                traceback: clip(&unloadable.traceback, limits::TRACEBACK_CHARS_MAX),
            })),
            Ok(Some(_)) => Err(broken(Violation::NoFrame)),
            Ok(None) => Err(self
                .ended_while_loading(container, jail)
                .await
                .unwrap_or_else(|| StartError::Refused(unloadable("its process ended".into())))),
            Err(violation) => Err(broken(violation)),
        }
    }

    async fn ended_while_loading(&self, container: &Container, jail: &mut Jail) -> Option<StartError> {
        let report = timeout(ENDED_DEADLINE, jail.report()).await.ok()?.ok()??;
        Some(match ended(container, &report, jail.out_of_memory()) {
            Outcome::Killed { bound } => StartError::Refused(Refusal::Spent(bound)),
            outcome => StartError::Refused(unloadable(outcome.to_string())),
        })
    }
}

pub(super) fn unloadable(error: String) -> Refusal {
    Refusal::Unloadable { error, traceback: String::new() }
}
