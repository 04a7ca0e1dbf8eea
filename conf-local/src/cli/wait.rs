//! `conf-local wait`: ends when this host's export is at or past a commit or a sequence.

use std::time::{Duration, Instant};

use anyhow::anyhow;
use conf_core::consul::PinValue;
use libconf::name::ComponentSelector;

use crate::{
    agent::AgentSocket,
    cli::{
        options::WaitOptions,
        output::Usage,
        socket::{AskError, backoff},
    },
    service::{LONGEST_WAIT, WaitAnswer},
};

pub(crate) async fn run(options: &WaitOptions) -> anyhow::Result<()> {
    let mut goal = String::new();
    if let Some(at) = &options.at {
        let at: PinValue = at.parse().map_err(|error| Usage(format!("--at: {error}")))?;
        goal = format!("&at={at}");
    }
    if let Some(sequence) = options.sequence {
        goal = format!("{goal}&sequence={sequence}");
    }
    let patience = Duration::try_from_secs_f64(options.timeout);
    let patience = patience.map_err(|_| Usage("--timeout is a number of seconds, as in --timeout 60".to_owned()))?;
    reach(&options.socket, &options.component, &goal, patience).await
}

/// Waits until the agent reports that the goal is reached, for `patience` at most, through restarts
/// of the agent.
async fn reach(
    socket: &AgentSocket,
    component: &ComponentSelector,
    goal: &str,
    patience: Duration,
) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut pause = backoff();
    loop {
        let left = patience.saturating_sub(started.elapsed()).min(LONGEST_WAIT);
        let question = format!("/v1/wait/{component}?timeout={}{goal}", left.as_secs_f64());
        let answer: Result<WaitAnswer, AskError> = socket.get(&question, left).await;
        let is_away = answer.is_err();
        let failed = match answer {
            Ok(WaitAnswer { reached: true, .. }) => return Ok(()),
            Ok(WaitAnswer { reason, sequence, .. }) => {
                pause.reset();
                let reason = reason.unwrap_or_else(|| format!("change {sequence} is exported"));
                anyhow!("not reached after {} s: {reason}", patience.as_secs_f64())
            }
            Err(error) if error.is_passing() => error.into(),
            Err(error) => return Err(error.into()),
        };
        if started.elapsed() >= patience {
            return Err(failed);
        }
        if is_away {
            let left = patience.saturating_sub(started.elapsed());
            tokio::time::sleep(pause.next_wait().min(left)).await;
        }
    }
}
