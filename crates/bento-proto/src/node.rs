//! What a node says of itself and of its functions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    grant::Granted,
    policy::Policy,
    unit::{Size, Span},
};

/// `GET /v1/node`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// A name for people, as the operator gave it.
    pub name: String,
    /// How to reach the operator, if they say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contact: Option<String>,
    /// The program's version.
    pub version: String,
    /// Kind of attested hardware; `none` where a function is not protected from the node.
    pub tee: String,
    /// Names of the packages in each image, besides the standard library.
    pub images: BTreeMap<String, Vec<String>>,
    /// The policy in force.
    pub policy: Policy,
}

/// `POST /v1/functions` and `GET /v1/function`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionStatus {
    /// Its name.
    pub name: String,
    /// Its methods.
    pub methods: Vec<String>,
    /// Does it have a process right now?
    pub awake: bool,
    /// Invocations going on.
    pub invocations: u32,
    /// Time until its end.
    pub remaining: Span,
    /// CPU time used so far.
    pub cpu_used: Span,
    /// Bytes of its streams so far.
    pub traffic_used: Size,
    /// What it keeps in the node's store, as its grant counts it.
    #[serde(default)]
    pub storage_used: Size,
    /// How often what it keeps was changed since it was installed. It never goes back; a client that remembers it notices an earlier state.
    #[serde(default)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changes: Option<u64>,
    /// What it was granted.
    pub granted: Granted,
    /// The last lines it logged, for its own client.
    #[serde(default)]
    pub log: Vec<String>,
}
