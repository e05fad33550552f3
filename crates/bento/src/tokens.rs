//! Minting tokens.

use bento_proto::{InvocationToken, ShutdownToken};

use crate::ClientError;

/// The two tokens of one function.
///
/// They are made before the node hears of the function and should be kept before they are used: when the node's answer is lost, whoever
/// has them can still ask again or end the function.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tokens {
    /// The right to invoke.
    pub invocation: InvocationToken,
    /// The right to end.
    pub shutdown: ShutdownToken,
}

impl Tokens {
    /// Makes two from the operating system's generator.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn mint() -> Result<Self, ClientError> {
        Ok(Self { invocation: InvocationToken::from_random(random()?), shutdown: ShutdownToken::from_random(random()?) })
    }
}

/// Random bytes from the operating system.
pub(crate) fn random() -> Result<[u8; 32], ClientError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| ClientError::Random(error.to_string()))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_never_made_twice() {
        let (one, two) = (Tokens::mint().unwrap(), Tokens::mint().unwrap());
        assert_ne!(one.invocation, two.invocation);
        assert_ne!(one.shutdown, two.shutdown);
        assert_ne!(one.invocation.reveal()[13..], one.shutdown.reveal()[15..]);
    }
}
