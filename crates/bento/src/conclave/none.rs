//! For programs that judge no evidence.

use crate::{Attested, ClientError, client::Stream};

/// What a client accepts. There is none here.
#[derive(Clone, Debug)]
pub enum Demand {}

impl Demand {
    /// Reads a demand that a client sent with a function.
    ///
    /// # Errors
    /// Always: this program judges no evidence.
    pub fn parse(_text: &str) -> Result<Self, ClientError> {
        Err(ClientError::Request("this program judges no evidence of conclaves".into()))
    }

    /// As it travels with a function.
    ///
    /// # Errors
    /// Never: there is none.
    pub fn text(&self) -> Result<String, std::convert::Infallible> {
        match *self {}
    }

    #[expect(clippy::unused_async, reason = "the other one waits")]
    pub(crate) async fn open(&self, _stream: Box<dyn Stream>, _node: &[u8]) -> Result<(Box<dyn Stream>, Attested), ClientError> {
        match *self {}
    }
}
